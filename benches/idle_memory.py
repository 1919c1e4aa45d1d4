#!/usr/bin/env python3
"""Resident memory of idle IMAP connections (LOGIN, SELECT, IDLE), plain and TLS.

    cargo build --release && benches/idle_memory.py [--connections 5000]
"""

import argparse
import pathlib
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests/clients"))
from demo import Demo, RINGLOAD  # noqa: E402

USERS = 1000


def measure(tls, connections, shards):
    with Demo("--shards", shards, "--users", USERS) as demo:
        port = demo.port["imaps" if tls else "imap"]

        def load(count, seconds):
            command = [str(RINGLOAD), "idle", "--address", f"127.0.0.1:{port}", "--users",
                       str(USERS), "--connections", str(count), "--duration", f"{seconds}s",
                       "--quiet", "--tls", "implicit" if tls else "none", "--timeout", "120s"]
            return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

        # Accounts opened once, so that their state is not counted as connections'.
        load(USERS, 1).communicate()
        time.sleep(1)
        before = demo.memory()
        running = load(connections, 8)
        # All are in IDLE once the open sockets stop growing.
        seen = -1
        while True:
            time.sleep(1)
            now = len(list(pathlib.Path(f"/proc/{demo.process.pid}/fd").iterdir()))
            if now == seen or running.poll() is not None:
                break
            seen = now
        during = demo.memory()
        cpu = demo.cpu_seconds()
        time.sleep(2)
        cpu = demo.cpu_seconds() - cpu
        out, _ = running.communicate()
        failed = [line for line in out.splitlines() if line.startswith("error")]
        time.sleep(1)
        after = demo.memory()
    print(f"{'TLS' if tls else 'plain':6} {connections:>11} {before / 2**20:>11.1f} "
          f"{during / 2**20:>11.1f} {(during - before) / connections / 1024:>14.1f} "
          f"{after / 2**20:>10.1f} {cpu / 2 * 100:>8.1f}", *failed, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=5000)
    parser.add_argument("--shards", type=int, default=2)
    arguments = parser.parse_args()
    print(f"{'':6} {'connections':>11} {'before MiB':>11} {'during MiB':>11} "
          f"{'KiB/connection':>14} {'after MiB':>10} {'CPU %':>8}")
    for tls in (False, True):
        measure(tls, arguments.connections, arguments.shards)


if __name__ == "__main__":
    main()
