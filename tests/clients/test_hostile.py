"""Bad input: each gets the protocol's answer or a close, memory stays bounded, and another client is
served meanwhile."""

import socket
import ssl
import threading
import time
import unittest

from demo import Demo

MIB = 1 << 20
# Memory that one attack may cost the server, above what it used before.
MEMORY_BOUND = 48 * MIB
# How long another client may wait.
BYSTANDER_SECONDS = 1.0


class Line:
    """A raw client: lines out, lines in."""

    def __init__(self, port, greeting=True):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.file = self.socket.makefile("rb")
        if greeting:
            self.greeting = self.file.readline()

    def send(self, data):
        self.socket.sendall(data)

    def send_or_closed(self, data):
        """Sends; False if the server has closed the connection."""
        try:
            self.socket.sendall(data)
            return True
        except OSError:
            return False

    def line(self):
        try:
            return self.file.readline()
        except OSError:
            return b""

    def reply(self):
        """One SMTP reply, all its lines."""
        text = b""
        while True:
            line = self.line()
            text += line
            if len(line) < 4 or line[3:4] != b"-":
                return text

    def tagged(self, tag):
        text = b""
        while True:
            line = self.line()
            text += line
            if not line or line.startswith(tag + b" "):
                return text

    def rest(self):
        """Everything until the server closes."""
        text = b""
        while True:
            line = self.line()
            if not line:
                return text
            text += line

    def close(self):
        self.file.close()
        self.socket.close()


