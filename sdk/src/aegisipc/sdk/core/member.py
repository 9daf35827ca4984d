"""The core of one member of an owned group: it follows the group's log, and runs the calls while it holds the
pen.

Order of things for one call: it becomes open when its frame is folded; it waits until the call before it on
the same resource is done and a slot is free; a ``once`` method is claimed in the log before it starts; its
outcome is written; when that is durable, the caller gets its reply. Everything a member writes travels in one
fenced frame at a time.

While the group is paused, the instance in quarantine, unhealthy or draining, or the pen about to be handed
over, nothing is started; what runs goes on, and what expires is concluded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

from aegisipc.eventstore.calls import NOTHING, Folded, GroupCalls, OpenCall, Outcome, Outcomes
from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.eventstore.events import (
    Effect,
    Event,
    GroupHandoverCancelled,
    GroupHandoverStarted,
    GroupPromoted,
    UnknownEvent,
)
from aegisipc.eventstore.frames import MAX_ENTRIES, OUTCOMES, Mark, PenFrame, decode_pen
from aegisipc.eventstore.ids import CallId
from aegisipc.eventstore.lifecycles import CallState
from aegisipc.eventstore.log import Expect, Record
from aegisipc.eventstore.subjects import GROUP_WHO, HA, PEN, STATE, Place, Subjects
from aegisipc.eventstore.topology import GroupView, InstanceView, Topology
from aegisipc.eventstore.tuples import new_tuple
from aegisipc.sdk.core.doubts import Doubts
from aegisipc.sdk.core.pen import CLAIMED_TOO_LATE, MAY_HAVE_STARTED, Identity, Pen, Start, Written
from aegisipc.sdk.core.replica import Replica, State
from aegisipc.sdk.core.schedule import Schedule
from aegisipc.sdk.core.snapshots import Snapshots
from aegisipc.sdk.core.suspects import MAX_ATTEMPTS, Suspects, dead_letter
from aegisipc.sdk.core.unwritten import Unwritten, unwritten


class GroupMember:
    """State of one member. Times are nanoseconds on the server's clock.

    Feed it with :meth:`on_record`, :meth:`on_finished`, :meth:`on_tick` and the fate of its frames; after
    each, do what :meth:`take_starts`, :meth:`take_doubts` and :meth:`next_frame` give, and call
    :meth:`replies` for a frame that was acknowledged.
    """

    def __init__(
        self,
        identity: Identity,
        effects: Mapping[str, Effect],
        subjects: Subjects,
        *,
        max_running: int,
        max_frame_bytes: int,
        threaded: Collection[str] = (),
        max_threaded: int = 1,
        state: State | None = None,
    ) -> None:
        self.identity = identity
        self.epoch = 0
        self.is_active = False
        self.is_draining = False
        self.held: str | None = None
        self.step_downs = 0
        self.fenced_frames = 0
        self.calls = GroupCalls(keep_bodies=True, outcomes=Outcomes(), is_fenced=True)
        self.topology = Topology(subjects)
        self._effects = effects
        self._subjects = subjects
        self._fence_seq = 0
        self._taken_over_at = 0
        self._folded_number = 0
        self._pen = Pen(identity, max_frame_bytes)
        self._schedule = Schedule(max_running=max_running, threaded=threaded, max_threaded=max_threaded)
        self._suspects = Suspects()
        self.replica = Replica(state, self._pen, max_bytes=max_frame_bytes)
        self.doubts = Doubts(self._pen, self.replica)
        self.snapshots = Snapshots(self._pen, self.replica, lambda: self.calls, max_bytes=max_frame_bytes)
        self._starts: list[Start] = []
        self._is_held_back = False
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
    def running(self) -> int:
        """How many calls have a slot: they run, or their claim is being written."""
        return self._schedule.running

    @property
    def waiting(self) -> int:
        """How many calls wait here for their turn."""
        return self._schedule.waiting

    @property
    def is_quiet(self) -> bool:
        """Nothing runs, and everything written is in the log."""
        return self.running == 0 and self._pen.is_idle

    @property
    def is_blocked(self) -> bool:
        """Whether nothing may be started now."""
        return self._is_held_back or self.replica.spoiled is not None

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
                self._suspects.on_failover(record.seq)

    def _on_frame(self, record: Record, place: Place, now_ns: int) -> None:
        frame = self._read_pen(record) if place.kind == PEN else None
        folded = self.calls.apply(record, place, frame)
        if frame is not None and folded is not NOTHING:
            self._fold_state(record, place, frame, folded)
        if not self.is_active:
            return
        for call in folded.evidenced:
            self.doubts.conclude_from_evidence(call)
        for call in folded.reopened:
            self._schedule.add(call)
        for call in folded.opened:
            self._schedule.add(call)
        if folded.opened or folded.reopened:
            self._pump(now_ns)

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
            self.snapshots.on_own_folded(frame.number, record.seq, frame.epoch)

    def on_finished(
        self, start: Start, mark: Mark, body: bytes | None, now_ns: int, emitted: Sequence[bytes] = ()
    ) -> bool:
        """Take the outcome of a call that ran, and the events that it emitted. Returns ``False`` when it
        comes too late: the pen is someone else's now.
        """
        if not self.is_active or start.epoch != self.epoch:
            return False
        if emitted:
            mark, body = self.replica.conclude(start.call, mark, body, emitted)
        self._pen.note(mark, start.call, body)
        self._done(start.call)
        self._pump(now_ns)
        return True

    def on_tick(self, now_ns: int) -> None:
        """Conclude the calls that expired while they waited."""
        if not self.is_active:
            return
        for call in self._schedule.expire(now_ns):
            self._expire(call)
        for call in self._suspects.expire(now_ns):
            self._expire(call)
            self._schedule.release(call.resource)
        self._pump(now_ns)

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
        self._pump(now_ns)

    def _look_what_holds_back(self) -> None:
        """Noted once, because every finished call asks."""
        group, me = self.group, self.me
        self._is_held_back = (
            self.is_draining
            or self.held is not None
            or (me is not None and me.quarantined)
            or (group is not None and (group.paused or group.handover is not None))
        )

    # -- what to do -------------------------------------------------------------------------------------

    def take_starts(self, most: int = MAX_ENTRIES) -> list[Start]:
        """Return up to `most` of the calls to run now; each is given once."""
        starts = self._starts[:most]
        del self._starts[:most]
        return starts

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
            record_id = f"{self.identity.session:x}.{self.identity.instance}.state.{self._pen.number}"
            return self._pen.send(Written(payload, record_id, self._fence(), self.epoch, None, ()))
        written = self._pen.next_frame(self.epoch, self._fence())
        if written is not None:
            self.snapshots.on_frame_out()
        return written

    def on_acked(self, written: Written, now_ns: int) -> None:
        """The frame is durable: its claims may start, its slots are free."""
        self._pen.settled()
        if not self.is_active or written.epoch != self.epoch:
            return
        for fact in written.facts:
            if fact.mark is not Mark.CLAIMED and fact.mark is not Mark.ATTEMPTED:
                continue
            call = fact.call
            if call.deadline_ns > now_ns:
                self._starts.append(Start(call, self.epoch))
                continue
            if fact.mark is Mark.CLAIMED:
                self._pen.note(Mark.FAILED, call, CLAIMED_TOO_LATE)
            else:
                self._expire(call)
            self._done(call)
        self._pump(now_ns)

    def on_refused(
        self, written: Written, fence_seq: int, latest: Event | UnknownEvent | None
    ) -> Written | None:
        """The fence refused the frame: `latest` is the event on the fence subject now, at `fence_seq`.

        Returns the frame with the new fence if the pen is still ours, else drops it, and steps down if that
        frame was of this epoch.
        """
        if self.is_active and written.epoch == self.epoch and self._still_holds(latest):
            self._fence_seq = fence_seq
            return written._replace(expect=self._fence())
        self.fenced_frames += 1
        if written.epoch == self.epoch:  # else it is of an earlier epoch of ours: only the frame is lost
            self._give_up()
        self._pen.settled()
        return None

    def _still_holds(self, latest: Event | UnknownEvent | None) -> bool:
        match latest:
            case GroupPromoted():
                me = (self.identity.instance, self.identity.incarnation, self.epoch)
                return (latest.holder, latest.incarnation, latest.epoch) == me
            case GroupHandoverStarted() | GroupHandoverCancelled():
                return latest.epoch == self.epoch
            case _:
                return False

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

    @staticmethod
    def replies(written: Written) -> dict[str, list[tuple[CallId, int, bytes | None]]]:
        """Return, per client, the outcomes in a frame that is now durable."""
        by_client: dict[str, list[tuple[CallId, int, bytes | None]]] = defaultdict(list)
        for mark, call, body in written.facts:
            if mark in OUTCOMES:
                by_client[call.client].append((call.call_id, int(mark), body))
        return by_client

    def answer(self, call_ids: Sequence[CallId]) -> list[tuple[CallId, int, bytes | None]]:
        """Return the recorded outcomes of those calls that have one here."""
        outcomes = self.calls.outcomes
        found: list[Outcome | None] = [outcomes.get(call_id) if outcomes else None for call_id in call_ids]
        return [(o.call_id, int(o.mark), o.body) for o in found if o is not None]

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
            self._pump(now_ns)  # a pause may be over, or a handover called off
        else:
            self._take_over(group, now_ns)

    def _take_over(self, group: GroupView, now_ns: int) -> None:
        """Hold the pen from here on: at this point of the log every open call of the group is known."""
        if self.is_active:
            self._step_down()
        if self.replica.spoiled is not None or group.epoch == self._given_up:
            return  # a new incarnation will have to come, or a new epoch
        self.is_active = True
        self.epoch, self._fence_seq = group.epoch, group.fence_seq
        self._taken_over_at = group.fence_seq if group.epoch > 1 else 0
        for call in self.calls.open.values():
            if call.state is CallState.STARTED:  # claimed under an earlier epoch: it may have run
                self.doubts.doubt(call, self.identity.instance)
            elif call.state is CallState.IN_DOUBT:
                self.doubts.keep(call)
            else:
                self._schedule.add(call)
        self._pump(now_ns)

    def _step_down(self) -> None:
        if not self.is_active:
            return
        self.is_active = False
        self.step_downs += 1
        lost = self._pen.lost(self._folded_number)
        self.replica.on_pen_lost(lost)
        self._unwritten += unwritten(lost, self._effects)
        self._pen.clear()
        self._schedule.clear()
        self._suspects.clear()
        self.doubts.clear()
        self.snapshots.clear()
        self._starts.clear()

    # -- running ----------------------------------------------------------------------------------------

    def _pump(self, now_ns: int) -> None:
        if not self.is_active or self._is_held_back or self.replica.spoiled is not None:
            return
        while (parked := self._suspects.next(self._schedule.has_room)) is not None:
            self._schedule.occupy(parked)
            self._begin_suspect(parked)
        take = self._schedule.take
        while (call := take()) is not None:
            if call.deadline_ns <= now_ns:
                self._expire(call)
                self._schedule.free(call)
            elif self._effects.get(call.method, Effect.PURE) is Effect.ONCE:
                self._pen.note(Mark.CLAIMED, call)
            elif call.seq < self._taken_over_at and self._suspects.is_suspected(call):
                self._begin_suspect(call)
            else:
                self._starts.append(new_tuple(Start, (call, self.epoch)))

    def _begin_suspect(self, call: OpenCall) -> None:
        if call.attempts >= MAX_ATTEMPTS:
            self._pen.note(Mark.DEAD_LETTERED, call, dead_letter(call))
            self._schedule.free(call)
        elif self._suspects.begin(call):
            self._pen.note(Mark.ATTEMPTED, call)
        else:
            self._schedule.vacate(call)

    def _done(self, call: OpenCall) -> None:
        self._schedule.free(call)
        self._suspects.ended(call)

    def _expire(self, call: OpenCall) -> None:
        inherited = call.seq < self._taken_over_at and self._effects.get(call.method) is not Effect.ONCE
        self._pen.note(Mark.EXPIRED, call, MAY_HAVE_STARTED if inherited else None)
