"""The way out against a next hop that does everything wrong, with kill -9 at any time: no message is lost,
each refusal is reported once, and only a message whose final reply was cut off is sent again. A next hop
that is down, slow or stuck delays nobody else. Nothing is smuggled, in or out."""

import collections
import email
import email.policy
import imaplib
import os
import random
import re
import smtplib
import socket
import threading
import time
import unittest
import urllib.request

from demo import Demo
from knot import free_port
from next_hop import FATES, NextHop
from test_hostile import Line

imaplib._MAXLINE = 1 << 26
ROUNDS = int(os.environ.get("RELAY_ROUNDS", "20"))
# For the same faults again; the times of kills and threads differ all the same.
SEED = int(os.environ.get("RELAY_SEED", "0")) or random.randrange(1, 1 << 32)
SUBMITTERS = 4
# Of whole messages; single recipients have rcpt4 and rcpt5.
MESSAGE_FATES = tuple(fate for fate in FATES if not fate.startswith("rcpt"))
SETTINGS = ['queue.retry=["200ms","500ms"]', 'queue.delay_warning="0s"',
            'queue.connect_timeout="2s"', "store.checkpoint_interval=1MiB", "store.segment_size=1MiB",
            "store.garbage_share=10"]
# How long after its final reply the result of a message may still be on its way to the disk: under a load
# of builds a sync takes seconds. A result that the connection shows to be on disk must be so at once.
RECORD_SECONDS = 10.0


def settings(*more):
    return [word for setting in (*SETTINGS, *more) for word in ("--set", setting)]


def metric(demo, name):
    """The sum over shards."""
    url = f"http://127.0.0.1:{demo.port['admin']}/metrics"
    with urllib.request.urlopen(url, timeout=20) as answer:
        lines = answer.read().decode().splitlines()
    values = [float(line.rsplit(" ", 1)[1]) for line in lines if re.match(rf"{name}[ {{]", line)]
    assert values, f"no metric {name}"
    return sum(values)


def is_queue_empty(demo):
    """Also after a start, when the queue is still being read."""
    # In this order: nothing is added to it after it was read.
    return metric(demo, "ringmail_relay_queue_reading") == 0 and metric(demo, "ringmail_relay_queue_messages") == 0


def wait_for(condition, seconds, what):
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.1)


def inbox(demo, user, criteria="ALL", part="BODY.PEEK[]"):
    """The account's INBOX, whole messages: {uid: octets}."""
    imap = imaplib.IMAP4("127.0.0.1", demo.port["imap"], timeout=60)
    imap.login(f"{user}@demo.test", "demo")
    imap.select(readonly=True)
    _, (uids,) = imap.uid("SEARCH", criteria)
    found = {}
    if uids:
        for answer in imap.uid("FETCH", uids.replace(b" ", b","), f"(UID {part})")[1]:
            if isinstance(answer, tuple):
                found[int(re.search(rb"UID (\d+)", answer[0])[1])] = answer[1]
    imap.logout()
    return found


class Report:
    """A delivery status notification (RFC 3464), read strictly."""

    def __init__(self, octets):
        self.octets = octets
        assert b"\nX-Injected" not in octets.replace(b"\r", b"\n"), octets
        message = email.message_from_bytes(octets, policy=email.policy.default)
        defects = [defect for part in message.walk() for defect in part.defects]
        assert not defects, (defects, octets)
        assert message.get_content_type() == "multipart/report", octets
        assert message.get_param("report-type") == "delivery-status", octets
        assert message["Auto-Submitted"].startswith("auto-"), octets
        human, status, self.original = message.iter_parts()
        assert human.get_content_type() == "text/plain", octets
        assert status.get_content_type() == "message/delivery-status", octets
        assert self.original.get_content_type() in (
            "message/rfc822", "text/rfc822-headers", "message/global", "message/global-headers"), octets
        self.message, self.text = message, human.get_content()
        self.about, *self.recipients = status.get_payload()
        assert self.about["Reporting-MTA"].startswith("dns;"), octets
        assert self.recipients, octets
        for recipient in self.recipients:
            assert not recipient.defects and not recipient.get_payload(), (recipient.defects, octets)
            assert re.fullmatch(r"[245]\.\d{1,3}\.\d{1,3}", recipient["Status"]), octets
            assert recipient["Action"] in ("failed", "delayed", "delivered", "relayed", "expanded"), octets
            assert set(recipient.keys()) <= {
                "Original-Recipient", "Final-Recipient", "Action", "Status", "Remote-MTA",
                "Diagnostic-Code", "Last-Attempt-Date", "Will-Retry-Until"}, recipient.keys()

    @staticmethod
    def is_one(octets):
        return b"report-type=delivery-status" in octets.partition(b"\r\n\r\n")[0].replace(b'"', b"")

    def by_address(self):
        """Final recipient -> its fields."""
        return {recipient["Final-Recipient"].partition(";")[2].strip(): recipient
                for recipient in self.recipients}


