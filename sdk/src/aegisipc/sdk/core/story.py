"""What the log says of one call: the fold that whoever attaches to it runs."""

from __future__ import annotations

from typing import Self

from aegisipc.eventstore.calls import Outcome, counts
from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.eventstore.frames import OUTCOMES, Mark, PenFrame, decode_pen
from aegisipc.eventstore.ids import CallId
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.memories import Sessions
from aegisipc.eventstore.names import POOL_GROUP
from aegisipc.eventstore.subjects import PEN, Place, Subjects
from aegisipc.eventstore.topology import Topology


class CallStory:
    """The outcome of one call by the rules of :class:`~aegisipc.eventstore.calls.GroupCalls`, which every
    other reader follows, too: the first one that counts, and in an owned group only by the holder of the pen.

    Feed it with the records of ``fence`` up to the call, and with those of ``pen`` and ``fence`` from there
    on.
    """

    def __init__(self, subjects: Subjects, service: str, group: str, call_id: CallId) -> None:
        self.call_id = call_id
        self.pen = subjects.of_kind(service, group, PEN)
        self.fence = subjects.fence(service, group)
        self.outcome: Outcome | None = None
        self._subjects = subjects
        self._place = (service, group)
        self._topology = Topology(subjects)
        self._sessions = Sessions()
        self._latest: Mark | None = None

    def begin(self) -> Self:
        """Begin anew: what is known of the outcome is kept until the log says so again."""
        self._topology = Topology(self._subjects)
        self._sessions = Sessions()
        self._latest = None
        return self

    def apply(self, record: Record) -> None:
        """Fold a record."""
        try:
            place = self._subjects.parse(record.subject)
            if place.kind != PEN:
                self._topology.apply(record, place)
                return
            frame = decode_pen(record.payload)
        except MalformedPayload:
            return  # nobody could read it when it was written, either
        if not self._is_of_the_holder(place, frame):
            return
        if self._sessions.is_new(record.subject, frame.session, frame.number):
            self._read(frame)

    def _is_of_the_holder(self, place: Place, frame: PenFrame) -> bool:
        if place.group == POOL_GROUP:
            return True
        group = self._topology.group(*self._place)
        return group is not None and (group.holder, group.epoch) == (place.who, frame.epoch)

    def _read(self, frame: PenFrame) -> None:
        for (mark, call_id), body in zip(frame.entries, frame.bodies, strict=True):
            if call_id != self.call_id or not counts(self._latest, mark):
                continue
            self._latest = mark
            if mark in OUTCOMES:
                self.outcome = Outcome(call_id, mark, body)
            elif mark is not Mark.EXECUTED:  # its outcome follows; till then it is in doubt
                self.outcome = None
