"""Random graphs for as long as you like: `python -m tests.property.run --graphs 100000 --seed 7 [--minutes 30]`.

Prints progress and a summary (kinds of nodes, sessions, what failed). Each failing graph is made smaller and kept as a
JSON file, which `--case FILE` runs again; `--only NUMBER` runs one graph of a seed. A graph of a seed is always the
same for the same generator and `--features`.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections import Counter
from pathlib import Path

from tests.property import agreement
from tests.property.agreement import READY, Disagreement, Expected, Machines
from tests.property.case import Case, dot
from tests.property.graphs import EVERYTHING, RandomPick, random_case
from tests.property.script import READS, SETS
from tests.property.shrink import smaller

SHOW_EVERY_S = 10.0
PYTHON_ONE_IN = 50  # graphs with worker processes are slow to start


class Run:
    """Both kinds of machines, and what was seen so far."""

    def __init__(self, keep: Path) -> None:
        self.keep = keep
        self.machines = {True: Machines(python=True), False: Machines()}
        self.counts: Counter[str] = Counter()
        self.failures: list[Path] = []

    def one(self, case: Case, name: str) -> bool:
        """Whether engine and interpreter agree; keeps the case when they do not."""
        machines = self.machines[any(node.form.impl == "python" for node in case.nodes)]
        try:
            expected = machines.check(case)
        except Disagreement as disagreement:
            self._failed(case, name, disagreement, machines)
            return False
        self._count(case, expected)
        return True

    def _failed(self, case: Case, name: str, disagreement: Disagreement, machines: Machines) -> None:
        def fails(candidate: Case) -> bool:
            try:
                machines.check(candidate)
            except Disagreement:
                return True
            return False

        self.keep.mkdir(parents=True, exist_ok=True)
        (self.keep / f"{name}.full.json").write_text(case.to_json() + "\n")
        small = smaller(case, fails)
        path = self.keep / f"{name}.json"
        path.write_text(small.to_json() + "\n")
        self.failures.append(path)
        first = str(disagreement).splitlines()[0]
        print(f"{name}: {first}\n{dot(small)}\n{small.sessions}\nkept in {path}", flush=True)

    def _count(self, case: Case, expected: list[Expected]) -> None:
        counts = self.counts
        counts["graphs"] += 1
        counts["nodes"] += len(case.nodes)
        counts[f"threads {case.threads}"] += 1
        for node in case.nodes:
            counts[f"{node.form.impl} {node.form.kind}"] += 1
            counts[f"op {node.op}"] += 1
            counts["nodes that see errors"] += node.form.sees
            counts["nodes that set meta"] += bool(node.meta & SETS)
            counts["nodes that read meta"] += bool(node.meta & READS)
        for exit in case.exits:
            counts["outputs" if exit.output else "sinks"] += 1
        for session, result in zip(case.sessions, expected, strict=True):
            counts["sessions"] += 1
            counts["sessions cancelled"] += session.cancel_after is not None
            counts["sessions that must fail"] += result.values is None
            counts["empty sessions"] += not any(session.values)
            counts["values compared"] += sum(_size(items) for items in (result.values or {}).values())

    def close(self) -> None:
        for machines in self.machines.values():
            machines.close()

    def summary(self) -> str:
        lines = [f"{name:28} {count}" for name, count in sorted(self.counts.items())]
        lines += [f"failed: {path}" for path in self.failures]
        return "\n".join(lines)


def _size(items: list[object]) -> int:
    return sum(len(item) if isinstance(item, list) else 1 for item in items)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.property.run", description=__doc__)
    parser.add_argument("--graphs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first graph")
    parser.add_argument("--minutes", type=float, help="stop after this time")
    parser.add_argument("--only", type=int, help="run this one graph of the seed")
    parser.add_argument("--case", type=Path, help="run this file")
    parser.add_argument(
        "--python", type=int, default=PYTHON_ONE_IN, help="one graph in so many has Python units; 0: none"
    )
    parser.add_argument("--keep", type=Path, default=Path("build/random"), help="where failing graphs go")
    parser.add_argument("--most-failures", type=int, default=10)
    parser.add_argument("--features", help="all, or names with commas, beside what the engine is ready for")
    parser.add_argument("--without", default="", help="features to leave out, with commas between")
    parser.add_argument("--limit", type=float, default=agreement.LIMIT_S, help="seconds for one graph")
    options = parser.parse_args()
    agreement.LIMIT_S = options.limit
    without = set(options.without.split(",")) - {""}
    features = READY | (EVERYTHING if options.features == "all" else set((options.features or "").split(",")) - {""})
    if unknown := (features | without) - EVERYTHING:
        parser.error(f"no such features: {', '.join(unknown)}; there are {', '.join(sorted(EVERYTHING))}")
    features -= without
    logging.disable(logging.WARNING)  # what scripted units fail with
    run = Run(options.keep)
    try:
        if options.case is not None:
            return 0 if run.one(Case.from_json(options.case.read_text()), options.case.stem + ".again") else 1
        numbers = range(options.first, options.first + options.graphs)
        if options.only is not None:
            numbers = range(options.only, options.only + 1)
        begun = shown = time.monotonic()
        for number in numbers:
            python = options.python and number % options.python == options.python - 1
            case = random_case(RandomPick(options.seed, number), features if python else features - {"python"})
            run.one(case, f"seed{options.seed}-{number}")
            now = time.monotonic()
            if now - shown > SHOW_EVERY_S:
                shown = now
                rate = run.counts["graphs"] / (now - begun)
                print(f"{number}: {rate:.0f} graphs/s, {len(run.failures)} failed", flush=True)
            late = options.minutes is not None and now - begun > options.minutes * 60
            if late or len(run.failures) >= options.most_failures:
                break
        print(f"{run.summary()}\nseconds {time.monotonic() - begun:.0f}")
        return 1 if run.failures else 0
    finally:
        run.close()


if __name__ == "__main__":
    sys.exit(main())
