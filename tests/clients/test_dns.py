"""`ringmail resolve`, and so the server's resolver, against a Knot DNS server with signed zones, whole and
behind a proxy that forges, truncates, refuses and keeps silent."""

import http.server
import json
import pathlib
import shutil
import ssl
import subprocess
import tempfile
import threading
import unittest

from demo import BINARY
from knot import Knot, Proxy, free_port

# Much more than fits into a datagram.
MANY = "\n".join(f'big TXT "{n:03} {"x" * 200}"' for n in range(30))

ZONES = {
    "!.": "ns.test. A 127.0.0.1",
    "!test": "ns A 127.0.0.1\nlame NS ns.lame\nns.lame A 127.0.0.9",
    "!secure.test": f"""
@ MX 10 mx1
@ MX 10 mx2
@ MX 20 nick
mx1 A 127.0.0.11
mx1 AAAA ::11
mx2 A 127.0.0.12
nick CNAME mx1
_25._tcp.mx1 TLSA 3 1 1 0a1b
_25._tcp.mx1 TLSA 2 0 2 ffee
bare A 127.0.0.13
text TXT "one"
null MX 0 .
far CNAME mx1.open.test.
away CNAME mx1.open.test.
_25._tcp.away TLSA 3 1 1 0a1d
outside MX 10 mx1.open.test.
loop1 CNAME loop2
loop2 CNAME loop1
*.wild A 127.0.0.14
*.wilder MX 10 mx2
b.wilder A 127.0.0.15
xn--bcher-kva MX 10 mx2
{MANY}
""",
    "open.test": """
@ MX 10 mx1
@ MX 5 10.0.0.1.
mx1 A 127.0.0.21
out CNAME mx1.secure.test.
_25._tcp.mx1 TLSA 3 1 1 0a1c
null MX 0 .
null MX 10 mx1
_mta-sts TXT "v=STSv1; id=20260101;"
""",
    "?bogus.test": "@ MX 10 mx1\nmx1 A 127.0.0.31\nout CNAME mx1.secure.test.",
}

# Names and the answers that do not depend on validation: the hosts, or the error's status.
ANSWERS = {
    "secure.test": {"mx1.secure.test", "mx2.secure.test", "nick.secure.test"},
    "open.test": {"10.0.0.1", "mx1.open.test"},
    "bare.secure.test": {"bare.secure.test"},
    "outside.secure.test": {"mx1.open.test"},
    "a.wild.secure.test": {"a.wild.secure.test"},
    "x.y.wild.secure.test": {"x.y.wild.secure.test"},
    "a.wilder.secure.test": {"mx2.secure.test"},
    "below.b.wilder.secure.test": "5.1.2",
    "bücher.secure.test": {"mx2.secure.test"},
    "BÜCHER.Secure.Test.": {"mx2.secure.test"},
    "far.secure.test": {"far.secure.test"},
    "out.open.test": {"out.open.test"},
    "null.open.test": {"mx1.open.test"},
    "null.secure.test": "5.1.10",
    "none.secure.test": "5.1.2",
    "none.open.test": "5.1.2",
    "nowhere": "5.1.2",
    "text.secure.test": "5.4.4",
    "loop1.secure.test": "4.4.3",
    "lame.test": "4.4.3",
    "a..b": "5.1.2",
}


