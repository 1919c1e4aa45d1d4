#!/usr/bin/env python3
"""Compares Ringmail with Dovecot (mdbox, tuned), one after the other: the same ringload commands, each
server on core 0, the generator on core 1, CPU of the whole server by cgroup.

Needs root, cgroup v2 and Debian's dovecot-imapd, dovecot-pop3d and dovecot-lmtpd (with their
services not started).

    cargo build --release && benches/beside_dovecot.py [--messages 100] [--seconds 5]
"""

import argparse
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests/clients"))
from demo import BINARY, RINGLOAD, free_port_base  # noqa: E402

USERS = 100
# Messages in one APPEND, and so in one of Dovecot's transactions.
APPENDED_AT_ONCE = 500

DOVECOT = """
base_dir = {d}/run
state_dir = {d}/state
log_path = {d}/log
listen = 127.0.0.1
protocols = imap pop3 lmtp
default_internal_user = dovecot
default_login_user = dovenull
default_vsz_limit = 1G
default_client_limit = 19000
default_process_limit = 1000
ssl = no
disable_plaintext_auth = no
auth_mechanisms = plain login
passdb {{
  driver = static
  args = password=demo
}}
userdb {{
  driver = static
  args = uid=mail gid=mail home={d}/mail/%n
}}
first_valid_uid = 1
first_valid_gid = 1
mail_access_groups = mail
mail_location = mdbox:~/mdbox
mail_max_userip_connections = 100000
namespace inbox {{
  inbox = yes
  separator = /
}}
service imap-login {{
  service_count = 0
  process_min_avail = 2
  client_limit = 10000
  inet_listener imap {{
    port = {imap}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
service pop3-login {{
  service_count = 0
  process_min_avail = 2
  client_limit = 10000
  inet_listener pop3 {{
    port = {pop3}
  }}
  inet_listener pop3s {{
    port = 0
  }}
}}
service imap {{
  process_limit = 2000
  process_min_avail = 4
  service_count = 256
}}
service pop3 {{
  process_limit = 2000
  process_min_avail = 4
  service_count = 256
}}
service lmtp {{
  process_limit = 100
  process_min_avail = 4
  inet_listener lmtp {{
    address = 127.0.0.1
    port = {lmtp}
  }}
}}
service auth {{
  client_limit = 10000
}}
service anvil {{
  client_limit = 10000
}}
service stats {{
  client_limit = 10000
}}
protocol lmtp {{
  postmaster_address = postmaster@demo.test
}}
"""


def cgroup_mount():
    """Where cgroup v2 is mounted; core cpu.stat needs no controller."""
    for line in open("/proc/mounts"):
        fields = line.split()
        if fields[2] == "cgroup2":
            return fields[1]
    raise SystemExit("no cgroup2 mount")


class Cgroup:
    def __init__(self, name):
        self.path = pathlib.Path(cgroup_mount(), f"ringmail-bench-{name}-{os.getpid()}")
        self.path.mkdir()

    def enter(self):
        (self.path / "cgroup.procs").write_text(str(os.getpid()))
        os.sched_setaffinity(0, {0})

    def cpu_seconds(self):
        for line in (self.path / "cpu.stat").read_text().splitlines():
            if line.startswith("usage_usec"):
                return int(line.split()[1]) / 1e6
        raise RuntimeError("no usage_usec")

    def close(self):
        for _ in range(50):
            try:
                self.path.rmdir()
                return
            except OSError:
                time.sleep(0.1)


def start_dovecot(directory, base, cgroup):
    for name in ("run", "state", "mail"):
        os.mkdir(f"{directory}/{name}")
    os.chmod(directory, 0o755)
    shutil.chown(f"{directory}/mail", "mail", "mail")
    config = pathlib.Path(directory, "dovecot.conf")
    config.write_text(DOVECOT.format(d=directory, imap=base + 143, pop3=base + 110,
                                     lmtp=base + 24))
    return subprocess.Popen(["dovecot", "-F", "-c", str(config)], preexec_fn=cgroup.enter)


