"""Two Ringmails, a Postfix and an Exim with a real DNS server: mail goes every way. All of them run in a
network of their own, with an /etc of their own, so that everyone has port 25 and the resolver of the C
library asks the test's DNS server. Needs root."""

import collections
import email
import email.policy
import os
import pathlib
import re
import shutil
import smtplib
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.request

from demo import ROOT
from knot import Knot
from servers import USERS, Exim, Postfix, Ringmail, unpacked_exim
from test_relay import Report, wait_for

# Set in the process that has the network of its own.
INSIDE = "RINGMAIL_WORLD"
# Only these, e.g. "World.test_a_everyone_to_everyone"; and with KEEP_WORLD its folder in /tmp stays.
SELECTED = os.environ.get("WORLD_TESTS", "").split()
ADDRESSES = {"one": "127.0.1.1", "two": "127.0.1.2", "pf": "127.0.1.3", "ex": "127.0.1.4"}
# Where nobody listens.
DEAD = "127.0.1.9"

# How long mail may take. After the first that did not come, a test does not wait for others.
SECONDS = 30


def zone(name, more=""):
    return f"""
@ MX 10 mx
mx A {ADDRESSES[name]}
dead A {DEAD}
deadfirst MX 5 dead
deadfirst MX 10 mx
direct A {ADDRESSES[name]}
nick CNAME real
real MX 10 mx
null MX 0 .
text TXT "neither MX nor address"
gone MX 10 dead
nohost MX 10 none
{more}
"""


ZONES = {
    ".": "ns.test. A 127.0.0.1",
    # `lame`: nobody answers for it.
    "test": "ns A 127.0.0.1\nlame NS ns.lame\nns.lame A 127.0.0.9",
    # `backup`: two takes its mail while one is away; `second`: Postfix does. `loop`: nobody's.
    "one.test": zone("one", "backup MX 10 mx\nbackup MX 20 mx.two.test.\n"
                            "second MX 10 mx\nsecond MX 20 mx.pf.test."),
    "two.test": zone("two"),
    "pf.test": zone("pf"),
    "ex.test": zone("ex"),
    "loop.test": "@ MX 10 mx.one.test.\n@ MX 20 mx.two.test.",
}


def enter(*more):
    """Into a network with nothing but a loopback, with our addresses and `more`, and an /etc to write in."""
    run = lambda *command: subprocess.run(command, check=True)
    run("ip", "link", "set", "lo", "up")
    # Postfix wants addresses of interfaces; the kernel would take all of 127/8.
    for address in (*ADDRESSES.values(), *more):
        run("ip", "address", "add", f"{address}/32", "dev", "lo")
    run("mount", "--make-rprivate", "/")
    # Nobody outside sees this.
    over = "/mnt"
    run("mount", "-t", "tmpfs", "tmpfs", over)
    for part in ("upper", "work"):
        pathlib.Path(over, part).mkdir()
    run("mount", "-t", "overlay", "overlay", "-o",
        f"lowerdir=/etc,upperdir={over}/upper,workdir={over}/work", "/etc")
    pathlib.Path("/etc/resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1 trust-ad\n")
    pathlib.Path("/etc/hosts").write_text("127.0.0.1 localhost\n")


def bounce_library():
    """Where flufl.bounce, with which Mailman reads reports, is installed."""
    venv = ROOT / "target/bounce-venv"
    if not list(venv.glob("lib/python*/site-packages/flufl/bounce")):
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        subprocess.run([venv / "bin/pip", "install", "-q", "flufl.bounce==6.0.0"], check=True)
    return next(venv.glob("lib/python*/site-packages"))


class Outside(unittest.TestCase):
    """Runs the tests of this file in their own network."""

    @unittest.skipIf(INSIDE in os.environ, "inside")
    @unittest.skipIf(os.geteuid() != 0, "needs root")
    def test_the_world(self):
        # There is no way to Debian, or to PyPI, from inside.
        unpacked_exim()
        bounce_library()
        command = ["unshare", "--net", "--mount", sys.executable, __file__, "-v", *SELECTED]
        done = subprocess.run(command, env={**os.environ, INSIDE: "1"}, timeout=900)
        self.assertEqual(done.returncode, 0)


