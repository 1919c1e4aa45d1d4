#!/usr/bin/env python3
"""Ringmail's cost above the floor of the network: smtp-source (100 sessions, 4 KiB) to a server that
only answers and discards (smtp_floor.rs: one thread, one epoll set) and to Ringmail, in turn.

Server on core 0, generator on core 1, CPU of the whole server by cgroup, medians. The generator's core
is the limit of the rate, so read the CPU. With --before also another build, in the same rounds. System
calls are counted by perf in a separate run. Needs root, cgroup v2 and Debian's `postfix` package.

    cargo build --release --bins --example smtp_floor && benches/smtp_floor.py [--before BINARY]
"""

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
import time

from beside_dovecot import BINARY, Cgroup
from one_connection import FLOOR, calls_of, free_port_base


class Server:
    def __init__(self, name, binary, base, directory):
        self.name, self.port, self.results, self.calls = name, base + 25, {}, {}
        self.directory = tempfile.mkdtemp(prefix=f"ringmail-floor-{name}-", dir=directory)
        self.cgroup = Cgroup(f"floor-{name}")
        command = [str(binary), str(self.port)] if name == "floor" else [
            str(binary), "demo", "--dir", f"{self.directory}/demo", "--shards", "1", "--users", "2",
            "--port-base", str(base)]
        self.process = subprocess.Popen(command, preexec_fn=self.cgroup.enter,
                                        stdout=subprocess.DEVNULL)

    def drive(self, messages, reuse):
        command = ["taskset", "-c", "1", "smtp-source", "-s", "100", "-l", "4096", "-m", str(messages),
                   "-f", "sender@example.org", "-t", "user1@demo.test", f"127.0.0.1:{self.port}"]
        if reuse:
            command.insert(4, "-d")
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def measure(self, messages, reuse):
        cpu, begin = self.cgroup.cpu_seconds(), time.monotonic()
        self.drive(messages, reuse)
        elapsed = time.monotonic() - begin
        cpu = self.cgroup.cpu_seconds() - cpu
        self.results.setdefault(reuse, []).append((messages / elapsed, cpu / messages * 1e6))

    def count(self, messages, reuse):
        self.calls[reuse] = calls_of(self.cgroup, messages, lambda: self.drive(messages, reuse))

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.cgroup.close()
        shutil.rmtree(self.directory, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--before", help="another ringmail binary, measured in the same rounds")
    parser.add_argument("--dir", help="where the servers' data goes")
    parser.add_argument("--port-base", type=int)
    arguments = parser.parse_args()
    base = arguments.port_base or free_port_base()
    binaries = {"floor": FLOOR, "ringmail": BINARY}
    if arguments.before:
        binaries["before"] = arguments.before
    servers = []
    os.sched_setaffinity(0, {1})
    try:
        for index, (name, binary) in enumerate(binaries.items()):
            servers.append(Server(name, binary, base + 1000 * index, arguments.dir))
        time.sleep(2)
        for number in range(arguments.rounds):
            for reuse in (True, False):
                for server in servers:
                    server.measure(arguments.messages, reuse)
                    if number == arguments.rounds - 1:
                        server.count(arguments.messages, reuse)
    finally:
        for server in servers:
            server.stop()
    report(servers, arguments)


def report(servers, arguments):
    print(f"{arguments.messages} messages of 4 KiB a run, medians of {arguments.rounds} rounds")
    print(f"{'':34} {'msgs/s':>8} {'CPU us':>7} {'of floor':>8} {'calls':>6}")
    for reuse in (True, False):
        kind = "reused connections" if reuse else "a connection a message"
        floor = None
        for server in servers:
            rate, cpu = (statistics.median(column) for column in zip(*server.results[reuse]))
            floor = floor or cpu
            calls = server.calls[reuse]
            print(f"{server.name + ', ' + kind:34} {rate:8.0f} {cpu:7.1f} {cpu / floor:8.2f} "
                  + (f"{calls:6.1f}" if calls else f"{'-':>6}"))


if __name__ == "__main__":
    main()
