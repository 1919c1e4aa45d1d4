"""TLS policies between servers: Ringmail sends to Postfix, Exim and another Ringmail, and they to it, with
DANE, MTA-STS, REQUIRETLS and none of them, and certificates that are right and wrong. As in test_world.py all
of them have a network of their own; here the zones are signed, and Postfix, Exim and the second Ringmail ask
a validating resolver (Unbound), while the first validates itself. Needs root."""

import http.server
import json
import os
import pathlib
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import servers
from knot import Knot
from servers import Authority, Exim, Postfix, Ringmail, Unbound, unpacked_exim
from test_relay import Report, wait_for
from test_world import ADDRESSES, INSIDE, SELECTED, enter, message

# Postfix and Exim without STARTTLS.
PLAIN = {"pf": "127.0.1.13", "ex": "127.0.1.14"}
EXPIRE = 12
SECONDS = 40
STS_PORT = 8443
WRONG = "00" * 32

OTHERS = ("pf", "ex")
EVERYBODY = ("two", *OTHERS)


class Case:
    """A domain at each of the targets, and what becomes of mail to it. `zone`: "signed", "open" or "bogus".
    `tlsa`: the records of its host: certificate (leaf or authority), usage, selector, matching type; or
    "wrong". `host`: which certificate the host has: "good", "unnamed" (good, for other names), "expired",
    "self" (issued by itself) or "plain" (no STARTTLS). `sts`: the policy's mode; it lists the host unless
    `listed` is false. `tls`: what the event of the delivery says, None for plain text; or `reason`: mail
    waits, and is returned with the status and a text that matches."""

    def __init__(self, zone="signed", tlsa=(), host="unnamed", sts=None, listed=True, tls="", reason=None,
                 status="4.7.5", noted=False, explain="TLS if the host offers it", targets=EVERYBODY):
        self.zone, self.tlsa, self.host, self.sts, self.listed = zone, tlsa, host, sts, listed
        self.tls, self.reason, self.status, self.noted = tls, reason, status, noted
        self.explain, self.targets = explain, targets

    def domain(self, name, target):
        below = {"signed": f"{target}.test", "open": f"{target}.open.test", "bogus": "bogus.test"}[self.zone]
        return f"{name}.{below}" if self.zone != "bogus" else f"{name}-{target}.bogus.test"


