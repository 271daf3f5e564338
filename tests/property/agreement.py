"""Runs a case through the engine and holds what comes out against the interpreter."""

from __future__ import annotations

import faulthandler
import gc
import logging
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field
from typing import Any

from modelbox.errors import ModelBoxError, UnitError
from modelboxd.engine.job import Job
from modelboxd.workers.pool import WorkerPool
from tests.property import units
from tests.property.case import Case, CaseSession, dot, reference_graph, reference_inputs
from tests.property.graphs import EVERYTHING
from tests.property.units import Form, Workshop, builtin_class, comparable, spec_of, values_of, write_python
from tests.reference import interpreter as ref
from tests.unit.engine.harness import Bench, spec, text_buffer
from tests.waiting import comes_true

LIMIT_S = 30.0  # of one graph; a healthy one takes milliseconds

# What the engine does today; what is missing here is left out of the graphs for it. The interpreter and the generator
# always know everything.
READY = EVERYTHING

SINK = ref.Unit("sink", ref.Kind.STREAM, lambda call: None, outputs=(), sees_errors=True)


class Disagreement(AssertionError):
    """The engine did something else than the interpreter, or did not finish, or kept something."""


@dataclass
class Expected:
    """What one session must give: `values` per exit, as lists of lists for sinks; None when it must fail."""

    values: dict[str, Any] | None
    reason: str = ""


@dataclass
class Got:
    session: Any = None
    seen: dict[str, list[list[ref.Value]]] = field(default_factory=dict)  # sinks
    outputs: dict[str, list[ref.Value]] = field(default_factory=dict)  # type=output nodes
    ended: Future[ModelBoxError | None] = field(default_factory=Future)


def expect(case: Case, session: CaseSession) -> Expected:
    """What the interpreter says."""
    try:
        result = ref.run(reference_graph(case, SINK), reference_inputs(case, session))
    except ref.SessionFailed as failure:
        return Expected(None, str(failure))
    values: dict[str, Any] = {name: comparable(items) for name, items in result.outputs.items()}
    for exit in case.exits:
        if not exit.output:
            values[exit.name] = sorted((comparable(items) for items in result.seen.get(exit.name, [])), key=repr)
    return Expected(values)


