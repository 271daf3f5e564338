"""Calls under way at one worker: messages that were sent and not answered yet, and whether an answer fits them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from modelboxd.workers import checks
from modelboxd.workers.protocol import ProtocolError, Reader, WorkerCall, WorkerResult
from modelboxd.workers.values import writes_of

if TYPE_CHECKING:
    from modelboxd.workers.process import Worker

Answer = Callable[[list[WorkerResult]], None]
Wanted = Callable[[], bool]  # whether anybody waits for a result of the message


class Trip:
    """One CALLS message under way."""

    __slots__ = ("calls", "done", "has_values", "wanted")

    def __init__(self, calls: list[WorkerCall], done: Answer, wanted: Wanted | None) -> None:
        self.calls = calls
        self.done = done
        self.wanted = wanted
        self.has_values = False  # those that its calls have set have come


class Trips:
    """Those of one worker, in the order in which they were sent, and the streams that are pinned to it. Changed under
    the worker's lock, looked at by any thread."""

    def __init__(self) -> None:
        self.streams: dict[int, int] = {}  # that are pinned to the worker: their sessions
        self._trips: dict[int, Trip] = {}  # by sequence
        self._sequence = 0

    def count(self) -> int:
        """Messages that are not answered."""
        return len(self._trips)

    def is_asked(self) -> bool:
        """Whether an answer is expected."""
        return bool(self._trips)

    def outstanding(self) -> int:
        """Calls that are not answered."""
        return sum(len(trip.calls) for trip in list(self._trips.values()))

    def calls(self) -> list[WorkerCall]:
        """All calls that are not answered."""
        return [call for trip in self._trips.values() for call in trip.calls]

    def oldest(self) -> tuple[int, Trip | None]:
        """The message that the worker works on, and its sequence; 0: none."""
        return next(iter(self._trips.items()), (0, None))

    def next_sequence(self) -> int:
        """A number for the next message."""
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        return self._sequence

    def add(self, sequence: int, trip: Trip) -> None:
        """A message is about to be sent."""
        self._trips[sequence] = trip
        for call in trip.calls:
            if call.stream and call.begin:
                self.streams[call.stream] = call.session

    def match(self, reader: Reader, ports: int) -> tuple[Trip, list[WorkerResult]]:
        """The results of a RESULTS message of a unit with `ports` outputs, and what they answer. Raises
        ProtocolError."""
        trip = self._trips.get(reader.sequence)
        if trip is None or reader.count != len(trip.calls):
            raise ProtocolError("results that nobody asked for")
        results = reader.results()
        checks.check_results(trip.calls, results, ports)
        return trip, results

    def answered(self, sequence: int, trip: Trip, results: list[WorkerResult]) -> None:
        """The message has its results; streams that ended with it are pinned no more."""
        self._trips.pop(sequence, None)
        if self.streams:
            for call, result in zip(trip.calls, results, strict=True):
                if call.end and not result.more:
                    self.streams.pop(call.stream, None)

    def take_values(self, reader: Reader, worker: Worker) -> None:
        """Calls have set values of their sessions (a VALUES message). Raises ProtocolError, UnitError."""
        trip = self._trips.get(reader.sequence)
        if trip is None or trip.has_values:
            raise ProtocolError("values that belong to no calls")
        if reader.count > len(trip.calls):
            raise ProtocolError(f"values of {reader.count} calls instead of {len(trip.calls)}")
        trip.has_values = True
        last = -1
        for result in reader.results():
            if not last < result.number < len(trip.calls) or not result.is_plain():
                raise ProtocolError("values that belong to no call")
            if len(result.outputs) != 1 or not result.output_meta:
                raise ProtocolError("values without their number")
            last = result.number
            writes = writes_of(result.output_meta[0])
            owner = trip.calls[last].owner
            if owner is not None:
                owner.take_values(worker, writes, result.outputs[0])

    def forget_sessions(self, numbers: list[int]) -> None:
        """Sessions have ended, and their streams."""
        for stream in [stream for stream, session in self.streams.items() if session in numbers]:
            del self.streams[stream]

    def drop(self) -> list[Trip]:
        """All that is under way; it will not be answered."""
        trips, self._trips = list(self._trips.values()), {}
        return trips
