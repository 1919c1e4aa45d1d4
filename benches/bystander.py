#!/usr/bin/env python3
"""The effect of one client on another: the longest round trip of a bystander's NOOP on a single shard
while an attacker runs the longest commands that its account allows.

    cargo build --release && benches/bystander.py [--messages 50000] [--subscriptions 4000]

The bystander is a separate process that sends NOOP every millisecond; "nobody" is its result without an
attacker. Each attack ends by itself or after --seconds.
"""

import argparse
import collections
import multiprocessing
import pathlib
import random
import socket
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests/clients"))
from demo import Demo  # noqa: E402


class Imap:
    def __init__(self, port, user):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=120)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.tail, self.lines = b"", collections.deque()
        self.read_to(b"* OK")
        self.command(f"LOGIN {user}@demo.test demo")

    def read_to(self, wanted, until=None):
        """Reads up to a line that begins with `wanted`, or until a time limit; returns that line."""
        while True:
            while self.lines:
                line = self.lines.popleft()
                if line.startswith(wanted):
                    return line
            if until and time.monotonic() > until:
                return None
            data = self.socket.recv(1 << 20)
            if not data:
                raise RuntimeError("the server closed the connection")
            *lines, self.tail = (self.tail + data).split(b"\r\n")
            self.lines.extend(lines)

    def command(self, text, until=None):
        self.socket.sendall(b"t " + (text if isinstance(text, bytes) else text.encode()) + b"\r\n")
        return self.read_to(b"t ", until)

    def append(self, message):
        self.socket.sendall(b"t APPEND INBOX {%d+}\r\n" % len(message) + message + b"\r\n")
        return self.read_to(b"t ")


