"""Two members, one log, any schedule: whatever happens in whatever order, the guarantees hold.

The machine plays the server (fence checks, lost answers, frames that arrive late, forged ones), the router
(failovers, handovers, reaffirmations, vacancies, pauses), the clients, operators, the clock, and crashes.
After every run the log itself is judged.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aegisipc.eventstore.calls import Outcome
from aegisipc.eventstore.codec import decode
from aegisipc.eventstore.frames import Mark, PenEntry, PenFrame, encode_pen
from aegisipc.eventstore.histories import AcceptedCall, CallHistory
from aegisipc.eventstore.ids import CallId
from aegisipc.sdk.core.pen import CLAIMED_TOO_LATE
from aegisipc.sdk.core.suspects import MAX_ATTEMPTS
from tests.sdk.kit import GROUP, NS, SERVICE, a_call
from tests.sdk.member_kit import ask_to_cancel, requeue, said_by, send_keyed
from tests.sdk.two_members import KEYS, NAMES, Settings, TwoMembers

MEMBERS = st.sampled_from(NAMES)
CALLS = st.lists(
    st.tuples(
        st.builds(
            a_call,
            st.sampled_from(["pay", "pay", "put", "get"]),
            st.sampled_from([None, "x", "x", "y"]),
            st.sampled_from([3, 20, 1000]),
            st.sampled_from([b"\x92\x90\x80", b"\x92\x90\x80", b"\x92\x91\x01\x80"]),
        ),
        st.sampled_from([None, None, *KEYS]),
    ),
    min_size=1,
    max_size=4,
)
ENDS = st.sampled_from([Mark.SUCCEEDED, Mark.SUCCEEDED, Mark.SUCCEEDED, Mark.FAILED])
EVENTS = st.sampled_from([1, 1, 2, 3, 0, 0, 1, -1])
EXPECTED_ANOMALIES = {"frame stored twice", "not the holder's", "evidence of no use"}

type Calls = list[tuple[tuple[str, str | None, int, bytes], str | None]]


class AnySchedule(RuleBasedStateMachine):
    """What may happen, and what must hold all the same."""

    world: TwoMembers

    @initialize(
        max_running=st.sampled_from([1, 2, 8]),
        max_frame_bytes=st.sampled_from([64, 160, 1 << 20]),
        snapshots_every=st.sampled_from([1, 3, 50_000]),
        segment_keys=st.sampled_from([1, 2, 50_000]),
    )
    def begin(self, max_running: int, max_frame_bytes: int, snapshots_every: int, segment_keys: int) -> None:
        self.world = TwoMembers(Settings(max_running, max_frame_bytes, snapshots_every, segment_keys))
        self.world.promote("a")
        self.member_goes_on("a")

    # -- clients and the clock -----------------------------------------------------------------------------

    @rule(client=st.integers(0, 1), calls=CALLS)
    def client_sends(self, client: int, calls: Calls) -> None:
        send_keyed(self.world.clients[client], *calls)

    @rule(which=st.integers(0, 15), more=st.booleans())
    def somebody_cancels_calls(self, which: int, more: bool) -> None:
        known = [*self.world.judge.calls][-16:]
        if known:
            chosen = [known[which % len(known)], *(known[-1:] if more else [])]
            ask_to_cancel(self.world.log, *chosen)

    @rule(client=st.integers(0, 1), calls=CALLS)
    def calls_arrive_and_the_holder_takes_them(self, client: int, calls: Calls) -> None:
        send_keyed(self.world.clients[client], *calls)
        if self.world.holder is not None:
            self.member_goes_on(self.world.holder[0])

    @rule(kind=st.sampled_from([".call.", ".pen.", ".dead.", ".evidence.", ".keys.", ".cancel."]))
    def a_frame_is_stored_twice(self, kind: str) -> None:
        frame = next((r for r in reversed(self.world.log.records) if kind in r.subject), None)
        if frame is not None and b"forged" not in frame.payload:
            self.world.log.append(frame.subject, frame.payload)

    @rule(milliseconds=st.sampled_from([1, 5, 30]), told=st.booleans())
    def time_passes(self, milliseconds: int, told: bool) -> None:
        self.world.log.now_ns += milliseconds * 1_000_000
        if told:
            for name, rig in self.world.rigs.items():
                rig.pass_time(0)
                self.world.collect(name)

    # -- the router and operators --------------------------------------------------------------------------

    @rule(name=MEMBERS)
    def router_promotes(self, name: str) -> None:
        self.world.promote(name)

    @rule(name=MEMBERS, suspects=MEMBERS)
    def router_suspects_and_promotes(self, suspects: str, name: str) -> None:
        self.world.suspect(suspects)
        self.world.promote(name)

    @rule(name=MEMBERS)
    def the_pen_changes_hands(self, name: str) -> None:
        self.world.promote(name)
        self.member_goes_on(name)

    @precondition(lambda self: self.world.holder_is_there)
    @rule(calls=CALLS, to=MEMBERS, told=st.booleans())
    def the_holder_is_cut_off_in_the_middle_of_calls(self, calls: Calls, to: str, told: bool) -> None:
        assert self.world.holder is not None
        former = self.world.holder[0]
        send_keyed(self.world.clients[0], *calls)
        self.member_goes_on(former)
        self.world.promote(to)
        if told:
            self.world.read(former, 1000)
        self.member_goes_on(to)

    @precondition(lambda self: self.world.late())
    @rule(at=st.integers(0, 1), mark=ENDS, events=EVENTS, count=st.integers(1, 4))
    def handlers_return_too_late(self, at: int, mark: Mark, events: int, count: int) -> None:
        late = self.world.late()
        name, _ = late[at % len(late)]
        for which in [which for found, which in late if found == name][:count][::-1]:
            self.world.end_handler(name, which, mark, events)

    @precondition(lambda self: self.world.holder is not None and not self.world.is_handing_over)
    @rule()
    def router_reaffirms(self) -> None:
        holder = self.world.holder
        assert holder is not None
        self.world.log.promote(holder[0], self.world.epoch, holder[1])

    @precondition(lambda self: self.world.holder is not None)
    @rule()
    def router_vacates(self) -> None:
        self.world.vacate()

    @precondition(lambda self: self.world.holder is not None and not self.world.is_handing_over)
    @rule(to=MEMBERS)
    def router_starts_a_handover(self, to: str) -> None:
        holder = self.world.holder
        assert holder is not None
        self.world.log.hand_over(self.world.epoch, holder[0], to, str(self.world.incarnations[to]))
        self.world.is_handing_over = True

    @precondition(lambda self: self.world.is_handing_over)
    @rule()
    def router_calls_the_handover_off(self) -> None:
        self.world.log.call_off(self.world.epoch)
        self.world.is_handing_over = False

    @precondition(lambda self: self.world.is_handing_over and self.world.holder_is_there)
    @rule(to=MEMBERS)
    def the_holder_finishes_for_a_handover(self, to: str) -> None:
        assert self.world.holder is not None
        name = self.world.holder[0]
        self.member_goes_on(name)
        for _ in range(len(self.world.rigs[name].running)):
            self.world.end_handler(name, 0, Mark.SUCCEEDED, 1)
        self.member_goes_on(name)
        self.member_goes_on(name)
        self.the_holder_yields_to(to)

    @rule(to=MEMBERS)
    def the_holder_yields_to(self, to: str) -> None:
        if self.world.yield_and_promote(to):
            judge = self.world.judge
            judge.read()
            assert not any(str(call.state) == "started" for call in judge.fold.open.values())

    @rule(pause=st.booleans())
    def operator_pauses_or_resumes(self, pause: bool) -> None:
        _ = self.world.log.pause() if pause else self.world.log.resume()

    @rule(name=MEMBERS, ill=st.booleans())
    def member_is_held_or_released(self, name: str, ill: bool) -> None:
        core = self.world.rigs[name].core
        if ill:
            core.hold("ill")
        else:
            core.release(self.world.log.now_ns)
        self.world.rigs[name].take()
        self.world.collect(name)

    @rule(name=MEMBERS, which=st.integers(0, 3), executed=st.booleans())
    def operator_resolves_a_doubt(self, name: str, which: int, executed: bool) -> None:
        rig = self.world.rigs[name]
        doubts = [call_id for call_id in self.world.judge.places if call_id in rig.core.doubts]
        if doubts and rig.core.is_active:
            call_id = doubts[which % len(doubts)]
            if executed:
                rig.core.doubts.executed(call_id, Mark.SUCCEEDED, b"operator", said_by("operator"))
            else:
                rig.core.doubts.not_executed(call_id, said_by("reconcile"))
            assert call_id not in rig.core.doubts

    @rule(name=MEMBERS, which=st.integers(0, 3), again=st.booleans(), milliseconds=st.sampled_from([5, 1000]))
    def operator_requeues_or_discards(self, name: str, which: int, again: bool, milliseconds: int) -> None:
        rig = self.world.rigs[name]
        letters = self.world.dead_letters(name)
        if letters and rig.core.is_active and rig.position == len(self.world.log.records):
            letter = letters[which % len(letters)]
            if again:
                requeue(rig, letter, timeout_ms=milliseconds)
            else:
                rig.core.discard(letter, said_by())

    @rule(name=MEMBERS)
    def host_reads_segments(self, name: str) -> None:
        self.world.rigs[name].look_up()
        self.world.collect(name)

    @rule(name=MEMBERS)
    def holder_checks_its_state(self, name: str) -> None:
        if self.world.rigs[name].core.is_active:
            self.world.rigs[name].core.replica.check()

    # -- members and the server ----------------------------------------------------------------------------

    @rule(name=MEMBERS, count=st.sampled_from([1, 2, 1000]))
    def member_reads(self, name: str, count: int) -> None:
        self.world.read(name, count)

    @rule(name=MEMBERS)
    def member_goes_on(self, name: str) -> None:
        """What mostly happens: it reads, writes what it has, and hears that it is stored."""
        self.world.read(name, 1000)
        self.host_reads_segments(name)
        self.world.send(name)
        self.world.store(name)
        self.world.answer(name)

    @precondition(lambda self: self.world.busy())
    @rule(at=st.integers(0, 1), which=st.integers(0, 7), mark=ENDS, events=EVENTS, testifies=st.booleans())
    def handler_returns(self, at: int, which: int, mark: Mark, events: int, testifies: bool) -> None:
        busy = self.world.busy()
        self.world.end_handler(busy[at % len(busy)], which, mark, events, testifies=testifies)

    @precondition(lambda self: self.world.holder_is_there)
    @rule(
        method=st.sampled_from(["put", "pay"]),
        resource=st.sampled_from([None, "x"]),
        key=st.sampled_from([None, *KEYS]),
        fails=st.integers(1, 4),
        again=st.sampled_from([None, 5, 1000]),
    )
    def a_call_fails_several_times(
        self, method: str, resource: str | None, key: str | None, fails: int, again: int | None
    ) -> None:
        """And if it is a dead letter then, an operator may let it run again."""
        assert self.world.holder is not None
        name = self.world.holder[0]
        send_keyed(
            self.world.clients[0], (a_call(method, resource, 1000), key), (a_call("get", resource), None)
        )
        for _ in range(fails):
            self.member_goes_on(name)
            for _ in range(len(self.world.rigs[name].running)):
                self.world.end_handler(name, 0, Mark.FAILED, again=True)
            self.member_goes_on(name)
            self.time_passes(5, told=True)
        self.member_goes_on(name)
        self.world.read(name, 1000)
        if again is not None:
            self.operator_requeues_or_discards(name, 3, again=True, milliseconds=again)

    @precondition(lambda self: self.world.busy())
    @rule(at=st.integers(0, 1), which=st.integers(0, 7), goes_on=st.booleans())
    def handler_fails_and_may_be_run_again(self, at: int, which: int, goes_on: bool) -> None:
        busy = self.world.busy()
        name = busy[at % len(busy)]
        self.world.end_handler(name, which, Mark.FAILED, again=True)
        if goes_on:
            self.member_goes_on(name)

    @precondition(lambda self: self.world.busy())
    @rule(at=st.integers(0, 1), mark=ENDS, events=EVENTS, goes_on=st.booleans())
    def all_handlers_of_a_member_return(self, at: int, mark: Mark, events: int, goes_on: bool) -> None:
        busy = self.world.busy()
        name = busy[at % len(busy)]
        for _ in range(len(self.world.rigs[name].running)):
            self.world.end_handler(name, 0, mark, events)
        if goes_on:
            self.member_goes_on(name)

    @rule(name=MEMBERS)
    def member_sends_a_frame(self, name: str) -> None:
        self.world.send(name)

    @precondition(lambda self: self.world.flights)
    @rule(at=st.integers(0, 1))
    def server_takes_a_frame(self, at: int) -> None:
        self.world.store(self._sender(at))

    @precondition(lambda self: self.world.flights)
    @rule(at=st.integers(0, 1))
    def member_hears_of_its_frame(self, at: int) -> None:
        self.world.answer(self._sender(at))

    @precondition(lambda self: self.world.flights)
    @rule(at=st.integers(0, 1))
    def the_answer_is_lost(self, at: int) -> None:
        self.world.lose_answer(self._sender(at))

    def _sender(self, at: int) -> str:
        senders = sorted(self.world.flights)
        return senders[at % len(senders)]

    @rule(name=MEMBERS, from_snapshot=st.booleans())
    def member_crashes_and_comes_back(self, name: str, from_snapshot: bool) -> None:
        self.world.spawn(name, from_snapshot=from_snapshot)

    @precondition(lambda self: self.world.ghosts)
    @rule()
    def a_dead_members_frame_arrives(self) -> None:
        self.world.deliver_ghost()

    @rule(
        name=MEMBERS, ahead=st.sampled_from([-1, 0, 1]), mark=st.sampled_from(Mark), which=st.integers(0, 7)
    )
    def somebody_forges_a_frame(self, name: str, ahead: int, mark: Mark, which: int) -> None:
        world = self.world
        epoch = max(0, world.epoch + ahead)
        open_calls = list(world.judge.fold.open)
        if not open_calls or (world.holder is not None and (name, epoch) == (world.holder[0], world.epoch)):
            return  # that is what no reader could tell from the real one
        call_id = open_calls[which % len(open_calls)]
        session = world.rigs[name].core.identity.session
        frame = PenFrame(session, 1000, epoch, [PenEntry(mark, call_id)], [b"forged"])
        world.log.append(NS.pen(SERVICE, GROUP, name), encode_pen(frame))

    # -- what must hold at every moment --------------------------------------------------------------------

    @invariant()
    def a_once_call_starts_again_only_if_it_was_found_not_to_have_run(self) -> None:
        self.world.judge.read()
        starts = Counter(r.start.call.call_id for r in self.world.ran if r.start.call.method == "pay")
        judge = self.world.judge
        for call_id, count in starts.items():
            assert count <= 1 + judge.reopened[call_id] + judge.retried[call_id]

    @invariant()
    def of_the_calls_with_one_key_only_one_ever_starts(self) -> None:
        judge = self.world.judge
        started: dict[str, set[CallId]] = defaultdict(set)
        for run in self.world.ran:
            call = run.start.call
            if call.key is not None and not judge.was_in_doubt(call.call_id):
                started[call.key].add(call.call_id)
                assert call.call_id not in judge.released, "a key was given back by a call that started"
        assert all(len(calls) == 1 for calls in started.values())

    @invariant()
    def no_call_starts_twice_in_one_epoch(self) -> None:
        runs = Counter((r.start.call.call_id, r.start.epoch) for r in self.world.ran)
        judge = self.world.judge
        for (call_id, _), count in runs.items():
            assert count <= 1 + judge.reopened[call_id] + judge.retried[call_id]

    @invariant()
    def no_member_runs_more_than_it_may(self) -> None:
        for rig in self.world.rigs.values():
            assert 0 <= rig.core.running <= self.world.settings.max_running

    @invariant()
    def calls_of_one_resource_start_in_log_order_one_after_another(self) -> None:
        judge = self.world.judge
        order: dict[tuple[object, ...], tuple[int, CallId]] = {}
        for run in self.world.ran:
            call = run.start.call
            if call.resource is None or judge.was_in_doubt(call.call_id):
                continue
            key = (run.member, run.incarnation, run.start.epoch, call.resource)
            place, before = order.get(key, (-1, b""))
            assert place < run.place or (place, before) == (run.place, call.call_id)
            order[key] = (run.place, call.call_id)
        for rig in self.world.rigs.values():
            busy = [s.call.resource for s in rig.running if s.epoch == rig.core.epoch and s.call.resource]
            assert len(set(busy)) == len(busy) or not rig.core.is_active

    @invariant()
    def suspects_run_one_at_a_time(self) -> None:
        for rig in self.world.rigs.values():
            tried = self.world.judge.attempts
            alone = [
                s
                for s in rig.running
                if rig.core.is_active and s.epoch == rig.core.epoch and s.epoch in tried[s.call.call_id]
            ]
            assert len(alone) <= 1

    @invariant()
    def a_state_is_what_the_log_says_or_known_to_be_spoiled(self) -> None:
        for rig in self.world.rigs.values():
            assert rig.state is not None
            told = self.world.judge.events_until(rig.position)
            spoiled = rig.core.replica.spoiled
            if spoiled is None:
                assert rig.state.events == told or (
                    rig.core.is_active and rig.state.events[: len(told)] == told
                )
            else:
                assert "differs" not in spoiled
                written = self.world.judge.events
                is_in_log = written[: len(rig.state.events)] == rig.state.events
                # What a witness told may be written by the next holder, too.
                assert not is_in_log or self.world.testified.intersection(rig.state.events), "it was in order"

    # -- what must hold in the end -------------------------------------------------------------------------

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        self._come_to_rest()
        judge = self.world.judge
        judge.read()
        for call_id in judge.places:
            final = [outcome for outcome in judge.said[call_id] if outcome.mark is not Mark.IN_DOUBT]
            assert len(final) == 1 + judge.requeued[call_id], f"a call has {len(final)} outcomes"
            assert all(outcome.mark is Mark.DEAD_LETTERED for outcome in final[:-1])
        assert set(judge.fold.anomalies) <= EXPECTED_ANOMALIES, judge.fold.anomalies
        assert all(places == sorted(places) for places in judge.order.values()), "a resource lost its order"
        self._check_what_was_told()
        self._check_the_members()
        newest = self.world.newest_snapshot()
        if newest is not None:
            self.world.check_snapshot(newest)

    def _check_what_was_told(self) -> None:
        judge = self.world.judge
        for call_id, mark, body in self.world.replies:
            assert Outcome(call_id, Mark(mark), body) in judge.said[call_id], "a reply told something else"
        started = {r.start.call.call_id for r in self.world.ran}
        for call_id in sorted(judge.said, key=judge.was_in_doubt)[-3:]:  # reading the log for each takes long
            self._check_story(call_id, judge.said[call_id][-1])
        for call_id, outcomes in judge.said.items():
            _, mark, body = outcomes[-1]
            if mark is Mark.DEAD_LETTERED and decode(body or b"")["details"]["reason"] == "poison":
                assert len(judge.attempts[call_id]) >= MAX_ATTEMPTS
            if judge.was_in_doubt(call_id):
                continue
            if mark in (Mark.SUCCEEDED, Mark.FAILED):
                is_conflict = b"idempotency_conflict" in (body or b"")
                assert (call_id in started) is (body != CLAIMED_TOO_LATE and not is_conflict)
            if mark is Mark.DUPLICATE:
                assert call_id not in started
            if mark is Mark.CANCELLED and not decode(body or b"")["details"]["started"]:
                assert call_id not in started, "it is said that it was cancelled before it started"
            if (mark, body) == (Mark.EXPIRED, None):
                assert call_id not in started, "it is said that it never started"

    def _check_story(self, call_id: CallId, outcome: Outcome) -> None:
        """Whoever attaches reads the same."""
        accepted = AcceptedCall(call_id, SERVICE, GROUP, "c", "put", None, 0, 0, 0, 0, b"")
        story = CallHistory(NS, accepted)
        for record in self.world.log.records:
            is_said = ".pen." in record.subject or ".dead." in record.subject
            if is_said or record.subject == story.fence:
                story.apply(record)
        assert story.outcome == outcome

    def _check_the_members(self) -> None:
        judge = self.world.judge
        for rig in self.world.rigs.values():
            core = rig.core
            assert rig.state is not None
            assert rig.state.events == judge.events
            assert core.replica.spoiled is None
            assert core.calls.to_plain() == judge.fold.to_plain()
            for call_id, mark, body in core.answer(list(judge.places)):
                assert Outcome(call_id, Mark(mark), body) == judge.said[call_id][-1]
            assert self.world.owners_by(rig) == judge.owners
            is_done = core.is_quiet and not core.waiting and not len(core.doubts)
            assert not core.is_active or (is_done and not len(core.holding.retries))

    def _come_to_rest(self) -> None:
        """The faults end. Only if nobody alive holds the pen does the router have anything to do."""
        world = self.world
        world.log.resume()
        if world.is_handing_over:
            self.router_calls_the_handover_off()
        if not world.holder_is_there:
            world.promote("a")
        for _ in range(1000):
            before = (len(world.log.records), len(world.ran), len(world.flights))
            if any(len(rig.core.holding.retries) for rig in world.rigs.values()):
                world.log.now_ns += 20_000_000
            for name in NAMES:
                self._go_on(name)
            waits = any(len(rig.core.holding.retries) for rig in world.rigs.values() if rig.core.is_active)
            now = (len(world.log.records), len(world.ran), len(world.flights))
            if before == now and not world.flights and not waits:
                return
        raise AssertionError("the members never come to rest")

    def _go_on(self, name: str) -> None:
        rig = self.world.rigs[name]
        rig.core.release(self.world.log.now_ns)
        rig.take()
        self.world.collect(name)
        self.member_reads(name, 1000)
        if rig.core.replica.spoiled is not None and (not rig.core.is_active or rig.core.is_quiet):
            self.world.spawn(name, from_snapshot=True)
            if not self.world.holder_is_there:
                self.world.promote(name)
            return
        rig.pass_time(0)
        self.world.collect(name)
        while rig.running:
            self.world.end_handler(name, 0, Mark.SUCCEEDED, 1)
        self.world.judge.read()
        for which in range(len(rig.core.doubts)):
            self.operator_resolves_a_doubt(name, 0, executed=bool(which % 2))
        self.member_goes_on(name)


TestAnySchedule = AnySchedule.TestCase
TestAnySchedule.settings = settings(
    max_examples=int(os.environ.get("AEGIS_EXAMPLES", "100")),
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
