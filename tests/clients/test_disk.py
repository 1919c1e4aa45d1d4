"""A real disk that is full, fails or does not answer: new mail is refused meanwhile, everything else
goes on, and mail is taken again without a restart. On a small ext4 image; mounting it needs root."""

import imaplib
import os
import pathlib
import poplib
import shutil
import smtplib
import subprocess
import tempfile
import threading
import time
import unittest
import urllib.error
import urllib.request

from demo import Demo

SIZE = 192 << 20
# Small segments, so that compaction has something to free.
SETTINGS = ["--set", "store.segment_size=4MiB", "--set", "store.checkpoint_interval=4MiB",
            "--set", "store.reserve=4MiB", "--set", "store.free_space_min=16MiB",
            "--set", "store.disk_timeout=2s", "--set", "store.compression=off"]


def command(*words):
    subprocess.run([str(word) for word in words], check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)


def can_mount():
    if os.geteuid() != 0 or not shutil.which("mkfs.ext4") or not shutil.which("fsfreeze"):
        return False
    with tempfile.TemporaryDirectory() as folder:
        try:
            with Disk(folder):
                return True
        except subprocess.CalledProcessError:
            return False


class Disk:
    """An ext4 file system in a file, mounted."""

    def __init__(self, folder):
        self.image, self.path = pathlib.Path(folder, "image"), pathlib.Path(folder, "disk")

    def __enter__(self):
        self.image.write_bytes(b"")
        os.truncate(self.image, SIZE)
        command("mkfs.ext4", "-q", "-F", "-m", "0", self.image)
        self.path.mkdir()
        self.mount()
        return self

    def mount(self):
        command("mount", "-o", "loop", self.image, self.path)

    def __exit__(self, *_):
        command("umount", "-l", self.path)


def send(demo, user, size, timeout=60):
    """Sends a message; returns the SMTP code of its refusal, or 250."""
    with smtplib.SMTP("127.0.0.1", demo.port["smtp"], timeout=timeout) as smtp:
        body = os.urandom(size // 2).hex().encode()
        lines = b"\r\n".join(body[at:at + 900] for at in range(0, len(body), 900))
        try:
            smtp.sendmail("a@example.org", [f"user{user}@demo.test"], b"Subject: x\r\n\r\n" + lines)
            return 250
        except smtplib.SMTPRecipientsRefused as error:
            return next(iter(error.recipients.values()))[0]
        except smtplib.SMTPDataError as error:
            return error.smtp_code


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.2)
    return False


def health(demo):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{demo.port['admin']}/healthz") as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def login(demo, user):
    imap = imaplib.IMAP4("127.0.0.1", demo.port["imap"], timeout=60)
    imap.login(f"user{user}@demo.test", "demo")
    return imap


def count(demo, user):
    imap = login(demo, user)
    messages = int(imap.select()[1][0])
    imap.logout()
    return messages