def stand_by(port, pipe):
    """Round trips until something comes through `pipe`; returns count, worst and 99.9th percentile."""
    client = Imap(port, "bob")
    pipe.send("ready")
    while pipe.recv() != "end":
        trips = []
        while not (trips and pipe.poll()):
            start = time.perf_counter()
            client.command("NOOP")
            trips.append(time.perf_counter() - start)
            time.sleep(0.001)
        pipe.recv()
        trips.sort()
        pipe.send((len(trips), trips[-1] * 1e3, trips[len(trips) * 999 // 1000] * 1e3))


def subscribe(client, count):
    for number in range(count):
        name = "/".join([f"name{number:04}"] + [f"l{level:02}" for level in range(31)])
        client.socket.sendall(f"t SUBSCRIBE {name}\r\n".encode())
        if number % 50 == 49:
            for _ in range(50):
                client.read_to(b"t ")


def fill(client, folder, count):
    """`count` messages in `folder`, by COPY."""
    client.command(f"CREATE {folder}")
    client.append(b"Subject: small\r\n\r\nx\r\n")
    client.command("SELECT INBOX")
    client.command(f"MOVE * {folder}")
    client.command(f"SELECT {folder}")
    have = 1
    while have < count:
        more = min(have, count - have)
        client.command(f"COPY 1:{more} {folder}")
        have += more
    client.command("NOOP")


def large_bodies(client, count, mebibytes):
    line = b"The quick brown fox jumps over the lazy dog and runs away. %08d\r\n"
    body = b"".join(line % number for number in range(mebibytes * (1 << 20) // 68))
    client.command("CREATE large")
    for number in range(count):
        client.append(b"Subject: large %d\r\n\r\n" % number + body)
    client.command("SELECT INBOX")
    client.command("MOVE 1:* large")
    # Copies share the octets: many messages, little on the disk.
    client.command("SELECT large")
    for _ in range(5):
        client.command("COPY 1:* large")
    client.command("NOOP")


def odd_messages(client):
    """Messages with 85,000 fields; with 15,000 encoded words; with HTML of two letters."""
    letters = random.Random(1)
    html = b"\r\n".join(bytes(letters.choice(b"qz") for _ in range(900)) for _ in range(450))
    client.command("CREATE odd")
    client.command("SELECT INBOX")
    for message in (b"S:\n" * 85_000 + b"\r\nx",
                    b"Subject: " + b"=?hz?q??==?x?q??=" * 15_000 + b"\r\n\r\nx",
                    b"Content-Type: text/html\r\n\r\n" + html):
        client.append(message)
    client.command("MOVE 1:* odd")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=50000)
    parser.add_argument("--subscriptions", type=int, default=4000)
    parser.add_argument("--seconds", type=float, default=10, help="at most, for each attack")
    arguments = parser.parse_args()
    many = arguments.messages
    keys = " ".join(["UNKEYWORD a"] * 900)
    ranges = ",".join(str(1 + 2 * random.randrange(many // 2)) for _ in range(4000))
    parts = " ".join(f"BODY.PEEK[]<{offset << 18}.1>" for offset in range(30))
    with Demo("--shards", 1, "--users", 2) as demo:
        port = demo.port["imap"]
        attacker = Imap(port, "alice")
        subscribe(attacker, arguments.subscriptions)
        fill(attacker, "many", many)
        large_bodies(attacker, 8, 8)
        odd_messages(attacker)
        strings = " ".join(f'NOT TEXT "{chr(97 + n % 26)}{n % 10}"' for n in range(63))
        long = "".join(random.Random(2).choice("qz") for _ in range(200 * 1024))
        here, there = multiprocessing.Pipe()
        bystander = multiprocessing.Process(target=stand_by, args=(port, there), daemon=True)
        bystander.start()
        here.recv()
        attacks = [
            ("nobody", None, None),
            ('LIST "" *', "SELECT many", 'LIST "" *'),
            ("LIST, subscribed, recursive", None, 'LIST (SUBSCRIBED RECURSIVEMATCH) "" "*z"'),
            ('LSUB "" %', None, 'LSUB "" %'),
            ("STORE 1:* +FLAGS", None, "STORE 1:* +FLAGS (\\Seen \\Flagged)"),
            ("STORE 1:* -FLAGS.SILENT", None, "STORE 1:* -FLAGS.SILENT (\\Flagged)"),
            ("FETCH 1:* FLAGS", None, "FETCH 1:* FLAGS"),
            ("SEARCH, 900 keys", None, f"SEARCH {keys}"),
            ("UID FETCH, 4,000 ranges", None, f"UID FETCH {ranges} FLAGS"),
            ("COPY 1:* onto itself", None, "COPY 1:* many"),
            ("MOVE 1:*", None, f"MOVE 1:{many} INBOX"),
            ("RENAME INBOX", None, "RENAME INBOX old"),
            ("EXPUNGE of all", "STORE 1:* +FLAGS.SILENT (\\Deleted)", "EXPUNGE"),
            ("FETCH, 1 octet of each piece", "SELECT large", f"FETCH 1:* ({parts})"),
            ("FETCH ENVELOPE BODYSTRUCTURE", None, "FETCH 1:* (ENVELOPE BODYSTRUCTURE)"),
            ("SEARCH BODY", None, "SEARCH BODY nowhere"),
            ("SEARCH, 63 strings, 85,000 fields", "SELECT odd", f"SEARCH 1 {strings}"),
            ("SEARCH, 15,000 encoded words", None, "SEARCH 2 TEXT nowhere"),
            ("SEARCH, a string of 200 KiB", None,
             f"SEARCH 3 {strings.replace('TEXT', 'BODY')} NOT BODY {{{len(long)}+}}\r\n{long}"),
        ]
        print(f"{'attack':33} {'seconds':>8} {'NOOPs':>7} {'99.9 % ms':>10} {'worst ms':>9}")
        for name, before, command in attacks:
            if before:
                attacker.command(before)
            here.send("go")
            start = time.monotonic()
            answer = b"t OK"
            if command is None:
                time.sleep(2)
            else:
                answer = attacker.command(command, start + arguments.seconds)
            seconds = time.monotonic() - start
            here.send("stop")
            count, worst, percentile = here.recv()
            note = "" if answer and answer.startswith(b"t OK") else f"  {(answer or b'cut off')[:60]}"
            print(f"{name:33} {seconds:8.2f} {count:7} {percentile:10.2f} {worst:9.2f}{note}",
                  flush=True)
            if answer is None:
                attacker.socket.close()
                attacker = Imap(port, "alice")
                attacker.command("SELECT large")
        here.send("end")


if __name__ == "__main__":
    main()
