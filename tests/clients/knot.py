"""A real authoritative DNS server (Knot) with signed zones, on loopback, for tests."""

import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time


def free_port(address="127.0.0.1"):
    """A port that is free for UDP and TCP."""
    while True:
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            tcp.bind((address, 0))
            port = tcp.getsockname()[1]
            try:
                udp.bind((address, port))
                return port
            except OSError:
                continue


class Knot:
    """`zones`: origin -> records, a line each, without SOA and NS; an origin that begins with a "!" is
    signed, with "?" signed but with a wrong DS record in the parent, so that all of it is bogus. The
    root zone and the parents must be among the zones."""

    def __init__(self, zones, port=None, age=300):
        """`age`: the time to live of all records, in seconds."""
        self.age = age
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="ringmail-knot-"))
        self.port = port or free_port()
        self.zones = {origin.lstrip("!?"): lines for origin, lines in zones.items()}
        self.signed = {origin.lstrip("!?") for origin in zones if origin[0] in "!?"}
        self.bogus = {origin.lstrip("!?") for origin in zones if origin[0] == "?"}
        self.serial = 1
        self.process = None
        for name in ("db", "zones", "run"):
            (self.directory / name).mkdir()
        for origin in self.zones:
            self._write(origin, "")
        self._configure()
        self.start()
        # The parents learn the keys.
        delegations = {origin: "" for origin in self.zones}
        for origin in self.signed - {"."}:
            for record in self._keymgr(origin, "ds").splitlines():
                words = record.split()
                # SHA-256
                if words[4] == "2":
                    if origin in self.bogus:
                        words[5] = "".join("%x" % (15 - int(digit, 16)) for digit in words[5])
                    delegations[self._parent(origin)] += " ".join(words) + "\n"
        self.serial += 1
        self.delegations = delegations
        for origin, records in delegations.items():
            self._write(origin, records)
        self._control("zone-reload")
        self._wait_for_serial()
        self.anchor = self.directory / "root.key"
        self.anchor.write_text(self._keymgr(".", "dnskey").replace(" DNSKEY", " 3600 IN DNSKEY"))

    def _parent(self, origin):
        while True:
            origin = origin.partition(".")[2] or "."
            if origin in self.zones:
                return origin

    def _file(self, origin):
        return self.directory / "zones" / (("root" if origin == "." else origin) + ".zone")

    def _write(self, origin, more):
        dot = "." if origin == "." else origin + "."
        lines = [f"$ORIGIN {dot}", f"$TTL {self.age}",
                 f"@ SOA ns.test. h.test. {self.serial} 3600 600 86400 {min(self.age, 60)}", "@ NS ns.test."]
        for other in self.zones:
            if other != "." and self._parent(other) == origin:
                lines.append(f"{other}. NS ns.test.")
        self._file(origin).write_text("\n".join(lines) + "\n" + self.zones[origin] + "\n" + more)

    def _configure(self):
        text = f"""
server:
  listen: 127.0.0.1@{self.port}
  rundir: {self.directory}/run
  pidfile: {self.directory}/run/pid
control:
  listen: {self.directory}/run/socket
database:
  storage: {self.directory}/db
log:
  - target: stderr
    any: error
policy:
  - id: test
    algorithm: ecdsap256sha256
    single-type-signing: on
template:
  - id: default
    storage: {self.directory}/zones
    zonefile-sync: -1
    zonefile-load: difference-no-serial
    journal-content: all
    serial-policy: increment
zone:
"""
        for origin in self.zones:
            dot = "." if origin == "." else origin + "."
            text += f"  - domain: {dot}\n    file: {self._file(origin)}\n"
            if origin in self.signed:
                text += "    dnssec-signing: on\n    dnssec-policy: test\n"
        (self.directory / "knot.conf").write_text(text)

    def _tool(self, *command):
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout

    def _keymgr(self, origin, verb):
        dot = "." if origin == "." else origin + "."
        return self._tool("keymgr", "-c", str(self.directory / "knot.conf"), dot, verb)

    def _control(self, *command):
        return self._tool("knotc", "-b", "-c", str(self.directory / "knot.conf"), *command)

    def _wait_for_serial(self):
        """Until every zone is loaded and, if it is to be signed, is so."""
        deadline = time.monotonic() + 30
        for origin in self.zones:
            while True:
                # DNSKEY with DO
                reply = ask(self.port, origin, 48, dnssec=True)
                count = struct.unpack(">H", reply[6:8])[0]
                if reply[3] & 15 == 0 and (count >= 2 or origin not in self.signed):
                    break
                assert time.monotonic() < deadline, f"{origin} is not served"
                time.sleep(0.05)

    def change(self, origin, old, new):
        """Other records in a zone."""
        assert old in self.zones[origin], old
        self.zones[origin] = self.zones[origin].replace(old, new)
        self.serial += 1
        self._write(origin, self.delegations[origin])
        self._control("zone-reload", "." if origin == "." else origin + ".")

    def start(self):
        self.process = subprocess.Popen(["knotd", "-c", str(self.directory / "knot.conf")])
        deadline = time.monotonic() + 30
        while True:
            try:
                return self._wait_for_serial()
            except OSError:
                assert self.process.poll() is None and time.monotonic() < deadline, "knotd"
                time.sleep(0.05)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)

    def close(self):
        if self.process.poll() is None:
            self.stop()
        shutil.rmtree(self.directory)


