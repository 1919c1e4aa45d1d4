"""Reports on TLS (RFC 8460): sessions with mail servers whose TLS is right, wrong and missing are counted, and
the reports arrive by mail and by HTTPS, although TLS at the mail server that takes them is broken too."""

import contextlib
import email
import email.policy
import gzip
import http.server
import json
import pathlib
import shutil
import smtplib
import socket
import ssl
import subprocess
import tempfile
import threading
import time
import unittest

from demo import BINARY, Demo
from knot import Knot, free_port
from test_dkim import VERIFY, python_with_dkimpy, records

PLAIN, TLS = "127.0.2.2", "127.0.2.1"
DAY = 24 * 3600


def certificate(folder, name, *hosts):
    """Key and self-signed certificate; who trusts it trusts itself as authority."""
    path = folder / name
    names = ",".join(f"DNS:{host}" for host in hosts)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-days", "2", "-subj", f"/CN={name}", "-addext", f"subjectAltName={names}",
         "-addext", "basicConstraints=critical,CA:FALSE", "-keyout", f"{path}.key", "-out", f"{path}.pem"],
        check=True, capture_output=True, timeout=60)
    return path


def context_of(path):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{path}.pem", f"{path}.key")
    return context


class MailServer:
    """Takes every message; keeps (was there TLS, sender, recipients, octets)."""

    def __init__(self, address, port, context=None):
        self.context = context
        self.taken = []
        self.listener = socket.create_server((address, port))
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self.listener.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with contextlib.suppress(OSError, ValueError):
            self._talk(connection)
        connection.close()

    def _talk(self, connection):
        connection.settimeout(30)
        connection.sendall(b"220 sink.test ready\r\n")
        stream, tls = connection.makefile("rb"), False
        while True:
            line = stream.readline()
            if not line:
                return
            verb = line.split()[0].upper()
            if verb == b"EHLO":
                offered = b"250-STARTTLS\r\n" if self.context and not tls else b""
                connection.sendall(b"250-sink.test\r\n" + offered + b"250 8BITMIME\r\n")
            elif verb == b"STARTTLS":
                connection.sendall(b"220 go\r\n")
                connection = self.context.wrap_socket(connection, server_side=True)
                stream, tls = connection.makefile("rb"), True
            elif verb == b"MAIL":
                sender, recipients = line, []
                connection.sendall(b"250 ok\r\n")
            elif verb == b"RCPT":
                recipients.append(line)
                connection.sendall(b"250 ok\r\n")
            elif verb == b"DATA":
                connection.sendall(b"354 go\r\n")
                octets = b""
                while (line := stream.readline()) != b".\r\n":
                    octets += line[1:] if line.startswith(b".") else line
                self.taken.append((tls, sender, recipients, octets))
                connection.sendall(b"250 ok\r\n")
            elif verb == b"QUIT":
                connection.sendall(b"221 bye\r\n")
                return
            else:
                connection.sendall(b"250 ok\r\n")


class WebServer:
    """MTA-STS policies, and reports by POST. `status`: of the answers to reports."""

    def __init__(self, context, policies):
        self.policies, self.reports, self.status = policies, [], 201
        own = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self, status, data=b""):
                self.send_response(status)
                self.send_header("Content-Type", "text/plain")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_GET(self):
                policy = own.policies.get(self.headers["Host"])
                self.answer(200 if policy else 404, (policy or "").encode())

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                own.reports.append((self.path, self.headers["Host"], self.headers["Content-Type"], body))
                self.answer(own.status)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def policy(mode, host):
    return f"version: STSv1\r\nmode: {mode}\r\nmx: {host}\r\nmax_age: 86400\r\n"


