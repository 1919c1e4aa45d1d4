"""Signatures on submitted mail, verified by other programs: dkimpy, and OpenDKIM where it is installed.
The messages are odd on purpose: long lines, empty bodies, white space and blank lines at the end, 8-bit
text, repeated and folded fields.

dkimpy is installed into a virtual environment below target/ at the first run."""

import itertools
import pathlib
import poplib
import re
import shutil
import smtplib
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
import unittest

from demo import BINARY, ROOT, Demo

# Lines of the messages below are longer.
poplib._MAXLINE = 10_000_000

VENV = ROOT / "target" / "dkim-venv"
HEAD = b"From: Alice <alice@demo.test>\r\nTo: bob@demo.test\r\nSubject: odd\r\n"
PLAIN = HEAD + b"Date: Thu, 01 Jan 2026 00:00:00 +0000\r\nMessage-ID: <1@demo.test>\r\n"

MESSAGES = {
    "plain": PLAIN + b"\r\nHello.\r\n",
    "no body": PLAIN + b"\r\n",
    "header only": PLAIN,
    "blank lines only": PLAIN + b"\r\n" + b"\r\n" * 5,
    "white space only": PLAIN + b"\r\n \t \r\n\t\r\n",
    "trailing blank lines": PLAIN + b"\r\nHello.\r\n" + b"\r\n" * 50,
    "trailing white space": PLAIN + b"\r\nHello. \t \r\n \r\nBye.\t\r\n \t\r\n",
    "leading blank lines": PLAIN + b"\r\n\r\n\r\nHello.\r\n",
    "long lines": PLAIN + b"\r\n" + b"x" * 100_000 + b"\r\n" + b"word " * 20_000 + b"\r\n",
    "large": PLAIN + b"\r\n" + b"A line of text, with  two spaces.\r\n" * 60_000,
    "8 bit": PLAIN + "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
             "Content-Transfer-Encoding: 8bit\r\n\r\nGr\u00f6\u00dfe \u4f60\u597d\r\n".encode(),
    "not UTF-8": PLAIN + b"\r\n" + bytes(range(1, 10)) + bytes(range(14, 256)) + b"\r\n",
    # The mailbox gets it in base64, which is what is signed.
    "NUL": PLAIN + b"MIME-Version: 1.0\r\nContent-Transfer-Encoding: binary\r\n\r\na\0b\r\n",
    "dots": PLAIN + b"\r\n.\r\n..\r\n.x\r\n",
    "folded fields": HEAD + b"References: <a@b>\r\n\t<c@d>\r\n  <e@f>\r\nCc:   x@demo.test ,\r\n"
                     b" \t y@demo.test  \r\n\r\nHello.\r\n",
    "a field of white space": HEAD + b"Sender: \r\n \t\r\nReply-To:\r\n\r\nHello.\r\n",
    "repeated fields": HEAD + b"To: carol@demo.test\r\nSubject: again\r\nTO: dave@demo.test\r\n\r\nHello.\r\n",
    "list fields": PLAIN + b"List-Id: <x.demo.test>\r\nList-Unsubscribe: <mailto:x@demo.test>\r\n"
                   b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n\r\nHello.\r\n",
}

VERIFY = """
import sys, dkim
records = dict(line.split("\\t", 1) for line in sys.argv[2].split("\\n"))
def dnsfunc(name, timeout=5):
    return records.get(name.decode().rstrip(".").lower(), "").encode() or None
message = open(sys.argv[1], "rb").read()
count = message.lower().split(b"\\r\\n\\r\\n", 1)[0].count(b"dkim-signature:")
verifier = dkim.DKIM(message, minkey=1024)
def is_right(index):
    try:
        return bool(verifier.verify(index, dnsfunc=dnsfunc))
    except dkim.ValidationError:
        return False
print(count, [is_right(index) for index in range(count)])
"""


