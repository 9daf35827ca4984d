"""The world around two members of one group: the server and its faults, the router, crashes."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from aegisipc.eventstore.errors import WrongSequence
from aegisipc.eventstore.events import InstanceSuspected, InstanceYielded
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.group_snapshots import decode_snapshot
from aegisipc.eventstore.keys import Elsewhere, key_hash
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.open_calls import OpenCall
from aegisipc.eventstore.subjects import STATE
from aegisipc.eventstore.topology import Topology
from aegisipc.sdk.core.key_lookups import Lookup
from aegisipc.sdk.core.pen import Start, Written
from aegisipc.sdk.retry import Retry
from tests.sdk.judge import Judge
from tests.sdk.kit import GROUP, NS, SERVICE, FakeClient, ListLog, Reply
from tests.sdk.member_kit import ListState, MemberRig

NAMES = ("a", "b")
KEYS = ("k1", "k2", "k3")


@dataclass
class Flight:
    """A member's frame on its way, as its group commit sees it: stored, refused, or neither yet."""

    written: Written
    stored_seq: int = 0
    refused: bool = False


@dataclass
class Ran:
    """One start of a handler."""

    start: Start
    member: str
    incarnation: str
    place: int
    """Where the call stood among all of them."""


@dataclass
class Settings:
    """What all members of a run share."""

    max_running: int
    max_frame_bytes: int
    snapshots_every: int
    segment_keys: int = 16_384


RETRIES = {
    "put": Retry(attempts=3, base_s=0.004, jitter=0.0),
    "pay": Retry(attempts=2, base_s=0.0, jitter=0.0),
}


