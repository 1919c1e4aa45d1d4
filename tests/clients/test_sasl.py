"""Log-ins by SASL with other people's clients, and a second implementation of SCRAM (RFC 5802) that also
misbehaves."""

import base64
import hashlib
import hmac
import json
import os
import pathlib
import smtplib
import socket
import ssl
import subprocess
import tempfile
import time
import unittest

from demo import BINARY, Demo, free_port_base

HASHES = {"SCRAM-SHA-256": "sha256", "SCRAM-SHA-1": "sha1"}
USER, PASSWORD = "alice@demo.test", "demo"


def encoded(data):
    return base64.b64encode(data).decode()


class Scram:
    """One client's side."""

    def __init__(self, mechanism, user=USER, password=PASSWORD, header=None, binding=b""):
        self.hash = HASHES[mechanism.removesuffix("-PLUS")]
        self.password = password.encode()
        self.header = header if header is not None else "n,,"
        self.binding = binding
        self.nonce = encoded(os.urandom(18))
        self.bare = f"n={user},r={self.nonce}"

    def first(self):
        return (self.header + self.bare).encode()

    def hmac(self, key, text):
        return hmac.new(key, text, self.hash).digest()

    def final(self, server_first):
        fields = dict(field.split("=", 1) for field in server_first.decode().split(","))
        assert fields["r"].startswith(self.nonce) and len(fields["r"]) > len(self.nonce) + 15
        self.salt = fields["s"]
        salt = base64.b64decode(fields["s"])
        salted = hashlib.pbkdf2_hmac(self.hash, self.password, salt, int(fields["i"]))
        client_key = self.hmac(salted, b"Client Key")
        stored_key = hashlib.new(self.hash, client_key).digest()
        binding = encoded(self.header.encode() + self.binding)
        without_proof = f"c={binding},r={fields['r']}"
        message = f"{self.bare},{server_first.decode()},{without_proof}".encode()
        signature = self.hmac(stored_key, message)
        self.server_final = b"v=" + base64.b64encode(
            self.hmac(self.hmac(salted, b"Server Key"), message))
        proof = bytes(a ^ b for a, b in zip(client_key, signature))
        return f"{without_proof},p={encoded(proof)}".encode()


class Line:
    """An IMAP, POP3 or SMTP connection; `prefix` is what challenges begin with. One at a time: POP3 lets
    nobody else have the maildrop."""

    last = None

    def __init__(self, demo, protocol, tls=False, certificate=None):
        Line.hang_up()
        self.protocol = protocol
        plain = {"imap": "imap", "pop3": "pop3", "smtp": "submission"}[protocol]
        private = {"imap": "imaps", "pop3": "pop3s", "smtp": "submissions"}[protocol]
        self.socket = socket.create_connection(("127.0.0.1", demo.port[private if tls else plain]))
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            if certificate:
                context.load_cert_chain(*certificate)
            self.socket = context.wrap_socket(self.socket)
        self.file = self.socket.makefile("rb")
        Line.last = self
        self.file.readline()
        if protocol == "smtp":
            self.greeting = self.ask("EHLO x", "250 ")
        self.command = {"imap": "a AUTHENTICATE", "pop3": "AUTH", "smtp": "AUTH"}[protocol]
        self.prefix = b"334 " if protocol == "smtp" else b"+ "

    @staticmethod
    def hang_up():
        line, Line.last = Line.last, None
        if line:
            try:
                line.send("*\r\nQUIT\r\nz LOGOUT")
                while line.file.readline():
                    pass
            except OSError:
                pass
            line.file.close()
            line.socket.close()

    def ask(self, line, last):
        self.send(line)
        text = b""
        while not text.splitlines()[-1:] or not text.splitlines()[-1].startswith(last.encode()):
            line = self.file.readline()
            if not line:
                break
            text += line
        return text.decode()

    def mechanisms(self):
        if self.protocol == "imap":
            return [word[5:] for word in self.ask("b CAPABILITY", "b OK").split() if word[:5] == "AUTH="]
        listed = self.greeting if self.protocol == "smtp" else self.ask("CAPA", ".")
        name = "250-AUTH " if self.protocol == "smtp" else "SASL "
        return next(line for line in listed.splitlines() if line.startswith(name))[len(name):].split()

    def send(self, line):
        self.socket.sendall(line.encode() + b"\r\n")

    def answer(self):
        """A challenge, decoded, or the line that ends the exchange."""
        line = self.file.readline()
        if line.startswith(self.prefix):
            return base64.b64decode(line[len(self.prefix):])
        return line.decode().rstrip()

    def respond(self, data):
        self.send(encoded(data))
        return self.answer()

    def scram(self, mechanism, client):
        """Log in; what the server says last."""
        self.send(f"{self.command} {mechanism} {encoded(client.first())}")
        challenge = self.answer()
        if isinstance(challenge, str):
            return challenge
        challenge = self.respond(client.final(challenge))
        if isinstance(challenge, str):
            return challenge
        assert challenge == client.server_final, challenge
        return self.respond(b"")

    def end_point(self):
        """RFC 5929 4; the demo's certificate is signed with SHA-256."""
        return hashlib.sha256(self.socket.getpeercert(True)).digest()


