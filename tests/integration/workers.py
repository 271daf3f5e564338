"""Helpers for tests with real worker processes."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from modelbox._core import lib
from modelbox._core.memory import Pool, new_list
from modelbox.buffer import Buffer, BufferList
from modelbox.spec import FlowType, PortSpec, UnitKind, UnitSpec
from modelboxd.graph.life import OPTIONS, Life
from modelboxd.workers.group import WorkerGroup
from modelboxd.workers.place import Refuser
from modelboxd.workers.pool import WorkerPool
from modelboxd.workers.process import Worker
from modelboxd.workers.protocol import WorkerCall, WorkerResult
from modelboxd.workers.values import Owner

LIMIT_S = 30.0


def write_unit(folder: Path, name: str, code: str, *, stream: bool = False, sees_errors: bool = False) -> UnitSpec:
    """A Python unit `name` with class Unit, ports in and out."""
    directory = folder / name
    directory.mkdir(parents=True)
    (directory / f"{name}.py").write_text(code)
    toml = directory / f"{name}.toml"
    toml.write_text(
        f"""[base]
name = "{name}"
type = "python"
device = "cpu"
version = "1.0.0"
description = "{name}"
entry = "{name}@Unit"
stream = {str(stream).lower()}
exception_visible = {str(sees_errors).lower()}
[input]
[input.input1]
name = "in"
[output]
[output.output1]
name = "out"
"""
    )
    return UnitSpec(
        name=name,
        device="cpu",
        version="1.0.0",
        description=name,
        kind=UnitKind.PYTHON,
        path=str(toml),
        inputs=(PortSpec("in"),),
        outputs=(PortSpec("out"),),
        open_options=True,
        flow_type=FlowType.STREAM if stream else FlowType.NORMAL,
        exception_visible=sees_errors,
        entry=f"{name}@Unit",
    )


class Caller:
    """Starts groups and makes calls."""

    def __init__(self, pool: WorkerPool, memory: Pool) -> None:
        self.pool = pool
        self.memory = memory
        self.room = threading.Event()

    def start(self, unit: UnitSpec, config: dict[str, str] | None = None, workers: int = 1, **more: Any) -> WorkerGroup:
        """`more`: fields of Life, arguments of start_group()."""
        life = Life(workers, **{name: more.pop(name) for name in OPTIONS if name in more})
        more = {"open_timeout_s": LIMIT_S, "on_room": self.room.set} | more
        return self.pool.start_group(unit, "node", "job", config or {}, life=life, **more)

    def list_of(self, *items: Any) -> Any:
        made = new_list(len(items))
        for item in items:
            buffer = item if isinstance(item, Buffer) else Buffer(None, item)
            core = buffer.to_core(self.memory)
            lib.mb_buffer_seal(core)
            lib.mb_list_push(made, lib.mb_buffer_ref(core))
        return made

    def submit(
        self, group: WorkerGroup, *items: Any, stream: int = 0, end: bool = False, owner: Owner | None = None
    ) -> Future[WorkerResult]:
        worker = None
        while worker is None:
            self.room.clear()
            worker = group.pick()
            if worker is None:
                assert self.room.wait(LIMIT_S), "no worker became free"
        return self.submit_to(worker, *items, stream=stream, end=end, owner=owner)

    def submit_to(
        self, worker: Worker | Refuser, *items: Any, stream: int = 0, end: bool = False, owner: Owner | None = None
    ) -> Future[WorkerResult]:
        """The same to this worker, whether or not it has room."""
        future: Future[WorkerResult] = Future()
        call = WorkerCall(stream, bool(stream), end, 1, "session", [self.list_of(*items)], [b""])
        call.owner = owner
        worker.submit([call], lambda results: future.set_result(results[0]))
        return future

    def call(self, group: WorkerGroup, *items: Any) -> BufferList:
        result = self.submit(group, *items).result(LIMIT_S)
        if result.error is not None:
            raise result.error
        return BufferList.from_core(result.outputs[0])
