"""`python benchmarks/soak.py MINUTES`: mixed good and bad requests against both examples, memory and descriptors watched.

With `--kill-workers` worker processes are killed at random moments as well: requests may then fail with 500 or
503, or 408 where no worker comes back in time, but each is answered, and most are answered well. Samples with a worker
missing do not count.

Samples the resident memory, shared memory, descriptors, threads and processes of the daemon and its children every
few seconds. Fails when a good request is not answered well, a bad one is not refused, or something grows after the
first fifth of the time.
"""

from __future__ import annotations

import argparse
import http.client
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import psutil

from growth import grown

TOP = Path(__file__).resolve().parents[1]
SAMPLE_S = 5.0
GROWTH_MB = 12.0  # of private and of shared memory, over the watched time; noise of allocators stays well below


def start(scratch: Path) -> tuple[subprocess.Popen[str], dict[str, int]]:
    """The daemon on both examples with ports that the kernel chose."""
    (scratch / "modelbox.conf").write_text(f'[server]\nport = 0\nstate_dir = "{scratch}/state"\n')
    command = [sys.executable, "-m", "modelboxd", "-V", "-c", str(scratch / "modelbox.conf")]
    for name, port in (("hello_world", 7770), ("text_detection", 7771)):
        example = TOP / "examples" / name
        text = (example / f"graph/{name}.toml").read_text().replace(f"127.0.0.1:{port}", "127.0.0.1:0")
        (scratch / f"{name}.toml").write_text(text.replace("../flowunit", str(example / "flowunit")))
        command += ["--graph", str(scratch / f"{name}.toml")]
    daemon = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=TOP)
    ports = []
    assert daemon.stderr is not None
    for line in daemon.stderr:
        found = re.search(r"node '\w+' listens on .* \(port (\d+)\)", line)
        if found:
            ports.append(int(found[1]))
        if "is ready:" in line:
            break
    else:
        sys.exit("the daemon did not start")
    threading.Thread(target=lambda: [None for _ in daemon.stderr or ()], daemon=True).start()
    return daemon, dict(zip(("hello", "text"), ports, strict=True))


class Load:
    """Sends one kind of request after the other; counts what came back."""

    def __init__(self, ports: dict[str, int], borne: frozenset[int] = frozenset()) -> None:
        self.ports = ports
        self.borne = borne  # statuses that a good request may get, too
        self.failed: Counter[str] = Counter()  # those that did
        self.counts: Counter[str] = Counter()
        self.wrong: Counter[str] = Counter()
        self.stop = threading.Event()
        photo = (TOP / "examples/text_detection/page.png").read_bytes()
        import cv2
        import numpy as np

        jpeg = cv2.imencode(".jpg", cv2.imdecode(np.frombuffer(photo, np.uint8), 1))[1].tobytes()
        frame = jpeg.index(b"\xff\xc0")
        lying = jpeg[: frame + 5] + b"\xff\xff\xff\xff" + jpeg[frame + 9 :]
        self.kinds = [
            ("hello", "hello", "/hello", b"Ada", {200}, 40),
            ("hello large", "hello", "/hello", b"x" * 300_000, {200}, 5),
            ("photo", "text", "/v1/text", photo, {200}, 2),
            ("jpeg", "text", "/v1/text", jpeg, {200}, 2),
            ("no image", "text", "/v1/text", b"this is no image", {500}, 5),
            ("empty", "text", "/v1/text", b"", {500}, 5),
            ("cut jpeg", "text", "/v1/text", jpeg[:150], {500}, 5),
            ("lying jpeg", "text", "/v1/text", lying, {500}, 5),
            ("no path", "hello", "/other", b"x", {404}, 5),
            ("long line", "hello", "/hello?" + "x" * 20_000, b"x", {431}, 3),
            ("not utf-8", "hello", "/hello", b"\xff\xfe\xfd", {500}, 5),
            ("too large", "text", "/v1/text", None, {413}, 2),
            ("abort", "text", "/v1/text", photo, set(), 2),
        ]

    def run(self, seed: int) -> None:
        chooser = random.Random(seed)
        weights = [kind[-1] for kind in self.kinds]
        while not self.stop.is_set():
            name, port, path, body, good, _ = chooser.choices(self.kinds, weights)[0]
            try:
                status = self.abort(port, path, body) if name == "abort" else self.send(port, path, body)
            except OSError as error:
                status = -1
                self.wrong[f"{name}: {error}"] += 1
            self.counts[name] += 1
            if good and status not in good and status in self.borne:
                self.failed[f"{name}: {status}"] += 1
            elif good and status not in good:
                self.wrong[f"{name}: {status}"] += 1

    def send(self, port: str, path: str, body: bytes | None) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[port], timeout=60)
        try:
            if body is None:  # 200 MB announced, nothing sent
                connection.putrequest("POST", path)
                connection.putheader("Content-Length", str(200 << 20))
                connection.endheaders()
            else:
                connection.request("POST", path, body)
            response = connection.getresponse()
            response.read()
            return response.status
        finally:
            connection.close()

    def abort(self, port: str, path: str, body: bytes | None) -> int:
        assert body is not None
        with socket.create_connection(("127.0.0.1", self.ports[port])) as sock:
            sock.sendall(
                b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (path.encode(), len(body)) + body
            )
        return 0


