"""What the log of a run holds, read without any of the folds that are under test.

Frames are decoded by :mod:`aegisipc.eventstore.frames`, and nothing more is taken over from the code that is
judged: which frame counts, who held a pen, which word of a call counts and which contradicts another is told
here once more, by simple rules (:mod:`aegisipc.chaos.log_words`). So a defect in a fold shows up as a
difference, and not as an agreement of two who make the same mistake.

- A frame counts once per (subject, session, number).
- In an owned group a frame of anybody but the holder of the pen must not be there at all: the server refuses
  it. It is kept as a :class:`Stranger`. A word that the call's state does not allow must not be there either:
  a :class:`Contradiction`.
- In a pool many write. There a word that comes too late, or that is about something else by then, is void.

Times are the server's, in nanoseconds. Snapshots alone are compared with the fold itself, see
:mod:`aegisipc.chaos.log_snapshots`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgpack  # type: ignore[import-untyped]

from aegisipc.chaos.log_roles import role_spans
from aegisipc.chaos.log_shapes import (
    ELECTED,
    PAUSED,
    PROMOTED,
    REGISTERED,
    RESUMED,
    VACATED,
    CallFact,
    Contradiction,
    Group,
    KeySegment,
    KeyWord,
    LogEvent,
    LogFacts,
    SnapshotFact,
    Stranger,
    Word,
)
from aegisipc.chaos.log_snapshots import Refold, Snapshots
from aegisipc.chaos.log_words import BESIDE, NEXT, argument_number, is_about_this, number_at, said_in
from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.eventstore.frames import CallEntry, CallFrame, Mark, PenFrame, decode_calls, decode_pen
from aegisipc.eventstore.ids import format_call_id
from aegisipc.eventstore.keys import decode_segment
from aegisipc.eventstore.log import Log, Record
from aegisipc.eventstore.names import POOL_GROUP
from aegisipc.eventstore.references import reference_in
from aegisipc.eventstore.subjects import (
    CALL,
    CONCLUSIONS,
    EVIDENCE,
    GROUP_WHO,
    HA,
    KEYS,
    SNAPSHOT,
    STATE,
    TERM,
    Place,
    Subjects,
)

__all__ = [
    "ELECTED",
    "PAUSED",
    "PROMOTED",
    "REGISTERED",
    "RESUMED",
    "VACATED",
    "CallFact",
    "Contradiction",
    "Group",
    "KeySegment",
    "KeyWord",
    "LogEvent",
    "LogFacts",
    "SnapshotFact",
    "Stranger",
    "Word",
    "facts_of",
    "read_log_facts",
    "role_spans",
]


async def read_log_facts(log: Log, subjects: Subjects) -> LogFacts:
    """Read a whole log.

    Raises:
        NotConnected, LogMissing, …: as :meth:`aegisipc.eventstore.log.Log.read` does.
    """
    reader = _Reader(subjects)
    async for record in log.read([subjects.everything]):
        reader.take(record)
    facts = reader.facts
    if reader.snapshots.indices and facts.first_seq == 1:
        refold = Refold(reader.snapshots, subjects)
        async for record in log.read([subjects.everything]):
            if record.seq > facts.last_seq:
                break
            refold.take(record)
        found = refold.end()
        facts.snapshots_compared = lambda: found
    return facts


def facts_of(records: Iterable[Record], subjects: Subjects) -> LogFacts:
    """Return what records, in log order, say."""
    reader, kept = _Reader(subjects), tuple(records)
    for record in kept:
        reader.take(record)
    facts = reader.facts

    def compared() -> list[SnapshotFact]:
        refold = Refold(reader.snapshots, subjects)
        for record in kept:
            refold.take(record)
        return refold.end()

    if reader.snapshots.indices and facts.first_seq == 1:
        facts.snapshots_compared = compared
    return facts


@dataclass(slots=True)
class _Pen:
    """Who may write in an owned group now. ``session`` is that of the first frame of the epoch."""

    holder: str | None = None
    epoch: int = 0
    session: int | None = None


class _Reader:
    def __init__(self, subjects: Subjects) -> None:
        self.facts = LogFacts()
        self.snapshots = Snapshots(subjects)
        self._subjects = subjects
        self._places: dict[str, Place] = {}
        self._numbers: dict[tuple[str, int], int] = {}
        self._pens: dict[Group, _Pen] = {}
        self._calls: dict[bytes, CallFact] = {}
        self._texts: dict[str, str] = {}  # each text is kept once, however many calls have it

    def take(self, record: Record) -> None:
        facts = self.facts
        facts.records += 1
        facts.first_seq = facts.first_seq or record.seq
        facts.last_seq, facts.last_at_ns = record.seq, record.timestamp_ns
        try:
            place = self._places.get(record.subject)
            if place is None:
                place = self._places[record.subject] = self._subjects.parse(record.subject)
            self._read(record, place)
        except MalformedPayload:
            facts.unreadable.append(record.seq)

    def _read(self, record: Record, place: Place) -> None:
        kind = place.kind
        if kind == CALL:
            self._read_calls(record, place, decode_calls(record.payload))
        elif kind in CONCLUSIONS:
            self._read_pen(record, place, decode_pen(record.payload))
        elif kind in (HA, TERM):
            self._read_event(record, place)
        elif kind == EVIDENCE:
            self._read_evidence(record, place, decode_pen(record.payload))
        elif kind == SNAPSHOT:
            self.facts.snapshots.append((record.seq, place.service))
            self.snapshots.take(record)
        elif kind == STATE:
            self.facts.snapshots.append((record.seq, place.service))
            self._is_holders(record, place, None, None)
        elif kind == KEYS:
            segment = decode_segment(record.payload)
            if self._is_holders(record, place, segment.epoch, None):
                said = KeySegment(record.seq, segment.since, segment.covers)
                self._said_of_keys(place).append(said)

    # -- calls ------------------------------------------------------------------------------------------

    def _read_calls(self, record: Record, place: Place, frame: CallFrame) -> None:
        if not self._is_new(record, frame.session, frame.number):
            for entry in frame.entries:
                known = self._calls.get(entry.call_id)
                if known is not None:
                    known.copies += (record.seq,)
            return
        for index, (entry, body) in enumerate(zip(frame.entries, frame.bodies, strict=True)):
            if entry.options is not None and entry.options.requeue is not None:
                known = self._calls.get(entry.call_id)
                if known is not None:  # a word of its own says whether it does run again
                    known.again += ((record.seq, entry.options.requeue[0]),)
                continue
            if entry.call_id in self._calls:
                self.facts.used_twice.append((format_call_id(entry.call_id), record.seq))
                continue
            call = self._call_of(record, place, frame.session, entry, index, body)
            self._calls[entry.call_id] = self.facts.calls[call.call_id] = call
            if call.number is not None:
                by_number = self.facts.by_number
                by_number[call.number] = (*by_number.get(call.number, ()), call)

    def _call_of(
        self, record: Record, place: Place, session: int, entry: CallEntry, index: int, body: bytes
    ) -> CallFact:
        digest = _digest_in(body)
        options, texts = entry.options, self._texts
        resource = entry.resource
        if resource is not None:
            resource = texts.setdefault(resource, resource)
        key = options.key if options is not None else None
        method = texts.setdefault(entry.method, entry.method)
        return CallFact(
            format_call_id(entry.call_id),
            argument_number(body) if digest is None else None,
            place.service,
            place.group,
            place.who,
            session,
            method,
            resource,
            record.seq,
            index,
            record.timestamp_ns,
            record.timestamp_ns + entry.timeout_ms * 1_000_000,
            key,
            (method, resource, digest or body) if key is not None else None,
            digest is not None,
        )

    def _is_new(self, record: Record, session: int, number: int) -> bool:
        """Tell whether a frame was not stored before."""
        self.facts.frames += 1
        if number <= self._numbers.get((record.subject, session), 0):
            self.facts.stored_twice += 1
            return False
        self._numbers[record.subject, session] = number
        return True

    # -- what is said of them -----------------------------------------------------------------------------

    def _is_holders(self, record: Record, place: Place, epoch: int | None, session: int | None) -> bool:
        """Tell whether a record under the fence is of the one who holds the pen. Of some kinds of records it
        is not known in which epoch or session they were written.
        """
        if place.group == POOL_GROUP:
            return True
        group = place.service, place.group
        pen = self._pens.setdefault(group, _Pen())
        is_his = (
            place.who == pen.holder
            and epoch in (None, pen.epoch)
            and (session is None or pen.session in (None, session))
        )
        if is_his and session is not None:
            pen.session = session
        if not is_his:
            self.facts.strangers.append(
                Stranger(
                    record.seq,
                    group,
                    place.kind,
                    place.who,
                    epoch,
                    session,
                    pen.holder,
                    pen.epoch,
                    pen.session,
                )
            )
        return is_his

    def _read_pen(self, record: Record, place: Place, frame: PenFrame) -> None:
        # A frame that is not the holder's is not remembered: it must not hide one that counts.
        if not self._is_holders(record, place, frame.epoch, frame.session):
            return
        if not self._is_new(record, frame.session, frame.number):
            return
        is_pool = place.group == POOL_GROUP
        for (mark, call_id), body in zip(frame.entries, frame.bodies, strict=True):
            if mark is Mark.CHECKED or mark is Mark.EMITTED:
                continue
            word = Word(record.seq, record.timestamp_ns, mark, place.who, frame.epoch, body)
            call = self._calls.get(call_id)
            if call is None:
                self.facts.orphans.append((format_call_id(call_id), word))
            elif mark in BESIDE:
                call.say(word)
                if mark is not Mark.ATTEMPTED:
                    of_key = KeyWord(record.seq, record.timestamp_ns, call.call_id, mark, body)
                    self._said_of_keys(place).append(of_key)
            else:
                self._say(call, word, is_pool=is_pool)

    def _say(self, call: CallFact, word: Word, *, is_pool: bool) -> None:
        facts, mark = self.facts, word.mark
        after = NEXT[call.state].get(mark)
        if after is None or (is_pool and not is_about_this(call.state, call.words, mark, word.body)):
            if is_pool:
                call.void += (word,)
                facts.void += 1
            else:
                facts.contradictions.append(Contradiction(call.call_id, call.state, word))
            return
        call.state = after
        call.say(word)
        facts.marks[mark] = facts.marks.get(mark, 0) + 1
        if mark is Mark.REQUEUED:
            call.deadline_ns = word.at_ns + number_at(said_in(word.body), "timeout_ms") * 1_000_000

    def _said_of_keys(self, place: Place) -> list[KeyWord | KeySegment]:
        return self.facts.key_words.setdefault((place.service, place.group), [])

    def _read_evidence(self, record: Record, place: Place, frame: PenFrame) -> None:
        if not self._is_new(record, frame.session, frame.number):
            return
        for (mark, call_id), body in zip(frame.entries, frame.bodies, strict=True):
            call = self._calls.get(call_id)
            if call is not None and mark in (Mark.SUCCEEDED, Mark.FAILED):
                word = Word(record.seq, record.timestamp_ns, mark, place.who, frame.epoch, body)
                call.evidence += (word,)

    # -- groups, instances, routers ---------------------------------------------------------------------

    def _read_event(self, record: Record, place: Place) -> None:
        event = LogEvent(
            record.seq, record.timestamp_ns, place.service, place.group, place.who, *_event_in(record)
        )
        self.facts.events.append(event)
        group = place.service, place.group
        if place.kind == HA and place.who == GROUP_WHO:
            self.facts.fences.setdefault(group, []).append(event)
            self._move_pen(group, event)
        elif event.type == REGISTERED:
            contract = event.data.get("contract")
            for method, given in contract.items() if isinstance(contract, dict) else ():
                if isinstance(given, dict):
                    self.facts.effects[place.service, method] = str(given.get("effect", ""))

    def _move_pen(self, group: Group, event: LogEvent) -> None:
        pen = self._pens.setdefault(group, _Pen())
        epoch = event.data.get("epoch")
        if event.type == VACATED:
            pen.holder = None
        elif event.type == PROMOTED and isinstance(epoch, int):
            holder = event.data.get("holder")
            if (holder, epoch) != (pen.holder, pen.epoch):
                self._pens[group] = _Pen(holder if isinstance(holder, str) else None, epoch)


def _digest_in(body: bytes) -> bytes | None:
    """Return the digest of arguments that lie in the object store, ``None`` if they are here."""
    try:
        reference = reference_in(body)
    except MalformedPayload:
        return None  # the call will fail, but others of its frame are none the worse
    return reference.sha256 if reference is not None else None


def _event_in(record: Record) -> tuple[str, dict[str, Any]]:
    """Return type and data of an event, as they are stored.

    Raises:
        MalformedPayload: it is none.
    """
    try:
        type_name, data = msgpack.unpackb(record.payload)
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException, RecursionError) as error:
        raise MalformedPayload("cannot read an event: it is not [type, data]") from error
    if not isinstance(type_name, str) or not isinstance(data, dict):
        raise MalformedPayload("cannot read an event: it is not [type, data]")
    return type_name, data
