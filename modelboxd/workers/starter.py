"""Starts the worker processes of one node: what each is told, in its environment and in its OPEN message."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from modelbox.errors import ModelBoxError, UnitError
from modelbox.spec import FlowType, UnitSpec
from modelboxd.cpus import cpu_count
from modelboxd.graph.life import Life
from modelboxd.workers import environment, spin
from modelboxd.workers.process import ROOM_HINT, Worker

if TYPE_CHECKING:
    from modelboxd.workers.pool import WorkerPool

log = logging.getLogger(__name__)

IDLE_S = 30.0  # a worker that has heard nothing for so long after work gives back the memory that it keeps for more


class Starter:
    """One per node. The unit and its configuration may be others for later workers (`use`)."""

    def __init__(
        self,
        pool: WorkerPool,
        unit: UnitSpec,
        node: str,
        config: dict[str, str],
        life: Life,
        count: int,
        open_timeout_s: float,
        room: tuple[int, int],
        device_ids: Sequence[str],
    ) -> None:
        """`count`: workers of the node; `room`: of a source, lists and bytes that may wait."""
        self._pool = pool
        self._unit = unit
        self._node = node
        self._config = config
        self._life = life
        self._count = count
        self._open_timeout_s = open_timeout_s
        self._room = room
        self._device_ids = device_ids

    def use(self, unit: UnitSpec, config: dict[str, str]) -> None:
        """For all that are started from now on."""
        self._unit, self._config = unit, config

    def start(self, worker: Worker) -> None:
        """Has the process started; may wait for the master, so not on the I/O thread. Raises UnitError."""
        try:
            self._start(worker)
        except (OSError, RuntimeError) as error:  # no descriptors, no threads
            raise UnitError(f"no process can be started: {error}", hint=ROOM_HINT) from None

    def _start(self, worker: Worker) -> None:
        try:
            env = environment.of_worker(
                self._unit, worker.number, cpus=cpu_count(), workers=self._count, device_ids=self._device_ids
            )
        except UnitError as error:
            raise UnitError(f"node '{self._node}': {error.message}", hint=error.hint) from None
        self._pool.spawn(worker, self._order(worker), f"modelbox: python-worker {worker.name}", env)

    def start_apart(self, worker: Worker) -> None:
        """The same on a thread of its own, with a time limit; a worker that cannot be started is lost. I/O thread."""
        worker.later(self._open_timeout_s, self._check_open)
        try:
            threading.Thread(target=self._start_or_abandon, args=(worker,), name="mb-respawn", daemon=True).start()
        except RuntimeError as error:
            self._pool.io.loop.call_soon(worker.abandon, f"no thread can be started: {error} ({ROOM_HINT})")

    def _start_or_abandon(self, worker: Worker) -> None:
        try:
            self.start(worker)
        except ModelBoxError as error:
            log.error("node '%s': cannot start a worker: %s", self._node, error, extra=worker.output.about)
            self._pool.io.call(worker.abandon, str(error))

    def _check_open(self, worker: Worker) -> None:
        if worker.alive and not worker.ready:
            worker.condemn(f"did not open within {self._open_timeout_s:g} s ([python] open_timeout)")

    def _order(self, worker: Worker) -> bytes:
        """The body of its OPEN message."""
        unit = self._unit
        workers = max(self._count, self._pool.count() + 1)
        order = {
            "node": self._node,
            "unit": unit.name,
            "device": unit.device,
            "toml": unit.path,
            "entry": unit.entry,
            "config": self._config,
            "inputs": [port.name for port in unit.inputs],
            "outputs": [port.name for port in unit.outputs],
            "role": unit.role if unit.inputs else "source",
            "framed": unit.flow_type is FlowType.STREAM or unit.collapse,
            "room": self._room,
            "idle_s": IDLE_S,
            "spin_us": spin.microseconds(self._life.spin_us, cpus=cpu_count(), workers=workers),
            "reload": self._life.reload,
            "trial": worker.trial,
        }
        return json.dumps(order).encode()
