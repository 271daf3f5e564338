"""What a job is, seen from outside."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum

from modelbox.errors import ConfigError, GraphError, ModelBoxError

ID_PATTERN = r"[0-9a-zA-Z\-+~_][0-9a-zA-Z\-+~_.]+"
ID_LENGTH = 64
_ID = re.compile(ID_PATTERN)
_NOT_IN_ID = re.compile(r"[^0-9a-zA-Z\-+~_.]")


class State(StrEnum):
    """The states of a job; `modelbox` is what ModelBox clients call it."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"  # by somebody who asked for it
    FINISHED = "finished"  # by itself
    FAILED = "failed"
    DELETING = "deleting"

    @property
    def modelbox(self) -> str:
        """The spelling of the ModelBox routes."""
        return _MODELBOX[self]


_MODELBOX = {
    State.STARTING: "CREATEING",
    State.RUNNING: "RUNNING",
    State.STOPPING: "RUNNING",
    State.STOPPED: "PENDING",
    State.FINISHED: "SUCCEEDED",
    State.FAILED: "FAILED",
    State.DELETING: "DELETEING",
}


class Origin(StrEnum):
    """Where a job comes from."""

    FILE = "file"  # a graph file of the configuration
    API = "api"  # somebody asked for it; kept over restarts
    PLUGIN = "plugin"  # a service plugin made it; not kept


@dataclass(frozen=True, slots=True)
class GraphText:
    """A graph as it came: the text of a graph file, and "toml" or "json"."""

    text: str
    format: str = "toml"


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node of a job's graph."""

    name: str
    unit: str
    device: str
    step: int  # nodes of one step run as one
    kind: str  # of the step


@dataclass(frozen=True, slots=True)
class JobView:
    """A job at one moment. Times are seconds since 1970, 0 = never."""

    id: str
    state: State
    origin: Origin
    error: str = ""  # why it failed; one line per problem
    graph: str = ""  # name of the graph
    description: str = ""
    file: str = ""  # origin FILE: its path
    created: float = 0.0
    started: float = 0.0
    sessions: int = 0  # under way
    draining: int = 0  # earlier graphs of this job that still end their sessions
    nodes: tuple[NodeView, ...] = field(default=())
    inputs: tuple[str, ...] = ()  # input nodes: tasks are possible
    outputs: tuple[str, ...] = ()


class JobError(ModelBoxError):
    """Something that cannot be done with a job."""


class NoSuchJobError(JobError, LookupError):
    """There is no job of this id."""


class JobExistsError(JobError):
    """The id is taken."""


class BadJobIdError(JobError, ValueError):
    """The id is not allowed."""


class JobStateError(JobError):
    """Not in this state of the job."""


def check_id(job_id: str) -> str:
    """Raises BadJobIdError."""
    if not _ID.fullmatch(job_id) or len(job_id) > ID_LENGTH:
        hint = f"2 to {ID_LENGTH} of letters, digits, - + ~ _ . and no . in front"
        raise BadJobIdError(f"job id {job_id[:80]!r} is not allowed", hint=hint)
    return job_id


def file_id(name: str) -> str:
    """An id out of the name of a graph or a file."""
    return _NOT_IN_ID.sub("_", name).lstrip(".")[:ID_LENGTH] or "_"


def problems_of(error: ModelBoxError) -> tuple[ModelBoxError, ...]:
    """What a user reads of an error: one line per problem."""
    return error.problems if isinstance(error, GraphError) else (error,)


def is_lasting(error: ModelBoxError) -> bool:
    """Whether trying again without a change is pointless."""
    return isinstance(error, (ConfigError, GraphError))
