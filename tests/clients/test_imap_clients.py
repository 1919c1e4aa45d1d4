"""IMAP clients with minds of their own against `ringmail demo`: mutt (with COMPRESS) and neomutt, both with
QRESYNC, offlineimap, fetchmail, aerc (by go-imap), IMAPClient and ImapFlow. Those from PyPI and npm are installed into target/."""

import fcntl
import json
import os
import pathlib
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
import unittest

from demo import ROOT
from test_clients import ClientCase, message, run

VENV = ROOT / "target/imap-venv"
NODE = ROOT / "target/imap-node"
IMAPCLIENT, IMAPFLOW = "3.0.1", "1.1.1"


def python_with_imapclient():
    if not list(VENV.glob("lib/python*/site-packages/imapclient")):
        run(sys.executable, "-m", "venv", VENV, timeout=120)
        run(VENV / "bin/pip", "install", "-q", f"imapclient=={IMAPCLIENT}", timeout=120)
    return VENV / "bin/python"


def folder_with_imapflow():
    if not (NODE / "node_modules/imapflow").exists():
        NODE.mkdir(parents=True, exist_ok=True)
        run("npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", NODE,
            f"imapflow@{IMAPFLOW}", timeout=180)
    return NODE


class Screen:
    """A program on a terminal of 120 columns and 40 lines."""

    def __init__(self, command, environment):
        self.process, self.terminal = pty.fork()
        if self.process == 0:
            os.execvpe(command[0], command, environment)
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        self.shown = ""

    def wait_for(self, text):
        """Until the program has written the text, in one piece."""
        deadline = time.monotonic() + 30
        while text not in self.shown:
            if time.monotonic() > deadline:
                raise AssertionError(f"{text!r} is not in {self.shown[-3000:]!r}")
            if select.select([self.terminal], [], [], 0.5)[0]:
                self.shown += os.read(self.terminal, 65536).decode(errors="replace")

    def type(self, keys):
        self.shown = ""
        os.write(self.terminal, keys.encode())

    def close(self):
        os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        os.close(self.terminal)