class Reports(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="ringmail-tlsrpt-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.mail_port = free_port()
        self.authority = certificate(self.folder, "web", "mta-sts.right.test", "mta-sts.trial.test",
                                     "mta-sts.reports.test", "mta-sts.odd.test", "web.reports.test")
        self.mx = certificate(self.folder, "mx", "mx.right.test")
        both = self.folder / "authorities.pem"
        both.write_text("".join(pathlib.Path(f"{it}.pem").read_text() for it in (self.authority, self.mx)))
        self.web = WebServer(context_of(self.authority), {
            "mta-sts.right.test": policy("enforce", "mx.right.test"),
            # The certificate is for another host.
            "mta-sts.trial.test": policy("testing", "mx.trial.test"),
            "mta-sts.reports.test": policy("enforce", "mx.reports.test"),
            "mta-sts.odd.test": "version: STSv7\r\n",
        })
        self.addCleanup(self.web.close)
        rua = f'_smtp._tls TXT "v=TLSRPTv1; rua=mailto:tls%2Bin@reports.test'
        by_mail, by_both = f'{rua}"', f'{rua},https://web.reports.test:{self.web.port}/v1?x=y"'

        def zone(address, *more):
            return "\n".join(["@ MX 10 mx", f"mx A {address}", *more])
        sts = '_mta-sts TXT "v=STSv1; id=1"'
        self.knot = Knot({
            "!.": "ns.test. A 127.0.0.1",
            "!test": "ns A 127.0.0.1",
            "right.test": zone(TLS, sts, by_mail),
            "trial.test": zone(TLS, sts, by_both),
            "odd.test": zone(TLS, sts, by_mail),
            "plain.test": zone(PLAIN, by_mail),
            "silent.test": zone(PLAIN),
            "!dane.test": zone(TLS, f"_{self.mail_port}._tcp.mx TLSA 3 1 1 " + 32 * "0a", by_mail),
            # Mail must get there, although its policy forbids it.
            "reports.test": zone("127.0.2.4", sts, "web A 127.0.0.1"),
        })
        self.addCleanup(self.knot.close)
        wrong = context_of(certificate(self.folder, "wrong", "other.test"))
        self.servers = {
            TLS: MailServer(TLS, self.mail_port, context_of(self.mx)),
            PLAIN: MailServer(PLAIN, self.mail_port),
            "127.0.2.4": MailServer("127.0.2.4", self.mail_port, wrong),
        }
        for server in self.servers.values():
            self.addCleanup(server.close)
        self.events = self.folder / "events.log"
        self.data = self.folder / "data"
        self.ringmail("dkim", "generate", "demo.test", "--dir", self.data)
        self.both = both
        self.demo = None
        self.addCleanup(lambda: self.demo and self.demo.stop())

    def start(self):
        settings = {
            "dns.servers": [f"127.0.0.1:{self.knot.port}"], "dns.validate": True, "dns.timeout": "10s",
            "dns.trust_anchor": str(self.knot.anchor), "queue.port": self.mail_port,
            "queue.ca_file": str(self.both), "mta_sts.ca_file": str(self.both),
            "mta_sts.server": f"127.0.0.1:{self.web.port}", "queue.retry": ["1h"],
            "https.local_networks": ["127.0.0.0/8"],
            "tlsrpt.enabled": True, "tlsrpt.organization": "The Demo", "tlsrpt.from": "tls@demo.test",
            "tlsrpt.contact": "help@demo.test", "tlsrpt.delay": "0s", "tlsrpt.ca_file": str(self.both),
            "events.to": str(self.events),
        }
        arguments = ["--shards", 2]
        for name, value in settings.items():
            arguments += ["--set", f"{name}={json.dumps(value)}"]
        self.demo = Demo(*arguments, directory=str(self.data))

    def stop(self):
        demo, self.demo = self.demo, None
        self.assertEqual(demo.stop(), 0)

    def ringmail(self, *arguments):
        done = subprocess.run([str(BINARY), *map(str, arguments)], capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def tlsrpt(self, *arguments):
        lines = self.ringmail("tlsrpt", *arguments, "--json", "--dir", self.data).splitlines()
        return [json.loads(line) for line in lines]

    def send(self, *domains):
        with smtplib.SMTP("127.0.0.1", self.demo.port["submission"], timeout=30) as smtp:
            smtp.login("alice@demo.test", "demo")
            for domain in domains:
                text = f"From: alice@demo.test\r\nTo: user@{domain}\r\nSubject: x\r\n\r\nHello.\r\n"
                smtp.sendmail("alice@demo.test", [f"user@{domain}"], text)

    def shown(self, count):
        """What is counted, by domain, once there are so many."""
        for _ in range(600):
            counted = {it["domain"]: it["policies"] for it in self.tlsrpt("show")}
            if len(counted) >= count:
                return counted
            time.sleep(0.1)
        self.fail(f"only {counted}\n{self.events.read_text()}")

    def told(self, event):
        lines = [json.loads(line) for line in self.events.read_text().splitlines()]
        return [line for line in lines if line["event"] == event]

    def reported(self, count):
        """The documents that came by mail, by domain, and the messages."""
        server = self.servers["127.0.2.4"]
        for _ in range(200):
            if len(server.taken) >= count:
                break
            time.sleep(0.1)
        self.assertEqual(len(server.taken), count)
        found = {}
        for tls, sender, recipients, octets in server.taken:
            self.assertEqual(sender.split()[1], b"FROM:<tls@demo.test>")
            self.assertEqual([it.split()[1] for it in recipients], [b"TO:<tls+in@reports.test>"])
            # TLS that is not trusted is better than none, and its name does not matter.
            self.assertTrue(tls)
            message = email.message_from_bytes(octets, policy=email.policy.default)
            found[message["TLS-Report-Domain"]] = (message, octets)
        return found

    def test_sessions_are_counted_and_reported(self):
        self.start()
        self.send("right.test", "right.test", "trial.test", "plain.test", "silent.test", "dane.test", "odd.test")
        counted = self.shown(6)
        self.check_counts(counted)
        # Several domains at once would share a session; what is counted is bounded by one a domain.
        begun = time.time()
        tried = self.tlsrpt("send", "--dry-run")
        self.assertEqual({it["domain"]: it["result"] for it in tried},
                         {name: "unwanted" if name == "silent.test" else "would" for name in counted})
        self.assertEqual(len(self.tlsrpt("show")), 6, "nothing was sent")
        sent = self.tlsrpt("send")
        results = sorted((it["domain"], it["result"]) for it in sent)
        self.assertEqual(results, [("dane.test", "queued"), ("odd.test", "queued"), ("plain.test", "queued"),
                                   ("right.test", "queued"), ("silent.test", "unwanted"),
                                   ("trial.test", "queued"), ("trial.test", "sent")])
        self.assertEqual(self.tlsrpt("show"), [])
        reports = self.reported(5)
        for domain, (message, octets) in reports.items():
            document = self.check_mail(domain, message, octets)
            self.assertEqual(document["policies"], counted[domain])
            self.assertEqual(document["organization-name"], "The Demo")
            self.assertEqual(document["contact-info"], "help@demo.test")
            begin = time.strftime("%Y-%m-%dT00:00:00Z", time.gmtime(begun))
            self.assertEqual(document["date-range"]["start-datetime"], begin)
            self.assertGreaterEqual(document["date-range"]["end-datetime"], begin[:10])
        # The same by HTTPS.
        [(path, host, media, body)] = self.web.reports
        self.assertEqual((path, host, media),
                         ("/v1?x=y", f"web.reports.test:{self.web.port}", "application/tlsrpt+gzip"))
        self.assertEqual(json.loads(gzip.decompress(body)), self.document(reports["trial.test"][0]))
        # Sessions with reports are not reported.
        self.assertEqual(self.tlsrpt("show"), [])
        told = {(it["domain"], it["result"]) for it in self.told("tls_report")}
        self.assertEqual(told, set(results) - {("silent.test", "unwanted")})
        failed = self.told("sts_policy_failed")
        self.assertEqual({(it["domain"], it["id"], it["kept"]) for it in failed}, {("odd.test", "1", False)})

    def check_counts(self, counted):
        def of(domain, kind):
            [found] = [it for it in counted[domain] if it["policy"]["policy-type"] == kind]
            return found["policy"], found["summary"], found.get("failure-details", [])

        def total(summary):
            return (summary["total-successful-session-count"], summary["total-failure-session-count"])
        policy_, summary, details = of("right.test", "sts")
        self.assertEqual(policy_["policy-string"], policy("enforce", "mx.right.test").splitlines())
        self.assertEqual((policy_["policy-domain"], policy_["mx-host"]), ("right.test", ["mx.right.test"]))
        self.assertIn(total(summary), ((1, 0), (2, 0)))
        self.assertEqual(details, [])
        _, summary, [detail] = of("trial.test", "sts")
        self.assertEqual(total(summary), (0, 1))
        self.assertEqual(detail["result-type"], "certificate-host-mismatch")
        self.assertEqual((detail["receiving-mx-hostname"], detail["receiving-mx-helo"], detail["receiving-ip"]),
                         ("mx.trial.test", "sink.test", TLS))
        self.assertTrue(detail["sending-mta-ip"].startswith("127."), detail)
        policy_, summary, [detail] = of("plain.test", "no-policy-found")
        self.assertEqual(policy_, {"policy-type": "no-policy-found", "policy-domain": "plain.test"})
        self.assertEqual((total(summary), detail["result-type"]), ((0, 1), "starttls-not-supported"))
        policy_, summary, [detail] = of("dane.test", "tlsa")
        self.assertEqual(policy_["policy-string"], ["3 1 1 " + 32 * "0a"])
        self.assertEqual(policy_["policy-domain"], "mx.dane.test")
        self.assertEqual((total(summary), detail["result-type"]), ((0, 1), "certificate-not-trusted"))
        # A policy that cannot be read is none, and that is reported.
        _, summary, [detail] = of("odd.test", "sts")
        self.assertEqual(detail["result-type"], "sts-policy-invalid")
        self.assertGreaterEqual(summary["total-failure-session-count"], 1)
        _, summary, _ = of("odd.test", "no-policy-found")
        self.assertEqual(total(summary), (1, 0))

    def document(self, message):
        return json.loads(gzip.decompress(list(message.iter_parts())[1].get_content()))

    def check_mail(self, domain, message, octets):
        document = self.document(message)
        report = document["report-id"]
        self.assertEqual(message.get_content_type(), "multipart/report")
        self.assertEqual(message.get_param("report-type"), "tlsrpt")
        self.assertEqual(message["TLS-Report-Submitter"], "demo.test")
        self.assertEqual(message["TLS-Required"], "No")
        self.assertEqual(message["Subject"],
                         f"Report Domain: {domain} Submitter: demo.test Report-ID: <{report}@demo.test>")
        text, attached = message.iter_parts()
        self.assertEqual(text.get_content_type(), "text/plain")
        self.assertIn(domain, " ".join(text.get_content().split()))
        self.assertEqual(attached.get_content_type(), "application/tlsrpt+gzip")
        sender, of, begin, end, unique = attached.get_filename().split("!")
        self.assertEqual((sender, of, unique), ("demo.test", domain, f"{report}.json.gz"))
        self.assertEqual(int(begin) % DAY, 0)
        self.assertLess(int(begin), int(end))
        self.assertEqual(message.defects, [])
        self.check_signature(octets)
        return document

    def check_signature(self, octets):
        """RFC 8460 3: there must be one, and without l=."""
        file = self.folder / "signed.eml"
        file.write_bytes(octets)
        keys = "\n".join(f"{name}\t{text}" for name, text in records(self.data).items())
        done = subprocess.run([python_with_dkimpy(), "-c", VERIFY, file, keys], capture_output=True, text=True,
                              timeout=60)
        self.assertEqual(done.stdout, "1 [True]\n", done.stderr)
        signature = email.message_from_bytes(octets)["DKIM-Signature"]
        self.assertNotIn("l", [part.split("=")[0].strip() for part in signature.split(";")])

    def test_counts_outlive_the_server(self):
        self.start()
        self.send("plain.test", "right.test")
        counted = self.shown(2)
        self.stop()
        at_rest = {it["domain"]: it["policies"] for it in self.tlsrpt("show")}
        self.assertEqual(at_rest, counted)
        self.start()
        self.assertEqual(self.shown(2), counted)
        self.send("right.test")
        for _ in range(100):
            [tally] = self.shown(2)["right.test"]
            before = counted["right.test"][0]["summary"]["total-successful-session-count"]
            if tally["summary"]["total-successful-session-count"] == before + 1:
                break
            time.sleep(0.1)
        else:
            self.fail(tally)

    def test_a_day_that_is_over_is_reported_unasked(self):
        """And a report that nobody takes by HTTPS is kept."""
        self.web.status = 503
        self.start()
        self.send("trial.test")
        self.shown(1)
        self.stop()
        file = self.data / "tls-reports.json"
        state = json.loads(file.read_text())
        [(day, counts)] = state["days"].items()
        yesterday = int(day) - 1
        counts["from"] -= DAY
        state["days"] = {str(yesterday): counts}
        file.write_text(json.dumps(state))
        self.start()
        [(domain, (message, octets))] = self.reported(1).items()
        self.assertEqual(domain, "trial.test")
        document = self.check_mail(domain, message, octets)
        date = time.strftime("%Y-%m-%d", time.gmtime(yesterday * DAY))
        self.assertEqual(document["date-range"], {"start-datetime": f"{date}T00:00:00Z",
                                                  "end-datetime": f"{date}T23:59:59Z"})
        [due] = self.tlsrpt("show")
        self.assertEqual((due["state"], due["attempts"]), ("due", 1))
        self.assertEqual(due["left"], [f"https://web.reports.test:{self.web.port}/v1?x=y"])
        [deferred] = [it for it in self.told("tls_report") if it["result"] == "deferred"]
        self.assertIn("503", deferred["reason"])
        # It is tried again, at that endpoint only, and under the same id.
        self.web.status = 200
        [sent] = self.tlsrpt("send", "trial.test")
        self.assertEqual((sent["result"], sent["report"]), ("sent", document["report-id"]))
        self.assertEqual(json.loads(gzip.decompress(self.web.reports[-1][3])), document)
        self.assertEqual(self.tlsrpt("show"), [])
        self.assertEqual(len(self.reported(1)), 1)

    def test_a_policy_that_changes_is_told(self):
        self.start()
        self.send("trial.test")
        self.shown(1)
        self.stop()
        self.web.policies["mta-sts.trial.test"] = policy("none", "mx.trial.test")
        kept = self.data / "mta-sts" / "trial.test"
        head, _, rest = kept.read_text().partition("\n")
        _, _, fetched = head.split()
        kept.write_text(f"1 0 {fetched}\n{rest}")
        self.start()
        self.send("trial.test")
        for _ in range(100):
            if self.told("sts_policy_changed"):
                break
            time.sleep(0.1)
        [changed] = self.told("sts_policy_changed")
        self.assertEqual((changed["domain"], changed["id"], changed["before"], changed["mode"]),
                         ("trial.test", "1", "testing", "none"))


if __name__ == "__main__":
    unittest.main()
