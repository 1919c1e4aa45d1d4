#!/usr/bin/env python3
"""Memory of a demo while many unauthenticated clients are sending a message.

    benches/messages_under_way.py [--binary target/release/ringmail] [--count 5000] [--kib 255]
                                  [--kind text|header|noise] [--port-base 13000]

Starts a demo of two shards, opens COUNT connections to its SMTP port, sends KIB of a message on
each without its final dot, waits until the senders count as stalled, and prints the server's VmRSS
before and after, its peak, and how many were refused. Then it ends the messages and counts the
replies. Bounded: one message a connection, two minutes. Needs `ulimit -n` above COUNT."""

import argparse
import asyncio
import collections
import os
import pathlib
import resource
import shutil
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
LINE = b"0123456789012345678901234567890123456789012345678901234567890\r\n"


def memory(pid, field):
    for line in open(f"/proc/{pid}/status", encoding="ascii"):
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    return 0.0


def octets(kind, size):
    """The start of a message: noise is text that does not compress well."""
    if kind == "header":
        return (b"X-Long: " + LINE) * (size // len(LINE) + 1)
    text = (os.urandom(30).hex().encode() + b"\r\n" for _ in range(size // 62 + 1))
    return b"Subject: x\r\n\r\n" + (
        b"".join(text) if kind == "noise" else LINE * (size // len(LINE) + 1))


async def command(reader, writer, text):
    writer.write(text)
    while True:
        line = await reader.readline()
        if line[3:4] != b"-":
            return line[:9].decode("ascii", "replace")


async def begin(port, number, body, gate):
    async with gate:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        reply = await command(reader, writer, b"")
        recipient = b"alice" if number % 2 else b"bob"
        for text in (b"EHLO x\r\n", b"MAIL FROM:<a@far.test>\r\n",
                     b"RCPT TO:<" + recipient + b"@demo.test>\r\n", b"DATA\r\n"):
            reply = await command(reader, writer, text)
            if reply[:1] not in "23":
                break
        if reply.startswith("354"):
            writer.write(body)
            await writer.drain()
    return reader, writer, reply


async def measure(arguments, pid, port):
    size = arguments.kib * 1024
    body = octets(arguments.kind, size)[:size]
    before = memory(pid, "VmRSS")
    gate = asyncio.Semaphore(64)
    began = time.monotonic()
    clients = await asyncio.gather(
        *(begin(port, number, body, gate) for number in range(arguments.count)))
    print(f"sent in {time.monotonic() - began:.1f} s; to DATA:",
          dict(collections.Counter(reply for _, _, reply in clients)))
    at_once = memory(pid, "VmRSS")
    await asyncio.sleep(5)
    after, peak = memory(pid, "VmRSS"), memory(pid, "VmHWM")
    print(f"VmRSS before {before:.0f} MiB, all sent {at_once:.0f}, 5 s later {after:.0f} MiB: "
          f"{after - before:+.0f}; peak {peak:.0f}")
    gate = asyncio.Semaphore(64)

    async def end(reader, writer, reply):
        async with gate:
            if reply.startswith("354"):
                reply = await command(reader, writer, b"\r\n.\r\n")
            writer.close()
            return reply
    replies = await asyncio.gather(*(end(*client) for client in clients))
    print("at the end:", dict(collections.Counter(replies)))
    await asyncio.sleep(3)
    print(f"VmRSS when all are gone {memory(pid, 'VmRSS'):.0f} MiB, "
          f"peak {memory(pid, 'VmHWM'):.0f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", default=str(ROOT / "target/release/ringmail"))
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--kib", type=int, default=255)
    parser.add_argument("--kind", choices=("text", "header", "noise"), default="text")
    parser.add_argument("--port-base", type=int, default=13000)
    parser.add_argument("--set", action="append", default=[])
    arguments = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    directory = tempfile.mkdtemp(prefix="ringmail-slow-")
    settings = [part for text in arguments.set for part in ("--set", text)]
    server = subprocess.Popen(
        [arguments.binary, "demo", "--dir", directory, "--shards", "2",
         "--port-base", str(arguments.port_base), *settings],
        stdout=subprocess.DEVNULL)
    try:
        time.sleep(3)
        asyncio.run(asyncio.wait_for(
            measure(arguments, server.pid, arguments.port_base + 25), 120))
    finally:
        server.terminate()
        server.wait(20)
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
