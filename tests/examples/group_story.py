"""A log of one owned group, told by hand: calls, claims, outcomes and who holds the pen."""

from __future__ import annotations

from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.events import Event, GroupPromoted, Source, encode_event
from aegisipc.eventstore.frames import (
    DEAD_MARKS,
    CallEntry,
    CallFrame,
    Mark,
    PenEntry,
    PenFrame,
    encode_calls,
    encode_pen,
)
from aegisipc.eventstore.ids import CallId, CallIds
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.subjects import subjects_of

SUBJECTS = subjects_of("demo")
NS_PER_MS = 1_000_000


class GroupStory:
    """Records of ``service``/``group``, a millisecond apart."""

    def __init__(self, service: str = "orders", group: str = "east", *, session: int = 7) -> None:
        self.records: list[Record] = []
        self._place = (service, group)
        self._ids = CallIds(session)
        self._numbers: dict[str, int] = {}

    @property
    def now_ns(self) -> int:
        return len(self.records) * NS_PER_MS

    def call(self, method: str = "place", count: int = 1) -> list[CallId]:
        ids = [self._ids.next(1_000) for _ in range(count)]
        subject = SUBJECTS.call(*self._place, "me")
        entries = [CallEntry(call_id, method, 1_000, None) for call_id in ids]
        bodies = [encode([[], {}])] * count
        self._store(subject, encode_calls(CallFrame(1, self._next(subject), 0, entries, bodies)))
        return ids

    def say(
        self,
        writer: str,
        epoch: int,
        *facts: tuple[Mark, CallId],
        number: int | None = None,
        body: bytes | None = None,
    ) -> None:
        about_dead = any(mark in DEAD_MARKS for mark, _ in facts)
        subject = (SUBJECTS.dead if about_dead else SUBJECTS.pen)(*self._place, writer)
        entries = [PenEntry(mark, call_id) for mark, call_id in facts]
        frame = PenFrame(2, number or self._next(subject), epoch, entries, [body] * len(facts))
        self._store(subject, encode_pen(frame))

    def promote(self, holder: str, epoch: int, source: Source | None = None) -> None:
        promoted = GroupPromoted(
            epoch=epoch,
            holder=holder,
            incarnation="1",
            cause="that is the story",
            evidence={"source": source} if source else {},
            decided_by="r",
        )
        self.event(SUBJECTS.fence(*self._place), promoted)

    def event(self, subject: str, event: Event) -> None:
        self._store(subject, encode_event(event))

    def garbage(self) -> None:
        self._store(SUBJECTS.pen(*self._place, "one"), b"\xc1")

    def _next(self, subject: str) -> int:
        self._numbers[subject] = self._numbers.get(subject, 0) + 1
        return self._numbers[subject]

    def _store(self, subject: str, payload: bytes) -> None:
        seq = len(self.records) + 1
        self.records.append(Record(seq, subject, payload, seq * NS_PER_MS))
