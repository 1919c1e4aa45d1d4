"""`ringmail verify`, `inspect` and `check --dir` on a real data directory: whole, with wrong bits, with
a server running, and repaired."""

import imaplib
import json
import os
import pathlib
import random
import shutil
import smtplib
import subprocess
import tempfile
import time
import unittest

from demo import BINARY, Demo

FLIPS = int(os.environ.get("VERIFY_FLIPS", "50"))
SMALL = ["--set", "store.segment_size=1MiB", "--set", "store.checkpoint_interval=1MiB",
         "--set", "store.compression_min=10KiB", "--partitions", "1", "--users", "8"]


def ringmail(*arguments):
    command = [str(BINARY), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def files(directory):
    found = sorted(pathlib.Path(directory).glob("partition-*/*"))
    return [path for path in found if path.name.startswith(("segment-", "checkpoint-"))]


def deliver(demo):
    with smtplib.SMTP("127.0.0.1", demo.port["smtp"]) as smtp:
        for n in range(300):
            to = ["alice@demo.test", f"user{n % 8 + 1}@demo.test"][: 1 + n % 2]
            text = f"Subject: {n}\r\n\r\n" + f"line {n} of a message\r\n" * (20 + 3 * n)
            smtp.sendmail("me@example.org", to, text)
        # One in pieces.
        text = "Subject: long\r\n\r\n" + "".join(f"line {n} of many\r\n" for n in range(30_000))
        smtp.sendmail("me@example.org", ["alice@demo.test"], text)


def clean_up(demo, user):
    """Deletes two messages of three, and puts one in ten of the rest into a second folder."""
    imap = imaplib.IMAP4("127.0.0.1", demo.port["imap"])
    imap.login(user, "demo")
    imap.create("Kept")
    count = int(imap.select()[1][0])
    for n in range(1, count + 1):
        if n % 3:
            imap.store(str(n), "+FLAGS.SILENT", "(\\Deleted)")
        elif n % 10 == 0:
            imap.copy(str(n), "Kept")
    imap.expunge()
    imap.logout()


def compacted(directory):
    """Segments of a stopped or running server that compaction wrote."""
    shown = ringmail("inspect", "segments", "--dir", directory, "--json")
    return [row for row in json.loads(shown.stdout) if row["layout"] == "compacted"]


def fill(demo):
    """Mail, some of it in compacted segments."""
    for _ in range(3):
        deliver(demo)
        for user in ["alice@demo.test"] + [f"user{n}@demo.test" for n in range(1, 9)]:
            clean_up(demo, user)
    deadline = time.monotonic() + 60
    while not compacted(demo.directory):
        if time.monotonic() > deadline:
            raise RuntimeError("nothing was compacted")
        time.sleep(0.2)


def mail(demo, user):
    """UID to text of INBOX; None if the server reports damage."""
    imap = imaplib.IMAP4("127.0.0.1", demo.port["imap"])
    imap.login(user, "demo")
    imap.select()
    _, (uids,) = imap.uid("SEARCH", "ALL")
    found = {}
    for uid in uids.split():
        answer, data = imap.uid("FETCH", uid, "(BODY.PEEK[])")
        if answer == "NO":
            assert b"CORRUPTION" in data[0] or b"damaged" in data[0], data
            found[uid] = None
        else:
            found[uid] = data[0][1]
    imap.logout()
    return found


def flip(directory, generator, padding=True):
    """Flips a bit anywhere; without `padding`, in a non-zero byte, since most of a log written one
    message at a time is padding."""
    all_files = files(directory)
    sizes = [path.stat().st_size for path in all_files]
    while True:
        at = generator.randrange(sum(sizes))
        for path, size in zip(all_files, sizes):
            if at < size:
                break
            at -= size
        with open(path, "r+b") as file:
            file.seek(at)
            byte = file.read(1)[0]
            if byte == 0 and not padding:
                continue
            bit = generator.randrange(8)
            file.seek(at)
            file.write(bytes([byte ^ 1 << bit]))
            break
    return f"bit {bit} of {at} in {path.name}"


class Verify(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = tempfile.mkdtemp(prefix="ringmail-verify-")
        demo = Demo(*SMALL, directory=cls.directory)
        fill(demo)
        cls.before = {user: mail(demo, user) for user in ("alice@demo.test", "user1@demo.test")}
        cls.online = ringmail("verify", "--dir", cls.directory)
        demo.stop()

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.directory)

    def copy(self):
        target = tempfile.mkdtemp(prefix="ringmail-verify-")
        self.addCleanup(shutil.rmtree, target, True)
        shutil.copytree(self.directory, target, dirs_exist_ok=True,
                        ignore=shutil.ignore_patterns("control.sock"))
        return target

    def test_whole(self):
        self.assertEqual(self.online.returncode, 0, self.online)
        self.assertIn("0 damaged place(s)", self.online.stdout)
        offline = ringmail("verify", "--dir", self.directory)
        self.assertEqual(offline.returncode, 0, offline)
        check = ringmail("check", "--dir", self.directory)
        self.assertEqual(check.returncode, 0, check)

    def test_inspect(self):
        segments = ringmail("inspect", "segments", "--dir", self.directory, "--json")
        rows = json.loads(segments.stdout)
        self.assertGreater(len(rows), 2)
        name = f"0/{rows[0]['segment']}"
        for what in (["entries", name], ["batches", name], ["checkpoint"],
                     ["account", "alice@demo.test"]):
            shown = ringmail("inspect", *what, "--dir", self.directory)
            self.assertEqual(shown.returncode, 0, shown)
            self.assertGreater(len(shown.stdout.splitlines()), 1, what)

    def test_every_wrong_bit_is_found_and_stops_nothing(self):
        for seed in range(FLIPS):
            target = self.copy()
            what = flip(target, random.Random(seed), padding=seed % 4 == 0)
            found = ringmail("verify", "--dir", target, "--json", f"{target}/result.json")
            self.assertEqual(found.returncode, 1, (what, found))
            with open(f"{target}/result.json") as result:
                self.assertTrue(json.load(result)["findings"], what)
            if seed % 2:
                repaired = ringmail("verify", "--dir", target, "--repair")
                self.assertEqual(repaired.returncode, 1, (what, repaired))
            demo = Demo(*SMALL, directory=target)
            online = ringmail("verify", "--dir", target)
            self.assertIn(online.returncode, (0, 1), online)
            for user, before in self.before.items():
                after = mail(demo, user)
                lost = [uid for uid, text in before.items() if after.get(uid) != text]
                self.assertLessEqual(len(lost), 1, what)
                self.assertTrue(all(after.get(uid) is None for uid in lost), what)
            self.assertEqual(demo.stop(), 0)


if __name__ == "__main__":
    unittest.main()
