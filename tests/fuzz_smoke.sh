#!/usr/bin/env bash
# A short run of every fuzz target: coverage-guided libFuzzer on the stable toolchain, without
# cargo-fuzz (its flags are given here). FUZZ_SECONDS=n for longer runs; findings are left in
# fuzz/artifacts/TARGET/ and fail the run.
set -euo pipefail
cd "$(dirname "$0")/../fuzz"
seconds=${FUZZ_SECONDS:-10}
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions"
# Most of a short run is building. For long runs: FUZZ_OPT_LEVEL=3.
export CARGO_PROFILE_RELEASE_OPT_LEVEL=${FUZZ_OPT_LEVEL:-1}
host=$(rustc -vV | sed -n 's/^host: //p')
# --target keeps the flags off build scripts and proc macros.
cargo build --release --bins --target "$host" --target-dir target
passed=0
for source in fuzz_targets/*.rs; do
  name=$(basename "$source" .rs)
  mkdir -p "corpus/$name" "artifacts/$name" "seeds/$name"
  echo "fuzzing $name for $seconds s"
  "target/$host/release/$name" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 \
    -max_len=65536 -verbosity=0 -print_final_stats=1 -artifact_prefix="artifacts/$name/" \
    "corpus/$name" "seeds/$name" > "artifacts/$name.log" 2>&1 || true
  grep -E '^stat::number_of_executed|ERROR|panicked|Test unit' "artifacts/$name.log" || true
  if compgen -G "artifacts/$name/*" > /dev/null; then
    echo "$name: findings in fuzz/artifacts/$name"
    exit 1
  fi
  if ! grep -q '^stat::number_of_executed' "artifacts/$name.log"; then
    echo "$name did not run:"
    tail -5 "artifacts/$name.log"
    exit 1
  fi
  passed=$((passed + 1))
done
echo "$passed fuzz targets ran clean"
