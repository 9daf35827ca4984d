"""The fold of one group's calls: which are open, who claimed them, what became of them.

It runs in the members of a group (with bodies, to run the calls) and in routers (headers only). A call is
open from its frame until its first conclusion in log order; whatever comes later for it is counted and
ignored, so every reader sees the same outcome.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.eventstore.frames import CallFrame, Mark, PenFrame, decode_calls, decode_pen
from aegisipc.eventstore.ids import CallId, format_call_id
from aegisipc.eventstore.lifecycles import CALL, CallEvent, CallState
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.subjects import CALL as CALL_KIND
from aegisipc.eventstore.subjects import PEN as PEN_KIND
from aegisipc.eventstore.subjects import Place
from aegisipc.eventstore.tuples import new_tuple

MAX_SESSIONS: Final = 65_536
"""Writers' sessions whose last frame number a fold remembers, most recently heard ones first."""

EVENT_OF: Final = {
    Mark.CLAIMED: CallEvent.CLAIMED,
    Mark.SUCCEEDED: CallEvent.SUCCEEDED,
    Mark.FAILED: CallEvent.FAILED,
    Mark.EXPIRED: CallEvent.EXPIRED,
    Mark.IN_DOUBT: CallEvent.DOUBTED,
}


_NEXT: Final = CALL.table
_FINAL: Final = CALL.final


