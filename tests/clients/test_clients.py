"""Real clients against `ringmail demo`: Python's libraries, curl, swaks, msmtp, mbsync, mutt, getmail."""

import email.message
import imaplib
import os
import pathlib
import poplib
import smtplib
import socket
import ssl
import subprocess
import tempfile
import textwrap
import threading
import time
import unittest
import urllib.request

from demo import BINARY, Demo


def message(subject, body="Hello.\r\n", sender="sender@example.org", to="alice@demo.test"):
    return (f"From: {sender}\r\nTo: {to}\r\nSubject: {subject}\r\n"
            f"Date: Mon, 23 Nov 2026 10:00:00 +0000\r\n"
            f"Message-ID: <{subject.replace(' ', '.')}@example.org>\r\n\r\n{body}")


def free_low_port(but=0):
    """An unused port below 1024."""
    for port in range(700, 1000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port != but:
            return port
    raise RuntimeError("no low port is free")


def untrusting():
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def run(*command, stdin=None, check=True, timeout=60, env=None):
    done = subprocess.run([str(part) for part in command], input=stdin, timeout=timeout, env=env,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if check and done.returncode != 0:
        raise AssertionError(f"{command} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


class ClientCase(unittest.TestCase):
    """One demo for the whole class; each test has its own account."""

    next_user = 0

    @classmethod
    def setUpClass(cls):
        cls.demo = Demo("--users", "60", "--shards", "2")
        cls.addClassCleanup(cls.demo.close)

    def setUp(self):
        ClientCase.next_user += 1
        self.user = f"user{ClientCase.next_user}@demo.test"
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def file(self, name, text):
        path = self.folder / name
        path.write_text(textwrap.dedent(text))
        path.chmod(0o600)
        return path

    def eml(self, subject, body="Hello.\r\n"):
        path = self.folder / "message.eml"
        path.write_bytes(message(subject, body).encode())
        return path

    def deliver(self, subject, body="Hello.\r\n", user=None):
        with smtplib.SMTP("127.0.0.1", self.demo.port["smtp"]) as smtp:
            smtp.sendmail("sender@example.org", [user or self.user],
                          message(subject, body).encode())

    def imap(self, user=None, tls=False):
        if tls:
            client = imaplib.IMAP4_SSL("127.0.0.1", self.demo.port["imaps"],
                                       ssl_context=untrusting())
        else:
            client = imaplib.IMAP4("127.0.0.1", self.demo.port["imap"])
        client.login(user or self.user, "demo")
        self.addCleanup(lambda: client.state == "LOGOUT" or client.shutdown())
        return client

    def subjects(self, mailbox="INBOX", user=None):
        client = self.imap(user)
        status, count = client.select(mailbox, readonly=True)
        self.assertEqual(status, "OK")
        if count == [b"0"]:
            # RFC 3501 9: "*" of an empty mailbox is an error.
            return []
        _, data = client.fetch("1:*", "(BODY.PEEK[HEADER.FIELDS (SUBJECT)])")
        client.logout()
        return [part[1].decode().strip().removeprefix("Subject: ")
                for part in data if isinstance(part, tuple)]


class Sending(ClientCase):
    def test_smtplib_with_starttls_and_login(self):
        with smtplib.SMTP("127.0.0.1", self.demo.port["submission"]) as smtp:
            smtp.starttls(context=untrusting())
            smtp.login(self.user, "demo")
            smtp.sendmail(self.user, [self.user], message("starttls", sender=self.user).encode())
        with smtplib.SMTP_SSL("127.0.0.1", self.demo.port["submissions"],
                              context=untrusting()) as smtp:
            smtp.login(self.user, "demo")
            smtp.sendmail(self.user, [self.user], message("submissions", sender=self.user).encode())
        self.assertEqual(self.subjects(), ["starttls", "submissions"])

    def test_submission_refuses_what_it_must(self):
        with smtplib.SMTP("127.0.0.1", self.demo.port["submission"]) as smtp:
            smtp.ehlo("client.example.org")
            self.assertEqual(smtp.mail(self.user)[0], 530)
            smtp.login(self.user, "demo")
            code, _ = smtp.mail("alice@demo.test")
            self.assertIn(code, (550, 553))
            smtp.rset()
            self.assertEqual(smtp.mail(self.user)[0], 250)
            code, text = smtp.rcpt("someone@elsewhere.example")
            self.assertEqual(code // 100, 5, text)

    def test_port_25_takes_mail_for_its_own_only(self):
        with smtplib.SMTP("127.0.0.1", self.demo.port["smtp"]) as smtp:
            smtp.ehlo("client.example.org")
            smtp.mail("sender@example.org")
            for recipient, codes in (
                (self.user, (250,)),
                (self.user.upper(), (250,)),
                (self.user.replace("@", "+tag@"), (250,)),
                ("nobody@demo.test", (550,)),
                ("someone@elsewhere.example", (550, 551, 554)),
                ("someone%elsewhere.example@demo.test", (550, 551, 554)),
            ):
                code, text = smtp.rcpt(recipient)
                self.assertIn(code, codes, (recipient, text))

    def test_curl_smtp_smtps_starttls_and_lmtp(self):
        path = self.eml("curl")
        port = self.demo.port
        common = ["--silent", "--show-error", "--insecure", "--mail-rcpt", self.user,
                  "--upload-file", path]
        outside = ["--mail-from", "sender@example.org"]
        own = ["--mail-from", self.user, "--user", f"{self.user}:demo"]
        run("curl", "--url", f"smtp://127.0.0.1:{port['smtp']}/me", *outside, *common)
        run("curl", "--url", f"smtp://127.0.0.1:{port['smtp']}/me", "--ssl-reqd", *outside, *common)
        run("curl", "--url", f"smtps://127.0.0.1:{port['submissions']}/me", *own, *common)
        run("curl", "--url", f"smtp://127.0.0.1:{port['submission']}/me", "--ssl-reqd", *own, *common)
        self.assertEqual(self.subjects(), ["curl"] * 4)

    def test_lmtp_answers_each_recipient(self):
        with smtplib.LMTP("127.0.0.1", self.demo.port["lmtp"]) as lmtp:
            refused = lmtp.sendmail("sender@example.org", [self.user, "nobody@demo.test"],
                                    message("lmtp").encode())
            self.assertEqual(list(refused), ["nobody@demo.test"])
        self.assertEqual(self.subjects(), ["lmtp"])

    def test_swaks_plain_tls_lmtp_and_authenticated(self):
        port = self.demo.port
        to = ["--to", self.user, "--server", "127.0.0.1"]
        run("swaks", *to, "--port", port["smtp"], "--from", "s@example.org", "--h-Subject", "one")
        run("swaks", *to, "--port", port["smtp"], "--from", "s@example.org", "--tls",
            "--h-Subject", "two")
        run("swaks", *to, "--port", port["submissions"], "--from", self.user, "--tlsc",
            "--auth", "PLAIN", "--auth-user", self.user, "--auth-password", "demo",
            "--h-Subject", "three")
        run("swaks", *to, "--port", port["submission"], "--from", self.user, "--tls",
            "--auth", "LOGIN", "--auth-user", self.user, "--auth-password", "demo",
            "--h-Subject", "four")
        run("swaks", *to, "--port", port["lmtp"], "--protocol", "LMTP", "--from", "s@example.org",
            "--h-Subject", "five")
        self.assertEqual(self.subjects(), ["one", "two", "three", "four", "five"])

    def test_msmtp(self):
        config = self.file("msmtprc", f"""\
            account default
            host 127.0.0.1
            port {self.demo.port['submission']}
            auth on
            tls on
            tls_starttls on
            tls_certcheck off
            user {self.user}
            password demo
            from {self.user}
            """)
        run("msmtp", "--file", config, self.user, stdin=message("msmtp", sender=self.user))
        self.assertEqual(self.subjects(), ["msmtp"])

    def test_dots_long_lines_and_a_large_message_arrive_unchanged(self):
        body = "".join(f".{'.' * (n % 3)}line {n}\r\n" for n in range(2000)) + "x" * 900 + "\r\n"
        body += "y" * 76 + "\r\n"
        body *= 30
        self.deliver("large", body)
        client = self.imap()
        client.select("INBOX")
        _, data = client.fetch("1", "(RFC822)")
        self.assertEqual(data[0][1].split(b"\r\n\r\n", 1)[1], body.encode())
        pop = poplib.POP3("127.0.0.1", self.demo.port["pop3"])
        pop.user(self.user)
        pop.pass_("demo")
        _, lines, _ = pop.retr(1)
        self.assertEqual(b"\r\n".join(lines[lines.index(b"") + 1:]) + b"\r\n", body.encode())
        pop.quit()


class Reading(ClientCase):
    def test_curl_imap_and_pop3(self):
        self.deliver("for curl")
        login = ["--silent", "--show-error", "--insecure", "--user", f"{self.user}:demo"]
        port = self.demo.port
        for url in (
            f"imap://127.0.0.1:{port['imap']}/INBOX;UID=1",
            f"imaps://127.0.0.1:{port['imaps']}/INBOX;UID=1",
            f"pop3://127.0.0.1:{port['pop3']}/1",
            f"pop3s://127.0.0.1:{port['pop3s']}/1",
        ):
            with self.subTest(url=url):
                self.assertIn("Subject: for curl", run("curl", *login, url))
        for scheme in ("imap", "pop3"):
            with self.subTest(scheme=scheme, tls="upgraded"):
                self.assertNotEqual(run("curl", *login, "--ssl-reqd",
                                        f"{scheme}://127.0.0.1:{port[scheme]}/"), "")
        self.assertIn("INBOX", run("curl", *login, f"imap://127.0.0.1:{port['imap']}/"))

    def test_poplib_whole_session(self):
        for number in range(3):
            self.deliver(f"message {number}")
        pop = poplib.POP3("127.0.0.1", self.demo.port["pop3"])
        pop.stls(untrusting())
        pop.user(self.user)
        pop.pass_("demo")
        self.assertEqual(pop.stat()[0], 3)
        uidls = pop.uidl()[1]
        self.assertEqual(len(set(line.split()[1] for line in uidls)), 3)
        self.assertIn(b"Subject: message 1", pop.top(2, 0)[1])
        pop.dele(2)
        second = poplib.POP3("127.0.0.1", self.demo.port["pop3"])
        second.user(self.user)
        with self.assertRaisesRegex(poplib.error_proto, "IN-USE"):
            second.pass_("demo")
        second.close()
        pop.quit()
        pop = poplib.POP3_SSL("127.0.0.1", self.demo.port["pop3s"], context=untrusting())
        pop.user(self.user)
        pop.pass_("demo")
        self.assertEqual([line.split()[1] for line in pop.uidl()[1]],
                         [uidls[0].split()[1], uidls[2].split()[1]])
        pop.quit()

    def test_imaplib_whole_session(self):
        client = self.imap(tls=True)
        self.assertIn("IDLE", client.capabilities)
        for name in ("Work", "Work/2026", "&AOk-t&AOk-"):
            self.assertEqual(client.create(name)[0], "OK")
        self.assertEqual(client.subscribe("Work")[0], "OK")
        self.assertIn(b"Work", b" ".join(client.lsub()[1]))
        status, _ = client.append("Work", r"(\Flagged custom)", None,
                                  message("appended").encode())
        self.assertEqual(status, "OK")
        self.assertEqual(client.select("Work"), ("OK", [b"1"]))
        status, data = client.fetch("1", "(FLAGS UID RFC822.SIZE ENVELOPE BODYSTRUCTURE)")
        self.assertIn(rb"\Flagged", data[0])
        self.assertIn(b"custom", data[0])
        self.assertIn(b'"appended"', data[0])
        self.assertEqual(client.store("1", "+FLAGS", r"(\Seen)")[0], "OK")
        self.assertEqual(client.search(None, "SEEN", "SUBJECT", "APPEND"), ("OK", [b"1"]))
        self.assertEqual(client.search(None, "BODY", "hello"), ("OK", [b"1"]))
        self.assertEqual(client.search(None, "BODY", "absent"), ("OK", [b""]))
        self.assertEqual(client.copy("1", "INBOX")[0], "OK")
        self.assertEqual(client.copy("1", "Nowhere")[0], "NO")
        self.assertEqual(client.rename("Work", "Play")[0], "OK")
        self.assertEqual(client.store("1", "+FLAGS", r"(\Deleted)")[0], "OK")
        self.assertEqual(client.expunge(), ("OK", [b"1"]))
        names = b" ".join(client.list()[1])
        self.assertIn(b"Play/2026", names)
        self.assertIn(b"&AOk-t&AOk-", names)
        client.close()
        self.assertEqual(client.delete("Play/2026")[0], "OK")
        client.logout()
        self.assertEqual(self.subjects(), ["appended"])

    def test_idle_tells_at_once(self):
        watcher = self.imap()
        watcher.select("INBOX")
        tag = watcher._new_tag()
        watcher.send(tag + b" IDLE\r\n")
        self.assertTrue(watcher.readline().startswith(b"+"))
        watcher.sock.settimeout(10)
        self.deliver("news")
        seen = b""
        while b"1 EXISTS" not in seen:
            seen += watcher.readline()
        other = self.imap()
        other.select("INBOX")
        other.store("1", "+FLAGS", r"(\Flagged)")
        while rb"\Flagged" not in seen:
            seen += watcher.readline()
        other.store("1", "+FLAGS", r"(\Deleted)")
        other.expunge()
        while b"1 EXPUNGE" not in seen:
            seen += watcher.readline()
        watcher.send(b"DONE\r\n")
        while tag not in seen:
            seen += watcher.readline()
        self.assertIn(tag + b" OK", seen)

    def test_mbsync_two_ways(self):
        self.deliver("one")
        self.deliver("two")
        config = self.file("mbsyncrc", f"""\
            IMAPAccount demo
            Host 127.0.0.1
            Port {self.demo.port['imap']}
            User {self.user}
            Pass demo
            SSLType None
            AuthMechs PLAIN

            IMAPStore far
            Account demo

            MaildirStore near
            Path {self.folder}/mail/
            Inbox {self.folder}/mail/INBOX
            SubFolders Verbatim

            Channel demo
            Far :far:
            Near :near:
            Patterns *
            Create Both
            Expunge Both
            SyncState *
            """)
        (self.folder / "mail").mkdir()
        run("mbsync", "-c", config, "demo")
        inbox = self.folder / "mail/INBOX"
        fetched = sorted(inbox.glob("new/*"))
        self.assertEqual(len(fetched), 2)
        # Towards the server: a new message, a flag and a deletion.
        (inbox / "cur/1.local:2,S").write_text(message("three").replace("\r\n", "\n"))
        for path in fetched:
            flag = "T" if "Subject: one" in path.read_text() else "F"
            name = path.name.split(":")[0]
            path.rename(inbox / "cur" / f"{name}:2,{flag}")
        run("mbsync", "-c", config, "demo")
        self.assertEqual(sorted(self.subjects()), ["three", "two"])
        client = self.imap()
        client.select("INBOX", readonly=True)
        self.assertEqual(len(client.search(None, "FLAGGED", "SUBJECT", "two")[1][0].split()), 1)

    def test_mutt_reads_a_folder(self):
        self.deliver("for mutt")
        config = self.file("muttrc", f"""\
            set imap_user="{self.user}"
            set imap_pass="demo"
            set ssl_starttls=no
            set ssl_force_tls=no
            set imap_authenticators="login"
            set header_cache=""
            set quit=yes
            set copy=no
            set delete=no
            set move=no
            push "<display-message><exit><quit>"
            """)
        (self.folder / "Mail").mkdir()
        environment = dict(os.environ, TERM="xterm", HOME=str(self.folder))
        mutt = subprocess.Popen(
            ["timeout", "30", "script", "-qec",
             f"mutt -F {config} -f imap://127.0.0.1:{self.demo.port['imap']}/INBOX", "/dev/null"],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        # Its end of input stays open, else mutt leaves before it has read its keys.
        screen = mutt.stdout.read()
        mutt.wait(40)
        mutt.stdin.close()
        mutt.stdout.close()
        self.assertIn("for mutt", screen)
        self.assertIn("1 kept, 0 deleted", screen)
        # It displayed the message and set the flag on the server.
        client = self.imap()
        client.select("INBOX", readonly=True)
        self.assertEqual(client.search(None, "SEEN"), ("OK", [b"1"]))

    def test_getmail(self):
        self.deliver("for getmail")
        (self.folder / "box/new").mkdir(parents=True)
        (self.folder / "box/cur").mkdir()
        (self.folder / "box/tmp").mkdir()
        self.file("getmailrc", f"""\
            [retriever]
            type = SimplePOP3Retriever
            server = 127.0.0.1
            port = {self.demo.port['pop3']}
            username = {self.user}
            password = demo
            [destination]
            type = Maildir
            path = {self.folder}/box/
            [options]
            delete = true
            """)
        # getmail delivers to nobody as root.
        run("chown", "-R", "nobody", self.folder)
        run("runuser", "-u", "nobody", "--", "getmail", "--getmaildir", self.folder,
            "--rcfile", self.folder / "getmailrc")
        files = list((self.folder / "box/new").iterdir())
        self.assertEqual(len(files), 1)
        self.assertIn("Subject: for getmail", files[0].read_text())
        self.assertEqual(self.subjects(), [])


class Living(unittest.TestCase):
    """Start, stop, restart, accounts."""

    def test_mail_stays_over_a_restart_and_sigterm_exits_0(self):
        with Demo() as demo:
            with smtplib.SMTP("127.0.0.1", demo.port["smtp"]) as smtp:
                smtp.sendmail("s@example.org", ["alice@demo.test", "bob@demo.test"],
                              message("kept").encode())
            self.assertEqual(demo.stop(), 0)
            demo.start()
            for user in ("alice", "bob"):
                client = imaplib.IMAP4("127.0.0.1", demo.port["imap"])
                client.login(f"{user}@demo.test", "demo")
                self.assertEqual(client.select(), ("OK", [b"1"]))
                client.logout()

    def test_a_directory_by_its_relative_name(self):
        with tempfile.TemporaryDirectory() as folder:
            before = os.getcwd()
            os.chdir(folder)
            try:
                with Demo(directory="ringmail-demo") as demo:
                    client = imaplib.IMAP4("127.0.0.1", demo.port["imap"])
                    client.login("alice@demo.test", "demo")
                    client.logout()
            finally:
                os.chdir(before)

    def test_ready_within_two_seconds_with_ten_thousand_users(self):
        with Demo("--users", "10000") as demo:
            self.assertLess(demo.started_in, 2.0)
            client = imaplib.IMAP4("127.0.0.1", demo.port["imap"])
            client.login("user10000@demo.test", "demo")
            client.logout()

    def test_imported_users_log_in_at_once(self):
        with Demo() as demo, tempfile.NamedTemporaryFile("w", suffix=".txt") as users:
            users.write("carol@demo.test secret1\ndave@demo.test secret2\n")
            users.flush()
            run(BINARY, "user", "import", users.name, "--dir", demo.directory)
            listing = run(BINARY, "user", "list", "--dir", demo.directory)
            for address in ("alice@demo.test", "carol@demo.test", "dave@demo.test"):
                self.assertIn(address, listing)
            client = imaplib.IMAP4("127.0.0.1", demo.port["imap"])
            client.login("carol@demo.test", "secret1")
            client.logout()
            run(BINARY, "user", "passwd", "carol@demo.test", "--password-stdin",
                "--dir", demo.directory, stdin="changed\n")
            client = imaplib.IMAP4("127.0.0.1", demo.port["imap"])
            with self.assertRaises(imaplib.IMAP4.error):
                client.login("carol@demo.test", "secret1")
            client.login("carol@demo.test", "changed")
            client.logout()
            run(BINARY, "user", "remove", "dave@demo.test", "--dir", demo.directory)
            client = imaplib.IMAP4("127.0.0.1", demo.port["imap"])
            with self.assertRaises(imaplib.IMAP4.error):
                client.login("dave@demo.test", "secret2")
            client.shutdown()

    @unittest.skipUnless(os.geteuid() == 0, "binds low ports as root")
    def test_serve_binds_as_root_and_runs_as_nobody(self):
        with tempfile.TemporaryDirectory() as folder:
            os.chmod(folder, 0o755)
            port = free_low_port()
            config = pathlib.Path(folder, "ringmail.toml")
            services = ("submission", "submissions", "lmtp", "pop3", "pop3s", "imaps", "admin")
            config.write_text(
                'hostname = "mail.example.org"\ndomains = ["example.org"]\ndata_dir = "data"\n'
                'user = "nobody"\ngroup = "nogroup"\n[listen]\n'
                f'smtp = ["127.0.0.1:{port}"]\nimap = ["127.0.0.1:{free_low_port(port)}"]\n'
                + "".join(f"{service} = []\n" for service in services)
                + "[runtime]\nconnections_per_shard = 1000\n")
            run(BINARY, "user", "add", "alice@example.org", "--password-stdin", "--config", config,
                stdin="secret\n")
            self.assertIn("ok", run(BINARY, "check", "--config", config))
            server = subprocess.Popen([str(BINARY), "serve", "--config", str(config)],
                                      stdout=subprocess.PIPE, text=True)
            try:
                self.assertEqual(server.stdout.readline(), "ringmail: ready\n")
                status = pathlib.Path(f"/proc/{server.pid}/status").read_text()
                self.assertRegex(status, r"Uid:\t(?!0\t)(\d+)\t\1\t\1\t\1\n")
                with smtplib.SMTP("127.0.0.1", port) as smtp:
                    smtp.sendmail("s@example.org", ["alice@example.org"], message("low").encode())
            finally:
                server.terminate()
                code = server.wait(30)
                server.stdout.close()
            self.assertEqual(code, 0)

    def test_a_second_server_on_the_directory_is_refused(self):
        with Demo() as demo:
            done = subprocess.run([str(BINARY), "demo", "--dir", demo.directory, "--port-base",
                                   str(demo.base + 1)], capture_output=True, text=True, timeout=20)
            self.assertEqual(done.returncode, 1)
            self.assertIn("another ringmail", done.stderr)

    def test_metrics_and_health(self):
        with Demo() as demo:
            with smtplib.SMTP("127.0.0.1", demo.port["smtp"]) as smtp:
                smtp.sendmail("s@example.org", ["alice@demo.test"], message("counted").encode())
            url = f"http://127.0.0.1:{demo.port['admin']}"
            text = urllib.request.urlopen(f"{url}/metrics", timeout=10).read().decode()
            self.assertRegex(text, r'(?i)smtp.*\n')
            self.assertRegex(text, r'command="(DATA|data)"')
            self.assertEqual(urllib.request.urlopen(f"{url}/healthz", timeout=10).status, 200)


if __name__ == "__main__":
    unittest.main(verbosity=2)
