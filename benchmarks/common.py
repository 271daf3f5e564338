"""What the benchmarks share: an engine in this process, medians, and the table."""

from __future__ import annotations

import socket
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TOP))

from modelbox._core.memory import Pool  # noqa: E402
from modelbox.spec import FlowType, PortSpec, UnitKind, UnitSpec  # noqa: E402
from modelboxd import paths  # noqa: E402
from modelboxd.cpus import cpu_count  # noqa: E402
from modelboxd.drivers.registry import Registry  # noqa: E402
from modelboxd.engine.engine import Engine  # noqa: E402
from modelboxd.engine.executor import Executor  # noqa: E402
from modelboxd.engine.job import Job  # noqa: E402
from modelboxd.engine.unit import BuiltinUnit, Entry, SourceUnit  # noqa: E402
from modelboxd.graph.check import check_graph  # noqa: E402
from modelboxd.graph.loader import parse_graph  # noqa: E402
from modelboxd.graph.plan import make_plan  # noqa: E402
from modelboxd.loop import IoThread  # noqa: E402
from modelboxd.workers.pool import WorkerPool  # noqa: E402


def builtin(name: str, inputs: Sequence[str], outputs: Sequence[str], stream: bool = False) -> UnitSpec:
    return UnitSpec(
        name, "cpu", "1.0.0", name, UnitKind.BUILTIN, name,
        tuple(PortSpec(port) for port in inputs), tuple(PortSpec(port) for port in outputs),
        flow_type=FlowType.STREAM if stream else FlowType.NORMAL, max_batch_size=4096, default_batch_size=4096,
    )  # fmt: skip


class Feeder(SourceUnit):
    """Hands its entry to the benchmark."""

    entry: Entry

    def start(self, entry: Entry) -> None:
        self.entry = entry

    def stop(self) -> None:
        pass


class Drain(BuiltinUnit):
    """Counts what arrives; keeps the last list when `keep` is set in the session."""

    inline = True

    def process(self, call: Any) -> None:
        received = call.session.private
        received["count"] += call._inputs["in"].count
        if "kept" in received:
            received["kept"] = call.input("in")[0]


class Bench:
    """An engine with real units, a feeding source and a draining sink."""

    def __init__(self, dot: str, unit_dirs: Sequence[Path] = (), threads: int = 0) -> None:
        default = paths.unit_dir()
        self.registry = Registry([*unit_dirs, default], builtin_dir=default, cache_file=None)
        self.registry.scan()
        for spec in (builtin("feeder", (), ("out",)), builtin("drain", ("in",), (), stream=True)):
            self.registry._add(spec)
        self.executor = Executor(threads or cpu_count())
        self.executor.start()
        self.pool = Pool()
        self.io = IoThread()
        self.io.start()
        self.engine = Engine(
            self.executor, self.pool, self.io, lambda _: WorkerPool(self.io, self.pool), cpus=cpu_count(),
            builtins={"feeder": Feeder, "drain": Drain},
        )  # fmt: skip
        text = f'[graph]\nformat = "graphviz"\ngraphconf = """digraph bench {{ {dot} }}"""\n'
        plan = make_plan(check_graph(parse_graph(text, "bench.toml"), self.registry))
        self.job: Job = self.engine.create_job("bench", plan)
        self.job.start()
        self.entry = self.job.sources[0].unit.entry

    def session(self) -> tuple[Any, threading.Event]:
        """A session, and an event that is set when it has ended."""
        ended = threading.Event()
        return self.entry.open({"count": 0}, lambda _: ended.set()), ended

    def close(self) -> None:
        self.job.stop()
        self.engine.close()
        self.executor.stop(5)
        self.io.stop()


def interleaved(times: int, *measures: Callable[[], float]) -> list[float]:
    """Runs the measures in turn, `times` rounds; the median of each."""
    rows = [[measure() for measure in measures] for _ in range(times)]
    return [statistics.median(column) for column in zip(*rows, strict=True)]


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of them lie."""
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait_port(port: int) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            time.sleep(0.05)
    sys.exit(f"nothing listens on port {port}")


def table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip(), flush=True)
