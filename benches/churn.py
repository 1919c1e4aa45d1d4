#!/usr/bin/env python3
"""Space and latency under churn: the size of a log that never overwrites, and the cost of compaction.

Fills a partition, then ROUNDS times expunges every message of a third of its mailboxes (garbage in every
segment, two thirds of each still live: the worst case for compaction) and delivers as many new ones.
Prints the bytes on disk beside the bytes that the live messages took when they were first written.
Then measures deliveries at a fixed rate (open loop, from the intended start) with compaction off, while a
backlog of garbage is compacted, and while `ringmail verify` runs repeatedly.

    cargo build --release && benches/churn.py [--messages 200000] [--mailboxes 1000] [--rounds 6]
"""

import argparse
import imaplib
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests/clients"))
from demo import BINARY, Demo, RINGLOAD  # noqa: E402

imaplib._MAXLINE = 1 << 26
OFF = ["--set", "store.garbage_share=0"]


def metric(demo, name):
    text = urllib.request.urlopen(f"http://127.0.0.1:{demo.port['admin']}/metrics").read().decode()
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines()
               if line.startswith(name + "{") or line.startswith(name + " "))


def log_bytes(directory):
    """Bytes of the partition's segments."""
    return sum(path.stat().st_size for path in pathlib.Path(directory).glob("partition-*/segment-*"))


def deliver(demo, count, size, mailboxes):
    subprocess.run([RINGLOAD, "smtp", "--address", f"127.0.0.1:{demo.port['smtp']}", "--quiet",
                    "--messages", str(count), "--size", str(size), "--recipients", str(mailboxes)],
                   check=True, stdout=subprocess.DEVNULL)


def empty(demo, users):
    """Expunges everything in the INBOX of `users`; returns how many messages there were."""
    removed = 0
    for user in users:
        imap = imaplib.IMAP4("127.0.0.1", demo.port["imap"])
        imap.login(f"user{user}@demo.test", "demo")
        removed += int(imap.select()[1][0])
        imap.store("1:*", "+FLAGS.SILENT", "(\\Deleted)")
        imap.expunge()
        imap.logout()
    return removed


def settle(demo, directory):
    """Waits until compaction is idle: no change on disk for three seconds."""
    before, since = log_bytes(directory), time.monotonic()
    while time.monotonic() - since < 3:
        time.sleep(0.5)
        now = log_bytes(directory)
        if now != before:
            before, since = now, time.monotonic()
    return before


def latency(demo, rate, seconds, size, mailboxes):
    with tempfile.NamedTemporaryFile() as out:
        subprocess.run([RINGLOAD, "smtp", "--address", f"127.0.0.1:{demo.port['smtp']}", "--quiet",
                        "--rate", str(rate), "--duration", f"{seconds}s", "--size", str(size),
                        "--recipients", str(mailboxes), "--json", out.name],
                       check=True, stdout=subprocess.DEVNULL)
        return json.load(out)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--mailboxes", type=int, default=1000)
    parser.add_argument("--size", type=int, default=4096, help="octets a message")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--rate", type=int, default=2000, help="deliveries a second while cleaning")
    parser.add_argument("--seconds", type=int, default=20, help="of deliveries while cleaning")
    parser.add_argument("--dir", help="where the data goes (default: a temporary directory)")
    arguments = parser.parse_args()
    directory = tempfile.mkdtemp(prefix="ringmail-churn-", dir=arguments.dir)
    options = ["--users", arguments.mailboxes, "--shards", 1, "--partitions", 1]
    third = arguments.mailboxes // 3
    try:
        with Demo(*options, directory=directory) as demo:
            deliver(demo, arguments.messages, arguments.size, arguments.mailboxes)
            full = settle(demo, directory)
            print(f"{arguments.messages} messages of {arguments.size} octets: {full / 1e6:.0f} MB "
                  f"({full / arguments.messages:.0f} bytes each)")
            print(f"{'round':>5} {'expunged':>9} {'peak MB':>8} {'at rest MB':>10} {'of live':>8}")
            for number in range(arguments.rounds):
                first = number % 3 * third + 1
                removed = empty(demo, range(first, first + third))
                deliver(demo, removed, arguments.size, arguments.mailboxes)
                peak = log_bytes(directory)
                rest = settle(demo, directory)
                print(f"{number + 1:5} {removed:9} {peak / 1e6:8.0f} {rest / 1e6:10.0f} "
                      f"{rest / full:8.2f}", flush=True)
            written = metric(demo, "ringmail_store_written_bytes_total")
            rewritten = metric(demo, "ringmail_store_compacted_bytes_total")
            print(f"written by the log {written / 1e6:.0f} MB, again by compaction {rewritten / 1e6:.0f} MB")

        print(f"\ndeliveries at {arguments.rate}/s for {arguments.seconds} s, latency in ms")
        # Frequent checks and a low threshold: compaction runs most of the time.
        often = ["--set", "store.checkpoint_interval=16MiB"]
        soon = ["--set", "store.garbage_share=10"]
        for name, extra in (("compaction off", OFF), ("while a third of the log is cleaned", soon)):
            with Demo(*options, *OFF, directory=directory) as demo:
                empty(demo, range(1, third + 1))
                deliver(demo, arguments.messages // 3, arguments.size, arguments.mailboxes)
            with Demo(*options, *often, *extra, directory=directory) as demo:
                before = log_bytes(directory)
                result = latency(demo, arguments.rate, arguments.seconds, arguments.size,
                                 arguments.mailboxes)
                deleted = metric(demo, "ringmail_store_segments_deleted_total")
                print(f"{name:38} {summary(result)}  segments cleaned away: {deleted:.0f} "
                      f"({(log_bytes(directory) - before) / 1e6:+.0f} MB)", flush=True)
        with Demo(*options, *OFF, directory=directory) as demo:
            rounds, ended = [], threading.Event()

            def verify():
                while not ended.is_set():
                    subprocess.run([BINARY, "verify", "--dir", directory], check=True,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                    rounds.append(log_bytes(directory))
            verifier = threading.Thread(target=verify)
            verifier.start()
            result = latency(demo, arguments.rate, arguments.seconds, arguments.size,
                             arguments.mailboxes)
            ended.set()
            verifier.join()
            print(f"{'while it is verified':38} {summary(result)}  verified {len(rounds)} times, "
                  f"{rounds[-1] / 1e6:.0f} MB", flush=True)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def summary(result):
    """Percentiles of ringload's JSON."""
    operation = result["operations"][0]
    return "  ".join(f"{key} {operation[key + '_us'] / 1e3:.2f}"
                     for key in ("p50", "p90", "p99", "p999", "max"))


if __name__ == "__main__":
    main()
