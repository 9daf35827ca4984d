"""The fold of one group's calls: which are open, who claimed them, what became of them.

It runs in the members of a group (with bodies, to run the calls) and in routers (headers only). A call is
open from its frame until its first conclusion in log order; whatever comes later for it is counted and
ignored, so every reader sees the same outcome.

In an owned group only the holder of the pen concludes: a pen frame counts if its writer and its epoch are
those of the latest promotion before it. The server sees to that by the fence, for all who ask it to; a frame
that was forged past the fence is counted and ignored. In a pool all workers conclude, and a word that came
late may be about something else by then: such a word is counted and ignored, too.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.eventstore.events import CancelRequested, decode_event
from aegisipc.eventstore.frames import (
    CLOSING,
    OUTCOMES,
    CallFrame,
    Mark,
    PenFrame,
    decode_calls,
    decode_pen,
)
from aegisipc.eventstore.ids import CallId, parse_call_id
from aegisipc.eventstore.keys import KeyIndex, decode_segment, read_keyed
from aegisipc.eventstore.lifecycles import CALL, CallState
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.marks import EVENT_OF, counts, state_after
from aegisipc.eventstore.memories import MAX_SESSIONS, Outcome, Outcomes, Sessions
from aegisipc.eventstore.open_calls import Evidence, OpenCall, next_attempt, open_plain, requeued
from aegisipc.eventstore.pool_naming import NAMING, Letters, Standing, is_about, requeued_from
from aegisipc.eventstore.subjects import CALL as CALL_KIND
from aegisipc.eventstore.subjects import CANCEL as CANCEL_KIND
from aegisipc.eventstore.subjects import CONCLUSIONS, Place
from aegisipc.eventstore.subjects import EVIDENCE as EVIDENCE_KIND
from aegisipc.eventstore.subjects import KEYS as KEYS_KIND
from aegisipc.eventstore.tuples import new_tuple

__all__ = [
    "EVENT_OF",
    "MAX_SESSIONS",
    "NOTHING",
    "Concluded",
    "Evidence",
    "Folded",
    "GroupCalls",
    "OpenCall",
    "Outcome",
    "Outcomes",
    "Sessions",
    "counts",
    "state_after",
]

_NEXT: Final = CALL.table
_STATE_MARKS: Final = frozenset({Mark.EMITTED, Mark.CHECKED})
_MAX_REQUEUEING: Final = 1024


class Concluded(NamedTuple):
    """An outcome that this record was the first to give, with the call it belongs to."""

    call: OpenCall
    outcome: Outcome
    writer: str


class Folded(NamedTuple):
    """What one record changed: calls that became open, were claimed, were concluded, may run again (after a
    doubt, or as dead letters), got evidence, wait for another attempt, are to be cancelled, were dead letters
    and were discarded; and, where bodies are kept, what was said of the shared state, in order.
    """

    opened: Sequence[OpenCall] = ()
    claimed: Sequence[OpenCall] = ()
    concluded: Sequence[Concluded] = ()
    reopened: Sequence[OpenCall] = ()
    evidenced: Sequence[OpenCall] = ()
    state: Sequence[tuple[Mark, bytes]] = ()
    retrying: Sequence[OpenCall] = ()
    cancels: Sequence[OpenCall] = ()
    discarded: Sequence[CallId] = ()


NOTHING: Final = Folded()


class GroupCalls:
    """The state of the fold for one group. Pure: :meth:`apply` depends on nothing but the records.

    With ``is_fenced`` (an owned group) pen frames count only if they are of the present holder and epoch:
    whoever feeds the fold tells it by :meth:`hold` what each record on the fence's subject came to.
    """

    __slots__ = (
        "accepted",
        "anomalies",
        "concluded",
        "epoch",
        "holder",
        "is_fenced",
        "keep_bodies",
        "keys",
        "letters",
        "open",
        "outcomes",
        "requeueing",
        "sessions",
    )

    def __init__(
        self,
        *,
        keep_bodies: bool,
        outcomes: Outcomes | None = None,
        is_fenced: bool = False,
        keys: KeyIndex | None = None,
    ) -> None:
        self.keep_bodies = keep_bodies
        self.is_fenced = is_fenced
        self.holder: str | None = None
        self.epoch = 0
        self.open: dict[CallId, OpenCall] = {}
        self.outcomes = outcomes
        self.keys = keys
        self.requeueing: OrderedDict[CallId, OpenCall] = OrderedDict()
        """Dead letters of a pool that came in a frame again, until somebody says that this counts."""
        self.letters = Letters()
        self.sessions = Sessions()
        self.accepted = 0
        self.concluded: Counter[Mark] = Counter()
        self.anomalies: Counter[str] = Counter()

    def hold(self, holder: str | None, epoch: int) -> None:
        """The pen belongs to `holder` from here on (``None``: to nobody)."""
        self.holder, self.epoch = holder, epoch

    def apply(self, record: Record, place: Place, pen: PenFrame | None = None) -> Folded:
        """Fold one record of the group; records of other kinds change nothing.

        `pen` is what the payload of a pen record says, if the caller wrote it and knows.
        """
        try:
            if place.kind == CALL_KIND:
                return self._calls(record, place, decode_calls(record.payload, bodies=self.keep_bodies))
            if place.kind in CONCLUSIONS:
                return self._pen(record, place, pen or decode_pen(record.payload, bodies=self.keep_bodies))
            if place.kind == EVIDENCE_KIND:
                return self._evidence(record, place, decode_pen(record.payload, bodies=self.keep_bodies))
            if place.kind == CANCEL_KIND:
                return self._cancel(record)
            if place.kind == KEYS_KIND and self.keys is not None:
                self._segment(record, place)
        except MalformedPayload:
            self.anomalies["malformed"] += 1
        return NOTHING

    def _calls(self, record: Record, place: Place, frame: CallFrame) -> Folded:
        if not self.sessions.is_new(record.subject, frame.session, frame.number):
            self.anomalies["frame stored twice"] += 1
            return NOTHING
        client, seq, stored_ns = place.who, record.seq, record.timestamp_ns
        bodies = frame.bodies or (b"",) * len(frame.entries)
        opened = []
        for entry, body in zip(frame.entries, bodies, strict=True):
            call_id, method, timeout_ms, resource, options = entry
            if call_id in self.open:
                self.anomalies["call id used twice"] += 1
                continue
            deadline_ns = stored_ns + timeout_ms * 1_000_000
            call = OpenCall(call_id, client, method, resource, seq, deadline_ns, body, stored_ns)
            if options is not None:
                call.key, call.priority, requeue = options
                if requeue is not None:
                    self._came_again(call, requeue[1])
                    continue
            self.open[call_id] = call
            opened.append(call)
        self.accepted += len(opened)
        return Folded(opened=opened)

    def _came_again(self, call: OpenCall, client: str) -> None:
        if self.is_fenced:
            self.anomalies["requeued by a frame"] += 1  # where there is a holder, that one says it
            return
        call.client, call.state = client, CallState.DEAD_LETTERED
        self.requeueing[call.call_id] = call
        if len(self.requeueing) > _MAX_REQUEUEING:
            self.requeueing.popitem(last=False)

    def _pen(self, record: Record, place: Place, frame: PenFrame) -> Folded:  # noqa: C901, PLR0912 - the hot loop
        writer, open_calls, stored_ns = place.who, self.open, record.timestamp_ns
        if self.is_fenced and (writer, frame.epoch) != (self.holder, self.epoch):
            self.anomalies["not the holder's"] += 1
            return NOTHING  # and its number is not remembered: it must not hide a frame that counts
        if not self.sessions.is_new(record.subject, frame.session, frame.number):
            self.anomalies["frame stored twice"] += 1
            return NOTHING
        claimed, concluded, marks = [], [], []
        reopened: list[OpenCall] = []
        retrying: list[OpenCall] = []
        discarded: list[CallId] = []
        state: list[tuple[Mark, bytes]] = []
        keep = self.outcomes.add if self.outcomes is not None else None
        bodies = frame.bodies or (None,) * len(frame.entries)
        for (mark, call_id), body in zip(frame.entries, bodies, strict=True):
            call = open_calls.get(call_id)
            event = EVENT_OF.get(mark)
            if event is None:
                self._note(mark, call_id, call, body, state)
                continue
            if call is None:
                call = self._reopened(mark, call_id, body, record, discarded)
                if call is None:
                    continue
            after = _NEXT.get((call.state, event))
            if after is None:
                self.anomalies[f"call {call.state} {event}"] += 1
                continue
            if mark in NAMING and not self._is_about_this(call, mark, body):
                continue
            call.state = after
            call.since_ns = stored_ns
            if mark is Mark.CLAIMED:
                call.claimed_by, call.claimed_epoch, call.said_seq = writer, frame.epoch, record.seq
                claimed.append(call)
                continue
            if mark not in OUTCOMES:
                self._move(mark, call, body, reopened, retrying)
                continue
            outcome = new_tuple(Outcome, (call_id, mark, body))
            concluded.append(new_tuple(Concluded, (call, outcome, writer)))
            marks.append(mark)
            if mark in CLOSING:
                del open_calls[call_id]
                if mark is Mark.DEAD_LETTERED or call.dead_seq:
                    self.letters.note(call_id, record.seq if mark is Mark.DEAD_LETTERED else 0)
            else:
                call.said_seq = record.seq
            if keep is not None:
                keep(outcome)
        self.concluded.update(marks)
        return Folded(
            claimed=claimed,
            concluded=concluded,
            reopened=reopened or (),
            state=state or (),
            retrying=retrying or (),
            discarded=discarded or (),
        )

    def _note(
        self,
        mark: Mark,
        call_id: CallId,
        call: OpenCall | None,
        body: bytes | None,
        state: list[tuple[Mark, bytes]],
    ) -> None:
        """Take in what moves no call."""
        if mark is not Mark.CHECKED and call is None:
            self.anomalies["late"] += 1
        elif mark is Mark.ATTEMPTED and call is not None:
            call.attempts += 1
        elif mark in _STATE_MARKS:
            if body is not None:  # else only headers are read here
                state.append((mark, body))
        elif self.keys is not None:
            keyed = read_keyed(body, call_id)
            if mark is Mark.KEYED and keyed is not None:
                self.keys.own(*keyed)
            elif mark is Mark.RELEASED and body is not None:
                self.keys.release(body, call_id)

    def _move(
        self,
        mark: Mark,
        call: OpenCall,
        body: bytes | None,
        reopened: list[OpenCall],
        retrying: list[OpenCall],
    ) -> None:
        """It goes on: it may run again, or waits for another attempt. If a doubt ended by its having run, the
        outcome follows.
        """
        if mark is Mark.EXECUTED:
            return
        call.claimed_by, call.claimed_epoch, call.evidence = None, 0, None
        if mark is Mark.RETRY_SCHEDULED:
            call.tries, call.retry_at_ns = next_attempt(body, call)
            retrying.append(call)
            return
        if self.outcomes is not None:
            self.outcomes.drop(call.call_id)
        reopened.append(call)

    def _is_about_this(self, call: OpenCall, mark: Mark, body: bytes | None) -> bool:
        """In a pool, a word that came late may be about another claim, doubt or attempt. (Whether it is about
        this dead letter was looked at before.)
        """
        if self.is_fenced or mark is Mark.REQUEUED:
            return True
        claim_seq = call.said_seq if call.state is CallState.STARTED else 0
        if is_about(Standing(claim_seq, call.said_seq, call.dead_seq, call.tries), mark, body):
            return True
        self.anomalies["about something else"] += 1
        return False

    def _reopened(
        self, mark: Mark, call_id: CallId, body: bytes | None, record: Record, discarded: list[CallId]
    ) -> OpenCall | None:
        """Return the dead letter that is to run again. Of other calls that are not open nothing counts."""
        if mark not in (Mark.REQUEUED, Mark.DISCARDED):
            self.anomalies["late"] += 1
            return None
        if not (self.is_fenced or self.letters.is_about(call_id, mark, body)):
            self.anomalies["about something else"] += 1
            return None
        call = self.requeueing.pop(call_id, None)
        if mark is Mark.DISCARDED:
            self.letters.note(call_id, 0)
            self.concluded[mark] += 1
            discarded.append(call_id)
            return None
        if call is None:
            call = requeued(call_id, body, record, keep_body=self.keep_bodies)
        if call is None:
            self.anomalies["late"] += 1
            return None
        if not self.is_fenced:
            call.dead_seq = requeued_from(body)
        self.open[call_id] = call
        return call

    def _cancel(self, record: Record) -> Folded:
        """Somebody wants calls cancelled; what comes of it, the holder says."""
        event = decode_event(record.payload)
        if not isinstance(event, CancelRequested):
            self.anomalies["misplaced"] += 1
            return NOTHING
        cancels: list[OpenCall] = []
        for call_id in [parse_call_id(text) for text in event.call_ids]:  # all of them can be read, or none
            call = self.open.get(call_id)
            if call is not None and call.cancel is None:
                call.cancel = event.author, event.reason
                cancels.append(call)
        return Folded(cancels=cancels) if cancels else NOTHING

    def _segment(self, record: Record, place: Place) -> None:
        segment = decode_segment(record.payload)
        if self.is_fenced and (place.who, segment.epoch) != (self.holder, self.epoch):
            self.anomalies["not the holder's"] += 1
        elif self.keys is not None:
            self.keys.on_segment(record.seq, segment)

    def _evidence(self, record: Record, place: Place, frame: PenFrame) -> Folded:
        """The word of an instance about calls that it had claimed: the first one is kept, for the holder."""
        if not self.sessions.is_new(record.subject, frame.session, frame.number):
            self.anomalies["frame stored twice"] += 1
            return NOTHING
        evidenced: list[OpenCall] = []
        emitted: list[bytes] = []
        bodies = frame.bodies or (None,) * len(frame.entries)
        for (mark, call_id), body in zip(frame.entries, bodies, strict=True):
            if mark is Mark.EMITTED:
                emitted += [body] if body is not None else []
                continue
            call = self.open.get(call_id)
            if call is None or call.claimed_by != place.who or call.evidence is not None:
                self.anomalies["evidence of no use"] += 1
            elif mark in (Mark.SUCCEEDED, Mark.FAILED):
                call.evidence = Evidence(mark, body, place.who, tuple(emitted))
                evidenced.append(call)
            emitted = []
        return Folded(evidenced=evidenced or ())

    def to_plain(self) -> dict[str, Any]:
        """Return the state as plain, sorted data: equal states give equal data."""
        return {
            "accepted": self.accepted,
            "open": [open_plain(call) for call in sorted(self.open.values(), key=_by_id)],
            "concluded": {mark.name.lower(): self.concluded[mark] for mark in Mark if self.concluded[mark]},
            "anomalies": dict(sorted(self.anomalies.items())),
        }


def _by_id(call: OpenCall) -> CallId:
    return call.call_id
