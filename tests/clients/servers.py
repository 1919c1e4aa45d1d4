"""Mail servers for tests, each with a domain and an address of its own: Ringmail, Postfix and Exim from
Debian. All run in a network of their own (see test_world.py), so that each has port 25."""

import hashlib
import imaplib
import mailbox
import os
import pathlib
import select
import shutil
import signal
import smtplib
import socket
import ssl
import subprocess
import sys
import time

from demo import BINARY, ROOT

# Clients that connect from here may send to everybody.
TRUSTED = "127.0.9.9"
USERS = ("user1", "user2", "sender")
# Names below each domain for which the server also takes mail.
BELOW = ("deadfirst", "direct", "nick")


def unverified():
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def make_certificate(folder, name):
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                    "-days", "30", "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}",
                    "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
                   check=True, capture_output=True)


class Authority:
    """A certificate authority; its certificates are files `folder`/`name`.pem, with the chain up to it, and
    `name`.key."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True)
        self.folder.chmod(0o755)
        self._openssl("req", "-x509", *self._key("ca"), "-days", "30", "-subj", "/CN=Authority of the test",
                      "-out", self.folder / "ca.pem")
        self.certificate = self.folder / "ca.pem"

    def _key(self, name):
        return ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                "-keyout", self.folder / f"{name}.key")

    @staticmethod
    def _openssl(*arguments):
        return subprocess.run(["openssl", *arguments], check=True, capture_output=True).stdout

    def issue(self, name, hosts, expired=False, by_itself=False):
        """A certificate for the hosts, issued by the authority, or by itself. The path without its
        suffix."""
        path = self.folder / name
        extensions = self.folder / f"{name}.ext"
        extensions.write_text("subjectAltName=" + ",".join(f"DNS:{host}" for host in hosts)
                              + "\nbasicConstraints=CA:FALSE\n")
        self._openssl("req", *self._key(name), "-subj", f"/CN={hosts[0]}", "-out", f"{path}.csr")
        if expired:
            # Only "ca" lets the dates be chosen.
            (self.folder / "index").write_text("")
            (self.folder / "conf").write_text(f"""
[ca]
default_ca = all
[all]
database = {self.folder}/index
new_certs_dir = {self.folder}
rand_serial = yes
default_md = sha256
policy = any
[any]
commonName = supplied
""")
            self._openssl("ca", "-batch", "-config", self.folder / "conf", "-in", f"{path}.csr", "-notext",
                          "-cert", self.certificate, "-keyfile", self.folder / "ca.key", "-extfile", extensions,
                          "-startdate", "20200101000000Z", "-enddate", "20210101000000Z", "-out", f"{path}.pem")
        else:
            signer = (("-signkey", f"{path}.key") if by_itself else
                      ("-CA", self.certificate, "-CAkey", self.folder / "ca.key", "-CAcreateserial"))
            self._openssl("x509", "-req", "-in", f"{path}.csr", "-days", "30", "-extfile", extensions,
                          "-out", f"{path}.pem", *signer)
        if not by_itself:
            with open(f"{path}.pem", "a") as chain:
                chain.write(self.certificate.read_text())
        for suffix in ("pem", "key"):
            os.chmod(f"{path}.{suffix}", 0o644)
        return path

    def record(self, path, usage, selector, matching):
        """The TLSA record of a certificate (RFC 6698)."""
        octets = self._openssl("x509", "-in", path, "-outform", "DER")
        if selector == 1:
            public = self._openssl("x509", "-in", path, "-noout", "-pubkey")
            octets = subprocess.run(["openssl", "pkey", "-pubin", "-outform", "DER"], input=public, check=True,
                                    capture_output=True).stdout
        if matching:
            octets = hashlib.new("sha256" if matching == 1 else "sha512", octets).digest()
        return f"TLSA {usage} {selector} {matching} {octets.hex()}"


class Server:
    """`name`.test at `address`."""

    # Whether it announces DSN, and so reports itself what is delivered.
    dsn = True

    def __init__(self, name, address, folder, domains=()):
        self.name, self.address = name, address
        self.domain, self.host = f"{name}.test", f"mx.{name}.test"
        self.domains = [self.domain, *(f"{below}.{self.domain}" for below in BELOW), *domains]
        self.folder = pathlib.Path(folder, name)
        self.folder.mkdir(parents=True)
        self.folder.chmod(0o755)
        make_certificate(self.folder / "tls", self.host)

    def send(self, sender, recipients, octets, mail_options=(), rcpt_options=()):
        """As a client of this server."""
        with smtplib.SMTP(self.address, 25, timeout=30, source_address=(TRUSTED, 0)) as smtp:
            smtp.sendmail(sender, recipients, octets, mail_options, rcpt_options)

    def messages(self, user):
        """The mailbox: a list of octets."""
        raise NotImplementedError

    def find(self, user, text):
        return [octets for octets in self.messages(user) if text in octets]


def certificate_files(path):
    """Of a certificate of an [`Authority`]: with the chain, and the key."""
    return path and (f"{path}.pem", f"{path}.key")


class Ringmail(Server):
    def __init__(self, name, address, folder, dns='servers = ["127.0.0.1:53"]', config="", aliases="",
                 domains=(), queue="", certificate=None):
        super().__init__(name, address, folder, domains)
        chain, key = certificate_files(certificate) or (
            self.folder / "tls/cert.pem", self.folder / "tls/key.pem")
        data = self.folder / "data"
        self.config = self.folder / "ringmail.toml"
        listed = ", ".join(f'"{domain}"' for domain in self.domains)
        self.config.write_text(f"""
