"""The history of one call: everything that the log says of it, in order, and what that comes to.

:class:`CallHistory` is a pure fold; :mod:`aegisipc.eventstore.seeking` feeds it from a log. It counts by the
rules of :class:`~aegisipc.eventstore.calls.GroupCalls`, and in a pool by those that its workers go by: a
frame that was stored twice counts once, in an owned group only the holder of the pen concludes, in a pool a
doubt names its claim and a resolution its doubt, and nothing counts after a final outcome. What does not
count is part of the history all the same, and marked so.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.calls import counts
from aegisipc.eventstore.codec import decode
from aegisipc.eventstore.errors import CodecError, MalformedPayload
from aegisipc.eventstore.frames import OUTCOMES, Mark, PenFrame, decode_calls, decode_pen
from aegisipc.eventstore.ids import CallId
from aegisipc.eventstore.lifecycles import CallState
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.memories import Outcome, Sessions
from aegisipc.eventstore.names import POOL_GROUP
from aegisipc.eventstore.subjects import EVIDENCE, HA, PEN, Place, Subjects
from aegisipc.eventstore.topology import Topology

MAX_STEPS: Final = 1000
"""Steps of a history that are kept: the first ones, and always the last."""

ACCEPTED: Final = "accepted"
EVIDENCED: Final = "evidence"

PEN_MOVES: Final = {
    ev.GroupPromoted: "promoted",
    ev.GroupVacated: "vacated",
    ev.GroupHandoverStarted: "handover_started",
    ev.GroupHandoverCancelled: "handover_cancelled",
}
"""Steps that are about the group's pen, and change what may become of the call."""

_FINAL: Final = OUTCOMES - {Mark.IN_DOUBT}
_STATE_OF: Final[dict[Mark | None, CallState]] = {
    None: CallState.ACCEPTED,
    Mark.CLAIMED: CallState.STARTED,
    Mark.NOT_EXECUTED: CallState.ACCEPTED,
    Mark.EXECUTED: CallState.IN_DOUBT,  # its outcome follows
    **{mark: CallState(mark.name.lower()) for mark in OUTCOMES},
}


class AcceptedCall(NamedTuple):
    """A call as its frame tells it. Times are the server's Unix nanoseconds; ``body`` holds the encoded
    arguments, ``epoch`` is the group's as the client knew it.
    """

    call_id: CallId
    service: str
    group: str
    client: str
    method: str
    resource: str | None
    seq: int
    at_ns: int
    deadline_ns: int
    epoch: int
    body: bytes


class Step(NamedTuple):
    """One thing that the log says of the call, or of who held the pen meanwhile.

    ``what`` is ``accepted``, the name of a mark (``claimed``), ``evidence``, or one of ``PEN_MOVES``.
    ``counts`` tells whether it changed anything. ``body`` is what the mark carries, ``emitted`` are the
    events of the shared state that came with it. ``mark`` is that of the outcome in evidence, too; ``event``
    is set for a move of the pen.
    """

    what: str
    seq: int
    at_ns: int
    writer: str
    epoch: int
    counts: bool = True
    mark: Mark | None = None
    body: bytes | None = None
    emitted: tuple[bytes, ...] = ()
    event: ev.Event | None = None