class _Faults(logging.Handler):
    """Exceptions that the engine itself caught and logged: each is a bug, whatever came out."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.found.append(logging.Formatter("%(message)s").format(record))


class Machine:
    """An engine with all scripted units, for many cases one after the other."""

    def __init__(self, threads: int, shop: Workshop, *, python: bool = False) -> None:
        self._workers = _Workers() if python else None
        self._faults = _Faults()
        logging.getLogger("modelboxd.engine").addHandler(self._faults)
        forms = list(all_forms())
        made: dict[str, Any] = {
            "sink": (spec("sink", ("in",), (), stream=True, sees_errors=True, max_batch=64), units.Sink),
            "source2": (spec("source2", (), ("out", "other")), _source_class()),
        }
        for form in forms:
            if form.impl == "builtin":
                made[form.name] = (spec_of(form), builtin_class(form))
            elif form.impl == "native":
                made[form.name] = (spec_of(form, native=shop.native()), None)
            elif python:
                made[form.name] = (spec_of(form, python=shop.folder), None)
        self.bench = Bench(made, threads=threads, workers=self._workers)
        self.bench.io.start()
        if self._workers is not None:
            write_python(shop.folder, [form for form in forms if form.impl == "python"])
            self._workers.pool = WorkerPool(self.bench.io, self.bench.pool)

    def close(self) -> None:
        logging.getLogger("modelboxd.engine").removeHandler(self._faults)
        self.bench.close()
        if self._workers is not None:
            self.bench.engine.close()
        self.bench.io.stop()

    # ---- one case -------------------------------------------------------------------------------------------------

    def check(self, case: Case) -> list[Expected]:
        """Raises Disagreement; gives what the sessions had to give."""
        before = self._kept()
        expected = [expect(case, session) for session in case.sessions]
        job = self.bench.run(dot(case))
        try:
            got = [Got() for _ in case.sessions]
            self._feed(job, case, got)
            self._wait(job, got)
            self._compare(case, expected, got)
        finally:
            job.stop()
            self.bench.jobs.remove(job)
        if self._faults.found:
            raise Disagreement(f"an internal error: {self._faults.found[0]}")
        _check_empty(job)
        del job, got
        self._check_kept(before)
        return expected

    def _feed(self, job: Job, case: Case, got: list[Got]) -> None:
        """Opens all sessions, then sends a piece to each in turn."""
        queues = [list(_sends(case, session)) for session in case.sessions]
        send = job.send if case.has_inputs else self.bench.entry(job).send
        for session in got:
            private = {"seen": session.seen}
            ended = _ended(session)
            if case.has_inputs:
                session.session = job.open(_collect(session), ended, private=private)
            else:
                session.session = self.bench.entry(job).open(private, ended)
        for turn in range(max(len(queue) for queue in queues)):
            for planned, queue, session in zip(case.sessions, queues, got, strict=True):
                if turn == planned.cancel_after:
                    session.session.cancel(UnitError("cancelled"))
                if turn < len(queue):
                    port, items, end = queue[turn]
                    send(session.session, port, [text_buffer(item) for item in items], end=end)
        for planned, queue, session in zip(case.sessions, queues, got, strict=True):
            if planned.cancel_after is not None and planned.cancel_after >= len(queue):
                session.session.cancel(UnitError("cancelled"))

    def _wait(self, job: Job, got: list[Got]) -> None:
        deadline = time.monotonic() + LIMIT_S
        for number, session in enumerate(got):
            try:
                session.ended.result(max(0.0, deadline - time.monotonic()))
            except FutureTimeout:
                faults = "\n".join(self._faults.found)
                text = f"session {number} did not end within {LIMIT_S:g} s\n{faults}\n{dump(job)}"
                for late in got:
                    late.session.cancel(UnitError("too late"))
                raise Disagreement(text) from None

    def _compare(self, case: Case, expected: list[Expected], got: list[Got]) -> None:
        for number, (planned, wanted, session) in enumerate(zip(case.sessions, expected, got, strict=True)):
            error = session.ended.result()
            if planned.cancel_after is not None:
                continue
            if wanted.values is None:
                if error is None:
                    raise Disagreement(f"session {number} must fail: {wanted.reason}")
                continue
            if error is not None:
                raise Disagreement(f"session {number} failed: {error}")
            for exit in case.exits:
                if exit.output:
                    have: Any = comparable(session.outputs.get(exit.name, []))
                else:
                    have = sorted((comparable(items) for items in session.seen.get(exit.name, [])), key=repr)
                want = wanted.values[exit.name]
                if have != want:
                    raise Disagreement(f"session {number}, {exit.name}: expected {want}\n  got {have}")

    # ---- nothing stays ----------------------------------------------------------------------------------------------

    def _kept(self) -> tuple[int, int, int]:
        stats = self.bench.pool.stats()
        return stats.live_buffers, stats.used_bytes, sum(thread.name != "mb-master" for thread in threading.enumerate())

    def _check_kept(self, before: tuple[int, int, int]) -> None:
        """A thread may still be on its way out of the last turn when the last session has ended."""

        def is_whole() -> bool:
            return self._kept() == before or (gc.collect() >= 0 and self._kept() == before)

        if not comes_true(is_whole, LIMIT_S):
            raise Disagreement(f"live buffers, bytes, threads: {before} before, {self._kept()} after")


class _Workers:
    """The worker pool of a machine, made once its bench is there."""

    pool: WorkerPool

    def __getattr__(self, name: str) -> Any:
        return getattr(self.pool, name)


def all_forms() -> list[Form]:
    """Every form that a random graph may use."""
    forms: list[Form] = []
    for impl in ("builtin", "native", "python"):
        for sees in (False, True):
            for inputs in (1, 2, 3):
                for outputs in (0, 1, 2):
                    if impl == "native" and (inputs, outputs) not in NATIVE_PORTS:
                        continue
                    for kind in ("normal", "stream"):
                        forms.append(Form(impl, kind, inputs, outputs, sees))
                        if impl == "native" and kind == "normal":
                            forms.append(Form(impl, kind, inputs, outputs, sees, elementwise=True))
            forms += [Form(impl, "condition", 1, outputs, sees) for outputs in (2, 3, 4)]
            for outputs in (1, 2):
                forms += [Form(impl, "expand", 1, outputs, sees, stream=stream) for stream in (False, True)]
                forms.append(Form(impl, "collapse", 1, outputs, sees))
                if impl != "native":
                    forms.append(Form(impl, "collapse", 1, outputs, sees, collapse_all=False))
            if impl != "python":
                forms.append(Form(impl, "loop", 1, 2, sees))
    return forms


NATIVE_PORTS = ((1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (1, 0))


def _source_class() -> Any:
    from tests.unit.engine.harness import Source

    return Source


def _sends(case: Case, session: CaseSession) -> list[tuple[str, tuple[str, ...], bool]]:
    """(port or input, values, end) in the order in which they are sent; a piece for each door in turn."""
    longest = max(len(values) for values in session.values)
    sends: list[tuple[str, tuple[str, ...], bool]] = []
    end_alone = session.cut % 2 == 1
    for first in range(0, max(longest, 1), session.cut):
        for door, values in zip(case.doors, session.values, strict=True):
            name = door.partition(":")[0] if case.has_inputs else door.partition(":")[2]
            last = first < max(len(values), 1) <= first + session.cut
            if first < max(len(values), 1):
                sends.append((name, values[first : first + session.cut], last and not end_alone))
            if last and end_alone:
                sends.append((name, (), True))
    return sends


def _ended(session: Got) -> Callable[[Any], None]:
    return lambda ended: session.ended.set_result(ended.error)


def _collect(session: Got) -> Callable[[Any, dict[str, Any]], None]:
    def on_output(_: Any, lists: dict[str, Any]) -> None:
        for name, buffers in lists.items():
            session.outputs.setdefault(name, []).extend(values_of(buffers))

    return on_output


def _left(job: Job) -> dict[str, int]:
    """What a stopped job still holds."""
    left: dict[str, int] = {"sessions": len(job.sessions), "turns": job.active, "bytes": job.bytes}
    for step in job.steps:
        left |= {f"{step.name}.feeds": len(step.feeds), f"{step.name}.values": sum(step.counts)}
        left |= {f"{step.name}.gathers": len(step.gathers), f"{step.name}.results": step.held}
        left |= {f"{step.name}.bytes": step.bytes, f"{step.name}.ready": len(step.ready)}
    return {name: count for name, count in left.items() if count}


def _check_empty(job: Job) -> None:
    """A thread may still be on its way out of the last turn when the last session has ended."""
    if not comes_true(lambda: not _left(job), LIMIT_S):
        raise Disagreement(f"left in the job: {_left(job)}")


def dump(job: Job) -> str:
    """What waits where, and what every thread does."""
    lines = []
    for step in job.steps:
        lines.append(
            f"{step.name}: waiting {step.counts} of {step.capacity}, turns {step.turns}, {len(step.ready)} ready"
        )
        for feed in step.feeds.values():
            parts = [f"{name} {getattr(feed, name, '?')}" for name in ("avail", "ended", "busy", "begun", "dead")]
            lines.append(f"  feed of session {feed.stream.session.number}: {', '.join(parts)}, {len(feed.slots)} taken")
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file)
        file.seek(0)
        lines.append(file.read().decode())
    return "\n".join(lines)


class Machines:
    """One machine per number of threads, made when it is needed."""

    def __init__(self, *, python: bool = False) -> None:
        self.shop = Workshop()
        self._python = python
        self._made: dict[int, Machine] = {}

    def check(self, case: Case) -> list[Expected]:
        """Raises Disagreement, with the case as text."""
        if case.threads not in self._made:
            self._made[case.threads] = Machine(case.threads, self.shop, python=self._python)
        try:
            return self._made[case.threads].check(case)
        except Disagreement as disagreement:
            self._made.pop(case.threads).close()  # whatever is left there must not concern the next case
            raise Disagreement(f"{disagreement}\n{dot(case)}\n{case.to_json()}") from None

    def close(self) -> None:
        for machine in self._made.values():
            machine.close()
        self.shop.close()