hostname = "{self.host}"
domains = [{listed}]
data_dir = "{data}"
[listen]
smtp = ["{address}:25"]
submission = ["{address}:587"]
submissions = []
lmtp = []
pop3 = []
pop3s = []
imap = []
imaps = ["{address}:993"]
admin = ["{address}:8080"]
[tls]
certificate = "{chain}"
key = "{key}"
[runtime]
shards = 2
[dns]
{dns}
[queue]
retry = ["1s", "2s"]
sources = ["{address}"]
connect_timeout = "2s"
{queue}
[events]
to = "{self.folder}/events.log"
{config}
""")
        data.mkdir()
        below = "".join(f"@{it}.{self.domain}: @{self.domain}\n" for it in BELOW)
        (data / "aliases").write_text(below + aliases)
        accounts = self.folder / "accounts"
        accounts.write_text("".join(f"{user}@{self.domain} secret\n" for user in USERS))
        self.verb("user", "import", accounts)
        self.process = None
        self.start()

    def verb(self, *arguments):
        return subprocess.run([BINARY, *arguments, "--config", self.config], check=True,
                              capture_output=True, text=True, timeout=60).stdout

    def start(self):
        self.log = open(self.folder / "log", "ab")
        self.process = subprocess.Popen([BINARY, "serve", "--config", self.config],
                                        stdout=subprocess.PIPE, stderr=self.log)
        deadline, seen = time.monotonic() + 30, b""
        while b"ringmail: ready\n" not in seen:
            assert self.process.poll() is None and time.monotonic() < deadline, (
                (self.folder / "log").read_text())
            if select.select([self.process.stdout], [], [], 0.1)[0]:
                seen += os.read(self.process.stdout.fileno(), 65536)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(30)
        self.process.stdout.close()
        self.log.close()
        return code

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)
        self.process.stdout.close()
        self.log.close()

    def close(self):
        if self.process.poll() is None:
            self.stop()

    def send(self, sender, recipients, octets, mail_options=(), rcpt_options=()):
        with smtplib.SMTP(self.address, 587, timeout=30) as smtp:
            smtp.starttls(context=unverified())
            smtp.login(sender, "secret")
            smtp.sendmail(sender, recipients, octets, mail_options, rcpt_options)

    def messages(self, user):
        with imaplib.IMAP4_SSL(self.address, 993, ssl_context=unverified(), timeout=30) as imap:
            imap.login(f"{user}@{self.domain}", "secret")
            imap.select(readonly=True)
            found = imap.uid("FETCH", "1:*", "(BODY.PEEK[])")[1]
            return [part[1] for part in found if isinstance(part, tuple)]


class Boxes(Server):
    """With Maildirs."""

    def messages(self, user):
        folder = self.folder / "mail" / user
        found = []
        for name in sorted(folder.glob("new/*")) + sorted(folder.glob("cur/*")):
            try:
                found.append(name.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
            except FileNotFoundError:
                pass
        return found

    def make_boxes(self):
        (self.folder / "mail").mkdir()
        shutil.chown(self.folder / "mail", "mail", "mail")

    def log(self):
        """What it says of its work."""
        raise NotImplementedError

    def delivers(self):
        """Whether a message sent to it lies in its mailbox within 20 s; the message is removed again."""
        octets = b"Subject: first of all\r\n\r\nHello.\r\n"
        deadline, sent, problem = time.monotonic() + 20, False, None
        while time.monotonic() < deadline:
            try:
                if not sent:
                    self.send(f"user2@{self.domain}", [f"user2@{self.domain}"], octets)
                    sent = True
            except (OSError, smtplib.SMTPException) as error:
                problem = error
            if self.find("user2", b"Subject: first of all\r\n"):
                shutil.rmtree(self.folder / "mail/user2")
                return True
            time.sleep(0.1)
        print(f"{self.name} does not deliver ({problem}):\n{self.log()[-4000:]}", file=sys.stderr, flush=True)
        return False


class Postfix(Boxes):
    def __init__(self, name, address, folder, more="", domains=(), certificate=None, by_name=(), plain=None):
        """`by_name`: {host: certificate} for those who ask for it; at the address `plain` there is no TLS."""
        super().__init__(name, address, folder, domains)
        chain, key = certificate_files(certificate) or (
            self.folder / "tls/cert.pem", self.folder / "tls/key.pem")
        self.etc = self.folder / "etc"
        for part in ("etc", "spool", "data"):
            (self.folder / part).mkdir()
        shutil.chown(self.folder / "data", "postfix")
        self.make_boxes()
        boxes = "".join(f"{user}@{domain} {user}/\n" for user in USERS for domain in self.domains)
        (self.etc / "boxes").write_text(boxes)
        mail_uid = subprocess.run(["id", "-u", "mail"], capture_output=True, text=True).stdout.strip()
        mail_gid = subprocess.run(["id", "-g", "mail"], capture_output=True, text=True).stdout.strip()
        (self.etc / "main.cf").write_text(f"""
