#!/usr/bin/env python3
"""APPEND and STORE as migration tools send them: one IMAP connection, a number of commands under way,
to Dovecot (mdbox) and to Ringmail in turn. Each server has core 0 for itself, the client core 1.

Needs root and cgroup v2; Debian's dovecot-imapd, dovecot-pop3d and dovecot-lmtpd (service not started) for Dovecot's
column, which stays empty without them.

    cargo build --release --bins && benches/pipelined_changes.py [--rounds 3] [--count 2000]
"""

import argparse
import collections
import os
import pathlib
import shutil
import statistics
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests/clients"))
from demo import free_port_base  # noqa: E402
from beside_dovecot import Cgroup, start_dovecot, start_ringmail  # noqa: E402
from one_connection import MESSAGE, logged_in  # noqa: E402

DEPTHS = (1, 5, 20, 100)


def rate(client, commands, depth):
    """Commands a second, with `depth` of them sent and not answered."""
    waiting, buffer = collections.deque(), b""
    begin = time.monotonic()
    for number, command in enumerate(commands):
        tag = b"p%d " % number
        client.socket.sendall(tag + command + b"\r\n")
        waiting.append(tag)
        while len(waiting) >= depth:
            buffer = answered(client, waiting, buffer)
    while waiting:
        buffer = answered(client, waiting, buffer)
    return len(commands) / (time.monotonic() - begin)


def answered(client, waiting, buffer):
    """Reads at least one tagged response; all come in order, and are OK."""
    before = len(waiting)
    while len(waiting) == before:
        buffer += client.socket.recv(1 << 16)
        *lines, buffer = buffer.split(b"\r\n")
        for line in lines:
            if line.startswith(b"p"):
                tag = waiting.popleft()
                assert line.startswith(tag + b"OK"), line
    return buffer


def measure(port, count):
    client = logged_in(port)
    found = {}
    append = b"APPEND INBOX {%d+}\r\n%s" % (len(MESSAGE), MESSAGE)
    for depth in DEPTHS:
        found["APPEND", depth] = rate(client, [append] * count, depth)
    client.command(b"SELECT INBOX")
    sign = (b"+", b"-")
    for depth in DEPTHS:
        stores = [b"STORE %d %sFLAGS.SILENT (\\Flagged)" % (number % 100 + 1, sign[number // 100 % 2])
                  for number in range(count)]
        found["STORE", depth] = rate(client, stores, depth)
    client.socket.close()
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=2000, help="commands of a step in a round")
    parser.add_argument("--dir", help="where the servers' data goes")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {1})
    starts = {"ringmail": start_ringmail}
    if shutil.which("dovecot"):
        starts["dovecot"] = start_dovecot
    found = collections.defaultdict(list)
    for _ in range(arguments.rounds):
        for name, start in starts.items():
            directory = tempfile.mkdtemp(prefix=f"ringmail-pipelined-{name}-", dir=arguments.dir)
            base, cgroup = free_port_base(), Cgroup(f"pipelined-{name}")
            process = start(directory, base, cgroup)
            try:
                time.sleep(2)
                for step, value in measure(base + 143, arguments.count).items():
                    found[name, step].append(value)
            finally:
                process.terminate()
                process.wait()
                cgroup.close()
                shutil.rmtree(directory, ignore_errors=True)
    print(f"{'commands a second':24}" + "".join(f"{name:>12}" for name in starts))
    for what in ("APPEND", "STORE"):
        for depth in DEPTHS:
            row = [statistics.median(found[name, (what, depth)]) for name in starts]
            print(f"{what}, {depth} deep".ljust(24) + "".join(f"{value:12.0f}" for value in row))


if __name__ == "__main__":
    main()
