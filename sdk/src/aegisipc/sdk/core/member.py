"""The core of one member of an owned group: it follows the group's log, and runs the calls while it holds the
pen.

What is done about a call, and in which order, is :mod:`aegisipc.sdk.core.holding`'s part. Here is what the
log means for this member: who it is, whether it holds the pen, and what it writes. Everything a member writes
travels in one fenced frame at a time.

While the group is paused, the instance in quarantine, unhealthy or draining, or the pen about to be handed
over, nothing is started; what runs goes on, and what expires is concluded.
"""

from __future__ import annotations

from collections.abc import Sequence

from aegisipc.eventstore.bodies import Requeued, Resolution
from aegisipc.eventstore.calls import NOTHING, Folded, GroupCalls, OpenCall, Outcomes
from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.eventstore.events import Event, GroupPromoted, UnknownEvent
from aegisipc.eventstore.frames import MAX_ENTRIES, Mark, PenFrame, decode_pen
from aegisipc.eventstore.ids import CallId
from aegisipc.eventstore.keys import KeyIndex, KeyOwner, Spill
from aegisipc.eventstore.log import Expect, Record
from aegisipc.eventstore.subjects import (
    CONCLUSIONS,
    GROUP_WHO,
    HA,
    KEYS,
    STATE,
    Place,
    Subjects,
)
from aegisipc.eventstore.topology import GroupView, InstanceView, Topology
from aegisipc.sdk.core.answering import Reply, answers_to, replies_of
from aegisipc.sdk.core.doubts import Doubts
from aegisipc.sdk.core.holding import Holding, Rules
from aegisipc.sdk.core.key_lookups import Lookup
from aegisipc.sdk.core.pen import Identity, Pen, Start, Written, still_holds
from aegisipc.sdk.core.replica import Replica, State
from aegisipc.sdk.core.segments import Segments
from aegisipc.sdk.core.snapshots import Snapshots
from aegisipc.sdk.core.unwritten import Unwritten, unwritten


