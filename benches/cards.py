#!/usr/bin/env python3
"""One mailbox listed, sorted and searched from its message cards, beside Dovecot (mdbox, tuned): FETCH 1:* FLAGS,
ENVELOPE, BODYSTRUCTURE, PREVIEW and bodies, SORT by DATE and SUBJECT, THREAD REFERENCES, SEARCH by FROM, TO, CC,
SUBJECT and SENTSINCE, each warm and with the page cache dropped.

    cargo build --release && benches/cards.py [--messages 10000] [--rounds 5] [--alone]

Servers on core 0, client on core 1. Both servers run and get each command in turn, so that noise affects both. Both
receive the same messages: Ringmail by LMTP, Dovecot by APPENDs of many messages. Ringmail is then restarted, so that
all messages have cards; Dovecot has run every command once before (the column "first"), so that its index cache is
filled. A cold figure is measured on a new connection: SELECT and LOGOUT on the previous one, the page cache is dropped,
then LOGIN, SELECT and the timed command.

The last line is the floor of "bodies": a program on core 0 that reads as many octets from one file, 256 KiB at a time,
and sends them without looking at them, to the same client.

With --cpu, milliseconds of the servers' CPU instead of the client's time: on a busy machine only these compare.

RINGMAIL names another binary. Needs root, cgroup v2 and Dovecot as benches/beside_dovecot.py does; with --alone only
Ringmail is measured, and without root only the warm figures.
"""

import argparse
import contextlib
import email.utils
import os
import pathlib
import shutil
import socket
import statistics
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests/clients"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import beside_dovecot  # noqa: E402
from demo import Demo, free_port_base  # noqa: E402

DAY = 86_400
NEW_YEAR = 1_704_103_200
# Each search finds about one message in a hundred.
COMMANDS = {
    "FLAGS": "FETCH 1:* FLAGS",
    "ENVELOPE": "FETCH 1:* ENVELOPE",
    "BODYSTRUCTURE": "FETCH 1:* BODYSTRUCTURE",
    "PREVIEW": "FETCH 1:* PREVIEW",
    "bodies": "FETCH 1:* BODY.PEEK[]",
    "SORT DATE": "SORT (DATE) UTF-8 ALL",
    "SORT SUBJECT": "SORT (SUBJECT) UTF-8 ALL",
    "THREAD": "THREAD REFERENCES UTF-8 ALL",
    "FROM": 'SEARCH FROM "sender77 "',
    "TO": 'SEARCH TO "friend66@example.net"',
    "CC": 'SEARCH CC "Copy55 "',
    "SUBJECT": 'SEARCH SUBJECT "topic 44 of"',
    "SENTSINCE": "SEARCH SENTSINCE 9-Apr-2024",
}


def message_id(number):
    return f"<{number}.{number * 7919 % 100_003}@example.org>"


def message(number):
    """About 3.5 KiB with an attachment; the fields differ from message to message. Of five messages the last four
    answer those before, in a thread."""
    hundredth = number % 100
    first, place = number - number % 5, number % 5
    references = " ".join(message_id(it) for it in range(first, number))
    threading = f"In-Reply-To: {message_id(number - 1)}\r\nReferences: {references}\r\n" if place else ""
    date = email.utils.formatdate(NEW_YEAR + hundredth * DAY)
    head = (
        f"From: Sender{hundredth} Surname <s{number}@example.org>\r\n"
        f"To: Alice <alice@demo.test>, Friend <friend{hundredth}@example.net>\r\n"
        f"Cc: Copy{hundredth} of it <copy{number}@example.com>\r\n"
        f"Subject: message number {number}, topic {hundredth} of many\r\nDate: {date}\r\n"
        f"Message-ID: {message_id(number)}\r\n{threading}MIME-Version: 1.0\r\n"
        "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\n"
    )
    tail = "--b\r\nContent-Type: application/pdf; name=a.pdf\r\n\r\nabc\r\n--b--\r\n"
    return (head + ("y" * 70 + "\r\n") * 45 + tail).encode()


