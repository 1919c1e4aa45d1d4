#!/usr/bin/env python3
"""Messages a second, durable to mailbox, in turn with Postfix's smtp-sink (which discards everything).

One shard on core 0, the generator (smtp-source -s 100 -l 4096) on core 1. With --shards 2 and
--recipients 1000 every other message crosses from one shard to the other, the second of which shares
the generator's core: read the CPU there, not the rate. Each pair of runs is made
ROUNDS times, sink and server alternating, so that a noisy host hits both; medians are compared.
CPU is all of the server process, io_uring's kernel workers included. Needs Debian's `postfix`
package for smtp-source and smtp-sink; runs as root (smtp-sink requires it).

    cargo build --release && benches/throughput.py [--messages 20000] [--rounds 5] [--partitions N]
"""

import argparse
import json
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests/clients"))
from demo import Demo, RINGLOAD  # noqa: E402

TICK = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid):
    """Microsecond-grained: schedstat sums what every thread ran, dead threads by the tick."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def metric(demo, name):
    import urllib.request
    text = urllib.request.urlopen(f"http://127.0.0.1:{demo.port['admin']}/metrics").read().decode()
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines()
               if line.startswith(name + "{") or line.startswith(name + " "))


def interrupts():
    """Rescheduling interrupts between processors so far."""
    with open("/proc/interrupts") as table:
        for line in table:
            if line.lstrip().startswith("RES:"):
                return sum(int(field) for field in line.split()[1:] if field.isdigit())
    return 0


def driver_seconds():
    """CPU of the generators so far: of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def source(port, messages, reuse, recipient):
    command = ["taskset", "-c", "1", "smtp-source", "-s", "100", "-l", "4096", "-m", str(messages),
               "-f", "sender@example.org", "-t", recipient, f"127.0.0.1:{port}"]
    if reuse:
        command.insert(4, "-d")
    begin = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - begin


def ringload(port, messages, connections, users, report):
    command = ["taskset", "-c", "1", str(RINGLOAD), "smtp", "--address", f"127.0.0.1:{port}",
               "--connections", str(connections), "--messages", str(messages), "--size", "4096",
               "--recipients", str(users), "--quiet", "--json", report]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    # Its own measure: the process ends up to 50 ms later, with its progress bar.
    return json.loads(pathlib.Path(report).read_text())["elapsed_seconds"]


def measure(pid, messages, drive):
    before, interrupts_before, driver_before = cpu_seconds(pid), interrupts(), driver_seconds()
    elapsed = drive()
    used = cpu_seconds(pid) - before
    return (messages / elapsed, used / messages * 1e6,
            (interrupts() - interrupts_before) / messages,
            (driver_seconds() - driver_before) / messages * 1e6)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--partitions", type=int, nargs="*", default=[None],
                        help="numbers of partitions to try; default: the demo's own")
    parser.add_argument("--recipients", type=int, default=1,
                        help="1: smtp-source to one mailbox; more: ringload, spread evenly")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE",
                        help="a setting of the demo, e.g. runtime.commit_gather=0s")
    parser.add_argument("--connections", type=int, default=100, help="of ringload")
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--dir", help="where the demo's data goes (default: a temporary directory)")
    arguments = parser.parse_args()

    sink_port = 20025
    print(f"{arguments.messages} messages of 4 KiB a run, {arguments.rounds} rounds, medians; "
          f"{arguments.shards} shard(s) from core 0 on, generator on core 1, "
          f"{arguments.recipients} recipient(s)")
    print(f"{'case':44} {'msgs/s':>8} {'CPU us':>7} {'of sink':>8} {'CPU x':>6} {'msgs/sync':>9} "
          f"{'IPI/msg':>7} {'gen us':>6}")
    for partitions in arguments.partitions:
        for reuse in ((True, False) if arguments.recipients == 1 else (True,)):
            case(arguments, sink_port, partitions, reuse)


def case(arguments, sink_port, partitions, reuse):
    directory = tempfile.mkdtemp(prefix="ringmail-bench-", dir=arguments.dir)
    extra = ["--partitions", partitions] if partitions else []
    extra += [word for setting in arguments.set for word in ("--set", setting)]
    sink = subprocess.Popen(["taskset", "-c", "0", "smtp-sink", "-u", "nobody",
                             f"127.0.0.1:{sink_port}", "4096"], stderr=subprocess.DEVNULL)
    results = {"sink": [], "ringmail": []}
    try:
        time.sleep(0.5)
        with Demo("--shards", arguments.shards, "--users", max(arguments.recipients, 2), *extra,
                  directory=directory) as demo:
            syncs = stored = 0
            for _ in range(arguments.rounds):
                for name, pid, port in (("sink", sink.pid, sink_port),
                                        ("ringmail", demo.process.pid, demo.port["smtp"])):
                    if arguments.recipients == 1:
                        def drive():
                            return source(port, arguments.messages, reuse, "user1@demo.test")
                    else:
                        def drive():
                            return ringload(port, arguments.messages, arguments.connections,
                                            arguments.recipients, f"{directory}/report.json")
                    if name == "ringmail":
                        syncs -= metric(demo, "ringmail_store_syncs_total")
                    results[name].append(measure(pid, arguments.messages, drive))
                    if name == "ringmail":
                        syncs += metric(demo, "ringmail_store_syncs_total")
                        stored += arguments.messages
    finally:
        sink.terminate()
        sink.wait()
        shutil.rmtree(directory, ignore_errors=True)
    median = {name: [statistics.median(column) for column in zip(*runs)]
              for name, runs in results.items()}
    kind = "reused connections" if reuse else "a connection a message"
    label = f"{partitions or 'default'} partitions, {kind}"
    rate, cpu, ipis, driver = median["sink"]
    print(f"{'smtp-sink, ' + kind:44} {rate:8.0f} {cpu:7.1f} {ipis:34.2f} {driver:6.1f}")
    own_rate, own_cpu, own_ipis, own_driver = median["ringmail"]
    print(f"{label:44} {own_rate:8.0f} {own_cpu:7.1f} {own_rate / rate:8.2f} {own_cpu / cpu:6.2f} "
          f"{stored / syncs if syncs else float('nan'):9.1f} {own_ipis:7.2f} "
          f"{own_driver:6.1f}", flush=True)


if __name__ == "__main__":
    main()
