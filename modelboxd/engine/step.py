"""A step: what the scheduler runs as one thing, with its turns and its order. Its input queues are in queues.py.

Life of a chunk: push() files it under its stream's Feed; when enough is there the step asks for a turn
(schedule); take() forms Work out of one or more feeds; execute() runs without the lock; complete() puts the
results back in each stream's order and hands them to the step's kind, which passes them on.
"""

from __future__ import annotations

import logging
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from modelbox.errors import InternalError, ModelBoxError, UnitError
from modelboxd.engine.batching import batching_of
from modelboxd.engine.feed import CoreList, Feed, Part, TwoValues, choose, copy_list
from modelboxd.engine.gather import Gather
from modelboxd.engine.kinds import Kind
from modelboxd.engine.nesting import kind_of
from modelboxd.engine.queues import MATCH_LIMIT, Queues
from modelboxd.engine.strict import strict_ports
from modelboxd.engine.work import StepStats, Work

if TYPE_CHECKING:
    from modelboxd.engine.batching import Batching
    from modelboxd.engine.job import Job
    from modelboxd.engine.session import Stream
    from modelboxd.graph import model
    from modelboxd.workers.health import GroupStatus

log = logging.getLogger(__name__)

SLOTS_LIMIT = 64  # parts of one stream that are taken and not yet passed on, at most
TURN_PARTS = 32  # parts of one turn, at most


