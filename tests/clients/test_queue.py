"""`ringmail queue`, `explain` and `trace` beside a next hop that refuses, is silent, or takes mail."""

import imaplib
import json
import os
import shutil
import signal
import smtplib
import socket
import socketserver
import subprocess
import tempfile
import threading
import time
import unittest
import urllib.request

from demo import BINARY, Demo


class NextHop(socketserver.ThreadingTCPServer):
    """An SMTP server whose `mood` is `refuse` (450 to RCPT), `silent` (no greeting) or `take`."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Conversation)
        self.mood = "refuse"
        self.taken = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def name(self):
        return f"127.0.0.1:{self.server_address[1]}"


class Conversation(socketserver.StreamRequestHandler):
    def say(self, line):
        self.wfile.write(line + b"\r\n")

    def handle(self):
        try:
            self.converse()
        except OSError:
            pass

    def converse(self):
        if self.server.mood == "silent":
            self.connection.recv(1)
            return
        self.say(b"220 next.test")
        while line := self.rfile.readline():
            verb = line.split(b" ")[0].strip().upper()
            if verb == b"EHLO":
                self.say(b"250-next.test\r\n250 PIPELINING")
            elif verb == b"RCPT" and self.server.mood == "refuse":
                self.say(b"450 4.2.1 the mailbox is full of sand")
            elif verb == b"DATA":
                if self.server.mood == "refuse":
                    self.say(b"503 5.5.1 no recipients")
                    continue
                self.say(b"354 go on")
                while self.rfile.readline() != b".\r\n":
                    pass
                self.server.taken.append(line)
                self.say(b"250 2.0.0 taken")
            elif verb == b"QUIT":
                self.say(b"221 bye")
                return
            else:
                self.say(b"250 2.0.0 ok")


class Store(socketserver.ThreadingUnixStreamServer):
    """An LMTP server (RFC 2033) at a path, which knows everybody but `nobody`, and at the end of a message
    finds the mailbox of `full` full."""

    daemon_threads = True

    def __init__(self, path):
        super().__init__(path, StoreSession)
        self.taken = []
        self.sessions = 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def close(self):
        self.shutdown()
        self.server_close()


class StoreSession(socketserver.StreamRequestHandler):
    def handle(self):
        self.server.sessions += 1
        self.wfile.write(b"220 store.test LMTP\r\n")
        recipients = []
        while line := self.rfile.readline():
            verb, reply = line[:4].upper(), b"250 2.0.0 ok"
            if verb == b"LHLO":
                reply = b"250-store.test\r\n250-PIPELINING\r\n250 8BITMIME"
            elif verb in (b"EHLO", b"HELO"):
                reply = b"500 5.5.1 this is LMTP"
            elif verb == b"RCPT" and b"<nobody@" in line:
                reply = b"550 5.1.1 no such user"
            elif verb == b"RCPT":
                recipients.append(line[9:-3].decode())
            elif verb == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                content = b""
                while (text := self.rfile.readline()) != b".\r\n":
                    content += text
                full = [name for name in recipients if name.startswith("full@")]
                self.server.taken += [(name, content) for name in recipients if name not in full]
                reply = b"\r\n".join(b"552 5.2.2 full" if name in full else b"250 2.0.0 kept"
                                     for name in recipients)
                recipients = []
            elif verb == b"QUIT":
                reply = b"221 2.0.0 bye"
            self.wfile.write(reply + b"\r\n")
            if verb == b"QUIT":
                return


def wait_until(test, what, seconds=20):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = test()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {what}")


class QueueTest(unittest.TestCase):
    def setUp(self):
        self.hop = NextHop()
        self.addCleanup(self.hop.server_close)
        self.addCleanup(self.hop.shutdown)
        self.demo = Demo("--shards", 2, "--smarthost", self.hop.name,
                         "--set", 'queue.retry=["1h"]', "--set", "queue.connections_per_site=4")
        self.addCleanup(self.demo.close)

    def run_verb(self, *arguments, verb="queue"):
        command = [str(BINARY), verb, *map(str, arguments), "--dir", self.demo.directory]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout, done.stderr

    def lines(self, *arguments, verb="queue", code=0):
        returned, out, err = self.run_verb(*arguments, "--json", verb=verb)
        self.assertEqual(returned, code, err)
        return [json.loads(line) for line in out.splitlines()]

    def submit(self, user, *recipients, text="hello", port="submission"):
        with smtplib.SMTP("127.0.0.1", self.demo.port[port]) as client:
            client.login(f"{user}@demo.test", "demo")
            client.sendmail(f"{user}@demo.test", list(recipients), f"Subject: x\r\n\r\n{text}\r\n")

    def wait_deferred(self, count):
        def deferred():
            found = self.lines("list", "--error", "4.2.1")
            return found if len(found) == count else None
        return wait_until(deferred, f"{count} messages deferred")

    def test_each_address_gets_one_copy(self):
        with open(os.path.join(self.demo.directory, "aliases"), "w") as aliases:
            aliases.write("team@demo.test: bob, r1@a.test, r2@a.test\n")
        os.kill(self.demo.process.pid, signal.SIGHUP)
        wait_until(self.alias_is_known, "the alias is known")
        self.submit("alice", "team@demo.test", "r1@a.test", "r1@a.test", "r3@b.test")
        (found,) = self.wait_deferred(1)
        self.assertEqual(sorted(found["recipients"]), ["r1@a.test", "r2@a.test", "r3@b.test"])

    def alias_is_known(self):
        with smtplib.SMTP("127.0.0.1", self.demo.port["smtp"]) as client:
            client.ehlo()
            client.mail("x@example.org")
            return client.rcpt("team@demo.test")[0] == 250

    def test_mail_is_tried_on_request(self):
        self.submit("alice", "r1@a.test", "r2@deep.a.test", "r3@b.test")
        self.wait_deferred(1)
        with smtplib.SMTP("127.0.0.1", self.demo.port["smtp"]) as client:
            client.ehlo()
            self.assertFalse(client.has_extn("etrn"))
            self.assertEqual(client.docmd("ETRN a.test")[0], 502)
            self.assertEqual(client.docmd("EXPN bob@demo.test")[0], 502)
        self.demo.close()
        self.demo = Demo("--shards", 2, "--smarthost", self.hop.name, "--set", 'queue.retry=["1h"]',
                         "--set", 'smtp.etrn="trusted"', "--set", 'smtp.expn="trusted"')
        self.addCleanup(self.demo.close)
        with open(os.path.join(self.demo.directory, "aliases"), "w") as aliases:
            aliases.write("team@demo.test: bob, office, R1@a.test\noffice: alice\n"
                          "many: " + ", ".join(f"m{number}@a.test" for number in range(101)) + "\n")
        os.kill(self.demo.process.pid, signal.SIGHUP)
        wait_until(self.alias_is_known, "the alias is known")
        for number, recipient in enumerate(["r1@a.test", "r2@deep.a.test", "r3@b.test"]):
            self.submit("alice", recipient, text=f"message {number}")
        self.wait_deferred(3)
        with smtplib.SMTP("127.0.0.1", self.demo.port["smtp"]) as client:
            client.ehlo()
            self.assertFalse(client.has_extn("etrn") or client.has_extn("expn"))
            self.assertEqual(client.docmd("ETRN a.test")[0], 502)
            self.assertEqual(client.docmd("EXPN team")[0], 502)
        with smtplib.SMTP("127.0.0.1", self.demo.port["submission"]) as client:
            client.login("alice@demo.test", "demo")
            client.ehlo()
            self.assertTrue(client.has_extn("etrn") and client.has_extn("expn"))
            members = (250, b"2.1.5 <bob@demo.test>\n2.1.5 <office@demo.test>\n2.1.5 <R1@a.test>")
            self.assertEqual(client.docmd("EXPN team"), members)
            self.assertEqual(client.docmd("EXPN <team@demo.test>"), members)
            for name, code in [("bob", 250), ("nobody", 550), ("x@a.test", 252), ("many", 252),
                               ("two words", 553)]:
                self.assertEqual(client.docmd(f"EXPN {name}")[0], code, name)
            self.hop.mood = "take"
            for node, answer in [
                ("c.test", (251, b"2.0.0 No messages are waiting for c.test")),
                ("demo.test", (459, b"4.7.1 demo.test not allowed: its mail is kept here")),
                ("#a.test", (458, b"4.3.0 Unable to queue messages for #a.test now")),
                ("A.test", (253, b"2.0.0 1 pending messages for A.test started")),
                ("a.test", (458, b"4.3.0 Unable to queue messages for a.test now")),
            ]:
                self.assertEqual(client.docmd(f"ETRN {node}"), answer)
            wait_until(lambda: len(self.hop.taken) == 1, "the mail of a.test")
            # The domain itself has no more.
            self.assertEqual(client.docmd("ETRN @a.test")[0], 253)
            wait_until(lambda: len(self.hop.taken) == 2, "the mail below a.test")
        (left,) = self.lines("list")
        self.assertEqual(left["recipients"], ["r3@b.test"])

    def test_a_store_at_a_socket(self):
        self.demo.close()
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        path = os.path.join(folder, "lmtp")
        route = f'route=[{{domains=["far.test"],to="lmtp",host="unix:{path}"}}]'
        self.demo = Demo("--shards", 1, "--set", route, "--set", 'queue.retry=["300ms"]')
        self.addCleanup(self.demo.close)
        self.submit("alice", "early@far.test", text="waits")
        # Nobody listens yet.
        wait_until(lambda: self.lines("list", "--error", "4.4.1"), "a message that waits")
        store = Store(path)
        self.addCleanup(store.close)
        wait_until(lambda: len(store.taken) == 1, "the message that waited")
        self.submit("alice", "one@far.test", "full@far.test", "nobody@far.test", "two@far.test")
        large = "x" * 70 + "\r\n"
        self.submit("alice", "three@far.test", text=large * 20_000)
        wait_until(lambda: not self.lines("list"), "an empty queue")
        self.assertEqual(sorted(name for name, _ in store.taken),
                         [f"{name}@far.test" for name in ("early", "one", "three", "two")])
        contents = dict(store.taken)
        self.assertEqual(contents["three@far.test"].count(large.encode()), 20_000)
        self.assertLessEqual(store.sessions, 3)
        with imaplib.IMAP4("127.0.0.1", self.demo.port["imap"]) as imap:
            imap.login("alice@demo.test", "demo")
            imap.select()
            (_, found) = imap.fetch("1:*", "(BODY.PEEK[])")
        reports = b"".join(part[1] for part in found if isinstance(part, tuple))
        statuses = [reports.count(b"\r\nStatus: %s\r\n" % status) for status in (b"5.1.1", b"5.2.2")]
        self.assertEqual(statuses, [1, 1])
        self.assertNotIn(path.encode(), reports)
        (way,) = self.lines("far.test", verb="explain")
        self.assertEqual((way["site"], way["problem"]), (f"unix:{path}", None))
        self.assertIn(f"LMTP to unix:{path};", way["route"])

    def test_the_limit_holds_for_aliases_too(self):
        self.demo.close()
        self.demo = Demo("--shards", 1, "--smarthost", self.hop.name, "--set", 'queue.retry=["1h"]',
                         "--set", "queue.messages_per_partition=2")
        self.addCleanup(self.demo.close)
        with open(os.path.join(self.demo.directory, "aliases"), "w") as aliases:
            aliases.write("away@demo.test: away@a.test\n")
        self.demo.stop()
        self.demo.start()
        for number in range(2):
            self.submit("alice", f"r{number}@a.test")
        self.wait_deferred(2)
        with smtplib.SMTP("127.0.0.1", self.demo.port["smtp"]) as client:
            client.ehlo()
            client.mail("x@example.org")
            code, text = client.rcpt("away@demo.test")
            self.assertEqual((code, text[:5]), (452, b"4.3.1"))
            self.assertEqual(client.rcpt("bob@demo.test")[0], 250)

    def test_a_program_is_told_all_messages(self):
        with smtplib.SMTP("127.0.0.1", self.demo.port["submission"]) as client:
            client.login("alice@demo.test", "demo")
            for number in range(102):
                client.sendmail("alice@demo.test", [f"r{number}@a.test"], "Subject: x\r\n\r\nhello\r\n")
        found = self.lines("list")
        numbers = [[int(part) for part in it["id"].split("-")] for it in found]
        self.assertEqual((len(found), numbers), (102, sorted(numbers)))
        self.assertEqual(len(self.lines("list", "--limit", "7")), 7)
        code, out, err = self.run_verb("list")
        self.assertEqual(code, 0)
        self.assertIn("2 more are not shown (--limit 0 shows all)", err)
        self.assertEqual(len([line for line in out.splitlines() if not line.startswith(" ")]), 100)

    def test_lists_and_filters(self):
        for number in range(4):
            self.submit("alice", f"r{number}@a.test", f"s{number}@b.test")
        self.submit("bob", "one@c.test", text="x" * 20_000)
        found = self.wait_deferred(5)
        self.assertEqual([it["id"] for it in found], sorted((it["id"] for it in found),
                         key=lambda it: [int(part) for part in it.split("-")]))
        first = found[0]
        for name in ("id", "arrived", "age", "expires", "octets", "origin", "priority", "held", "sender",
                     "recipient_count", "recipients", "destinations"):
            self.assertIn(name, first)
        self.assertEqual(first["origin"], "submission")

        def count(*filters):
            return len(self.lines("list", *filters))
        self.assertEqual(count("--sender", "ALICE"), 4)
        self.assertEqual(count("--recipient", "r3@"), 1)
        self.assertEqual(count("--domain", "B.test"), 4)
        self.assertEqual(count("--site", self.hop.name), 5)
        self.assertEqual(count("--larger", "10KiB"), 1)
        self.assertEqual(count("--smaller", "10KiB"), 4)
        self.assertEqual(count("--older", "1h"), 0)
        self.assertEqual(count("--younger", "1h"), 5)
        self.assertEqual(count("--error", "full of SAND"), 5)
        self.assertEqual(count("--error", "450"), 5)
        self.assertEqual(count("--error", "5."), 0)
        self.assertEqual(count("--held"), 0)
        self.assertEqual(count(first["id"], found[1]["id"]), 2)
        code, out, err = self.run_verb("list", "--limit", "2")
        self.assertEqual(code, 0)
        self.assertIn("3 more are not shown", err)
        self.assertEqual(len([line for line in out.splitlines() if not line.startswith(" ")]), 2)
        everything = self.lines("list", "--limit", "0")
        self.assertEqual(len(everything), 5)
        # All of a few messages are told with their replies.
        self.assertTrue(all(part["problem"]["is_reply"] for it in everything for part in it["destinations"]))
        for verb in ("hold", "cancel"):
            code, _, err = self.run_verb(verb, "--domain", "nowhere.test")
            self.assertEqual((code, err), (0, "ringmail: no message matches\n"), verb)

        total, *rows = self.lines("shape")
        self.assertEqual((total["domain"], total["recipients"], total["by_age"][0]), (None, 9, 9))
        self.assertEqual({row["domain"]: row["recipients"] for row in rows}, {"a.test": 4, "b.test": 4, "c.test": 1})
        _, *rows = self.lines("shape", "--by-sender", "--domain", "a.test")
        self.assertEqual([(row["domain"], row["recipients"]) for row in rows], [("demo.test", 8)])

        (shown,) = self.lines("show", first["id"])
        self.assertEqual([it["attempts"] for it in shown["recipients_left"]], [1, 1])
        problem = shown["recipients_left"][0]["last_problem"]
        self.assertEqual((problem["status"], problem["is_reply"]), ("4.2.1", True))
        self.assertIn("sand", problem["reason"])
        code, out, err = self.run_verb("show", first["id"], "0-9-999999")
        self.assertEqual((code, err), (1, "ringmail: 0-9-999999: no such message in the queue\n"))
        self.assertIn("sand", out)

        # The same from disk, after the server ended.
        self.demo.stop()
        self.assertEqual([it["id"] for it in self.lines("list")], [it["id"] for it in found])
        self.assertEqual(count("--error", "full of sand"), 5)
        self.assertEqual(self.lines("shape")[0]["recipients"], 9)
        code, _, err = self.run_verb("cancel", "--all", "--yes")
        self.assertEqual(code, 1)
        self.assertIn("no server runs here", err)
        self.demo.start()
        wait_until(lambda: count() == 5, "the queue is read again")

    def test_steering(self):
        for number in range(6):
            self.submit("alice", f"r{number}@a.test")
        ids = [it["id"] for it in self.wait_deferred(6)]
        self.assertEqual(self.lines("hold", ids[0], ids[1])[0]["done"], 2)
        self.assertEqual([it["id"] for it in self.lines("list", "--held")], ids[:2])

        dry = self.lines("cancel", ids[0])
        self.assertEqual((dry[0]["dry_run"], dry[0]["messages"], dry[0]["first"]), (True, 1, [ids[0]]))
        self.assertEqual(len(self.lines("list")), 6)
        self.assertEqual(self.lines("cancel", ids[0], "--yes")[0]["done"], 1)
        code, out, err = self.run_verb("cancel", ids[0], "--yes")
        self.assertEqual((code, out), (1, "cancelled 0 messages\n"))
        self.assertIn(f"{ids[0]}: no such message", err)
        code, _, _ = self.run_verb("bounce", ids[2])
        self.assertEqual((code, len(self.lines("list"))), (0, 5))
        self.assertEqual(self.lines("bounce", ids[2], "--yes", "--reason", "not today")[0]["done"], 1)
        self.assertEqual(self.run_verb("release")[0], 2)
        self.assertEqual(self.run_verb("flush", "--all", "--sender", "a")[0], 2)

        # What is held stays, also over a restart; all else goes.
        self.demo.kill()
        self.demo.start()
        wait_until(lambda: len(self.lines("list", "--held")) == 1, "still held")
        self.hop.mood = "take"
        self.lines("flush", "--all")
        wait_until(lambda: len(self.hop.taken) == 3, "three are sent")
        wait_until(lambda: len(self.lines("list")) == 1, "one is left")
        self.assertEqual(self.lines("requeue", ids[1])[0]["done"], 1)
        wait_until(lambda: len(self.hop.taken) == 4, "all are sent")
        wait_until(lambda: self.lines("list") == [], "none is left")

    def test_a_silent_host(self):
        self.hop.mood = "silent"
        for number in range(10):
            self.submit("alice", f"r{number}@a.test")
        wait_until(lambda: len(self.lines("list")) == 10, "queued")
        (explained,) = self.lines("a.test", verb="explain")
        self.assertEqual(explained["site"], self.hop.name)
        self.assertIn("relay to 127.0.0.1", explained["route"])
        self.assertEqual(explained["hosts"][0]["addresses"], ["127.0.0.1"])
        wait_until(lambda: sum(site["connections"] for site in self.lines("a.test", verb="explain")[0]["sites"]) >= 1,
                   "connections are open")
        # Those that nobody is sending yet can be taken away.
        wait_until(lambda: self.lines("cancel", "--all", "--yes")[0]["done"] == 10 or self.lines("list") == [], "gone")

    def test_explain(self):
        self.submit("alice", "r@a.test")
        (message,) = self.wait_deferred(1)
        (explained,) = self.lines(message["id"], verb="explain")
        self.assertEqual(explained["message"]["id"], message["id"])
        self.assertEqual(explained["ways"][0]["site"], self.hop.name)
        (here,) = self.lines("bob+x@demo.test", verb="explain")
        self.assertEqual((here["result"], len(here["accounts"])), ("mailbox", 1))
        (unknown,) = self.lines("nobody@demo.test", verb="explain")
        self.assertEqual(unknown["result"], "unknown")
        (away,) = self.lines("r@a.test", verb="explain")
        self.assertEqual((away["remote"], away["ways"][0]["domain"]), (["r@a.test"], "a.test"))
        self.assertEqual(self.run_verb("0-9-999999", verb="explain")[0], 1)
        code, out, _ = self.run_verb("r@a.test", verb="explain")
        self.assertEqual(code, 0)
        self.assertIn("route: a route: relay to", out)

    def test_trace_and_metrics(self):
        command = [str(BINARY), "trace", "wanted@a.test", "--dir", self.demo.directory]
        tracer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.addCleanup(tracer.stdout.close)
        self.addCleanup(tracer.wait)
        self.addCleanup(tracer.kill)
        time.sleep(1.5)
        self.submit("alice", "other@b.test")
        self.submit("bob", "wanted@a.test")
        seen = []
        reader = threading.Thread(target=lambda: seen.extend(iter(tracer.stdout.readline, "")), daemon=True)
        reader.start()
        wait_until(lambda: any("attempt" in line for line in seen), "the attempt is traced")
        time.sleep(0.3)
        lines = [json.loads(line) for line in list(seen)]
        events = [line["event"] for line in lines]
        self.assertIn("message", events)
        said = [(line["event"], line["line"]) for line in lines if "line" in line]
        self.assertIn(("sent", "RCPT TO:<wanted@a.test>"), said)
        self.assertTrue(any(event == "heard" and "sand" in line for event, line in said), said)
        self.assertFalse(any("hello" in line or "demo\n" in line for line in seen))
        self.assertFalse(any(line.get("to") == "other@b.test" for line in lines), lines)

        page = urllib.request.urlopen(f"http://127.0.0.1:{self.demo.port['admin']}/metrics").read().decode()
        values = {}
        for line in page.splitlines():
            if not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                values[name] = float(value)

        def total(begin, needle=""):
            return sum(value for name, value in values.items() if name.startswith(begin) and needle in name)
        self.assertEqual(total("ringmail_relay_queue_messages{"), 2)
        self.assertGreater(total("ringmail_relay_queue_bytes{"), 100)
        site = f'site="{self.hop.name}"'
        self.assertEqual(total("ringmail_relay_site_deferred_total{", site), 2)
        self.assertEqual(total("ringmail_relay_site_ready{", site), 0)
        for stage in ("CONNECT", "GREETING", "TRANSACTION"):
            self.assertGreater(total("ringmail_command_duration_seconds_count{", f'command="{stage}"'), 0, stage)


if __name__ == "__main__":
    unittest.main()
