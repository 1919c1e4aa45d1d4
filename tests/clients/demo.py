"""Starts `ringmail demo` for tests and stops it by its process id."""

import os
import pathlib
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("RINGMAIL", ROOT / "target/release/ringmail"))
RINGLOAD = pathlib.Path(os.environ.get("RINGLOAD", ROOT / "target/release/ringload"))


def free_port_base():
    """A base such that base + 24 ... base + 995 are free now."""
    first = int(os.environ.get("RINGMAIL_PORT_BASE", "21000"))
    for base in range(first, 60000, 1000):
        try:
            for port in (24, 25, 80, 110, 143, 465, 587, 993, 995):
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("127.0.0.1", base + port))
            return base
        except OSError:
            continue
    raise RuntimeError("no free port range")


class Demo:
    """A running demo. Standard ports by name, e.g. demo.port["imap"]."""

    STANDARD = {
        "lmtp": 24, "smtp": 25, "admin": 80, "pop3": 110, "imap": 143,
        "submissions": 465, "submission": 587, "imaps": 993, "pop3s": 995,
    }

    def __init__(self, *arguments, directory=None):
        self.owns_directory = directory is None
        self.directory = directory or tempfile.mkdtemp(prefix="ringmail-test-")
        self.base = free_port_base()
        self.port = {name: self.base + port for name, port in self.STANDARD.items()}
        self.arguments = arguments
        self.process = None
        self.start()

    def start(self):
        command = [str(BINARY), "demo", "--dir", self.directory,
                   "--port-base", str(self.base), *map(str, self.arguments)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        self.started_in = self._wait_ready(20)

    def _wait_ready(self, seconds):
        begin = time.monotonic()
        seen = b""
        while time.monotonic() - begin < seconds:
            if self.process.poll() is not None:
                raise RuntimeError(f"demo ended with {self.process.returncode}: {seen!r}")
            if select.select([self.process.stdout], [], [], 0.1)[0]:
                seen += os.read(self.process.stdout.fileno(), 65536)
                if b"ringmail: ready\n" in seen:
                    return time.monotonic() - begin
        raise RuntimeError(f"demo not ready after {seconds} s: {seen!r}")

    def kill(self):
        """kill -9: for the process the same as power loss."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(20)
        self.process.stdout.close()

    def stop(self):
        """SIGTERM; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(30)
        self.process.stdout.close()
        return code

    def memory(self):
        """Resident bytes."""
        with open(f"/proc/{self.process.pid}/status") as status:
            for line in status:
                if line.startswith("VmRSS:"):
                    return int(line.split()[1]) * 1024
        raise RuntimeError("no VmRSS")

    def cpu_seconds(self):
        """User and system time of the process so far, its kernel workers included."""
        with open(f"/proc/{self.process.pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self):
        if self.process.poll() is None:
            self.stop()
        if self.owns_directory:
            shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
