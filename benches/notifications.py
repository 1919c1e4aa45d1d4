#!/usr/bin/env python3
"""Many idle IMAP connections while mail arrives: how long a client waits for the news, and what a connection costs.

    cargo build --release && benches/notifications.py [--connections 10000] [--rate 100] [--seconds 20]

A demo of two shards with 1,000 accounts. First every connection selects INBOX and idles; then, on a new server, the
same with COMPRESS=DEFLATE (RFC 4978); then every connection has asked for NOTIFY (RFC 5465) of ten mailboxes and has
none selected. Mail comes by LMTP at a steady rate,
to accounts in turn, and each of an account's connections is to hear of it. Stated are the time from the final dot of a
message to the 250, and to the news at each connection (the client reads all the connections on one core), the resident
memory that the connections added, and the CPU time of the server. RINGMAIL names another binary.
"""

import argparse
import pathlib
import random
import resource
import selectors
import socket
import sys
import threading
import time
import zlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests/clients"))
from demo import Demo  # noqa: E402

USERS = 1000
FOLDERS = 10
NOTIFY = "NOTIFY SET (mailboxes (%s) (MessageNew MessageExpunge))" % " ".join(
    f"folder{number}" for number in range(FOLDERS))

DRAW = random.Random(1)
WORDS = ["".join(DRAW.choices("abcdefghijklmnoprstuvw", k=DRAW.randint(2, 9))) for _ in range(2000)]
# Random words, which compress to less than a half.
SENT = " ".join(DRAW.choices(WORDS, k=6000))[:33_000]


class Compressed:
    """A connection after COMPRESS. What it sends are stored blocks (RFC 1951 3.2.4)."""

    def __init__(self, connection):
        answered(connection, "COMPRESS DEFLATE")
        self.connection, self.stream = connection, zlib.decompressobj(-15)
        self.fileno, self.close = connection.fileno, connection.close

    def sendall(self, octets):
        size = len(octets)
        self.connection.sendall(b"\0" + size.to_bytes(2, "little") + (65_535 - size).to_bytes(2, "little") + octets)

    def recv(self, count):
        received = b""
        while not received:
            more = self.connection.recv(count)
            if not more:
                return b""
            received = self.stream.decompress(more)
        return received


def answered(connection, command, tag=b"t "):
    """Sends a command and reads up to its tagged answer."""
    connection.sendall(b"t " + command.encode() + b"\r\n")
    received = b""
    while not (received.endswith(b"\r\n") and received.rstrip().rsplit(b"\n", 1)[-1].startswith(tag)):
        more = connection.recv(1 << 16)
        if not more:
            raise SystemExit(f"closed after {received!r}")
        received += more
    if tag == b"t " and not received.rstrip().rsplit(b"\n", 1)[-1].startswith(b"t OK"):
        raise SystemExit(f"{command}: {received!r}")


def connected(port, user):
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.recv(4096)
    answered(connection, f"LOGIN user{user + 1}@demo.test demo")
    return connection


def prepare(port, user, with_folders):
    """Opens the account once, so that its state does not count as a connection's."""
    connection = connected(port, user)
    for number in range(FOLDERS if with_folders else 0):
        answered(connection, f"CREATE folder{number}")
        # Whoever sends mail may have it put there.
        answered(connection, f"SETACL folder{number} anyone p")
    answered(connection, "LOGOUT")
    connection.close()


