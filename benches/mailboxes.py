#!/usr/bin/env python3
"""What a client does when it starts, beside Dovecot (mdbox, tuned): STATUS of 1,000 mailboxes, by 1,000 commands sent
ahead and by one LIST; SELECT with QRESYNC after 10,000 changes; and 1,000 single FETCHes, one after the other.

    cargo build --release && benches/mailboxes.py [--messages 20000] [--mailboxes 1000] [--rounds 5] [--alone]

Servers on core 0, client on core 1. Both servers run and get each command in turn, so that noise affects both. Half of
the changes are flags, half are expunges. Needs root, cgroup v2 and Dovecot as benches/beside_dovecot.py does; with
--alone only Ringmail is measured. RINGMAIL names another binary.
"""

import argparse
import contextlib
import os
import re
import statistics
import time

from cards import Imap, dovecot, ringmail

STATUS_ITEMS = "(MESSAGES UNSEEN UIDNEXT UIDVALIDITY HIGHESTMODSEQ)"


class Prepared(Imap):
    """A session on a mailbox that has changed since a client knew it, beside many others."""

    def __init__(self, port, messages, mailboxes, changes):
        super().__init__(port)
        self.mailboxes = mailboxes
        for number in range(mailboxes):
            self.command(f"CREATE folder{number}")
        self.command("ENABLE QRESYNC")
        _, answer = self.command("SELECT INBOX")
        number = lambda code: int(re.search(rb"\[%s (\d+)\]" % code, answer)[1])  # noqa: E731
        self.known = number(b"UIDVALIDITY"), number(b"HIGHESTMODSEQ")
        half = min(changes, messages) // 2
        # Every second message of the first ones, so that neither is one run of UIDs.
        flagged = ",".join(str(uid) for uid in range(1, 2 * half, 2))
        deleted = ",".join(str(uid) for uid in range(2, 2 * half + 1, 2))
        # A line may be 8 KiB long.
        for change, uids in ("\\Flagged", flagged), ("\\Deleted", deleted):
            for part in re.findall(r"(?:[0-9]+,?){1,1000}", uids):
                self.command(f"UID STORE {part.strip(',')} +FLAGS.SILENT ({change})")
        self.command("EXPUNGE")
        self.left = messages - half

    def ahead(self, commands):
        """Milliseconds from the first of many commands, sent at once, to the last answer."""
        started, seen, tail = time.monotonic(), 0, b""
        self.socket.sendall("".join(f"t {command}\r\n" for command in commands).encode())
        while seen < len(commands):
            piece = self.socket.recv(1 << 20)
            assert piece, "closed"
            lines = (tail + piece).split(b"\r\n")
            tail = lines.pop()
            for line in lines:
                assert not line.startswith((b"t NO", b"t BAD")), line
                seen += line.startswith(b"t OK")
        return 1000 * (time.monotonic() - started)

    def status_ahead(self):
        return self.ahead([f"STATUS folder{number} {STATUS_ITEMS}" for number in range(self.mailboxes)])

    def list_status(self):
        return self.command(f'LIST "" "folder*" RETURN (STATUS {STATUS_ITEMS})')[0]

    def resynchronize(self):
        validity, mod_seq = self.known
        took, answer = self.command(f"SELECT INBOX (QRESYNC ({validity} {mod_seq}))")
        assert b"* VANISHED (EARLIER) " in answer, answer
        return took

    def single_fetches(self):
        begin = time.monotonic()
        for number in range(1000):
            self.command(f"FETCH {number % self.left + 1} (UID FLAGS ENVELOPE)")
        return 1000 * (time.monotonic() - begin)


STEPS = {
    "STATUS, ahead": Prepared.status_ahead,
    "LIST, STATUS": Prepared.list_status,
    "SELECT, QRESYNC": Prepared.resynchronize,
    "1,000 FETCHes": Prepared.single_fetches,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--mailboxes", type=int, default=1000)
    parser.add_argument("--changes", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--alone", action="store_true", help="without Dovecot")
    arguments = parser.parse_args()
    makers = {"ringmail": ringmail} | ({} if arguments.alone else {"dovecot": dovecot})
    with contextlib.ExitStack() as stack:
        clients = {}
        for name, start in makers.items():
            port = stack.enter_context(start(arguments.messages))
            clients[name] = Prepared(port, arguments.messages, arguments.mailboxes, arguments.changes)
        os.sched_setaffinity(0, {1})
        time.sleep(5)
        figures = {}
        for step, run in STEPS.items():
            for client in clients.values():
                run(client)
            for _ in range(arguments.rounds):
                for name, client in clients.items():
                    time.sleep(0.02)
                    figures.setdefault((name, step), []).append(run(client))
    print(f"{arguments.messages} messages, {arguments.mailboxes} mailboxes, ms, medians of {arguments.rounds}")
    print(f"{'':16} {'ringmail':>9} {'Dovecot':>9} {'ratio':>6}")
    for step in STEPS:
        ours = statistics.median(figures["ringmail", step])
        theirs = statistics.median(figures.get(("dovecot", step), [float("nan")]))
        print(f"{step:16} {ours:9.1f} {theirs:9.1f} {theirs / ours:6.1f}")


if __name__ == "__main__":
    main()
