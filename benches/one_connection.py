#!/usr/bin/env python3
"""The latency of a lone client: one IMAP connection, one command after the other, to Dovecot (mdbox)
and to Ringmail in turn. Each server has core 0 for itself, the client core 1: without pinning, the
scheduler's placement of the two processes matters more than the servers do.

The floors for comparison: a server that only answers (smtp_floor) for a round trip, and a write
with a sync to a growing file on the same disk for STORE and APPEND.

Needs root and cgroup v2; Debian's dovecot-imapd and dovecot-lmtpd (service not started) for Dovecot's
column, perf or strace for the number of system calls. Without them the columns stay empty, and the
bench reports it. Dovecot does not sync a STORE.

    cargo build --release --bins --example smtp_floor && benches/one_connection.py [--rounds 3]
"""

import argparse
import functools
import itertools
import os
import pathlib
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests/clients"))
from demo import ROOT, free_port_base  # noqa: E402
from beside_dovecot import Cgroup, start_dovecot, start_ringmail  # noqa: E402

FLOOR = ROOT / "target/release/examples/smtp_floor"
USER, PASSWORD = "user1@demo.test", "demo"
MESSAGE = b"From: a@demo.test\r\nSubject: one\r\n\r\n" + b"A line of text in a message.\r\n" * 135
# Round trips whose system calls are counted, and what perf counts.
COUNTED = 200
CALLS_EVENT = "raw_syscalls:sys_enter"