class CallHistory:
    """The fold. Feed it with the records of ``fence`` from the beginning of the log up to the call's, and
    with those of ``fence``, ``pen`` and ``evidence`` from there on.
    """

    def __init__(self, subjects: Subjects, call: AcceptedCall) -> None:
        self.call = call
        self.steps = [Step(ACCEPTED, call.seq, call.at_ns, call.client, call.epoch)]
        self.omitted = 0
        """Steps that are not kept."""
        self.outcome: Outcome | None = None
        self.claim: Step | None = None
        """The claim that counts now; ``None`` if nobody has claimed the call."""
        self.doubt: Step | None = None
        """The latest doubt that counted, whether it has ended or not."""
        self.evidence: Step | None = None
        """The word of the one who claimed the call and lost the pen."""
        self.resolution: Step | None = None
        """What ended the latest doubt."""
        self.attempts = 0
        """How often it was begun again alone."""
        self.fence = subjects.fence(call.service, call.group)
        self.pen = subjects.of_kind(call.service, call.group, PEN)
        self.evidence_subject = subjects.of_kind(call.service, call.group, EVIDENCE)
        self._subjects = subjects
        self._topology = Topology(subjects)
        self._sessions = Sessions()
        self._latest: Mark | None = None

    @property
    def state(self) -> CallState:
        """Where the call is in its lifecycle."""
        return _STATE_OF[self._latest]

    @property
    def is_final(self) -> bool:
        """Nothing that comes counts any more."""
        return self._latest in _FINAL

    @property
    def is_pool(self) -> bool:
        """The call is a pool's: no pen, and many who write."""
        return self.call.group == POOL_GROUP

    @property
    def holder(self) -> tuple[str | None, int]:
        """Who holds the pen at the end of what was read, and the epoch."""
        group = self._topology.group(self.call.service, self.call.group)
        return (group.holder, group.epoch) if group is not None else (None, 0)

    def apply(self, record: Record) -> None:
        """Fold one record; one that is about another group changes nothing."""
        try:
            place = self._subjects.parse(record.subject)
            if (place.service, place.group) != (self.call.service, self.call.group):
                return
            if place.kind == HA:
                self._move_pen(record, place)
            elif place.kind in (PEN, EVIDENCE) and record.seq > self.call.seq:
                self._read(record, place, decode_pen(record.payload))
        except MalformedPayload:
            return  # no fold can read it

    def _move_pen(self, record: Record, place: Place) -> None:
        before = self.holder
        event = self._topology.apply(record, place)
        if record.seq <= self.call.seq or self.is_final or not isinstance(event, ev.Event):
            return
        what = PEN_MOVES.get(type(event))
        if what is None or (what == "promoted" and self.holder == before):
            return  # written again, so that it does not age out
        by = str(getattr(event, "decided_by", ""))
        self._add(Step(what, record.seq, record.timestamp_ns, by, self.holder[1], event=event))

    def _read(self, record: Record, place: Place, frame: PenFrame) -> None:
        take = self._take_evidence if place.kind == EVIDENCE else self._take
        may_count = place.kind == EVIDENCE or self.is_pool or (place.who, frame.epoch) == self.holder
        if may_count:  # else its number is not remembered: it must not hide a frame that counts
            may_count = self._sessions.is_new(record.subject, frame.session, frame.number)
        head = Step("", record.seq, record.timestamp_ns, place.who, frame.epoch, may_count)
        emitted: tuple[bytes, ...] = ()
        for (mark, call_id), body in zip(frame.entries, frame.bodies, strict=True):
            if call_id != self.call.call_id:
                continue
            if mark is Mark.EMITTED:
                emitted += (body or b"",)
                continue
            take(head._replace(what=mark.name.lower(), mark=mark, body=body, emitted=emitted), mark)
            emitted = ()

    def _take_evidence(self, step: Step, mark: Mark) -> None:
        is_of_use = (
            step.counts
            and mark in (Mark.SUCCEEDED, Mark.FAILED)
            and self.evidence is None
            and self.claim is not None
            and self.claim.writer == step.writer
            and not self.is_final
        )
        step = step._replace(what=EVIDENCED, counts=is_of_use)
        if is_of_use:
            self.evidence = step
        self._add(step)

    def _take(self, step: Step, mark: Mark) -> None:
        if mark is Mark.ATTEMPTED:
            self._take_attempt(step)
            return
        step = step._replace(counts=step.counts and counts(self._latest, mark) and self._is_about_this(step))
        self._add(step)
        if step.counts:
            self._move(step, mark)

    def _take_attempt(self, step: Step) -> None:
        """It says something beside the call's course. In a pool it has a number, and counts if it is the next
        one of a call of which nothing else was said.
        """
        if self.is_pool:
            is_next = self._latest is None and _said(step.body) == self.attempts + 1
        else:
            is_next = not self.is_final
        step = step._replace(counts=step.counts and is_next)
        self.attempts += step.counts
        self._add(step)

    def _move(self, step: Step, mark: Mark) -> None:
        self._latest = mark
        if mark in OUTCOMES:
            self.outcome = Outcome(self.call.call_id, mark, step.body)
        if mark is Mark.CLAIMED:
            self.claim = step
        elif mark is Mark.IN_DOUBT:
            self.doubt = step
        elif mark in (Mark.EXECUTED, Mark.NOT_EXECUTED):
            self.resolution = step
        if mark is Mark.NOT_EXECUTED:
            self.outcome = self.claim = self.evidence = None

    def _is_about_this(self, step: Step) -> bool:
        """In a pool, where many write, a doubt names its claim, and a resolution its doubt: one that comes
        late is about another.
        """
        if not self.is_pool:
            return True
        if step.mark is Mark.IN_DOUBT and self.claim is not None:
            return _named(step.body, "details", "claimed_seq") in (0, self.claim.seq)
        if step.mark is Mark.NOT_EXECUTED and self.doubt is not None:
            return _named(step.body, "doubt_seq") in (0, self.doubt.seq)
        return True

    def _add(self, step: Step) -> None:
        if len(self.steps) >= MAX_STEPS:
            self.steps.pop()
            self.omitted += 1
        self.steps.append(step)


def accepted_in(
    record: Record, subjects: Subjects, sessions: Sessions, call_id: CallId
) -> AcceptedCall | None:
    """Return the call of that id, if it is in this call frame. `sessions` remembers the frames before."""
    try:
        place = subjects.parse(record.subject)
        frame = decode_calls(record.payload, bodies=False)
    except MalformedPayload:
        return None
    if not sessions.is_new(record.subject, frame.session, frame.number):
        return None  # stored after a later frame of its session: no fold counts it, so it never runs
    for index, entry in enumerate(frame.entries):
        if entry.call_id == call_id:
            return AcceptedCall(
                call_id,
                place.service,
                place.group,
                place.who,
                entry.method,
                entry.resource,
                record.seq,
                record.timestamp_ns,
                record.timestamp_ns + entry.timeout_ms * 1_000_000,
                frame.epoch,
                decode_calls(record.payload).bodies[index],
            )
    return None


def _said(body: bytes | None) -> Any:
    try:
        return decode(body) if body is not None else None
    except CodecError:
        return None


def _named(body: bytes | None, *path: str) -> int:
    """Return the sequence that a body names, 0 if it names none."""
    found = _said(body)
    try:
        for key in path:
            found = found[key]
    except (LookupError, TypeError):
        return 0
    return found if type(found) is int else 0