EE, EE_CERTIFICATE = ("leaf", 3, 1, 1), ("leaf", 3, 0, 2)
CA, CA_CERTIFICATE = ("ca", 2, 1, 1), ("ca", 2, 0, 1)
BAD, UNUSABLE = ("wrong", 3, 1, 1), ("wrong", 1, 1, 1)
DANE, BY_NAME = r"TLS required, by DANE \(1 TLSA", "TLS required, with a certificate for h-"
CASES = {
    # DANE (RFC 7672).
    "ee": Case(tlsa=[EE], tls=r"TLSv1\.3, DANE$", explain=DANE),
    "cert": Case(tlsa=[EE_CERTIFICATE], tls=r"TLSv1\.3, DANE$", explain=DANE),
    "two": Case(tlsa=[BAD, EE], tls=r"TLSv1\.3, DANE$", explain="TLS required, by DANE .2 TLSA"),
    "ca": Case(tlsa=[CA], host="good", tls=r"DANE, certificate for h-ca\.", explain=DANE),
    "cacert": Case(tlsa=[CA_CERTIFICATE], host="good", tls=r"DANE, certificate for h-cacert\.", explain=DANE),
    # The certificate is for the domain, not for the host.
    "cadomain": Case(tlsa=[CA], tls=r"DANE, certificate for cadomain\.", explain=DANE),
    "caname": Case(tlsa=[CA], reason="certificate not valid for name", explain=DANE),
    "caold": Case(tlsa=[CA], host="expired", reason="expired", explain=DANE, targets=OTHERS),
    # Neither dates nor names matter.
    "eeold": Case(tlsa=[("expired", 3, 1, 1)], host="expired", tls=r"TLSv1\.3, DANE$", explain=DANE, targets=OTHERS),
    "wrong": Case(tlsa=[BAD], reason="no TLSA record", explain=DANE),
    "unusable": Case(tlsa=[UNUSABLE], tls="no usable TLSA record", explain=DANE),
    "bare": Case(tls="unverified"),
    "daneplain": Case(tlsa=[EE], host="plain", reason="not offer TLS", status="4.7.4", explain=DANE,
                      targets=OTHERS),
    "unusableplain": Case(tlsa=[UNUSABLE], host="plain", reason="not offer TLS", status="4.7.4", explain=DANE,
                          targets=OTHERS),
    "open": Case(zone="open", tlsa=[BAD], tls="unverified"),
    "bogus": Case(zone="bogus", reason="DNSSEC", status="4.4.7", explain=None),
    # MTA-STS (RFC 8461).
    "sts": Case(zone="open", sts="enforce", host="good", tls=r"certificate for h-sts\.", explain=BY_NAME),
    "stsname": Case(zone="open", sts="enforce", reason="certificate not valid for name", explain=BY_NAME),
    "stsold": Case(zone="open", sts="enforce", host="expired", reason="expired", explain=BY_NAME, targets=OTHERS),
    "stsself": Case(zone="open", sts="enforce", host="self", reason="nobody who is trusted", explain=BY_NAME, targets=OTHERS),
    "stsplain": Case(zone="open", sts="enforce", host="plain", reason="not offer TLS", status="4.7.4",
                     explain=BY_NAME, targets=OTHERS),
    "stsmx": Case(zone="open", sts="enforce", host="good", listed=False, reason="does not list this host",
                  explain="none possible: 4.7.5"),
    "try": Case(zone="open", sts="testing", tls="unverified", noted=True, explain="testing"),
    "tryold": Case(zone="open", sts="testing", host="expired", tls="unverified", noted=True, explain="testing",
                   targets=OTHERS),
    "tryplain": Case(zone="open", sts="testing", host="plain", tls=None, noted=True, explain="testing",
                     targets=OTHERS),
    "off": Case(zone="open", sts="none", tls="unverified"),
    # Neither.
    "old": Case(zone="open", host="expired", tls="unverified", targets=OTHERS),
    "self": Case(zone="open", host="self", tls="unverified", targets=OTHERS),
    "plain": Case(zone="open", host="plain", tls=None, targets=OTHERS),
}


class Outside(unittest.TestCase):
    """Runs the tests of this file in their own network."""

    @unittest.skipIf(INSIDE in os.environ, "inside")
    @unittest.skipIf(os.geteuid() != 0, "needs root")
    def test_tls_policies(self):
        # There is no way to Debian from inside.
        unpacked_exim()
        servers.unpacked("unbound", "usr/sbin/unbound")
        command = ["unshare", "--net", "--mount", sys.executable, __file__, "-v", *SELECTED]
        done = subprocess.run(command, env={**os.environ, INSIDE: "1"}, timeout=600)
        self.assertEqual(done.returncode, 0)