class Submitter(threading.Thread):
    """Submits messages as alice until the server is gone."""

    def __init__(self, demo, book, draw):
        super().__init__(daemon=True)
        self.demo, self.book, self.random = demo, book, draw

    def run(self):
        try:
            with smtplib.SMTP("127.0.0.1", self.demo.port["submission"], timeout=30) as smtp:
                smtp.login("alice@demo.test", "demo")
                while True:
                    self.one(smtp)
                    time.sleep(self.random.uniform(0, 0.1))
        except (OSError, smtplib.SMTPException):
            pass

    def one(self, smtp):
        number, sender, recipients, octets = self.book.write(self.random)
        smtp.sendmail(sender, recipients, octets)
        self.book.acknowledged[number] = recipients


class Book:
    """What was written, and what was acknowledged: {message: recipients}."""

    def __init__(self):
        self.lock = threading.Lock()
        self.written, self.acknowledged, self.expected, self.senders = {}, {}, {}, {}

    def write(self, draw):
        with self.lock:
            number = len(self.written) + 1
            self.written[number] = None
        fate = draw.choice(("ok",) * 8 + MESSAGE_FATES)
        sender = f"alice+{fate}.{number}@demo.test"
        if fate == "ok":
            count = draw.choice((1, 1, 2, 5))
            fates = [draw.choice(("ok",) * 6 + ("rcpt4", "rcpt5")) for _ in range(count)]
        else:
            fates = ["ok"] * draw.choice((1, 2))
        recipients = [f"{it}.{number}@n{at}.far{draw.randrange(3)}.test" for at, it in enumerate(fates)]
        if draw.random() < 0.3:
            recipients.append("bob@demo.test")
        size = draw.choice((100, 1000, 1000, 20_000, 200_000))
        line = lambda: b"." * draw.randrange(3) + draw.randbytes(30).hex().encode() + b"\r\n"
        body = b"".join(line() for _ in range(size // 60 + 1))
        header = f"From: alice@demo.test\r\nSubject: message {number}\r\nX-Message: {number}\r\n\r\n"
        self.expected[number] = body
        self.senders[number] = sender
        self.written[number] = recipients
        return number, sender, recipients, header.encode() + body


def fate_of(book, number, recipient):
    if recipient.endswith("@demo.test"):
        return "here"
    fate = book.senders[number].partition("+")[2].partition(".")[0]
    return fate if fate != "ok" else recipient.partition(".")[0]


# What is wrong with a recipient's end, or nothing.

def judge_here(count, acknowledged):
    if count > 1:
        return "delivered twice here"
    return "lost here" if acknowledged and not count else None


def judge_taken(attempts, reports, acknowledged, kills):
    if reports:
        return "reported, but not refused"
    if acknowledged and not any(attempt["whole"] for attempt in attempts):
        return "lost"
    for attempt in attempts:
        # A slow hop may have read to the end what a process wrote that was killed meanwhile.
        killed = any(attempt["began"] <= kill < attempt["at"] + RECORD_SECONDS for kill in kills)
        if attempt["whole"] and not attempt["confused"] and (attempt["sure"] or not killed):
            # One that began before is no second one: it was sent by a process that was killed before it
            # could have its reply, to a hop that was slow to read it.
            if any(other["began"] > attempt["at"] for other in attempts):
                return "sent twice"
    return None


def judge_refused(fate, attempts, reports, acknowledged):
    if attempts:
        return "refused, yet taken"
    if len(reports) > 1:
        return "reported twice"
    if acknowledged and not reports:
        return "not reported"
    for fields in reports:
        if fate.endswith("5"):
            good = fields["Status"][0] == "5" and re.match("smtp; ?55[04]", fields["Diagnostic-Code"])
        else:
            good = fields["Status"] == "4.4.7"
        if not good:
            return "reported wrongly"
    return None


class Judge(unittest.TestCase):
    def test_what_is_sent_twice(self):
        def attempt(began, at, sure):
            return {"whole": True, "sure": sure, "confused": False, "began": began, "at": at}
        for says, kill, first, second in (
                ("sent twice", 90, attempt(100, 101, False), attempt(102, 103, True)),
                (None, 101.5, attempt(100, 101, False), attempt(102, 103, True)),
                (None, 100.5, attempt(100, 101, False), attempt(102, 103, True)),
                ("sent twice", 100.5, attempt(100, 101, True), attempt(102, 103, True)),
                (None, 90, attempt(100, 103, True), attempt(102, 104, True))):
            self.assertEqual(judge_taken([first, second], [], True, [kill]), says, (kill, first, second))


class Nasty(unittest.TestCase):
    def test_none_lost_each_refusal_once(self):
        print(f"RELAY_SEED={SEED}")
        draw = random.Random(SEED)
        book = Book()
        hop = NextHop(free_port(), seed=SEED, expected=book.expected)
        kills = []
        with Demo("--shards", "2", "--smarthost", f"127.0.0.1:{hop.port}", *settings()) as demo:
            plain = list(demo.arguments)
            for _ in range(ROUNDS):
                threads = [Submitter(demo, book, random.Random(draw.random())) for _ in range(SUBMITTERS)]
                for thread in threads:
                    thread.start()
                if draw.random() < 0.3:
                    time.sleep(draw.uniform(0.1, 1))
                    hop.close()
                    time.sleep(draw.uniform(0.1, 1))
                    hop.open()
                time.sleep(draw.uniform(0.2, 3))
                demo.kill()
                kills.append(time.monotonic())
                for thread in threads:
                    thread.join(30)
                    self.assertFalse(thread.is_alive(), "a submission never ended")
                demo.start()
            hop.faults = 0
            forever = sum(fate_of(book, number, recipient) in ("mail4", "rcpt4", "data4", "end4")
                          for number, recipients in book.acknowledged.items() for recipient in recipients)
            self.wait_for_delivery(demo, book, hop)
            # What is refused for now is given up.
            demo.stop()
            demo.arguments = [*plain, "--set", 'queue.expire="1s"']
            demo.start()
            wait_for(lambda: is_queue_empty(demo), 60, "an empty queue")
            # After a start nothing is sent or reported again.
            demo.kill()
            demo.arguments = plain
            demo.start()
            time.sleep(2)
            self.assertTrue(is_queue_empty(demo))
            self.check(demo, book, hop, kills, forever)
        hop.close()

    def events(self, demo, recipient):
        """What the event log says of a recipient."""
        with open(os.path.join(demo.directory, "events.log"), errors="replace") as log:
            return "".join(line for line in log if recipient in line)

    def sessions(self, hop, number):
        """What the hop heard and said in the sessions of a message."""
        return "\n".join(f"{at:.3f} {who} {what}" for session in hop.ledger.sessions[number]
                         for at, who, what in (*session.said, (0, "-", "")))

    def wait_for_delivery(self, demo, book, hop):
        wanted = {(number, recipient) for number, recipients in book.acknowledged.items()
                  for recipient in recipients if fate_of(book, number, recipient) == "ok"}

        def missing():
            with hop.ledger.lock:
                taken = hop.ledger.taken
                return [it for it in wanted if not any(at["whole"] for at in taken.get(it, ()))]
        deadline = time.monotonic() + 60
        while missing() and time.monotonic() < deadline:
            time.sleep(0.2)
        lost = missing()
        self.assertEqual(lost, [], "lost, or still in the queue: " + "".join(
            f"\n{self.events(demo, recipient)}\n{self.sessions(hop, number)}" for number, recipient in lost))

    def check(self, demo, book, hop, kills, forever):
        ledger = hop.ledger
        self.assertEqual(ledger.wrong, [])
        reported = collections.defaultdict(list)
        for octets in inbox(demo, "alice").values():
            self.assertTrue(Report.is_one(octets), octets)
            report = Report(octets)
            original = report.original
            part = original.get_content() if original.get_content_type() == "message/rfc822" else (
                email.message_from_string(original.get_content()))
            number = int(part["X-Message"])
            for address, fields in report.by_address().items():
                self.assertEqual(fields["Action"], "failed")
                reported[(number, address)].append(dict(fields))
        here = collections.Counter(
            int(re.search(rb"\r\nX-Message: (\d+)", octets)[1]) for octets in inbox(demo, "bob").values())
        counts, again, problems = collections.Counter(), 0, []
        for number, recipients in book.written.items():
            for recipient in recipients or ():
                fate = fate_of(book, number, recipient)
                attempts = ledger.taken.get((number, recipient), [])
                reports = reported.pop((number, recipient), [])
                acknowledged = number in book.acknowledged
                counts[fate] += acknowledged
                again += max(len(attempts) - 1, 0)
                if fate == "here":
                    wrong = judge_here(here[number], acknowledged)
                elif fate == "ok":
                    wrong = judge_taken(attempts, reports, acknowledged, kills)
                else:
                    wrong = judge_refused(fate, attempts, reports, acknowledged)
                if wrong:
                    problems.append(f"{self.events(demo, recipient)}\n{self.sessions(hop, number)}\n"
                                    f"{wrong}: message {number} from {book.senders[number]} to {recipient}, "
                                    f"acknowledged: {acknowledged}, taken: {attempts}, reports: {reports}")
        self.assertEqual(len(problems), 0, "\n".join([*problems, f"kills: {kills}"]))
        self.assertEqual(dict(reported), {}, "reports about unknown recipients")
        print(f"{len(kills)} kills, {len(book.acknowledged)} of {len(book.written)} messages acknowledged; "
              f"recipients {dict(counts)}, {forever} of them refused for now; {again} sent again; "
              f"{sum(ledger.faults.values())} faults of {len(ledger.faults)} kinds")
        self.assertGreater(counts["ok"], ROUNDS)
        self.assertGreater(len(ledger.faults), min(80, 5 * ROUNDS))


class StuckHop:
    """Takes every connection and then, in its own way, nothing more."""

    WAYS = ("down", "full", "mute", "drip", "hello", "mail", "data", "content", "end")

    def __init__(self, way):
        self.way, self.port = way, free_port()
        self.begun, self.sockets = 0, []
        self.listener = None
        if way == "down":
            return
        self.listener = socket.create_server(("127.0.0.1", self.port), backlog=0 if way == "full" else 128)
        if way == "full":
            # Connections that nobody accepts: for the others there is no answer at all.
            for _ in range(4):
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", self.port))
                self.sockets.append(filler)
            return
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            self.begun += 1
            self.sockets.append(sock)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock):
        try:
            if self.way == "mute":
                return
            if self.way == "drip":
                for octet in b"220-x\r\n" * 100_000:
                    sock.sendall(bytes([octet]))
                    time.sleep(0.05)
            sock.sendall(b"220 stuck.test\r\n")
            reader = sock.makefile("rb")
            while line := reader.readline():
                verb = line[:4].decode().strip().lower()
                if verb == self.way or (verb, self.way) == ("ehlo", "hello"):
                    return
                if verb != "data":
                    sock.sendall(b"250 ok\r\n")
                    continue
                sock.sendall(b"354 go\r\n")
                if self.way == "content":
                    # Nothing is read any more.
                    return
                while line != b".\r\n":
                    line = reader.readline()
                return
        except OSError:
            pass

    def close(self):
        """Ends all connections."""
        for sock in self.sockets:
            sock.close()
        if self.listener is not None:
            self.listener.close()


class Stuck(unittest.TestCase):
    """A next hop that takes nothing, with mail for it waiting: local delivery and IMAP do not notice."""

    MESSAGES = 20
    WAITING = 100

    def test_others_are_not_delayed(self):
        for way in StuckHop.WAYS:
            with self.subTest(way):
                hop = StuckHop(way)
                arguments = settings()
                arguments[arguments.index('queue.connect_timeout="2s"')] = 'queue.connect_timeout="1m"'
                with Demo("--shards", "1", "--smarthost", f"127.0.0.1:{hop.port}", *arguments) as demo:
                    before = self.time_of_local_mail(demo)
                    self.send_away(demo)
                    during = [self.time_of_local_mail(demo) for _ in range(2)]
                    self.assertLess(min(during), 5 * before + 1, f"{way}: {before} before, {during} with it")
                    self.assertEqual(metric(demo, "ringmail_relay_queue_messages"), self.WAITING)
                    if way not in ("down", "full"):
                        self.assertGreater(hop.begun, 0)
                    began = time.monotonic()
                    self.assertEqual(demo.stop(), 0)
                    self.assertLess(time.monotonic() - began, 15, "SIGTERM waits for a stuck host")
                hop.close()

    def test_a_stuck_hop_does_not_keep_mail_for_ever(self):
        """Its sender learns of it when queue.expire is over."""
        for way in ("full", "mute", "hello", "mail", "content", "end"):
            with self.subTest(way):
                hop = StuckHop(way)
                with Demo("--shards", "1", "--smarthost", f"127.0.0.1:{hop.port}",
                          *settings('queue.expire="6s"')) as demo:
                    with smtplib.SMTP("127.0.0.1", demo.port["submission"], timeout=30) as smtp:
                        smtp.login("alice@demo.test", "demo")
                        smtp.sendmail("alice@demo.test", ["x@far.test"],
                                      b"Subject: away\r\n\r\n" + b"x\r\n" * 1_000_000)
                    wait_for(lambda: inbox(demo, "alice"), 30, "a report")
                    (octets,) = inbox(demo, "alice").values()
                    fields = Report(octets).by_address()["x@far.test"]
                    self.assertEqual((fields["Action"], fields["Status"]), ("failed", "4.4.7"))
                    wait_for(lambda: is_queue_empty(demo), 10, "an empty queue")
                hop.close()

    def send_away(self, demo):
        body = b"x" * 70 + b"\r\n"
        with smtplib.SMTP("127.0.0.1", demo.port["submission"], timeout=30) as smtp:
            smtp.login("alice@demo.test", "demo")
            for number in range(self.WAITING):
                smtp.sendmail("alice@demo.test", [f"x{number}@d{number % 10}.far.test"],
                              b"Subject: away\r\n\r\n" + body * (20_000 if number < 4 else 10))

    def time_of_local_mail(self, demo):
        """Seconds until messages, one after the other, are seen by IMAP."""
        imap = imaplib.IMAP4("127.0.0.1", demo.port["imap"], timeout=30)
        imap.login("bob@demo.test", "demo")
        count = int(imap.select()[1][0])
        began = time.monotonic()
        with smtplib.SMTP("127.0.0.1", demo.port["smtp"], timeout=30) as smtp:
            for number in range(self.MESSAGES):
                smtp.sendmail("stranger@elsewhere.test", ["bob@demo.test"], b"Subject: here\r\n\r\nx\r\n")
                deadline = time.monotonic() + 30
                while count + number + 1 > int(imap.select()[1][0]):
                    self.assertLess(time.monotonic(), deadline, "no mail")
        took = time.monotonic() - began
        imap.logout()
        return took


# What some server may take for the end of a message, and another one not.
ENDS = (b"\n.\n", b"\r.\r", b"\n.\r\n", b"\r\n.\n", b"\r\n.\r", b"\r.\r\n", b"\r\n\0.\r\n", b"\r\n.\0\r\n",
        b"\n\n.\r\n", b"\r\r\n.\r\r\n", b"\r\n.\n\r\n", b"\r\n.\x85\r\n", b"\r\n..\r\n")
SMUGGLED = (b"MAIL FROM:<alice+ok.666@demo.test>\r\nRCPT TO:<ok.666@far.test>\r\nDATA\r\n"
            b"Subject: two\r\n\r\nsecond\r\n")


class Smuggling(unittest.TestCase):
    """The next hop's ledger complains of stray line ends, of unknown commands and of recipients that do not
    belong to the message."""

    def session(self, demo):
        line = Line(demo.port["submission"])
        self.addCleanup(line.close)
        for command in (b"EHLO client.test", b"AUTH PLAIN AGFsaWNlQGRlbW8udGVzdABkZW1v"):
            line.send(command + b"\r\n")
            self.assertEqual(line.reply()[:1], b"2")
        return line

    def say(self, line, command, expected=b"2"):
        line.send(command + b"\r\n")
        reply = line.reply()
        self.assertIn(reply[:1], expected, (command, reply))
        return reply

    def begin(self, line, number, parameters=b""):
        self.say(line, b"MAIL FROM:<alice+ok.%d@demo.test>%s" % (number, parameters))
        self.say(line, b"RCPT TO:<ok.%d@far.test>" % number)

    def test_nothing_is_smuggled_out(self):
        for policy in ("refuse", "normalise"):
            hop = NextHop(free_port(), faults=0)
            with self.subTest(policy), Demo(
                    "--shards", "1", "--smarthost", f"127.0.0.1:{hop.port}",
                    *settings(f'smtp.bare_newline="{policy}"')) as demo:
                taken = []
                for number, end in enumerate(ENDS, 1):
                    line = self.session(demo)
                    self.begin(line, number)
                    self.say(line, b"DATA", b"3")
                    line.send(b"Subject: one\r\n\r\nfirst" + end + SMUGGLED + b".\r\nQUIT\r\n")
                    # One reply to the message and one to QUIT.
                    replies = line.rest().split(b"\r\n")
                    closed = replies[0].startswith(b"521 ")
                    self.assertEqual([reply[:3] for reply in replies[1:]],
                                     [b""] if closed else [b"221", b""], (end, replies))
                    stray = re.search(rb"\r(?!\n)|(?<!\r)\n", end)
                    if policy == "refuse" and stray:
                        self.assertEqual(replies[0][:1], b"5", (end, replies))
                    if replies[0][:1] == b"2":
                        taken.append((number, f"ok.{number}@far.test"))
                    line.close()
                self.assertGreater(len(taken), 0 if policy == "refuse" else 7)
                wait_for(lambda: is_queue_empty(demo), 30, "an empty queue")
                self.assertEqual(sorted(hop.ledger.taken), taken)
                self.assertEqual(hop.ledger.wrong, [])
            hop.close()

    def test_content_survives_chunks(self):
        """Dots and line ends on both sides of every border, in by chunks, out as the hop likes it."""
        content = b"Subject: dots\r\n\r\n"
        body = b".\r\n..\r\n.x\r\n\r\n.\r\nMAIL FROM:<alice+ok.666@demo.test>\r\n.\r\n"
        hop = NextHop(free_port(), faults=0)
        with Demo("--shards", "1", "--smarthost", f"127.0.0.1:{hop.port}",
                  *settings("queue.messages_per_connection=3")) as demo:
            line = self.session(demo)
            for size in range(1, len(body)):
                hop.expected[size] = body
                self.begin(line, size)
                whole = content + body
                pieces = [whole[at:at + size] for at in range(0, len(whole), size)]
                for piece in pieces[:-1]:
                    line.send(b"BDAT %d\r\n" % len(piece) + piece)
                    self.assertEqual(line.reply()[:1], b"2")
                line.send(b"BDAT %d LAST\r\n" % len(pieces[-1]) + pieces[-1])
                self.assertEqual(line.reply()[:1], b"2")
            wait_for(lambda: is_queue_empty(demo), 30, "an empty queue")
            self.assertEqual(hop.ledger.wrong, [])
            sent = {(size, f"ok.{size}@far.test") for size in range(1, len(body))}
            self.assertEqual(set(hop.ledger.taken), sent)
        hop.close()

    def test_octets_beyond_ascii(self):
        """In header and body, also NUL, in what is declared as 8-bit or binary: a hop without 8BITMIME gets
        none of them. What is not declared is converted if it can be, and else sent as it came."""
        header = b"Subject: Gr\xc3\xbc\xc3\x9fe \xff\r\nFrom: J\xfcrgen <alice@demo.test>\r\n"
        mime = (b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
                b"Content-Transfer-Encoding: 8bit\r\n")
        bodies = [header + b"\r\nplain\r\n", b"Subject: x\r\n\r\n\xff\xfe\r\n", mime + b"\r\n\xc3\xbc\r\n",
                  header + mime + b"\r\n" + b"\xc3\xbc" * 600 + b"\r\n",
                  mime + b"\r\n\xff not UTF-8 \0 NUL\r\n"]
        declared = (b" BODY=8BITMIME", b" BODY=BINARYMIME", b" BODY=8BITMIME SMTPUTF8")
        cases = [(parameters, body) for parameters in declared for body in bodies]
        cases += [(b"", bodies[2]), (b"", mime + b"\r\n" + b"7 bits\r\n")]
        for extensions in ((), ("PIPELINING",), ("CHUNKING", "SMTPUTF8"),
                           ("PIPELINING", "CHUNKING", "8BITMIME")):
            with self.subTest(extensions):
                self.check_octets(extensions, cases)

    def check_octets(self, extensions, cases):
        hop = NextHop(free_port(), faults=0, extensions=extensions)
        with Demo("--shards", "1", "--smarthost", f"127.0.0.1:{hop.port}", *settings()) as demo:
            line, accepted = self.session(demo), []
            for number, (parameters, body) in enumerate(cases, 1):
                self.begin(line, number, parameters)
                line.send(b"BDAT %d LAST\r\n" % len(body) + body)
                if line.reply()[:1] == b"2":
                    accepted.append(number)
            self.assertGreater(len(accepted), 12)
            wait_for(lambda: is_queue_empty(demo), 60, "an empty queue")
            self.assertEqual(hop.ledger.wrong, [])
            reports = [Report(octets) for octets in inbox(demo, "alice").values()]
            returned = [address for report in reports for address in report.by_address()]
            taken = [recipient for _, recipient in hop.ledger.taken]
            self.assertEqual(sorted(taken + returned), sorted(f"ok.{number}@far.test" for number in accepted))
            # What can be converted is not returned.
            # Number 13 asks for SMTPUTF8 and does not need it.
            for number in (3, 8, 13, 16, 17):
                self.assertIn(f"ok.{number}@far.test", taken)
        hop.close()

    def test_only_recipients_beyond_ascii_are_returned(self):
        hop = NextHop(free_port(), faults=0, extensions=("PIPELINING", "8BITMIME"))
        with Demo("--shards", "1", "--smarthost", f"127.0.0.1:{hop.port}", *settings()) as demo:
            line = self.session(demo)
            self.begin(line, 1, b" SMTPUTF8")
            self.say(line, "RCPT TO:<\u00fc@far.test>".encode())
            self.say(line, b"DATA", b"3")
            self.say(line, b"Subject: x\r\n\r\n\xc3\xbc\r\n.")
            wait_for(lambda: is_queue_empty(demo), 30, "an empty queue")
            self.assertEqual((hop.ledger.wrong, list(hop.ledger.taken)), ([], [(1, "ok.1@far.test")]))
            (report,) = inbox(demo, "alice").values()
            self.assertIn(b"\r\nStatus: 5.6.7\r\n", report)
            self.assertIn("\u00fc@far.test".encode(), report)
        hop.close()

    def test_commands_are_not_injected(self):
        hop = NextHop(free_port(), faults=0)
        with Demo("--shards", "1", "--smarthost", f"127.0.0.1:{hop.port}", *settings()) as demo:
            line = self.session(demo)
            for text in (b"<ok.1@far.test>\rRCPT TO:<ok.666@far.test>",
                         b"<ok.1@far.test\r>", b"<ok.1@far.test\0>",
                         b"<ok.1@far.test> NOTIFY=NEVER\rX", b"<ok.1@far.test> ORCPT=rfc822;a+0",
                         b"<ok.1@far.test> ORCPT=rfc822;a\rb"):
                self.say(line, b"MAIL FROM:<alice+ok.1@demo.test>")
                line.send(b"RCPT TO:" + text + b"\r\n")
                self.assertEqual(line.reply()[:1], b"5", text)
                line.send(b"RSET\r\n")
                self.assertEqual(line.reply()[:1], b"2", text)
            # What is encoded stays so for the next hop, and does no harm in a report.
            injected = b"a+0D+0AX-Injected:+20yes"
            self.say(line, b"MAIL FROM:<alice+mail5.2@demo.test> ENVID=" + injected, b"25")
            reply = self.say(line, b"RCPT TO:<ok.2@far.test> NOTIFY=FAILURE ORCPT=rfc822;" + injected, b"25")
            if reply.startswith(b"2"):
                self.say(line, b"DATA", b"3")
                self.say(line, b"Subject: two\r\n\r\nx\r\n.")
                wait_for(lambda: inbox(demo, "alice"), 30, "a report")
                (octets,) = inbox(demo, "alice").values()
                self.assertEqual(list(Report(octets).by_address()), ["ok.2@far.test"])
            self.assertEqual(hop.ledger.wrong, [])
            self.assertEqual(hop.ledger.taken, {})
        hop.close()


if __name__ == "__main__":
    unittest.main(verbosity=2)
