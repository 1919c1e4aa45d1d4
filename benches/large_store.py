#!/usr/bin/env python3
"""A partition with a million messages: start, memory and latency.

Creates the data set itself: MESSAGES over MAILBOXES accounts by SMTP, a fifth of them into one folder;
1,000 folders in another account. Then, on one shard and one partition, with the page cache dropped
before every start (as root; else the cache stays and the output says so):

  starts     clean, after kill -9, and what they read
  memory     resident at each point; per message of an open folder
  answers    delivery to cold folders, SELECT, STATUS, LIST-STATUS, STORE, first time and again

    cargo build --release && benches/large_store.py [--messages 1000000] [--mailboxes 10000] [--dir DIR]

With --dir the data set is kept and reused by the next run.
"""

import argparse
import imaplib
import os
import pathlib
import shutil
import smtplib
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests/clients"))
from demo import Demo, RINGLOAD  # noqa: E402

imaplib._MAXLINE = 1 << 26
FOLDERS = 1000
MESSAGE = b"From: a@example.org\r\nSubject: x\r\n\r\nhello\r\n"


def drop_cache():
    os.sync()
    try:
        pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")
        return True
    except OSError:
        return False


def disk(directory):
    return sum(path.stat().st_size for path in pathlib.Path(directory).rglob("*") if path.is_file())


class Store:
    """The demo on the data set, and a table of what was measured."""

    def __init__(self, arguments, directory):
        self.arguments = arguments
        self.directory = directory
        self.demo = None

    def start(self, name, drop=True):
        cold = drop and drop_cache()
        self.demo = Demo("--users", self.arguments.mailboxes, "--shards", 1, "--partitions", 1,
                         directory=self.directory)
        self.row(f"{name} ({'cold' if cold else 'warm'} cache)", self.demo.started_in,
                 f"read {self.read_bytes() / 1e6:.1f} MB, resident {self.resident():.0f} MiB")

    def stop(self):
        self.demo.stop()

    def row(self, name, seconds, note=""):
        print(f"{name:58} {seconds * 1e3:10.1f} ms  {note}", flush=True)

    def resident(self):
        return self.demo.memory() / (1 << 20)

    def read_bytes(self):
        """Bytes that the process read, from disk or cache."""
        with open(f"/proc/{self.demo.process.pid}/io") as io:
            return int(io.readline().split()[1])

    def timed(self, name, action):
        resident, read = self.resident(), self.read_bytes()
        begin = time.monotonic()
        result = action()
        elapsed = time.monotonic() - begin
        self.row(name, elapsed, f"read {(self.read_bytes() - read) / 1e3:.0f} kB, "
                                f"resident {self.resident() - resident:+.1f} MiB")
        return result

    def ringload(self, kind, *arguments):
        command = [RINGLOAD, kind, "--address", f"127.0.0.1:{self.demo.port[kind]}", "--quiet",
                   *arguments]
        return subprocess.run([str(word) for word in command], check=True, text=True,
                              stdout=subprocess.PIPE).stdout

    def login(self, user):
        imap = imaplib.IMAP4("127.0.0.1", self.demo.port["imap"])
        imap.login(f"{user}@demo.test", "demo")
        return imap

    def deliver(self, user):
        with smtplib.SMTP("127.0.0.1", self.demo.port["smtp"]) as smtp:
            smtp.sendmail("a@example.org", [f"{user}@demo.test"], MESSAGE)


def fill(store):
    """A fifth of the messages to user1, the rest in turn to everybody; folders for user2."""
    arguments = store.arguments
    store.start("start, empty", drop=False)
    large = arguments.messages // 5
    begin = time.monotonic()
    store.ringload("smtp", "--messages", arguments.messages - large, "--size", arguments.size,
                   "--recipients", arguments.mailboxes)
    store.ringload("smtp", "--messages", large, "--size", arguments.size, "--recipients", 1)
    elapsed = time.monotonic() - begin
    store.row(f"fill: {arguments.messages} messages of {arguments.size} octets", elapsed,
              f"{arguments.messages / elapsed:.0f}/s, resident {store.resident():.0f} MiB")
    imap = store.login("user2")
    for number in range(FOLDERS):
        imap.create(f"folder{number}")
        imap.append(f"folder{number}", None, None, MESSAGE)
    imap.logout()
    store.stop()
    print(f"on disk: {disk(store.directory) / 1e6:.0f} MB")


