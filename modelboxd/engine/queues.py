"""The input queues of a step: what waits there, how much may, and what streams must not do.

A step takes no turn while one of its targets is full, so pressure travels back to the sources and no thread ever
blocks on a queue. Where that would leave a job with nothing to do, relieve() lets queues grow (see Job.idle_locked).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from modelbox.errors import UnitError
from modelboxd.engine.feed import CoreList, Feed
from modelboxd.engine.meta import merge_metas
from modelboxd.engine.strict import Strict, strict_ports

if TYPE_CHECKING:
    from modelboxd.engine.batching import Batching
    from modelboxd.engine.job import Job
    from modelboxd.engine.session import Stream
    from modelboxd.engine.step import Step
    from modelboxd.graph import model

MATCH_LIMIT = 16384  # values that one port of a joining node may run ahead of the others
HELD_LIMIT = 1024  # results that wait for an earlier one, before an expand node stops


class Queues:
    """Base of Step. Methods expect the job's lock to be held."""

    def __init__(self, job: Job, nodes: list[model.Node]) -> None:
        self.job = job
        self.nodes = nodes
        first, last = nodes[0], nodes[-1]
        self.input_ports = [port.name for port in first.unit.inputs]
        self.output_ports = [port.name for port in last.unit.outputs]
        # ---- lanes: one per edge into an input port
        self.lanes: list[int] = []  # port of each lane
        for number, port in enumerate(self.input_ports):
            edges = 1 if first.unit.loop else max(len(first.sources.get(port, [])), 1)
            self.lanes += [number] * edges
        self.lane_ports: list[list[int]] | None = None  # lanes of each port, where a port has several
        if len(self.lanes) > len(self.input_ports):
            self.lane_ports = [
                [lane for lane, port in enumerate(self.lanes) if port == number]
                for number in range(len(self.input_ports))
            ]
        self.capacity = [first.queue_sizes[self.input_ports[port]] for port in self.lanes]
        self.capacity_bytes = first.queue_bytes
        self.counts = [0] * len(self.lanes)  # values waiting, per lane, all streams
        self.bytes = 0  # their data
        self.relief = 0  # how far queues may exceed their capacity now
        self._now = 0  # perf_counter_ns() of the present take()
        # ---- neighbours
        # (step, lane) per port; lane -1: the edge back into a loop, which always has room
        self.targets: list[list[tuple[Step, int]]] = [[] for _ in self.output_ports]
        self.upstream: list[Step] = []
        self.partners: list[Step] = []  # expand: the collapse steps that close it
        self.feeds: dict[Stream, Feed] = {}
        self.ready: deque[Feed] = deque()
        self.turns = 0  # asked for and not yet over
        self.held = 0  # results that wait for an earlier one
        self.held_limit = HELD_LIMIT
        self.batching: Batching | None = None  # where batches wait to be full
        self.strict_inputs = strict_ports(first.name, self.input_ports, first.strict_inputs)

    def new_feed(self, stream: Stream) -> Feed:
        """Where what comes of a stream is kept from now on."""
        raise NotImplementedError

    def mark(self, feed: Feed) -> None:
        """Something has changed for the feed: asks for a turn when there is something to do for it."""
        raise NotImplementedError

    # ---- input (lock held) ---------------------------------------------------------------------------

    def push(self, stream: Stream, lane: int, items: CoreList | None, end: bool, meta: bytes = b"") -> None:
        """Takes over a list of values of `stream` for input `lane`; `end` closes the stream on that lane."""
        session = stream.session
        if session.dead:
            return
        lane = max(lane, 0)
        rules = self.strict_inputs
        if rules is not None and items is not None and self._fail_misfit(rules[self.lanes[lane]], stream, items):
            return
        feed = self.feeds.get(stream)
        if feed is None:
            feed = self.new_feed(stream)
        if items is not None and items.count:
            count, size = items.count, items.bytes
            if self.batching is not None and not feed.matched():
                feed.since = self.job.clock.now()
            feed.queues[lane].append(items)
            feed.avail[lane] += count
            self.counts[lane] += count
            self.bytes += size
            self.job.bytes += size
            if feed.account is not None:
                feed.account.arrived(size)
        if meta:
            feed.metas[lane] = merge_metas([meta, feed.metas[lane]])
            feed.meta_news = True
        if end:
            feed.ended[lane] = True
        self.mark(feed)

    def has_room(self, lane: int) -> bool:
        """Whether the queue of `lane` takes more."""
        if self.counts[lane] >= self.capacity[lane] + self.relief:
            return False
        return not self.capacity_bytes or self.bytes < self.capacity_bytes or self.relief > 0

    def is_blocked(self) -> bool:
        """Whether a target is full."""
        for targets in self.targets:
            for step, lane in targets:
                full = step.counts[lane] >= step.capacity[lane] or step.capacity_bytes
                if full and lane >= 0 and not step.has_room(lane):
                    return True
        if self.partners:
            return any(partner.held >= partner.held_limit for partner in self.partners)
        return False

    def queued(self) -> tuple[int, int]:
        """Values that wait in front of it, and their bytes. [any thread]"""
        return max(self.counts, default=0), self.bytes

    def relieve(self) -> bool:
        """Lets full queues grow where the step cannot run with what it has. True when something changed."""
        if self.ready or self.turns:
            return False
        full = any(not self.has_room(lane) for lane in range(len(self.counts)))
        if full:
            over = max(count - limit for count, limit in zip(self.counts, self.capacity, strict=True))
            self.relief = max(2 * self.relief, over + max(self.capacity))
        if self.held >= self.held_limit:
            self.held_limit *= 2
            full = True
        return full

    def _fail_mismatch(self, feed: Feed, lane: int | None) -> None:
        node = self.nodes[0].name
        if lane is None:
            ahead = self.input_ports[self.lanes[feed.avail.index(max(feed.avail))]]
            text = f"port {ahead} is {MATCH_LIMIT} buffers ahead of the other input ports"
        else:
            port = self.input_ports[self.lanes[lane]]
            text = f"port {port} missmatch, still has data when other port received end"
        self.job.fail_locked(feed.stream.session, UnitError(f"node '{node}': {text}"))

    def _fail_misfit(self, rule: Strict | None, stream: Stream, items: CoreList) -> bool:
        """Whether values are not what a strict port takes; their session has then failed."""
        misfit = rule.misfit(items) if rule is not None else None
        if misfit is not None:
            self.job.fail_locked(stream.session, misfit)
        return misfit is not None
