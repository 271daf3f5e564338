"""Batches that wait a little to become fuller: max_queue_delay_us and preferred_batch_sizes of a NORMAL node.

A batch goes when it is full, or of a preferred size, or when its oldest value has waited for the node's delay, or when
nobody can add to it: everything that is under way in the job is waiting here, or has passed already. Nothing polls:
what may change the answer asks again (a value comes, a session lets go of something, the job has nothing else to do),
and one timer per node stands for the delay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelboxd.engine.feed import Feed
from modelboxd.engine.gather import Gather

if TYPE_CHECKING:
    from modelboxd.engine.session import Session
    from modelboxd.engine.step import Step
    from modelboxd.graph import model


def batching_of(step: Step, node: model.Node) -> Batching | None:
    """What decides about the batches of a step; None: it takes what is there."""
    if step.kind.calls or not (node.max_queue_delay_us or node.preferred_batch_sizes):
        return None
    return Batching(step, node)


class Batching:
    """When a step may take a batch, and of what size. Guarded by the job's lock."""

    def __init__(self, step: Step, node: model.Node) -> None:
        self.step = step
        self.size = node.batch_size
        self.delay_s = node.max_queue_delay_us / 1e6
        self.preferred = node.preferred_batch_sizes
        self._before: set[Step] | None = None  # steps from which values can come here
        self._armed = False  # the timer runs
        self._now = 0.0  # a moment that has passed, as the timer said
        self._hurried = False  # the next batch goes as it is

    def allowed(self) -> int:
        """The most values that may be taken now; 0: they wait."""
        step = self.step
        there = self._there()
        if there >= self.size:
            most = max(step.batch_limit(), self.size)
            return min(there, most) // self.size * self.size
        fits = [size for size in self.preferred if size <= there]
        if fits:
            return fits[-1]
        if not there or self._hurried or not self._waits():
            step.job.held.discard(step)
            return there
        step.job.held.add(step)
        return 0

    def has_empty(self) -> bool:
        """Whether a stream only has its end waiting, which is no part of a batch."""
        return any(not feed.matched() for feed in self.step.ready)

    def hurry(self) -> None:
        """Nothing else can run before this batch has: it goes as it is."""
        self._hurried = True
        self.step.schedule()

    def taken(self) -> None:
        """A batch was taken."""
        self._hurried = False
        self.step.job.held.discard(self.step)

    def _there(self) -> int:
        counts = self.step.counts
        return counts[0] if len(counts) == 1 else sum(feed.matched() for feed in self.step.ready)

    def _waits(self) -> bool:
        """Whether a batch that is not full waits; the timer runs then."""
        if not self.delay_s:
            return False
        step = self.step
        if not all(step.has_room(lane) for lane in range(len(step.counts))):
            return False  # no more can come
        clock = step.job.clock
        due = min(feed.since for feed in step.ready if feed.matched()) + self.delay_s
        if max(clock.now(), self._now) >= due or not self._may_grow():
            return False
        if not self._armed:
            self._armed = True
            clock.call_at(due, self._rings, due)
        return True

    def _rings(self, due: float) -> None:
        """The timer; loops round to milliseconds, so it may ring a moment early. No lock held."""
        job = self.step.job
        with job.lock:
            self._armed = False
            self._now = due
            self.step.schedule()
            job.idle_locked()
        job.settle()

    # ---- who could contribute ------------------------------------------------------------------------------

    def _may_grow(self) -> bool:
        """Whether a session that is under way could still bring a value here."""
        if self._before is None:
            self._before = steps_before(self.step)
        sessions = self.step.job.sessions
        several = len(sessions) > 1
        return any(self._may_bring(session, several) for session in sessions)

    def _may_bring(self, session: Session, several: bool) -> bool:
        before, step = self._before or set(), self.step
        for holder in session.holders:
            if holder.step not in before:
                continue
            if isinstance(holder, Gather):
                continue  # what it waits for is under way in some feed
            if not isinstance(holder, Feed):
                if several:  # it is open; if it is alone, it may well send nothing before it has its answer
                    return True
            elif holder.busy or holder.slots or (holder.step is not step and holder.has_work()):
                return True
        return False


def steps_before(step: Step) -> set[Step]:
    """All steps from which values can come to `step`; itself among them when it is in a loop."""
    found: set[Step] = set()
    todo = list(step.upstream)
    while todo:
        other = todo.pop()
        if other not in found:
            found.add(other)
            todo += other.upstream
    return found
