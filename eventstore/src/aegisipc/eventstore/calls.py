"""The fold of one group's calls: which are open, who claimed them, what became of them.

It runs in the members of a group (with bodies, to run the calls) and in routers (headers only). A call is
open from its frame until its first conclusion in log order; whatever comes later for it is counted and
ignored, so every reader sees the same outcome.

In an owned group only the holder of the pen concludes: a pen frame counts if its writer and its epoch are
those of the latest promotion before it. The server sees to that by the fence, for all who ask it to; a frame
that was forged past the fence is counted and ignored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.eventstore.frames import OUTCOMES, CallFrame, Mark, PenFrame, decode_calls, decode_pen
from aegisipc.eventstore.ids import CallId, format_call_id
from aegisipc.eventstore.lifecycles import CALL, CallEvent, CallState
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.memories import MAX_SESSIONS, Outcome, Outcomes, Sessions
from aegisipc.eventstore.subjects import CALL as CALL_KIND
from aegisipc.eventstore.subjects import EVIDENCE as EVIDENCE_KIND
from aegisipc.eventstore.subjects import PEN as PEN_KIND
from aegisipc.eventstore.subjects import Place
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
]

EVENT_OF: Final = {
    Mark.CLAIMED: CallEvent.CLAIMED,
    Mark.SUCCEEDED: CallEvent.SUCCEEDED,
    Mark.FAILED: CallEvent.FAILED,
    Mark.EXPIRED: CallEvent.EXPIRED,
    Mark.IN_DOUBT: CallEvent.DOUBTED,
    Mark.NOT_EXECUTED: CallEvent.RESOLVED_NOT_EXECUTED,
    Mark.EXECUTED: CallEvent.RESOLVED_EXECUTED,
    Mark.DEAD_LETTERED: CallEvent.DEAD_LETTERED,
}
"""What the marks that move a call mean for it. The others say something beside its lifecycle."""


_NEXT: Final = CALL.table
_FINAL: Final = CALL.final


class Evidence(NamedTuple):
    """What an instance that lost the pen says of a call that it had claimed: it ran, and with this outcome.
    ``emitted`` are the events of the shared state that belong to the outcome.
    """

    mark: Mark
    body: bytes | None
    writer: str
    emitted: tuple[bytes, ...]


class OpenCall:
    """A call without a final outcome. ``deadline_ns`` and ``since_ns`` (its latest change) are on the
    server's clock; ``body`` is ``b""`` in header-only folds. ``attempts`` counts how often it was begun
    again alone, because it may have taken an instance down.
    """

    __slots__ = (
        "attempts",
        "body",
        "call_id",
        "claimed_by",
        "claimed_epoch",
        "client",
        "deadline_ns",
        "evidence",
        "method",
        "resource",
        "seq",
        "since_ns",
        "state",
    )

    def __init__(  # noqa: PLR0917 - made for every call: keywords would cost
        self,
        call_id: CallId,
        client: str,
        method: str,
        resource: str | None,
        seq: int,
        deadline_ns: int,
        body: bytes,
        since_ns: int = 0,
    ) -> None:
        self.call_id = call_id
        self.client = client
        self.method = method
        self.resource = resource
        self.seq = seq
        self.deadline_ns = deadline_ns
        self.body = body
        self.state = CallState.ACCEPTED
        self.claimed_by: str | None = None
        self.claimed_epoch = 0
        self.since_ns = since_ns
        self.attempts = 0
        self.evidence: Evidence | None = None

    def __repr__(self) -> str:
        return f"OpenCall({format_call_id(self.call_id)} {self.method} {self.state} from {self.client})"


class Concluded(NamedTuple):
    """An outcome that this record was the first to give, with the call it belongs to."""

    call: OpenCall
    outcome: Outcome
    writer: str


class Folded(NamedTuple):
    """What one record changed: calls that became open, were claimed, were concluded, were found not to have
    run after a doubt, got evidence; and, where bodies are kept, what was said of the shared state, in order.
    """

    opened: Sequence[OpenCall] = ()
    claimed: Sequence[OpenCall] = ()
    concluded: Sequence[Concluded] = ()
    reopened: Sequence[OpenCall] = ()
    evidenced: Sequence[OpenCall] = ()
    state: Sequence[tuple[Mark, bytes]] = ()


NOTHING: Final = Folded()


_STATE_OF: Final = {
    None: CallState.ACCEPTED,
    Mark.CLAIMED: CallState.STARTED,
    Mark.SUCCEEDED: CallState.SUCCEEDED,
    Mark.FAILED: CallState.FAILED,
    Mark.EXPIRED: CallState.EXPIRED,
    Mark.IN_DOUBT: CallState.IN_DOUBT,
    Mark.NOT_EXECUTED: CallState.ACCEPTED,
    Mark.EXECUTED: CallState.IN_DOUBT,
    Mark.DEAD_LETTERED: CallState.DEAD_LETTERED,
}


def counts(before: Mark | None, mark: Mark) -> bool:
    """Tell whether `mark` changes a call of which `before` is the latest mark that counted (``None``: none
    yet).

    This is the rule of :class:`GroupCalls` for readers that look at single calls: a claim after a claim does
    not count, nor a word that the call expired after it was claimed, nor anything after a final outcome, nor
    what says something beside its lifecycle.
    """
    event = EVENT_OF.get(mark)
    return event is not None and (_STATE_OF[before], event) in _NEXT


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
        "open",
        "outcomes",
        "sessions",
    )

    def __init__(
        self, *, keep_bodies: bool, outcomes: Outcomes | None = None, is_fenced: bool = False
    ) -> None:
        self.keep_bodies = keep_bodies
        self.is_fenced = is_fenced
        self.holder: str | None = None
        self.epoch = 0
        self.open: dict[CallId, OpenCall] = {}
        self.outcomes = outcomes
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
            if place.kind == PEN_KIND:
                return self._pen(record, place, pen or decode_pen(record.payload, bodies=self.keep_bodies))
            if place.kind == EVIDENCE_KIND:
                return self._evidence(record, place, decode_pen(record.payload, bodies=self.keep_bodies))
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
        for (call_id, method, timeout_ms, resource), body in zip(frame.entries, bodies, strict=True):
            if call_id in self.open:
                self.anomalies["call id used twice"] += 1
                continue
            deadline_ns = stored_ns + timeout_ms * 1_000_000
            call = OpenCall(call_id, client, method, resource, seq, deadline_ns, body, stored_ns)
            self.open[call_id] = call
            opened.append(call)
        self.accepted += len(opened)
        return Folded(opened=opened)

    def _pen(self, record: Record, place: Place, frame: PenFrame) -> Folded:  # noqa: C901 - the hot loop
        writer, open_calls, stored_ns = place.who, self.open, record.timestamp_ns
        if self.is_fenced and (writer, frame.epoch) != (self.holder, self.epoch):
            self.anomalies["not the holder's"] += 1
            return NOTHING  # and its number is not remembered: it must not hide a frame that counts
        if not self.sessions.is_new(record.subject, frame.session, frame.number):
            self.anomalies["frame stored twice"] += 1
            return NOTHING
        claimed, concluded, marks = [], [], []
        reopened: list[OpenCall] = []
        state: list[tuple[Mark, bytes]] = []
        keep = self.outcomes.add if self.outcomes is not None else None
        bodies = frame.bodies or (None,) * len(frame.entries)
        for (mark, call_id), body in zip(frame.entries, bodies, strict=True):
            call = open_calls.get(call_id)
            event = EVENT_OF.get(mark)
            if event is None:
                self._note(mark, call, body, state)
                continue
            if call is None:
                self.anomalies["late"] += 1
                continue
            after = _NEXT.get((call.state, event))
            if after is None:
                self.anomalies[f"call {call.state} {event}"] += 1
                continue
            call.state = after
            call.since_ns = stored_ns
            if mark is Mark.CLAIMED:
                call.claimed_by, call.claimed_epoch = writer, frame.epoch
                claimed.append(call)
                continue
            if mark not in OUTCOMES:
                self._resolve(mark, call, reopened)
                continue
            outcome = new_tuple(Outcome, (call_id, mark, body))
            concluded.append(new_tuple(Concluded, (call, outcome, writer)))
            marks.append(mark)
            if after in _FINAL:
                del open_calls[call_id]
            if keep is not None:
                keep(outcome)
        self.concluded.update(marks)
        return Folded(claimed=claimed, concluded=concluded, reopened=reopened or (), state=state or ())

    def _note(
        self, mark: Mark, call: OpenCall | None, body: bytes | None, state: list[tuple[Mark, bytes]]
    ) -> None:
        """Take in what moves no call."""
        if mark is not Mark.CHECKED and call is None:
            self.anomalies["late"] += 1
        elif mark is Mark.ATTEMPTED and call is not None:
            call.attempts += 1
        elif body is not None:  # else only headers are read here
            state.append((mark, body))

    def _resolve(self, mark: Mark, call: OpenCall, reopened: list[OpenCall]) -> None:
        """The doubt about it is over. If it ran, its outcome follows."""
        if mark is not Mark.NOT_EXECUTED:
            return
        reopened.append(call)
        call.claimed_by, call.claimed_epoch, call.evidence = None, 0, None
        if self.outcomes is not None:
            self.outcomes.drop(call.call_id)

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
            "open": [_open_plain(call) for call in sorted(self.open.values(), key=_by_id)],
            "concluded": {mark.name.lower(): self.concluded[mark] for mark in Mark if self.concluded[mark]},
            "anomalies": dict(sorted(self.anomalies.items())),
        }


def _open_plain(call: OpenCall) -> dict[str, Any]:
    return {
        "call_id": format_call_id(call.call_id),
        "client": call.client,
        "method": call.method,
        "resource": call.resource,
        "seq": call.seq,
        "deadline_ns": call.deadline_ns,
        "state": str(call.state),
        "claimed_by": call.claimed_by,
        "claimed_epoch": call.claimed_epoch,
        "since_ns": call.since_ns,
        "attempts": call.attempts,
        "evidence_of": call.evidence.writer if call.evidence is not None else None,
    }


def _by_id(call: OpenCall) -> CallId:
    return call.call_id