def ask(port, name, kind, dnssec=False):
    labels = [] if name == "." else name.split(".")
    wire = b"".join(bytes([len(label)]) + label.encode() for label in labels) + b"\0"
    query = struct.pack(">HHHHHH", 7, 0x0100, 1, 0, 0, 1) + wire + struct.pack(">HH", kind, 1)
    query += b"\0" + struct.pack(">HHIH", 41, 1232, 0x8000 if dnssec else 0, 0)
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.settimeout(2)
        sock.connect(("127.0.0.1", port))
        sock.send(query)
        return sock.recv(4096)


class Proxy:
    """A DNS server that passes questions on to another one, over UDP and TCP, and can alter the
    answers: `alter(reply, question, over)` returns the reply to send, or None for silence; `over` is "udp"
    or "tcp"."""

    def __init__(self, upstream, alter=lambda reply, *_: reply):
        self.upstream, self.alter = upstream, alter
        self.port = free_port()
        self.questions = []
        self.udp = socket.socket(type=socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", self.port))
        self.tcp = socket.create_server(("127.0.0.1", self.port))
        for serve in (self._serve_udp, self._serve_tcp):
            threading.Thread(target=serve, daemon=True).start()

    def _reply(self, question, over):
        self.questions.append((over, question))
        with socket.create_connection(("127.0.0.1", self.upstream), 5) as sock:
            sock.sendall(struct.pack(">H", len(question)) + question)
            reader = sock.makefile("rb")
            reply = reader.read(struct.unpack(">H", reader.read(2))[0])
        return self.alter(reply, question, over)

    def _serve_udp(self):
        while True:
            try:
                question, peer = self.udp.recvfrom(4096)
            except OSError:
                return
            reply = self._reply(question, "udp")
            if reply is not None:
                self.udp.sendto(reply, peer)

    def _serve_tcp(self):
        while True:
            try:
                sock, _ = self.tcp.accept()
            except OSError:
                return
            threading.Thread(target=self._serve_stream, args=(sock,), daemon=True).start()

    def _serve_stream(self, sock):
        with sock:
            reader = sock.makefile("rb")
            while len(length := reader.read(2)) == 2:
                reply = self._reply(reader.read(struct.unpack(">H", length)[0]), "tcp")
                if reply is not None:
                    sock.sendall(struct.pack(">H", len(reply)) + reply)

    def close(self):
        self.udp.close()
        self.tcp.close()
