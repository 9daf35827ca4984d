"""The core of one worker of a pool: it takes frames it is handed, runs their calls, and writes the outcomes.

Many workers may write here, and a frame may be handed out twice, so the log decides: the first conclusion of
a call counts, the first claim of a ``once`` call counts (see :mod:`~aegisipc.sdk.core.pool_facts`). A worker
replies, or starts what it claimed, only after it has seen its own record come back as the first on the log it
follows. What is claimed, or begun again, by a worker that lives is left to it.

A frame is acknowledged when every call in it has come to its end, and a doubt is no end: should it turn out
that the call did not run, it must be run, by somebody who has it. So a frame stays with a worker until its
doubts are resolved, and goes to another one when that worker is gone, like any other frame. Whoever resolves
a doubt needs only to write that; whoever has the frame reads it and goes on. (Were such frames acknowledged,
a call found not to have run would be in the memory of the one who found that, and lost with it.)
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from aegisipc.eventstore.calls import OpenCall, Outcome, Outcomes
from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.eventstore.events import Effect, Resolution
from aegisipc.eventstore.frames import OUTCOMES, CallFrame, Mark, decode_pen
from aegisipc.eventstore.ids import CallId
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.subjects import HA, PEN, Place, Subjects
from aegisipc.eventstore.topology import InstanceView
from aegisipc.sdk.core.pen import Identity, Pen, Start, Written
from aegisipc.sdk.core.pool_facts import BESIDE, FINAL, Known, PoolFacts, resolution_body
from aegisipc.sdk.core.pool_frames import Deliveries, Delivery
from aegisipc.sdk.core.pool_hand import Hand
from aegisipc.sdk.core.pool_standing import Standing

type Reply = tuple[CallId, int, bytes | None]


class Resolved(NamedTuple):
    """What came of a resolution that this worker wrote: ``seq`` is where it stands in the log, 0 if another
    word about the call was there first.
    """

    call_id: CallId
    seq: int


class PoolWorker:
    """State of one worker. Times are nanoseconds on the server's clock.

    A frame is acknowledged whole, so its calls stay with the worker that took it: a long call delays those of
    its frame that wait behind it, though another worker may be idle. Clients keep that small by splitting
    bursts over the workers that are ready, and workers by asking only while they have a free slot; a
    ``max_running`` well above one keeps long calls from filling every slot.
    """

    def __init__(
        self,
        identity: Identity,
        effects: Mapping[str, Effect],
        subjects: Subjects,
        *,
        max_running: int,
        max_frame_bytes: int,
    ) -> None:
        self.identity = identity
        self.standing = Standing(identity, subjects)
        self.frames = Deliveries()
        self.facts = PoolFacts(lambda call_id: self.frames.holds(call_id) or call_id in self._resolving)
        self.outcomes = Outcomes()
        self.anomalies: Counter[str] = Counter()
        self._subjects = subjects
        self._pen = Pen(identity, max_frame_bytes)
        self._hand = Hand(self.standing, self.facts, self.frames, self._pen, effects, max_running)
        self._resolving: dict[CallId, OpenCall] = {}
        self._unanswered = 0
        self._replies: list[tuple[str, Reply]] = []
        self._resolved: list[Resolved] = []

    # -- what it knows ----------------------------------------------------------------------------------

    @property
    def me(self) -> InstanceView | None:
        """This instance as the log tells it; ``None`` before this incarnation's registration was folded."""
        return self.standing.me

    @property
    def is_eldest(self) -> bool:
        """Of the workers that are ready, this one registered first: what one of them is to do, it does."""
        return self.standing.is_eldest

    @property
    def deliveries(self) -> dict[int, Delivery]:
        """The frames in hand, by their sequence."""
        return self.frames.by_seq

    @property
    def doubts(self) -> Mapping[CallId, OpenCall]:
        """The calls in doubt of the frames in hand."""
        return self._hand.doubts

    @property
    def running(self) -> int:
        """How many slots are taken: handlers that run, and calls whose claim or attempt is being written."""
        return self._hand.running

    @property
    def waiting(self) -> int:
        """How many calls wait here for a free slot."""
        return len(self._hand.waiting)

    @property
    def is_draining(self) -> bool:
        """It takes no more frames, for good."""
        return self.standing.is_draining

    @property
    def is_quiet(self) -> bool:
        """Nothing runs here, or will, and everything written came back from the log."""
        is_waiting = self.waiting > 0 and self.standing.may_start
        return self.running == 0 and not is_waiting and self._pen.is_idle and self._unanswered == 0

    @property
    def free(self) -> int:
        """How many more calls could start at once."""
        if not (self.standing.keeps_frames and self.standing.may_start) or self._hand.suspects.is_alone:
            return 0
        return max(0, self._hand.max_running - self.running - self.waiting)

    @property
    def wants(self) -> int:
        """How many more frames to ask for: an idle worker asks first, a full one not at all."""
        if self.free == 0:
            return 0
        return 2 if self.running + self.waiting < self._hand.max_running // 2 else 1

    # -- what happens -----------------------------------------------------------------------------------

    def on_record(self, record: Record, now_ns: int) -> None:
        """Fold a record of the pool's log: its instances, and what was claimed and concluded."""
        place = self._subjects.parse(record.subject)
        if place.kind == HA:
            self.standing.apply(record, place)
            self._hand.mind_orphans()
        elif place.kind == PEN:
            self._on_pen(record, place, now_ns)
        if not self.standing.keeps_frames and not self.standing.is_draining:
            self._hand.give_back()
        self._hand.pump(now_ns)

    def on_frame(
        self,
        token: str,
        record: Record,
        frame: CallFrame,
        known: Mapping[CallId, Known],
        now_ns: int,
        *,
        is_again: bool = False,
        is_suspect: bool = False,
    ) -> None:
        """Take a call frame that was handed out.

        `is_again`: it may have been handed out before; then `known` is what the log says of its calls.
        `is_suspect`: it certainly was, to one who neither concluded all of it nor gave it back.
        """
        again = self.deliveries.get(record.seq)
        if again is not None:  # it is in work: only the newest token can acknowledge it
            again.token = token
            return
        client = self._subjects.parse(record.subject).who
        self.deliveries[record.seq] = Delivery(token, is_again=is_again, is_suspect=is_suspect)
        for entry, body in zip(frame.entries, frame.bodies, strict=True):
            found = known.get(entry.call_id)
            if found is not None:
                self.facts.learn(entry.call_id, found)
            deadline_ns = record.timestamp_ns + entry.timeout_ms * 1_000_000
            self._take(
                OpenCall(entry.call_id, client, entry.method, entry.resource, record.seq, deadline_ns, body)
            )
        if record.seq in self.deliveries:
            self.frames.look_at(record.seq)
        self._hand.pump(now_ns)

    def _take(self, call: OpenCall) -> None:
        known = self.facts.get(call.call_id)
        if known is not None and known.is_final:
            return
        if self.frames.holds(call.call_id):
            self.anomalies["frame stored twice"] += 1
            return  # it is in work already, and the frame it came with stays open for it
        self.frames.add(call.call_id, call.seq)
        self._hand.place(call)

    def on_finished(self, start: Start, mark: Mark, body: bytes | None, now_ns: int) -> None:
        """Take the outcome of a call that ran. If it is in doubt by now, this ends the doubt."""
        self._hand.finished(start.call, mark, body)
        self._hand.pump(now_ns)

    def on_tick(self, now_ns: int) -> None:
        """Conclude what expired while it waited."""
        self._hand.expire(now_ns)

    def drain(self) -> None:
        """Take no more frames, and go on with those begun: nobody else can have their calls before their
        deliveries end. Those not begun go to other workers at once.
        """
        self.standing.is_draining = True
        self._hand.give_back()

    def hold(self) -> None:
        """Start nothing more until :meth:`release`; frames not begun go to other workers at once, others when
        what was begun of them is concluded.
        """
        self.standing.is_held = True
        self._hand.give_back()

    def release(self, now_ns: int) -> None:
        """Go on after :meth:`hold`."""
        self.standing.is_held = False
        self._hand.pump(now_ns)

    def resolve(self, call: OpenCall, resolution: Resolution, result: bytes | None) -> bool:
        """Write that a doubt is over: the call ran, with that `result`, or it did not (``None``). What counts
        comes out of :meth:`take_resolved`. Returns ``False`` if there is nothing to resolve: the call is not
        in doubt, a resolution is on its way, or it runs right here.
        """
        known = self.facts.get(call.call_id)
        is_doubt = known is not None and known.mark is Mark.IN_DOUBT
        if (
            known is None
            or not is_doubt
            or call.call_id in self._resolving
            or call.call_id in self._hand.begun
        ):
            return False
        self._resolving[call.call_id] = call
        said = resolution_body(resolution, known)
        if result is None:
            self._pen.note(Mark.NOT_EXECUTED, call, said)
        else:
            self._pen.note(Mark.EXECUTED, call, said)
            self._pen.note(Mark.SUCCEEDED, call, result)
        return True

    # -- what to do -------------------------------------------------------------------------------------

    def take_starts(self) -> list[Start]:
        """Return the calls to run now; each is given once."""
        return self._hand.take_starts()

    def take_replies(self) -> dict[str, list[Reply]]:
        """Return, per client, the outcomes that are now certain."""
        by_client: dict[str, list[Reply]] = defaultdict(list)
        for client, outcome in self._replies:
            by_client[client].append(outcome)
        self._replies = []
        return by_client

    def take_resolved(self) -> list[Resolved]:
        """Return what came of the resolutions that were written."""
        resolved, self._resolved = self._resolved, []
        return resolved

    def next_frame(self) -> Written | None:
        """Return what to write next, or ``None``."""
        written = self._pen.next_frame(epoch=0, expect=None)  # a pool has neither epochs nor a fence
        if written is not None:
            self._unanswered += 1
        return written

    def on_acked(self) -> None:
        """The frame is durable. What counts is decided when it comes back."""
        self._pen.settled()

    def answer(self, call_ids: Sequence[CallId]) -> list[Reply]:
        """Return the recorded outcomes of those calls whose outcomes are still remembered here."""
        found = (self.outcomes.get(call_id) for call_id in call_ids)
        return [(o.call_id, int(o.mark), o.body) for o in found if o is not None]

    def missing(self, call_ids: Sequence[CallId]) -> tuple[dict[CallId, int], list[CallId]]:
        """Tell what :meth:`answer` does not know: where the conclusions are whose bodies were forgotten, and
        the calls of which nothing is known.
        """
        forgotten: dict[CallId, int] = {}
        unknown: list[CallId] = []
        for call_id in call_ids:
            known = self.facts.get(call_id)
            if self.outcomes.get(call_id) is not None:
                continue
            if known is None:
                unknown.append(call_id)
            elif known.mark in OUTCOMES:
                forgotten[call_id] = known.seq
        return forgotten, unknown

    def on_found(self, outcome: Outcome, seq: int) -> None:
        """An outcome was looked up in the log, to answer with; what was followed meanwhile counts more."""
        known = self.facts.get(outcome.call_id)
        if known is None or known.seq == seq:
            self.outcomes.add(outcome)

    # -- the log's word ---------------------------------------------------------------------------------

    def _on_pen(self, record: Record, place: Place, now_ns: int) -> None:
        try:
            frame = decode_pen(record.payload)
        except MalformedPayload:
            self.anomalies["malformed"] += 1
            return
        if not self.facts.is_new(record, place.who, frame):
            return
        mine = place.who == self.identity.instance and frame.session == self.identity.session
        if mine:
            self._unanswered -= 1
        for (mark, call_id), body in zip(frame.entries, frame.bodies, strict=True):
            known = self.facts.fold(call_id, mark, body, place.who, record.seq, frame.session)
            if known is None:
                if mine and mark not in BESIDE:
                    self._in_vain(call_id, mark)
            elif mark in FINAL:
                self._conclude(Outcome(call_id, mark, body), record.seq, mine=mine)
            elif mark is Mark.IN_DOUBT:
                self._doubt(Outcome(call_id, mark, body), mine=mine)
            elif mark is Mark.NOT_EXECUTED:
                self._reopen(call_id, record.seq, mine=mine)
            else:
                self._hand.taken(call_id, now_ns, mine=mine)

    def _conclude(self, outcome: Outcome, seq: int, *, mine: bool) -> None:
        call_id = outcome.call_id
        self.outcomes.add(outcome)
        call = self._hand.remove(call_id)
        resolving = self._resolving.pop(call_id, None) if mine else None
        if resolving is not None:
            call = call or resolving
            self._resolved.append(Resolved(call_id, seq))
        self.frames.settle(call_id)
        self._reply(call, outcome, mine=mine)

    def _doubt(self, outcome: Outcome, *, mine: bool) -> None:
        self.outcomes.add(outcome)
        call = self._hand.remove(outcome.call_id)
        if call is not None:
            self._hand.doubt(call)
        self._reply(call, outcome, mine=mine)

    def _reply(self, call: OpenCall | None, outcome: Outcome, *, mine: bool) -> None:
        if call is not None and mine:
            self._replies.append((call.client, (outcome.call_id, int(outcome.mark), outcome.body)))

    def _reopen(self, call_id: CallId, seq: int, *, mine: bool) -> None:
        self.outcomes.drop(call_id)
        if mine and self._resolving.pop(call_id, None) is not None:
            self._resolved.append(Resolved(call_id, seq))
        self._hand.reopen(call_id)

    def _in_vain(self, call_id: CallId, mark: Mark) -> None:
        if mark in (Mark.NOT_EXECUTED, Mark.SUCCEEDED) and self._resolving.pop(call_id, None) is not None:
            self._resolved.append(Resolved(call_id, 0))
        self._hand.in_vain(call_id, mark)