class Bystander(threading.Thread):
    """Sends NOOP on its own IMAP connection continuously; records the longest wait."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.client = Line(port)
        self.client.send(b"a LOGIN bob@demo.test demo\r\n")
        self.client.tagged(b"a")
        self.longest = 0.0
        self.rounds = 0
        self.running = True

    def run(self):
        while self.running:
            begin = time.monotonic()
            self.client.send(b"n NOOP\r\n")
            if not self.client.tagged(b"n"):
                self.longest = float("inf")
                return
            self.longest = max(self.longest, time.monotonic() - begin)
            self.rounds += 1
            time.sleep(0.02)

    def stop(self):
        self.running = False
        self.join(60)
        self.client.close()


class Hostile(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.demo = Demo("--shards", "1", "--users", "20")
        cls.addClassCleanup(cls.demo.close)

    def setUp(self):
        self.before = self.demo.memory()
        self.peak = self.before
        self.bystander = Bystander(self.demo.port["imap"])
        self.bystander.start()

    def tearDown(self):
        self.look()
        self.bystander.stop()
        self.assertIsNone(self.demo.process.poll(), "the server died")
        self.assertGreater(self.bystander.rounds, 0)
        self.assertLess(self.bystander.longest, BYSTANDER_SECONDS)
        self.assertLess(self.peak - self.before, MEMORY_BOUND)

    def look(self):
        self.peak = max(self.peak, self.demo.memory())

    def connect(self, service, greeting=True):
        client = Line(self.demo.port[service], greeting)
        self.addCleanup(client.close)
        return client

    def imap(self, select=False):
        client = self.connect("imap")
        client.send(b"a LOGIN alice@demo.test demo\r\n")
        self.assertIn(b"a OK", client.tagged(b"a"))
        if select:
            client.send(b"b SELECT INBOX\r\n")
            self.assertIn(b"b OK", client.tagged(b"b"))
        return client

    def smtp(self):
        client = self.connect("smtp")
        client.send(b"EHLO x.example\r\n")
        client.reply()
        return client

    def test_a_ten_gigabyte_literal_is_refused_before_a_byte_of_it(self):
        client = self.imap()
        client.send(b"c APPEND INBOX {10737418240}\r\n")
        self.assertRegex(client.line(), rb"^c (NO|BAD)|^\* BYE")
        client = self.imap()
        client.send(b"c APPEND INBOX {10737418240+}\r\n")
        self.assertIn(b"BYE", client.rest())

    def test_a_literal_before_login_is_small(self):
        client = self.connect("imap")
        client.send(b"a LOGIN {1000000}\r\n")
        self.assertRegex(client.line(), rb"^a (NO|BAD)|^\* BYE")

    def test_a_megabyte_command_line(self):
        for service, word in (("smtp", b"NOOP "), ("pop3", b"USER "), ("imap", b"a NOOP ")):
            with self.subTest(service=service):
                client = self.connect(service)
                client.send_or_closed(word + b"x" * MIB + b"\r\n")
                self.look()
                self.assertRegex(client.line(), rb"^5\d\d|^421|^-ERR|^a BAD|^\* B|^$")

    def test_an_endless_line(self):
        for service in ("smtp", "pop3", "imap"):
            with self.subTest(service=service):
                client = self.connect(service)
                for _ in range(256):
                    if not client.send_or_closed(b"x" * (256 * 1024)):
                        break
                    self.look()

    def test_a_million_recipients(self):
        client = self.smtp()
        client.send(b"MAIL FROM:<s@example.org>\r\n")
        client.reply()
        sender = threading.Thread(
            target=lambda: [client.send_or_closed(b"RCPT TO:<alice@demo.test>\r\n" * 1000)
                            for _ in range(1000)], daemon=True)
        sender.start()
        codes = {}
        while True:
            reply = client.reply()
            if not reply:
                break
            codes[reply[:3]] = codes.get(reply[:3], 0) + 1
            if sum(codes.values()) >= 1_000_000:
                break
            if sum(codes.values()) % 50_000 == 0:
                self.look()
        self.assertIn(b"452", codes)
        self.assertLessEqual(codes[b"250"], 1000)

    def deliver(self, body):
        client = self.smtp()
        client.send(b"MAIL FROM:<s@example.org>\r\nRCPT TO:<alice@demo.test>\r\nDATA\r\n")
        for expected in (b"250", b"250", b"354"):
            self.assertTrue(client.reply().startswith(expected))
        client.send(body + b"\r\n.\r\n")
        return client.reply()

    def test_twenty_thousand_nested_parts(self):
        parts = []
        for depth in range(20_000):
            parts.append(b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n"
                         % (depth, depth))
        self.assertTrue(self.deliver(b"".join(parts) + b"\r\nend").startswith(b"250"))
        self.look()
        client = self.imap(select=True)
        client.send(b"c FETCH * (BODYSTRUCTURE ENVELOPE)\r\nd SEARCH BODY nothing\r\n")
        self.assertIn(b"c OK", client.tagged(b"c"))
        self.assertIn(b"d OK", client.tagged(b"d"))

    def test_many_sibling_parts(self):
        body = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n\r\nx\r\n" * 100_000
        self.assertTrue(self.deliver(body).startswith(b"250"))
        client = self.imap(select=True)
        client.send(b"c FETCH * BODYSTRUCTURE\r\n")
        self.assertIn(b"c OK", client.tagged(b"c"))

    def test_sixty_thousand_parentheses(self):
        client = self.imap(select=True)
        client.send(b"c SEARCH " + b"(" * 60_000 + b"ALL" + b")" * 60_000 + b"\r\n")
        self.assertRegex(client.tagged(b"c") or b"c BAD", rb"c (BAD|NO)|BYE")
        client = self.connect("imap")
        client.send(b"a ID " + b"(" * 60_000 + b"\r\n")
        self.assertRegex(client.line(), rb"^a BAD|^\* BYE|^\* BAD")

    def test_fifteen_thousand_nots(self):
        client = self.imap(select=True)
        client.send(b"c SEARCH " + b"NOT " * 15_000 + b"ALL\r\n")
        self.assertRegex(client.tagged(b"c"), rb"c (BAD|NO|OK)")
        client.send(b"d SEARCH " + b"OR ALL " * 8_000 + b"ALL\r\n")
        self.assertRegex(client.tagged(b"d"), rb"d (BAD|NO|OK)")

    def test_wildcard_bombs(self):
        client = self.imap()
        client.send(b"c CREATE " + b"a" * 200 + b"\r\n")
        client.tagged(b"c")
        for number in range(20):
            client.send(b'd%d LIST "" "' % number + b"*a%" * 300 + b'b"\r\n')
            self.assertRegex(client.tagged(b"d%d" % number), rb"d\d+ (OK|BAD|NO)")

    def test_a_huge_sequence_set(self):
        self.deliver(b"Subject: one\r\n\r\nbody")
        client = self.imap(select=True)
        # RFC 3501 9: a sequence number above EXISTS is an error; a UID is not (6.4.8).
        client.send(b"c FETCH 1:4294967295 FLAGS\r\ne UID FETCH 1:4294967295 FLAGS\r\n")
        self.assertIn(b"c BAD", client.tagged(b"c"))
        self.assertIn(b"e OK", client.tagged(b"e"))
        client.send(b"d UID FETCH " + b",".join(b"%d:*" % n for n in range(1, 8000)) + b" FLAGS\r\n")
        self.assertRegex(client.tagged(b"d"), rb"d (OK|BAD|NO)")

    def test_bare_line_feeds_end_no_message(self):
        for ending in (b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r.\r\n", b"\n.\r"):
            with self.subTest(ending=ending):
                client = self.smtp()
                client.send(b"MAIL FROM:<s@example.org>\r\nRCPT TO:<user9@demo.test>\r\nDATA\r\n")
                for _ in range(3):
                    client.reply()
                client.send(b"Subject: smuggled\r\n\r\nx" + ending
                            + b"MAIL FROM:<evil@example.org>\r\nRCPT TO:<user9@demo.test>\r\n"
                            b"DATA\r\nSubject: evil\r\n\r\ny\r\n.\r\n")
                self.assertRegex(client.reply(), rb"^5\d\d")
        client = Line(self.demo.port["imap"])
        self.addCleanup(client.close)
        client.send(b"a LOGIN user9@demo.test demo\r\nb STATUS INBOX (MESSAGES)\r\n")
        self.assertIn(b"MESSAGES 0", client.tagged(b"b"))

    def test_nul_bytes_and_binary_noise(self):
        noise = bytes(range(256)) * 40 + b"\r\n"
        for service in ("smtp", "submission", "lmtp", "pop3", "imap", "imaps", "submissions"):
            with self.subTest(service=service):
                client = self.connect(service, greeting=service in ("smtp", "pop3", "imap"))
                client.send_or_closed(noise * 20)
                client.socket.settimeout(1)
                client.line()
        client = self.imap()
        client.send(b'c CREATE "a\0b"\r\n')
        self.assertRegex(client.tagged(b"c"), rb"c (BAD|NO)")
        self.assertRegex(self.deliver(b"Subject: nul\r\n\r\na\0b"), rb"^(250|55\d)")

    def test_half_open_tls(self):
        for _ in range(200):
            client = self.connect("imaps", greeting=False)
            client.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        self.look()
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        raw = socket.create_connection(("127.0.0.1", self.demo.port["imaps"]), timeout=30)
        with context.wrap_socket(raw) as tls:
            self.assertIn(b"OK", tls.recv(4096))

    def test_plaintext_after_starttls_is_not_carried_over(self):
        client = self.smtp()
        client.send(b"STARTTLS\r\nMAIL FROM:<s@example.org>\r\n")
        self.assertTrue(client.line().startswith(b"220"))
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        try:
            with context.wrap_socket(client.socket) as tls:
                tls.sendall(b"EHLO x\r\n")
                self.assertTrue(tls.recv(4096).startswith(b"250"))
        except (ssl.SSLError, ConnectionError):
            pass  # refusing the handshake is as good

    def test_connection_storm(self):
        for _ in range(20):
            clients = []
            for _ in range(200):
                client = socket.create_connection(("127.0.0.1", self.demo.port["smtp"]), 30)
                clients.append(client)
            self.look()
            for client in clients:
                client.close()
        self.assertTrue(self.smtp())

    def test_a_client_that_never_reads(self):
        self.deliver(b"Subject: big\r\n\r\n" + (b"x" * 76 + b"\r\n") * 120_000)
        clients = []
        for _ in range(8):
            client = self.imap(select=True)
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.socket.settimeout(1)
            client.send(b"c FETCH * BODY.PEEK[]\r\n")
            client.send_or_closed(b"d NOOP\r\n" * 100_000)
            clients.append(client)
        for _ in range(10):
            time.sleep(0.1)
            self.look()

    def test_results_that_change_and_are_never_read(self):
        # RFC 5267: each client follows as many results as it may, of all messages, half of them sorted.
        writer = self.imap()
        message = b"Subject: %d\r\n\r\nx\r\n"
        for number in range(2_000):
            text = message % (number * 7 % 2_000)
            writer.send(b"a APPEND INBOX {%d+}\r\n%s\r\n" % (len(text), text))
        writer.send(b"b SELECT INBOX\r\n")
        writer.tagged(b"b")
        clients = []
        for _ in range(8):
            client = self.imap(select=True)
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            for number in range(8):
                client.send(b"s%d UID SEARCH RETURN (UPDATE) FLAGGED\r\n" % number)
                self.assertIn(b"s%d OK" % number, client.tagged(b"s%d" % number))
                client.send(b"o%d UID SORT RETURN (UPDATE) (SUBJECT) UTF-8 FLAGGED\r\n" % number)
                self.assertIn(b"o%d OK" % number, client.tagged(b"o%d" % number))
            client.send(b"more UID SEARCH RETURN (UPDATE) ALL\r\n")
            self.assertIn(b"[NOUPDATE", client.tagged(b"more"))
            client.send(b"i IDLE\r\n")
            client.line()
            clients.append(client)
        for number in range(20):
            sign = b"+-"[number % 2:number % 2 + 1]
            writer.send(b"c%d STORE 1:* %sFLAGS.SILENT (\\Flagged)\r\n" % (number, sign))
            self.assertIn(b"c%d OK" % number, writer.tagged(b"c%d" % number))
            self.look()
        # What the first of them gets once it reads is the difference, and not twenty changes.
        clients[0].send(b"DONE\r\n")
        told = clients[0].tagged(b"i")
        self.assertIn(b"i OK", told)
        self.assertLess(len(told), 4 * MIB)

    def test_many_bad_commands_end_the_session(self):
        for service, word in (("smtp", b"XYZZY\r\n"), ("pop3", b"XYZZY\r\n"),
                              ("imap", b"a XYZZY\r\n")):
            with self.subTest(service=service):
                client = self.connect(service)
                client.socket.settimeout(60)
                client.send_or_closed(word * 1000)
                self.assertLess(client.rest().count(b"\n"), 200)


if __name__ == "__main__":
    unittest.main(verbosity=2)