def append(port, user, messages):
    """Fills the INBOX of `user` by APPENDs of many messages each (RFC 3502, with the literals of RFC 7888), which
    Dovecot syncs once. By LMTP it syncs each message, and 100,000 of them take longer than six minutes."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=600)
    replies = connection.makefile("rb")

    def command(pieces):
        connection.sendall(b"a " + b"".join(pieces) + b"\r\n")
        while not (line := replies.readline()).startswith(b"a "):
            assert line, "closed"
        assert line.startswith(b"a OK"), line

    command([f"LOGIN {user} demo".encode()])
    pieces = []
    for message in messages:
        pieces.append(b" {%d+}\r\n%s" % (len(message), message))
        if len(pieces) == APPENDED_AT_ONCE:
            command([b"APPEND INBOX", *pieces])
            pieces = []
    if pieces:
        command([b"APPEND INBOX", *pieces])
    command([b"LOGOUT"])
    connection.close()


def start_ringmail(directory, base, cgroup):
    server = subprocess.Popen([str(BINARY), "demo", "--dir", f"{directory}/demo", "--shards", "1",
                               "--port-base", str(base), "--users", str(USERS)],
                              preexec_fn=cgroup.enter, stdout=subprocess.PIPE)
    while b"ready" not in server.stdout.readline():
        pass
    return server


def ringload(base, verb, port, *arguments):
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        subprocess.run(["taskset", "-c", "1", str(RINGLOAD), verb, "--address",
                        f"127.0.0.1:{base + port}", "--quiet", "--json", out.name,
                        *map(str, arguments)], stdout=subprocess.DEVNULL, check=False)
        result = json.load(open(out.name))
    if result["errors"]:
        print(f"  {verb}: {result['errors']}", file=sys.stderr)
    return result


def steps(base, messages, seconds):
    fill = USERS * messages
    timed = ("--duration", f"{seconds}s", "--users", USERS)
    yield "LMTP delivery, 50 connections", lambda: ringload(
        base, "lmtp", 24, "--messages", fill, "--recipients", USERS, "--connections", 50)
    yield "IMAP FETCH BODY.PEEK[], 20 connections", lambda: ringload(
        base, "imap", 143, *timed, "--connections", 20)
    yield "POP3 RETR, 20 connections", lambda: ringload(
        base, "pop3", 110, *timed, "--connections", 20)
    yield "IMAP mix, 100 connections", lambda: ringload(
        base, "mix", 143, *timed, "--connections", 100)


def measure(name, start, messages, seconds):
    results = {}
    directory = tempfile.mkdtemp(prefix="ringmail-beside-")
    cgroup = Cgroup(name)
    base = free_port_base()
    server = start(directory, base, cgroup)
    try:
        time.sleep(2)
        for step, drive in steps(base, messages, seconds):
            cpu = cgroup.cpu_seconds()
            result = drive()
            cpu = cgroup.cpu_seconds() - cpu
            done = [op for op in result["operations"] if op["name"] != "login"]
            count = sum(op["count"] for op in done)
            p99 = max((op["p99_us"] for op in done), default=0) / 1000
            results[step] = (count / result["elapsed_seconds"], cpu / max(count, 1) * 1e6, p99)
    finally:
        server.terminate()
        server.wait()
        cgroup.close()
        shutil.rmtree(directory, ignore_errors=True)
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=100, help="messages in each mailbox")
    parser.add_argument("--seconds", type=int, default=5, help="for each step")
    arguments = parser.parse_args()
    measured = {name: measure(name, start, arguments.messages, arguments.seconds)
                for name, start in (("dovecot", start_dovecot), ("ringmail", start_ringmail))}
    print(f"{USERS} accounts of {arguments.messages} messages of 4 KiB; server on core 0, "
          "ringload on core 1")
    print(f"{'':40} {'Dovecot':>28} {'Ringmail':>28} {'ratio':>14}")
    print(f"{'':40} {'per s':>9} {'CPU us':>8} {'p99 ms':>9} {'per s':>9} {'CPU us':>8} "
          f"{'p99 ms':>9} {'rate':>6} {'CPU':>7}")
    for step, theirs in measured["dovecot"].items():
        ours = measured["ringmail"][step]
        print(f"{step:40} {theirs[0]:9.0f} {theirs[1]:8.0f} {theirs[2]:9.2f} {ours[0]:9.0f} "
              f"{ours[1]:8.0f} {ours[2]:9.2f} {ours[0] / theirs[0]:6.1f} {theirs[1] / ours[1]:7.1f}")


if __name__ == "__main__":
    main()
