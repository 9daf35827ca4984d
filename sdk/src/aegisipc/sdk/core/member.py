"""The core of one member of an owned group: it follows the group's log, and runs the calls while it holds the
pen.

Order of things for one call: it becomes open when its frame is folded; it waits until the call before it on
the same resource is done and a slot is free; a ``once`` method is claimed in the log before it starts; its
outcome is written; when that is durable, the caller gets its reply. Everything a member writes travels in one
fenced frame at a time.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from aegisipc.eventstore.calls import GroupCalls, OpenCall, Outcome, Outcomes
from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.eventstore.events import Effect, Event, GroupPromoted, UnknownEvent
from aegisipc.eventstore.frames import MAX_ENTRIES, Mark
from aegisipc.eventstore.ids import CallId
from aegisipc.eventstore.lifecycles import CallState, InstanceState
from aegisipc.eventstore.log import Expect, Record
from aegisipc.eventstore.subjects import HA, Subjects
from aegisipc.eventstore.topology import GroupView, InstanceView, Topology
from aegisipc.eventstore.tuples import new_tuple
from aegisipc.sdk.core.pen import CLAIMED_TOO_LATE, MAY_HAVE_STARTED, Identity, Pen, Start, Written

NEVER_NS: Final = 1 << 62


class GroupMember:
    """State of one member. Times are nanoseconds on the server's clock.

    Feed it with :meth:`on_record`, :meth:`on_finished`, :meth:`on_tick` and the fate of its frames; after
    each, do what :meth:`take_starts` and :meth:`next_frame` give, and call :meth:`replies` for a frame that
    was acknowledged.
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
    ) -> None:
        self.identity = identity
        self.epoch = 0
        self.is_active = False
        self.is_draining = False
        self.running = 0
        self.step_downs = 0
        self.calls = GroupCalls(keep_bodies=True, outcomes=Outcomes())
        self.topology = Topology(subjects)
        self._effects = effects
        self._subjects = subjects
        self._max_running = max_running
        self._threaded = frozenset(threaded)
        self._max_threaded = max_threaded
        self._running_threaded = 0
        self._fence_seq = 0
        self._taken_over_at = 0
        self._pen = Pen(identity, max_frame_bytes)
        self._waiting: dict[CallId, OpenCall] = {}
        self._ready: deque[OpenCall] = deque()
        self._ready_threaded: deque[OpenCall] = deque()
        self._queues: dict[str, deque[OpenCall]] = {}
        self._starts: list[Start] = []
        self._next_deadline_ns = NEVER_NS

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
    def is_gone(self) -> bool:
        """The log says that this incarnation was refused, was lost, or left."""
        me = self.me
        return me is not None and not me.is_live

    @property
    def waiting(self) -> int:
        """How many calls wait here for their turn."""
        return len(self._waiting)

    @property
    def is_quiet(self) -> bool:
        """Nothing runs, and everything written is in the log."""
        return self.running == 0 and self._pen.is_idle

    # -- what happens -----------------------------------------------------------------------------------

    def on_record(self, record: Record, now_ns: int) -> None:
        """Fold the next record of the group's log."""
        try:
            place = self._subjects.parse(record.subject)
        except MalformedPayload:  # within our filter, yet no subject of ours: somebody else's record
            self.calls.anomalies["misplaced"] += 1
            return
        if place.kind == HA:
            self.topology.apply(record, place)
            self._follow_role(now_ns)
            return
        folded = self.calls.apply(record, place, self._pen.recognise(record.payload))
        if self.is_active and folded.opened:
            for call in folded.opened:
                self._schedule(call)
            self._pump(now_ns)

    def on_finished(self, start: Start, mark: Mark, body: bytes | None, now_ns: int) -> bool:
        """Take the outcome of a call that ran. Returns ``False`` when it comes too late: the pen is someone
        else's now.
        """
        if not self.is_active or start.epoch != self.epoch:
            return False
        self._pen.note(mark, start.call, body)
        self._free(start.call)
        if self._ready or self._ready_threaded:
            self._pump(now_ns)
        return True

    def on_tick(self, now_ns: int) -> None:
        """Conclude the calls that expired while they waited."""
        if not self.is_active or now_ns < self._next_deadline_ns:
            return
        expired = [call for call in self._waiting.values() if call.deadline_ns <= now_ns]
        for call in expired:
            del self._waiting[call.call_id]
            self._expire(call)
        self._sweep({call.resource for call in expired if call.resource is not None})
        self._next_deadline_ns = min((call.deadline_ns for call in self._waiting.values()), default=NEVER_NS)

    def drain(self) -> None:
        """Start nothing more; what runs goes on to its outcome."""
        self.is_draining = True

    # -- what to do -------------------------------------------------------------------------------------

    def take_starts(self, most: int = MAX_ENTRIES) -> list[Start]:
        """Return up to `most` of the calls to run now; each is given once."""
        starts = self._starts[:most]
        del self._starts[:most]
        return starts

    def next_frame(self) -> Written | None:
        """Return what to write next, or ``None``. Only one frame may be in flight: tell its fate before
        asking again.
        """
        return self._pen.next_frame(self.epoch, self._fence()) if self.is_active else None

    def on_acked(self, written: Written, now_ns: int) -> None:
        """The frame is durable: its claims may start, its slots are free."""
        self._pen.settled()
        if not self.is_active or written.frame.epoch != self.epoch:
            return
        for fact in written.facts:
            if fact.mark is not Mark.CLAIMED:
                continue
            if fact.call.deadline_ns > now_ns:
                self._starts.append(Start(fact.call, self.epoch))
            else:
                self._pen.note(Mark.FAILED, fact.call, CLAIMED_TOO_LATE)
                self._free(fact.call)
        self._pump(now_ns)

    def on_refused(
        self, written: Written, fence_seq: int, latest: Event | UnknownEvent | None
    ) -> Written | None:
        """The fence refused the frame: `latest` is the event on the fence subject now, at `fence_seq`.

        Returns the frame with the new fence if the pen is still ours, else drops it, and steps down if that
        frame was of this epoch.
        """
        if (
            self.is_active
            and isinstance(latest, GroupPromoted)
            and (latest.holder, latest.incarnation) == (self.identity.instance, self.identity.incarnation)
            and latest.epoch == written.frame.epoch == self.epoch
        ):
            self._fence_seq = fence_seq
            return written._replace(expect=self._fence())
        self._pen.settled()
        if (
            written.frame.epoch == self.epoch
        ):  # else it is of an earlier epoch of ours: only the frame is lost
            self._step_down()
        return None

    def on_lost_frame(self) -> None:
        """The frame cannot be written at all: give the pen up rather than go on with a hole in what was
        promised.
        """
        self._pen.settled()
        self._step_down()

    @staticmethod
    def replies(written: Written) -> dict[str, list[tuple[CallId, int, bytes | None]]]:
        """Return, per client, the outcomes in a frame that is now durable."""
        by_client: dict[str, list[tuple[CallId, int, bytes | None]]] = defaultdict(list)
        for mark, call, body in written.facts:
            if mark is not Mark.CLAIMED:
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
        if not self._holds(group):
            if self.is_active:
                self._step_down()
        elif self.is_active and group.epoch == self.epoch:
            self._fence_seq = group.fence_seq
        else:
            self._take_over(group, now_ns)

    def _take_over(self, group: GroupView, now_ns: int) -> None:
        """Hold the pen from here on: at this point of the log every open call of the group is known."""
        if self.is_active:
            self._step_down()
        self.is_active = True
        self.epoch, self._fence_seq = group.epoch, group.fence_seq
        self._taken_over_at = group.fence_seq if group.epoch > 1 else 0
        for call in self.calls.open.values():
            if call.state is CallState.STARTED:  # claimed under an earlier epoch: it may have run
                self._pen.note(Mark.IN_DOUBT, call)
            elif call.state is CallState.ACCEPTED:
                self._schedule(call)
        self._pump(now_ns)

    def _step_down(self) -> None:
        if not self.is_active:
            return
        self.is_active = False
        self.step_downs += 1
        self.running = self._running_threaded = 0
        self._pen.clear()
        self._waiting.clear()
        self._ready.clear()
        self._ready_threaded.clear()
        self._queues.clear()
        self._starts.clear()
        self._next_deadline_ns = NEVER_NS

    # -- order ------------------------------------------------------------------------------------------

    def _schedule(self, call: OpenCall) -> None:
        self._waiting[call.call_id] = call
        self._next_deadline_ns = min(self._next_deadline_ns, call.deadline_ns)
        resource = call.resource
        if resource is None:
            self._line_up(call)
            return
        queue = self._queues.get(resource)
        if queue is None:
            self._queues[resource] = deque()
            self._line_up(call)
        else:
            queue.append(call)

    def _line_up(self, call: OpenCall) -> None:
        """It is this call's turn: it runs as soon as a slot is free. Plain functions wait for a thread, apart
        from the others, so that they neither hold up nor use up slots while they wait.
        """
        (self._ready_threaded if call.method in self._threaded else self._ready).append(call)

    def _free(self, call: OpenCall) -> None:
        self.running -= 1
        if call.method in self._threaded:
            self._running_threaded -= 1
        self._release(call.resource)

    def _sweep(self, resources: set[str]) -> None:
        """Let go of calls that expired in the queues: behind a stuck one they would pile up for ever."""
        for resource in resources:
            queue = self._queues[resource]
            self._queues[resource] = deque(call for call in queue if call.call_id in self._waiting)
        for ready in (self._ready, self._ready_threaded):
            lined_up = list(ready)
            ready.clear()
            for call in lined_up:
                if call.call_id in self._waiting:
                    ready.append(call)
                else:
                    self._release(call.resource)

    def _release(self, resource: str | None) -> None:
        if resource is None:
            return
        queue = self._queues[resource]
        if queue:
            self._line_up(queue.popleft())
        else:
            del self._queues[resource]

    def _pump(self, now_ns: int) -> None:
        if self.is_draining:
            return
        while self._ready and self.running < self._max_running:
            self._begin(self._ready.popleft(), now_ns)
        while (
            self._ready_threaded
            and self._running_threaded < self._max_threaded
            and self.running < self._max_running
        ):
            self._begin(self._ready_threaded.popleft(), now_ns)

    def _begin(self, call: OpenCall, now_ns: int) -> None:
        if self._waiting.pop(call.call_id, None) is None:  # it expired in the queue
            self._release(call.resource)
            return
        if call.deadline_ns <= now_ns:
            self._expire(call)
            self._release(call.resource)
            return
        self.running += 1
        if call.method in self._threaded:
            self._running_threaded += 1
        if self._effects.get(call.method, Effect.PURE) is Effect.ONCE:
            self._pen.note(Mark.CLAIMED, call)
        else:
            self._starts.append(new_tuple(Start, (call, self.epoch)))

    def _expire(self, call: OpenCall) -> None:
        inherited = call.seq < self._taken_over_at and self._effects.get(call.method) is not Effect.ONCE
        self._pen.note(Mark.EXPIRED, call, MAY_HAVE_STARTED if inherited else None)

    @property
    def state(self) -> InstanceState:
        """This instance's state as the log tells it."""
        me = self.me
        return me.state if me is not None else InstanceState.JOINING