class ImapClients(ClientCase):
    def flags(self, key, mailbox="INBOX"):
        """The subjects of the messages that a search finds."""
        client = self.imap()
        client.select(mailbox, readonly=True)
        numbers = client.search(None, key)[1][0].split()
        found = []
        for number in numbers:
            _, data = client.fetch(number, "(BODY.PEEK[HEADER.FIELDS (SUBJECT)])")
            found.append(data[0][1].decode().strip().removeprefix("Subject: "))
        client.logout()
        return found

    def mutt(self, program, more, keys):
        """Runs it on the INBOX, pressing `keys`; returns the dialogue."""
        config = self.file("muttrc", f"""\
            {more}
            set imap_user="{self.user}"
            set imap_pass="demo"
            set ssl_starttls=no
            set ssl_force_tls=no
            set imap_authenticators="login"
            set imap_condstore=yes
            set imap_qresync=yes
            set header_cache="{self.folder}/cache"
            set confirmappend=no
            set confirmcreate=no
            set quit=yes
            set copy=no
            set delete=yes
            set move=no
            set wait_key=no
            push "{keys}"
            """)
        for name in ("cache", "Mail"):
            (self.folder / name).mkdir(exist_ok=True)
        environment = dict(os.environ, TERM="xterm", HOME=str(self.folder))
        client = subprocess.Popen(
            ["timeout", "40", "script", "-qec",
             f"{program} -F {config} -f imap://127.0.0.1:{self.demo.port['imap']}/INBOX",
             "/dev/null"],
            env=environment, cwd=self.folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        # Its end of input stays open, else it leaves before it has read its keys.
        screen = client.stdout.read().decode(errors="replace")
        client.wait(50)
        client.stdin.close()
        client.stdout.close()
        self.assertEqual(client.returncode, 0, screen)
        logs = [*self.folder.glob(".muttdebug*"), *self.folder.glob("debug*")]
        told = "".join(path.read_text(errors="replace") for path in logs)
        for path in logs:
            path.unlink()
        return told

    def test_mutt_with_qresync_and_compress(self):
        told = self.follows_a_folder("mutt -d 3", "set imap_deflate=yes")
        self.assertIn("COMPRESS DEFLATE", told)

    def test_neomutt_with_qresync(self):
        self.follows_a_folder(f"neomutt -d 3 -l {self.folder}/debug", "")

    def follows_a_folder(self, program, more):
        for subject in ("one", "two", "three"):
            self.deliver(subject)
        first = self.mutt(program, more, "<display-message><exit><quit>")
        self.assertIn("ENABLE QRESYNC", first)
        self.assertEqual(self.flags("SEEN"), ["one"])
        # Somebody else changes the folder between two of its sessions.
        other = self.imap()
        other.select("INBOX")
        other.store("2", "+FLAGS", r"(\Deleted)")
        other.expunge()
        other.store("2", "+FLAGS", r"(\Flagged)")
        other.logout()
        self.deliver("four")
        # Deletes "one", and answers for "three" by its flag.
        keys = "<first-entry><delete-message><last-entry><flag-message><quit>"
        told = self.mutt(program, more, keys)
        self.assertIn("VANISHED)", told)
        # The one logs what it receives, the other what it does with it.
        self.assertRegex(told, r"VANISHED \(EARLIER\) |Handling VANISHED")
        self.assertEqual(self.subjects(), ["three", "four"])
        self.assertEqual(self.flags("FLAGGED"), ["three", "four"])
        return first

    def test_offlineimap_two_ways(self):
        self.deliver("one")
        self.deliver("two")
        config = self.file("offlineimaprc", f"""\
            [general]
            accounts = demo
            metadata = {self.folder}/offlineimap
            ui = basic
            [Account demo]
            localrepository = near
            remoterepository = far
            [Repository near]
            type = Maildir
            localfolders = {self.folder}/mail
            [Repository far]
            type = IMAP
            remotehost = 127.0.0.1
            remoteport = {self.demo.port['imap']}
            remoteuser = {self.user}
            remotepass = demo
            ssl = no
            starttls = no
            auth_mechanisms = LOGIN
            """)
        environment = dict(os.environ, HOME=str(self.folder))
        environment.pop("PYTHONPATH", None)

        def sync():
            run("offlineimap", "-o", "-c", config, env=environment)

        sync()
        inbox = self.folder / "mail/INBOX"
        fetched = sorted(inbox.glob("new/*")) + sorted(inbox.glob("cur/*"))
        self.assertEqual(len(fetched), 2)
        (inbox / "new/1.local").write_text(message("three").replace("\r\n", "\n"))
        for path in fetched:
            if "Subject: one" in path.read_text():
                path.unlink()
            else:
                path.rename(inbox / "cur" / f"{path.name.split(':')[0]}:2,F")
        sync()
        self.assertEqual(sorted(self.subjects()), ["three", "two"])
        self.assertEqual(self.flags("FLAGGED"), ["two"])
        self.deliver("four")
        sync()
        text = [path.read_text() for path in inbox.glob("*/*")]
        self.assertEqual(sum("Subject: four" in one for one in text), 1)
        self.assertEqual(len(text), 3)

    def test_aerc(self):
        """A Go client on a terminal of its own: it lists, flags, copies, moves and deletes, and hears of new mail."""
        for subject in ("first", "second", "third"):
            self.deliver(subject)
        client = self.imap()
        client.create("Archive")
        config = self.folder / "config/aerc"
        config.mkdir(parents=True)
        for name in ("aerc.conf", "binds.conf"):
            shutil.copy(f"/usr/share/aerc/{name}", config)
        accounts = self.file("config/aerc/accounts.conf", f"""\
            [demo]
            source = imap+insecure://{self.user.replace('@', '%40')}:demo@127.0.0.1:{self.demo.port['imap']}
            default = INBOX
            from = Demo <{self.user}>
            """)
        accounts.chmod(0o600)
        screen = Screen(["aerc"], dict(
            os.environ, TERM="xterm", LANG="C.UTF-8", HOME=str(self.folder),
            XDG_CONFIG_HOME=str(self.folder / "config"), XDG_DATA_HOME=str(self.folder),
            XDG_CACHE_HOME=str(self.folder / "cache")))
        self.addCleanup(screen.close)
        screen.wait_for("third")
        # The newest message is on top and chosen.
        screen.type(":flag\r")
        self.eventually(lambda: self.flags("FLAGGED") == ["third"])
        screen.type(":cp Archive\r")
        self.eventually(lambda: self.flags("ALL", "Archive") == ["third"])
        screen.type(":delete\r")
        self.eventually(lambda: self.subjects() == ["first", "second"])
        screen.type(":mv Archive\r")
        self.eventually(lambda: self.subjects() in (["first"], ["second"]))
        self.assertEqual(len(self.flags("ALL", "Archive")), 2)
        self.deliver("fourth")
        screen.wait_for("fourth")
        screen.type(":quit -f\r")
        client.logout()

    def eventually(self, is_true):
        """What the client was told to do is done soon."""
        deadline = time.monotonic() + 20
        while not is_true():
            self.assertLess(time.monotonic(), deadline, "not done")
            time.sleep(0.1)

    def test_fetchmail_by_imap_and_pop3(self):
        for protocol in ("imap", "pop3"):
            self.deliver(f"by {protocol}")
            got = self.folder / f"got.{protocol}"
            config = self.file(f"fetchmailrc.{protocol}", f"""\
                poll 127.0.0.1 service {self.demo.port[protocol]} protocol {protocol}
                  user "{self.user}" password "demo" sslproto ""
                  no keep mda "cat >> {got}"
                """)
            config.chmod(0o600)
            environment = dict(os.environ, HOME=str(self.folder), FETCHMAILHOME=str(self.folder))
            run("fetchmail", "-f", config, "--nosyslog", env=environment)
            self.assertIn(f"Subject: by {protocol}", got.read_text())
            self.assertEqual(self.subjects(), [], protocol)

    def test_imapclient(self):
        for number in range(5):
            self.deliver(f"message {number}")
        script = self.file("with_imapclient.py", f"""\
            import imapclient
            client = imapclient.IMAPClient("127.0.0.1", {self.demo.port['imap']}, ssl=False)
            client.login("{self.user}", "demo")
            assert client.has_capability("QRESYNC"), client.capabilities()
            client.enable("CONDSTORE")
            client.create_folder("Work/Größe")
            client.subscribe_folder("Work/Größe")
            names = [name for _, _, name in client.list_folders()]
            assert "Work/Größe" in names, names
            assert client.folder_status("INBOX", ["MESSAGES"])[b"MESSAGES"] == 5
            told = client.select_folder("INBOX")
            assert told[b"EXISTS"] == 5 and told[b"HIGHESTMODSEQ"] > 0, told
            found = client.search(["SUBJECT", "message 3"])
            assert len(found) == 1
            client.set_flags(found, [imapclient.FLAGGED, b"$Work"])
            assert client.get_flags(found)[found[0]] != ()
            client.copy(found, "Work/Größe")
            client.move(client.search(["SUBJECT", "message 1"]), "Work/Größe")
            uid = client.append("INBOX", b"Subject: appended\\r\\n\\r\\nHello.\\r\\n", [b"\\\\Seen"])
            data = client.fetch("1:*", ["ENVELOPE", "BODYSTRUCTURE", "RFC822.SIZE", "MODSEQ"])
            assert len(data) == 5, data
            assert {{one[b"ENVELOPE"].subject for one in data.values()}} == {{
                b"message 0", b"message 2", b"message 3", b"message 4", b"appended"}}
            client.idle()
            client.idle_check(timeout=0.1)
            client.idle_done()
            client.delete_messages(client.search("ALL"))
            client.expunge()
            client.close_folder()
            assert client.select_folder("Work/Größe")[b"EXISTS"] == 2
            client.unselect_folder()
            assert client.namespace().personal[0][0] == ""
            client.logout()
            """)
        run(python_with_imapclient(), script)
        self.assertEqual(self.subjects("Work/Gr&APYA3w-e"), ["message 3", "message 1"])

    def test_imapflow(self):
        for number in range(4):
            self.deliver(f"message {number}")
        options = {
            "host": "127.0.0.1", "port": self.demo.port["imaps"], "secure": True,
            "auth": {"user": self.user, "pass": "demo"},
            "tls": {"rejectUnauthorized": False}, "logger": False, "qresync": True,
        }
        script = self.folder / "with_imapflow.js"
        script.write_text("""
            const assert = require("node:assert");
            const { ImapFlow } = require("imapflow");
            const options = %s;
            (async () => {
              const client = new ImapFlow(options);
              await client.connect();
              assert(client.enabled.has("CONDSTORE") && client.enabled.has("QRESYNC"));
              await client.mailboxCreate(["Work", "Größe"]);
              const names = (await client.list()).map(one => one.path);
              assert(names.includes("Work/Größe"), names.join());
              const status = await client.status("INBOX", { messages: true, highestModseq: true });
              assert.equal(status.messages, 4);
              const lock = await client.getMailboxLock("INBOX");
              const seen = [];
              for await (const one of client.fetch("1:*", { envelope: true, bodyStructure: true,
                                                            flags: true, internalDate: true })) {
                seen.push(one.envelope.subject);
              }
              assert.deepEqual(seen, [0, 1, 2, 3].map(number => `message ${number}`));
              const uids = await client.search({ subject: "message 2" }, { uid: true });
              assert.equal(uids.length, 1);
              await client.messageFlagsAdd(uids, ["\\\\Flagged"], { uid: true });
              const { content } = await client.download("1");
              let text = "";
              for await (const piece of content) text += piece;
              assert(text.includes("Subject: message 0"), text);
              await client.messageMove("1", "Work/Größe");
              await client.append("INBOX", "Subject: appended\\r\\n\\r\\nHello.\\r\\n", ["\\\\Seen"]);
              await client.messageDelete({ subject: "message 3" });
              lock.release();
              // What happens while it is gone.
              const { uidValidity, highestModseq } = client.mailbox;
              await client.logout();
              const again = new ImapFlow(options);
              await again.connect();
              const other = await again.getMailboxLock("INBOX");
              assert.equal(again.mailbox.uidValidity, uidValidity);
              assert.equal(again.mailbox.exists, 3);
              other.release();
              await again.logout();
              console.log("done");
            })().catch(error => { console.error(error); process.exit(1); });
            """ % json.dumps(options))
        environment = dict(os.environ, NODE_PATH=str(folder_with_imapflow() / "node_modules"))
        told = run("node", script, env=environment)
        self.assertIn("done", told)
        self.assertEqual(self.subjects(), ["message 1", "message 2", "appended"])
        self.assertEqual(self.flags("FLAGGED"), ["message 2"])
        self.assertEqual(self.subjects("Work/Gr&APYA3w-e"), ["message 0"])


if __name__ == "__main__":
    unittest.main()