compatibility_level = 3.6
queue_directory = {self.folder}/spool
data_directory = {self.folder}/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
maillog_file = {self.folder}/log
maillog_file_prefixes = {self.folder}
inet_interfaces = {", ".join(filter(None, (address, plain)))}
inet_protocols = ipv4
smtp_bind_address = {address}
myhostname = {self.host}
mydestination =
mynetworks = {TRUSTED}
alias_maps =
alias_database =
local_recipient_maps =
virtual_mailbox_domains = {", ".join(self.domains)}
virtual_mailbox_maps = texthash:{self.etc}/boxes
virtual_mailbox_base = {self.folder}/mail
virtual_minimum_uid = 1
virtual_uid_maps = static:{mail_uid}
virtual_gid_maps = static:{mail_gid}
smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination
smtpd_peername_lookup = no
smtp_host_lookup = dns
biff = no
smtpd_tls_security_level = may
smtpd_tls_chain_files = {key}, {chain}
tls_server_sni_maps = texthash:{self.etc}/sni
smtpd_tls_received_header = yes
smtp_tls_security_level = may
minimal_backoff_time = 2s
maximal_backoff_time = 4s
queue_run_delay = 2s
smtp_connect_timeout = 2s
smtpd_discard_ehlo_keywords =
{more}
""")
        (self.etc / "sni").write_text("".join(f"{host} {path}.key, {path}.pem\n"
                                              for host, path in dict(by_name).items()))
        without = f"{plain}:25 inet n - n - - smtpd -o smtpd_tls_security_level=none" if plain else ""
        (self.etc / "master.cf").write_text(f"""
{address}:25 inet n - n - - smtpd
{without}
pickup    unix  n - n 60 1 pickup
cleanup   unix  n - n - 0 cleanup
qmgr      unix  n - n 2 1 qmgr
tlsmgr    unix  - - n 1000? 1 tlsmgr
rewrite   unix  - - n - - trivial-rewrite
bounce    unix  - - n - 0 bounce
defer     unix  - - n - 0 bounce
trace     unix  - - n - 0 bounce
verify    unix  - - n - 1 verify
flush     unix  n - n 1000? 0 flush
proxymap  unix  - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp      unix  - - n - - smtp
relay     unix  - - n - - smtp
showq     unix  n - n - - showq
error     unix  - - n - - error
retry     unix  - - n - - error
discard   unix  - - n - - discard
virtual   unix  - n n - - virtual
anvil     unix  - - n - 1 anvil
scache    unix  - - n - 1 scache
postlog   unix-dgram n - n - 1 postlogd
""")
        self.start()
        if not self.delivers():
            self.close()
            self.start()
            assert self.delivers(), "Postfix started twice and did not deliver"

    def start(self):
        started = subprocess.run(["postfix", "-c", self.etc, "start"], capture_output=True, text=True)
        assert started.returncode == 0, started
        self.master = int((self.folder / "spool/pid/master.pid").read_text())

    def log(self):
        path = self.folder / "log"
        return path.read_text() if path.exists() else "no log"

    def close(self):
        subprocess.run(["postfix", "-c", self.etc, "stop"], capture_output=True)
        # "stop" waits at most for a few seconds.
        for _ in range(100):
            if not pathlib.Path(f"/proc/{self.master}").exists():
                return
            time.sleep(0.1)
        os.kill(self.master, signal.SIGKILL)


def unpacked_exim():
    """Exim as a folder: its package and that of Postfix exclude each other."""
    return unpacked("exim4-daemon-light", "usr/sbin/exim4")


class Exim(Boxes):
    """Its configuration is /etc/exim4, its user Debian-exim: /etc is that of the test's own network."""

    dsn = False

    def __init__(self, name, address, folder, domains=(), certificate=None, by_name=(), plain=None, main="",
                 smtp="hosts_try_dane ="):
        """`by_name`, `plain`: as for Postfix. `smtp`: options of the transport."""
        super().__init__(name, address, folder, domains)
        chain, key = certificate_files(certificate) or (
            self.folder / "tls/cert.pem", self.folder / "tls/key.pem")
        binary = unpacked_exim()
        users = "Debian-exim:x:64999:64999::/var/spool/exim4:/usr/sbin/nologin\n"
        for file, line in (("/etc/passwd", users), ("/etc/group", "Debian-exim:x:64999:\n")):
            text = pathlib.Path(file).read_text()
            if "Debian-exim" not in text:
                pathlib.Path(file).write_text(text + line)
        for part in ("spool", "logs"):
            (self.folder / part).mkdir()
            shutil.chown(self.folder / part, "Debian-exim", "Debian-exim")
        for file in ("key.pem", "cert.pem"):
            shutil.chown(self.folder / "tls" / file, "Debian-exim")
        self.make_boxes()
        domains = " : ".join(self.domains)
        etc = pathlib.Path("/etc/exim4")
        etc.mkdir(exist_ok=True)
        for file, at, otherwise in (("chains", 0, chain), ("keys", 1, key)):
            lines = [f"{host}: {certificate_files(path)[at]}\n" for host, path in dict(by_name).items()]
            (etc / file).write_text("".join(lines) + f"*: {otherwise}\n")
        of_name = "${lookup{$tls_in_sni}lsearch*{/etc/exim4/%s}{$value}}"
        encrypted = "*" if plain is None else "${if eq{$received_ip_address}{%s}{}{*}}" % plain
        (etc / "exim4.conf").write_text(f"""
primary_hostname = {self.host}
qualify_domain = {self.domain}
exim_path = {binary}
spool_directory = {self.folder}/spool
log_file_path = {self.folder}/logs/%slog
pid_file_path = {self.folder}/spool/pid
local_interfaces = <; {";".join(filter(None, (address, plain)))}
daemon_smtp_ports = 25
tls_advertise_hosts = {encrypted}
tls_certificate = {of_name % "chains"}
tls_privatekey = {of_name % "keys"}
acl_smtp_rcpt = rcpt
acl_smtp_data = data
host_lookup =
rfc1413_hosts =
keep_environment =
message_size_limit = 50M
smtp_accept_max = 200
smtp_accept_max_per_connection = 1000
queue_run_max = 10
{main}

begin acl
rcpt:
  accept hosts = {TRUSTED}
  accept domains = {domains}
         verify = recipient
  deny message = relay not permitted
data:
  deny condition = ${{if def:h_X-Refuse:}}
       message = this message is not wanted
  accept

begin routers
remote:
  driver = dnslookup
  domains = ! {domains.replace(" : ", " : ! ")} : *
  transport = smtp
  no_more
box:
  driver = accept
  local_parts = {" : ".join(USERS)} : postmaster
  transport = box

begin transports
smtp:
  driver = smtp
  interface = {address}
  {smtp}
  connect_timeout = 2s
box:
  driver = appendfile
  directory = {self.folder}/mail/$local_part_data
  maildir_format
  create_directory
  delivery_date_add
  envelope_to_add
  return_path_add
  user = mail
  group = mail

begin retry
* * F,1h,2s
""")
        self.logs = self.folder / "logs/mainlog"
        with open(self.folder / "log", "wb") as log:
            self.process = subprocess.Popen([binary, "-bdf", "-q2s"], stdin=subprocess.DEVNULL, stderr=log)
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection((address, 25)).close()
                break
            except OSError:
                assert self.process.poll() is None and time.monotonic() < deadline, "Exim"
                time.sleep(0.05)
        assert self.delivers(), "Exim"

    def close(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)

    def log(self):
        return self.logs.read_text() if self.logs.exists() else ""