class WithKnot(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.knot = Knot(ZONES)

    @classmethod
    def tearDownClass(cls):
        cls.knot.close()

    def resolve(self, *arguments, servers=None, settings=(), code=None):
        """The answers, by name; as the server would get them."""
        servers = json.dumps([f"127.0.0.1:{port}" for port in servers or [self.knot.port]])
        command = [str(BINARY), "resolve", "--json", *arguments, "--set", f"dns.servers={servers}"]
        if not any(setting.startswith("dns.timeout") for setting in settings):
            settings = ("dns.timeout=\"500ms\"", *settings)
        for setting in settings:
            command += ["--set", setting]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        self.assertIn(done.returncode, (0, 1), done.stderr)
        answers = [json.loads(line) for line in done.stdout.splitlines()]
        self.assertEqual(len(answers), sum(not it.startswith("--") for it in arguments)
                         - ("--kind" in arguments), done.stderr)
        return {answer["name"]: answer for answer in answers}

    def one(self, name, *arguments, **options):
        return self.resolve(name, *arguments, **options)[name]

    @property
    def validating(self):
        return ("dns.validate=true", f"dns.trust_anchor={json.dumps(str(self.knot.anchor))}")


class Resolving(WithKnot):
    def check_answers(self, answers):
        for name, expected in ANSWERS.items():
            with self.subTest(name):
                answer = answers[name]
                if isinstance(expected, str):
                    self.assertEqual(answer.get("status"), expected, answer)
                    self.assertEqual(answer["permanent"], expected.startswith("5"))
                else:
                    self.assertIn("hosts", answer)
                    self.assertEqual({host["name"] for host in answer["hosts"]}, expected, answer)

    def test_answers_without_validation(self):
        answers = self.resolve(*ANSWERS, "bogus.test")
        self.check_answers(answers)
        hosts = answers["secure.test"]["hosts"]
        self.assertEqual([host["preference"] for host in hosts], [10, 10, 20])
        by_name = {host["name"]: host for host in hosts}
        self.assertEqual(by_name["mx1.secure.test"]["addresses"], ["::11", "127.0.0.11"])
        self.assertEqual(by_name["nick.secure.test"]["canonical"], "mx1.secure.test")
        self.assertEqual(answers["secure.test"]["site"],
                         "mx1.secure.test,mx2.secure.test,nick.secure.test")
        self.assertTrue(answers["bare.secure.test"]["implicit"])
        self.assertEqual(answers["far.secure.test"]["hosts"][0]["canonical"], "mx1.open.test")
        # Nothing is authentic, and a wrong signature is not looked at.
        for answer in answers.values():
            self.assertFalse(answer.get("authentic", False), answer)
        self.assertEqual(answers["bogus.test"]["hosts"][0]["addresses"], ["127.0.0.31"])

    def test_answers_with_validation(self):
        answers = self.resolve(*ANSWERS, "bogus.test", settings=self.validating)
        self.check_answers(answers)
        authentic = {name: answer["authentic"] for name, answer in answers.items()
                     if "authentic" in answer}
        self.assertTrue(authentic["secure.test"])
        self.assertFalse(authentic["open.test"])
        self.assertTrue(authentic["outside.secure.test"], "the MX record is signed")
        hosts = {name: [host["authentic"] for host in answer["hosts"]]
                 for name, answer in answers.items() if "hosts" in answer}
        self.assertEqual(hosts["secure.test"], [True, True, True])
        self.assertEqual(hosts["a.wild.secure.test"], [True])
        self.assertTrue(authentic["a.wilder.secure.test"])
        self.assertEqual(hosts["outside.secure.test"], [False], "but its host is not")
        self.assertEqual(hosts["far.secure.test"], [False], "an alias into an unsigned zone")
        self.assertEqual(hosts["out.open.test"], [False], "an alias from an unsigned zone")
        self.assertEqual(answers["bogus.test"]["status"], "4.4.3")
        self.assertIn("DNSSEC", answers["bogus.test"]["error"])

    def test_an_alias_of_a_bogus_zone_is_bogus(self):
        answer = self.one("out.bogus.test", "--host", settings=self.validating)
        self.assertEqual(answer["status"], "4.4.3")

    def test_tlsa_records(self):
        name = "_25._tcp.mx1.secure.test"
        for settings, authentic in (((), False), (self.validating, True)):
            answer = self.one(name, "--kind", "tlsa", settings=settings)
            self.assertEqual(sorted(answer["records"]), ["2 0 2 ffee", "3 1 1 0a1b"])
            self.assertEqual(answer["authentic"], authentic)
        absent = self.one("_25._tcp.mx2.secure.test", "--kind", "tlsa", settings=self.validating)
        self.assertEqual(absent["status"], "5.1.2")
        unknown = self.one("_25._tcp.mx1.bogus.test", "--kind", "tlsa", settings=self.validating)
        self.assertEqual(unknown["status"], "4.4.3", "a wrong denial is no denial")

    def test_truncated_answers_are_fetched_by_tcp(self):
        for settings in ((), self.validating):
            proxy = Proxy(self.knot.port, truncated_over_udp)
            try:
                answer = self.one("big.secure.test", "--kind", "txt", settings=settings,
                                  servers=[proxy.port])
                self.assertEqual(len(answer["records"]), 30)
                self.assertEqual(answer["authentic"], bool(settings))
                self.assertIn("tcp", {over for over, _ in proxy.questions})
            finally:
                proxy.close()
        # Knot itself truncates.
        self.assertEqual(len(self.one("big.secure.test", "--kind", "txt")["records"]), 30)

    def test_a_server_that_always_truncates(self):
        proxy = Proxy(self.knot.port, truncated)
        try:
            answer = self.one("big.secure.test", "--kind", "txt", servers=[proxy.port])
            self.assertEqual(answer["status"], "4.4.3")
            self.assertLess(len(proxy.questions), 20)
        finally:
            proxy.close()

    def test_the_ad_bit_of_a_trusted_server(self):
        proxy = Proxy(self.knot.port, with_ad)
        try:
            for settings, authentic in (((), False), (("dns.trust_ad=true",), True)):
                answer = self.one("secure.test", settings=settings, servers=[proxy.port])
                self.assertEqual(answer["authentic"], authentic)
                self.assertEqual({host["authentic"] for host in answer["hosts"]}, {authentic})
            # Who validates believes no bit.
            settings = (*self.validating, "dns.trust_ad=true")
            answer = self.one("open.test", settings=settings, servers=[proxy.port])
            self.assertFalse(answer["authentic"])
        finally:
            proxy.close()

    def test_a_forged_answer_is_bogus(self):
        """Someone on the way turns 127.0.0.12 into 127.0.0.99."""
        def forge(reply, *_):
            return reply.replace(bytes([127, 0, 0, 12]), bytes([127, 0, 0, 99]))
        proxy = Proxy(self.knot.port, forge)
        try:
            plain = self.one("mx2.secure.test", "--host", servers=[proxy.port])
            self.assertEqual(plain["addresses"], ["127.0.0.99"])
            answer = self.one("mx2.secure.test", "--host", servers=[proxy.port],
                              settings=self.validating)
            self.assertEqual(answer["status"], "4.4.3")
        finally:
            proxy.close()

    def test_stripped_signatures_are_bogus(self):
        """A server without DNSSEC, or someone who wants to hide it: the question passes without its
        OPT record."""
        class Stripping(Proxy):
            def _reply(self, question, over):
                return super()._reply(without_edns(question), over)
        proxy = Stripping(self.knot.port)
        try:
            answer = self.one("secure.test", servers=[proxy.port], settings=self.validating)
            self.assertEqual(answer["status"], "4.4.3")
        finally:
            proxy.close()

    def test_the_next_server_is_asked(self):
        """After one that is not there, is silent, fails or refuses."""
        for rcode in (None, 2, 5):
            bad = Proxy(self.knot.port, lambda reply, *_: failed(reply, rcode))
            try:
                for servers in ([bad.port, self.knot.port], [free_port(), self.knot.port]):
                    answer = self.one("open.test", servers=servers)
                    self.assertIn("hosts", answer, (rcode, answer))
            finally:
                bad.close()

    def test_errors_are_temporary(self):
        for rcode, text in ((1, "FORMERR"), (2, "SERVFAIL"), (4, "NOTIMP"), (5, "REFUSED"),
                            (None, "in time")):
            bad = Proxy(self.knot.port, lambda reply, *_: failed(reply, rcode))
            try:
                answer = self.one("open.test", servers=[bad.port])
                self.assertEqual(answer["status"], "4.4.3", answer)
                self.assertIn(text, answer["error"])
            finally:
                bad.close()
        self.assertEqual(self.one("open.test", servers=[free_port()])["status"], "4.4.3")

    def test_a_server_without_edns(self):
        """RFC 6891 6.2.2."""
        def refuse_edns(reply, question, _over):
            return failed(reply, 1) if question[10:12] != b"\0\0" else reply
        old = Proxy(self.knot.port, refuse_edns)
        try:
            self.assertIn("hosts", self.one("open.test", servers=[old.port]))
        finally:
            old.close()

    def test_ipv6_can_be_off(self):
        answer = self.one("mx1.secure.test", "--host", settings=("dns.ipv6=false",))
        self.assertEqual(answer["addresses"], ["127.0.0.11"])

    def test_rubbish_is_survived(self):
        """Answers cut at every octet, and with every octet of the header and the first records
        wrong."""
        whole = {}
        keep = Proxy(self.knot.port, lambda reply, *_: whole.setdefault("reply", reply))
        self.one("open.test", servers=[keep.port])
        keep.close()
        size = len(whole["reply"])
        turn = {"at": 0}

        def spoil(reply, *_):
            at = turn["at"] = turn["at"] + 1
            if at % 2:
                return reply[: at * 7 % len(reply)]
            where = 2 + at * 5 % (len(reply) - 2)
            return reply[:where] + bytes([reply[where] ^ (1 << at % 8)]) + reply[where + 1:]
        spoiler = Proxy(self.knot.port, spoil)
        try:
            settings = ("dns.timeout=\"100ms\"", "dns.attempts=1", "dns.deadline=\"1s\"")
            for validating in ((), self.validating):
                for _ in range(3):
                    names = list(ANSWERS)
                    self.resolve(*names, servers=[spoiler.port],
                                 settings=(*settings, *validating))
            self.assertGreater(turn["at"], size)
        finally:
            spoiler.close()


class Policies(WithKnot):
    """MTA-STS policies, from an HTTPS server."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.directory = pathlib.Path(tempfile.mkdtemp(prefix="ringmail-sts-"))
        cls.right = cls.certificate("right", "mta-sts.open.test")
        cls.wrong = cls.certificate("wrong", "mta-sts.other.test")

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.directory)
        super().tearDownClass()

    @classmethod
    def certificate(cls, name, host):
        """One file with key and self-signed certificate; who trusts it trusts itself as authority."""
        path = cls.directory / name
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
             "-nodes", "-days", "2", "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{host}",
             "-addext", "basicConstraints=critical,CA:FALSE", "-keyout", f"{path}.key",
             "-out", f"{path}.pem"],
            check=True, capture_output=True, timeout=60)
        return path

    def fetch(self, body, certificate=None, trusted=None, status=200, media="text/plain",
              domain="open.test", arguments=("--kind", "sts")):
        """What `ringmail resolve` finds with a policy server that sends this."""
        seen = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                seen.append((self.headers["Host"], self.path))
                data = body.encode()
                self.send_response(status)
                self.send_header("Content-Type", media)
                if status == 301:
                    self.send_header("Location", "/.well-known/mta-sts.txt")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        certificate = certificate or self.right
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(f"{certificate}.pem", f"{certificate}.key")
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        settings = (f"mta_sts.server=\"127.0.0.1:{server.server_port}\"",
                    f"mta_sts.ca_file=\"{trusted or certificate}.pem\"")
        try:
            return self.one(domain, *arguments, settings=settings), seen
        finally:
            server.shutdown()
            server.server_close()

    ENFORCE = "version: STSv1\r\nmode: enforce\r\nmx: mx1.open.test\r\nmax_age: 86400\r\n"

    def test_a_policy(self):
        answer, seen = self.fetch(self.ENFORCE)
        self.assertEqual(answer["records"], self.ENFORCE.splitlines())
        self.assertEqual(seen, [("mta-sts.open.test", "/.well-known/mta-sts.txt")])

    def test_its_hosts(self):
        answer, _ = self.fetch(self.ENFORCE, arguments=())
        tls = {host["name"]: host["tls"] for host in answer["hosts"]}
        self.assertEqual(tls["mx1.open.test"], "MTA-STS")
        self.assertIn("4.7.5", tls["10.0.0.1"])
        answer, _ = self.fetch(self.ENFORCE.replace("enforce", "testing"), arguments=())
        self.assertEqual({host["tls"] for host in answer["hosts"]}, {"MTA-STS, testing"})

    def test_what_is_no_policy(self):
        for name, options in (
            ("certificate of another name", {"certificate": self.wrong}),
            ("authority not trusted", {"trusted": self.wrong}),
            ("not found", {"status": 404}),
            ("redirection", {"status": 301}),
            ("HTML", {"media": "text/html"}),
            ("domain without a record", {"domain": "secure.test"}),
        ):
            with self.subTest(name):
                answer, _ = self.fetch(self.ENFORCE, **options)
                self.assertEqual(answer.get("status"), "5.4.4", answer)
        for body in ("", "x", self.ENFORCE.replace("STSv1", "STSv2"), self.ENFORCE + "x" * 70_000):
            answer, seen = self.fetch(body)
            self.assertEqual(answer.get("status"), "5.4.4", answer)
            self.assertEqual(len(seen), 1)

    def test_dane_comes_first(self):
        answer = self.one("secure.test", settings=self.validating)
        tls = {host["name"]: host["tls"] for host in answer["hosts"]}
        self.assertEqual(tls, {"mx1.secure.test": "DANE, 2 record(s)",
                               "nick.secure.test": "DANE, 2 record(s)",
                               "mx2.secure.test": "TLS if offered"})
        # An alias that leads out of the signed zone has the records of its own name (RFC 7672 2.2.2), not
        # those of the zone where it leads.
        names = ("away.secure.test", "far.secure.test", "out.open.test")
        answers = self.resolve(*names, "--host", settings=self.validating)
        self.assertEqual([answers[name]["tls"] for name in names],
                         ["DANE, 1 record(s)", "TLS if offered", "TLS if offered"])
        # Without proof of authenticity the records do not count.
        answer = self.one("secure.test")
        self.assertEqual({host["tls"] for host in answer["hosts"]}, {"TLS if offered"})


def with_ad(reply, question, _over):
    """As a validating server: the AD bit if the question has it."""
    return reply[:3] + bytes([reply[3] | (question[3] & 0x20)]) + reply[4:]


def truncated(reply, _question, _over):
    """The TC bit, and no records."""
    end = 12
    while reply[end]:
        end += reply[end] + 1
    end += 5
    return reply[:2] + bytes([reply[2] | 2]) + reply[3:6] + b"\0" * 6 + reply[12:end]


def truncated_over_udp(reply, question, over):
    return truncated(reply, question, over) if over == "udp" and len(reply) > 512 else reply


def failed(reply, rcode):
    """The reply as an error; None stays silent."""
    if rcode is None:
        return None
    end = 12
    while reply[end]:
        end += reply[end] + 1
    end += 5
    return reply[:3] + bytes([reply[3] & 0xF0 | rcode]) + reply[4:6] + b"\0" * 6 + reply[12:end]


def without_edns(question):
    end = 12
    while question[end]:
        end += question[end] + 1
    end += 5
    return question[:10] + b"\0\0" + question[12:end]


if __name__ == "__main__":
    unittest.main()
