#!/usr/bin/env python3
"""Relay beside Postfix, in turn: mail comes in by SMTP and goes out to Postfix' smtp-sink, which discards it.
Messages a second from the first one sent to the last one in the sink, and the server's CPU a message, by cgroup.

    cargo build --release && benches/relay.py [--messages 20000] [--rounds 3] [--sizes 4096,65536]
    benches/relay.py --backlog 200000     # all destinations down, then up; Ringmail alone
    benches/relay.py --backlog 1000000 --restart     # stopped and started with all of them waiting

Servers on core 0, ringload and the sink on core 1. One destination: all mail to one host. A hundred: d1.test to
d100.test, a host each (127.0.1.1 to 127.0.1.100). Both servers have each message on disk before they acknowledge it.

RINGMAIL names another binary. Needs root, cgroup v2 and Debian's postfix (with its service not started).
"""

import argparse
import json
import os
import pathlib
import re
import select
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests/clients"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from beside_dovecot import Cgroup  # noqa: E402
from demo import BINARY, RINGLOAD, free_port_base  # noqa: E402

DESTINATIONS = 100

POSTFIX = """
compatibility_level = 3.6
queue_directory = {d}/spool
data_directory = {d}/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = relay.test
mydestination =
mynetworks = 127.0.0.0/8
smtpd_recipient_restrictions = permit_mynetworks, reject
smtpd_client_connection_count_limit = 0
smtpd_peername_lookup = no
smtputf8_enable = no
alias_maps =
maillog_file = {d}/log
maillog_file_prefixes = {d}
default_process_limit = 200
qmgr_message_active_limit = 100000
qmgr_message_recipient_limit = 100000
default_destination_concurrency_limit = 50
initial_destination_concurrency = 20
in_flow_delay = 0
smtp_dns_support_level = disabled
transport_maps = hash:{d}/transport
"""