def message(sender, recipient, subject, body="Hello.\r\n"):
    return (f"From: <{sender}>\r\nTo: <{recipient}>\r\nSubject: {subject}\r\n"
            f"Message-ID: <{subject}@{sender}>\r\nDate: Mon, 01 Jan 2024 00:00:00 +0000\r\n"
            f"\r\n{body}").encode()


@unittest.skipIf(INSIDE not in os.environ, "only in the network of its own")
class World(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        enter()
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="ringmail-world-"))
        cls.folder.chmod(0o755)
        cls.knot = Knot(ZONES, port=53)
        if "KEEP_WORLD" not in os.environ:
            cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        cls.addClassCleanup(cls.knot.close)
        recipients = cls.folder / "backup.recipients"
        recipients.write_text("user1@backup.one.test\n")
        everywhere = ", ".join(f"user2@{name}.test" for name in ("two", "pf", "ex"))
        cls.one = Ringmail("one", ADDRESSES["one"], cls.folder, queue='expire = "8s"\ndelay_warning = "3s"',
                           domains=("backup.one.test", "second.one.test"),
                           aliases=f"all@one.test: {everywhere}\nlost@one.test: nobody@pf.test\n"
                                   "user1@backup.one.test: user1@one.test\n"
                                   "user1@second.one.test: user1@one.test\n"
                                   "ping@one.test: ping@two.test\n",
                           config="[smtp]\nreceived_headers_max = 20\n")
        cls.addClassCleanup(cls.one.close)
        cls.two = Ringmail("two", ADDRESSES["two"], cls.folder, queue='expire = "2m"',
                           config='[smtp]\nreceived_headers_max = 20\n[addresses]\nsrs_domain = "two.test"\n'
                                  '[[route]]\ndomains = ["backup.one.test"]\nto = "mx"\n'
                                  f'recipients_file = "{recipients}"\n',
                           aliases="ping@two.test: ping@one.test\nall@two.test: user2@one.test, user2@pf.test, user2@ex.test\n"
                                   "lost@two.test: nobody@pf.test, nobody@ex.test, nobody@one.test\n")
        cls.addClassCleanup(cls.two.close)
        cls.pf = Postfix("pf", ADDRESSES["pf"], cls.folder, more="""
relay_domains = second.one.test
message_size_limit = 300000
smtputf8_enable = no
smtpd_data_restrictions = check_recipient_access inline:{ { sender@nick.pf.test = REJECT } }
""")
        cls.addClassCleanup(cls.pf.close)
        cls.ex = Exim("ex", ADDRESSES["ex"], cls.folder)
        cls.addClassCleanup(cls.ex.close)
        cls.servers = [cls.one, cls.two, cls.pf, cls.ex]

    def setUp(self):
        self.patience = SECONDS

    def wait(self, condition, what):
        try:
            wait_for(condition, self.patience, what)
        except AssertionError:
            self.patience = 1
            raise

    def arrives(self, server, user, text, count=1):
        """The messages of the mailbox with the text; waited for."""
        if isinstance(text, str):
            text = text.encode()
        self.wait(lambda: len(server.find(user, text)) >= count, f"{text!r} for {user} at {server.name}")
        return server.find(user, text)

    def reports(self, server, user, text):
        """Reports with the text, strictly read: for a Ringmail's own."""
        return [Report(octets) for octets in server.find(user, text.encode()) if Report.is_one(octets)]

    # Mail

    def test_a_everyone_to_everyone(self):
        sent = []
        for source in self.servers:
            for target in self.servers:
                for below in ("", "deadfirst.", "direct.", "nick."):
                    subject = f"way-{source.name}-{target.name}-{below.strip('.') or 'plain'}"
                    recipient = f"user1@{below}{target.domain}"
                    if below and source is target:
                        continue
                    body = "".join(f"{'.' * (n % 4)}line {n} Grüße\r\n" for n in range(40))
                    sender = f"sender@{source.domain}"
                    octets = (f"From: <{sender}>\r\nTo: <{recipient}>\r\nSubject: {subject}\r\n"
                              "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
                              f"Content-Transfer-Encoding: 8bit\r\n\r\n{body}").encode()
                    source.send(sender, [recipient], octets, mail_options=("BODY=8BITMIME",))
                    sent.append((source, target, subject, body))
        for source, target, subject, body in sent:
            with self.subTest(subject):
                found = self.arrives(target, "user1", f"Subject: {subject}\r\n")
                self.assertEqual(len(found), 1)
                parsed = email.message_from_bytes(found[0], policy=email.policy.default)
                self.assertEqual(parsed.get_content().replace("\r\n", "\n").rstrip("\n"),
                                 body.replace("\r\n", "\n").rstrip("\n"))
                if source is not target:
                    self.assertRegex(parsed.get_all("Received")[0], r"(?i)with (esmtps|utf8smtps)\b")

    def test_b_unknown_users_come_back(self):
        sent = []
        for source in self.servers:
            for target in self.servers:
                if source is target:
                    continue
                subject = f"unknown-{source.name}-{target.name}"
                recipients = [f"nobody@{target.domain}", f"user2@{target.domain}"]
                source.send(f"user2@{source.domain}", recipients,
                            message(f"user2@{source.domain}", recipients[0], subject))
                sent.append((source, target, subject))
        for source, target, subject in sent:
            with self.subTest(subject):
                self.assertEqual(len(self.arrives(target, "user2", f"\r\nSubject: {subject}\r\n")), 1)
                found = self.arrives(source, "user2", f"<{subject}@")
                found = [octets for octets in found if b"return-path: <>" in octets.lower()]
                self.assertEqual(len(found), 1, found)
                if isinstance(source, Ringmail):
                    report = Report(found[0])
                    fields = report.by_address()
                    self.assertEqual(list(fields), [f"nobody@{target.domain}"])
                    fields = fields[f"nobody@{target.domain}"]
                    self.assertEqual(fields["Action"], "failed")
                    self.assertEqual(fields["Status"][0], "5")
                    self.assertEqual(fields["Remote-MTA"], f"dns; {target.host}")
                    self.assertIn("550", fields["Diagnostic-Code"])
                    self.assertIn(subject, report.original.as_string())

    def test_c_domains_without_mail(self):
        """Each as soon as it is known."""
        statuses = {"null.pf.test": "5.1.10", "nx.pf.test": "5.1.2", "nowhere": "5.1.2",
                    "text.pf.test": "5.4.4", "loop.test": "5.4.6"}
        self.one.send("user1@one.test", [f"x@{domain}" for domain in statuses],
                      message("user1@one.test", "x", "no-such-domain"))
        for _ in range(SECONDS):
            found = self.reports(self.one, "user1", "Subject: no-such-domain")
            fields = {address: it["Status"] for report in found
                      for address, it in report.by_address().items()}
            if len(fields) == len(statuses):
                break
            time.sleep(1)
        self.assertEqual(fields, {f"x@{domain}": status for domain, status in statuses.items()})
        self.assertEqual(sum(len(report.recipients) for report in found), len(statuses))
        for source in (self.pf, self.ex):
            for domain in ("null.one.test", "nx.two.test"):
                subject = f"no-mail-{source.name}-{domain}"
                source.send(f"user1@{source.domain}", [f"x@{domain}"],
                            message(f"user1@{source.domain}", "x", subject))
                self.arrives(source, "user1", f"<{subject}@")

    def test_c_hosts_that_are_down(self):
        """Their sender is warned once, and told when the time is over."""
        self.one.send("user1@one.test", ["x@gone.pf.test"], message("user1@one.test", "x", "dead-host"))
        self.wait(lambda: len(self.reports(self.one, "user1", "dead-host@")) == 2, "two reports")
        late, over = (report.by_address()["x@gone.pf.test"]
                      for report in self.reports(self.one, "user1", "dead-host@"))
        self.assertEqual((late["Action"], late["Status"]), ("delayed", "4.4.1"))
        self.assertIsNotNone(late["Will-Retry-Until"])
        self.assertEqual((over["Action"], over["Status"]), ("failed", "4.4.7"))
        self.assertIsNone(over["Will-Retry-Until"])

    def test_c_reports_of_each_kind(self):
        """Each refusal is one report, which a strict reader and a kept library understand."""
        big = "x" * 70 + "\r\n"
        # name: (recipient, status, what the text has in it, header, body, options of MAIL)
        kinds = {
            "rcpt": ("nobody@pf.test", "5.1.1", "550 5.1.1"),
            "data": ("sender@nick.pf.test", "5.7.1", "554 5.7.1"),
            "end": ("user1@ex.test", "5.0.0", "550 this message is not wanted", "X-Refuse: please\r\n"),
            "nxdomain": ("x@nx.ex.test", "5.1.2", "does not exist"),
            "null": ("x@null.ex.test", "5.1.10", "null MX"),
            "address": ("x@text.ex.test", "5.4.4", "has an address"),
            "ours": ("x@loop.test", "5.4.6", "loops back"),
            "large": ("user1@pf.test", "5.3.4", "larger", "", big * 6000),
            "utf8": ("user1@pf.test", "5.6.7", "SMTPUTF8", "Comments: Gr\u00fc\u00dfe\r\n", "", ("SMTPUTF8",)),
            "tls": ("user1@pf.test", "5.7.30", "REQUIRETLS", "", "", ("REQUIRETLS",)),
            # From alias to alias.
            "circle": ("ping@one.test", "5.4.6", "Received header fields"),
            "expired": ("x@gone.ex.test", "4.4.7", "in time"),
            "dns": ("x@lame.test", "4.4.7", "MX of lame.test"),
        }
        for name, (recipient, _, _, *rest) in kinds.items():
            header, body, options = (*rest, *("", "", ())[len(rest):])
            octets = header.encode() + message("sender@one.test", recipient, f"kind-{name}", body or "Hello.\r\n")
            self.one.send("sender@one.test", [recipient], octets, mail_options=options)
        for name, (recipient, status, text, *_) in kinds.items():
            with self.subTest(name):
                def found():
                    every = self.reports(self.one, "sender", f"<kind-{name}@")
                    return [it for it in every if it.recipients[0]["Action"] == "failed"]
                self.wait(found, name)
                (report,) = found()
                (fields,) = report.recipients
                final = fields["Final-Recipient"].partition(";")[2].strip()
                if name != "circle":
                    self.assertEqual(final, recipient)
                self.assertEqual(fields["Status"], status)
                self.assertIn(text, fields["Diagnostic-Code"])
                self.assertIn(f"kind-{name}@", report.original.as_string())
                self.assert_library_reads(report)

    def assert_library_reads(self, report):
        """flufl.bounce finds the addresses that failed, as the sender knew them. True if there are some."""
        if str(bounce_library()) not in sys.path:
            sys.path.append(str(bounce_library()))
        from flufl.bounce import all_failures
        found = collections.defaultdict(set)
        for fields in report.recipients:
            address = fields["Original-Recipient"] or fields["Final-Recipient"]
            found[fields["Action"]].add(address.partition(";")[2].strip().replace("+2B", "+"))
        temporary, permanent = all_failures(email.message_from_bytes(report.octets))
        decoded = lambda addresses: {it.decode() if isinstance(it, bytes) else it for it in addresses}
        self.assertEqual((decoded(temporary), decoded(permanent)), (found["delayed"], found["failed"]))
        return bool(found["failed"])

    # Reports

    def test_d_successes_are_reported(self):
        sent = []
        for source in self.servers:
            if not source.dsn:
                continue
            for target in self.servers:
                subject = f"success-{source.name}-{target.name}"
                sender, recipient = f"user1@{source.domain}", f"user1@{target.domain}"
                source.send(sender, [recipient], message(sender, recipient, subject),
                            mail_options=("RET=HDRS", f"ENVID=id+2B{subject}"),
                            rcpt_options=("NOTIFY=SUCCESS,FAILURE", f"ORCPT=rfc822;alias+2B{recipient}"))
                sent.append((source, target, subject))
        for source, target, subject in sent:
            with self.subTest(subject):
                self.arrives(target, "user1", f"\r\nSubject: {subject}\r\n")
                sender, recipient = f"user1@{source.domain}", f"user1@{target.domain}"

                def reports():
                    return [octets for octets in source.find("user1", f"<{subject}@".encode())
                            if Report.is_one(octets)]
                self.wait(reports, subject)
                self.assertEqual(len(reports()), 1)
                octets = reports()[0]
                if b"Postfix" in octets:
                    # Strict only with our own.
                    self.assertIn(b"alias+" + recipient.encode(), octets)
                    continue
                report = Report(octets)
                fields = report.by_address()[recipient]
                last = isinstance(target, Ringmail)
                self.assertEqual(fields["Action"], "delivered" if last else "relayed")
                self.assertEqual(fields["Status"][0], "2")
                self.assertEqual(fields["Original-Recipient"].replace(" ", ""), f"rfc822;alias+{recipient}")
                self.assertEqual(report.about["Original-Envelope-Id"], f"id+{subject}")
                self.assertEqual(report.original.get_content_type(), "text/rfc822-headers")

    def test_d_never_means_never(self):
        sender = "user2@one.test"
        self.one.send(sender, ["nobody@pf.test"], message(sender, "x", "never"), rcpt_options=("NOTIFY=NEVER",))
        self.one.send(sender, ["nobody@pf.test"], message(sender, "x", "rather"))
        self.wait(lambda: self.reports(self.one, "user2", "rather@"), "a report")
        self.assertEqual(self.one.find("user2", b"never@"), [])

    # Aliases

    def test_e_aliases_to_other_servers(self):
        for source in self.servers:
            for target, other in ((self.one, self.two), (self.two, self.one)):
                ends = (other, self.pf, self.ex)
                subject = f"alias-{source.name}-{target.name}"
                source.send(f"sender@{source.domain}", [f"all@{target.domain}"],
                            message(f"sender@{source.domain}", "all", subject))
                for end in ends:
                    with self.subTest(subject, end=end.name):
                        found = self.arrives(end, "user2", f"\r\nSubject: {subject}\r\n")
                        self.assertEqual(len(found), 1)

    def test_e_bounces_of_forwarded_mail(self):
        """By two through a return path of its own, which leads the bounce back."""
        for source in self.servers:
            for target, count in ((self.one, 1), (self.two, 3)):
                subject = f"forwarded-{source.name}-{target.name}"
                # A user of the forwarding server submits it: its own domain stays.
                source.send(f"sender@{source.domain}", [f"lost@{target.domain}"],
                            message(f"sender@{source.domain}", "lost", subject))
                with self.subTest(subject):
                    def failed():
                        found = source.find("sender", f"<{subject}@".encode())
                        return [octets for octets in found if b"report-type=delivery-status" in octets]
                    self.wait(lambda: sum(it.count(b"Final-Recipient:") for it in failed()) >= count, subject)
                    self.assertEqual(sum(octets.count(b"Final-Recipient:") for octets in failed()), count)
                    if target is self.two and source is not self.two:
                        for octets in failed():
                            if b"mx.two.test" in octets:
                                self.assertIn(b"nobody@", octets)

    # Backup

    def test_f_backup_hosts(self):
        """While one is away, two takes the mail of one's users, and of nobody else, and Postfix takes that
        of another domain; with one back, it arrives there."""
        self.assertEqual(self.one.stop(), 0)
        try:
            for source in (self.two, self.pf, self.ex):
                for domain in ("backup", "second"):
                    sender = f"sender@{source.domain}"
                    source.send(sender, [f"user1@{domain}.one.test"],
                                message(sender, "user1", f"{domain}-{source.name}"))
            sender = "sender@ex.test"
            self.ex.send(sender, ["user9@backup.one.test"], message(sender, "user9", "backup-unknown"))
            self.arrives(self.ex, "sender", "<backup-unknown@")
            # At the backup hosts, if not with those who sent it.
            time.sleep(5)
        finally:
            self.one.start()
        for source in (self.two, self.pf, self.ex):
            for domain in ("backup", "second"):
                subject = f"{domain}-{source.name}"
                with self.subTest(subject):
                    found = self.arrives(self.one, "user1", f"\r\nSubject: {subject}\r\n")
                    self.assertEqual(len(found), 1)
                    if (domain, source) == ("backup", self.ex):
                        self.assertIn(b"by mx.two.test", found[0])

    # Many

    def send_many(self, name, at_once):
        """From each server to all others, one message after the other on one connection. {(server, subject)}
        of those that were acknowledged."""
        sent = set()

        def from_one(source):
            others = [target for target in self.servers if target is not source]
            sender = f"user2@{source.domain}"
            for number in range(at_once):
                subject = f"{name}-{source.name}-{number}"
                try:
                    source.send(sender, [f"user2@{target.domain}" for target in others],
                                message(sender, "user2", subject, "x" * 70 + "\r\n" + "y" * 900 + "\r\n"))
                except (OSError, smtplib.SMTPException):
                    continue
                sent.update((target, subject) for target in others)
        threads = [threading.Thread(target=from_one, args=(source,)) for source in self.servers]
        for thread in threads:
            thread.start()
        return sent, threads

    def count_many(self, name):
        found = collections.Counter()
        for server in self.servers:
            for octets in server.messages("user2"):
                subject = re.search(rb"\r\nSubject: (\S+)\r\n", octets)
                if subject and subject[1].decode().startswith(name + "-"):
                    found[(server, subject[1].decode())] += 1
        return found

    def wait_for_many(self, name, sent):
        deadline = time.monotonic() + 2 * SECONDS
        while missing := sent - set(self.count_many(name)):
            ways = collections.Counter((subject.split("-")[1], target.name) for target, subject in missing)
            self.assertLess(time.monotonic(), deadline, f"missing, by way: {ways}")
            time.sleep(0.5)

    def test_g_many_arrive_once(self):
        sent, threads = self.send_many("many", 30)
        for thread in threads:
            thread.join(120)
        self.assertEqual(len(sent), 4 * 3 * 30)
        self.wait_for_many("many", sent)
        time.sleep(1)
        self.assertEqual(self.count_many("many"), dict.fromkeys(sent, 1))

    def test_h_none_is_lost_by_kills(self):
        sent, threads = self.send_many("killed", 40)
        for _ in range(4):
            for server in (self.one, self.two):
                time.sleep(0.5)
                server.kill()
                server.start()
        for thread in threads:
            thread.join(120)
        self.assertGreater(len(sent), 4 * 3 * 10)
        self.wait_for_many("killed", sent)

    def test_y_reports_are_understood(self):
        """All of this file."""
        count = 0
        for server in (self.one, self.two):
            for user in USERS:
                for report in self.reports(server, user, "Reporting-MTA: dns; mx."):
                    if report.about["Reporting-MTA"] not in ("dns; mx.one.test", "dns; mx.two.test"):
                        continue
                    count += self.assert_library_reads(report)
        self.assertGreater(count, 10)

    def test_z_nothing_is_left(self):
        time.sleep(3)
        for server in (self.one, self.two):
            with self.subTest(server.name):
                self.wait(lambda: self.queued(server) == 0, "an empty queue")
        log = "".join((server.folder / "events.log").read_text() for server in (self.one, self.two))
        self.assertNotIn("queue_unreadable", log)
        self.assertNotIn('"event":"damage"', log)

    def queued(self, server):
        with urllib.request.urlopen(f"http://{server.address}:8080/metrics", timeout=20) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines
                   if line.startswith("ringmail_relay_queue_messages"))


if __name__ == "__main__":
    unittest.main()