class OpenCall:
    """A call without a final outcome. ``deadline_ns`` is on the server's clock; ``body`` is ``b""`` in
    header-only folds.
    """

    __slots__ = (
        "body",
        "call_id",
        "claimed_by",
        "client",
        "deadline_ns",
        "method",
        "resource",
        "seq",
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

    def __repr__(self) -> str:
        return f"OpenCall({format_call_id(self.call_id)} {self.method} {self.state} from {self.client})"


class Outcome(NamedTuple):
    """What became of a call: a final mark (or ``IN_DOUBT``) and the encoded result or error."""

    call_id: CallId
    mark: Mark
    body: bytes | None


class Concluded(NamedTuple):
    """An outcome that this record was the first to give, with the call it belongs to."""

    call: OpenCall
    outcome: Outcome
    writer: str


class Folded(NamedTuple):
    """What one record changed: calls that became open, calls that were claimed, calls that were concluded."""

    opened: Sequence[OpenCall] = ()
    claimed: Sequence[OpenCall] = ()
    concluded: Sequence[Concluded] = ()


NOTHING: Final = Folded()


_STATE_OF: Final = {
    None: CallState.ACCEPTED,
    Mark.CLAIMED: CallState.STARTED,
    Mark.SUCCEEDED: CallState.SUCCEEDED,
    Mark.FAILED: CallState.FAILED,
    Mark.EXPIRED: CallState.EXPIRED,
    Mark.IN_DOUBT: CallState.IN_DOUBT,
}


def counts(before: Mark | None, mark: Mark) -> bool:
    """Tell whether `mark` changes a call of which `before` is the latest mark that counted (``None``: none
    yet).

    This is the rule of :class:`GroupCalls` for readers that look at single calls: a claim after a claim does
    not count, nor a word that the call expired after it was claimed, nor anything after a final outcome.
    """
    return (_STATE_OF[before], EVENT_OF[mark]) in _NEXT


class Sessions:
    """Drops frames that were stored twice. Bounded; deterministic, because what is forgotten depends on log
    order only.
    """

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: OrderedDict[tuple[str, int], int] = OrderedDict()

    def is_new(self, subject: str, session: int, number: int) -> bool:
        """Tell whether this frame is the first of its number, and remember it."""
        key = (subject, session)
        if number <= self._last.get(key, 0):
            return False
        self._last[key] = number
        self._last.move_to_end(key)
        if len(self._last) > MAX_SESSIONS:
            self._last.popitem(last=False)
        return True


class Outcomes:
    """The latest outcomes of a group, for those who ask again. Bounded in count and bytes; older ones are in
    the log.
    """

    __slots__ = ("_bytes", "_kept", "_max_bytes", "_max_count")

    def __init__(self, max_count: int = 100_000, max_bytes: int = 64 << 20) -> None:
        self._kept: OrderedDict[CallId, Outcome] = OrderedDict()
        self._bytes = 0
        self._max_count = max_count
        self._max_bytes = max_bytes

    def add(self, outcome: Outcome) -> None:
        """Remember `outcome`, forgetting the oldest ones over the limits."""
        kept = self._kept
        call_id, _, body = outcome
        if call_id in kept:  # a doubt, resolved by now
            self._bytes -= len(kept.pop(call_id).body or b"")
        kept[call_id] = outcome
        if body is not None:
            self._bytes += len(body)
        while len(kept) > self._max_count or self._bytes > self._max_bytes:
            _, oldest = kept.popitem(last=False)
            self._bytes -= len(oldest.body or b"")

    def get(self, call_id: CallId) -> Outcome | None:
        """Return the outcome of a call, if it is still remembered."""
        return self._kept.get(call_id)


class GroupCalls:
    """The state of the fold for one group. Pure: :meth:`apply` depends on nothing but the records."""

    __slots__ = ("accepted", "anomalies", "concluded", "keep_bodies", "open", "outcomes", "sessions")

    def __init__(self, *, keep_bodies: bool, outcomes: Outcomes | None = None) -> None:
        self.keep_bodies = keep_bodies
        self.open: dict[CallId, OpenCall] = {}
        self.outcomes = outcomes
        self.sessions = Sessions()
        self.accepted = 0
        self.concluded: Counter[Mark] = Counter()
        self.anomalies: Counter[str] = Counter()

    def apply(self, record: Record, place: Place, pen: PenFrame | None = None) -> Folded:
        """Fold one record of the group; records of other kinds change nothing.

        `pen` is what the payload of a pen record says, if the caller wrote it and knows.
        """
        try:
            if place.kind == CALL_KIND:
                return self._calls(record, place, decode_calls(record.payload, bodies=self.keep_bodies))
            if place.kind == PEN_KIND:
                return self._pen(record, place, pen or decode_pen(record.payload, bodies=self.keep_bodies))
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
            call = OpenCall(call_id, client, method, resource, seq, stored_ns + timeout_ms * 1_000_000, body)
            self.open[call_id] = call
            opened.append(call)
        self.accepted += len(opened)
        return Folded(opened=opened)

    def _pen(self, record: Record, place: Place, frame: PenFrame) -> Folded:
        if not self.sessions.is_new(record.subject, frame.session, frame.number):
            self.anomalies["frame stored twice"] += 1
            return NOTHING
        claimed, concluded, marks = [], [], []
        writer, open_calls, keep = (
            place.who,
            self.open,
            self.outcomes.add if self.outcomes is not None else None,
        )
        bodies = frame.bodies or (None,) * len(frame.entries)
        for (mark, call_id), body in zip(frame.entries, bodies, strict=True):
            call = open_calls.get(call_id)
            if call is None:
                self.anomalies["late"] += 1
                continue
            event = EVENT_OF[mark]
            after = _NEXT.get((call.state, event))
            if after is None:
                self.anomalies[f"call {call.state} {event}"] += 1
                continue
            call.state = after
            if mark is Mark.CLAIMED:
                call.claimed_by = writer
                claimed.append(call)
                continue
            outcome = new_tuple(Outcome, (call_id, mark, body))
            concluded.append(new_tuple(Concluded, (call, outcome, writer)))
            marks.append(mark)
            if after in _FINAL:
                del open_calls[call_id]
            if keep is not None:
                keep(outcome)
        self.concluded.update(marks)
        return Folded(claimed=claimed, concluded=concluded)

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
    }


def _by_id(call: OpenCall) -> CallId:
    return call.call_id