MASTER = """
{port} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""

RINGMAIL = """
hostname = "relay.test"
domains = ["relay.test"]
data_dir = "{d}/data"
[listen]
smtp = ["127.0.0.1:{port}"]
submission = []
submissions = []
lmtp = []
pop3 = []
pop3s = []
imap = []
imaps = []
admin = ["127.0.0.1:{admin}"]
[runtime]
shards = 1
[smtp]
relay_networks = ["127.0.0.0/8"]
[queue]
connections_per_site = 50
{extra}
[events]
to = "{d}/events"
"""


def hosts(destinations):
    """Domain and host of each destination."""
    return [(f"d{n}.test", f"127.0.1.{n}") for n in range(1, destinations + 1)]


class Postfix:
    name = "Postfix"

    def __init__(self, directory, base, cgroup, destinations, sink_port):
        self.port, self.directory = base + 25, directory
        for name in ("spool", "data", "etc"):
            os.mkdir(f"{directory}/{name}")
        os.chmod(directory, 0o755)
        shutil.chown(f"{directory}/data", "postfix")
        pathlib.Path(directory, "transport").write_text("".join(
            f"{domain} smtp:[{host}]:{sink_port}\n" for domain, host in hosts(destinations)))
        pathlib.Path(directory, "etc/main.cf").write_text(POSTFIX.format(d=directory))
        pathlib.Path(directory, "etc/master.cf").write_text(MASTER.format(port=f"127.0.0.1:{self.port}"))
        config = f"{directory}/etc"
        subprocess.run(["postmap", "-c", config, f"hash:{directory}/transport"], check=True)
        self.config = config
        self.log = open(f"{directory}/start", "w")
        subprocess.run(["postfix", "-c", config, "start"], check=True, preexec_fn=cgroup.enter,
                       stdout=self.log, stderr=self.log)
        wait_for(self.port)

    def stop(self):
        subprocess.run(["postfix", "-c", self.config, "stop"], stdout=self.log, stderr=self.log)


class Ringmail:
    name = "Ringmail"

    def __init__(self, directory, base, cgroup, destinations, sink_port, extra=""):
        self.port, self.admin = base + 25, base + 80
        routes = "".join(f'[[route]]\ndomains = ["{domain}"]\nto = "relay"\ntls = "never"\n'
                         f'host = "{host}:{sink_port}"\n' for domain, host in hosts(destinations))
        text = RINGMAIL.format(d=directory, port=self.port, admin=self.admin, extra=extra)
        config = pathlib.Path(directory, "ringmail.toml")
        config.write_text(text + routes)
        os.mkdir(f"{directory}/data")
        pathlib.Path(directory, "data/users").write_text("")
        self.config, self.cgroup = config, cgroup
        self.start()
        self.wait_until_ready()

    def start(self):
        self.process = subprocess.Popen([str(BINARY), "serve", "--config", str(self.config)],
                                        preexec_fn=self.cgroup.enter, stdout=subprocess.PIPE)

    def wait_until_ready(self):
        while line := self.process.stdout.readline():
            if b"ready" in line:
                return
        raise SystemExit("Ringmail did not start")

    def listed(self):
        """Messages that "queue list" counts, and whether the queue is read; None: no server answers yet."""
        command = [str(BINARY), "queue", "list", "--limit", "1", "--json", "--config", str(self.config)]
        answer = subprocess.run(command, capture_output=True, text=True)
        if answer.returncode != 0 or "no server runs" in answer.stderr:
            return None
        total = re.search(r"in all (\d+) message", answer.stderr)
        return int(total[1]) if total else 0, "still reads" not in answer.stderr

    def resident(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) * 1024

    def queued(self):
        text = urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=30).read().decode()
        value = {name: sum(float(line.split()[-1]) for line in text.splitlines()
                           if line.startswith(f"ringmail_{name}"))
                 for name in ("relay_queued_total", "relay_done_total")}
        return int(value["relay_queued_total"] - value["relay_done_total"])

    def stop(self):
        self.process.terminate()
        self.process.wait(60)


def wait_for(port):
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"nothing listens on port {port}")


def sink(port, messages):
    """Ends when it has `messages`."""
    process = subprocess.Popen(["taskset", "-c", "1", "smtp-sink", "-u", "nobody", "-M", str(messages), "-m", "2000", f"0.0.0.0:{port}",
                                "4096"], stderr=subprocess.DEVNULL)
    # A probe would count as a session, not as a message.
    wait_for(port)
    return process


def drive(port, messages, size, destinations, report=None, **options):
    """`first`: it does not wait for the sink, with which it shares the core."""
    priority = ["nice", "-n", "-15"] if options.get("first") else []
    command = [*priority, "taskset", "-c", "1", str(RINGLOAD), "smtp", "-q", "--address", f"127.0.0.1:{port}", "-m", str(messages),
               "-l", str(size), "-c", str(options.get("connections", 50)), "--recipients", str(destinations),
               "--recipient", "user@d{}.test", "--sender", "s@client.test"]
    if "rate" in options:
        command += ["--rate", str(options["rate"])]
    if report:
        command += ["--json", report]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def measure(kind, messages, size, destinations):
    base = free_port_base()
    sink_port = base + 600
    cgroup = Cgroup(kind.name.lower())
    with tempfile.TemporaryDirectory(prefix="ringmail-bench-") as directory:
        server = kind(directory, base, cgroup, destinations, sink_port)
        try:
            warm, drain = min(messages // 10, 500), sink(sink_port, min(messages // 10, 500))
            assert drive(server.port, warm, size, destinations).wait() == 0
            drain.wait(300)
            drain = sink(sink_port, messages)
            cpu, begin = cgroup.cpu_seconds(), time.monotonic()
            assert drive(server.port, messages, size, destinations).wait() == 0
            accepted = time.monotonic() - begin
            drain.wait(1800)
            took = time.monotonic() - begin
            time.sleep(0.5)
            cpu = cgroup.cpu_seconds() - cpu
        finally:
            server.stop()
            cgroup.close()
    return messages / accepted, messages / took, cpu / messages * 1e6


def compare(arguments):
    for destinations in (1, DESTINATIONS):
        for size in arguments.sizes:
            rows = {kind: [] for kind in (Postfix, Ringmail)}
            for _ in range(arguments.rounds):
                for kind in rows:
                    rows[kind].append(measure(kind, arguments.messages, size, destinations))
            medians = {kind: [statistics.median(column) for column in zip(*runs)] for kind, runs in rows.items()}
            print(f"{destinations} destination(s), {size} octets:")
            for kind, (accepted, relayed, cpu) in medians.items():
                print(f"  {kind.name:9} accepted {accepted:7.0f}/s, relayed {relayed:7.0f}/s, {cpu:7.1f} us CPU a message")
            (_, ours, cpu), (_, theirs, their_cpu) = medians[Ringmail], medians[Postfix]
            print(f"  ratio     relayed {ours / theirs:.1f}, messages a CPU second {their_cpu / cpu:.1f}", flush=True)


def latencies(path):
    return json.loads(pathlib.Path(path).read_text())


def backlog(arguments):
    """Messages for destinations that are down; then these come up."""
    base = free_port_base()
    sink_port, messages = base + 600, arguments.backlog
    cgroup = Cgroup("backlog")
    retry = 'retry = ["20s"]\n'
    with tempfile.TemporaryDirectory(prefix="ringmail-bench-") as directory:
        server = Ringmail(directory, base, cgroup, DESTINATIONS, sink_port, retry)
        try:
            before = server.resident()
            begin = time.monotonic()
            assert drive(server.port, messages, 4096, DESTINATIONS).wait() == 0
            print(f"{messages} messages accepted at {messages / (time.monotonic() - begin):.0f}/s, all destinations down")
            time.sleep(5)
            grown = server.resident() - before
            print(f"queued {server.queued()}, {grown / messages:.0f} octets of memory a message")
            report = f"{directory}/quiet.json"
            assert drive(server.port, 2000, 4096, DESTINATIONS, report, rate=200, connections=10, first=True).wait() == 0
            quiet = latencies(report)
            drain = sink(sink_port, messages + 2000)
            deadline = time.monotonic() + 300
            while server.queued() > messages:
                assert time.monotonic() < deadline, "nothing is sent although the destinations are up"
                time.sleep(0.2)
            begin = time.monotonic()
            report = f"{directory}/busy.json"
            load = drive(server.port, 2000, 4096, DESTINATIONS, report, rate=200, connections=10, first=True)
            assert load.wait() == 0
            busy = latencies(report)
            drain.wait(3600)
            took = time.monotonic() - begin
            print(f"drained in {took:.0f} s, {messages / took:.0f}/s")
            print("intake at 200/s while down:", json.dumps(quiet)[:2000])
            print("intake at 200/s while draining:", json.dumps(busy)[:2000])
        finally:
            server.stop()
            cgroup.close()


def restart(arguments):
    """Messages for destinations that are down; the server stops and starts, and a host of each listens."""
    base = free_port_base()
    sink_port, messages = base + 600, arguments.backlog
    cgroup = Cgroup("restart")
    with tempfile.TemporaryDirectory(prefix="ringmail-bench-") as directory:
        server = Ringmail(directory, base, cgroup, DESTINATIONS, sink_port,
                          'retry = ["20s"]\nmessages_per_partition = 2000000\n')
        try:
            begin = time.monotonic()
            assert drive(server.port, messages, 4096, DESTINATIONS).wait() == 0
            print(f"{messages} messages accepted at {messages / (time.monotonic() - begin):.0f}/s, all destinations down")
            while server.queued() < messages:
                time.sleep(0.5)
            print(f"queued {server.queued()}, {server.resident() >> 20} MiB")
            begin = time.monotonic()
            server.stop()
            print(f"stopped in {time.monotonic() - begin:.1f} s", flush=True)
            # An attempt is a connection; nobody answers it.
            listener = socket.create_server(("0.0.0.0", sink_port), backlog=1024)
            listener.setblocking(False)
            begin = time.monotonic()
            server.start()
            ready = threading.Thread(target=server.wait_until_ready)
            ready.start()
            seen = {}
            while len(seen) < 4:
                passed = time.monotonic() - begin
                if passed > 600:
                    raise SystemExit(f"only {seen} after ten minutes")
                if not ready.is_alive():
                    seen.setdefault("all ports listen", passed)
                if select.select([listener], [], [], 0)[0]:
                    seen.setdefault("first attempt", passed)
                if ("queue list answers" not in seen or "queue list has all" not in seen) and (
                        answer := server.listed()):
                    count, complete = answer
                    passed = time.monotonic() - begin
                    seen.setdefault("queue list answers", passed)
                    if complete:
                        assert count >= messages, f"{count} of {messages}"
                        seen.setdefault("queue list has all", passed)
                time.sleep(0.01)
            for what, seconds in sorted(seen.items(), key=lambda it: it[1]):
                print(f"{seconds:6.2f} s after the start: {what}")
            print(f"{server.resident() >> 20} MiB")
            listener.close()
        finally:
            server.stop()
            cgroup.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", type=lambda text: [int(size) for size in text.split(",")], default=[4096, 65536])
    parser.add_argument("--backlog", type=int, metavar="MESSAGES")
    parser.add_argument("--restart", action="store_true", help="with --backlog")
    arguments = parser.parse_args()
    if arguments.restart and not arguments.backlog:
        parser.error("--restart needs --backlog")
    mode = restart if arguments.restart else backlog if arguments.backlog else compare
    mode(arguments)


if __name__ == "__main__":
    main()