class Step(Queues):
    """Base of all steps. Methods that begin with an underscore or say so expect the job's lock to be held."""

    inline = False  # runs on the thread that made it ready; else on the engine's pool

    def __init__(self, job: Job, index: int, nodes: list[model.Node]) -> None:
        super().__init__(job, nodes)
        self.index = index
        first, last = nodes[0], nodes[-1]
        self.name = first.name if first is last else f"{first.name}..{last.name}"
        self.batch_size = max(node.batch_size for node in nodes)
        self.visible = first.depth + 1 if first.sees_errors else 0  # see mb_lists_kind of the core
        self.out_depth = last.out_depth
        # ---- what is under way
        self.gathers: dict[Stream, Gather] = {}
        self.running = 0  # turns that have their work
        self.concurrency = 1
        self.slots_limit = SLOTS_LIMIT  # parts of one stream, running or waiting for an earlier one
        self.asked = False  # inline: stands in the job's queue
        # Smaller runs first: the job's priority, the node's, then nearness to a sink.
        self.priority = (job.priority * 16 + first.user_priority, -last.priority)
        self.stats = StepStats()
        self.about = {"job": job.name, "node": self.name}  # fields of log lines
        self.kind: Kind = kind_of(self)
        self.batching = batching_of(self, first)
        self.strict_outputs = strict_ports(last.name, self.output_ports, last.strict_outputs)

    # ---- life --------------------------------------------------------------------------------------

    def open(self) -> None:
        """Opens the units; raises ModelBoxError. No lock held."""

    def trouble(self) -> str:
        """Why work cannot go on here for now; "" when it can. [any thread]"""
        return ""

    def workers(self) -> GroupStatus | None:
        """The worker processes of a Python node; None for others. [any thread]"""
        return None

    def native_stats(self) -> list[Any]:
        """What the core has counted: an mb_node_stats per node of a native step. [any thread]"""
        return []

    def close(self) -> None:
        """Closes the units after the last run. No lock held."""

    def waits(self) -> bool:
        """Whether something here could run if there were room behind it."""
        return bool(self.ready) and self not in self.job.held

    def new_feed(self, stream: Stream) -> Feed:
        feed = self.feeds[stream] = Feed(self, stream, len(self.counts))
        stream.session.holders.add(feed)
        return feed

    def mark(self, feed: Feed) -> None:
        """Queues the feed for a turn when there is something to do for it."""
        if feed.ready:
            self.schedule()  # more data may be worth another turn
            return
        kind = self.kind
        if kind.serial and feed.busy:
            return
        if len(feed.slots) >= self.slots_limit:
            return  # _flush() asks again
        if not (feed.events or feed.rest):
            if feed.taken_end:
                return
            if len(feed.avail) > 1 and not feed.dead:
                lane = feed.mismatch()
                if lane is not None or max(feed.avail) >= MATCH_LIMIT:
                    self._fail_mismatch(feed, lane)
                    return
            if not (kind.amount(feed) or feed.at_end()):
                return
        feed.ready = True
        feed.marked = perf_counter_ns()
        self.ready.append(feed)
        self.schedule()

    # ---- turns -----------------------------------------------------------------------------------------

    def schedule(self) -> None:
        """Asks for as many turns as there is work and room for (lock held)."""
        if not self.ready or self.asked or self.turns >= self.concurrency or self.is_blocked():
            return
        if self.batching is not None and not self.batching.allowed() and not self.batching.has_empty():
            return
        if self.inline:
            self.asked = True
            self.job.inline.append(self)
            return
        wanted = min(self.concurrency, self.running + self._wanted())
        while self.turns < wanted:
            self.turns += 1
            self.job.active += 1
            self.job.executor.post(self.priority, self.turn)

    def _wanted(self) -> int:
        """How many turns what waits is worth."""
        if self.kind.calls or len(self.ready) >= self.concurrency:
            return len(self.ready)
        return max(len(self.ready), -(-min(self.counts) // self.batch_limit()))

    def batch_limit(self) -> int:
        """The most values of one turn (lock held)."""
        return self.batch_size

    def turn(self) -> None:
        """One turn on a pool thread."""
        job = self.job
        with job.lock:
            work = None if self.is_blocked() else self.take()
            if work is None:
                self.turns -= 1
                job.active -= 1
            else:
                self.running += 1
            self.schedule()
            job.idle_locked()
        if work is not None:
            self.run(work)
            with job.lock:
                self.turns -= 1
                self.running -= 1
                self.complete(work)
                job.active -= 1
                self.schedule()
                job.idle_locked()
        job.settle()

    def turn_inline(self, work: Work) -> None:
        """One turn of an inline step, work already taken. No lock held."""
        self.run(work)
        with self.job.lock:
            self.complete(work)
            self.job.active -= 1
            self.schedule()

    def run(self, work: Work) -> None:
        """execute(), with what fails turned into an error of the sessions concerned."""
        try:
            self.execute(work)
        except ModelBoxError as error:
            self.fail_parts(work.parts, error)
        except Exception as error:
            log.exception("step '%s' failed", self.name, extra=self.about)
            self.fail_parts(work.parts, InternalError(f"node '{self.name}': {type(error).__name__}: {error}"))

    def fail_parts(self, parts: list[Part], error: ModelBoxError) -> None:
        """Fails the sessions that the parts belong to. No lock held."""
        with self.job.lock:
            for part in parts:
                self.stats.errors += part.count or 1
                self.job.fail_locked(part.feed.stream.session, error)

    def execute(self, work: Work) -> None:
        """Runs the units and fills each part's results. No lock held."""
        raise NotImplementedError

    # ---- forming work (lock held) -------------------------------------------------------------------------

    def take(self) -> Work | None:
        """Work for one turn, or None when nothing is left to run."""
        self._now = perf_counter_ns()
        parts = self._take_parts() if self.kind.calls else self._take_batch()
        if self.relief and not self.ready:
            self.relief = 0
        for step in self.upstream:
            step.schedule()
        return self.begin(parts) if parts else None

    def begin(self, parts: list[Part]) -> Work:
        """The work of these parts, counted."""
        work = Work(parts, 0 if self.kind.calls else len(self.input_ports))
        work.started = self._now
        stats = self.stats
        stats.runs += 1
        stats.buffers_in += work.count
        stats.batch.add(work.count)
        # Of many parts the one in the middle stands for all.
        stats.queue.add(self._now - parts[len(parts) >> 1].marked)
        return work

    def _take_batch(self) -> list[Part]:
        if self.batching is not None:
            return self._take_whole(self.batching)
        limit = self.batch_limit()
        parts: list[Part] = []
        while self.ready and limit > 0:
            feed = self.ready.popleft()
            feed.ready = False
            part = self._take_part(feed, limit)
            if part is None:
                continue
            parts.append(part)
            limit -= part.count
            if feed.matched() and len(feed.slots) < self.slots_limit:
                feed.ready = True
                self.ready.append(feed)
        return parts

    def _take_whole(self, batching: Batching) -> list[Part]:
        """A batch as `batching` wants it; ends of streams do not wait for one."""
        for feed in [feed for feed in self.ready if not feed.matched()]:
            if feed.ready:  # else passing on another end has failed its session
                self.ready.remove(feed)
                feed.ready = False
                self._take_part(feed, 0)
        limit = batching.allowed()
        parts: list[Part] = []
        while self.ready and limit > 0:
            feed = self.ready.popleft()
            feed.ready = False
            part = self._take_part(feed, limit)
            if part is not None:
                parts.append(part)
                limit -= part.count
                batching.taken()
            if feed.matched() and len(feed.slots) < self.slots_limit:
                feed.ready = True
                self.ready.append(feed)
        return parts

    def _take_parts(self) -> list[Part]:
        """Parts of several feeds; threads share what is ready."""
        share = TURN_PARTS if self.inline else min(TURN_PARTS, -(-len(self.ready) // self.concurrency))
        parts: list[Part] = []
        while self.ready and len(parts) < share:
            feed = self.ready.popleft()
            feed.ready = False
            part = self._take_part(feed, self.batch_limit())
            if part is not None:
                parts.append(part)
                if not self.kind.serial:
                    self.mark(feed)
        return parts

    def _take_part(self, feed: Feed, limit: int) -> Part | None:
        """The feed's next part when it needs a run; an end without anything to do is passed on at once."""
        kind = self.kind
        if feed.events or feed.rest:
            feed.busy += 1
            part = kind.event_part(feed)
            part.marked, feed.marked = feed.marked, self._now
            return part
        count = kind.amount(feed)
        if not count and not feed.at_end():
            return None
        count = count if kind.whole else min(count, limit)
        part = feed.take(count)
        part.marked, feed.marked = feed.marked, self._now
        size = 0
        for lane, items in enumerate(part.inputs):
            self.counts[lane] -= count
            size += items.bytes
        self.bytes -= size
        self.job.bytes -= size
        part.bytes = size
        if self.lane_ports is not None and not self._meet(part):
            return None
        if count or (kind.serial and feed.opened):
            feed.busy += 1
            return part
        part.done = True
        kind.done(part)
        self._flush(feed)
        return None

    def _meet(self, part: Part) -> bool:
        """Joins the lanes of ports where branches meet. False when the session failed of it."""
        assert self.lane_ports is not None
        inputs = part.inputs
        try:
            part.inputs = [
                inputs[lanes[0]] if len(lanes) == 1 else choose([inputs[lane] for lane in lanes])
                for lanes in self.lane_ports
            ]
        except TwoValues as error:
            at = part.first + error.args[0]
            text = f"node '{self.nodes[0].name}': two of the branches that meet have a value at position {at}"
            part.done = True
            self.job.fail_locked(part.feed.stream.session, UnitError(text))
            self._flush(part.feed)
            return False
        return True

    # ---- results (lock held) ----------------------------------------------------------------------------------

    def complete(self, work: Work) -> None:
        """The parts have run."""
        elapsed = perf_counter_ns() - work.started
        self.stats.compute.add(elapsed)
        for part in work.parts:
            part.done = True
            feed = part.feed
            feed.busy -= 1
            self.kind.done(part)
            if feed.account is not None:
                share = elapsed * part.count // work.count if work.count else elapsed // len(work.parts)
                feed.account.ran(self.name, part.count, share, part.bytes)
            if feed.dead:
                self._abandon(feed)  # also calls that were made and whose results nobody has taken
            elif feed.events:
                self.mark(feed)
        for part in work.parts:
            self._flush(part.feed)

    def _flush(self, feed: Feed) -> None:
        """Passes finished parts on, in order, and closes the feed when all is over."""
        full = len(feed.slots) >= self.slots_limit
        while feed.slots and feed.slots[0].done:
            part = feed.slots.popleft()
            if not feed.stream.session.dead:
                self.kind.deliver(part)
        if feed.slots or feed.busy or self.feeds.get(feed.stream) is not feed:
            if full and not feed.dead and self.feeds.get(feed.stream) is feed:
                self.mark(feed)  # perhaps there is room again for results that wait for an earlier one
            return  # not over yet, or closed meanwhile because passing on failed the session
        if feed.dead:
            if not self._tell_end(feed):
                self._close(feed)
        elif feed.taken_end and self.kind.is_over(feed):
            self.kind.close(feed)
            self._close(feed)
        else:
            self.mark(feed)

    def emit(self, stream: Stream, outputs: list[CoreList] | None, end: bool, metas: list[bytes] | None) -> None:
        """Sends values of `stream` out of all ports; `metas`: with the first values."""
        for port in range(len(self.targets)):
            items = outputs[port] if outputs is not None else None
            self.emit_port(port, stream, items, end, metas[port] if metas is not None else b"")

    def emit_port(self, port: int, stream: Stream, items: CoreList | None, end: bool, meta: bytes) -> None:
        """Sends values of `stream` out of one port."""
        targets = self.targets[port]
        if items is not None:
            self.stats.buffers_out += items.count
            if not (items.count or end or meta):
                return
            if self.strict_outputs is not None and self._fail_misfit(self.strict_outputs[port], stream, items):
                return
        elif not (end or meta):
            return
        last = len(targets) - 1
        for number, (step, lane) in enumerate(targets):
            own = items if number == last or items is None else copy_list(items)
            step.push(stream, lane, own, end, meta)

    def gather(self, stream: Stream, metas: list[bytes]) -> Gather:
        """Where results for `stream` are put in order; `metas`: what the stream has where they begin."""
        return self.gathers.get(stream) or Gather(self, stream, metas)

    def _close(self, feed: Feed) -> None:
        if feed.ready:
            feed.ready = False
            self.ready.remove(feed)
        if self.feeds.pop(feed.stream, None) is not None:
            feed.stream.session.release(feed)

    # ---- failed sessions (lock held) ---------------------------------------------------------------------------

    def drop(self, feed: Feed) -> None:
        """The feed's session failed: throws away what waits, lets what runs finish unseen."""
        size = feed.waiting_bytes()
        self.bytes -= size
        self.job.bytes -= size
        for lane, count in enumerate(feed.forget()):
            self.counts[lane] -= count
            self.stats.dropped += count
        feed.dead = True
        self._abandon(feed)
        if not feed.busy and not feed.slots and not self._tell_end(feed):
            self._close(feed)
        for step in self.upstream:
            step.schedule()

    def _tell_end(self, feed: Feed) -> bool:
        """The stream of a failed session ends for its unit too, once. True when a turn is asked for that."""
        if not (self.kind.serial and feed.opened) or (feed.taken_end and not feed.ending):
            return False
        feed.taken_end = feed.ending = False
        self.mark(feed)
        return True

    def _abandon(self, feed: Feed) -> None:
        """Contexts with events of a failed session: nobody will call them again."""
        while feed.events:
            context = feed.events.popleft()
            if context is not feed:
                self.abandon(context)
        feed.rest = []

    def abandon(self, context: Stream) -> None:
        """Frees what the backend keeps for an expand call that will not go on."""