class PolicyServer:
    """For all domains: {domain: policy}."""

    def __init__(self, certificate):
        self.policies, self.asked = {}, []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                domain = self.headers["Host"].removeprefix("mta-sts.")
                outer.asked.append(domain)
                body = outer.policies.get(domain)
                self.send_response(200 if body else 404)
                self.send_header("Content-Type", "text/plain")
                self.send_header("Content-Length", str(len(body or "")))
                self.end_headers()
                self.wfile.write((body or "").encode())

            def log_message(self, *_):
                pass
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(f"{certificate}.pem", f"{certificate}.key")
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", STS_PORT), Handler)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@unittest.skipIf(INSIDE not in os.environ, "only in the network of its own")
class TlsPolicies(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        enter(*PLAIN.values())
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="ringmail-tls-"))
        cls.folder.chmod(0o755)
        if "KEEP_WORLD" not in os.environ:
            cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        cls.authority = Authority(cls.folder / "ca")
        cls.make_zones()
        cls.knot = Knot(cls.zones, age=1)
        cls.addClassCleanup(cls.knot.close)
        cls.unbound = Unbound(cls.folder, cls.knot.port, cls.knot.anchor)
        cls.addClassCleanup(cls.unbound.close)
        cls.policies = PolicyServer(cls.authority.issue("policies", [
            "mta-sts." + domain for domain, _ in cls.with_policy()]))
        cls.addClassCleanup(lambda: cls.policies.close())
        for domain, case in cls.with_policy():
            host = f"h-{domain}" if case.listed else "mx.elsewhere.test"
            cls.policies.policies[domain] = (f"version: STSv1\r\nmode: {case.sts}\r\nmx: {host}\r\n"
                                             "max_age: 86400\r\n")
        cls.start_servers()

    @classmethod
    def with_policy(cls):
        return [(case.domain(name, target), case) for name, case in cls.cases.items() if case.sts
                for target in case.targets]

    @classmethod
    def make_zones(cls):
        """The zones, and the certificates that their records name."""
        late = Case(zone="open", sts="enforce", host="good")
        cls.cases = {**CASES, "mended": Case(tlsa=[BAD]), "kept": late,
                     # The hosts of `wrong`, named by an MX record that proves nothing.
                     "forged": Case(zone="open", tls="unverified"), "routed": Case(tlsa=[BAD], tls="unverified")}
        lines = {f"{target}.test": [] for target in ("one", *EVERYBODY)}
        lines |= {"open.test": [], "bogus.test": []}
        cls.certificates, cls.by_name, cls.domains = {}, {}, {}
        for target in ("one", *EVERYBODY):
            mine = [(name, case) for name, case in cls.cases.items() if target in case.targets]
            named = [f"h-{case.domain(name, target)}" for name, case in mine if case.host == "good"]
            cls.certificates[target] = cls.authority.issue(
                target, [f"mx.{target}.test", *named, f"cadomain.{target}.test"])
            cls.domains[target] = [case.domain(name, target) for name, case in mine]
            cls.by_name[target] = {}
            for kind in ("expired", "self"):
                hosts = [f"h-{case.domain(name, target)}" for name, case in mine if case.host == kind]
                if hosts:
                    path = cls.authority.issue(f"{target}-{kind}", hosts, kind == "expired", kind == "self")
                    cls.certificates[f"{target}-{kind}"] = path
                    cls.by_name[target] |= dict.fromkeys(hosts, path)
        for target in ("one", *EVERYBODY):
            address = ADDRESSES[target]
            own = lines[f"{target}.test"]
            leaf = cls.record("leaf", 3, 1, 1, target)
            own += [f"@ MX 10 mx", f"mx A {address}", f"_25._tcp.mx {leaf}",
                    # For the others to send to.
                    "in-wrong MX 10 h-in-wrong", f"h-in-wrong A {address}",
                    f"_25._tcp.h-in-wrong TLSA 3 1 1 {WRONG}",
                    "in-bare MX 10 h-in-bare", f"h-in-bare A {address}"]
            for name, case in cls.cases.items():
                if target not in case.targets:
                    continue
                domain = case.domain(name, target)
                zone = domain.partition(".")[2] if case.zone != "open" else "open.test"
                at = PLAIN[target] if case.host == "plain" else address
                if name in ("forged", "routed"):
                    lines[zone].append(f"{domain}. MX 10 h-wrong.{target}.test.")
                    continue
                lines[zone] += [f"{domain}. MX 10 h-{domain}.", f"h-{domain}. A {at}"]
                lines[zone] += [f"_25._tcp.h-{domain}. {cls.record(*record, target)}" for record in case.tlsa]
                if case.sts:
                    lines[zone].append(f'_mta-sts.{domain}. TXT "v=STSv1; id=1;"')
        cls.zones = {"!.": "ns.test. A 127.0.0.1", "!test": "ns A 127.0.0.1"}
        for origin, records in lines.items():
            sign = {"open.test": "", "bogus.test": "?"}.get(origin, "!")
            cls.zones[sign + origin] = "\n".join(records)

    @classmethod
    def record(cls, which, usage, selector, matching, target):
        if which == "wrong":
            return f"TLSA {usage} {selector} {matching} {WRONG}"
        path = {"leaf": f"{cls.certificates[target]}.pem", "ca": cls.authority.certificate,
                "expired": f"{cls.certificates.get(target + '-expired')}.pem"}[which]
        return cls.authority.record(path, usage, selector, matching)

    @classmethod
    def start_servers(cls):
        inward = ("in-wrong", "in-bare")

        def options(target):
            domains = cls.domains.get(target, []) + [f"{it}.{target}.test" for it in inward]
            return {"domains": domains, "certificate": cls.certificates[target]}

        def aliases(target):
            return "".join(f"@{domain}: @{target}.test\n" for domain in options(target)["domains"])
        authority = cls.authority.certificate
        verifying = f'''[mta_sts]
ca_file = "{authority}"
server = "127.0.0.1:{STS_PORT}"
'''
        # Of two kinds, which cost nothing to keep: own validation, and a validating resolver.
        cls.one = Ringmail("one", ADDRESSES["one"], cls.folder, queue=f'expire = "{EXPIRE}s"\nca_file = "{authority}"',
                           dns=f'servers = ["127.0.0.1:{cls.knot.port}"]\nvalidate = true\n'
                               f'trust_anchor = "{cls.knot.anchor}"',
                           config=verifying + '''
[[route]]
domains = ["routed.two.test", "routed.pf.test", "routed.ex.test"]
to = "mx"
tls = "required"
''', aliases=aliases("one"), **options("one"))
        cls.addClassCleanup(cls.one.close)
        cls.two = Ringmail("two", ADDRESSES["two"], cls.folder, queue=f'expire = "{EXPIRE}s"\nca_file = "{authority}"',
                           dns='servers = ["127.0.0.1:53"]\ntrust_ad = true',
                           config=verifying, aliases=aliases("two"), **options("two"))
        cls.addClassCleanup(cls.two.close)
        cls.pf = Postfix("pf", ADDRESSES["pf"], cls.folder, by_name=cls.by_name["pf"], plain=PLAIN["pf"], more=f"""
smtp_tls_security_level = dane
smtp_dns_support_level = dnssec
smtp_tls_CAfile = {authority}
smtp_tls_policy_maps = inline:{{ {{ two.test = secure match=mx.two.test }}, {{ in-bare.two.test = secure match=in-bare.two.test }}, {{ in-bare.one.test = dane-only }} }}
smtp_tls_loglevel = 1
maximal_queue_lifetime = {EXPIRE}s
bounce_queue_lifetime = {EXPIRE}s
""", **options("pf"))
        cls.addClassCleanup(cls.pf.close)
        cls.ex = Exim("ex", ADDRESSES["ex"], cls.folder, by_name=cls.by_name["ex"], plain=PLAIN["ex"],
                      main=f"dns_dnssec_ok = 1\nlog_selector = +tls_certificate_verified +tls_cipher\n"
                           f"timeout_frozen_after = 1d",
                      smtp=f"hosts_try_dane = *\n  hosts_require_dane = ${{if match_domain{{$domain}}{{in-bare.one.test}}{{*}}{{}}}}\n"
                           f"  dnssec_request_domains = *\n  tls_verify_certificates = {authority}", **options("ex"))
        cls.addClassCleanup(cls.ex.close)
        cls.targets = {"one": cls.one, "two": cls.two, "pf": cls.pf, "ex": cls.ex}

    def setUp(self):
        self.patience = SECONDS

    def wait(self, condition, what, server):
        """After the first time in vain, a test does not wait for others. `server`: tells why."""
        try:
            wait_for(condition, self.patience, what)
        except AssertionError as error:
            said = ""
            if self.patience > 1:
                log = server.log() if server in (self.pf, self.ex) else ""
                said = f"\n{self.one.verb('queue', 'list')}\n{server.name}:\n{log[-4000:]}"
            self.patience = 1
            raise AssertionError(f"{error}{said}") from None

    # What one sends

    def send(self, name, target, subject=None, header="", **options):
        domain = self.cases[name].domain(name, target)
        subject = subject or f"{name}-to-{target}"
        octets = message("user1@one.test", f"user1@{domain}", subject)
        self.one.send("user1@one.test", [f"user1@{domain}"], header.encode() + octets, **options)
        return domain, subject

    def events(self, server, **fields):
        log = (server.folder / "events.log").read_text()
        found = [json.loads(line) for line in log.splitlines() if line.endswith("}")]
        return [it for it in found if all(it.get(key) == value for key, value in fields.items())]

    def sent(self, domain, subject, target):
        """The event of the delivery of a message, which is waited for, and its Received field there."""
        server = self.targets[target]
        self.wait(lambda: server.find("user1", f"Subject: {subject}\r\n".encode()), subject, server)
        found = server.find("user1", f"Subject: {subject}\r\n".encode())
        self.assertEqual(len(found), 1)
        wait_for(lambda: self.events(self.one, event="attempt", to=f"user1@{domain}", result="sent"), SECONDS, subject)
        return self.events(self.one, event="attempt", to=f"user1@{domain}", result="sent")

    def returned(self, subject, seconds=SECONDS):
        """The recipient's fields in the report about a message to one."""
        def reports():
            octets = self.one.find("user1", f"<{subject}@".encode())
            return [Report(it) for it in octets if Report.is_one(it)]
        found = wait_for(reports, seconds, f"a report about {subject}")
        self.assertEqual(len(found), 1)
        (fields,) = found[0].recipients
        return fields

    def explained(self, domain):
        text = self.one.verb("explain", domain, "--json")
        return json.loads(text.splitlines()[0])

    def test_a_policies(self):
        begun = time.monotonic()
        every = [(name, target) for name, case in CASES.items() for target in case.targets]
        for name, target in every:
            self.send(name, target)
        for name, target in every:
            case = CASES[name]
            domain, subject = case.domain(name, target), f"{name}-to-{target}"
            if case.reason:
                continue
            with self.subTest(subject):
                (event,) = self.sent(domain, subject, target)
                self.assertEqual(event["host"], f"h-{domain}")
                if case.tls is None:
                    self.assertNotIn("tls", event)
                else:
                    self.assertRegex(event.get("tls", ""), case.tls)
                noted = self.events(self.one, event="tls_failed", host=f"h-{domain}")
                self.assertEqual(bool(noted), case.noted, noted)
                # What the other side says of it.
                received = self.targets[target].find("user1", f"Subject: {subject}\r\n".encode())[0]
                received = received.split(b"Received:")[1]
                self.assertEqual(b"ESMTPS" in received.upper(), case.tls is not None, received)
        for name, target in every:
            case = CASES[name]
            with self.subTest(f"explain {name} at {target}"):
                way = self.explained(case.domain(name, target))
                if case.explain is None:
                    self.assertIn("DNSSEC", way["problem"]["reason"])
                else:
                    self.assertRegex(way["hosts"][0]["tls"], case.explain)
        for name, target in every:
            case = CASES[name]
            if not case.reason:
                continue
            domain, subject = case.domain(name, target), f"{name}-to-{target}"
            with self.subTest(subject):
                fields = self.returned(subject)
                self.assertEqual(self.targets[target].find("user1", f"Subject: {subject}\r\n".encode()), [])
                self.assertEqual(fields["Final-Recipient"], f"rfc822; user1@{domain}")
                self.assertEqual((fields["Action"], fields["Status"]), ("failed", case.status))
                self.assertRegex(fields["Diagnostic-Code"], case.reason)
                # It waited.
                self.assertEqual(self.events(self.one, event="attempt", to=f"user1@{domain}", result="sent"), [])
        self.assertGreater(time.monotonic() - begun, EXPIRE)

    def test_a_connections_are_not_shared(self):
        """Mail that demands DANE does not use the connections of mail that demands nothing of the same
        hosts: neither those of a domain whose MX records prove nothing, nor those of a route."""
        for name in ("forged", "routed"):
            for target in EVERYBODY:
                with self.subTest(name, target=target):
                    subject = f"{name}-before-{target}"
                    domain, _ = self.send(name, target, subject)
                    self.sent(domain, subject, target)
                    # That connection is idle now.
                    self.send("wrong", target, f"wrong-behind-{name}-{target}")
        time.sleep(3)
        for target in EVERYBODY:
            self.assertEqual(self.targets[target].find("user1", b"Subject: wrong-behind-"), [])

    def test_b_a_mended_record(self):
        for target in EVERYBODY:
            with self.subTest(target):
                domain, subject = self.send("mended", target)
                host = f"h-{domain}"
                wait_for(lambda: [it for it in self.events(self.one, event="site_down") if host in it["site"]],
                         SECONDS, "a first attempt")
                right = self.record("leaf", 3, 1, 1, target)
                self.knot.change(f"{target}.test", f"_25._tcp.{host}. TLSA 3 1 1 {WRONG}", f"_25._tcp.{host}. {right}")
                (event,) = self.sent(domain, subject, target)
                self.assertRegex(event["tls"], "DANE$")

    def test_c_a_policy_is_kept(self):
        """While its server and its record are away, after a restart, too."""
        for target in OTHERS:
            self.assertRegex(self.sent(*self.send("kept", target), target)[0]["tls"], "certificate for h-kept")
        self.policies.close()
        for target in OTHERS:
            domain = self.cases["kept"].domain("kept", target)
            self.knot.change("open.test", f'_mta-sts.{domain}. TXT "v=STSv1; id=1;"', "")
            # Its host is at an address without TLS now, or somebody says so.
            self.knot.change("open.test", f"h-{domain}. A {ADDRESSES[target]}", f"h-{domain}. A {PLAIN[target]}")
        self.assertEqual(self.one.stop(), 0)
        self.one.start()
        for target in OTHERS:
            self.send("kept", target, f"kept-away-{target}")
        for target in OTHERS:
            with self.subTest(target):
                fields = self.returned(f"kept-away-{target}")
                self.assertEqual(fields["Status"], "4.7.4")
                self.assertEqual(self.targets[target].find("user1", f"kept-away-{target}".encode()), [])

    def test_d_require_tls(self):
        """RFC 8689 4.2.1: only to a host that is who it says, and that has the extension."""
        for name, target, good in (("ee", "two", True), ("ca", "two", True), ("bare", "two", False),
                                   ("ee", "pf", False), ("ee", "ex", False)):
            with self.subTest(name, target=target):
                subject = f"require-{name}-{target}"
                self.send(name, target, subject, mail_options=("REQUIRETLS",))
                if good:
                    wait_for(lambda: self.targets[target].find("user1", f"Subject: {subject}\r\n".encode()),
                             SECONDS, subject)
                    self.assertEqual([Report(it) for it in self.one.find("user1", f"<{subject}@".encode())
                                      if Report.is_one(it)], [])
                else:
                    fields = self.returned(subject, 8)
                    self.assertEqual((fields["Action"], fields["Status"]), ("failed", "5.7.30"))
                    self.assertIn("REQUIRETLS", fields["Diagnostic-Code"])

    def test_d_tls_not_required(self):
        """RFC 8689 3: the sender of the message wants it to go through."""
        for name in ("wrong", "caname", "stsname", "stsmx", "daneplain", "stsplain"):
            for target in CASES[name].targets:
                with self.subTest(name, target=target):
                    subject = f"whatever-{name}-{target}"
                    domain, _ = self.send(name, target, subject, header="TLS-Required: No\r\n")
                    event = self.sent(domain, subject, target)[-1]
                    if CASES[name].host == "plain":
                        self.assertNotIn("tls", event)
                    else:
                        self.assertRegex(event["tls"], "unverified")
        # What MAIL says comes first.
        self.send("ee", "pf", "both-pf", header="TLS-Required: No\r\n", mail_options=("REQUIRETLS",))
        self.assertEqual(self.returned("both-pf")["Status"], "5.7.30")

    # What one and two get

    def test_e_dane_of_others(self):
        """They verify us; Postfix and Exim say so in their logs, the second Ringmail in its events."""
        for source in (self.pf, self.ex, self.two):
            for below in ("", "in-wrong.", "in-bare."):
                domain = f"{below}one.test"
                subject = f"from-{source.name}-{below.strip('.') or 'right'}"
                source.send(f"user2@{source.domain}", [f"user1@{domain}"],
                            message(f"user2@{source.domain}", "user1", subject))
        for source in (self.pf, self.ex, self.two):
            with self.subTest(source.name):
                subject = f"from-{source.name}-right"
                wait_for(lambda: self.one.find("user1", f"Subject: {subject}\r\n".encode()), SECONDS, subject)
        for source in (self.pf, self.ex, self.two):
            with self.subTest(source.name):
                if source is self.two:
                    (event,) = self.events(self.two, event="attempt", to="user1@one.test", result="sent")
                    self.assertRegex(event["tls"], "DANE$")
                    subject = "from-two-in-bare"
                    wait_for(lambda: self.one.find("user1", f"Subject: {subject}\r\n".encode()), SECONDS, subject)
                elif source is self.pf:
                    self.assertRegex(source.log(), r"Verified TLS connection established to mx\.one\.test")
                    wait_for(lambda: re.search(r"to=<user1@in-bare\.one\.test>.*status=deferred.*TLSA", source.log()),
                             SECONDS, "in-bare of dane-only waits")
                    wait_for(lambda: re.search(r"to=<user1@in-wrong\.one\.test>.*status=deferred.*not verified",
                                               source.log()), SECONDS, "in-wrong waits")
                else:
                    self.assertRegex(source.log(), r"=> user1@one\.test .* CV=dane ")
                    wait_for(lambda: re.search(r"(==|\*\*) user1@in-bare\.one\.test .*DANE", source.log()), SECONDS,
                             "in-bare is not sent")
                    wait_for(lambda: re.search(r"== user1@in-wrong\.one\.test ", source.log()), SECONDS,
                             "in-wrong waits")
        for source in (self.pf, self.ex, self.two):
            for below in ("in-wrong", *(["in-bare"] if source is not self.two else [])):
                self.assertEqual(self.one.find("user1", f"Subject: from-{source.name}-{below}".encode()), [])

    def test_f_names_that_postfix_verifies(self):
        """`secure`: our certificate is for the name that it wants, or not."""
        for below, good in (("", True), ("in-bare.", False)):
            subject = f"secure-{below.strip('.') or 'right'}"
            self.pf.send("user2@pf.test", [f"user1@{below}two.test"], message("user2@pf.test", "user1", subject))
            if good:
                wait_for(lambda: self.two.find("user1", f"Subject: {subject}\r\n".encode()), SECONDS, subject)
                self.assertRegex(self.pf.log(), r"(Verified|Trusted) TLS connection established to mx\.two\.test")
            else:
                wait_for(lambda: re.search(r"to=<user1@in-bare\.two\.test>.*status=deferred.*not verified",
                                           self.pf.log()), SECONDS, subject)


if __name__ == "__main__":
    unittest.main()
