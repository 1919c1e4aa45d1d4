"""kill -9 under ringload: every acknowledged message is there afterwards, once; with small segments and
checkpoints and half of the mail expunged, so that checkpoints and compaction happen constantly."""

import collections
import imaplib
import os
import pathlib
import random
import subprocess
import tempfile
import threading
import time
import unittest
import urllib.request

from demo import Demo, RINGLOAD

imaplib._MAXLINE = 1 << 26
ROUNDS = int(os.environ.get("KILL_ROUNDS", "20"))
USERS = 10
HEADER = "(UID BODY.PEEK[HEADER.FIELDS (X-RINGLOAD)])"
SMALL = ["--set", "store.segment_size=1MiB", "--set", "store.checkpoint_interval=1MiB",
         "--set", "store.garbage_share=10", "--set", "store.compression_min=1KiB"]
# Accounts whose mail is expunged as it arrives; in the first one, only part of it.
EDITED = range(1, 6)
# (connections, octets, recipients a message): short messages to one, longer ones to three of the four
# partitions, and some that are sent in chunks.
LOADS = [(16, 1000, 1), (8, 9000, 3), (2, 600_000, 2)]


class Editor(threading.Thread):
    """Flags and expunges one account's messages until the server is gone; records what was acknowledged
    and what was in flight."""

    def __init__(self, demo, user):
        super().__init__(daemon=True)
        self.demo, self.user = demo, user
        self.flagged, self.expunged, self.in_doubt = set(), {}, {}

    def run(self):
        try:
            imap = login(self.demo, self.user)
            while True:
                imap.select()
                _, (found,) = imap.uid("SEARCH", "UNKEYWORD", "kept")
                uids = found.split()
                if not uids:
                    time.sleep(0.01)
                    continue
                chosen = random.sample(uids, min(len(uids), 6 if self.user == 1 else 300))
                kept, gone = chosen[:3], chosen[3:]
                self.in_doubt = tokens_of(imap.uid("FETCH", b",".join(chosen), HEADER)[1])
                for uid in kept:
                    del self.in_doubt[int(uid)]
                imap.uid("STORE", b",".join(kept), "+FLAGS", "(kept)")
                self.flagged.update(map(int, kept))
                if gone:
                    imap.uid("STORE", b",".join(gone), "+FLAGS.SILENT", "(\\Deleted)")
                    imap.uid("EXPUNGE", b",".join(gone))
                    self.expunged.update(self.in_doubt)
        except (OSError, imaplib.IMAP4.error, imaplib.IMAP4.abort):
            pass


def compactions(demo):
    """Cycles that the running server has finished."""
    url = f"http://127.0.0.1:{demo.port['admin']}/metrics"
    with urllib.request.urlopen(url, timeout=20) as answer:
        return sum(float(line.rsplit(" ", 1)[1]) for line in answer.read().decode().splitlines()
                   if line.startswith("ringmail_store_compactions_total{"))


def login(demo, user):
    imap = imaplib.IMAP4("127.0.0.1", demo.port["imap"], timeout=20)
    imap.login(f"user{user}@demo.test", "demo")
    return imap


def tokens_of(data):
    """A FETCH's answer as {uid: token}."""
    found = {}
    for part in data:
        if isinstance(part, tuple):
            uid = int(part[0].split(b"UID ")[1].split()[0])
            found[uid] = part[1].decode().partition(":")[2].strip()
    return found


def read(demo, user):
    """The account's INBOX: {uid: token}, and the UIDs with the keyword."""
    imap = login(demo, user)
    imap.select(readonly=True)
    tokens = tokens_of(imap.fetch("1:*", HEADER)[1])
    _, (kept,) = imap.uid("SEARCH", "KEYWORD", "kept")
    imap.logout()
    return tokens, set(map(int, kept.split()))


class Kill(unittest.TestCase):
    def test_none_lost_none_twice(self):
        with tempfile.TemporaryDirectory() as folder, \
                Demo("--shards", "2", "--users", str(USERS), *SMALL) as demo:
            ledger = pathlib.Path(folder, "ledger")
            edits = {user: (set(), {}, {}) for user in EDITED}
            cycles = 0
            for _ in range(ROUNDS):
                loads = [subprocess.Popen(
                    [RINGLOAD, "smtp", "--address", f"127.0.0.1:{demo.port['smtp']}", "--quiet",
                     "--connections", str(connections), "--size", str(size), "--duration", "30s",
                     "--recipients", str(USERS), "--recipients-per-message", str(recipients),
                     "--ledger", ledger], stdout=subprocess.DEVNULL)
                    for connections, size, recipients in LOADS]
                editors = [Editor(demo, user) for user in EDITED]
                for editor in editors:
                    editor.start()
                time.sleep(random.uniform(0.1, 0.8))
                cycles += compactions(demo)
                demo.kill()
                for load in loads:
                    self.assertEqual(load.wait(40), 1, "ringload says that the server went away")
                for editor in editors:
                    editor.join(30)
                    flagged, expunged, in_doubt = edits[editor.user]
                    flagged |= editor.flagged
                    expunged |= editor.expunged
                    in_doubt |= editor.in_doubt
                demo.start()
            self.check(demo, ledger, edits)
            print(f"{cycles:.0f} cycles of compaction before the kills")
            self.assertGreater(cycles, 0, "nothing was compacted: the test is weaker than it says")

    def check(self, demo, ledger, edits):
        acknowledged, possible = collections.defaultdict(set), collections.defaultdict(set)
        count = 0
        for line in ledger.read_text().splitlines():
            outcome, token, recipients = line.split()
            count += outcome == "250"
            for recipient in recipients.split(","):
                user = int(recipient.removeprefix("user").partition("@")[0])
                possible[user].add(token)
                if outcome == "250":
                    acknowledged[user].add(token)
        total = removed = 0
        for user in range(1, USERS + 1):
            messages, kept = read(demo, user)
            tokens = list(messages.values())
            twice = [token for token, times in collections.Counter(tokens).items() if times > 1]
            self.assertEqual(twice, [], f"user{user} has messages twice")
            self.assertEqual(set(tokens) - possible[user], set(), f"user{user} has strangers")
            lost = acknowledged[user] - set(tokens)
            if user in edits:
                flagged, expunged, in_doubt = edits[user]
                removed += len(expunged)
                self.assertEqual(set(expunged) & set(messages), set(), "expunged and back again")
                self.assertEqual(flagged - kept, set(), "a flag was lost")
                lost -= {*expunged.values(), *in_doubt.values()}
            self.assertEqual(lost, set(), f"user{user} lost mail")
            total += len(tokens)
        print(f"{ROUNDS} kills, {count} messages acknowledged, {total} in mailboxes, "
              f"{removed} expunged meanwhile")
        self.assertGreater(total, ROUNDS * 100)
        self.assertGreater(removed, ROUNDS)


if __name__ == "__main__":
    unittest.main(verbosity=2)