def starts(store):
    store.start("start after a clean stop")
    store.ringload("smtp", "--messages", 30000, "--size", store.arguments.size,
                   "--recipients", store.arguments.mailboxes)
    store.demo.kill()
    store.start("start after kill -9, 30,000 messages since")
    store.stop()


def cold_deliveries(store, rounds):
    """One delivery each into a folder of a fifth of all messages and into an empty one, both cold."""
    samples = {"user1": [], "alice": []}
    read = {"user1": 0, "alice": 0}
    for _ in range(rounds):
        drop_cache()
        store.demo = Demo("--users", store.arguments.mailboxes, "--shards", 1, directory=store.directory)
        store.deliver("user3")  # the path itself is warm
        for user in samples:
            before, begin = store.read_bytes(), time.monotonic()
            store.deliver(user)
            samples[user].append(time.monotonic() - begin)
            read[user] = store.read_bytes() - before
        store.stop()
    for user, what in (("user1", "the large folder"), ("alice", "an (almost) empty folder")):
        store.row(f"delivery into {what}, cold, median of {rounds}",
                  statistics.median(samples[user]), f"read {read[user] / 1e3:.0f} kB")


def answers(store):
    store.start("start")
    total = store.arguments.messages // 5
    imap = store.timed("LOGIN to the large account", lambda: store.login("user1"))
    store.timed("STATUS of its INBOX", lambda: imap.status("INBOX", "(MESSAGES UNSEEN UIDNEXT)"))
    before = store.demo.memory()
    messages = int(store.timed("SELECT of it, first", lambda: imap.select())[1][0])
    assert messages >= total, messages
    print(f"{'':58} {(store.demo.memory() - before) / messages:10.0f} bytes a message")
    again = store.login("user1")
    store.timed("SELECT of it, another session", lambda: again.select())
    store.timed("STORE 1:100000 +FLAGS.SILENT (\\Seen)",
                lambda: imap.store("1:100000", "+FLAGS.SILENT", "(\\Seen)"))
    imap.logout()
    again.logout()

    imap = store.login("user2")
    store.timed(f"STATUS of {FOLDERS} folders, one by one",
                lambda: [imap.status(f"folder{n}", "(MESSAGES UNSEEN)") for n in range(FOLDERS)])
    store.timed(f"LIST RETURN (STATUS) of {FOLDERS} folders", lambda: imap._simple_command(
        "LIST", '""', '"*"', "RETURN", "(STATUS (MESSAGES UNSEEN))"))
    imap.logout()

    def sweep():
        for number in range(1, store.arguments.mailboxes + 1):
            imap = store.login(f"user{number}")
            imap.select()
            imap.logout()
    store.timed(f"LOGIN and SELECT of all {store.arguments.mailboxes} accounts in turn", sweep)
    print(f"resident at the end: {store.resident():.0f} MiB")
    store.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--mailboxes", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=1024, help="octets a message")
    parser.add_argument("--rounds", type=int, default=5, help="restarts for the cold deliveries")
    parser.add_argument("--dir", help="keep the data set here, and use it if it is there")
    arguments = parser.parse_args()
    directory = arguments.dir or tempfile.mkdtemp(prefix="ringmail-large-")
    store = Store(arguments, directory)
    try:
        if not pathlib.Path(directory, "partition-0000").exists():
            fill(store)
        starts(store)
        cold_deliveries(store, arguments.rounds)
        answers(store)
    finally:
        if store.demo and store.demo.process.poll() is None:
            store.stop()
        if not arguments.dir:
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
