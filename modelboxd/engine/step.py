"""A step: what the scheduler runs as one thing, with its input queues, its order and its back-pressure.

Life of a chunk: push() files it under its stream's Feed; when enough is there the step asks for a turn
(schedule); take() forms Work out of one or more feeds; execute() runs without the lock; complete() puts the
results back in each stream's order and pushes them on. A step takes no turn while one of its targets is full,
so pressure travels back to the sources and no thread ever blocks on a queue.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING

from modelbox.errors import InternalError, ModelBoxError, UnitError
from modelboxd.engine.feed import CoreList, Feed, Part, concat, copy_list, take_list
from modelboxd.engine.meta import merge_metas

if TYPE_CHECKING:
    from modelboxd.engine.job import Job
    from modelboxd.engine.session import Stream
    from modelboxd.graph import model

log = logging.getLogger(__name__)

MATCH_LIMIT = 16384  # buffers that one port of a joining node may run ahead of the others


class Work:
    """What one turn of a step runs: parts of one or more streams, their inputs joined per port."""

    __slots__ = ("count", "inputs", "parts", "worker")

    def __init__(self, parts: list[Part], ports: int) -> None:
        self.parts = parts
        self.count = sum(part.count for part in parts)
        self.worker: object = None
        if len(parts) == 1:
            self.inputs = parts[0].inputs
        else:
            self.inputs = [concat([part.inputs[port] for part in parts]) for port in range(ports)]

    def give(self, outputs: list[CoreList]) -> None:
        """Deals the outputs of a NORMAL run out to the parts; as many per port as came in."""
        if len(self.parts) == 1:
            self.parts[0].outputs = outputs
            return
        for part in self.parts:
            part.outputs = [take_list(items, part.count) for items in outputs]


class StepStats:
    """Counters of one step since the start of its job."""

    __slots__ = ("buffers_in", "buffers_out", "dropped", "errors", "runs")

    def __init__(self) -> None:
        self.runs = 0
        self.buffers_in = 0
        self.buffers_out = 0
        self.errors = 0
        self.dropped = 0


class Step:
    """Base of all steps. Methods that begin with an underscore or say so expect the job's lock to be held."""

    inline = False  # runs on the thread that made it ready; else on the engine's pool

    def __init__(self, job: Job, index: int, nodes: list[model.Node]) -> None:
        self.job = job
        self.index = index
        self.nodes = nodes
        first, last = nodes[0], nodes[-1]
        self.name = first.name if first is last else f"{first.name}..{last.name}"
        self.stream_order = first.is_stream
        self.input_ports = [port.name for port in first.unit.inputs]
        self.output_ports = [port.name for port in last.unit.outputs]
        self.capacity = [first.queue_sizes[port] for port in self.input_ports]
        self.batch_size = max(node.batch_size for node in nodes)
        self.counts = [0] * len(self.input_ports)  # buffers waiting, per port, all streams
        self.bytes = 0  # their data
        self.targets: list[list[tuple[Step, int]]] = [[] for _ in self.output_ports]
        self.upstream: list[Step] = []
        self.feeds: dict[Stream, Feed] = {}
        self.ready: deque[Feed] = deque()
        self.turns = 0  # asked for and not yet over
        self.concurrency = 1
        self.asked = False  # inline: stands in the job's queue
        # Smaller runs first: the user's priority, then nearness to a sink.
        self.priority = (first.user_priority, -last.priority)
        self.stats = StepStats()

    # ---- life --------------------------------------------------------------------------------------

    def open(self) -> None:
        """Opens the units; raises ModelBoxError. No lock held."""

    def close(self) -> None:
        """Closes the units after the last run. No lock held."""

    # ---- input (lock held) ---------------------------------------------------------------------------

    def push(self, stream: Stream, port: int, items: CoreList | None, end: bool, meta: bytes = b"") -> None:
        """Takes over a list of buffers of `stream` for input `port`; `end` closes the stream on that port."""
        session = stream.session
        if session.dead:
            return
        feed = self.feeds.get(stream)
        if feed is None:
            feed = self.feeds[stream] = Feed(stream, len(self.counts))
            session.feeds.add(feed)
            session.live += 1
            self.job.owners[feed] = self
        if items is not None and items.count:
            count = items.count
            feed.queues[port].append(items)
            feed.avail[port] += count
            self.counts[port] += count
            self.bytes += items.bytes
        if meta:
            feed.metas[port] = meta
        if end:
            feed.ended[port] = True
        self._mark(feed)

    def has_room(self, port: int) -> bool:
        """Whether the queue of `port` takes more. A port may run ahead while another one starves, since only
        that lets a joining node go on."""
        if self.counts[port] < self.capacity[port]:
            return True
        return len(self.counts) > 1 and self.counts[port] < MATCH_LIMIT and min(self.counts) == 0

    def is_blocked(self) -> bool:
        """Whether a target is full."""
        for targets in self.targets:
            for step, port in targets:
                if step.counts[port] >= step.capacity[port] and not step.has_room(port):
                    return True
        return False

    def _mark(self, feed: Feed) -> None:
        """Queues the feed for a turn when there is something to do for it."""
        if feed.ready:
            self.schedule()  # more data may be worth another turn
            return
        if feed.taken_end:
            return
        if len(feed.avail) > 1 and not feed.dead:
            port = feed.mismatch()
            if port is not None or max(feed.avail) >= MATCH_LIMIT:
                self._fail_mismatch(feed, port)
                return
        if self.stream_order and feed.busy:
            return
        if feed.matched() or feed.at_end():
            feed.ready = True
            self.ready.append(feed)
            self.schedule()

    def _fail_mismatch(self, feed: Feed, port: int | None) -> None:
        node = self.nodes[0].name
        if port is None:
            ahead = self.input_ports[feed.avail.index(max(feed.avail))]
            text = f"port {ahead} is {MATCH_LIMIT} buffers ahead of the other input ports"
        else:
            text = f"port {self.input_ports[port]} missmatch, still has data when other port received end"
        self.job.fail_locked(feed.stream.session, UnitError(f"node '{node}': {text}"))

    # ---- turns -----------------------------------------------------------------------------------------

    def schedule(self) -> None:
        """Asks for as many turns as there is work and room for (lock held)."""
        if not self.ready or self.asked or self.turns >= self.concurrency or self.is_blocked():
            return
        if self.inline:
            self.asked = True
            self.job.inline.append(self)
            return
        wanted = min(self.concurrency, self._wanted())
        while self.turns < wanted:
            self.turns += 1
            self.job.executor.post(self.priority, self.turn)

    def _wanted(self) -> int:
        """How many turns could run beside one another now."""
        if self.stream_order or len(self.ready) >= self.concurrency:
            return len(self.ready)
        return max(len(self.ready), -(-min(self.counts) // self.batch_limit()))

    def batch_limit(self) -> int:
        """The most buffers of one turn (lock held)."""
        return self.batch_size

    def turn(self) -> None:
        """One turn on a pool thread."""
        job = self.job
        with job.lock:
            work = None if self.is_blocked() else self.take()
            if work is None:
                self.turns -= 1
            self.schedule()
        if work is not None:
            self.run(work)
            with job.lock:
                self.turns -= 1
                self.complete(work)
                self.schedule()
        job.settle()

    def turn_inline(self, work: Work) -> None:
        """One turn of an inline step, work already taken. No lock held."""
        self.run(work)
        with self.job.lock:
            self.complete(work)
            self.schedule()

    def run(self, work: Work) -> None:
        """execute(), with a bug of ours turned into an error of the sessions concerned."""
        try:
            self.execute(work)
        except ModelBoxError as error:
            self._fail_work(work, error)
        except Exception as error:
            log.exception("step '%s' failed", self.name)
            self._fail_work(work, InternalError(f"node '{self.name}': {type(error).__name__}: {error}"))

    def _fail_work(self, work: Work, error: ModelBoxError) -> None:
        with self.job.lock:
            for part in work.parts:
                self.job.fail_locked(part.feed.stream.session, error)

    def execute(self, work: Work) -> None:
        """Runs the units over work.inputs and fills each part's outputs. No lock held."""
        raise NotImplementedError

    # ---- forming work (lock held) -------------------------------------------------------------------------

    def take(self) -> Work | None:
        """Work for one turn, or None when nothing is left to run."""
        parts = self._take_stream() if self.stream_order else self._take_batch()
        for step in self.upstream:
            step.schedule()
        if not parts:
            return None
        work = Work(parts, len(self.counts))
        self.stats.runs += 1
        self.stats.buffers_in += work.count
        return work

    def _take_batch(self) -> list[Part]:
        limit = self.batch_limit()
        parts: list[Part] = []
        while self.ready and limit > 0:
            feed = self.ready.popleft()
            feed.ready = False
            part = self._take_part(feed, min(feed.matched(), limit))
            if part is None:
                continue
            parts.append(part)
            limit -= part.count
            if feed.matched():
                feed.ready = True
                self.ready.append(feed)
        return parts

    def _take_stream(self) -> list[Part]:
        while self.ready:
            feed = self.ready.popleft()
            feed.ready = False
            part = self._take_part(feed, min(feed.matched(), self.batch_limit()))
            if part is not None:
                return [part]
        return []

    def _take_part(self, feed: Feed, count: int) -> Part | None:
        """The feed's next part when it needs a run; an end without data is passed on at once."""
        if not count and not feed.at_end():
            return None
        part = feed.take(count)
        for port, items in enumerate(part.inputs):
            self.counts[port] -= count
            self.bytes -= items.bytes
        if count or (self.stream_order and not part.begin):
            feed.busy += 1
            return part
        part.done = True
        self._flush(feed)
        return None

    # ---- results (lock held) ----------------------------------------------------------------------------------

    def complete(self, work: Work) -> None:
        for part in work.parts:
            part.done = True
            part.feed.busy -= 1
        for part in work.parts:
            self._flush(part.feed)

    def _flush(self, feed: Feed) -> None:
        """Passes finished parts on, in order, and closes the feed behind its last one."""
        closed = False
        while feed.slots and feed.slots[0].done:
            part = feed.slots.popleft()
            closed = closed or part.end
            if not feed.stream.session.dead:
                self._pass_on(part)
        if feed.slots or feed.busy or self.feeds.get(feed.stream) is not feed:
            return  # not over yet, or closed meanwhile because passing on failed the session
        if closed or (feed.dead and not (self.stream_order and feed.begun)):
            self._close(feed)
        else:
            self._mark(feed)

    def _pass_on(self, part: Part) -> None:
        stream = part.feed.stream
        inherited = merge_metas(part.feed.metas) if part.begin else b""
        for port, targets in enumerate(self.targets):
            items = part.outputs[port] if part.outputs is not None else None
            if items is not None:
                self.stats.buffers_out += items.count
            meta = inherited
            if part.begin and part.metas is not None and part.metas[port]:
                meta = merge_metas([part.metas[port], inherited])
            if not (part.end or meta or (items is not None and items.count)):
                continue
            last = len(targets) - 1
            for number, (step, target_port) in enumerate(targets):
                own = items if number == last or items is None else copy_list(items)
                step.push(stream, target_port, own, part.end, meta)

    def _close(self, feed: Feed) -> None:
        if self.feeds.pop(feed.stream, None) is None:
            return
        self.job.owners.pop(feed, None)
        session = feed.stream.session
        session.feeds.discard(feed)
        session.live -= 1
        if not session.live:
            self.job.end_locked(session)

    def drop(self, feed: Feed) -> None:
        """The feed's session failed: throws away what waits, lets what runs finish unseen."""
        self.bytes -= feed.waiting_bytes()
        for port, count in enumerate(feed.drop()):
            self.counts[port] -= count
            self.stats.dropped += count
        feed.dead = True
        if not feed.busy and not feed.slots:
            if self.stream_order and feed.begun:
                self._mark(feed)
            elif feed.ready:
                feed.ready = False
                self.ready.remove(feed)
                self._close(feed)
            else:
                self._close(feed)
        for step in self.upstream:
            step.schedule()
