#!/usr/bin/env python3
"""The cost of compression for a delivery, and its saving on disk: the same messages with store.compression off and
on (from 1 KiB on), in turn, one shard on one core, ringload on the other.

    cargo build --release && benches/compressed_delivery.py [--rounds 3]
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests/clients"))
from demo import Demo, RINGLOAD  # noqa: E402

USERS = 100
SIZES = {4096: 60_000, 32_768: 15_000, 262_144: 2_000}
WAYS = {"off": ["--set", "store.compression=off"], "zstd": ["--set", "store.compression_min=1KiB"]}


def stored(demo):
    """Bytes written for bodies."""
    url = f"http://127.0.0.1:{demo.port['admin']}/metrics"
    text = urllib.request.urlopen(url).read().decode()
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines()
               if line.startswith("ringmail_store_body_stored_bytes_total{"))


def deliver(way, size, count):
    with Demo("--users", USERS, "--shards", 1, *WAYS[way]) as demo, \
            tempfile.NamedTemporaryFile() as out:
        before = demo.cpu_seconds()
        subprocess.run([RINGLOAD, "smtp", "--address", f"127.0.0.1:{demo.port['smtp']}", "--quiet",
                        "--messages", str(count), "--size", str(size), "--recipients", str(USERS),
                        "--json", out.name], check=True, stdout=subprocess.DEVNULL)
        cpu = (demo.cpu_seconds() - before) / count * 1e6
        operation = json.load(out)["operations"][0]
        print(f"{size:7} {way:5} {operation['per_second']:8.0f}/s  {cpu:6.0f} us of CPU a message  "
              f"p99 {operation['p99_us'] / 1e3:6.1f} ms  {stored(demo) / count:8.0f} bytes written "
              "for one", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    for size, count in SIZES.items():
        for _ in range(arguments.rounds):
            for way in WAYS:
                deliver(way, size, count)


if __name__ == "__main__":
    main()