@unittest.skipUnless(can_mount(), "needs root, mkfs.ext4, fsfreeze and loop devices")
class DiskTrouble(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.disk = Disk(self.folder.name)
        self.disk.__enter__()
        self.addCleanup(self.disk.__exit__)
        self.demo = Demo("--users", 2, "--partitions", 1, "--shards", 1, *SETTINGS,
                         directory=str(self.disk.path / "mail"))
        self.addCleanup(self.demo.close)

    def healthy(self):
        return health(self.demo)[0] == 200

    def test_full(self):
        demo = self.demo
        self.assertEqual(send(demo, 2, 10_000), 250)
        stored = 0
        for _ in range(400):
            code = send(demo, 1, 1_000_000)
            if code != 250:
                break
            stored += 1
        self.assertEqual(code, 452, "a temporary error, for want of space")
        self.assertGreater(stored, 50)
        status, text = health(demo)
        self.assertEqual(status, 503)
        self.assertIn("less than store.free_space_min is free", text)
        # Another file takes the rest: writes themselves fail now.
        with open(self.disk.path / "other", "wb") as other:
            try:
                while True:
                    other.write(b"\0" * (1 << 20))
                    other.flush()
            except OSError:
                pass
        self.assertEqual(send(demo, 2, 10_000), 452)
        imap = login(demo, 1)
        self.assertEqual(int(imap.select()[1][0]), stored)
        pop = poplib.POP3("127.0.0.1", demo.port["pop3"], timeout=60)
        pop.user("user2@demo.test")
        pop.pass_("demo")
        self.assertEqual(pop.stat()[0], 1)
        pop.quit()

        def expunge_works():
            imap.store("1:*", "+FLAGS.SILENT", "(\\Deleted)")
            return imap.expunge()[0] == "OK" and int(imap.select()[1][0]) == 0
        self.assertTrue(wait_for(expunge_works), "a full disk cannot be emptied")
        imap.logout()
        os.unlink(self.disk.path / "other")
        self.assertTrue(wait_for(lambda: send(demo, 2, 10_000) == 250), health(demo))
        self.assertTrue(wait_for(self.healthy))
        self.assertTrue(wait_for(lambda: send(demo, 2, 1_000_000) == 250))
        before = count(demo, 2)
        demo.kill()
        demo.start()
        self.assertEqual((count(demo, 1), count(demo, 2)), (0, before))

    def test_writes_fail_and_work_again(self):
        """A folder in which no file can be created: the next segment fails, although there is space
        and the disk answers."""
        demo = self.demo
        partition = self.disk.path / "mail" / "partition-0000"
        self.assertEqual(send(demo, 1, 10_000), 250)
        command("chattr", "+i", partition)
        stored, code = 1, 250
        try:
            while code == 250 and stored < 20:
                code = send(demo, 1, 1_000_000)
                stored += code == 250
            self.assertEqual(code, 451)
            status, text = health(demo)
            self.assertEqual(status, 503, text)
            self.assertEqual(count(demo, 1), stored, "mail can be read")
            time.sleep(3)
            self.assertEqual(send(demo, 1, 10_000), 451)
        finally:
            command("chattr", "-i", partition)
        self.assertTrue(wait_for(lambda: send(demo, 1, 10_000) == 250))
        self.assertTrue(wait_for(self.healthy))
        before = count(demo, 1)
        demo.kill()
        demo.start()
        self.assertEqual(count(demo, 1), before)

    def test_read_only(self):
        """The state of ext4 after a disk error: read-only until it is mounted again."""
        demo = self.demo
        self.assertEqual(send(demo, 1, 10_000), 250)
        command("mount", "-o", "remount,abort", self.disk.path)
        for _ in range(2):
            self.assertEqual(send(demo, 1, 10_000), 451)
            time.sleep(2)
        status, text = health(demo)
        self.assertEqual(status, 503)
        self.assertIn("Read-only file system", text)
        self.assertEqual(count(demo, 1), 1, "mail can be read")
        demo.kill()
        # The kernel closes a killed process's files in the background.
        self.assertTrue(wait_for(lambda: subprocess.run(["umount", self.disk.path]).returncode == 0))
        self.disk.mount()
        demo.start()
        self.assertEqual(count(demo, 1), 1)
        self.assertEqual(send(demo, 1, 10_000), 250)

    def test_a_disk_that_does_not_answer(self):
        demo = self.demo
        self.assertEqual(send(demo, 1, 10_000), 250)
        command("fsfreeze", "--freeze", self.disk.path)
        codes = []
        try:
            waiting = threading.Thread(target=lambda: codes.append(send(demo, 1, 10_000, 120)))
            waiting.start()
            self.assertTrue(wait_for(lambda: health(demo)[0] == 503, 30))
            self.assertIn("does not answer", health(demo)[1])
            self.assertEqual(send(demo, 1, 10_000), 451)
            self.assertEqual(count(demo, 1), 1, "mail can be read")
            self.assertEqual(codes, [], "its outcome is unknown: it waits")
        finally:
            command("fsfreeze", "--unfreeze", self.disk.path)
        waiting.join(60)
        self.assertEqual(codes, [250])
        self.assertTrue(wait_for(self.healthy))
        self.assertEqual(send(demo, 1, 10_000), 250)
        self.assertEqual(count(demo, 1), 3)


if __name__ == "__main__":
    unittest.main(verbosity=2)