class Killer:
    """Kills a random worker process every few seconds."""

    SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS)

    def __init__(self, daemon: int, every_s: float, stop: threading.Event) -> None:
        self.killed: Counter[str] = Counter()
        self._daemon = psutil.Process(daemon)
        self._every_s = every_s
        self._stop = stop

    def run(self) -> None:
        chooser = random.Random(1)
        while not self._stop.wait(chooser.expovariate(1 / self._every_s)):
            workers = [one for one in self._daemon.children(recursive=True) if self._is_worker(one)]
            if workers:
                which = chooser.choice(self.SIGNALS)
                try:
                    chooser.choice(workers).send_signal(which)
                except psutil.NoSuchProcess:
                    continue
                self.killed[which.name] += 1

    @staticmethod
    def _is_worker(process: psutil.Process) -> bool:
        try:
            return "python-worker" in " ".join(process.cmdline())
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return False


def sample(process: psutil.Process) -> tuple[float, float, int, int, int]:
    """Private and shared resident MB of all processes, descriptors, threads, processes."""
    private = shared = 0.0
    fds = threads = count = 0
    for one in [process, *process.children(recursive=True)]:
        memory = one.memory_info()
        private += (memory.rss - memory.shared) / 1e6
        shared += memory.shared / 1e6
        fds += one.num_fds()
        threads += one.num_threads()
        count += 1
    return private, shared, fds, threads, count


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("minutes", type=float)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--kill-workers", action="store_true", help="kill worker processes at random moments")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two kills, on average")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        daemon, ports = start(Path(scratch))
        load = Load(ports, frozenset({408, 500, 503}) if options.kill_workers else frozenset())
        killer = Killer(daemon.pid, options.every, load.stop)
        if options.kill_workers:
            threading.Thread(target=killer.run, daemon=True).start()
        clients = [threading.Thread(target=load.run, args=(seed,)) for seed in range(options.clients)]
        for client in clients:
            client.start()
        rows = []
        end = time.monotonic() + options.minutes * 60
        process = psutil.Process(daemon.pid)
        print("   TIME  PRIVATE   SHARED   FDS  THREADS  PROCESSES  REQUESTS  WRONG")
        while time.monotonic() < end and daemon.poll() is None:
            load.stop.wait(SAMPLE_S)
            try:
                row = sample(process)
            except psutil.NoSuchProcess:
                continue  # one ended meanwhile
            rows.append(row)
            if len(rows) % 6 == 1:
                elapsed = options.minutes * 60 - (end - time.monotonic())
                print(
                    f"{elapsed:6.0f} s {row[0]:6.1f} M {row[1]:6.1f} M {row[2]:5d} {row[3]:8d} {row[4]:10d} "
                    f"{sum(load.counts.values()):9d} {sum(load.wrong.values()):6d}",
                    flush=True,
                )
        load.stop.set()
        for client in clients:
            client.join()
        died = daemon.poll()
        daemon.send_signal(signal.SIGTERM)
        code = daemon.wait(90)
    if options.kill_workers:
        failed, all_of_them = sum(load.failed.values()), sum(load.counts.values())
        print(f"killed: {dict(killer.killed)}; {failed} of {all_of_them} requests failed for it: {dict(load.failed)}")
    return verdict(rows, load, died, code)


def verdict(rows: list[tuple[float, float, int, int, int]], load: Load, died: int | None, code: int) -> int:
    """Compares the second fifth of the samples with the last one."""
    print("requests:", ", ".join(f"{name} {count}" for name, count in sorted(load.counts.items())))
    problems = [f"{what} x{count}" for what, count in load.wrong.items()]
    if sum(load.failed.values()) > sum(load.counts.values()) / 2:
        problems.append("most requests failed")
    if died is not None or code != 0:
        problems.append(f"the daemon ended with {code}")
    if load.borne:
        rows = [row for row in rows if row[4] == max(row[4] for row in rows)]
    limits = {"private MB": GROWTH_MB, "shared MB": GROWTH_MB, "descriptors": 8, "threads": 2, "processes": 0}
    problems += grown(rows, list(limits.items()))
    print("FAILED: " + "; ".join(problems) if problems else "passed: nothing grew, every answer was right")
    return 1 if problems else 0


if __name__ == "__main__":
    os.chdir(TOP)
    sys.exit(main())