def ringmail(*arguments):
    command = [str(BINARY), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def python_with_dkimpy():
    python = VENV / "bin" / "python"
    if not python.exists() or subprocess.run([python, "-c", "import dkim, nacl"]).returncode:
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
        packages = ["dkimpy", "dnspython", "pynacl"]
        subprocess.run([VENV / "bin" / "pip", "install", "-q", *packages], check=True)
    return python


def records(directory):
    """Name and text of each record that `ringmail dkim show` prints."""
    found = {}
    for line in ringmail("dkim", "show", "--dir", directory).stdout.splitlines():
        name, rest = line.split(" ", 1)
        found[name.rstrip(".")] = "".join(rest.split('"')[1::2])
    return found


def only(selector, message):
    """The message without the signatures of other keys."""
    fields = re.findall(rb"DKIM-Signature:.*?\r\n(?![ \t])", message, re.DOTALL)
    for field in fields:
        if b"s=" + selector.encode() + b";" not in field:
            message = message.replace(field, b"", 1)
    return message


class SevenBitHop(socketserver.ThreadingTCPServer):
    """An SMTP server without 8BITMIME that keeps what it gets."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), SevenBitSession)
        self.taken = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def close(self):
        self.shutdown()
        self.server_close()


class SevenBitSession(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"220 hop.test ESMTP\r\n")
        while line := self.rfile.readline():
            verb = line[:4].upper()
            if verb == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                lines = []
                while (line := self.rfile.readline()) != b".\r\n":
                    lines.append(line[1:] if line.startswith(b".") else line)
                self.server.taken.append(b"".join(lines))
            self.wfile.write(b"221 bye\r\n" if verb == b"QUIT" else b"250 fine\r\n")


def maildrop(demo, user):
    """All messages of an account, oldest first, as POP3 sends them."""
    client = poplib.POP3("127.0.0.1", demo.port["pop3"])
    client.user(f"{user}@demo.test")
    client.pass_("demo")
    count = len(client.list()[1])
    messages = [b"\r\n".join(client.retr(number + 1)[1]) + b"\r\n" for number in range(count)]
    client.quit()
    return messages


class Signatures(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.python = python_with_dkimpy()
        cls.demo = Demo()
        cls.addClassCleanup(cls.demo.close)
        directory = cls.demo.directory
        for algorithm in ("rsa", "ed25519"):
            made = ringmail("dkim", "generate", "demo.test", "--algorithm", algorithm, "--dir", directory)
            assert made.returncode == 0, made.stderr
        cls.records = records(directory)
        cls.place = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, cls.place)

    def submit(self, message, sender="alice@demo.test", login=True):
        port = self.demo.port["submission" if login else "smtp"]
        with smtplib.SMTP("127.0.0.1", port) as client:
            client.ehlo("client.test")
            if login:
                client.login("alice@demo.test", "demo")
            client.mail(sender, ["BODY=8BITMIME"])
            client.rcpt("bob@demo.test")
            code, text = client.data(message)
            self.assertEqual(code, 250, text)

    def verified(self, message):
        file = pathlib.Path(self.place) / "message"
        file.write_bytes(message)
        known = "\n".join(f"{name}\t{text}" for name, text in self.records.items())
        done = subprocess.run([self.python, "-c", VERIFY, str(file), known],
                              capture_output=True, text=True)
        return done.stdout.strip() or done.stderr

    def received(self, message, **options):
        """As the last message in bob's maildrop, with what the server put in front of it."""
        self.submit(message, **options)
        return maildrop(self.demo, "bob")[-1]

    def test_dkimpy_verifies_both(self):
        for name, message in MESSAGES.items():
            with self.subTest(name):
                self.assertEqual(self.verified(self.received(message)), "2 [True, True]")

    def test_a_change_is_found(self):
        received = self.received(MESSAGES["plain"])
        for before, after in [(b"Hello.", b"Hullo."), (b"Subject: odd", b"Subject: even"),
                              (b"Subject: odd", b"Subject: odd\r\nSubject: more"),
                              (b"Subject: odd", b"Subject: odd\r\nCc: eve@demo.test")]:
            changed = received.replace(before, after, 1)
            self.assertNotEqual(changed, received)
            self.assertEqual(self.verified(changed), "2 [False, False]", after)

    def test_only_users_mail_is_signed(self):
        received = self.received(MESSAGES["plain"], login=False)
        self.assertNotIn(b"DKIM-Signature", received)
        received = self.received(b"Subject: no From\r\n\r\nHello.\r\n")
        self.assertNotIn(b"DKIM-Signature", received)

    def relayed(self, demo, hop, message, body="8BITMIME", chunked=False):
        """As the hop gets it."""
        count = len(hop.taken)
        with smtplib.SMTP("127.0.0.1", demo.port["submission"]) as client:
            client.ehlo("client.test")
            client.login("alice@demo.test", "demo")
            client.mail("alice@demo.test", ["BODY=" + body])
            client.rcpt("x@far.test")
            if chunked:
                client.send(b"BDAT %d LAST\r\n" % len(message) + message)
                code, text = client.getreply()
            else:
                code, text = client.data(message)
            self.assertEqual(code, 250, text)
        deadline = time.monotonic() + 20
        while len(hop.taken) == count:
            self.assertLess(time.monotonic(), deadline, "nothing was sent")
            time.sleep(0.05)
        return hop.taken[count]

    def test_what_is_converted_is_signed_again(self):
        hop = SevenBitHop()
        self.addCleanup(hop.close)
        with Demo("--smarthost", f"127.0.0.1:{hop.server_address[1]}") as demo:
            shutil.copytree(pathlib.Path(self.demo.directory) / "dkim",
                            pathlib.Path(demo.directory) / "dkim", dirs_exist_ok=True)
            demo.process.send_signal(1)
            time.sleep(0.5)
            large = MESSAGES["8 bit"] + "Gr\u00f6\u00dfe\r\n".encode() * 100_000
            for name, message in [*MESSAGES.items(), ("large 8 bit", large)]:
                with self.subTest(name):
                    sent = self.relayed(demo, hop, message)
                    self.assertTrue(sent.isascii())
                    self.assertEqual(self.verified(sent), "2 [True, True]")
            # BDAT brings line ends as they are.
            head, empty, text = MESSAGES["8 bit"].partition(b"\r\n\r\n")
            ends = {"all": MESSAGES["8 bit"].replace(b"\r\n", b"\n"),
                    "body": head + empty + text.replace(b"\r\n", b"\n"),
                    "header": head.replace(b"\r\n", b"\n") + b"\n\n" + text,
                    "CR": head + empty + text.replace(b"\r\n", b"\r")}
            for (name, message), body in itertools.product(ends.items(), ("8BITMIME", "BINARYMIME")):
                with self.subTest("bare line ends", where=name, body=body):
                    sent = self.relayed(demo, hop, message, body, chunked=True)
                    self.assertTrue(sent.isascii())
                    self.assertEqual(self.verified(sent), "2 [True, True]")
            # A signature that was never ours, or right, is not made right.
            forged = (b"DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=demo.test; s=rsa; t=1;"
                      b" h=from; bh=AAAA; b=AAAA\r\n") + MESSAGES["8 bit"]
            sent = self.relayed(demo, hop, forged)
            self.assertEqual(self.verified(sent), "3 [True, True, False]")
            self.assertNotIn(b"\r\nReturn-Path:", b"\r\n" + sent)
            # Without keys nothing is signed.
            shutil.rmtree(pathlib.Path(demo.directory) / "dkim")
            demo.process.send_signal(1)
            time.sleep(0.5)
            self.assertNotIn(b"DKIM-Signature", self.relayed(demo, hop, MESSAGES["8 bit"]))

    @unittest.skipUnless(shutil.which("opendkim"), "OpenDKIM is not installed")
    def test_opendkim_verifies(self):
        place = pathlib.Path(self.place)
        keys = "".join(f"{name} {text}\n" for name, text in self.records.items())
        (place / "keys").write_text(keys)
        (place / "conf").write_text(f"Mode v\nTestPublicKeys {place}/keys\nSyslog no\n")
        for name, message in MESSAGES.items():
            received = self.received(message)
            for selector in ("rsa", "ed25519"):
                with self.subTest(name, selector=selector):
                    # It is content with one right signature, so it gets one.
                    (place / "message").write_bytes(only(selector, received))
                    command = ["opendkim", "-x", str(place / "conf"), "-t", str(place / "message")]
                    done = subprocess.run(command, capture_output=True, text=True)
                    self.assertRegex(done.stdout + done.stderr,
                                     rf"verification \(s={selector}, d=demo.test, .*\) succeeded")

    def test_keys_are_changed_while_the_server_runs(self):
        with Demo() as demo:
            other, self.demo = self.demo, demo
            self.addCleanup(setattr, self, "demo", other)
            self.assertNotIn(b"DKIM-Signature", self.received(MESSAGES["plain"]))
            for selector, count in [("one", 1), ("two", 2)]:
                done = ringmail("dkim", "generate", "demo.test", "--selector", selector,
                                "--algorithm", "ed25519", "--dir", demo.directory)
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertEqual(self.received(MESSAGES["plain"]).count(b"DKIM-Signature:"), count)
            folder = pathlib.Path(demo.directory) / "dkim"
            (folder / "one._domainkey.demo.test.pem").write_text("no key")
            demo.process.send_signal(1)
            time.sleep(0.5)
            received = self.received(MESSAGES["plain"])
            self.assertEqual(received.count(b"DKIM-Signature:"), 2, "the old keys stay in force")
            (folder / "one._domainkey.demo.test.pem").unlink()
            demo.process.send_signal(1)
            time.sleep(0.5)
            received = self.received(MESSAGES["plain"])
            self.assertEqual(received.count(b"DKIM-Signature:"), 1)
            self.assertIn(b"s=two;", received)


if __name__ == "__main__":
    unittest.main()
