"""The history of one call: everything that the log says of it, in order, and what that comes to.

:class:`CallHistory` is a pure fold; :mod:`aegisipc.eventstore.seeking` feeds it from a log. It counts by the
rules of :class:`~aegisipc.eventstore.calls.GroupCalls`, and in a pool by those that its workers go by: a
frame that was stored twice counts once, in an owned group only the holder of the pen concludes, in a pool a
doubt names its claim and a resolution its doubt, and nothing counts after a final outcome. What does not
count is part of the history all the same, and marked so.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.calls import counts, state_after
from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.eventstore.frames import FINAL, OUTCOMES, CallOptions, Mark, PenFrame, decode_calls, decode_pen
from aegisipc.eventstore.ids import CallId, parse_call_id
from aegisipc.eventstore.lifecycles import CallState
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.memories import Outcome, Sessions
from aegisipc.eventstore.names import POOL_GROUP
from aegisipc.eventstore.open_calls import call_requeued
from aegisipc.eventstore.pool_naming import NAMING, Standing, is_about, named_in, number_in
from aegisipc.eventstore.subjects import CANCEL, CONCLUSIONS, EVIDENCE, HA, Place, Subjects
from aegisipc.eventstore.topology import Topology

MAX_STEPS: Final = 1000
"""Steps of a history that are kept: the first ones, and always the last."""

ACCEPTED: Final = "accepted"
EVIDENCED: Final = "evidence"
CANCEL_REQUESTED: Final = "cancel_requested"

PEN_MOVES: Final = {
    ev.GroupPromoted: "promoted",
    ev.GroupVacated: "vacated",
    ev.GroupHandoverStarted: "handover_started",
    ev.GroupHandoverCancelled: "handover_cancelled",
}
"""Steps that are about the group's pen, and change what may become of the call."""

_FINAL: Final = FINAL | {Mark.DISCARDED}
_BESIDE: Final = frozenset({Mark.KEYED, Mark.RELEASED})


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
    options: CallOptions | None = None


class Step(NamedTuple):
    """One thing that the log says of the call, or of who held the pen meanwhile.

    ``what`` is ``accepted``, the name of a mark (``claimed``), ``evidence``, ``cancel_requested``, or one of
    ``PEN_MOVES``.
    ``counts`` tells whether it changed anything. ``body`` is what the mark carries, ``emitted`` are the
    events of the shared state that came with it. ``mark`` is that of the outcome in evidence, too; ``event``
    is set for a move of the pen, and for a request to cancel.
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
    with those of ``subjects`` from there on. Where the log begins later than at its beginning, `topology` is
    that of just before its first record.
    """

    def __init__(self, subjects: Subjects, call: AcceptedCall, topology: Topology | None = None) -> None:
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
        self.dead_letter: Step | None = None
        """The latest word that it is given up."""
        self.resolution: Step | None = None
        """What ended the latest doubt."""
        self.promotion: Step | None = None
        """How whoever held the pen when the call was accepted had got it; ``None``: nobody held it."""
        self.attempts = 0
        """How often it was begun again alone; in a pool, since it last came to an end."""
        self.tries = 0
        """How many attempts failed by its retry policy, since it was accepted or requeued."""
        self.fence = subjects.fence(call.service, call.group)
        self.conclusions = [self.fence, *subjects.conclusions(call.service, call.group)]
        """Filters: what decides about its outcome."""
        self.subjects = [
            *self.conclusions,
            *(subjects.of_kind(call.service, call.group, kind) for kind in (EVIDENCE, CANCEL)),
        ]
        """Filters: all that is said of it."""
        self._subjects = subjects
        self._topology = topology if topology is not None else Topology(subjects)
        self._sessions = Sessions()
        self._latest: Mark | None = None

    @property
    def state(self) -> CallState:
        """Where the call is in its lifecycle."""
        return state_after(self._latest)

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
            elif record.seq <= self.call.seq:
                return
            elif place.kind in CONCLUSIONS or place.kind == EVIDENCE:
                self._read(record, place, decode_pen(record.payload))
            elif place.kind == CANCEL:
                self._read_cancel(record, place, ev.decode_event(record.payload))
        except MalformedPayload:
            return  # no fold can read it

    def _move_pen(self, record: Record, place: Place) -> None:
        before = self.holder
        event = self._topology.apply(record, place)
        if self.is_final or not isinstance(event, ev.Event):
            return
        what = PEN_MOVES.get(type(event))
        if what is None or (what == "promoted" and self.holder == before):
            return  # written again, so that it does not age out
        by = str(getattr(event, "decided_by", ""))
        step = Step(what, record.seq, record.timestamp_ns, by, self.holder[1], event=event)
        if record.seq > self.call.seq:
            self._add(step)
        elif self.holder != before:
            self.promotion = step if what == "promoted" else None

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

    def _read_cancel(self, record: Record, place: Place, event: ev.Event | ev.UnknownEvent) -> None:
        if not isinstance(event, ev.CancelRequested):
            return
        if self.call.call_id in [parse_call_id(text) for text in event.call_ids]:
            counted = not self.is_final and self._latest is not Mark.DEAD_LETTERED
            step = Step(CANCEL_REQUESTED, record.seq, record.timestamp_ns, place.who, 0, counted, event=event)
            self._add(step)

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
        if mark in _BESIDE:
            self._add(step._replace(counts=step.counts and not self.is_final))
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
            may_be_begun = self._latest in (None, Mark.RETRY_SCHEDULED, Mark.REQUEUED)
            is_next = may_be_begun and number_in(step.body) == self.attempts + 1
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
        elif mark is Mark.DEAD_LETTERED:
            self.dead_letter = step
        elif mark in (Mark.EXECUTED, Mark.NOT_EXECUTED):
            self.resolution = step
        elif mark is Mark.REQUEUED:
            self._requeue(step)
        elif mark is Mark.RETRY_SCHEDULED:
            self.tries += 1
        if mark in (Mark.NOT_EXECUTED, Mark.REQUEUED, Mark.RETRY_SCHEDULED):
            self.outcome = self.claim = self.evidence = None
            if self.is_pool and mark is not Mark.NOT_EXECUTED:
                self.attempts = 0

    def _requeue(self, step: Step) -> None:
        self.tries = 0
        timeout_ms = named_in(step.body, "timeout_ms")
        self.call = self.call._replace(deadline_ns=step.at_ns + timeout_ms * 1_000_000)

    def _is_about_this(self, step: Step) -> bool:
        """In a pool, where many write, what could do harm when it comes late names what it is about; it may
        be about something else by now. In an owned group a dead letter runs again only with its call.
        """
        if not self.is_pool:
            return step.mark is not Mark.REQUEUED or call_requeued(step.body) is not None
        if step.mark not in NAMING:
            return True
        claim = self.claim.seq if self.claim is not None and self._latest is Mark.CLAIMED else 0
        dead_letter = self.dead_letter.seq if self.dead_letter is not None else 0
        doubt = self.doubt.seq if self.doubt is not None else 0
        latest = doubt if step.mark is Mark.NOT_EXECUTED else dead_letter
        return is_about(Standing(claim, latest, dead_letter, self.tries), step.mark, step.body)

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
        if entry.call_id == call_id and (entry.options is None or entry.options.requeue is None):
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
                entry.options,
            )
    return None