class GroupMember:
    """State of one member. Times are nanoseconds on the server's clock.

    Feed it with :meth:`on_record`, :meth:`on_finished`, :meth:`on_key_found`, :meth:`on_tick` and the fate of
    its frames; after each, do what :meth:`take_starts`, :meth:`take_cancels`, :meth:`take_lookups`,
    :meth:`take_doubts` and :meth:`next_frame` give, and call :meth:`replies` for a frame that was
    acknowledged.
    """

    def __init__(
        self,
        identity: Identity,
        rules: Rules,
        subjects: Subjects,
        *,
        max_frame_bytes: int,
        state: State | None = None,
        spill: Spill | None = None,
    ) -> None:
        self.identity = identity
        self.is_draining = False
        self.held: str | None = None
        self.step_downs = 0
        self.fenced_frames = 0
        self.calls = GroupCalls(keep_bodies=True, outcomes=Outcomes(), is_fenced=True, keys=KeyIndex(spill))
        self.topology = Topology(subjects)
        self._effects = rules.effects
        self._subjects = subjects
        self._fence_seq = 0
        self._position = 0
        self._folded_number = 0
        self._acked_number = 0
        self._pen = pen = Pen(identity, max_frame_bytes)
        self.replica = Replica(state, pen, max_bytes=max_frame_bytes)
        self.doubts = Doubts(pen, self.replica)
        self.snapshots = Snapshots(pen, self.replica, lambda: self.calls, max_bytes=max_frame_bytes)
        self.segments = Segments(identity.session, lambda: self.calls, max_bytes=max_frame_bytes)
        self.holding = holding = Holding(rules, pen, self.replica, self.doubts, lambda: self.calls)
        self.on_finished = holding.on_finished  # no more than a call costs as it is
        self._given_up = 0
        """The epoch that was given up here before the log, as far as it was read, said who holds the pen."""
        self._unwritten: list[Unwritten] = []

    # -- what it knows ----------------------------------------------------------------------------------

    @property
    def group(self) -> GroupView | None:
        """The group as the log tells it."""
        return self.topology.group(self.identity.service, self.identity.group)

    @property
    def me(self) -> InstanceView | None:
        """This instance as the log tells it; ``None`` before this incarnation's registration was folded."""
        found = self.topology.instance(self.identity.service, self.identity.group, self.identity.instance)
        return found if found is not None and found.incarnation == self.identity.incarnation else None

    @property
    def is_active(self) -> bool:
        """Whether it holds the pen, as far as it knows."""
        return self.holding.is_active

    @property
    def epoch(self) -> int:
        """The latest epoch in which it held the pen."""
        return self.holding.epoch

    @property
    def running(self) -> int:
        """How many calls have a slot: they run, or their claim is being written."""
        return self.holding.schedule.running

    @property
    def waiting(self) -> int:
        """How many calls wait here for their turn."""
        return self.holding.schedule.waiting

    @property
    def is_quiet(self) -> bool:
        """Nothing runs, and everything written is in the log."""
        return self.running == 0 and self._pen.is_idle and not self.holding.keys.is_ending

    @property
    def next_due_ns(self) -> int:
        """When the next call is to be run again: :meth:`on_tick` should be told of that moment."""
        return self.holding.retries.next_due_ns

    @property
    def is_blocked(self) -> bool:
        """Whether nothing may be started now."""
        return self.holding.is_held_back or self.replica.spoiled is not None

    @property
    def to_yield(self) -> int | None:
        """The epoch that is held here and is to be handed over, once nothing of it is under way any more."""
        group = self.group
        if not self.is_active or group is None or not self.is_quiet:
            return None
        is_due = group.handover is not None or self.held is not None
        return self.epoch if is_due and group.yielded_epoch != self.epoch else None

    # -- what happens -----------------------------------------------------------------------------------

    def on_record(self, record: Record, now_ns: int) -> None:
        """Fold the next record of the group's log."""
        try:
            place = self._subjects.parse(record.subject)
        except MalformedPayload:  # within our filter, yet no subject of ours: somebody else's record
            self.calls.anomalies["misplaced"] += 1
            return
        self._position = record.seq
        if place.kind == HA:
            self.on_routing(record, place)
            self._follow_role(now_ns)
        elif place.kind == STATE:
            self.snapshots.on_stored()
        else:
            self._on_frame(record, place, now_ns)

    def on_routing(self, record: Record, place: Place) -> None:
        """Fold a routing record, and do nothing about it yet: the ones before a snapshot."""
        former = self.calls.epoch
        event = self.topology.apply(record, place)
        group = self.group
        if place.who == GROUP_WHO and group is not None:
            self.calls.hold(group.holder, group.epoch)
            is_new = group.epoch != former  # else it says again what it said before, lest that age out
            if is_new and isinstance(event, GroupPromoted) and event.kind == "failover":
                self.holding.suspects.on_failover(record.seq)

    def _on_frame(self, record: Record, place: Place, now_ns: int) -> None:
        frame = self._read_pen(record) if place.kind in CONCLUSIONS else None
        folded = self.calls.apply(record, place, frame)
        if frame is not None and folded is not NOTHING:
            self._fold_state(record, place, frame, folded)
        elif place.kind == KEYS and place.who == self.identity.instance:
            self.segments.on_stored()
        if not self.is_active:
            return
        for call in folded.evidenced:
            self.doubts.conclude_from_evidence(call)
        if folded.reopened:
            self.holding.reopen(folded.reopened, now_ns)
        if folded.retrying:
            self.holding.retry(folded.retrying, now_ns)
        if folded.cancels:
            self.holding.cancel(folded.cancels, now_ns)
        if folded.opened:
            self.holding.accept(folded.opened, now_ns)

    def _read_pen(self, record: Record) -> PenFrame | None:
        try:
            return self._pen.recognise(record.payload) or decode_pen(record.payload)
        except MalformedPayload:
            return None  # the fold of the calls counts it

    def _fold_state(self, record: Record, place: Place, frame: PenFrame, folded: Folded) -> None:
        who = self.identity
        mine = frame.session == who.session and place.who == who.instance
        if folded.state:
            self.replica.fold(folded.state, record.seq, mine=mine)
        self.snapshots.on_folded(len(folded.concluded))
        if mine:
            self._folded_number = frame.number
            self.holding.keys.on_own_folded(frame)
            self.snapshots.on_own_folded(frame.number, record.seq, frame.epoch)

    def on_key_found(self, lookup: Lookup, owner: KeyOwner | None, now_ns: int) -> None:
        """A lookup is answered: by the first of its segments that tells of the key, or by none of them."""
        self.holding.on_key_found(lookup, owner, now_ns)

    def on_tick(self, now_ns: int) -> None:
        """Conclude the calls that expired while they waited, and begin those whose next attempt is due."""
        self.holding.on_tick(now_ns)

    def requeue(self, letter: OpenCall, requeued: Requeued) -> None:
        """Let a dead letter run again, once that is in the log."""
        self._pen.note_dead(Mark.REQUEUED, letter, encode(requeued))

    def discard(self, letter: OpenCall, resolution: Resolution) -> None:
        """Say that a dead letter will never run again."""
        self._pen.note_dead(Mark.DISCARDED, letter, encode(resolution))

    def drain(self) -> None:
        """Start nothing more; what runs goes on to its outcome."""
        self.is_draining = True
        self._look_what_holds_back()

    def hold(self, reason: str) -> None:
        """Start nothing more until :meth:`release`."""
        self.held = reason
        self._look_what_holds_back()

    def release(self, now_ns: int) -> None:
        """Start calls again."""
        self.held = None
        self._look_what_holds_back()
        self.holding.pump(now_ns)

    def _look_what_holds_back(self) -> None:
        """Noted once, because every finished call asks."""
        group, me = self.group, self.me
        self.holding.is_held_back = (
            self.is_draining
            or self.held is not None
            or (me is not None and me.quarantined)
            or (group is not None and (group.paused or group.handover is not None))
        )

    # -- what to do -------------------------------------------------------------------------------------

    def take_starts(self, most: int = MAX_ENTRIES) -> list[Start]:
        """Return up to `most` of the calls to run now; each is given once."""
        return self.holding.take_starts(most)

    def take_cancels(self) -> list[OpenCall]:
        """Return calls whose handlers are to stop, if they run; each is given once."""
        return self.holding.take_cancels()

    def take_lookups(self) -> list[Lookup]:
        """Return what is to be looked up in segments of keys; each is given once."""
        return self.holding.keys.take_lookups()

    def take_doubts(self) -> list[OpenCall]:
        """Return the calls that came into doubt: the service may know what became of them. Each is given once
        per epoch.
        """
        return self.doubts.take_fresh() if self.is_active else []

    def take_unwritten(self) -> list[Unwritten]:
        """Return the outcomes of calls that ran here and that the log will never have from the pen: to be
        told as evidence. Each is given once.
        """
        taken, self._unwritten = self._unwritten, []
        return taken

    def next_frame(self) -> Written | None:
        """Return what to write next, or ``None``. Only one frame may be in flight: tell its fate before
        asking again.
        """
        if not self.is_active or self._pen.in_flight is not None:
            return None
        payload = self.snapshots.take()
        if payload is not None:
            return self._send(STATE, payload)
        if self.segments.is_due(before_snapshot=self.snapshots.is_due):
            if self._folded_number < self._acked_number:
                return None  # what is stored has to be folded first
            return self._send(KEYS, self.segments.take(self.epoch, self._position))
        written = self._pen.next_frame(self.epoch, self._fence())
        if written is not None:
            self.snapshots.on_frame_out()
        return written

    def _send(self, kind: str, payload: bytes) -> Written:
        # Several may come between two frames: what they cover tells them apart.
        record_id = f"{self.identity.session:x}.{self.identity.instance}.{kind}.{self._position}"
        return self._pen.send(Written(payload, record_id, self._fence(), self.epoch, None, (), kind))

    def on_acked(self, written: Written, now_ns: int) -> None:
        """The frame is durable: its claims may start, its slots are free."""
        self._pen.settled()
        if written.frame is not None:
            self._acked_number = written.frame.number
        if self.is_active and written.epoch == self.epoch:
            self.holding.on_acked(written, now_ns)

    def on_refused(
        self, written: Written, fence_seq: int, latest: Event | UnknownEvent | None
    ) -> Written | None:
        """The fence refused the frame: `latest` is the event on the fence subject now, at `fence_seq`.

        Returns the frame with the new fence if the pen is still ours, else drops it, and steps down if that
        frame was of this epoch.
        """
        if self.is_active and written.epoch == self.epoch and still_holds(latest, self.identity, self.epoch):
            self._fence_seq = fence_seq
            return written._replace(expect=self._fence())
        self.fenced_frames += 1
        if written.epoch == self.epoch:  # else it is of an earlier epoch of ours: only the frame is lost
            self._give_up()
        self._pen.settled()
        return None

    def retire(self) -> None:
        """Give the pen up: a frame cannot be written at all, and to go on would leave a hole in what was
        promised; or nothing more is to be written from here.
        """
        self._give_up()
        self._pen.settled()

    def _give_up(self) -> None:
        """Step down, for good as far as this epoch goes: what is read next may still name this instance as
        its holder.
        """
        self._given_up = self.epoch
        self._step_down()

    def replies(self, written: Written) -> dict[str, list[Reply]]:
        """Return, per client, the outcomes in a frame that is now durable."""
        return replies_of(written, self.calls)

    def answer(self, call_ids: Sequence[CallId]) -> list[Reply]:
        """Return the recorded outcomes of those calls that have one here."""
        return answers_to(call_ids, self.calls)

    # -- roles ------------------------------------------------------------------------------------------

    def _fence(self) -> Expect:
        return Expect(self._fence_seq, self._subjects.fence(self.identity.service, self.identity.group))

    def _holds(self, group: GroupView) -> bool:
        return (
            group.holder == self.identity.instance and group.holder_incarnation == self.identity.incarnation
        )

    def _follow_role(self, now_ns: int) -> None:
        group = self.group
        if group is None:
            return
        self._look_what_holds_back()
        if not self._holds(group):
            if self.is_active:
                self._step_down()
        elif self.is_active and group.epoch == self.epoch:
            self._fence_seq = group.fence_seq
            self.holding.pump(now_ns)  # a pause may be over, or a handover called off
        else:
            self._take_over(group, now_ns)

    def _take_over(self, group: GroupView, now_ns: int) -> None:
        """Hold the pen from here on: at this point of the log every open call of the group is known."""
        if self.is_active:
            self._step_down()
        if self.replica.spoiled is not None or group.epoch == self._given_up:
            return  # a new incarnation will have to come, or a new epoch
        holding = self.holding
        holding.is_active, holding.epoch = True, group.epoch
        holding.taken_over_at = group.fence_seq if group.epoch > 1 else 0
        self._fence_seq = group.fence_seq
        holding.inherit(self.calls.open.values(), self.identity.instance)
        holding.pump(now_ns)

    def _step_down(self) -> None:
        if not self.is_active:
            return
        self.step_downs += 1
        lost = self._pen.lost(self._folded_number)
        self.replica.on_pen_lost(lost)
        self._unwritten += unwritten(lost, self._effects)
        self._pen.clear()
        self.holding.clear()
        self.doubts.clear()
        self.snapshots.clear()
        self.segments.clear()
