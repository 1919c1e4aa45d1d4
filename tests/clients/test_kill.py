"""kill -9 under load: what was acknowledged is there afterwards, once."""

import collections
import imaplib
import os
import random
import smtplib
import threading
import time
import unittest

from demo import Demo

ROUNDS = int(os.environ.get("KILL_ROUNDS", "20"))
SENDERS = 8
USERS = 10


class Sender(threading.Thread):
    """Sends numbered messages until its connection breaks; keeps which were acknowledged and
    which one was in flight."""

    def __init__(self, demo, name):
        super().__init__(daemon=True)
        self.demo, self.label = demo, name
        self.acknowledged, self.attempted = [], []

    def run(self):
        try:
            with smtplib.SMTP("127.0.0.1", self.demo.port["smtp"], timeout=20) as smtp:
                smtp.ehlo("load.example")
                for number in range(1_000_000):
                    chosen = random.sample(range(1, USERS + 1), random.choice((1, 1, 3)))
                    key = f"{self.label}.{number}"
                    self.attempted.append((key, chosen))
                    smtp.sendmail("s@example.org", [f"user{n}@demo.test" for n in chosen],
                                  f"Subject: {key}\r\n\r\n{'x' * random.randrange(9000)}\r\n")
                    self.acknowledged.append((key, chosen))
        except (OSError, smtplib.SMTPException):
            pass


class Kill(unittest.TestCase):
    def test_none_lost_none_twice(self):
        with Demo("--shards", "2", "--users", str(USERS)) as demo:
            acknowledged = collections.defaultdict(set)
            attempted = collections.defaultdict(set)
            identity = {}
            for round_number in range(ROUNDS):
                senders = [Sender(demo, f"r{round_number}.{n}") for n in range(SENDERS)]
                for sender in senders:
                    sender.start()
                time.sleep(random.uniform(0.1, 0.6))
                demo.kill()
                for sender in senders:
                    sender.join(30)
                    for key, users in sender.acknowledged:
                        for user in users:
                            acknowledged[user].add(key)
                    for key, users in sender.attempted:
                        for user in users:
                            attempted[user].add(key)
                demo.start()
            total = 0
            for user in range(1, USERS + 1):
                client = imaplib.IMAP4("127.0.0.1", demo.port["imap"])
                client.login(f"user{user}@demo.test", "demo")
                client.select("INBOX", readonly=True)
                _, data = client.fetch("1:*", "(UID BODY.PEEK[HEADER.FIELDS (SUBJECT)])")
                keys = [part[1].decode().strip().removeprefix("Subject: ")
                        for part in data if isinstance(part, tuple)]
                client.logout()
                twice = [key for key, count in collections.Counter(keys).items() if count > 1]
                self.assertEqual(twice, [], f"user{user} has messages twice")
                self.assertEqual(acknowledged[user] - set(keys), set(), f"user{user} lost mail")
                self.assertEqual(set(keys) - attempted[user], set(), f"user{user} has strangers")
                total += len(keys)
            print(f"{ROUNDS} kills, {total} messages in mailboxes, "
                  f"{sum(map(len, acknowledged.values()))} acknowledged")
            self.assertGreater(total, ROUNDS)


if __name__ == "__main__":
    unittest.main(verbosity=2)
