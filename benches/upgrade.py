#!/usr/bin/env python3
"""A data directory of an older format under today's binary: start-up times, and kill -9 during the upgrade.

An older binary makes the data set: MESSAGES over MAILBOXES accounts, a fifth of them in one folder, with
flags set and messages expunged; it is killed, so that a start has to replay. Then today's binary starts on it
repeatedly and is killed after longer and longer times, while mail is delivered and expunged, checkpoints are
written and compaction runs. At the end everything that the older binary showed must be there (a digest of UIDs,
flags, dates, sizes and some bodies of many accounts), and `verify` must find nothing.

    benches/upgrade.py --before OLDER/ringmail [--messages 1000000] [--mailboxes 10000] [--dir DIR]
"""

import argparse
import hashlib
import imaplib
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests/clients"))
import demo as clients  # noqa: E402

imaplib._MAXLINE = 1 << 26
# The body of every 97th message is compared.
BODY_OF = 97
# Frequent checkpoints and early compaction, so that the kills interrupt them.
EAGER = ["--set", "store.checkpoint_interval=8 MiB", "--set", "store.garbage_share=10"]


def start(binary, arguments, directory, *more):
    clients.BINARY = binary
    return clients.Demo("--users", arguments.mailboxes, "--shards", 1, "--partitions", 1, *more,
                        directory=directory)


def load(server, messages, recipients):
    command = [clients.RINGLOAD, "smtp", "--address", f"127.0.0.1:{server.port['smtp']}", "--quiet",
               "--messages", messages, "--size", 1024, "--recipients", recipients]
    return subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL)


def login(server, user):
    imap = imaplib.IMAP4("127.0.0.1", server.port["imap"])
    imap.login(f"{user}@demo.test", "demo")
    return imap


def digest(server, users, last):
    """What clients see of some accounts, up to a UID: flags, dates and sizes of all, bodies of a few."""
    seen = {}
    for user in users:
        imap = login(server, user)
        imap.select(readonly=True)
        lines = imap.uid("fetch", f"1:{last}", "(UID FLAGS INTERNALDATE RFC822.SIZE)")[1]
        by_uid = {}
        for line in filter(None, lines):
            # Without sequence numbers (they follow from the UIDs) and \Recent (the first session gets it).
            uid, flags, rest = re.search(rb"UID (\d+) FLAGS \((.*?)\) (.*)", line).groups()
            by_uid[int(uid)] = [sorted(set(flags.split()) - {b"\\Recent"}), rest]
        for uid in (uid for uid in by_uid if uid % BODY_OF == 1):
            body = imap.uid("fetch", str(uid), "(BODY.PEEK[])")[1][0][1]
            by_uid[uid].append(hashlib.sha256(body).hexdigest())
        seen[user] = by_uid
        imap.logout()
    return seen


def compared(arguments):
    """UIDs up to this one are neither changed nor expunged."""
    return arguments.messages // 50


def fill(arguments, directory):
    """Returns what the older binary shows of one account in a hundred and of the large one."""
    server = start(arguments.before, arguments, directory)
    large = arguments.messages // 5
    begin = time.monotonic()
    for messages, recipients in ((arguments.messages - large, arguments.mailboxes), (large, 1)):
        if load(server, messages, recipients).wait() != 0:
            raise RuntimeError("the load failed")
    users = ["user1", *(f"user{n}" for n in range(2, arguments.mailboxes, 100))]
    for user in users:
        imap = login(server, user)
        imap.select()
        imap.store("1:20", "+FLAGS", "(\\Flagged $older)")
        imap.store("5:9", "+FLAGS", "(\\Deleted)")
        imap.expunge()
        imap.logout()
    seen = digest(server, users, compared(arguments))
    server.kill()
    print(f"{arguments.messages} messages by the older binary in {time.monotonic() - begin:.0f} s; killed")
    return seen


def formats(directory):
    told = subprocess.run([str(arguments_binary()), "check", "--dir", directory], check=True,
                          capture_output=True, text=True).stdout
    return told.strip().split(": ")[1]


def arguments_binary():
    return clients.ROOT / "target/release/ringmail"


def first_answer(server):
    begin = time.monotonic()
    imap = login(server, "user1")
    imap.select(readonly=True)
    imap.fetch("1:10", "(FLAGS BODY.PEEK[])")
    imap.logout()
    return time.monotonic() - begin


def missing(before, now):
    """Messages that have changed. New messages do not count."""
    return [(user, uid, line, now[user].get(uid))
            for user, messages in before.items()
            for uid, line in messages.items()
            if now[user].get(uid) != line]


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=pathlib.Path, required=True, help="the older binary")
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--mailboxes", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dir", help="where to make the data set; kept")
    arguments = parser.parse_args()
    directory = arguments.dir or tempfile.mkdtemp(prefix="ringmail-upgrade-")
    choices = random.Random(arguments.seed)
    try:
        before = fill(arguments, directory)
        for kill in range(arguments.kills):
            server = start(arguments_binary(), arguments, directory, *EAGER)
            answered = first_answer(server)
            # Mail is delivered, some of the older mail is expunged.
            driver = load(server, arguments.messages // 10, max(arguments.mailboxes // 3, 1))
            imap = login(server, f"user{3 + kill}")
            imap.select()
            imap.store("1:30", "+FLAGS.SILENT", "(\\Deleted)")
            imap.expunge()
            # Most of the large folder is expunged piece by piece: the older segments need compaction.
            imap = login(server, "user1")
            imap.select()
            step = (arguments.messages // 5 - compared(arguments)) // arguments.kills
            first = compared(arguments) + kill * step + 1
            imap.uid("store", f"{first}:{first + step}", "+FLAGS.SILENT", "(\\Deleted)")
            imap.expunge()
            alive = choices.uniform(0, 1 + kill)
            time.sleep(alive)
            server.kill()
            driver.wait()
            print(f"start {kill + 1:2}: ready in {server.started_in:.2f} s, first FETCH in "
                  f"{answered * 1e3:.0f} ms, killed {alive:.2f} s later; {formats(directory)}",
                  flush=True)
        server = start(arguments_binary(), arguments, directory, *EAGER)
        lost = missing(before, digest(server, list(before), compared(arguments)))
        server.stop()
        print(f"after a clean stop: {formats(directory)}")
        command = [str(arguments_binary()), "verify", "--dir", directory]
        verified = subprocess.run(command, capture_output=True, text=True)
        print(verified.stdout.strip())
        checked = sum(len(messages) for messages in before.values())
        print(f"{checked} messages of {len(before)} accounts compared: {len(lost)} are not as they were")
        for user, uid, line, found in lost[:10]:
            print(f"  {user} UID {uid}: {line!r} before, {found!r} now")
        sys.exit(1 if lost or verified.returncode else 0)
    finally:
        if not arguments.dir:
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