def deliver(port, count):
    """Delivers by LMTP, one message after the other."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    replies = connection.makefile("rb")

    def expect(code):
        while True:
            line = replies.readline()
            if line[3:4] == b" ":
                assert line.startswith(code), line
                return

    expect(b"220")
    connection.sendall(b"LHLO bench\r\n")
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
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=600)
        self.command("LOGIN alice@demo.test demo")
        self.command("SELECT INBOX")

    def command(self, text):
        """Milliseconds to the tagged OK, and the first 64 KiB of the answer."""
        started, tail, answer = time.monotonic(), b"", b""
        self.socket.sendall(f"t {text}\r\n".encode())
        while b"\r\nt OK" not in b"\r\n" + tail:
            piece = self.socket.recv(1 << 20)
            assert piece, "closed"
            tail = (tail + piece)[-4000:]
            if len(answer) < 1 << 16:
                answer += piece
            assert b"\r\nt NO" not in tail and b"\r\nt BAD" not in tail, tail
        return 1000 * (time.monotonic() - started), answer

    def close(self):
        self.socket.sendall(b"t LOGOUT\r\n")
        while self.socket.recv(1 << 16):
            pass
        self.socket.close()


def drop_page_cache():
    os.sync()
    pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")


def cpu_milliseconds(task):
    try:
        return int((task / "schedstat").read_text().split()[0]) / 1e6
    except FileNotFoundError:
        return 0


@contextlib.contextmanager
def ringmail(count):
    os.sched_setaffinity(0, {0})
    with Demo("--shards", "1", "--set", "store.checkpoint_interval=16MiB") as demo:
        os.sched_setaffinity(0, {1})
        deliver(demo.port["lmtp"], count)
        # The server writes a checkpoint when it stops: all messages get cards.
        demo.stop()
        os.sched_setaffinity(0, {0})
        demo.start()
        os.sched_setaffinity(0, {1})
        tasks = pathlib.Path(f"/proc/{demo.process.pid}/task")
        yield demo.port["imap"], lambda: sum(map(cpu_milliseconds, tasks.iterdir()))


@contextlib.contextmanager
def dovecot(count):
    directory, base = tempfile.mkdtemp(prefix="ringmail-beside-"), free_port_base()
    cgroup = beside_dovecot.Cgroup("cards")
    server = beside_dovecot.start_dovecot(directory, base, cgroup)
    try:
        time.sleep(2)
        beside_dovecot.append(base + 143, "alice@demo.test", map(message, range(count)))
        yield base + 143, lambda: 1000 * cgroup.cpu_seconds()
    finally:
        server.terminate()
        server.wait()
        cgroup.close()
        shutil.rmtree(directory, ignore_errors=True)


def found(answer):
    """What is told of a SEARCH, SORT or THREAD: all, or its beginning, which was kept of it."""
    for line in answer.split(b"\r\n"):
        if line.startswith((b"* SEARCH", b"* SORT", b"* THREAD")):
            return line[:60_000].rstrip()
    return None


def measure(servers, rounds, cold, by_cpu):
    """Milliseconds by (server, command, state)."""
    figures = {}

    def timed(client, name, command):
        _, cpu = servers[name]
        before = cpu()
        took, answer = client.command(command)
        # What is done right after the answer counts, too.
        time.sleep(0.002)
        return (cpu() - before if by_cpu else took), answer

    clients = {name: Imap(port) for name, (port, _) in servers.items()}
    for name in servers:
        for key, command in COMMANDS.items():
            figures[name, key, "first"] = [timed(clients[name], name, command)[0]]
    # Lets background work of both servers finish, such as cards for more messages.
    time.sleep(5)
    for key, command in COMMANDS.items():
        answers = {}
        for name in servers:
            clients[name].command(command)
        for _ in range(rounds):
            for name in servers:
                # Background work of one server must not slow down the other.
                time.sleep(0.02)
                took, answer = timed(clients[name], name, command)
                figures.setdefault((name, key, "warm"), []).append(took)
                answers[name] = found(answer)
        assert len(set(map(str, answers.values()))) == 1, f"{key}: the servers differ"
    for client in clients.values():
        client.close()
    for key, command in COMMANDS.items() if cold else ():
        for _ in range(rounds):
            for name, (port, _) in servers.items():
                drop_page_cache()
                client = Imap(port)
                figures.setdefault((name, key, "cold"), []).append(timed(client, name, command)[0])
                client.close()
    return figures


def floor(count, rounds, cold):
    """Milliseconds in which the octets of all messages go from a file to the client, by state."""
    listener = socket.create_server(("127.0.0.1", 0))
    with tempfile.NamedTemporaryFile(prefix="ringmail-floor-") as file:
        for number in range(count):
            file.write(message(number))
        file.flush()
        child = os.fork()
        if child == 0:
            send_file(listener, file.fileno())
            os._exit(0)
        figures = {}
        client = socket.create_connection(listener.getsockname(), timeout=60)
        size = os.fstat(file.fileno()).st_size
        for state in ("warm", "cold") if cold else ("warm",):
            for _ in range(rounds + 1):
                if state == "cold":
                    drop_page_cache()
                time.sleep(0.02)
                started, left, tail = time.monotonic(), size, b""
                client.sendall(b"x")
                while left:
                    piece = client.recv(1 << 20)
                    assert piece, "closed"
                    tail = (tail + piece)[-4000:]
                    left -= len(piece)
                figures.setdefault(state, []).append(1000 * (time.monotonic() - started))
        client.close()
        os.waitpid(child, 0)
    return {state: statistics.median(took[1:]) for state, took in figures.items()}


def send_file(listener, file):
    os.sched_setaffinity(0, {0})
    client, _ = listener.accept()
    buffer = memoryview(bytearray(1 << 18))
    while client.recv(1):
        offset = 0
        while size := os.preadv(file, [buffer], offset):
            client.sendall(buffer[:size])
            offset += size


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--alone", action="store_true", help="without Dovecot")
    parser.add_argument("--cpu", action="store_true", help="the servers' CPU")
    arguments = parser.parse_args()
    cold = os.geteuid() == 0
    makers = {"ringmail": ringmail} | ({} if arguments.alone else {"dovecot": dovecot})
    with contextlib.ExitStack() as stack:
        servers = {}
        for name, start in makers.items():
            servers[name] = stack.enter_context(start(arguments.messages))
        figures = measure(servers, arguments.rounds, cold, arguments.cpu)
    states = ("first", "warm", "cold") if cold else ("first", "warm")
    unit = "ms of CPU" if arguments.cpu else "ms"
    print(f"{arguments.messages} messages, {unit}, medians of {arguments.rounds}, first: of one")
    print(f"{'':14}" + "".join(f" {state:>9} {'Dovecot':>9} {'ratio':>6}" for state in states))
    for key in COMMANDS:
        row = f"{key:14}"
        for state in states:
            ours = statistics.median(figures["ringmail", key, state])
            theirs = statistics.median(figures.get(("dovecot", key, state), [float("nan")]))
            row += f" {ours:9.1f} {theirs:9.1f} {theirs / ours:6.1f}"
        print(row)
    figures = floor(arguments.messages, arguments.rounds, cold)
    print("the floor of bodies: " + ", ".join(f"{state} {took:.1f}" for state, took in figures.items()))


if __name__ == "__main__":
    main()
