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

A dead letter is an end, and its frame is acknowledged. To run it again, its call is stored in a frame once
more, with the same id; whoever is handed that says first that the call runs again, and begins when this has
come back as what counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.eventstore.events import Effect, Resolution
from aegisipc.eventstore.frames import (
    CallEntry,
    CallFrame,
    Mark,
)
from aegisipc.eventstore.ids import CallId
from aegisipc.eventstore.keys import SEGMENT_KEYS, KeyOwner, Spill
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.memories import Outcome, Outcomes
from aegisipc.eventstore.open_calls import OpenCall
from aegisipc.eventstore.pool_keys import PoolKeys
from aegisipc.eventstore.subjects import CANCEL, CONCLUSIONS, HA, KEYS, Subjects
from aegisipc.eventstore.topology import InstanceView
from aegisipc.sdk.core.key_lookups import Lookup
from aegisipc.sdk.core.pen import Identity, Pen, Start, Written
from aegisipc.sdk.core.pool_answers import Reply, answer, missing
from aegisipc.sdk.core.pool_cancels import ToCancel
from aegisipc.sdk.core.pool_facts import Known, PoolFacts
from aegisipc.sdk.core.pool_folding import Folding
from aegisipc.sdk.core.pool_frames import Deliveries, Delivery
from aegisipc.sdk.core.pool_hand import Hand
from aegisipc.sdk.core.pool_key_words import KeyWords
from aegisipc.sdk.core.pool_requeues import opened, requeued
from aegisipc.sdk.core.pool_resolving import Resolved as Resolved  # noqa: PLC0414 - part of what it gives
from aegisipc.sdk.core.pool_resolving import Resolving
from aegisipc.sdk.core.pool_standing import Standing
from aegisipc.sdk.core.pool_words import requeued_body


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
        segment_keys: int = SEGMENT_KEYS,
        spill: Spill | None = None,
        outcomes: Outcomes | None = None,
    ) -> None:
        self.identity = identity
        self.standing = Standing(identity, subjects)
        self.frames = Deliveries()
        self.facts = PoolFacts(lambda call_id: self.frames.holds(call_id) or call_id in self._resolving)
        self.outcomes = outcomes or Outcomes()
        self._subjects = subjects
        self._pen = Pen(identity, max_frame_bytes)
        self.keys = PoolKeys(max_frame_bytes, segment_keys, spill)
        self._key_words = KeyWords(identity, self.facts, self._pen, self.keys, self._outcome_of)
        self.keying = self._key_words.keying
        self.anomalies = self._key_words.anomalies
        self._hand = Hand(
            self.standing, self.facts, self.frames, self._pen, self.keying, effects, max_running
        )
        self._resolving = Resolving(self._pen)
        self._folding = Folding(
            identity, self.facts, self._hand, self.frames, self.outcomes, self._resolving, self._key_words
        )

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
        return self.running == 0 and not is_waiting and self._pen.is_idle and self._folding.unanswered == 0

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
        try:
            place = self._subjects.parse(record.subject)
        except MalformedPayload:  # within our filter, yet no subject of ours: somebody else's record
            self.anomalies["misplaced"] += 1
            return
        kind = place.kind
        if kind in CONCLUSIONS:
            self._folding.apply(record, place.who, now_ns)
        elif kind == HA:
            self.standing.apply(record, place)
            self._hand.mind_orphans()
        elif kind == KEYS:
            self._key_words.on_segment(record)
        elif kind == CANCEL:
            self.on_cancel(record)
        self.keys.position = record.seq
        self._key_words.go_on(self._hand)
        if self.standing.is_draining:
            self._hand.give_back_later()
        elif not self.standing.keeps_frames:
            self._hand.give_back()
        self._hand.pump(now_ns)

    def on_past(self, record: Record) -> None:
        """Take in a record from before the place where following begins, for what it says of keys."""
        try:
            place = self._subjects.parse(record.subject)
        except MalformedPayload:
            self.anomalies["misplaced"] += 1
            return
        if place.kind == KEYS:
            self._key_words.on_segment(record)
            return
        frame = self._folding.read(record)
        if frame is not None and self.facts.is_new(record, place.who, frame):
            self._key_words.on_past(record, frame, place.who)

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
            self._take(record, client, entry, body)
        if record.seq in self.deliveries:
            self.frames.look_at(record.seq)
        self._hand.pump(now_ns)

    def _take(self, record: Record, client: str, entry: CallEntry, body: bytes) -> None:
        if entry.options is not None and entry.options.requeue is not None:
            self._take_dead_letter(record, entry, body)
            return
        known = self.facts.get(entry.call_id)
        if known is not None and (known.is_closed or known.dead_seq):
            return  # a dead letter that came back is not run by the frame in which it came first
        if self.frames.holds(entry.call_id):
            self.anomalies["frame stored twice"] += 1
            return  # it is in work already, and the frame it came with stays open for it
        self.frames.add(entry.call_id, record.seq)
        self._hand.place(opened(record, client, entry, body), known)

    def _take_dead_letter(self, record: Record, entry: CallEntry, body: bytes) -> None:
        """Take one that is to run again: unless it did, first of all that is said."""
        found = requeued(record, entry, body)
        if found is None:
            self.anomalies["malformed"] += 1
            return
        call, said = found
        known = self.facts.get(call.call_id)
        is_dead_letter = known is not None and (known.mark, known.seq) == (Mark.DEAD_LETTERED, said.dead_seq)
        has_come_back = known is not None and not known.is_closed and known.dead_seq == said.dead_seq
        if not (is_dead_letter or has_come_back):
            return
        if self.frames.holds(call.call_id):
            self.anomalies["frame stored twice"] += 1
            return
        self.frames.add(call.call_id, call.seq)
        if is_dead_letter:
            self._hand.calls[call.call_id] = call
            self._pen.note_dead(Mark.REQUEUED, call, requeued_body(said))
        else:
            self._hand.place(call, known)

    def on_finished(self, start: Start, mark: Mark, body: bytes | None, now_ns: int) -> None:
        """Take the outcome of a call that ran. If it is in doubt by now, this ends the doubt."""
        self._hand.finished(start.call, mark, body)
        self._hand.pump(now_ns)

    def on_failed(
        self, start: Start, body: bytes | None, stack: Sequence[str], delay_ns: int | None, now_ns: int
    ) -> None:
        """Take the failure of a call that is to run again: after so long, or not any more (``None``)."""
        self._hand.failed(start.call, body, stack, delay_ns, now_ns)
        self._hand.pump(now_ns)

    def tries(self, call_id: CallId) -> int:
        """Return how many attempts of a call failed before this one."""
        known = self.facts.get(call_id)
        return known.tries if known is not None else 0

    def on_key_found(self, lookup: Lookup, owner: KeyOwner | None, now_ns: int) -> None:
        """Segments were read, as :meth:`take_lookups` asked for: that call has the key, or none."""
        self._key_words.on_found(self._hand, lookup, owner)
        self._hand.pump(now_ns)

    def on_cancel(self, record: Record) -> None:
        """Take in a request to cancel calls."""
        try:
            named = self._hand.cancels.apply(record)
        except MalformedPayload:
            self.anomalies["malformed"] += 1
            return
        for call_id in named:
            self._hand.cancel(call_id)

    def on_tick(self, now_ns: int) -> None:
        """Conclude what expired while it waited, and begin what is due."""
        self._hand.expire(now_ns)
        if self._hand.later:
            self._hand.pump(now_ns)

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
        if call.call_id in self._hand.begun:
            return False
        return self._resolving.resolve(self.facts, call, resolution, result)

    def discard(self, call: OpenCall, resolution: Resolution) -> bool:
        """Write that a dead letter will never run again; as :meth:`resolve`."""
        return self._resolving.discard(self.facts, call, resolution)

    # -- what to do -------------------------------------------------------------------------------------

    def take_starts(self) -> list[Start]:
        """Return the calls to run now; each is given once."""
        return self._hand.take_starts()

    def take_cancels(self) -> list[ToCancel]:
        """Return the handlers that are to be stopped; each is given once."""
        return self._hand.take_cancels()

    def take_lookups(self) -> list[Lookup]:
        """Return which segments are to be read for whose key; each is given once."""
        return self.keying.take_lookups()

    def take_replies(self) -> dict[str, list[Reply]]:
        """Return, per client, the outcomes that are now certain."""
        return self._folding.take_replies()

    def take_resolved(self) -> list[Resolved]:
        """Return what came of the resolutions that were written."""
        return self._resolving.take()

    def next_frame(self) -> Written | None:
        """Return what to write next, or ``None``."""
        written = self._pen.next_frame(epoch=0, expect=None)  # a pool has neither epochs nor a fence
        if written is not None:
            self._folding.unanswered += 1
        return written

    def on_acked(self) -> None:
        """The frame is durable. What counts is decided when it comes back."""
        self._pen.settled()

    def answer(self, call_ids: Sequence[CallId]) -> list[Reply]:
        """Return the recorded outcomes of those calls whose outcomes are still remembered here."""
        return answer(self.outcomes, call_ids)

    def missing(self, call_ids: Sequence[CallId]) -> tuple[dict[CallId, int], list[CallId]]:
        """Tell what :meth:`answer` does not know: where the conclusions are whose bodies were forgotten, and
        the calls of which nothing is known.
        """
        return missing(self.outcomes, self.facts, call_ids)

    def _outcome_of(self, call_id: CallId) -> Outcome | None:
        return self.outcomes.get(call_id)

    def on_found(self, outcome: Outcome, seq: int) -> None:
        """An outcome was looked up in the log, to answer with; what was followed meanwhile counts more."""
        known = self.facts.get(outcome.call_id)
        if known is None or known.told_seq == seq:
            self.outcomes.add(outcome)