class TwoMembers:
    """One log, two members, and everything that can happen to them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.log = ListLog()
        self.judge = Judge(self.log)
        self.clients = [FakeClient(self.log, "c1"), FakeClient(self.log, "c2")]
        self.incarnations = dict.fromkeys(NAMES, 0)
        self.rigs: dict[str, MemberRig] = {}
        self.flights: dict[str, Flight] = {}
        self.ghosts: list[tuple[str, Written]] = []
        self.ran: list[Ran] = []
        self.replies: list[Reply] = []
        self.holder: tuple[str, str] | None = None
        self.epoch = 0
        self.is_handing_over = False
        self.testified: set[bytes] = set()
        self._seen: dict[str, set[int]] = {}
        self._serial = 0
        for name in NAMES:
            self.spawn(name, from_snapshot=False)

    # -- members come and go -------------------------------------------------------------------------------

    def spawn(self, name: str, *, from_snapshot: bool) -> None:
        """A new incarnation; the one before is gone, and what it had sent may still arrive."""
        flight = self.flights.pop(name, None)
        if flight is not None:
            self.ghosts.append((self.rigs[name].subject_of(flight.written), flight.written))
        self._seen[name] = set()
        self.incarnations[name] += 1
        incarnation = str(self.incarnations[name])
        self.rigs[name] = rig = self.new_rig(name, incarnation)
        newest = self.newest_snapshot() if from_snapshot else None
        if newest is not None:
            rig.restore(newest)
        self.log.join(name, incarnation)

    def new_rig(self, name: str, incarnation: str) -> MemberRig:
        """A member that has read nothing yet."""
        return MemberRig(
            self.log,
            name,
            incarnation=incarnation,
            max_running=self.settings.max_running,
            max_frame_bytes=self.settings.max_frame_bytes,
            snapshots_every=self.settings.snapshots_every,
            segment_keys=self.settings.segment_keys,
            retries=RETRIES,
            state=ListState(),
        )

    def newest_snapshot(self) -> Record | None:
        """The latest snapshot of the group."""
        return next((r for r in reversed(self.log.records) if NS.parse(r.subject).kind == STATE), None)

    def check_snapshot(self, record: Record) -> None:
        """A member that begins with it knows what one knows that read everything, and does the same."""
        covers = decode_snapshot(record.payload).covers
        topology = Topology(NS)
        for known in self.log.records[:covers]:
            topology.apply(known)
        group = topology.group(SERVICE, GROUP)
        assert group is not None
        assert group.holder == NS.parse(record.subject).who
        one, other = self.new_rig("z", "1"), self.new_rig("z", "1")
        other.core.identity = one.core.identity
        one.restore(record)
        for seq in (covers, len(self.log.records)):
            one.read(seq - one.position)
            other.read(seq - other.position)
            assert one.core.calls.to_plain() == other.core.calls.to_plain()
            assert one.core.calls.sessions.dump() == other.core.calls.sessions.dump()
            assert one.core.topology.to_plain() == other.core.topology.to_plain()
            assert self.owners_by(one) == self.owners_by(other)
            assert one.state is not None
            assert other.state is not None
            assert one.state.events == other.state.events
        world = self.log
        self.log = ListLog(list(world.records), world.now_ns)
        one.log = other.log = self.log
        self.log.join("z")
        self.log.promote("z", self.epoch + 1)
        for rig in (one, other):
            rig.read()
            rig.pass_time(0)
        assert one.started() == other.started()
        first, second = one.core.next_frame(), other.core.next_frame()
        said = [None if w is None else [(f.mark, f.call.call_id) for f in w.facts] for w in (first, second)]
        assert said[0] == said[1]
        self.log = world

    def owners_by(self, rig: MemberRig) -> dict[str, bytes]:
        """Who has each key, by the index of a member and the segments."""
        index = rig.core.calls.keys
        assert index is not None
        owners = {}
        for key in KEYS:
            found = index.find(key_hash(key))
            if isinstance(found, Elsewhere):
                found = rig.found_by(Lookup(key_hash(key), tuple(found.segments)))
            if found is not None:
                owners[key] = found.call_id
        return owners

    # -- operators -------------------------------------------------------------------------------------

    def dead_letters(self, name: str) -> list[OpenCall]:
        """What an operator's command to this member can be about: it reads the whole log, and takes one
        command at a time.
        """
        self.judge.read()
        core = self.rigs[name].core
        flying = core._pen.in_flight
        noted = {fact.call.call_id for fact in (*core._pen._facts, *(flying.facts if flying else ()))}
        return [
            call
            for call_id, call in self.judge.calls.items()
            if self.judge.is_dead(call_id) and call_id not in noted and call_id not in core.calls.open
        ]

    # -- the router ----------------------------------------------------------------------------------------

    def promote(self, name: str, *, planned: bool = False) -> None:
        """It gives a member the pen."""
        self.epoch += 1
        self.holder = (name, str(self.incarnations[name]))
        self.is_handing_over = False
        self.log.promote(name, self.epoch, self.holder[1], "planned" if planned else "failover")

    def suspect(self, name: str) -> None:
        """It has its doubts about a member, and says so."""
        event = InstanceSuspected(
            instance=name,
            incarnation=str(self.incarnations[name]),
            last_pulse_ns=0,
            silence_ms=1,
            decided_by="r",
        )
        self.log.say(NS.watch(SERVICE, GROUP), event)

    def vacate(self) -> None:
        """It takes the pen away."""
        self.holder, self.is_handing_over = None, False
        self.log.vacate(self.epoch)

    def yield_and_promote(self, to: str) -> bool:
        """The holder, if it is done, says so, and the router promotes another one, as planned."""
        if self.holder is None or self.rigs[self.holder[0]].core.to_yield != self.epoch:
            return False
        name, incarnation = self.holder
        self.log.say(
            NS.instance(SERVICE, GROUP, name),
            InstanceYielded(incarnation=incarnation, epoch=self.epoch, cause="t"),
        )
        self.promote(to, planned=True)
        return True

    @property
    def holder_is_there(self) -> bool:
        """Whether the incarnation that was promoted is still the one that runs."""
        return self.holder is not None and str(self.incarnations[self.holder[0]]) == self.holder[1]

    # -- running -------------------------------------------------------------------------------------------

    def read(self, name: str, count: int) -> None:
        """A member reads on, and starts what it starts."""
        rig = self.rigs[name]
        for _ in range(min(count, len(self.log.records) - rig.position)):
            rig.read(1)
            self.collect(name)

    def busy(self) -> list[str]:
        """The members in which handlers run, be it for an epoch that is over."""
        return [name for name in NAMES if self.rigs[name].running]

    def late(self) -> list[tuple[str, int]]:
        """The handlers that run for an epoch that is over, as their members know it."""
        return [
            (name, which)
            for name in NAMES
            for which, start in enumerate(self.rigs[name].running)
            if not self.rigs[name].core.is_active or start.epoch != self.rigs[name].core.epoch
        ]

    def end_handler(
        self,
        name: str,
        which: int,
        mark: Mark,
        events: int = 0,
        *,
        testifies: bool = True,
        again: bool = False,
    ) -> None:
        """A handler returns, having emitted so many events (negative: one that no state takes). If that comes
        too late for an outcome, it may still be evidence.
        """
        rig = self.rigs[name]
        if not rig.running:
            return
        start = rig.running[which % len(rig.running)]
        body = f"{name}{rig.core.identity.incarnation}".encode()
        emitted: tuple[bytes, ...] = ()
        if mark is Mark.SUCCEEDED:
            emitted = tuple(self._event() for _ in range(events)) if events >= 0 else (b"!",)
        in_time = rig.finish_start(start, body, mark, emitted, again=again and mark is Mark.FAILED)
        if not in_time and start.call.method == "pay" and testifies:
            rig.testify(start.call.call_id, body, mark, emitted)
            self.testified.update(emitted)
        self.collect(name)

    def _event(self) -> bytes:
        self._serial += 1
        return f"e{self._serial}".encode()

    def collect(self, name: str) -> None:
        """Note what has been started; what ended and will never be written is evidence."""
        rig = self.rigs[name]
        for left in rig.core.take_unwritten():
            rig.testify(left.call.call_id, left.body, left.mark, left.emitted)
            self.testified.update(left.emitted)
        seen = self._seen[name]
        for start in rig.running:
            if id(start) not in seen:
                seen.add(id(start))
                self._check_start(rig, start)
                place = self.judge.places[start.call.call_id]
                self.ran.append(Ran(start, name, rig.core.identity.incarnation, place))

    def _check_start(self, rig: MemberRig, start: Start) -> None:
        call, judge = start.call, self.judge
        judge.read()
        assert self.log.now_ns < call.deadline_ns, "an expired call was started"
        if call.key is not None and not judge.was_in_doubt(call.call_id):
            assert judge.owners.get(call.key) == call.call_id, "a call was started whose key is not its own"
        was_logged = call.method == "pay" or (
            call.key is not None and judge.keyed.get(call.call_id, 0) > judge.fences[start.epoch]
        )
        if call.method != "pay" and judge.is_suspect(call.call_id, call.seq, start.epoch):
            assert start.epoch in judge.attempts[call.call_id], (
                "a suspect was begun without a word in the log"
            )
            was_logged = True
        group = rig.core.group
        assert group is not None
        is_held_back = group.paused or group.handover is not None or rig.core.held is not None
        assert was_logged or not is_held_back, "a call was started while nothing was to be started"

    # -- the server ----------------------------------------------------------------------------------------

    def send(self, name: str) -> None:
        """A member's next frame goes out, if none is on its way."""
        if name not in self.flights:
            written = self.rigs[name].core.next_frame()
            if written is not None:
                self.flights[name] = Flight(written)

    def store(self, name: str) -> None:
        """The server takes or refuses it."""
        flight = self.flights.get(name)
        if flight is None:
            return
        try:
            flight.stored_seq = self.rigs[name].store(flight.written)
        except WrongSequence:
            flight.refused = True

    def answer(self, name: str) -> None:
        """The member hears what became of it."""
        flight = self.flights.get(name)
        if flight is None or not (flight.stored_seq or flight.refused):
            return
        rig = self.rigs[name]
        del self.flights[name]
        if not flight.stored_seq:  # as GroupCommit does: was an earlier attempt of this very frame stored?
            last = self.log.last(rig.subject_of(flight.written))
            if last is not None and last.payload == flight.written.payload:
                flight.stored_seq = last.seq
        if flight.stored_seq:
            before = len(rig.replies)
            rig.ack(flight.written)
            self.replies += [reply for _, reply in rig.replies[before:]]
        else:
            again = rig.refuse(flight.written)
            if again is not None:
                self.flights[name] = Flight(again)
        self.collect(name)

    def lose_answer(self, name: str) -> None:
        """The answer does not arrive."""
        flight = self.flights.get(name)
        if flight is not None:
            flight.stored_seq, flight.refused = 0, False

    def deliver_ghost(self) -> None:
        """A frame of a member that is gone arrives."""
        subject, written = self.ghosts.pop()
        with contextlib.suppress(WrongSequence):
            self.log.append(subject, written.payload, written.expect, written.record_id)
