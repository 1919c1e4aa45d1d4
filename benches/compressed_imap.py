#!/usr/bin/env python3
"""What COMPRESS=DEFLATE (RFC 4978) saves: the octets of the same FETCHes, plain and compressed, over one IMAP
connection each. The messages are lines of words of docs/operations.md in random order.

    cargo build --release && benches/compressed_imap.py [--messages 300]
"""

import argparse
import pathlib
import random
import socket
import sys
import time
import zlib

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/clients"))
from demo import Demo  # noqa: E402

USER = "user1@demo.test"


class Client:
    """Counts what it receives: octets on the wire, and opened."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.seal = self.open = None
        self.wire = self.opened = 0
        self.socket.recv(4096)
        self.say(b"LOGIN %s demo" % USER.encode())

    def compress(self):
        self.say(b"COMPRESS DEFLATE")
        self.seal = zlib.compressobj(6, zlib.DEFLATED, -15)
        self.open = zlib.decompressobj(-15)

    def say(self, command):
        line = b"t " + command + b"\r\n"
        if self.seal:
            line = self.seal.compress(line) + self.seal.flush(zlib.Z_SYNC_FLUSH)
        self.socket.sendall(line)
        answer = b""
        while not (b"\nt " in b"\n" + answer and answer.endswith(b"\r\n")):
            received = self.socket.recv(1 << 16)
            assert received, "closed"
            self.wire += len(received)
            answer += self.open.decompress(received) if self.open else received
        self.opened += len(answer)
        # The tagged line is the last one; a message may have one that looks like it.
        assert answer.rsplit(b"\r\n", 2)[-2].startswith(b"t OK"), answer[-200:]


def message(number, words, dice):
    lines = "\r\n".join(" ".join(dice.choices(words, k=10)) for _ in range(60))
    return (f"From: Alice <alice{number % 9}@demo.test>\r\nTo: bob@demo.test\r\n"
            f"Subject: message {number}\r\nDate: Mon, 23 Nov 2026 10:00:00 +0000\r\n"
            f"Message-ID: <m{number}@demo.test>\r\n\r\n{lines}").encode()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--messages", type=int, default=300)
    count = parser.parse_args().messages
    words = (ROOT / "docs/operations.md").read_text().split()
    dice = random.Random(1)
    demo = Demo("--users", "3", "--shards", "1")
    try:
        filler = Client(demo.port["imap"])
        for number in range(count):
            octets = message(number, words, dice)
            filler.say(b"APPEND INBOX {%d+}\r\n%s" % (len(octets), octets))
        cases = {
            "flags of all": [b"FETCH 1:* (FLAGS)"],
            "envelopes of all": [b"FETCH 1:* (ENVELOPE)"],
            "bodies of all": [b"FETCH 1:* (BODY.PEEK[])"],
            "flags, one at a time": [b"FETCH %d (FLAGS)" % (it + 1) for it in range(count)],
        }
        print(f"{'FETCH':24}{'octets':>12}{'compressed':>12}{'ratio':>8}{'ms':>8}{'ms compressed':>15}")
        found = []
        for compressed in (False, True):
            client = Client(demo.port["imap"])
            if compressed:
                client.compress()
            client.say(b"EXAMINE INBOX")
            # The first FETCH after an APPEND makes what it needs.
            client.say(b"FETCH 1:* (FLAGS ENVELOPE)")
            found.append({})
            for name, commands in cases.items():
                client.wire, begin = 0, time.monotonic()
                for command in commands:
                    client.say(command)
                found[-1][name] = (client.wire, 1000 * (time.monotonic() - begin))
        for name in cases:
            (plain, plain_ms), (packed, packed_ms) = (one[name] for one in found)
            print(f"{name:24}{plain:>12}{packed:>12}{plain / packed:>8.1f}"
                  f"{plain_ms:>8.1f}{packed_ms:>15.1f}")
    finally:
        demo.close()


if __name__ == "__main__":
    main()
