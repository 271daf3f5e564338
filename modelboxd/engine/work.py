"""What one turn of a step runs, and what is counted of turns."""

from __future__ import annotations

from modelboxd.engine.feed import CoreList, Part, concat, take_list
from modelboxd.engine.histogram import Histogram


class Work:
    """What one turn of a step runs: parts of one or more streams. Units without contexts get their inputs joined."""

    __slots__ = ("count", "inputs", "parts", "started", "worker")

    def __init__(self, parts: list[Part], ports: int) -> None:
        self.parts = parts
        self.count = sum(part.count for part in parts)
        self.worker: object = None
        self.started = 0  # perf_counter_ns()
        if len(parts) == 1:
            self.inputs = parts[0].inputs
        elif ports:
            self.inputs = [concat([part.inputs[port] for part in parts]) for port in range(ports)]
        else:
            self.inputs = []

    def give(self, outputs: list[CoreList]) -> None:
        """Deals the outputs of a NORMAL run out to the parts; as many per port as came in."""
        if len(self.parts) == 1:
            self.parts[0].outputs = outputs
            return
        for part in self.parts:
            part.outputs = [take_list(items, part.count) for items in outputs]


class StepStats:
    """Counters of one step since the start of its job; times in nanoseconds."""

    __slots__ = ("batch", "buffers_in", "buffers_out", "compute", "copy", "dropped", "errors", "queue", "runs")

    def __init__(self) -> None:
        self.runs = 0
        self.buffers_in = 0
        self.buffers_out = 0
        self.errors = 0  # error buffers made here, and values of sessions that failed here
        self.dropped = 0
        self.queue = Histogram()  # from being ready until a turn takes it; one value of each turn
        self.compute = Histogram()  # of each turn; of a message to a worker: until its answer is here
        self.copy = Histogram()  # packing and sending a message to a worker
        self.batch = Histogram()  # values of each turn
