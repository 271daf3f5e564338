"""What the engine costs per value and node, for each kind of unit: native units that do next to nothing."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from common import TOP, Bench, interleaved

from modelbox._core import lib
from modelbox._core.memory import new_list
from modelboxd.engine.feed import copy_list

Row = tuple[str, str, str, str, str]
CHUNK, CHUNKS = 32, 100
ROUNDS = 5

# The nodes between source and sink, and how many values pass a node for each that enters, over all of them.
NODES: dict[str, tuple[str, float]] = {
    "normal": ("a [flowunit=kind_normal]; s:out -> a:in; a:out -> t:in", 1),
    "stream": ("a [flowunit=kind_stream]; s:out -> a:in; a:out -> t:in", 1),
    "condition": ("a [flowunit=kind_condition]; s:out -> a:in; a:out -> t:in; a:other -> t:in", 1),
    "expand, collapse (4 values each)": (
        "a [flowunit=kind_expand]; b [flowunit=kind_collapse]; s:out -> a:in; a:out -> b:in; b:out -> t:in",
        1 + 4,
    ),
    "loop (2 rounds on average)": (
        "a [flowunit=kind_loop]; b [flowunit=kind_normal]; s:out -> a:in; a:out -> b:in; b:out -> a:in; a:other -> t:in",
        2 + 1,
    ),
}


class Kind:
    """An engine with one kind of unit between source and sink."""

    def __init__(self, dot: str, plugin_dir: Path, passes: float) -> None:
        self.bench = Bench(f"s [flowunit=feeder]; t [flowunit=drain, queue_size=4096]; {dot}", [plugin_dir])
        self.passes = passes
        self.source = new_list(CHUNK)
        for _ in range(CHUNK):
            buffer = self.bench.pool.new(64)
            lib.mb_buffer_seal(buffer)
            lib.mb_list_push(self.source, lib.mb_buffer_ref(buffer))

    def measure(self) -> float:
        """Microseconds per value and node."""
        session, ended = self.bench.session()
        start = time.perf_counter()
        for number in range(CHUNKS):
            self.bench.entry.send_list(session, "out", copy_list(self.source), end=number == CHUNKS - 1)
        ended.wait()
        if session.error is not None:
            raise RuntimeError(str(session.error))
        return (time.perf_counter() - start) / (CHUNKS * CHUNK * self.passes) * 1e6


def kinds() -> list[Row]:
    """The cost of each kind, as a ratio to that of a NORMAL node in the same run."""
    with tempfile.TemporaryDirectory() as scratch:
        here = TOP / "benchmarks"
        command = ["cc", "-O2", "-std=gnu11", "-fPIC", "-shared", "-I", str(TOP / "csrc/include")]
        subprocess.run([*command, str(here / "kind_units.c"), "-o", f"{scratch}/modelbox_kinds.so"], check=True)
        made = {name: Kind(dot, Path(scratch), passes) for name, (dot, passes) in NODES.items()}
        measures: list[Callable[[], float]] = [kind.measure for kind in made.values()]
        costs = interleaved(ROUNDS, *measures)
        for kind in made.values():
            kind.bench.close()
    normal = costs[0]
    return [
        (f"engine, value and node: {name}", f"{cost:.2f} us", f"normal {normal:.2f} us", f"{cost / normal:.1f}", "")
        for name, cost in zip(made, costs, strict=True)
    ]
