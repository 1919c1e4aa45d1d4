#!/usr/bin/env python3
"""FETCH 1:* ENVELOPE and BODYSTRUCTURE of one mailbox: warm, and with the page cache dropped before each.

    cargo build --release && benches/envelopes.py [--messages 10000] [--rounds 5]

Server on core 0, client on core 1. The messages have an attachment, and a checkpoint has made their cards.
RINGMAIL names another binary, to be measured in turn. Dropping the page cache needs root; without it
only the warm figures are told.
"""

import argparse
import os
import pathlib
import socket
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests/clients"))
from demo import Demo  # noqa: E402

ITEMS = ("ENVELOPE", "BODYSTRUCTURE")


def message(number):
    """About 3.5 KiB, of which every header is another."""
    head = (
        f"From: Sender {number} <s{number}@example.org>\r\nTo: alice@demo.test\r\n"
        f"Subject: message number {number} of many\r\nDate: Mon, 1 Jan 2024 10:00:00 +0000\r\n"
        f"Message-ID: <{number}@example.org>\r\nMIME-Version: 1.0\r\n"
        "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\n"
    )
    tail = "--b\r\nContent-Type: application/pdf; name=a.pdf\r\n\r\nabc\r\n--b--\r\n"
    return (head + ("y" * 70 + "\r\n") * 45 + tail).encode()


def deliver(port, count):
    """By SMTP, one after the other."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    replies = connection.makefile("rb")

    def expect(code):
        while True:
            line = replies.readline()
            if line[3:4] == b" ":
                assert line.startswith(code), line
                return

    expect(b"220")
    connection.sendall(b"EHLO bench\r\n")
    expect(b"250")
    for number in range(count):
        connection.sendall(b"MAIL FROM:<a@example.org>\r\nRCPT TO:<alice@demo.test>\r\nDATA\r\n")
        for code in (b"250", b"250", b"354"):
            expect(code)
        connection.sendall(message(number) + b".\r\n")
        expect(b"250")
    connection.close()


class Imap:
    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.command("LOGIN alice@demo.test demo")
        self.command("SELECT INBOX")

    def command(self, text):
        """Milliseconds to the tagged OK."""
        started, tail = time.monotonic(), b""
        self.socket.sendall(f"t {text}\r\n".encode())
        while b"\r\nt OK" not in tail:
            tail = (tail + self.socket.recv(1 << 20))[-200:]
            assert b"\r\nt NO" not in tail and b"\r\nt BAD" not in tail, tail
        return 1000 * (time.monotonic() - started)


def drop_page_cache():
    os.sync()
    pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {0})
    with Demo("--shards", "1", "--set", "store.checkpoint_interval=16MiB") as demo:
        os.sched_setaffinity(0, {1})
        deliver(demo.port["smtp"], arguments.messages)
        client = Imap(demo.port["imap"])
        # Asks for the cards of the last messages, too; a moment for the checkpoints that make them.
        client.command("FETCH 1:* ENVELOPE")
        time.sleep(3)
        print(f"{arguments.messages} messages, medians of {arguments.rounds}")
        for item in ITEMS:
            fetch = f"FETCH 1:* {item}"
            warm = statistics.median(client.command(fetch) for _ in range(arguments.rounds))
            told = f"{item:<14} {warm:7.1f} ms warm"
            if os.geteuid() == 0:
                cold = []
                for _ in range(arguments.rounds):
                    drop_page_cache()
                    cold.append(client.command(fetch))
                told += f" {statistics.median(cold):7.1f} ms with the page cache dropped"
            print(told)


if __name__ == "__main__":
    main()
