"""A next hop that misbehaves by plan, and the ledger of what it took.

What it refuses for good follows from the addresses, so that every refusal is known beforehand: the sender of
a message is `alice+FATE.NUMBER@...`, a recipient `FATE.NUMBER@...`, and a fate is one of FATES. Everything
else that it does wrong is a fault of one connection, chosen at random, and must cost nobody a message.
"""

import collections
import random
import re
import socket
import struct
import threading
import time

# Where a message or recipient is refused, always. 4: for now, 5: for good.
FATES = ("ok", "mail5", "rcpt5", "data5", "end5", "mail4", "rcpt4", "data4", "end4")
STAGES = ("connect", "greeting", "hello", "mail", "rcpt", "data", "content", "end", "rset", "quit")
# There is more to lose.
LATE_STAGES = ("mail", "rcpt", "data", "content", "end", "end", "end", "rset", "quit")
# What goes wrong at a stage.
FAULTS = ("reset", "close", "hang", "421", "4xx", "slow", "long", "endless lines", "endless line", "garbage",
          "nul", "wrong code", "mixed codes", "too many", "too few", "cut", "split")
# Texts of replies that nobody should send.
TEXTS = (b"5.7.1 No", b"no such \xff\xfe user", b"\0nul \0 in it", b"5.1.1 bell \x07 and \x1b[2Jescape",
         b"cr \rX-Injected: yes", b"", b"5.1.1 " + b"long " * 300, "5.2.1 \u202eright to left".encode(),
         b"4.0.0 an enhanced code that contradicts", b"5.999.999 odd", b"<html>\xe4</html>")

EXTENSIONS = ("PIPELINING", "8BITMIME", "SIZE 10485760", "CHUNKING", "SMTPUTF8", "ENHANCEDSTATUSCODES")

ADDRESS = re.compile(rb"<(?:alice\+)?([a-z0-9]+)\.([0-9]+)@")


class Gone(Exception):
    """The connection is over."""


class Ledger:
    """What was taken: (message, recipient) -> the attempts, in order. An attempt is `whole` if its final reply
    was sent, and `sure` once the client has shown that it knows of it: with a further command that only
    follows when the result is on disk. `began`: when MAIL was read, `at`: when the message was. A slow hop
    may read a message from the socket of a client that was killed long before. `confused`: a reply too many came before it, so the client may have
    taken one reply for another. `sessions`: message -> the conversations in which its sender was named."""

    def __init__(self):
        self.lock = threading.Lock()
        self.sessions = collections.defaultdict(list)
        self.taken = collections.defaultdict(list)
        self.wrong = []
        self.faults = collections.Counter()

    def complain(self, what):
        with self.lock:
            self.wrong.append(what)


class NextHop:
    """Listens on a port. `faults`: the share of connections with a fault. `extensions`: those of EHLO;
    each connection has some of all unless they are given."""

    def __init__(self, port, seed=0, faults=0.5, expected=None, extensions=None):
        self.port, self.faults, self.extensions = port, faults, extensions
        self.random = random.Random(seed)
        self.ledger = Ledger()
        # message -> the octets of its body, if they are to be compared
        self.expected = expected if expected is not None else {}
        self.listener = None
        self.connections = set()
        self.open()

    def open(self):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(128)
        self.listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def close(self):
        """Further connections are refused."""
        listener, self.listener = self.listener, None
        if listener is not None:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def _accept(self, listener):
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock):
        with self.ledger.lock:
            draw = random.Random(self.random.random())
        conversation = Conversation(self, sock, draw)
        try:
            conversation.run()
        except (Gone, OSError):
            pass
        finally:
            sock.close()


