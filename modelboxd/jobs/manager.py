"""The life of jobs: one place where they start, stop, are replaced and end.

Every operation on a job holds that job's `busy` lock from beginning to end, so that operations on one job come one
after another, and those on different jobs side by side. Operations block (opening a unit may take a minute): they are
not for the I/O thread.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from modelbox.errors import ConfigError, InternalError, ModelBoxError, ShutdownError
from modelboxd import logs, systemd
from modelboxd.drivers.registry import Registry
from modelboxd.engine import job as engine_job
from modelboxd.engine.job import Job
from modelboxd.graph.loader import load_graph, parse_graph
from modelboxd.graph.model import GraphSpec, Plan
from modelboxd.jobs.model import (
    GraphText,
    JobStateError,
    JobView,
    Origin,
    State,
    check_id,
    file_id,
    is_lasting,
    problems_of,
)
from modelboxd.jobs.records import Record, Running, Table
from modelboxd.jobs.runtime import CLOSE_S, Runtime, check_dirs, plan_spec
from modelboxd.jobs.sources import Changes, Sources
from modelboxd.jobs.store import JobStore, Stored
from modelboxd.server.listener import Endpoints

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why work may not flow: of the service (`job` = ""), of a job, or of a node."""

    reason: str
    job: str = ""
    node: str = ""


@dataclass(slots=True)
class Reloaded:
    """What a reload did, by job id; `failed` says why."""

    added: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