class Deliveries(threading.Thread):
    """Delivers at a steady rate; keeps when each final dot was sent and when it was answered."""

    def __init__(self, port, rate, count, with_folders):
        super().__init__()
        self.rate, self.count, self.with_folders = rate, count, with_folders
        self.sent, self.accepted = [[] for _ in range(USERS)], []
        self.connection = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.replies = self.connection.makefile("rb")
        self.expect(b"220")
        self.connection.sendall(b"LHLO bench\r\n")
        self.expect(b"250")

    def expect(self, code):
        while True:
            line = self.replies.readline()
            if line[3:4] == b" ":
                if not line.startswith(code):
                    raise SystemExit(repr(line))
                return

    def run(self):
        begin = time.perf_counter()
        text = b"Subject: news\r\n\r\n" + b"A line of text in a message.\r\n" * 135
        for number in range(self.count):
            time.sleep(max(0, begin + number / self.rate - time.perf_counter()))
            user = number % USERS
            detail = f"+folder{number // USERS % FOLDERS}" if self.with_folders else ""
            self.connection.sendall(
                f"MAIL FROM:<a@example.org>\r\nRCPT TO:<user{user + 1}{detail}@demo.test>\r\nDATA\r\n".encode())
            for code in (b"250", b"250", b"354"):
                self.expect(code)
            sent = time.perf_counter()
            self.sent[user].append(sent)
            self.connection.sendall(text + b".\r\n")
            self.expect(b"250")
            self.accepted.append(time.perf_counter() - sent)


def percentiles(seconds):
    ordered = sorted(seconds)
    return ", ".join(f"{name} {1000 * ordered[min(len(ordered) - 1, int(part * len(ordered)))]:.1f}"
                     for name, part in (("median", 0.5), ("p99", 0.99), ("longest", 1.0)))


def measure(arguments, with_notify=False, compressed=False):
    word = b"* STATUS " if with_notify else b" EXISTS\r\n"
    with Demo("--shards", 2, "--users", USERS) as demo:
        for user in range(USERS):
            prepare(demo.port["imap"], user, with_notify)
        time.sleep(2)
        before = demo.memory()
        selector, connections = selectors.DefaultSelector(), []
        for number in range(arguments.connections):
            user = number % USERS
            connection = connected(demo.port["imap"], user)
            if compressed:
                connection = Compressed(connection)
            if with_notify:
                answered(connection, NOTIFY)
            else:
                answered(connection, "SELECT INBOX")
                if compressed:
                    # A client refers to the last 32 KiB that it sent: it sends as many.
                    answered(connection, f"SEARCH SUBJECT {{{len(SENT)}+}}\r\n{SENT}")
                answered(connection, "IDLE", b"+ ")
            connections.append(connection)
            selector.register(connection, selectors.EVENT_READ, user)
        time.sleep(2)
        memory = (demo.memory() - before) / arguments.connections
        count = arguments.rate * arguments.seconds
        deliveries = Deliveries(demo.port["lmtp"], arguments.rate, count, with_notify)
        # Of each connection how many messages it has heard of.
        heard, waited = {}, []
        of_user = [len(range(user, arguments.connections, USERS)) for user in range(USERS)]
        expected = sum(of_user[number % USERS] for number in range(count))
        cpu, begin = demo.cpu_seconds(), time.perf_counter()
        deliveries.start()
        while len(waited) < expected:
            events = selector.select(20)
            if not events:
                raise SystemExit(f"{expected - len(waited)} of {expected} notifications did not come")
            for key, _ in events:
                told = key.fileobj.recv(1 << 16)
                now = time.perf_counter()
                for _ in range(told.count(word)):
                    at = heard.get(key.fd, 0)
                    heard[key.fd] = at + 1
                    waited.append(now - deliveries.sent[key.data][at])
        deliveries.join()
        took = time.perf_counter() - begin
        cpu = demo.cpu_seconds() - cpu
        print(f"{arguments.connections} connections, "
              f"{'NOTIFY of ' + str(FOLDERS) + ' mailboxes' if with_notify else 'IDLE in INBOX'}"
              f"{' with COMPRESS' if compressed else ''}, "
              f"{count / took:.0f} deliveries/s, {expected / took:.0f} notifications/s, ms:")
        print(f"  250 after the final dot: {percentiles(deliveries.accepted)}")
        print(f"  news after the final dot: {percentiles(waited)}")
        print(f"  memory a connection: {memory / 1024:.1f} KiB; CPU of the server: {100 * cpu / took:.0f} %", flush=True)
        for connection in connections:
            connection.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--rate", type=int, default=100)
    parser.add_argument("--seconds", type=int, default=20)
    arguments = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    measure(arguments)
    measure(arguments, compressed=True)
    measure(arguments, with_notify=True)


if __name__ == "__main__":
    main()
