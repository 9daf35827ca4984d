"""The core of one worker of a pool: it takes frames it is handed, runs their calls, and writes the outcomes.

Many workers may write here, and a frame may be handed out twice, so the log decides: the first conclusion of
a call counts, the first claim of a ``once`` call counts. A worker replies, or starts what it claimed, only
after it has seen its own record come back as the first on the log it follows. A frame is acknowledged when
every call in it has a durable conclusion.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from aegisipc.eventstore.calls import OpenCall, Outcome, Outcomes, Sessions, counts
from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.eventstore.events import Effect
from aegisipc.eventstore.frames import (
    CallFrame,
    Mark,
    decode_pen,
)
from aegisipc.eventstore.ids import CallId
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.subjects import HA, PEN, Place, Subjects
from aegisipc.eventstore.topology import InstanceView, Topology
from aegisipc.sdk.core.pen import CLAIMED_TOO_LATE, MAY_HAVE_STARTED, Identity, Pen, Start, Written

MAX_SEEN: Final = 200_000
"""Calls whose latest known fact is remembered, without its body; older ones are looked up in the log when
they are handed out again.
"""


class Known(NamedTuple):
    """The fact that counts for a call so far: its claim, or its conclusion; who wrote it, and where."""

    mark: Mark
    writer: str
    seq: int


class Delivery:
    """One call frame that was handed to this worker and is not acknowledged yet."""

    __slots__ = ("open", "token")

    def __init__(self, token: str, open_calls: set[CallId]) -> None:
        self.token = token
        self.open = open_calls


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
        self.topology = Topology(subjects)
        self.is_draining = False
        self.running = 0
        self.deliveries: dict[int, Delivery] = {}
        self.seen: OrderedDict[CallId, Known] = OrderedDict()
        self.outcomes = Outcomes()
        self._effects = effects
        self._subjects = subjects
        self._max_running = max_running
        self._sessions = Sessions()
        self._calls: dict[CallId, OpenCall] = {}
        self._frame_of: dict[CallId, int] = {}
        self._ready: deque[OpenCall] = deque()
        self._claiming: set[CallId] = set()
        self._handed_out_before: set[int] = set()
        self._watched: dict[CallId, tuple[OpenCall, Known]] = {}
        self._pen = Pen(identity, max_frame_bytes)
        self._unanswered = 0
        self._starts: list[Start] = []
        self.anomalies: Counter[str] = Counter()
        self._replies: list[tuple[str, tuple[CallId, int, bytes | None]]] = []
        self._acks: list[str] = []

    # -- what it knows ----------------------------------------------------------------------------------

    @property
    def me(self) -> InstanceView | None:
        """This instance as the log tells it; ``None`` before this incarnation's registration was folded."""
        found = self.topology.instance(self.identity.service, self.identity.group, self.identity.instance)
        return found if found is not None and found.incarnation == self.identity.incarnation else None

    @property
    def is_eldest(self) -> bool:
        """Of the workers that are ready, this one registered first: what one of them is to do, it does."""
        group = self.topology.group(self.identity.service, self.identity.group)
        return group is not None and next(group.ready(), None) is self.me

    @property
    def waiting(self) -> int:
        """How many calls wait here for a free slot."""
        return len(self._ready)

    @property
    def is_quiet(self) -> bool:
        """Nothing runs or waits, and everything written came back from the log."""
        return self.running == 0 and not self._ready and self._pen.is_idle and self._unanswered == 0

    @property
    def free(self) -> int:
        """How many more calls could start at once."""
        return 0 if self.is_draining else max(0, self._max_running - self.running - len(self._ready))

    @property
    def wants(self) -> int:
        """How many more frames to ask for: an idle worker asks first, a full one not at all."""
        load = self.running + len(self._ready)
        if self.is_draining or load >= self._max_running:
            return 0
        return 2 if load < self._max_running // 2 else 1

    # -- what happens -----------------------------------------------------------------------------------

    def on_record(self, record: Record, now_ns: int) -> None:
        """Fold a record of the pool's log: its instances, and what was claimed and concluded."""
        place = self._subjects.parse(record.subject)
        if place.kind == HA:
            self.topology.apply(record, place)
            self._doubt_orphans()
        elif place.kind == PEN:
            self._on_pen(record, place, now_ns)
            self._pump(now_ns)

    def on_frame(
        self,
        token: str,
        record: Record,
        frame: CallFrame,
        known: Mapping[CallId, Known],
        now_ns: int,
        *,
        is_again: bool = False,
    ) -> None:
        """Take a call frame that was handed out.

        `is_again`: it may have been handed out before; then `known` is what the log says of its calls.
        """
        again = self.deliveries.get(record.seq)
        if (
            again is not None
        ):  # handed out again while it is in work: only the newest token can acknowledge it
            again.token = token
            return
        client = self._subjects.parse(record.subject).who
        delivery = Delivery(token, set())
        self.deliveries[record.seq] = delivery
        if is_again:
            self._handed_out_before.add(record.seq)
        for entry, body in zip(frame.entries, frame.bodies, strict=True):
            deadline_ns = record.timestamp_ns + entry.timeout_ms * 1_000_000
            call = OpenCall(
                entry.call_id, client, entry.method, entry.resource, record.seq, deadline_ns, body
            )
            self._take(call, delivery, self.seen.get(entry.call_id) or known.get(entry.call_id))
        self._close(record.seq, delivery)
        self._pump(now_ns)

    def _take(self, call: OpenCall, delivery: Delivery, known: Known | None) -> None:
        if known is not None and call.call_id not in self.seen:
            self._remember(call.call_id, known)
        if known is not None and known.mark is not Mark.CLAIMED:
            return  # concluded: nothing is left to do
        if call.call_id in self._frame_of:
            self.anomalies["frame stored twice"] += 1
            return  # it is in work already, and the frame it came with stays open for it
        delivery.open.add(call.call_id)
        self._frame_of[call.call_id] = call.seq
        if known is None:
            self._calls[call.call_id] = call
            self._ready.append(call)
        else:
            self._watch(call, known)

    def _watch(self, call: OpenCall, claim: Known) -> None:
        """Another worker claimed this call. While that one lives it is in its hands; its frame stays open
        here for the case that it does not come to a conclusion.
        """
        if self._is_alive(claim):
            self._watched[call.call_id] = (call, claim)
        else:
            self._calls[call.call_id] = call
            self._pen.note(Mark.IN_DOUBT, call)

    def _doubt_orphans(self) -> None:
        orphans = [(call, claim) for call, claim in self._watched.values() if not self._is_alive(claim)]
        for call, claim in orphans:
            del self._watched[call.call_id]
            self._watch(call, claim)

    def _is_alive(self, claim: Known) -> bool:
        """Whether the run of the instance that made this claim still lives: then the call is in its hands."""
        claimer = self.topology.instance(self.identity.service, self.identity.group, claim.writer)
        return claimer is not None and claimer.is_live and claimer.registered_seq < claim.seq

    def on_finished(self, start: Start, mark: Mark, body: bytes | None, now_ns: int) -> None:
        """Take the outcome of a call that ran."""
        self.running -= 1
        self._pen.note(mark, start.call, body)
        self._pump(now_ns)

    def on_tick(self, now_ns: int) -> None:
        """Conclude what expired while it waited."""
        if any(call.deadline_ns <= now_ns for call in self._ready):
            waiting, self._ready = self._ready, deque()
            for call in waiting:
                if call.deadline_ns > now_ns:
                    self._ready.append(call)
                elif self._is_mine(call):
                    self._expire(call)

    def drain(self) -> list[str]:
        """Take no more frames, and go on with those begun: nobody else can have their calls before their
        deliveries end. Returns the tokens of frames not begun: other workers can have them at once.
        """
        self.is_draining = True
        waiting = {call.call_id for call in self._ready}
        unbegun = [seq for seq, delivery in self.deliveries.items() if delivery.open <= waiting]
        tokens = [self._give_back(seq) for seq in unbegun]
        self._ready = deque(call for call in self._ready if call.call_id in self._calls)
        return tokens

    def _give_back(self, seq: int) -> str:
        delivery = self.deliveries.pop(seq)
        self._handed_out_before.discard(seq)
        for call_id in delivery.open:
            del self._calls[call_id], self._frame_of[call_id]
        return delivery.token

    # -- what to do -------------------------------------------------------------------------------------

    def take_starts(self) -> list[Start]:
        """Return the calls to run now; each is given once."""
        starts, self._starts = self._starts, []
        return starts

    def take_replies(self) -> dict[str, list[tuple[CallId, int, bytes | None]]]:
        """Return, per client, the outcomes that are now certain."""
        by_client: dict[str, list[tuple[CallId, int, bytes | None]]] = defaultdict(list)
        for client, outcome in self._replies:
            by_client[client].append(outcome)
        self._replies = []
        return by_client

    def take_acks(self) -> list[str]:
        """Return the tokens of frames that are done with."""
        acks, self._acks = self._acks, []
        return acks

    def next_frame(self) -> Written | None:
        """Return what to write next, or ``None``."""
        written = self._pen.next_frame(epoch=0, expect=None)  # a pool has neither epochs nor a fence
        if written is not None:
            self._unanswered += 1
        return written

    def on_acked(self) -> None:
        """The frame is durable. What counts is decided when it comes back."""
        self._pen.settled()

    def answer(self, call_ids: Sequence[CallId]) -> list[tuple[CallId, int, bytes | None]]:
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
            known = self.seen.get(call_id)
            if self.outcomes.get(call_id) is not None:
                continue
            if known is None:
                unknown.append(call_id)
            elif known.mark is not Mark.CLAIMED:
                forgotten[call_id] = known.seq
        return forgotten, unknown

    def on_found(self, outcome: Outcome, seq: int) -> None:
        """An outcome was looked up in the log, to answer with; what was followed meanwhile counts more."""
        known = self.seen.get(outcome.call_id)
        if known is None or known.seq == seq:
            self.outcomes.add(outcome)

    # -- the log's word ---------------------------------------------------------------------------------

    def _on_pen(self, record: Record, place: Place, now_ns: int) -> None:
        try:
            frame = decode_pen(record.payload)
        except MalformedPayload:
            self.anomalies["malformed"] += 1
            return
        if not self._sessions.is_new(record.subject, frame.session, frame.number):
            return
        mine = place.who == self.identity.instance and frame.session == self.identity.session
        if mine:
            self._unanswered -= 1
        for (mark, call_id), body in zip(frame.entries, frame.bodies, strict=True):
            before = self.seen.get(call_id)
            if not counts(before.mark if before is not None else None, mark):
                if mine:
                    self._abandon(call_id)  # another worker's claim was first
                continue
            self._remember(call_id, Known(mark, place.who, record.seq))
            if mark is not Mark.CLAIMED:
                self.outcomes.add(Outcome(call_id, mark, body))
                self._settle(call_id, (call_id, int(mark), body), mine=mine)
            elif mine and call_id in self._claiming:
                self._claiming.discard(call_id)
                self._start_claimed(self._calls[call_id], now_ns)

    def _start_claimed(self, call: OpenCall, now_ns: int) -> None:
        if call.deadline_ns > now_ns:
            self._starts.append(Start(call, 0))
        else:
            self.running -= 1
            self._pen.note(Mark.FAILED, call, CLAIMED_TOO_LATE)

    def _remember(self, call_id: CallId, known: Known) -> None:
        self.seen[call_id] = known
        if len(self.seen) > MAX_SEEN:
            self.seen.popitem(last=False)

    def _settle(self, call_id: CallId, outcome: tuple[CallId, int, bytes | None], *, mine: bool) -> None:
        call = self._calls.pop(call_id, None)
        self._watched.pop(call_id, None)
        if call is not None and mine:
            self._replies.append((call.client, outcome))
        seq = self._frame_of.pop(call_id, 0)
        delivery = self.deliveries.get(seq)
        if delivery is not None:
            delivery.open.discard(call_id)
            self._close(seq, delivery)

    def _abandon(self, call_id: CallId) -> None:
        """What this worker wrote of a call came too late: it is in the hands of another one."""
        if call_id in self._claiming:
            self._claiming.discard(call_id)
            self.running -= 1
        call = self._calls.pop(call_id, None)
        if call is not None:
            self._watch(call, self.seen[call_id])

    def _close(self, seq: int, delivery: Delivery) -> None:
        if not delivery.open:
            del self.deliveries[seq]
            self._handed_out_before.discard(seq)
            self._acks.append(delivery.token)

    def _is_mine(self, call: OpenCall) -> bool:
        """Whether a call that waited here is still to be dealt with: no other worker concluded or claimed it
        meanwhile.
        """
        if call.call_id not in self._calls:
            return False
        known = self.seen.get(call.call_id)
        if known is None:
            return True
        self._watch(self._calls.pop(call.call_id), known)
        return False

    def _expire(self, call: OpenCall) -> None:
        is_first = self._effects.get(call.method) is Effect.ONCE or call.seq not in self._handed_out_before
        self._pen.note(Mark.EXPIRED, call, None if is_first else MAY_HAVE_STARTED)

    def _pump(self, now_ns: int) -> None:
        while self._ready and self.running < self._max_running:
            call = self._ready.popleft()
            if not self._is_mine(call):
                continue
            if call.deadline_ns <= now_ns:
                self._expire(call)
                continue
            self.running += 1
            if self._effects.get(call.method, Effect.PURE) is Effect.ONCE:
                self._claiming.add(call.call_id)
                self._pen.note(Mark.CLAIMED, call)
            else:
                self._starts.append(Start(call, 0))
