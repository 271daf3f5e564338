"""Service plugins: Python inside the server that serves routes, gives jobs tasks, and hears of their ends.

    from modelbox.plugin import Plugin, Request

    class Adapter(Plugin):
        name = "adapter"

        def init(self, config):
            self.service.route("POST", "/adapter/orders", self.order)

        async def order(self, request: Request):
            task = await self.service.submit("work", {"input": request.json()["text"]})
            return {"task": task.id}

Functions given to the service may be `async def`; they run on an event loop that this plugin has for itself. Others
run on one of a few threads of the plugin and may block. docs/plugins.md has all of it.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from modelbox.errors import ModelBoxError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Request:
    """A request to a route of a plugin. It was checked: who may ask, size, and the schema where the route has one."""

    method: str
    path: str
    params: Mapping[str, str]  # parts of the path, by the names in its {braces}
    query: Mapping[str, str]
    headers: Mapping[str, str]  # names in lower case
    body: bytes
    client: str  # name of the token or certificate; "" = it has none

    def json(self) -> Any:
        """The body as JSON. Raises HttpError 400 when it is none."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise HttpError(400, "bad_request", f"the body is not JSON: {str(error)[:200]}") from None


@dataclass(frozen=True, slots=True)
class Response:
    """An answer. A route may also return a dict or list (JSON), a str (text), bytes, or None (204)."""

    body: bytes | str | dict[str, Any] | list[Any] | None = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = ""  # "" = as the body is


class HttpError(Exception):
    """Raised by a route: answered as problem JSON. `code` is a word for programs, `detail` a line for people."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail


class PluginError(ModelBoxError):
    """The service cannot do what a plugin asked for."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job at one moment."""

    id: str
    state: (
        str  # "starting", "running", "stopping", "stopped", "finished", "failed", "deleting"; "deleted" for callbacks
    )
    error: str  # why it failed; one line per problem
    inputs: tuple[str, ...]  # input nodes: it takes tasks
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Output:
    """A value that came out at an output node."""

    node: str
    data: bytes
    is_text: bool  # UTF-8
    meta: Mapping[str, Any]  # of the buffer, such as type and shape of a tensor
    error: str = ""  # "<unit>.<reason>: text" of an error buffer; then there is no data

    @property
    def text(self) -> str:
        """The data as text. Raises UnicodeDecodeError where it is none."""
        return self.data.decode()


@dataclass(frozen=True, slots=True)
class Task:
    """A task at one moment."""

    id: str
    job: str
    state: str  # "queued", "running", "succeeded", "failed", "cancelled"
    error: str = ""
    outputs: tuple[Output, ...] = ()

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.state not in ("queued", "running")


class Timer(ABC):
    """Something that will be called."""

    @abstractmethod
    def cancel(self) -> None:
        """It is not called any more. What runs goes on."""


Handler = Callable[[Request], Any] | Callable[[Request], Awaitable[Any]]


class Service(ABC):
    """What the server does for one plugin; `self.service` of it. Methods that are no coroutines may be called from any
    thread of the plugin; coroutines on its loop, or by run()."""

    @abstractmethod
    def route(
        self,
        method: str,
        path: str,
        handler: Handler,
        *,
        role: str = "operate",
        summary: str = "",
        body: Mapping[str, Any] | None = None,
        answer: Mapping[str, Any] | None = None,
        max_body: int = 0,
        timeout_s: float = 30.0,
    ) -> None:
        """Adds a route, in init() or start(). `path` begins with a word of the plugin's own, such as /adapter; {name}
        in it is one segment. `role` is what clients need: "none", "read", "operate" or "admin". `body` and `answer` are
        JSON schemas for /openapi.json; requests are checked against `body`. `max_body` in bytes, 0 = server.max_body.
        Raises PluginError."""

    @abstractmethod
    def every(self, seconds: float, function: Callable[[], Any]) -> Timer:
        """Calls it again and again, `seconds` after its last call has ended."""

    @abstractmethod
    def after(self, seconds: float, function: Callable[[], Any]) -> Timer:
        """Calls it once."""

    @abstractmethod
    def on_job(self, function: Callable[[Job], Any]) -> None:
        """Calls it when the state of a job has changed. Looked for four times a second: states that pass faster are
        not told."""

    @abstractmethod
    def on_task(self, function: Callable[[Task], Any]) -> None:
        """Calls it at each change of state of each task, those of other clients too, in their order."""

    @abstractmethod
    def jobs(self) -> list[Job]:
        """All jobs."""

    @abstractmethod
    async def create_job(self, job_id: str, graph: str) -> Job:
        """Starts a graph (TOML or JSON text) as a job. It is not kept over a restart. Raises ModelBoxError."""

    @abstractmethod
    async def delete_job(self, job_id: str) -> None:
        """Drains a job that a plugin or the API has made, and forgets it. Raises ModelBoxError."""

    @abstractmethod
    async def submit(
        self, job_id: str, inputs: Mapping[str, Any], *, priority: int = 5, timeout_s: float | None = None
    ) -> Task:
        """Gives a job a task. `inputs`: by input node a value as in POST /v1/jobs/ID/tasks (text, {"json": ...}, a
        tensor), or bytes. `timeout_s` None = tasks.timeout, 0 = no limit. Raises ModelBoxError."""

    @abstractmethod
    async def result(self, task_id: str) -> Task:
        """Waits for the end of a task. Raises ModelBoxError for one that is not known (any more)."""

    @abstractmethod
    async def cancel(self, task_id: str) -> None:
        """Ends a task early. Raises ModelBoxError for one that is not known (any more)."""

    @abstractmethod
    def run(self, coroutine: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
        """For functions that are not `async`: the result of a coroutine, on the plugin's loop. Raises what it raises,
        TimeoutError, and PluginError on the loop itself."""


class Plugin:
    """What a plugin derives from. A file or module has one such class."""

    name: str = ""  # [a-z0-9_-]; "" = of the entry point or file
    service: Service  # is there before init() is called

    def init(self, config: Mapping[str, Any]) -> Any:
        """Called first, with [plugin.NAME] of the configuration. Declares routes, callbacks and timers. What it raises
        leaves the plugin out. May be `async def`, as may the others."""

    def start(self) -> Any:
        """Called when init() has returned; jobs may still be starting. Routes are open after it."""

    def stop(self) -> Any:
        """Called when the server stops, before jobs drain, and takes 5 seconds at most."""


__all__: Sequence[str] = (
    "Handler", "HttpError", "Job", "Output", "Plugin", "PluginError", "Request", "Response", "Service", "Task", "Timer",
)  # fmt: skip
