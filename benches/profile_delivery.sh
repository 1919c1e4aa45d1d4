#!/usr/bin/env bash
# Where the CPU of a delivery goes: perf on one shard under smtp-source. Needs Debian's linux-perf and
# postfix. Usage: benches/profile_delivery.sh [reuse|new] > profile.txt
set -euo pipefail
cd "$(dirname "$0")/.."
mode=${1:-reuse}
dir=$(mktemp -d)
target/release/ringmail demo --dir "$dir" --shards 1 --users 2 --port-base 40000 > "$dir/out" &
server=$!
trap 'kill $server; wait $server || true; rm -rf "$dir"' EXIT
until grep -q ready "$dir/out"; do sleep 0.1; done
flags=(-s 100 -l 4096 -m 60000 -f s@example.org -t user1@demo.test)
[ "$mode" = reuse ] && flags=(-d "${flags[@]}")
taskset -c 1 smtp-source "${flags[@]}" 127.0.0.1:40025 &
load=$!
sleep 0.5
perf record -q -g -F 1999 -p $server -o "$dir/perf.data" -- sleep 2 > /dev/null 2>&1
wait $load
perf report -i "$dir/perf.data" --no-children --percent-limit 0.7 -g none --stdio 2> /dev/null