class Client:
    """Sends a command and reads up to the line that ends its answer; nothing else, to keep the overhead low."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = bytearray(1 << 20)

    def greeting(self, begin):
        assert self.read_line().startswith(begin)

    def read_line(self):
        line = b""
        while not line.endswith(b"\r\n"):
            line += self.socket.recv(65536)
        return line

    def command(self, text):
        """A command whose tag is `t`."""
        self.socket.sendall(b"t " + text + b"\r\n")
        answer = b""
        while True:
            answer += self.socket.recv(65536)
            if answer.endswith(b"\r\n"):
                last = answer.rfind(b"\r\n", 0, -2)
                last = answer[last + 2:] if last >= 0 else answer
                if last.startswith(b"t "):
                    assert last.startswith(b"t OK"), answer
                    return answer

    def smtp(self, text):
        self.socket.sendall(text + b"\r\n")
        return self.read_line()


def logged_in(port):
    client = Client(port)
    client.greeting(b"* OK")
    client.command(f"LOGIN {USER} {PASSWORD}".encode())
    return client


def steps(client, messages, stored):
    """Name and one round trip of each step, called with its number; `stored` counts the STOREs."""
    def number(n):
        return n % messages + 1
    append = b"APPEND INBOX {%d+}\r\n%s" % (len(MESSAGE), MESSAGE)
    yield "APPEND, 4 KiB", lambda _: client.command(append)

    def select(_):
        client.command(b"SELECT INBOX")
    yield None, select
    yield "NOOP", lambda _: client.command(b"NOOP")
    yield "FETCH n FLAGS", lambda n: client.command(b"FETCH %d FLAGS" % number(n))
    yield "FETCH n BODY.PEEK[]", lambda n: client.command(b"FETCH %d BODY.PEEK[]" % number(n))

    def store(_):
        # Each is a real change: all messages in turn get the flag, then all lose it, and so on.
        lap, message = divmod(next(stored), messages)
        sign = b"-" if lap % 2 else b"+"
        client.command(b"STORE %d %sFLAGS (\\Flagged)" % (message + 1, sign))
    yield "STORE n FLAGS", store


def timed(count, turn, first=0):
    """Microseconds of each of `count` turns, which are numbered from `first` on."""
    clock, taken = time.perf_counter, []
    for number in range(first, first + count):
        begin = clock()
        turn(number)
        taken.append((clock() - begin) * 1e6)
    return taken


def calls_of(cgroup, count, drive):
    """System calls of a server for each of `count` operations by `drive`: with perf, which does not slow
    it down, or with strace, which makes fewer operations share the cost of a sleep. None without both."""
    if counted_by() is None:
        return None
    pids = (cgroup.path / "cgroup.procs").read_text().split()
    with tempfile.NamedTemporaryFile() as out:
        if counted_by() == "perf":
            command = ["perf", "stat", "-x,", "-e", CALLS_EVENT, "-o", out.name, "-p", ",".join(pids)]
        else:
            attach = [word for pid in pids for word in ("-p", pid)]
            command = ["strace", "-f", "-qq", "-c", "-U", "calls,name", "-o", out.name, *attach]
        counter = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        time.sleep(0.5)
        drive()
        counter.send_signal(signal.SIGINT)
        counter.wait()
        text = pathlib.Path(out.name).read_text()
    total = rf"^(\d+),,{CALLS_EVENT}" if counted_by() == "perf" else r"^\s*(\d+)\s+total$"
    match = re.search(total, text, re.M)
    return int(match[1]) / count if match else None


@functools.cache
def counted_by():
    """The tool that counts system calls on this machine."""
    probe = ["perf", "stat", "-x,", "-e", CALLS_EVENT, "true"]
    if shutil.which("perf"):
        said = subprocess.run(probe, capture_output=True, text=True, check=False).stderr
        if said[:1].isdigit():
            return "perf"
    return "strace" if shutil.which("strace") else None


class Server:
    def __init__(self, name, start, directory, base):
        self.name = name
        self.directory = tempfile.mkdtemp(prefix=f"ringmail-one-{name}-", dir=directory)
        self.cgroup = Cgroup(f"one-{name}")
        self.process = start(self.directory, base, self.cgroup)
        self.results, self.calls, self.stored = {}, {}, itertools.count()

    def note(self, step, count, turn, trace):
        cpu = self.cgroup.cpu_seconds()
        taken = timed(count, turn)
        cpu = (self.cgroup.cpu_seconds() - cpu) / count * 1e6
        self.results.setdefault(step, []).append((statistics.median(taken), cpu))
        if trace:
            self.calls[step] = calls_of(self.cgroup, COUNTED, lambda: timed(COUNTED, turn, count))

    def median(self, step):
        runs = self.results.get(step)
        return [statistics.median(column) for column in zip(*runs)] if runs else None

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.cgroup.close()
        shutil.rmtree(self.directory, ignore_errors=True)


def start_floor(_, base, cgroup):
    return subprocess.Popen([str(FLOOR), str(base + 25)], preexec_fn=cgroup.enter)


def disk_floor(directory, count):
    """Microseconds of one write with its sync to a growing file, as the log does it (O_DSYNC)."""
    def append(offset, octets):
        os.pwrite(file, octets, offset)
    affinity = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {0})
    taken = {}
    for octets in (512, 8192):
        with tempfile.NamedTemporaryFile(dir=directory) as made:
            file = os.open(made.name, os.O_WRONLY | os.O_DSYNC)
            block = b"x" * octets
            taken[octets] = statistics.median(timed(count, lambda n: append(n * octets, block)))
            os.close(file)
    os.sched_setaffinity(0, affinity)
    return taken


def race(servers, ports, disk, arguments):
    rounds, count = arguments.rounds, arguments.count
    for round_number in range(rounds):
        for server in servers:
            trace = round_number == rounds - 1
            if server.name == "floor":
                client = Client(ports[server.name])
                client.greeting(b"220")
                server.note("NOOP", count, lambda _: client.smtp(b"NOOP"), trace)
                continue
            client = logged_in(ports[server.name])
            for step, turn in steps(client, count, server.stored):
                if step is None:
                    turn(0)
                else:
                    server.note(step, count, turn, trace)
        for octets, taken in disk_floor(arguments.dir, count).items():
            disk.setdefault(octets, []).append(taken)


def report(servers, disk):
    ours = next(server for server in servers if server.name == "ringmail")
    print(f"{'':22}" + "".join(f"{server.name:>26}" for server in servers))
    print(f"{'':22}" + f"{'us':>8} {'CPU us':>8} {'calls':>8}" * len(servers))
    for step in ours.results:
        row = f"{step:22}"
        for server in servers:
            median, calls = server.median(step), server.calls.get(step)
            row += " " * 26 if median is None else f"{median[0]:9.0f} {median[1]:8.0f} " + (
                f"{calls:8.1f}" if calls else f"{'-':>8}")
        print(row)
    for octets, taken in disk.items():
        print(f"write and sync of {octets} octets (O_DSYNC, growing file): "
              f"{statistics.median(taken):.0f} us")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=1000, help="round trips of a step in a round")
    parser.add_argument("--dir", help="where the servers' data and the file of the floor go")
    parser.add_argument("--no-dovecot", action="store_true")
    parser.add_argument("--port-base", type=int)
    arguments = parser.parse_args()
    base = arguments.port_base or free_port_base()
    starts = {"ringmail": (start_ringmail, 143, base), "floor": (start_floor, 25, base + 1000)}
    if arguments.no_dovecot:
        pass
    elif shutil.which("dovecot"):
        starts = {"dovecot": (start_dovecot, 143, base + 2000), **starts}
    else:
        print("no Dovecot on this machine (Debian: dovecot-imapd, dovecot-lmtpd): no column of it")
    print(f"system calls counted by {counted_by() or 'nobody: no perf or strace on this machine'}")
    os.sched_setaffinity(0, {1})
    servers, ports, disk = [], {}, {}
    try:
        for name, (start, port, at) in starts.items():
            servers.append(Server(name, start, arguments.dir, at))
            ports[name] = at + port
        time.sleep(2)
        race(servers, ports, disk, arguments)
    finally:
        for server in servers:
            server.stop()
    print(f"medians of {arguments.rounds} rounds of {arguments.count}; server on core 0, client on "
          "core 1; what the client's own Python takes is in the times")
    report(servers, disk)


if __name__ == "__main__":
    main()