WELCOME = {"imap": "a OK", "pop3": "+OK", "smtp": "235 "}
REFUSED = {"imap": "a NO [AUTHENTICATIONFAILED]", "pop3": "-ERR [AUTH]", "smtp": "535 "}
UNDECODABLE = {"imap": "a BAD", "pop3": "-ERR invalid base64", "smtp": "501 5.5.2"}
CANCELLED = {"imap": "a BAD", "pop3": "-ERR authentication cancelled", "smtp": "501 5.7.0"}
PLUS = "p=tls-server-end-point,,"


class SaslTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.demo = Demo("--set", "authentication.failure_delay=0s",
                        "--set", "authentication.free_failures=100",
                        "--set", "authentication.network_failures=1000",
                        "--set", "authentication.masters=[\"alice@demo.test=@demo.test\"]")

    @classmethod
    def tearDownClass(cls):
        Line.hang_up()
        cls.demo.stop()

    def test_scram_in_every_protocol(self):
        for protocol in ("imap", "pop3", "smtp"):
            for tls in (False, True):
                line = Line(self.demo, protocol, tls)
                offered = line.mechanisms()
                expected = [name + suffix for suffix in (["-PLUS", ""] if tls else [""]) for name in HASHES]
                self.assertEqual(offered[:len(expected)], expected, protocol)
                self.assertIn("PLAIN", offered)
                for mechanism in expected:
                    with self.subTest(protocol=protocol, tls=tls, mechanism=mechanism):
                        line = Line(self.demo, protocol, tls)
                        plus = mechanism.endswith("-PLUS")
                        client = Scram(mechanism, header=PLUS if plus else "n,,",
                                       binding=line.end_point() if plus else b"")
                        said = line.scram(mechanism, client)
                        self.assertTrue(said.startswith(WELCOME[protocol]), said)

    def test_wrong_passwords_and_names_without_an_account(self):
        for protocol in ("imap", "pop3", "smtp"):
            salts = {}
            for user, password in ((USER, "wrong"), ("nobody", PASSWORD), ("nobody", PASSWORD),
                                   ("somebody", PASSWORD)):
                client = Scram("SCRAM-SHA-256", user, password)
                said = Line(self.demo, protocol).scram("SCRAM-SHA-256", client)
                self.assertTrue(said.startswith(REFUSED[protocol]), said)
                self.assertEqual(salts.setdefault(user, client.salt), client.salt)
                other = Scram("SCRAM-SHA-1", user, password)
                Line(self.demo, protocol).scram("SCRAM-SHA-1", other)
                self.assertEqual(other.salt, client.salt, "one salt for both, as accounts have")
            self.assertEqual(len(set(salts.values())), 3)
            self.assertEqual({len(salt) for salt in salts.values()}, {24})

    def test_who_intercepts_tls_gains_nothing(self):
        for protocol in ("imap", "pop3", "smtp"):
            name = "SCRAM-SHA-256"
            # The client could bind, and was told that the server cannot.
            client = Scram(name, header="y,,")
            said = Line(self.demo, protocol, True).scram(name, client)
            self.assertTrue(said.startswith(REFUSED[protocol]), said)
            # Without TLS the server offers no binding, and that is true.
            said = Line(self.demo, protocol).scram(name, Scram(name, header="y,,"))
            self.assertTrue(said.startswith(WELCOME[protocol]), said)
            # Bound to the certificate of somebody in between.
            client = Scram(name, header=PLUS, binding=b"x" * 32)
            said = Line(self.demo, protocol, True).scram(name + "-PLUS", client)
            self.assertTrue(said.startswith(REFUSED[protocol]), said)
            # Not offered in clear.
            said = Line(self.demo, protocol).scram(name + "-PLUS", Scram(name, header=PLUS))
            self.assertTrue(said[:4] in ("a NO", "-ERR", "504 "), said)

    def test_broken_exchanges(self):
        for protocol in ("imap", "pop3", "smtp"):
            for first in (b"", b"n,,", b"n,,m=1,n=a,r=b", b"x,,n=a,r=b", b"\xff", b"n,,n=a,r=\xff"):
                line = Line(self.demo, protocol)
                line.send(f"{line.command} SCRAM-SHA-1 {encoded(first) or '='}")
                said = line.answer()
                self.assertTrue(said.startswith(REFUSED[protocol]), said)
            # Not base64, at either step.
            line = Line(self.demo, protocol)
            client = Scram("SCRAM-SHA-1")
            for messages in (("?",), (encoded(client.first()), "?")):
                line.send(f"{line.command} SCRAM-SHA-1")
                for message in messages:
                    line.answer()
                    line.send(message)
                said = line.answer()
                self.assertTrue(said.startswith(UNDECODABLE[protocol]), said)
            # The final message of another exchange.
            line.send(f"{line.command} SCRAM-SHA-1 {encoded(client.first())}")
            final = client.final(line.answer())
            line.send("*")
            said = line.answer()
            self.assertTrue(said.startswith(CANCELLED[protocol]), said)
            line.send(f"{line.command} SCRAM-SHA-1 {encoded(client.first())}")
            line.answer()
            said = line.respond(final)
            self.assertTrue(said.startswith(REFUSED[protocol]), said)

    def test_application_passwords(self):
        place = ["--dir", self.demo.directory]
        command = [str(BINARY), "user", "app-password"]

        def made(name, *options):
            return self.run_client(*command, "add", "bob@demo.test", name, *options, *place).decode()

        first = made("my telephone").strip()
        second = json.loads(made("mutt", "--json"))
        self.assertEqual((second["address"], second["name"]), ("bob@demo.test", "mutt"))
        listed = self.run_client(*command, "list", "bob@demo.test", "--json", *place).decode().splitlines()
        listed = [json.loads(line) for line in listed]
        self.assertEqual([each["name"] for each in listed], ["my telephone", "mutt"])
        self.assertRegex(listed[0]["created"], r"^20\d\d-\d\d-\d\dT[\d:.]*Z$")
        self.assertNotIn(first, json.dumps(listed))

        def works(password, protocol="imap"):
            plain = Line(self.demo, protocol)
            plain.send(f"{plain.command} PLAIN {encoded(f'{chr(0)}bob@demo.test{chr(0)}{password}'.encode())}")
            said = plain.answer()
            scram = Scram("SCRAM-SHA-256", "bob@demo.test", password)
            proved = Line(self.demo, protocol).scram("SCRAM-SHA-256", scram)
            self.assertEqual(said[:4], proved[:4])
            return said.startswith(WELCOME[protocol])

        for protocol in ("imap", "pop3", "smtp"):
            for password in (first, second["password"], "demo"):
                self.assertTrue(works(password, protocol), (protocol, password))
        self.assertFalse(works(first[:-1]))
        self.run_client(*command, "remove", "bob@demo.test", "my telephone", *place)
        self.assertFalse(works(first))
        self.assertTrue(works(second["password"]))

    def test_masters(self):
        def answer(line, authorization, user="alice@demo.test"):
            message = f"{authorization}\0{user}\0demo".encode()
            line.send(f"{line.command} PLAIN {encoded(message)}")
            return line.answer()

        for protocol in ("imap", "pop3", "smtp"):
            said = answer(Line(self.demo, protocol), "bob@demo.test")
            self.assertTrue(said.startswith(WELCOME[protocol]), said)
            for authorization, user in (("alice@demo.test", "bob@demo.test"), ("nobody", "alice")):
                said = answer(Line(self.demo, protocol), authorization, user)
                self.assertTrue(said.startswith(REFUSED[protocol]), said)
            client = Scram("SCRAM-SHA-1", header="n,a=bob@demo.test,")
            said = Line(self.demo, protocol).scram("SCRAM-SHA-1", client)
            self.assertTrue(said.startswith(WELCOME[protocol]), said)

    def run_client(self, *command, stdin=b"Subject: x\r\n\r\nx\r\n"):
        done = subprocess.run(command, input=stdin, capture_output=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def test_lmtp_clients_must_log_in_if_configured(self):
        demo = Demo("--set", "authentication.lmtp=true")
        try:
            with smtplib.LMTP("127.0.0.1", demo.port["lmtp"]) as client:
                client.ehlo()
                self.assertIn("SCRAM-SHA-256", client.esmtp_features["auth"])
                self.assertEqual(client.mail("x@y.test")[0], 530)
                client.login(USER, PASSWORD)
                client.sendmail("x@y.test", ["bob@demo.test"], "Subject: x\r\n\r\nx\r\n")
        finally:
            demo.stop()

    def test_curl_acts_for_another_account(self):
        self.run_client("curl", "-sS", "-u", f"{USER}:{PASSWORD}", "--sasl-authzid", "bob@demo.test",
                        "--login-options", "AUTH=PLAIN", f"imap://127.0.0.1:{self.demo.port['imap']}/")

    def test_mbsync(self):
        for mechanism in HASHES:
            with tempfile.TemporaryDirectory() as folder:
                path = pathlib.Path(folder) / "mbsyncrc"
                path.write_text(
                    f"IMAPAccount a\nHost 127.0.0.1\nPort {self.demo.port['imap']}\nUser {USER}\n"
                    f"Pass {PASSWORD}\nSSLType None\nAuthMechs {mechanism}\n\n"
                    f"IMAPStore far\nAccount a\n\nMaildirStore near\nPath {folder}/\nInbox {folder}/inbox\n\n"
                    "Channel c\nFar :far:\nNear :near:\nPatterns INBOX\nCreate Near\nSyncState *\n")
                self.run_client("mbsync", "-c", path, "c")

    def test_msmtp(self):
        for mechanism in ("scram-sha-1", "scram-sha-256"):
            with tempfile.NamedTemporaryFile("w", suffix=".msmtprc") as file:
                file.write(f"account default\nhost 127.0.0.1\nport {self.demo.port['submissions']}\n"
                           f"tls on\ntls_starttls off\ntls_certcheck off\nauth {mechanism}\n"
                           f"user {USER}\npassword {PASSWORD}\nfrom {USER}\n")
                file.flush()
                os.chmod(file.name, 0o600)
                self.run_client("msmtp", "-C", file.name, "bob@demo.test")


def events(path, name, count):
    """The first `count` events of this name in the log, which is written a little later."""
    until = time.monotonic() + 20
    while True:
        lines = [json.loads(line) for line in pathlib.Path(path).read_text().splitlines()]
        found = [line for line in lines if line["event"] == name]
        if len(found) >= count or time.monotonic() > until:
            return found[:count]
        time.sleep(0.05)


class TokenTest(unittest.TestCase):
    """Bearer tokens that openssl signs."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.path = pathlib.Path(cls.folder.name)
        for name in ("ours", "theirs"):
            cls.openssl("genrsa", "-traditional", "-out", f"{name}.pem", "2048")
        modulus = cls.openssl("rsa", "-in", "ours.pem", "-noout", "-modulus").decode().strip()
        modulus = bytes.fromhex(modulus.removeprefix("Modulus="))
        keys = {"keys": [{"kty": "RSA", "kid": "k", "alg": "RS256", "use": "sig", "e": "AQAB",
                          "n": cls.url_encoded(modulus)}]}
        (cls.path / "keys.json").write_text(json.dumps(keys))
        cls.demo = Demo("--set", "authentication.failure_delay=0s", "--set", "oauth.issuer=https://id.test",
                        "--set", "oauth.audience=mail", "--set", f"oauth.keys={cls.path / 'keys.json'}",
                        "--set", "authentication.masters=[\"alice@demo.test=bob@demo.test\"]")
        until = time.monotonic() + 20
        while "OAUTHBEARER" not in Line(cls.demo, "imap").mechanisms() and time.monotonic() < until:
            time.sleep(0.05)

    @classmethod
    def tearDownClass(cls):
        Line.hang_up()
        cls.demo.stop()
        cls.folder.cleanup()

    @classmethod
    def openssl(cls, *arguments, stdin=b""):
        return subprocess.run(["openssl", *arguments], cwd=cls.path, check=True, input=stdin,
                              capture_output=True).stdout

    @staticmethod
    def url_encoded(data):
        return base64.urlsafe_b64encode(data).decode().rstrip("=")

    def token(self, key="ours", algorithm="RS256", **changes):
        claims = {"iss": "https://id.test", "aud": "mail", "exp": int(time.time()) + 600,
                  "email": "alice@demo.test", **changes}
        parts = [self.url_encoded(json.dumps(part).encode()) for part in
                 ({"alg": algorithm, "kid": "k"}, claims)]
        message = ".".join(parts).encode()
        if algorithm == "RS256":
            signature = self.openssl("dgst", "-sha256", "-sign", f"{key}.pem", stdin=message)
        elif algorithm == "HS256":
            public = self.openssl("rsa", "-in", "ours.pem", "-pubout")
            signature = hmac.new(public, message, "sha256").digest()
        else:
            signature = b""
        return f"{message.decode()}.{self.url_encoded(signature)}"

    def log_in(self, protocol, mechanism, token, user=""):
        line = Line(self.demo, protocol)
        if mechanism == "XOAUTH2":
            message = f"user={user or 'alice@demo.test'}\1auth=Bearer {token}\1\1"
        else:
            name = f"a={user}" if user else ""
            message = f"n,{name},\1host=x\1port=1\1auth=Bearer {token}\1\1"
        line.send(f"{line.command} {mechanism} {encoded(message.encode())}")
        said = line.answer()
        if isinstance(said, bytes):
            self.assertIn("status", json.loads(said))
            said = line.respond(b"\1" if mechanism == "OAUTHBEARER" else b"")
        return said

    def test_tokens(self):
        late = int(time.time()) - 600
        bad = [self.token("theirs"), self.token(iss="https://other.test"), self.token(aud="other"),
               self.token(exp=late), self.token(nbf=late + 1200), self.token(algorithm="none"),
               self.token(algorithm="HS256"), self.token(email="nobody@demo.test"), "x", "a.b.c"]
        for protocol in ("imap", "pop3", "smtp"):
            self.assertIn("XOAUTH2", Line(self.demo, protocol).mechanisms())
            for mechanism in ("OAUTHBEARER", "XOAUTH2"):
                for user in ("", "alice@demo.test", "bob@demo.test"):
                    said = self.log_in(protocol, mechanism, self.token(), user)
                    self.assertTrue(said.startswith(WELCOME[protocol]), said)
                self.assertTrue(self.log_in(protocol, mechanism, self.token(), "user1@demo.test")
                                .startswith(REFUSED[protocol]))
                for token in bad:
                    said = self.log_in(protocol, mechanism, token)
                    self.assertTrue(said.startswith(REFUSED[protocol]), (said, token))

    def test_the_operator_is_told_why(self):
        demo = Demo("--set", "authentication.failure_delay=0s", "--set", "oauth.issuer=https://id.test",
                    "--set", "oauth.audience=mail", "--set", f"oauth.keys={self.path / 'keys.json'}",
                    "--set", "oauth.introspection=https://id.test:1/i", "--set", "oauth.client_id=ringmail")
        cases = [({"exp": int(time.time()) - 600}, "", "it has expired"),
                 ({"aud": "other"}, "", "it is for another audience than oauth.audience"),
                 ({"email_verified": False}, "", "its issuer has not verified its email"),
                 ({"email": "nobody@demo.test"}, "", "it is for nobody@demo.test, who has no account"),
                 ({}, "bob@demo.test",
                  "alice@demo.test may not act for bob@demo.test, or there is no such account")]

        def log_in(token, user):
            line = Line(demo, "imap")
            message = f"n,{f'a={user}' if user else ''},\1auth=Bearer {token}\1\1"
            line.send(f"{line.command} OAUTHBEARER {encoded(message.encode())}")
            return json.loads(line.answer())["status"], line.respond(b"\1")

        try:
            for changes, user, _ in cases:
                status, said = log_in(self.token(**changes), user)
                self.assertEqual(status, "invalid_token")
                self.assertTrue(said.startswith("a NO [AUTHENTICATIONFAILED] "), said)
            # Nobody answers about one that is not signed.
            status, said = log_in("opaque", "")
            self.assertEqual(status, "temporarily_unavailable")
            self.assertTrue(said.startswith("a NO [UNAVAILABLE] The provider of tokens"), said)
            told = events(f"{demo.directory}/events.log", "login_refused", len(cases) + 1)
            # Those of two shards come in any order.
            self.assertCountEqual([(event["reason"], event["means"], event["detail"]) for event in told],
                                  [*(("wrong", "token", detail) for _, _, detail in cases),
                                   ("unavailable", "token", "the token provider does not answer")])
            warnings = events(f"{demo.directory}/events.log", "warning", 1)
            unreached = [event["text"] for event in warnings if "oauth.introspection" in event["text"]]
            self.assertEqual(len(unreached), 1, warnings)
            self.assertIn("https://id.test:1/i: ", unreached[0])
        finally:
            demo.stop()

    def test_curl(self):
        for protocol in ("imap", "pop3"):
            done = subprocess.run(["curl", "-sS", "--oauth2-bearer", self.token(), "-u", "alice@demo.test",
                                   f"{protocol}://127.0.0.1:{self.demo.port[protocol]}/"],
                                  capture_output=True, timeout=60)
            self.assertEqual(done.returncode, 0, done.stderr)


class CertificateTest(unittest.TestCase):
    """EXTERNAL, with certificates that openssl makes."""

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.path = pathlib.Path(self.folder.name)
        self.base = free_port_base()
        self.openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                     "-keyout", "ca.key", "-out", "ca.pem", "-days", "9", "-subj", "/CN=ours")
        self.openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                     "-keyout", "other.key", "-out", "other.pem", "-days", "9", "-subj", "/CN=other")
        for name, authority, days in (("alice", "ca", 9), ("nobody", "ca", 9), ("mallory", "other", 9)):
            user = "alice" if name == "mallory" else name
            (self.path / "names").write_text(f"subjectAltName=email:{user}@demo.test\n")
            self.openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                         "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={user}")
            self.openssl("x509", "-req", "-in", f"{name}.csr", "-CA", f"{authority}.pem", "-CAkey",
                         f"{authority}.key", "-CAcreateserial", "-out", f"{name}.pem", "-days", str(days),
                         "-extfile", "names")
        self.openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                     "-keyout", "key.pem", "-out", "cert.pem", "-days", "9", "-subj", "/CN=localhost")
        self.port = {name: self.base + port for name, port in Demo.STANDARD.items()}
        listen = "\n".join(f'{name} = ["127.0.0.1:{port}"]' for name, port in self.port.items())
        (self.path / "ringmail.toml").write_text(
            f'hostname = "localhost"\ndomains = ["demo.test"]\ndata_dir = "data"\n[listen]\n{listen}\n'
            '[tls]\ncertificate = "cert.pem"\nkey = "key.pem"\nclient_authorities = "ca.pem"\n'
            '[runtime]\nshards = 1\nconnections_per_shard = 100\n'
            '[authentication]\nfailure_delay = "0s"\nmasters = ["alice@demo.test=bob@demo.test"]\n'
            '[dns]\nservers = ["127.0.0.1:9"]\n[events]\nto = "./events.log"\n')
        for user in ("alice", "bob"):
            subprocess.run([BINARY, "user", "add", f"{user}@demo.test", "--config", self.path / "ringmail.toml"],
                           input=b"demo\n", check=True, capture_output=True)
        self.server = subprocess.Popen([BINARY, "serve", "--config", self.path / "ringmail.toml"],
                                       stdout=subprocess.PIPE)
        line = b""
        while b"ready" not in line:
            line = self.server.stdout.readline()
            self.assertTrue(line, "the server has not started")

    def tearDown(self):
        Line.hang_up()
        self.server.terminate()
        self.server.wait(30)
        self.server.stdout.close()
        self.folder.cleanup()

    def openssl(self, *arguments):
        subprocess.run(["openssl", *arguments], cwd=self.path, check=True, capture_output=True)

    def line(self, protocol, name):
        certificate = name and (self.path / f"{name}.pem", self.path / f"{name}.key")
        return Line(self, protocol, True, certificate)

    def external(self, protocol, name, authorization=""):
        line = self.line(protocol, name)
        line.send(f"{line.command} EXTERNAL {encoded(authorization.encode()) or '='}")
        return line.answer()

    def test_certificates_log_in(self):
        for protocol in ("imap", "pop3", "smtp"):
            with self.subTest(protocol=protocol):
                self.assertIn("EXTERNAL", self.line(protocol, "alice").mechanisms())
                self.assertNotIn("EXTERNAL", self.line(protocol, None).mechanisms())
                self.assertNotIn("EXTERNAL", self.line(protocol, "nobody").mechanisms())
                for authorization in ("", "alice@demo.test", "bob@demo.test"):
                    said = self.external(protocol, "alice", authorization)
                    self.assertTrue(said.startswith(WELCOME[protocol]), said)
                said = self.external(protocol, "alice", "nobody@demo.test")
                self.assertTrue(said.startswith(REFUSED[protocol]), said)
                for name in (None, "nobody"):
                    said = self.external(protocol, name)
                    self.assertTrue(said[:4] in ("a NO", "-ERR", "504 "), said)
                # Signed by somebody else: not even a connection.
                with self.assertRaises((OSError, IndexError, AttributeError)):
                    said = self.external(protocol, "mallory")
                    self.assertTrue(said.startswith(WELCOME[protocol]), said)
                    raise OSError
        told = events(self.path / "events.log", "certificate_refused", 3)
        self.assertEqual([event["protocol"] for event in told], ["imap", "pop3", "submission"])
        self.assertTrue(all("UnknownIssuer" in event["reason"] for event in told), told)

    def test_other_servers_are_asked_for_none(self):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.load_cert_chain(self.path / "mallory.pem", self.path / "mallory.key")
        with smtplib.SMTP("127.0.0.1", self.port["smtp"]) as client:
            client.starttls(context=context)
            self.assertEqual(client.ehlo()[0], 250)
            client.sendmail("x@y.test", ["alice@demo.test"], "Subject: x\r\n\r\nx\r\n")


if __name__ == "__main__":
    unittest.main()
