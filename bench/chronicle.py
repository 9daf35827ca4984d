"""What the log says of a run with failovers, record by record. Pure; of calls it keeps those that are open,
and the dead letters.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.eventstore.events import (
    GroupPromoted,
    GroupVacated,
    decode_event,
)
from aegisipc.eventstore.frames import OUTCOMES, Mark, PenFrame, decode_calls, decode_pen
from aegisipc.eventstore.ids import CallId
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.subjects import CALL, CONCLUSIONS, GROUP_WHO, HA, Subjects

_CONCLUDED: Final = OUTCOMES - {Mark.IN_DOUBT}
_WORKED: Final = frozenset({Mark.SUCCEEDED, Mark.FAILED})
"""Outcomes that take a handler: a doubt can be declared, and an expiry found, without any work."""

_STEPS: Final = frozenset({Mark.CLAIMED, Mark.IN_DOUBT, Mark.NOT_EXECUTED, Mark.RETRY_SCHEDULED})
_MAY_HAVE_RUN: Final = frozenset({Mark.CLAIMED, Mark.IN_DOUBT})


@dataclass
class Epoch:
    """One holder's time with the pen. Times are the server's Unix nanoseconds."""

    number: int
    holder: str
    promoted_ns: int
    detected_by: str = ""
    """How the router came to doubt the former holder: ``silence``, ``disconnect``, ``probe``."""
    first_outcome_ns: int | None = None


@dataclass
class Chronicle:
    """Calls, outcomes and epochs of the one owned group of a log; :meth:`add` takes the next record.

    Frames count as they do for the folds: not if they are a second copy, and not if their writer no longer
    held the pen. The counting itself shares no code with the folds, so that it can disagree with them.
    """

    accepted: int = 0
    marks: Counter[Mark] = field(default_factory=Counter)
    open: dict[CallId, Mark | None] = field(default_factory=dict)
    """Calls without a final outcome, with their latest mark."""
    epochs: dict[int, Epoch] = field(default_factory=dict)
    duplicates: int = 0
    """Outcomes of calls that were not open: they had one, or the log does not hold them."""
    started_twice: int = 0
    fenced_frames: int = 0
    """Stored although their writer did not hold the pen: the server must refuse such frames."""
    unreadable: int = 0
    _dead: set[CallId] = field(default_factory=set)
    """Dead letters, which an operator may have run again."""
    _holder: tuple[str, int] = ("", 0)
    _numbers: dict[tuple[str, int], int] = field(default_factory=dict)

    def add(self, record: Record, subjects: Subjects) -> None:
        """Count one record; those that say nothing of calls or epochs are passed over."""
        try:
            place = subjects.parse(record.subject)
            if place.kind == CALL:
                self._calls(record)
            elif place.kind in CONCLUSIONS:
                self._pen(record, place.who)
            elif place.kind == HA and place.who == GROUP_WHO:
                self._event(record)
        except MalformedPayload:
            self.unreadable += 1

    @property
    def lost(self) -> int:
        """Accepted calls of which the log holds no outcome at all."""
        return sum(mark not in OUTCOMES for mark in self.open.values())

    @property
    def doubts(self) -> list[CallId]:
        """Calls of which nobody knows yet whether they ran."""
        return [call_id for call_id, mark in self.open.items() if mark is Mark.IN_DOUBT]

    def after(self, epoch: int) -> Epoch | None:
        """The first epoch behind `epoch` whose holder gave an outcome."""
        later = (found for found in self.epochs.values() if found.number > epoch)
        worked = [found for found in later if found.first_outcome_ns is not None]
        return min(worked, key=lambda found: found.number, default=None)

    def _is_new(self, subject: str, session: int, number: int) -> bool:
        is_new = number > self._numbers.get((subject, session), 0)
        if is_new:
            self._numbers[subject, session] = number
        return is_new

    def _calls(self, record: Record) -> None:
        frame = decode_calls(record.payload, bodies=False)
        if self._is_new(record.subject, frame.session, frame.number):
            self.accepted += len(frame.entries)
            self.open.update((entry.call_id, None) for entry in frame.entries)

    def _pen(self, record: Record, writer: str) -> None:
        frame = decode_pen(record.payload, bodies=False)
        if not self._is_new(record.subject, frame.session, frame.number):
            return
        if (writer, frame.epoch) != self._holder:
            self.fenced_frames += 1
            return
        self._facts(frame)
        epoch = self.epochs[frame.epoch]
        if epoch.first_outcome_ns is None and any(mark in _WORKED for mark, _ in frame.entries):
            epoch.first_outcome_ns = record.timestamp_ns

    def _facts(self, frame: PenFrame) -> None:
        for mark, call_id in frame.entries:
            self.marks[mark] += 1
            if mark is Mark.REQUEUED and call_id in self._dead:
                self._dead.remove(call_id)
                self.open[call_id] = mark
            elif call_id not in self.open:
                self.duplicates += mark in OUTCOMES
            elif mark in _CONCLUDED:
                del self.open[call_id]
                if mark is Mark.DEAD_LETTERED:
                    self._dead.add(call_id)
            elif mark in _STEPS:
                self.started_twice += mark is Mark.CLAIMED and self.open[call_id] in _MAY_HAVE_RUN
                self.open[call_id] = mark

    def _event(self, record: Record) -> None:
        match decode_event(record.payload):
            case GroupPromoted() as event:
                if event.epoch not in self.epochs:
                    source = str(event.evidence.get("source", ""))
                    found = Epoch(event.epoch, event.holder, record.timestamp_ns, source)
                    self.epochs[event.epoch] = found
                self._holder = (event.holder, event.epoch)
            case GroupVacated():
                self._holder = ("", 0)
