#!/usr/bin/env python3
"""Mailboxes of other users: what it costs that the owner is on another shard, and how fast watchers hear.

    cargo build --release && benches/shared.py [--messages 10000] [--bodies 1000] [--rounds 15] [--watchers 1000]

A demo of two shards. FETCH of all flags and of bodies (4 KiB) by the owner, by a user of his shard and by a user
of the other one, in turn: medians, and their ratio to the owner's. Then a public mailbox, selected by watchers on
both shards that idle: from the delivery's OK to the last notification, and the CPU time of each shard's thread.
RINGMAIL names another binary.
"""

import argparse
import pathlib
import selectors
import socket
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests/clients"))
from demo import Demo  # noqa: E402

# In a demo of two partitions: alice and user1 are on one shard, bob and user2 on the other.
OWNER, NEIGHBOUR, STRANGER = "alice", "user1", "bob"


class Client:
    def __init__(self, port, user):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        self.until(b"* OK")
        self.do(f"LOGIN {user}@demo.test demo")

    def until(self, start):
        """Octets up to the line that begins with `start`."""
        received = self.buffer
        while True:
            last = received.rstrip(b"\r\n").rfind(b"\n") + 1
            if received.endswith(b"\r\n") and received[last:].startswith(start):
                self.buffer = b""
                return received
            more = self.socket.recv(1 << 20)
            if not more:
                raise SystemExit(f"closed after {received[-300:]!r}")
            received += more

    def do(self, command):
        self.socket.sendall(b"t " + command.encode() + b"\r\n")
        answer = self.until(b"t ")
        last = answer.rstrip(b"\r\n").rsplit(b"\n", 1)[-1]
        if not last.startswith(b"t OK"):
            raise SystemExit(f"{command}: {last!r}")
        return answer

    def append(self, mailbox, count, octets):
        text = b"Subject: one of many\r\n\r\n"
        text += b"0123456789abcdef" * ((octets - len(text)) // 16)
        one = b'a APPEND "%s" {%d+}\r\n%s\r\n' % (mailbox.encode(), len(text), text)
        for _ in range(0, count, 100):
            self.socket.sendall(one * 100)
            done = 0
            while done < 100:
                answer = self.socket.recv(1 << 16)
                done += answer.count(b"APPEND completed")


def shard_cpu(process):
    """CPU seconds of each shard's thread, by its name."""
    found = {}
    for task in pathlib.Path(f"/proc/{process.pid}/task").iterdir():
        name = (task / "comm").read_text().strip()
        run = int((task / "schedstat").read_text().split()[0]) / 1e9
        if name.startswith("shard") or "shard" in name:
            found[name] = found.get(name, 0) + run
    return found


def compare(demo, arguments):
    port = demo.port["imap"]
    owner = Client(port, OWNER)
    owner.do("CREATE box")
    owner.append("box", arguments.messages, 4096)
    for user in (NEIGHBOUR, STRANGER):
        owner.do(f"SETACL box {user} lr")
    clients = {"owner": (owner, "box")}
    for name, user in (("same shard", NEIGHBOUR), ("other shard", STRANGER)):
        clients[name] = (Client(port, user), f"Other Users/{OWNER}@demo.test/box")
    for client, mailbox in clients.values():
        client.do(f'EXAMINE "{mailbox}"')
    commands = [
        (f"flags of {arguments.messages}", "FETCH 1:* FLAGS"),
        (f"envelopes of {arguments.messages}", "FETCH 1:* ENVELOPE"),
        (f"bodies of {arguments.bodies}", f"FETCH 1:{arguments.bodies} BODY.PEEK[]"),
    ]
    for what, command in commands:
        times = {name: [] for name in clients}
        sizes = set()
        for round_number in range(arguments.rounds + 1):
            for name, (client, _) in clients.items():
                begin = time.perf_counter()
                answer = client.do(command)
                took = time.perf_counter() - begin
                sizes.add(len(answer))
                if round_number:
                    times[name].append(took)
        assert len(sizes) == 1, sizes
        medians = {name: statistics.median(some) for name, some in times.items()}
        told = ", ".join(f"{name} {1000 * it:.1f} ms" for name, it in medians.items())
        ratio = medians["other shard"] / medians["owner"]
        print(f"{what}: {told}; other shard / owner {ratio:.2f}", flush=True)


def watch(demo, arguments):
    port = demo.port["imap"]
    admin = Client(port, OWNER)
    admin.do("CREATE Shared/News")
    admin.do("SETACL Shared/News anyone lr")
    watchers = [Client(port, (NEIGHBOUR, STRANGER)[n % 2]) for n in range(arguments.watchers)]
    selector = selectors.DefaultSelector()
    for watcher in watchers:
        watcher.do("EXAMINE Shared/News")
        watcher.socket.sendall(b"t IDLE\r\n")
        watcher.until(b"+ ")
        selector.register(watcher.socket, selectors.EVENT_READ)
    text = b"Subject: news\r\n\r\nnews\r\n"
    first, last = [], []
    cpu = shard_cpu(demo.process)
    for _ in range(arguments.deliveries):
        admin.socket.sendall(b"t APPEND Shared/News {%d+}\r\n%s\r\n" % (len(text), text))
        admin.until(b"t OK")
        begin = time.perf_counter()
        heard, seen = set(), []
        while len(heard) < len(watchers):
            events = selector.select(10)
            if not events:
                raise SystemExit(f"only {len(heard)} watchers heard")
            for key, _ in events:
                if b"EXISTS" in key.fileobj.recv(4096) and key.fd not in heard:
                    heard.add(key.fd)
            seen.append(time.perf_counter() - begin)
        first.append(seen[0])
        last.append(seen[-1])
        time.sleep(0.02)
    used = {name: it - cpu[name] for name, it in shard_cpu(demo.process).items()}
    print(f"{len(watchers)} watchers on two shards, {arguments.deliveries} deliveries, from OK to the last "
          f"notification: median {1000 * statistics.median(last):.1f} ms, longest {1000 * max(last):.1f} ms "
          f"(the client reads {len(watchers)} sockets meanwhile)")
    per = ", ".join(f"{name} {1e6 * it / arguments.deliveries:.0f} us" for name, it in sorted(used.items()))
    print(f"CPU a delivery: {per}; the public mailbox is on the first partition's shard", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--bodies", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--watchers", type=int, default=1_000)
    parser.add_argument("--deliveries", type=int, default=50)
    arguments = parser.parse_args()
    demo = Demo("--shards", 2, "--users", 2, "--set", f'imap.administrators=["{OWNER}@demo.test"]')
    try:
        compare(demo, arguments)
        watch(demo, arguments)
    finally:
        demo.close()


if __name__ == "__main__":
    main()
