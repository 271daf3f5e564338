"""The table of jobs: what is known of each, and who it is told to."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from modelbox.errors import ShutdownError
from modelboxd.engine import job as engine_job
from modelboxd.engine.job import Job
from modelboxd.graph.model import Plan
from modelboxd.jobs.model import GraphText, JobExistsError, JobView, NodeView, NoSuchJobError, Origin, State
from modelboxd.server.listener import Endpoints


@dataclass(slots=True)
class Running:
    """A graph that runs, or did."""

    job: Job
    plan: Plan
    endpoints: Endpoints


@dataclass(slots=True, eq=False)
class Record:
    """A job. Changes under its `busy` lock; `state`, `error`, `running` are read by anybody."""

    id: str
    origin: Origin
    created: float
    path: Path | None = None
    text: GraphText | None = None
    state: State = State.STARTING
    error: str = ""
    started: float = 0.0
    running: Running | None = None
    draining: int = 0
    busy: threading.Lock = field(default_factory=threading.Lock)

    def present_state(self) -> State:
        """The state, with what the engine's job did by itself."""
        running = self.running
        if self.state is State.RUNNING and running is not None:
            if running.job.state is engine_job.JobState.FAILED or running.job.error is not None:
                return State.FAILED
            if running.job.state is not engine_job.JobState.RUNNING:
                return State.FINISHED
        return self.state

    def view(self) -> JobView:
        """What is told of it. [any thread]"""
        running = self.running
        view = JobView(
            self.id,
            self.present_state(),
            self.origin,
            self.error or (str(running.job.error) if running and running.job.error else ""),
            file=str(self.path or ""),
            created=self.created,
            started=self.started,
            draining=self.draining,
        )
        if running is None:
            return view
        graph = running.plan.graph
        nodes = tuple(
            NodeView(node.name, node.unit.name, node.unit.device, step.index, step.kind)
            for step in running.plan.steps
            for node in step.nodes
        )
        return replace(
            view,
            graph=graph.name,
            description=graph.flow_desc,
            sessions=len(running.job.sessions),
            nodes=nodes,
            inputs=tuple(running.job.inputs.steps),
            outputs=tuple(node.name for step in running.plan.steps if step.kind == "output" for node in step.nodes),
        )


class Table:
    """All jobs by id. [any thread]"""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._records: dict[str, Record] = {}
        self.is_stopping = False  # nothing new is taken

    def all(self) -> Sequence[Record]:
        with self._lock:
            return list(self._records.values())

    def find(self, job_id: str) -> Record:
        with self._lock:
            record = self._records.get(job_id)
        if record is None:
            raise NoSuchJobError(f"there is no job '{job_id[:80]}'")
        return record

    def register(self, record: Record) -> None:
        with self._lock:
            if record.id in self._records:
                raise JobExistsError(f"job '{record.id}' exists already")
            if self.is_stopping:
                raise ShutdownError("the service is stopping")
            self._records[record.id] = record

    def discard(self, record: Record) -> None:
        with self._lock:
            if self._records.get(record.id) is record:
                del self._records[record.id]

    def check_there(self, record: Record) -> None:
        """It may have been deleted while this operation waited for its turn."""
        with self._lock:
            if self._records.get(record.id) is not record:
                raise NoSuchJobError(f"there is no job '{record.id}'")
            if self.is_stopping:
                raise ShutdownError("the service is stopping")

    def free_id(self, wish: str) -> str:
        with self._lock:
            made, number = wish, 2
            while made in self._records:
                made, number = f"{wish[:58]}-{number}", number + 1
            return made