class JobManager:
    """All jobs of the daemon. Methods are for any thread but the I/O thread, but for those that say otherwise."""

    def __init__(self, runtime: Runtime, sources: Sources, store: JobStore | None) -> None:
        """Without a `store` jobs made over the API end with the service."""
        self.runtime = runtime
        self._sources = sources
        self._store = store
        self._table = Table()
        self._lock = threading.Lock()  # of what drains
        self._reloading = threading.Lock()
        self._drains: set[threading.Thread] = set()
        self._bad_files: dict[Path, str] = {}  # why they cannot be used, since they were read the last time
        self.is_starting = True
        self._is_drained = False  # by drain_all(), and nothing was started since

    @property
    def is_stopping(self) -> bool:
        """Whether the service stops: nothing new begins. [any thread]"""
        return self._table.is_stopping

    def begin_stop(self) -> None:
        """From now on nothing new begins. [any thread]"""
        self._table.is_stopping = True

    # ---- with the service ---------------------------------------------------------------------------------------

    def start_all(self, *, skip_bad: bool) -> int:
        """Starts the jobs of the files, then those that were kept. Returns how many were skipped.

        Without `skip_bad`, raises the error of the first file that fails; with it when none of them runs.
        """
        with self._reloading:
            skipped = self._start_files(skip_bad)
            if self._store is not None:
                skipped += self._start_kept(self._store)
            self.is_starting = False
            return skipped

    def _start_files(self, skip_bad: bool) -> int:
        failures: list[ModelBoxError] = []
        files = self._sources.read().added
        for number, path in enumerate(files, 1):
            if self.is_stopping:
                return len(failures)
            systemd.notify(f"STATUS=Starting {number} of {len(files)}: {path.name}")
            try:
                self._add_file(path)
            except ModelBoxError as error:
                if not skip_bad:
                    raise
                if self.is_stopping:  # then it is the stop that failed it
                    return len(failures)
                failures.append(error)
                self._bad_files[path] = _reason(error)
                with logs.about(job=path.stem):
                    for problem in problems_of(error):
                        place = "" if str(path) in str(problem) else f"{path}: "
                        logs.report(f"job '{path.stem}' is skipped: {place}{problem}", node=problem.node)
        if failures and len(failures) == len(files):
            # Exit code 78 tells a supervisor that trying again would not help.
            text = f"no graph could be started ({len(failures)} skipped)"
            raise ConfigError(text) if all(map(is_lasting, failures)) else ModelBoxError(text)
        return len(failures)

    def _start_kept(self, store: JobStore) -> int:
        skipped = 0
        for stored in store.load():
            if self.is_stopping:
                break
            record = Record(stored.id, Origin.API, stored.created, text=stored.text)
            try:
                self._table.register(record)
                with record.busy:
                    if stored.stopped:
                        record.state = State.STOPPED
                    else:
                        self._start(record)
            except ModelBoxError as error:
                skipped += 1
                self._tell_failed(record.id, error)
        return skipped

    def stop_all(self) -> None:
        """Stops all jobs side by side; nothing is forgotten."""
        self.begin_stop()
        self.runtime.listeners.stop()
        stoppers = [
            threading.Thread(target=self._stop_at_end, args=(record,), name="mb-stop") for record in self._table.all()
        ]
        for thread in stoppers:
            thread.start()
        for thread in (*stoppers, *self._drains.copy()):
            thread.join()
        if self._store is not None:
            self._store.close()

    def _stop_at_end(self, record: Record) -> None:
        # Whatever somebody does with it right now comes to its end first, but for a unit that takes long to open: that
        # is given up when its workers end.
        has_turn = record.busy.acquire(timeout=CLOSE_S)
        try:
            running = record.running
            if running is not None and running.job.state is engine_job.JobState.RUNNING:
                record.state = State.STOPPING
                _end(running.job)
                record.state = State.STOPPED
        finally:
            if has_turn:
                record.busy.release()

    # ---- asked for ------------------------------------------------------------------------------------------------

    def create(
        self, job_id: str, graph: GraphText, *, origin: Origin = Origin.API, keep_failed: bool = False
    ) -> JobView:
        """Makes and starts a job. With `keep_failed` one that does not start stays, FAILED, until it is deleted.

        Raises BadJobIdError, JobExistsError, GraphError, ...; then there is no such job, without `keep_failed`.
        """
        record = Record(check_id(job_id), origin, time.time(), text=graph)
        with record.busy:
            self._table.register(record)
            try:
                self._start(record)
                self._keep(record)
            except ModelBoxError:
                if keep_failed and not self.is_stopping:
                    self._keep(record)
                else:
                    self._table.discard(record)
                raise
        return record.view()

    def show(self, job_id: str) -> JobView:
        """Raises NoSuchJobError. [any thread]"""
        return self._table.find(job_id).view()

    def all(self) -> list[JobView]:
        """All jobs, in the order they came. [any thread]"""
        return [record.view() for record in self._table.all()]

    def start(self, job_id: str) -> JobView:
        """Starts a job that has stopped, ended or failed. Raises NoSuchJobError, JobStateError, GraphError, ..."""
        record = self._table.find(job_id)
        with record.busy:
            self._table.check_there(record)
            if record.present_state() is State.RUNNING:
                raise JobStateError(f"job '{job_id}' runs already")
            self._start(record)
            self._keep(record)
        return record.view()

    def stop(self, job_id: str) -> JobView:
        """Drains a job; it stays, stopped. Raises NoSuchJobError, JobStateError."""
        record = self._table.find(job_id)
        with record.busy:
            self._table.check_there(record)
            if record.present_state() is not State.RUNNING:
                raise JobStateError(f"job '{job_id}' does not run")
            self._keep(record, stopped=True)
            self._stop(record)
        return record.view()

    def drain_all(self) -> list[str]:
        """Drains all jobs that run, side by side, and keeps them stopped until somebody starts them, or the service
        anew: unlike with stop() that is not remembered. Returns their ids."""
        names: list[str] = []

        def drain(record: Record) -> None:
            with record.busy:
                if record.present_state() is State.RUNNING:
                    self._stop(record)
                    names.append(record.id)

        threads = [threading.Thread(target=drain, args=(record,), name="mb-stop") for record in self._table.all()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._is_drained = self._is_drained or bool(names)
        return sorted(names)

    def delete(self, job_id: str) -> None:
        """Drains a job and forgets it. Raises NoSuchJobError; JobStateError for a job of a graph file."""
        record = self._table.find(job_id)
        with record.busy:
            self._table.check_there(record)
            if record.origin is Origin.FILE:
                text = f"job '{job_id}' comes from {record.path}"
                raise JobStateError(text, hint="stop it, or remove the file and reload")
            if record.origin is Origin.API and self._store is not None:
                self._store.remove(job_id)
            self._remove(record)

    def replace(self, job_id: str, graph: GraphText) -> JobView:
        """Starts a new graph for the job, moves its HTTP endpoints over, and drains the old one meanwhile and after.

        Raises NoSuchJobError, JobStateError, GraphError, ...; then the old one runs on as if nothing had been.
        """
        record = self._table.find(job_id)
        with record.busy:
            self._table.check_there(record)
            if record.origin is Origin.FILE:
                raise JobStateError(f"job '{job_id}' comes from {record.path}", hint="change the file and reload")
            self._replace(record, graph)
            self._keep(record)
        return record.view()

    def job(self, job_id: str) -> Job:
        """The running graph of a job, for work. Raises NoSuchJobError, JobStateError. [any thread]

        A job that is being replaced may refuse what this gave with ShutdownError; then ask again.
        """
        record = self._table.find(job_id)
        running = record.running
        if running is None or running.job.state is not engine_job.JobState.RUNNING:
            raise JobStateError(f"job '{job_id}' does not run: it is {record.present_state().value}")
        return running.job

    def running(self) -> list[Job]:
        """The graphs that run now. [any thread]"""
        found = [record.running for record in self._table.all()]
        return [running.job for running in found if running is not None]

    def plan(self, job_id: str) -> Plan | None:
        """The plan of a job's graph; None when there is none that could be started. [any thread]"""
        running = self._table.find(job_id).running
        return running.plan if running else None

    def troubles(self) -> list[Trouble]:
        """Why work may not flow; nothing when all is well. [any thread]"""
        found = []
        if self.is_starting:
            found.append(Trouble("jobs are being started"))
        if self.is_stopping:
            found.append(Trouble("the service is stopping"))
        if self._is_drained:
            found.append(Trouble("all jobs were drained on demand"))
        for number, seconds in self.runtime.executor.stalled(self.runtime.settings.engine.stall_timeout):
            found.append(Trouble(f"engine thread {number} made no progress for {seconds:.0f} s while work waits"))
        for record in self._table.all():
            running = record.running
            if running is not None and record.present_state() is State.RUNNING:
                found += [Trouble(reason, record.id, node) for node, reason in running.job.troubles()]
        return found

    # ---- files ----------------------------------------------------------------------------------------------------

    def reload(self) -> Reloaded:
        """Reads the graph files again: new ones start, changed ones are replaced, removed ones are drained, the others
        stay as they are. One with an error is told, its job goes on, and the next reload tries it again."""
        with self._reloading:
            if self.is_stopping:
                raise ShutdownError("the service is stopping")
            return self._reload(self._sources.read())

    def _reload(self, changes: Changes) -> Reloaded:
        done = Reloaded()
        by_path = {record.path: record for record in self._table.all() if record.path is not None}
        for path in changes.removed:
            self._bad_files.pop(path, None)
            record = by_path.get(path)
            if record is not None:
                with record.busy:
                    self._remove(record)
                done.removed.append(record.id)
        for path in changes.added:
            self._try(done, path, path.stem, done.added, partial(self._add_file, path))
        # One with an error is tried again: what was wrong may have been mended elsewhere, in a unit or by a package.
        again = [path for path in changes.unchanged if path in self._bad_files]
        for path in (*changes.changed, *again):
            record = by_path.get(path)
            if record is None:
                self._try(done, path, path.stem, done.added, partial(self._add_file, path))
            else:
                self._try(done, path, record.id, done.replaced, partial(self._replace_file, record))
        done.unchanged += [by_path[path].id for path in changes.unchanged if path in by_path and path not in again]
        names = ("added", "replaced", "removed", "unchanged", "failed")
        counts = ", ".join(f"{len(getattr(done, name))} {name}" for name in names)
        log.info("graph files were read again: %s", counts)
        return done

    def _try(self, done: Reloaded, path: Path, name: str, names: list[str], action: Callable[[], str]) -> None:
        """`action` gives the id of the job, for `names`."""
        try:
            names.append(action())
            self._bad_files.pop(path, None)
        except ModelBoxError as error:
            done.failed[name] = self._bad_files[path] = _reason(error)
            self._tell_failed(name, error)

    def _add_file(self, path: Path) -> str:
        """Registers and starts the job of a graph file. Returns its id. Raises ModelBoxError; it stays, as FAILED."""
        with logs.about(job=path.stem):
            record = Record(path.stem, Origin.FILE, time.time(), path=path)
            try:
                spec = self._spec(record, None)
            except ModelBoxError as error:
                record.id = self._table.free_id(file_id(path.stem))
                record.state, record.error = State.FAILED, _reason(error)
                self._table.register(record)
                raise
        record.id = self._table.free_id(file_id(spec.flow_name or path.stem))
        with record.busy:
            self._table.register(record)
            self._start(record, spec)
        return record.id

    def _replace_file(self, record: Record) -> str:
        assert record.path is not None
        with record.busy:
            self._table.check_there(record)
            with logs.about(job=record.id):
                self._replace(record, None)
        return record.id

    def _keep(self, record: Record, *, stopped: bool = False) -> None:
        """Writes what must survive a restart."""
        if record.origin is Origin.API and self._store is not None and record.text is not None:
            text = record.text
            self._store.write(Stored(record.id, text.text, text.format, stopped, record.created))

    # ---- graphs (the record's `busy` lock is held) ----------------------------------------------------------------

    def _start(self, record: Record, spec: GraphSpec | None = None) -> None:
        """Raises ModelBoxError; the record is then FAILED."""
        self._is_drained = False
        record.state, record.error = State.STARTING, ""
        try:
            record.running = self._run(record, spec or self._spec(record, record.text), None)
        except ModelBoxError as error:
            record.state, record.error, record.running = State.FAILED, _reason(error), None
            raise
        record.started = time.time()
        record.state = State.RUNNING

    def _replace(self, record: Record, text: GraphText | None) -> None:
        """Raises ModelBoxError; everything is then as before."""
        before = record.running if record.present_state() is State.RUNNING else None
        made = self._run(record, self._spec(record, text), before)
        record.running, record.text = made, text
        record.started, record.error, record.state = time.time(), "", State.RUNNING
        if before is not None:
            self._drain(record, before.job)

    def _spec(self, record: Record, text: GraphText | None) -> GraphSpec:
        with logs.about(job=record.id), _our_errors():
            if record.path is not None:
                return load_graph(record.path)
            assert text is not None
            spec = parse_graph(text.text, f"{record.id}.{text.format}", untrusted=record.origin is Origin.API)
            if record.origin is Origin.API:
                check_dirs(self.runtime.settings, spec)
            return spec

    def _run(self, record: Record, spec: GraphSpec, before: Running | None) -> Running:
        """A graph that runs and has taken over what `before` had. Raises ModelBoxError."""
        with logs.about(job=record.id), _our_errors():
            plan, registry = plan_spec(self.runtime.settings, spec)
            return self._run_plan(record, plan, registry, before)

    def _run_plan(self, record: Record, plan: Plan, registry: Registry, before: Running | None) -> Running:
        endpoints = Endpoints(self.runtime.listeners, before.endpoints if before else None)
        job = self.runtime.make_job(record.id, plan, registry, endpoints)
        job.start()
        if self.is_stopping:  # it was not among those that stop_all() found
            job.stop(0.0)
            raise ShutdownError("the service is stopping")
        endpoints.switch()
        log.info("job '%s' runs: %d nodes in %d steps", job.name, len(plan.graph.nodes), len(plan.steps))
        return Running(job, plan, endpoints)

    def _stop(self, record: Record) -> None:
        running = record.running
        if running is not None and running.job.state is engine_job.JobState.RUNNING:
            record.state = State.STOPPING
            _end(running.job)
        record.state = State.STOPPED

    def _remove(self, record: Record) -> None:
        if record.running is not None and record.present_state() is State.RUNNING:
            record.state = State.DELETING
            _end(record.running.job)
        self._table.discard(record)

    def _drain(self, record: Record, job: Job) -> None:
        """Ends the graph that was replaced, on a thread of its own."""
        with self._lock:
            record.draining += 1

        def end() -> None:
            _end(job, handed_over=True)
            with self._lock:
                record.draining -= 1
                self._drains.discard(thread)

        thread = threading.Thread(target=end, name="mb-drain", daemon=True)
        with self._lock:
            self._drains.add(thread)
        thread.start()

    def _tell_failed(self, job_id: str, error: ModelBoxError) -> None:
        with logs.about(job=job_id):
            for problem in problems_of(error):
                log.error("job '%s': %s", job_id, problem, extra={"node": problem.node})


def _end(job: Job, *, handed_over: bool = False) -> None:
    with logs.about(job=job.name):
        lost = job.stop(handed_over=handed_over)
    log.info("job '%s' stopped, %d sessions lost", job.name, lost, extra={"job": job.name})


@contextmanager
def _our_errors() -> Iterator[None]:
    """A bug becomes an InternalError: it costs this job, not the others."""
    try:
        yield
    except ModelBoxError:
        raise
    except Exception as error:
        log.exception("internal error")
        text = f"internal error: {type(error).__name__}: {error}; please report this"
        raise InternalError(text) from error


def _reason(error: ModelBoxError) -> str:
    return "\n".join(str(problem) for problem in problems_of(error))