def unpacked(package, binary):
    """A program of a Debian package that is not to be installed, as its daemon would run."""
    folder = ROOT / "target" / package
    path = folder / binary
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "-qq", package], cwd=folder, check=True, capture_output=True)
        for file in folder.glob("*.deb"):
            subprocess.run(["dpkg", "-x", file, folder], check=True)
            file.unlink()
    return path


class Unbound:
    """A validating resolver at 127.0.0.1, port 53, over an authoritative server."""

    def __init__(self, folder, upstream, anchor):
        folder = pathlib.Path(folder, "unbound")
        folder.mkdir(parents=True)
        (folder / "conf").write_text(f"""
server:
  interface: 127.0.0.1@53
  port: 53
  do-daemonize: no
  username: ""
  chroot: ""
  directory: "{folder}"
  pidfile: "{folder}/pid"
  use-syslog: no
  logfile: ""
  num-threads: 1
  do-ip6: no
  do-not-query-localhost: no
  module-config: "validator iterator"
  trust-anchor-file: "{anchor}"
  local-zone: "test." nodefault
  cache-max-negative-ttl: 1
  cache-max-ttl: 1
  infra-host-ttl: 1
remote-control:
  control-enable: no
forward-zone:
  name: "."
  forward-addr: 127.0.0.1@{upstream}
""")
        self.log = open(folder / "log", "wb")
        self.process = subprocess.Popen([unpacked("unbound", "usr/sbin/unbound"), "-d", "-c", folder / "conf"],
                                        stderr=self.log)

    def close(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)
        self.log.close()