class Conversation:
    def __init__(self, hop, sock, draw):
        self.hop, self.sock, self.random = hop, sock, draw
        self.ledger = hop.ledger
        # (time, "C" or "S", the beginning of what was said), without messages.
        self.said = []
        sock.settimeout(30)
        self.buffer = b""
        self.stage_of_fault = self.fault = None
        self.slow = False
        self.spared = 0
        # A reply too many was sent on this connection.
        self.confused = False
        if draw.random() < hop.faults:
            self.choose(STAGES + LATE_STAGES)
        self.refused = False
        self.extensions = hop.extensions
        if self.extensions is None:
            share = 0.6 if draw.random() < 0.6 else 1
            self.extensions = {it for it in EXTENSIONS if draw.random() < share}
        # Attempts whose final reply was sent whole, and after which nothing came yet.
        self.pending = []

    def choose(self, stages):
        self.stage_of_fault, self.fault = self.random.choice(stages), self.random.choice(FAULTS)
        self.slow = self.fault == "slow"
        # Not always in the next transaction.
        self.spared = self.random.choice((0, 0, 1, 2)) if self.stage_of_fault in LATE_STAGES else 0

    # Octets

    def fill(self):
        try:
            piece = self.sock.recv(97 if self.slow else 65536)
        except TimeoutError:
            raise Gone from None
        if not piece:
            raise Gone
        if self.slow:
            time.sleep(0.001)
        self.buffer += piece

    def line(self):
        while b"\n" not in self.buffer:
            if len(self.buffer) > 100_000:
                raise Gone
            self.fill()
        line, _, self.buffer = self.buffer.partition(b"\n")
        if not line.endswith(b"\r") or b"\r" in line[:-1] or b"\0" in line:
            self.ledger.complain(f"a command with stray line ends: {line!r}")
        self.said.append((time.monotonic(), "C", bytes(line[:100])))
        return line[:-1]

    def octets(self, count):
        while len(self.buffer) < count:
            self.fill()
        octets, self.buffer = self.buffer[:count], self.buffer[count:]
        return octets

    def put(self, octets):
        if len(self.said) < 10_000:
            self.said.append((time.monotonic(), "S", octets[:100]))
        if self.slow:
            for octet in octets[:40]:
                self.sock.sendall(bytes([octet]))
                time.sleep(0.002)
            octets = octets[40:]
        self.sock.sendall(octets)

    def drop(self, hard):
        if hard:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise Gone

    # Replies

    def reply(self, stage, code, text=b"2.0.0 fine"):
        """Sends the reply, or what the fault makes of it. True if a whole reply of the code was sent, None if
        something of it was."""
        fault, self_stage = self.fault, self.stage_of_fault
        if self_stage != stage or self.spared > 0 or fault is None:
            self.put(b"%d " % code + text + b"\r\n")
            return True
        # Once.
        self.fault = None
        self.said.append((time.monotonic(), "S", f"{stage}: {fault}"))
        with self.ledger.lock:
            self.ledger.faults[(stage, fault)] += 1
        if fault == "reset":
            self.drop(True)
        if fault == "close":
            self.drop(False)
        if fault == "hang":
            time.sleep(self.random.uniform(0.3, 2))
            self.drop(False)
        if fault == "421":
            self.refused = True
            self.put(b"421 4.3.2 going away\r\n")
            self.drop(False)
        if fault == "4xx":
            self.refused = True
            self.put(b"451 4.3.0 not now\r\n")
            return False
        if fault == "long":
            self.put(b"".join(b"%d-%s %d\r\n" % (code, text, n) for n in range(100)))
            self.put(b"%d %s\r\n" % (code, text))
            return True
        if fault == "endless lines":
            while True:
                self.put(b"%d-and on\r\n" % code * 100)
        if fault == "endless line":
            self.put(b"%d " % code)
            while True:
                self.put(b"and on " * 1000)
        if fault == "garbage":
            self.put(self.random.choice((b"\r\n", b"hello?\r\n", b"25\r\n", b"2500 x\r\n", b"\xff\xfe\0\r\n",
                                         b"999 x\r\n", b"HTTP/1.1 200 OK\r\n\r\n")))
            return None
        if fault == "nul":
            self.put(b"%d \0\xff\xfe\x1b[2J\r %s\r\n" % (code, text))
            return True
        if fault == "wrong code":
            wrong = self.random.choice((354, 211, 334) if code != 354 else (250, 221))
            self.put(b"%d wrong\r\n" % wrong)
            return True if wrong // 100 == code // 100 else None
        if fault == "mixed codes":
            self.put(b"%d-one\r\n%d two\r\n" % (code, code + 1))
            return None
        if fault == "too many":
            extra = self.random.choice((code, 250, 550, 450))
            self.confused = True
            self.put(b"%d %s\r\n%d one too many\r\n" % (code, text, extra))
            return True
        if fault == "too few":
            # With commands behind it, the next reply takes its place; else all wait.
            self.sock.settimeout(self.random.uniform(0.3, 2))
            return None
        if fault == "cut":
            self.put((b"%d %s" % (code, text))[:self.random.randrange(1, 8)])
            self.drop(False)
        if fault == "split":
            for octet in b"%d-%s\r\n%d %s\r\n" % (code, text, code, text):
                self.sock.sendall(bytes([octet]))
                time.sleep(0.001)
            return True
        return True

    # The conversation

    def run(self):
        if self.stage_of_fault == "connect" and self.fault:
            with self.ledger.lock:
                self.ledger.faults[("connect", self.fault)] += 1
            if self.fault in ("hang", "slow", "too few"):
                time.sleep(self.random.uniform(0.1, 1))
            self.drop(self.fault in ("reset", "cut", "garbage"))
        self.reply("greeting", 220, b"hop.test ready")
        self.message = self.sender_fate = self.began = None
        self.recipients = []
        self.sent_mail = False
        while True:
            line = self.line()
            verb = line.split(b" ")[0].upper()
            # The result of the transaction before is on disk when the next one begins.
            if verb in (b"MAIL", b"QUIT"):
                self.confirm()
            if verb in (b"EHLO", b"HELO"):
                if verb == b"EHLO" and not self.extensions:
                    self.put(b"502 5.5.1 what?\r\n")
                    continue
                self.hello(verb)
            elif verb == b"MAIL":
                self.mail(line)
            elif verb == b"RCPT":
                self.rcpt(line)
            elif verb == b"DATA":
                self.data()
            elif verb == b"BDAT":
                self.chunks(line)
            elif verb == b"RSET":
                self.reply("rset", 250)
                self.sent_mail, self.recipients = False, []
            elif verb == b"NOOP":
                self.put(b"250 ok\r\n")
            elif verb == b"QUIT":
                self.reply("quit", 221, b"bye")
                return
            else:
                self.ledger.complain(f"an unknown command: {line!r}")
                self.put(b"500 5.5.2 what?\r\n")

    def confirm(self):
        with self.ledger.lock:
            for attempt in self.pending:
                attempt["sure"] = attempt["whole"]
        self.pending = []

    def hello(self, verb):
        # It also ends a transaction (RFC 5321 4.1.4).
        self.sent_mail, self.recipients = False, []
        if verb == b"HELO" or self.stage_of_fault == "hello":
            self.reply("hello", 250, b"hop.test")
            return
        lines = ["hop.test", *sorted(self.extensions)]
        text = "".join(f"250-{line}\r\n" for line in lines[:-1]) + f"250 {lines[-1]}\r\n"
        self.put(text.encode())

    def refusal(self, code):
        """Text of a refusal: fit to be in a report, or not."""
        return b"%d " % code + self.random.choice(TEXTS) + b"\r\n"

    def mail(self, line):
        if self.fault and self.spared > 0 and self.message is not None:
            self.spared -= 1
        if self.fault is None and self.message is not None and self.random.random() < self.hop.faults:
            # It was good, or has recovered; not for long.
            self.choose(LATE_STAGES)
        found = ADDRESS.search(line)
        if found is None:
            self.ledger.complain(f"a strange sender: {line!r}")
            return self.put(b"250 ok\r\n")
        self.sender_fate, self.message = found[1].decode(), int(found[2])
        self.began = time.monotonic()
        with self.ledger.lock:
            if self not in self.ledger.sessions[self.message]:
                self.ledger.sessions[self.message].append(self)
        self.recipients = []
        self.sent_mail = False
        if self.sender_fate in ("mail4", "mail5"):
            return self.put(self.refusal(550 if self.sender_fate == "mail5" else 450))
        self.sent_mail = self.reply("mail", 250) is not False

    def rcpt(self, line):
        found = ADDRESS.search(line)
        if not self.sent_mail:
            return self.put(b"503 5.5.1 MAIL first\r\n")
        if found is None or int(found[2]) != self.message:
            self.ledger.complain(f"a strange recipient in message {self.message}: {line!r}")
            return self.put(b"250 ok\r\n")
        path = line[line.index(b"<") + 1:line.index(b">")].decode()
        if found[1] in (b"rcpt4", b"rcpt5"):
            return self.put(self.refusal(550 if found[1] == b"rcpt5" else 451))
        if self.reply("rcpt", 250) is not False:
            self.recipients.append(path)

    def data(self):
        if not self.recipients:
            return self.put(b"554 5.5.1 no valid recipients\r\n")
        if self.sender_fate in ("data4", "data5"):
            return self.put(self.refusal(554 if self.sender_fate == "data5" else 451))
        if self.reply("data", 354, b"go on") is False:
            return
        content = bytearray()
        while True:
            at = self.buffer.find(b"\n")
            if at < 0:
                if self.stage_of_fault == "content" and self.fault and self.spared <= 0:
                    self.spoil_content()
                self.fill()
                continue
            line, self.buffer = self.buffer[:at + 1], self.buffer[at + 1:]
            if not line.endswith(b"\r\n") or b"\r" in line[:-2]:
                self.ledger.complain(f"message {self.message} has stray line ends: {line[-80:]!r}")
            if line == b".\r\n":
                break
            content += line[1:] if line.startswith(b".") else line
        self.end(bytes(content))

    def spoil_content(self):
        fault, self.fault = self.fault, None
        self.said.append((time.monotonic(), "S", f"content: {fault}"))
        with self.ledger.lock:
            self.ledger.faults[("content", fault)] += 1
        if fault in ("hang", "too few", "slow"):
            time.sleep(self.random.uniform(0.3, 2))
        if fault == "421":
            self.put(b"421 4.3.2 enough\r\n")
        if fault in ("4xx", "wrong code"):
            self.put(b"452 4.3.1 disk full\r\n")
        if fault in ("garbage", "nul"):
            self.put(b"\0\xff what is this\r\n")
        self.drop(fault in ("reset", "endless line", "cut"))

    def chunks(self, line):
        content = b""
        while True:
            words = line.split()
            content += self.octets(int(words[1]))
            last = len(words) > 2
            if not self.recipients:
                self.put(b"503 5.5.1 no valid recipients\r\n")
            elif self.sender_fate in ("data4", "data5"):
                self.put(self.refusal(554 if self.sender_fate == "data5" else 451))
                content = None
            elif not last:
                if self.stage_of_fault == "content" and self.fault and self.spared <= 0:
                    self.spoil_content()
                if self.reply("data", 250) is False:
                    content = None
            if last or content is None or not self.recipients:
                break
            line = self.line()
            if not line.startswith(b"BDAT"):
                self.ledger.complain(f"a command between chunks: {line!r}")
                raise Gone
        if content is None or not self.recipients:
            # The chunks that are on their way are refused as well.
            while not last:
                line = self.line()
                if not line.startswith(b"BDAT"):
                    self.buffer = line + b"\r\n" + self.buffer
                    return
                words = line.split()
                self.octets(int(words[1]))
                self.put(b"503 5.5.1 no transaction\r\n")
                last = len(words) > 2
            self.recipients, self.sent_mail = [], False
            return
        self.end(content)

    def end(self, content):
        recipients, self.recipients, self.sent_mail = self.recipients, [], False
        message, fate = self.message, self.sender_fate
        if fate in ("end4", "end5"):
            return self.put(self.refusal(554 if fate == "end5" else 452))
        if "8BITMIME" not in self.extensions and any(octet > 127 for octet in content):
            self.ledger.complain(f"message {message} has 8-bit octets: {content[-200:]!r}")
        expected = self.hop.expected.get(message)
        if expected is not None and not content.endswith(b"\r\n\r\n" + expected):
            self.ledger.complain(f"message {message} was changed: {content[-200:]!r}")
        attempts = [{"whole": False, "sure": False, "confused": self.confused,
                     "began": self.began, "at": time.monotonic()} for _ in recipients]
        with self.ledger.lock:
            for recipient, attempt in zip(recipients, attempts):
                self.ledger.taken[(message, recipient)].append(attempt)
        self.pending += attempts
        sent = False
        try:
            sent = self.reply("end", 250, b"2.6.0 taken")
            for attempt in attempts:
                attempt["whole"] = bool(sent)
        finally:
            if sent is False and self.refused:
                with self.ledger.lock:
                    for recipient, attempt in zip(recipients, attempts):
                        self.ledger.taken[(message, recipient)].remove(attempt)
