"""Workers that are replaced while they live: worn ones (recycling), those of a unit whose files have changed (reload).

The heir of a worker is started beside it and takes its place when it is ready; the old one finishes its streams and is
told to stop, which fails those that have not ended in time. A source has no heir, since two of them would both produce:
there a trial shows that changed files can be loaded, then the old worker ends before the new one starts. Runs on the
I/O thread where it does not say otherwise.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from modelbox.errors import ModelBoxError
from modelbox.spec import UnitSpec
from modelboxd.workers.place import Place
from modelboxd.workers.process import Worker
from modelboxd.workers.reload import Watcher
from modelboxd.workers.supervision import LAST_DELAY_S, Breaker

if TYPE_CHECKING:
    from modelboxd.workers.group import WorkerGroup

log = logging.getLogger(__name__)

RETRY_DELAY_S = 0.5  # when a worker could not be started at all, as while the python-master is being replaced
CLOSE_LIMIT_S = 10.0  # how long a recycled worker may take to close its unit
MOST_OLD = 8  # replaced workers of a place that finish their streams; changed files wait for the end of one then

Reread = Callable[[], tuple[UnitSpec, dict[str, str]]]


class Succession:
    """Of one group."""

    def __init__(self, group: WorkerGroup, *, is_source: bool, reread: Reread | None, retire_s: float) -> None:
        """`reread()` gives unit and configuration anew when files have changed; it may raise ModelBoxError.
        `retire_s`: how long a replaced worker goes on for its streams, 0 = until they end."""
        self.recycled = 0
        self._group = group
        self._is_source = is_source
        self._reread = reread
        self._retire_s = retire_s
        self._watcher: Watcher | None = None
        self._version = 0  # of the unit's files: how often they have changed
        self._opened_version = 0  # that a worker has opened
        self._refused_version = -1  # that one could not

    def watch(self, toml: str) -> None:
        """From now on changes of the unit's files count."""
        self._watcher = Watcher(os.path.dirname(toml), self._files_changed)

    def close(self) -> None:
        """Nobody is replaced any more. [any thread]"""
        if self._watcher is not None:
            self._watcher.close()

    def made(self, worker: Worker, *, as_heir: bool) -> None:
        """A worker of the group is about to be started."""
        worker.version = self._version
        worker.trial = as_heir and self._is_source

    def ready(self, place: Place, worker: Worker) -> None:
        """A worker has opened its unit."""
        if worker.version == self._version:
            self._opened_version = self._version
        if worker is place.heir and worker.trial:
            self._tried(place, worker)
        elif worker is place.heir:
            self._inherit(place, worker)
        self.renew()

    def lost(self, place: Place, worker: Worker, cause: str) -> bool:
        """A worker is lost. Whether that was due to its replacement, and says nothing about the unit."""
        if worker in place.old or (worker is place.worker and worker.ending):
            self._lost_old(place, worker, cause)
            return True
        heir_of = place.worker if worker is place.heir else None
        if heir_of is not None and heir_of.alive and heir_of.version != worker.version:
            self._lost_newer(place, worker, cause)
            return True
        return False

    # ---- worn workers -----------------------------------------------------------------------------------------

    def worn(self, worker: Worker, reason: str) -> None:
        """A worker should be replaced; it says so again and again."""
        group = self._group
        place = group.places[worker.number]
        if not group.is_open() or worker is not place.worker or worker.ending:
            return
        if place.heir is not None or place.old or group.supervision.breaker is not Breaker.CLOSED:
            return
        if group.loop.time() < place.not_before:
            return
        text = "python worker %s (pid %d) %s: it is replaced"
        log.info(text, worker.name, worker.pid, reason, extra=worker.output.about)
        if self._is_source:
            self._end(worker)
        else:
            group.begin(place, as_heir=True)

    def _inherit(self, place: Place, heir: Worker) -> None:
        """The heir is ready: new work goes to it, the old one finishes its streams."""
        old, place.heir = place.worker, None
        self._group.put(place, heir)
        self.recycled += 1
        if old is not None and old.alive:
            old.heir = heir
            place.old.append(old)
            self._end_drained(old)
            if self._retire_s and not old.ending:
                old.later(self._retire_s, self._retire)

    def end_drained(self) -> None:
        """Old workers that have nothing to do any more may go."""
        for place in self._group.places:
            for old in place.old:
                self._end_drained(old)

    def _end_drained(self, old: Worker) -> None:
        if old.is_drained() and not old.ending:
            self._end(old)

    def _retire(self, old: Worker) -> None:
        """It has been replaced long ago; its streams do not end."""
        if not old.alive or old.ending or not self._group.is_open():
            return
        why = f"was replaced {self._retire_s:g} s ago, and its streams have not ended since (retire_timeout_ms)"
        text = "python worker %s (pid %d) %s: %d fail now"
        log.warning(text, old.name, old.pid, why, len(old.streams), extra=old.output.about)
        self._end(old, why)

    def _end(self, worker: Worker, why: str = "") -> None:
        """Lets a worn worker close its unit; `why` is told to streams that are left."""
        worker.stop(why)
        worker.later(CLOSE_LIMIT_S, self._check_end)

    def _check_end(self, worker: Worker) -> None:
        if worker.alive and self._group.is_open():
            worker.condemn(f"did not close its unit within {CLOSE_LIMIT_S:g} s")

    def _lost_old(self, place: Place, worker: Worker, cause: str) -> None:
        """A worn worker has ended, mostly because it was told to."""
        if not (worker.clean and worker.ending):
            log.error("%s", cause, extra=worker.output.about)
        if worker in place.old:
            place.old.remove(worker)
            self.renew()  # it may have waited for the end of this one
        else:
            self.recycled += 1
            self._group.wait(place, 0.0)

    # ---- changed files ------------------------------------------------------------------------------------------

    def _files_changed(self, files: list[str]) -> None:
        """Some of the unit's files are others now. [the watcher's thread]"""
        group = self._group
        try:
            news = self._reread() if self._reread is not None else None
        except ModelBoxError as error:
            log.error("node '%s': its workers go on as they are: %s", group.node, error, extra=group.about)
            return
        log.info("node '%s': %s changed, its workers are replaced", group.node, ", ".join(files), extra=group.about)
        group.io.call(self._take_change, news)

    def _take_change(self, news: tuple[UnitSpec, dict[str, str]] | None) -> None:
        group = self._group
        if group.is_closing():
            return
        self._version += 1
        if news is not None:
            group.starter.use(*news)
        if not group.is_open():  # start() looks again
            return
        group.supervision.renew()
        for place in group.places:
            if place.heir is not None:
                place.heir.condemn("has an older version of its unit's files")
            elif not place.has_live_worker() and group.supervision.breaker is Breaker.CLOSED:
                place.cancel()
                group.wait(place, 0.0)
        if group.supervision.breaker is Breaker.OPEN:
            group.try_again()
        self.renew()

    def renew(self) -> None:
        """Starts heirs of workers that have an older version of the unit's files: one, and all others when that has
        opened."""
        group = self._group
        if not group.is_open() or self._refused_version == self._version:
            return
        for place in group.places:
            worker = place.worker
            if place.heir is None:
                if worker is None or not worker.alive or not worker.ready or worker.ending:
                    continue
                if worker.version == self._version or len(place.old) >= MOST_OLD:
                    continue
                group.begin(place, as_heir=True)
            if self._opened_version != self._version:
                return

    def _tried(self, place: Place, trial: Worker) -> None:
        """The changed files of a source can be loaded."""
        place.heir = None
        place.old.append(trial)
        self._end(trial)
        worker = place.worker
        if worker is not None and worker.alive and not worker.ending and trial.version == self._version:
            self._end(worker)

    def _lost_newer(self, place: Place, heir: Worker, cause: str) -> None:
        """A worker with changed files has not opened; the one that it should have replaced goes on."""
        group = self._group
        place.heir = None
        place.not_before = group.loop.time() + LAST_DELAY_S
        if heir.version != self._version:  # they have changed once more
            self.renew()
        elif heir.innocent:
            group.loop.call_later(RETRY_DELAY_S, self.renew)
        else:
            self._refused_version = self._version
            text = "node '%s': the changed files are not used, its old workers go on: %s"
            log.error(text, group.node, heir.failure or cause, extra=group.about)
