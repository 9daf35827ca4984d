"""Two members, one log, any schedule: whatever happens in whatever order, the guarantees hold.

The machine plays the server (fence checks, lost answers, frames that arrive late), the router (promotions,
reaffirmations, vacancies), the clients, the clock, and crashes. After every run the log itself is judged.
"""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from dataclasses import dataclass

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aegisipc.eventstore.calls import GroupCalls, Outcome
from aegisipc.eventstore.errors import WrongSequence
from aegisipc.eventstore.frames import Mark, decode_calls
from aegisipc.eventstore.ids import CallId
from aegisipc.eventstore.subjects import CALL
from aegisipc.sdk.core.pen import CLAIMED_TOO_LATE, Start, Written
from tests.sdk.kit import NS, FakeClient, ListLog, MemberRig, a_call

NAMES = ("a", "b")
MEMBERS = st.sampled_from(NAMES)
CALLS = st.lists(
    st.builds(
        a_call,
        st.sampled_from(["pay", "pay", "put", "get"]),
        st.sampled_from([None, "x", "x", "y"]),
        st.sampled_from([3, 20, 1000]),
    ),
    min_size=1,
    max_size=4,
)


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


class TwoMembers(RuleBasedStateMachine):
    """The world around two members of one group."""

    def __init__(self) -> None:
        super().__init__()
        self.log = ListLog()
        self.clients = [FakeClient(self.log, "c1"), FakeClient(self.log, "c2")]
        self.incarnations = dict.fromkeys(NAMES, 0)
        self.rigs: dict[str, MemberRig] = {}
        self.flights: dict[str, Flight] = {}
        self.ghosts: list[tuple[str, Written]] = []
        self.ran: list[Ran] = []
        self.seen_starts: dict[str, set[int]] = {}
        self.replies: list[tuple[CallId, int, bytes | None]] = []
        self.holder: tuple[str, str] | None = None
        self.epoch = 0

    @initialize(max_running=st.sampled_from([1, 2, 8]), max_frame_bytes=st.sampled_from([64, 1 << 20]))
    def begin(self, max_running: int, max_frame_bytes: int) -> None:
        self.max_running, self.max_frame_bytes = max_running, max_frame_bytes
        for name in NAMES:
            self._spawn(name)
        self.router_promotes("a")
        self.member_goes_on("a")

    def _spawn(self, name: str) -> None:
        self.incarnations[name] += 1
        incarnation = str(self.incarnations[name])
        self.rigs[name] = MemberRig(
            self.log,
            name,
            incarnation=incarnation,
            max_running=self.max_running,
            max_frame_bytes=self.max_frame_bytes,
        )
        self.log.join(name, incarnation)

    # -- clients and the clock -----------------------------------------------------------------------------

    @rule(client=st.integers(0, 1), calls=CALLS)
    def client_sends(self, client: int, calls: list[tuple[str, str | None, int, bytes]]) -> None:
        self.clients[client].send(*calls)

    @precondition(lambda self: any(".call." in r.subject for r in self.log.records))
    @rule()
    def a_call_frame_is_stored_twice(self) -> None:
        frame = next(r for r in reversed(self.log.records) if ".call." in r.subject)
        self.log.append(frame.subject, frame.payload)

    @rule(milliseconds=st.sampled_from([1, 5, 30]), told=st.booleans())
    def time_passes(self, milliseconds: int, told: bool) -> None:
        self.log.now_ns += milliseconds * 1_000_000
        if told:
            for name in NAMES:
                self.rigs[name].core.on_tick(self.log.now_ns)
                self._collect(name)

    # -- the router ----------------------------------------------------------------------------------------

    @rule(name=MEMBERS)
    def router_promotes(self, name: str) -> None:
        self.epoch += 1
        self.holder = (name, str(self.incarnations[name]))
        self.log.promote(name, self.epoch, self.holder[1])

    @precondition(lambda self: self.holder is not None)
    @rule()
    def router_reaffirms(self) -> None:
        assert self.holder is not None
        self.log.promote(self.holder[0], self.epoch, self.holder[1])

    @precondition(lambda self: self.holder is not None)
    @rule()
    def router_vacates(self) -> None:
        self.holder = None
        self.log.vacate(self.epoch)

    # -- members -------------------------------------------------------------------------------------------

    @rule(name=MEMBERS, count=st.sampled_from([1, 2, 1000]))
    def member_reads(self, name: str, count: int) -> None:
        self.rigs[name].read(count)
        self._collect(name)

    @rule(name=MEMBERS)
    def member_goes_on(self, name: str) -> None:
        """What mostly happens: it reads, writes what it has, and hears that it is stored."""
        self.member_reads(name, 1000)
        self.member_sends_a_frame(name)
        self.server_takes_a_frame(name)
        self.member_hears_of_its_frame(name)

    @rule(client=st.integers(0, 1), calls=CALLS)
    def calls_arrive_and_the_holder_takes_them(
        self, client: int, calls: list[tuple[str, str | None, int, bytes]]
    ) -> None:
        self.client_sends(client, calls)
        if self.holder is not None:
            self.member_goes_on(self.holder[0])

    @rule(name=MEMBERS)
    def the_pen_changes_hands(self, name: str) -> None:
        self.router_promotes(name)
        self.member_goes_on(name)

    @rule(name=MEMBERS, which=st.integers(0, 7), fails=st.booleans())
    def handler_returns(self, name: str, which: int, fails: bool) -> None:
        rig = self.rigs[name]
        if rig.running:
            start = rig.running[which % len(rig.running)]
            body = f"{name}{rig.core.identity.incarnation}".encode()
            rig.finish(start.call.call_id, body, Mark.FAILED if fails else Mark.SUCCEEDED)
            self._collect(name)

    @rule(name=MEMBERS)
    def member_sends_a_frame(self, name: str) -> None:
        if name not in self.flights:
            written = self.rigs[name].core.next_frame()
            if written is not None:
                self.flights[name] = Flight(written)

    @rule(name=MEMBERS)
    def server_takes_a_frame(self, name: str) -> None:
        flight = self.flights.get(name)
        if flight is None:
            return
        try:
            flight.stored_seq = self.rigs[name].store(flight.written)
        except WrongSequence:
            flight.refused = True

    @rule(name=MEMBERS)
    def member_hears_of_its_frame(self, name: str) -> None:
        flight = self.flights.get(name)
        if flight is not None and (flight.stored_seq or flight.refused):
            self._answer(name, flight)

    @rule(name=MEMBERS)
    def the_answer_is_lost(self, name: str) -> None:
        flight = self.flights.get(name)
        if flight is not None:
            flight.stored_seq, flight.refused = 0, False

    def _answer(self, name: str, flight: Flight) -> None:
        rig = self.rigs[name]
        del self.flights[name]
        if not flight.stored_seq:  # as GroupCommit does: was an earlier attempt of this very frame stored?
            last = self.log.last(rig.pen)
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
        self._collect(name)

    @rule(name=MEMBERS)
    def member_crashes_and_comes_back(self, name: str) -> None:
        flight = self.flights.pop(name, None)
        if flight is not None:
            self.ghosts.append((self.rigs[name].pen, flight.written))
        self.seen_starts.pop(name, None)
        self._spawn(name)

    @precondition(lambda self: self.ghosts)
    @rule()
    def a_dead_members_frame_arrives(self) -> None:
        pen, written = self.ghosts.pop()
        with contextlib.suppress(WrongSequence):
            self.log.append(pen, written.payload, written.expect, written.record_id)

    def _collect(self, name: str) -> None:
        rig = self.rigs[name]
        seen = self.seen_starts.setdefault(name, set())
        for start in rig.running:
            if id(start) in seen:
                continue
            seen.add(id(start))
            self.ran.append(Ran(start, name, rig.core.identity.incarnation))
            assert self.log.now_ns < start.call.deadline_ns, "an expired call was started"

    # -- what must hold at every moment --------------------------------------------------------------------

    @invariant()
    def a_once_call_never_starts_twice(self) -> None:
        once = [r.start.call.call_id for r in self.ran if r.start.call.method == "pay"]
        assert len(once) == len(set(once))

    @invariant()
    def no_call_starts_twice_in_one_epoch(self) -> None:
        runs = [(r.start.call.call_id, r.start.epoch, r.incarnation, r.member) for r in self.ran]
        assert len(runs) == len(set(runs))

    @invariant()
    def no_member_runs_more_than_it_may(self) -> None:
        for rig in self.rigs.values():
            assert 0 <= rig.core.running <= self.max_running

    @invariant()
    def calls_of_one_resource_start_in_log_order(self) -> None:
        order: dict[tuple[object, ...], int] = {}
        for run in self.ran:
            call = run.start.call
            if call.resource is not None:
                key = (run.member, run.incarnation, run.start.epoch, call.resource)
                place = self._place(call.call_id)
                assert order.get(key, -1) < place
                order[key] = place

    def _place(self, call_id: CallId) -> int:
        return list(self._accepted()).index(call_id)

    def _accepted(self) -> dict[CallId, str | None]:
        found: dict[CallId, str | None] = {}
        for record in self.log.records:
            if NS.parse(record.subject).kind == CALL:
                for entry in decode_calls(record.payload).entries:
                    found.setdefault(entry.call_id, entry.resource)
        return found

    # -- what must hold in the end -------------------------------------------------------------------------

    def teardown(self) -> None:
        if not self.rigs:
            return
        self._come_to_rest()
        fold = GroupCalls(keep_bodies=True)
        concluded: dict[CallId, list[Outcome]] = defaultdict(list)
        order: dict[str, list[int]] = defaultdict(list)
        for record in self.log.records:
            for done in fold.apply(record, NS.parse(record.subject)).concluded:
                concluded[done.call.call_id].append(done.outcome)
                if done.call.resource is not None and done.outcome.mark in (Mark.SUCCEEDED, Mark.FAILED):
                    order[done.call.resource].append(self._place(done.call.call_id))
        accepted = self._accepted()
        assert set(concluded) == set(accepted), "an accepted call has no outcome"
        assert all(len(outcomes) == 1 for outcomes in concluded.values()), "a call has two outcomes"
        assert set(fold.anomalies) <= {"frame stored twice"}, fold.anomalies
        assert all(places == sorted(places) for places in order.values()), (
            "a resource's calls ran out of order"
        )
        self._check_what_was_told(concluded)
        assert all(
            rig.core.is_quiet and not rig.core.waiting for rig in self.rigs.values() if rig.core.is_active
        )

    def _check_what_was_told(self, concluded: dict[CallId, list[Outcome]]) -> None:
        for call_id, mark, body in self.replies:
            assert Outcome(call_id, Mark(mark), body) == concluded[call_id][0], "a reply told something else"
        started = {r.start.call.call_id for r in self.ran}
        for call_id, (outcome,) in concluded.items():
            if outcome.mark in (Mark.SUCCEEDED, Mark.FAILED):
                assert (call_id in started) is (outcome.body != CLAIMED_TOO_LATE)
            if outcome == (call_id, Mark.EXPIRED, None):
                assert call_id not in started, "it is said that it never started"

    def _come_to_rest(self) -> None:
        """The faults end. Only if nobody alive holds the pen does the router have anything to do."""
        if self.holder is None or self.incarnations[self.holder[0]] != int(self.holder[1]):
            self.router_promotes("a")
        for _ in range(10_000):
            before = (len(self.log.records), len(self.ran), len(self.flights))
            for name in NAMES:
                self.member_reads(name, 1000)
                while self.rigs[name].running:
                    self.handler_returns(name, 0, fails=False)
                self.member_sends_a_frame(name)
                self.server_takes_a_frame(name)
                self.member_hears_of_its_frame(name)
            if before == (len(self.log.records), len(self.ran), len(self.flights)) and not self.flights:
                return
        raise AssertionError("the members never come to rest")


TestTwoMembers = TwoMembers.TestCase
TestTwoMembers.settings = settings(
    max_examples=int(os.environ.get("AEGIS_EXAMPLES", "150")),
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
