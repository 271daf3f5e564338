"""`python benchmarks/soak.py MINUTES`: mixed good and bad requests against both examples, memory and descriptors watched.

With `--kill-workers` there is a graph of Python units more, a normal and a stream one with two workers each, and worker
processes and the python-master are killed or stopped at random moments: requests may then fail with 500 or 503, or 408
where no worker comes back in time, but each is answered within 60 s, and most are answered well. In the end all workers
are ready and every kind of request is answered well again. Samples with a worker missing do not count.

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
HEARTBEAT_MS = 2000  # so that stopped workers are replaced in less time than passes between two kills
WHOLE_S = 60.0  # after the last kill, until all is well again
UNIT = """import _flowunit as modelbox
class Unit(modelbox.FlowUnit):
    def process(self, context):
        for buffer in context.input("in"):
            context.output("out").push_back(buffer)
        return modelbox.Status()
"""
GRAPH = """[driver]
dir = ["."]
[graph]
format = "graphviz"
graphconf = '''digraph twice {
    receive [flowunit=httpserver_sync_receive, endpoint="http://127.0.0.1:0/twice"]
    normal  [flowunit=normal, workers=2]
    stream  [flowunit=stream, workers=2]
    reply   [flowunit=httpserver_sync_reply]
    receive:out_request_info -> normal:in
    normal:out -> stream:in
    stream:out -> reply:in_reply_info
}'''
"""


def write_twice(folder: Path) -> Path:
    """A graph of two Python units that pass on what they get."""
    for name in ("normal", "stream"):
        (folder / f"{name}.py").write_text(UNIT)
        (folder / f"{name}.toml").write_text(
            f'[base]\nname = "{name}"\ntype = "python"\ndevice = "cpu"\nversion = "1.0.0"\ndescription = "{name}"\n'
            f'entry = "{name}@Unit"\nstream = {str(name == "stream").lower()}\n'
            '[input.input1]\nname = "in"\n[output.output1]\nname = "out"\n'
        )
    (folder / "twice.toml").write_text(GRAPH)
    return folder / "twice.toml"


def start(scratch: Path, kill_workers: bool) -> tuple[subprocess.Popen[str], dict[str, int]]:
    """The daemon on both examples with ports that the kernel chose."""
    conf = f'[server]\nport = 0\nstate_dir = "{scratch}/state"\n'
    if kill_workers:
        conf += f"[python]\nheartbeat_timeout_ms = {HEARTBEAT_MS}\n"
    (scratch / "modelbox.conf").write_text(conf)
    command = [sys.executable, "-m", "modelboxd", "-V", "-c", str(scratch / "modelbox.conf")]
    for name, port in (("hello_world", 7770), ("text_detection", 7771)):
        example = TOP / "examples" / name
        text = (example / f"graph/{name}.toml").read_text().replace(f"127.0.0.1:{port}", "127.0.0.1:0")
        (scratch / f"{name}.toml").write_text(text.replace("../flowunit", str(example / "flowunit")))
        command += ["--graph", str(scratch / f"{name}.toml")]
    if kill_workers:
        command += ["--graph", str(write_twice(scratch))]
    daemon = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=TOP)
    ports = []
    api = 0
    assert daemon.stderr is not None
    for line in daemon.stderr:
        found = re.search(r"the API listens on http://.*:(\d+)", line)
        if found:
            api = int(found[1])
        found = re.search(r"node '\w+' listens on .* \(port (\d+)\)", line)
        if found:
            ports.append(int(found[1]))
        if "is ready:" in line:
            break
    else:
        sys.exit("the daemon did not start")
    threading.Thread(target=lambda: [None for _ in daemon.stderr or ()], daemon=True).start()
    names = ("hello", "text", "twice") if kill_workers else ("hello", "text")
    return daemon, dict(zip(names, ports, strict=True)) | {"api": api}


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

        if "twice" in ports:
            self.kinds += [
                ("twice", "twice", "/twice", b"Ada", {200}, 40),
                ("twice large", "twice", "/twice", b"x" * 300_000, {200}, 10),
            ]

    def is_whole(self) -> bool:
        """Whether the server says that work can flow, and the kinds that are answered with 200 are."""
        try:
            return self.send("api", "/health/ready", b"", "GET") == 200 and all(
                self.send(port, path, body) == 200 for _, port, path, body, good, _ in self.kinds if good == {200}
            )
        except OSError:
            return False

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

    def send(self, port: str, path: str, body: bytes | None, method: str = "POST") -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[port], timeout=60)
        try:
            if body is None:  # 200 MB announced, nothing sent
                connection.putrequest("POST", path)
                connection.putheader("Content-Length", str(200 << 20))
                connection.endheaders()
            else:
                connection.request(method, path, body)
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
    """Kills or stops a random worker process every few seconds, and one time out of ten the python-master."""

    SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS)
    MASTER = 0.1

    def __init__(self, daemon: int, every_s: float, stop: threading.Event) -> None:
        self.killed: Counter[str] = Counter()
        self._daemon = psutil.Process(daemon)
        self._every_s = every_s
        self._stop = stop

    def run(self) -> None:
        chooser = random.Random(1)
        while not self._stop.wait(chooser.expovariate(1 / self._every_s)):
            title, which = "python-worker", chooser.choice(self.SIGNALS)
            if chooser.random() < self.MASTER:
                title, which = "python-master", signal.SIGKILL
            found = [one for one in self._daemon.children(recursive=True) if self._is(one, title)]
            if found:
                try:
                    chooser.choice(found).send_signal(which)
                except psutil.NoSuchProcess:
                    continue
                self.killed[f"{title} {which.name}"] += 1

    @staticmethod
    def _is(process: psutil.Process, title: str) -> bool:
        try:
            return title in " ".join(process.cmdline())
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
        daemon, ports = start(Path(scratch), options.kill_workers)
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
        end = time.monotonic() + WHOLE_S
        while died is None and not load.is_whole():
            if time.monotonic() > end:
                load.wrong["not all is well again"] += 1
                break
            threading.Event().wait(0.5)
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
