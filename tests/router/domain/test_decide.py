"""What a leading router decides: given the log and the pulses, then exactly this event, or none."""

from __future__ import annotations

from collections.abc import Sequence

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.errors import WrongSequence
from aegisipc.eventstore.events import Effect, MethodContract
from aegisipc.eventstore.frames import encode_calls
from aegisipc.eventstore.log import Expect, Record
from aegisipc.router.domain.decide import Decision, Policy, RouterIdentity, contract_differences, decide
from aegisipc.router.domain.pulses import PulseBoard
from aegisipc.router.domain.state import RouterState
from tests.sdk.kit import (
    CONTRACT,
    EPOCH_NS,
    GROUP,
    NS,
    POOL,
    SERVICE,
    FakeClient,
    ListLog,
    a_call,
    ms,
    registered,
)

ME = RouterIdentity("r1", "i1")


class World:
    """A log, the pulses, and a leading router that writes what it decides."""

    def __init__(self) -> None:
        self.log = ListLog()
        self.board = PulseBoard(NS, gap_ms=500)
        self.board.now_ns = self.board.floor_ns = EPOCH_NS
        self.never_ready: set[str] = set()

    # given

    def register(
        self,
        instance: str,
        incarnation: str = "1",
        *,
        group: str = GROUP,
        resources: Sequence[str] | None = None,
        contract: ev.Contract = CONTRACT,
    ) -> None:
        own = NS.instance(SERVICE, group, instance)
        self.log.say(own, registered(incarnation, group=group, resources=resources, contract=contract))

    def joined(self, instance: str, incarnation: str = "1", **options: object) -> None:
        self.register(instance, incarnation, **options)  # type: ignore[arg-type]
        self.settle()

    def leave(self, instance: str, incarnation: str = "1", group: str = GROUP) -> None:
        self.log.say(
            NS.instance(SERVICE, group, instance), ev.InstanceLeft(incarnation=incarnation, cause="t")
        )

    def pulse(self, *who: str, after_ms: float = 0, incarnation: str = "1", group: str = GROUP) -> None:
        """Time passes; the router pulses, and so do these instances."""
        self.log.now_ns += ms(after_ms)
        report = {"service": SERVICE, "group": group, "incarnation": incarnation}
        for subject, told in [(NS.pulse("router", "r1"), {"incarnation": "i1"})] + [
            (NS.pulse("instance", instance), report) for instance in who
        ]:
            self.board.apply(Record(1, subject, msgpack.packb(told), self.log.now_ns))

    def silence(self, milliseconds: int, *who: str) -> None:
        """Only these pulse, every 250 ms."""
        for _ in range(milliseconds // 250):
            self.pulse(*who, after_ms=250)

    # when

    @property
    def state(self) -> RouterState:
        return RouterState(NS).replay(self.log.records)

    def decide(self, me: RouterIdentity = ME) -> list[Decision]:
        return decide(self.state, self.board, me, Policy(), NS)

    def append(self, decision: Decision) -> None:
        self.log.append(decision.subject, ev.encode_event(decision.event), Expect(decision.expected_seq))

    def settle(self) -> list[ev.Event]:
        """Decide and append until nothing is left to decide; whoever is admitted says that it is ready."""
        decided: list[ev.Event] = []
        for _ in range(100):
            decisions = self.decide()
            if not decisions:
                return decided
            for decision in decisions:
                self.append(decision)
                decided.append(decision.event)
                self._answer(decision)
        raise AssertionError(f"never settles: {decided[-4:]}")

    def _answer(self, decision: Decision) -> None:
        event = decision.event
        if isinstance(event, ev.InstanceAdmitted) and event.instance not in self.never_ready:
            own = NS.instance(SERVICE, NS.parse(decision.subject).group, event.instance)
            self.log.say(own, ev.InstanceReady(incarnation=event.incarnation))


def only[E: ev.Event](events: Sequence[ev.Event | Decision], cls: type[E]) -> E:
    plain = [event.event if isinstance(event, Decision) else event for event in events]
    (found,) = plain
    assert isinstance(found, cls), found
    return found


# -- admission -----------------------------------------------------------------------------------------


def test_the_first_instance_is_admitted_and_promoted() -> None:
    world = World()
    world.register("a")
    admitted, promoted = world.settle()
    assert admitted == ev.InstanceAdmitted(instance="a", incarnation="1", decided_by="r1")
    assert isinstance(promoted, ev.GroupPromoted)
    assert (promoted.holder, promoted.epoch, promoted.cause) == ("a", 1, "first instance of the group")
    assert promoted.evidence == {
        "former_holder": None,
        "former_epoch": 0,
        "former_state": None,
        "ready": ["a"],
    }


def test_nobody_is_promoted_before_he_is_ready() -> None:
    world = World()
    world.never_ready.add("a")
    world.register("a")
    only(world.settle(), ev.InstanceAdmitted)
    world.log.say(NS.instance(SERVICE, GROUP, "a"), ev.InstanceReady(incarnation="1"))
    assert only(world.settle(), ev.GroupPromoted).holder == "a"


def test_a_later_instance_becomes_a_standby() -> None:
    world = World()
    world.joined("a")
    world.register("b")
    assert only(world.settle(), ev.InstanceAdmitted).instance == "b"
    group = world.state.topology.group(SERVICE, GROUP)
    assert group is not None
    assert (group.holder, group.epoch) == ("a", 1)


def test_instances_of_a_pool_are_admitted_and_nobody_is_promoted() -> None:
    world = World()
    world.register("w1", group=POOL)
    world.register("w2", group=POOL)
    assert {type(event) for event in world.settle()} == {ev.InstanceAdmitted}


def test_two_instances_with_different_methods_that_register_at_once_are_judged_one_after_the_other() -> None:
    world = World()
    world.register("a", group="g1", resources=["x"])
    world.register("b", group="g2", resources=["y"], contract={})
    first = [d.event for d in world.decide()]
    assert [type(event) for event in first] == [ev.InstanceAdmitted]
    events = world.settle()
    assert [e.instance for e in events if isinstance(e, ev.InstanceRefused)] == ["b"]


def test_two_groups_that_want_the_same_resource_at_once_are_judged_one_after_the_other() -> None:
    world = World()
    world.register("a", group="g1", resources=["x"])
    world.register("b", group="g2", resources=["x"])
    events = world.settle()
    assert [e.instance for e in events if isinstance(e, ev.InstanceAdmitted)] == ["a"]
    assert [e.instance for e in events if isinstance(e, ev.InstanceRefused)] == ["b"]


def test_an_owned_group_has_resources_and_a_pool_has_none() -> None:
    world = World()
    world.register("a", resources=[])
    refused = only(world.settle(), ev.InstanceRefused)
    assert refused.error.code == "invalid_registration"
    assert refused.error.message == (
        "cannot admit 'a' to orders/acc: it registered as 'owned' with 0 resources; "
        "owned groups have some, pools have none"
    )


# -- conflicts -----------------------------------------------------------------------------------------


def changed(**methods: MethodContract | None) -> ev.Contract:
    merged = {**CONTRACT, **methods}
    return {name: method for name, method in merged.items() if method is not None}


def contract(
    effect: Effect = Effect.PURE, arguments: str = "a", signature: str = "get() -> int"
) -> MethodContract:
    return MethodContract(effect=effect, arguments=arguments, returns="r", signature=signature)


def test_an_instance_with_other_methods_is_refused_and_told_the_difference() -> None:
    world = World()
    world.joined("a")
    world.register(
        "b", contract=changed(get=contract(arguments="z", signature="get(x: int) -> int"), pay=None)
    )
    refused = only(world.settle(), ev.InstanceRefused)
    assert refused.error.code == "contract_conflict"
    assert refused.error.message == (
        "cannot admit 'b': its methods differ from those that service 'orders' offers "
        "(pay() is missing; get() -> int became get(x: int) -> int); stop a first, or give the service "
        "another name"
    )
    assert refused.error.details["service"] == SERVICE
    assert len(refused.error.details["differences"]) == 2


def test_a_refusal_is_small_however_much_the_contracts_differ() -> None:
    def wide(tag: str) -> ev.Contract:
        return {
            f"{'m' * 300}_{n}": MethodContract(
                effect=Effect.PURE, arguments=tag, returns="r", signature=f"m({tag * 5000})"
            )
            for n in range(40)
        }

    world = World()
    world.joined("a", contract=wide("x"))
    world.register("b", contract=wide("y"))
    refused = only(world.decide(), ev.InstanceRefused)
    assert "; and 32 more)" in refused.error.message
    assert (len(refused.error.details["differences"]), refused.error.details["more"]) == (8, 32)
    assert all(len(difference) <= 200 for difference in refused.error.details["differences"])
    assert len(ev.encode_event(refused)) < 8192


def test_the_evidence_of_a_promotion_names_eight_heirs_and_counts_the_rest() -> None:
    world = World()
    for n in range(12):
        world.joined(f"i{n:02}")
    world.leave("i00")
    event = only(world.settle(), ev.GroupPromoted)
    assert event.evidence["ready"] == [f"i{n:02}" for n in range(1, 9)]
    assert event.evidence["more_ready"] == 3


@pytest.mark.parametrize(
    ("offers", "said"),
    [
        (changed(), []),
        (changed(get=None), ["get() is missing"]),
        (changed(new=contract()), ["new() is new"]),
        (changed(get=contract(Effect.ONCE)), ["get() is once, not pure"]),
        (changed(get=contract(arguments="z")), ["the types in get() -> int changed"]),
        (
            changed(get=contract(arguments="z", signature="get(a: str) -> int")),
            ["get() -> int became get(a: str) -> int"],
        ),
    ],
)
def test_the_differences_of_contracts_are_told_for_people(offers: ev.Contract, said: list[str]) -> None:
    assert contract_differences(CONTRACT, offers) == said


def test_other_methods_are_welcome_when_nobody_offers_the_old_ones_any_more() -> None:
    world = World()
    world.joined("a")
    world.leave("a")
    world.register("b", contract=changed(get=None))
    assert any(isinstance(event, ev.InstanceAdmitted) for event in world.settle())
    assert sorted(world.state.topology.services[SERVICE].contract) == ["pay", "put"]


def test_a_restarted_instance_may_bring_other_methods_if_it_was_the_only_one() -> None:
    world = World()
    world.joined("a")
    world.register("a", "2", contract=changed(get=None))
    assert any(isinstance(event, ev.InstanceAdmitted) for event in world.settle())


def test_a_resource_of_another_group_with_a_live_member_is_refused() -> None:
    world = World()
    world.joined("a", group="g1", resources=["x", "y"])
    world.register("b", group="g2", resources=["y", "z"])
    refused = only(world.settle(), ev.InstanceRefused)
    assert refused.error.code == "resource_conflict"
    assert refused.error.message == (
        "cannot admit 'b' to orders/g2: resource 'y' belongs to group 'g1' (its instances are a); "
        "join that group, or leave the resource out"
    )
    assert refused.error.details == {"resource": "y", "group": "g1", "requested_by": "g2"}


def test_a_resource_of_a_dead_group_is_refused_while_calls_wait_for_it_there() -> None:
    world = World()
    world.joined("a", group="g1", resources=["x"])
    client = FakeClient(world.log, "c1", "g1")
    client.send(a_call("get", "x"), a_call("get", "x"))
    world.leave("a", group="g1")
    world.settle()
    world.register("b", group="g2", resources=["x"])
    refused = only(world.settle(), ev.InstanceRefused)
    assert "(2 calls wait for it there)" in refused.error.message


def test_a_resource_moves_when_its_group_is_dead_and_nothing_waits_there() -> None:
    world = World()
    world.joined("a", group="g1", resources=["x"])
    world.leave("a", group="g1")
    world.joined("b", group="g2", resources=["x"])
    assert world.state.topology.services[SERVICE].resources == {"x": "g2"}


# -- the pen -------------------------------------------------------------------------------------------


def promoted(world: World) -> ev.GroupPromoted:
    return next(event for event in world.settle() if isinstance(event, ev.GroupPromoted))


def test_when_the_holder_leaves_the_longest_waiting_standby_is_promoted() -> None:
    world = World()
    for name in ("a", "c", "b"):
        world.joined(name)
    world.leave("a")
    event = promoted(world)
    assert (event.holder, event.epoch, event.cause) == ("c", 2, "holder 'a' left")
    assert event.evidence == {
        "former_holder": "a",
        "former_epoch": 1,
        "former_state": "left",
        "ready": ["c", "b"],
    }


def test_when_the_holder_leaves_and_nobody_is_ready_the_group_is_vacated_once() -> None:
    world = World()
    world.joined("a")
    world.leave("a")
    vacated = only(world.settle(), ev.GroupVacated)
    assert (vacated.epoch, vacated.cause) == (1, "holder 'a' left")
    assert world.settle() == []


def test_a_vacant_group_is_held_again_by_the_next_that_comes() -> None:
    world = World()
    world.joined("a")
    world.leave("a")
    world.settle()
    world.register("b")
    event = promoted(world)
    assert (event.holder, event.epoch, event.cause) == ("b", 2, "vacant: holder 'a' left")


def test_a_restarted_holder_gets_a_new_epoch() -> None:
    world = World()
    world.joined("a")
    world.register("a", "2")
    event = promoted(world)
    assert (event.holder, event.incarnation, event.epoch, event.cause) == (
        "a",
        "2",
        2,
        "vacant: holder 'a' was restarted",
    )


def test_a_standby_goes_before_a_restarted_holder() -> None:
    world = World()
    world.joined("a")
    world.joined("b")
    world.register("a", "2")
    event = promoted(world)
    assert (event.holder, event.cause) == ("b", "holder 'a' was restarted")


def test_a_draining_holder_keeps_the_pen_until_it_has_left() -> None:
    world = World()
    world.joined("a")
    world.joined("b")
    own = NS.instance(SERVICE, GROUP, "a")
    world.log.say(own, ev.InstanceDraining(incarnation="1", cause="t"))
    assert world.settle() == []
    world.log.say(own, ev.InstanceLeft(incarnation="1", cause="t"))
    assert promoted(world).holder == "b"


def test_a_suspected_standby_is_promoted_only_if_there_is_no_other() -> None:
    world = World()
    for name in ("a", "b", "c"):
        world.joined(name)
    world.pulse("a", "b", "c")
    world.silence(1250, "a", "c")
    assert only(world.settle(), ev.InstanceSuspected).instance == "b"
    world.leave("a")
    assert promoted(world).holder == "c"
    world.leave("c")
    assert promoted(world).holder == "b"


# -- silence -------------------------------------------------------------------------------------------


def test_an_instance_is_suspected_after_a_second_of_silence_and_not_before() -> None:
    world = World()
    world.joined("a")
    world.pulse("a")
    world.silence(1000)
    assert world.settle() == []
    world.pulse(after_ms=250)
    event = only(world.settle(), ev.InstanceSuspected)
    assert (event.instance, event.silence_ms, event.last_pulse_ns) == ("a", 1250, EPOCH_NS)


def test_a_suspected_instance_that_pulses_has_recovered() -> None:
    world = World()
    world.joined("a")
    world.pulse("a")
    world.silence(1250)
    world.settle()
    world.pulse("a", after_ms=250)
    assert only(world.settle(), ev.InstanceRecovered).instance == "a"
    assert world.settle() == []


def test_an_instance_that_stays_silent_is_lost_and_its_standby_promoted() -> None:
    world = World()
    world.joined("a")
    world.joined("b")
    world.pulse("a", "b")
    world.silence(1250, "b")
    world.settle()
    world.silence(1750, "b")
    assert world.settle() == []
    world.silence(250, "b")
    lost, event = world.settle()
    assert isinstance(lost, ev.InstanceLost)
    assert (lost.instance, lost.silence_ms) == ("a", 3250)
    assert isinstance(event, ev.GroupPromoted)
    assert (event.holder, event.cause) == ("b", "holder 'a' was lost")


def test_the_pulses_of_an_earlier_incarnation_do_not_count() -> None:
    world = World()
    world.joined("a")
    world.joined("a", "2")
    for _ in range(5):
        world.pulse("a", after_ms=250, incarnation="1")
    assert only(world.settle(), ev.InstanceSuspected).incarnation == "2"


def test_an_instance_that_registers_and_dies_is_lost_too() -> None:
    world = World()
    world.never_ready.add("a")
    world.pulse(after_ms=250)
    world.silence(60_000)
    world.register("a")
    world.settle()
    world.silence(1250)
    only(world.settle(), ev.InstanceSuspected)
    world.silence(2000)
    assert world.settle() == []
    world.silence(250)
    only(world.settle(), ev.InstanceLost)
    assert world.settle() == []


def test_an_instance_that_is_ready_before_its_first_pulse_is_read_is_not_suspected() -> None:
    world = World()
    world.silence(60_000)
    world.joined("a")
    assert world.settle() == []


def test_a_gap_in_which_nobody_was_heard_judges_nobody() -> None:
    world = World()
    world.joined("a")
    world.pulse("a")
    world.pulse(after_ms=60_000)  # the server was away, or our link to it
    assert world.settle() == []
    world.silence(1000)
    assert world.settle() == []
    world.silence(250)
    only(world.settle(), ev.InstanceSuspected)


def test_each_group_and_service_is_watched_for_itself() -> None:
    world = World()
    world.joined("a", group="g1", resources=["x"])
    world.joined("b", group="g2", resources=["y"])
    world.pulse("a", group="g1")
    world.pulse("b", group="g2")
    world.silence(1250)
    assert sorted(e.instance for e in world.settle() if isinstance(e, ev.InstanceSuspected)) == ["a", "b"]


def test_pulses_that_cannot_be_read_are_counted_and_move_the_clock_only() -> None:
    world = World()
    for payload in (b"\xc1", b"\x05", msgpack.packb({"no": "incarnation"}), msgpack.packb([1])):
        world.board.apply(Record(1, NS.pulse("instance", "a"), payload, world.log.now_ns))
    world.board.apply(Record(1, "elsewhere", b"", world.log.now_ns))
    assert world.board.unreadable == 5
    assert not world.board.instances


def test_a_pulse_whose_identity_is_no_text_or_that_is_too_long_is_not_shown() -> None:
    world = World()
    known = {"service": SERVICE, "group": GROUP, "incarnation": "1"}
    oddities: list[dict[str, object]] = [
        {"incarnation": b"1"},
        {"service": {}},
        {"group": 7},
        {"incarnation": "1" * 257},
    ]
    for odd in oddities:
        payload = msgpack.packb(known | odd)
        world.board.apply(Record(1, NS.pulse("instance", "a"), payload, world.log.now_ns))
    long = msgpack.packb(known | {f"more {n}": 1 for n in range(60)} | {"text": "x" * 4096})
    world.board.apply(Record(1, NS.pulse("instance", "a"), long, world.log.now_ns))
    assert world.board.unreadable == 5
    assert not world.board.instances


# -- several routers -----------------------------------------------------------------------------------


def test_of_two_routers_that_decide_the_same_thing_only_one_appends_it() -> None:
    world = World()
    world.joined("a")
    world.joined("b")
    world.leave("a")
    (mine,) = world.decide(ME)
    (theirs,) = world.decide(RouterIdentity("r2", "i2"))
    world.append(theirs)
    with pytest.raises(WrongSequence):
        world.append(mine)
    assert world.settle() == []
    group = world.state.topology.group(SERVICE, GROUP)
    assert group is not None
    assert (group.epoch, group.holder) == (2, "b")


def test_a_decision_on_stale_belief_is_refused() -> None:
    world = World()
    world.joined("a")
    world.joined("b")
    world.pulse("a", "b")
    world.silence(1250, "b")
    (stale,) = world.decide()  # a is silent
    world.register("c")
    world.settle()
    with pytest.raises(WrongSequence):
        world.append(stale)


# -- the state -----------------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "c"])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("register"), NAMES, st.sampled_from(["1", "2", "3"])),
            st.tuples(st.just("leave"), NAMES, st.sampled_from(["1", "2", "3"])),
            st.tuples(st.just("call"), NAMES, st.sampled_from(["x", "y"])),
            st.tuples(st.just("silence"), NAMES, st.sampled_from(["500", "1500", "4000"])),
            st.tuples(st.just("nonsense"), NAMES, st.just("")),
        ),
        max_size=25,
    )
)
def test_replaying_any_history_gives_the_same_state_and_deciding_always_settles(
    steps: list[tuple[str, str, str]],
) -> None:
    world = World()
    live = RouterState(NS)
    for step, name, detail in steps:
        if step == "register":
            world.register(name, detail)
        elif step == "leave":
            world.leave(name, detail)
        elif step == "call":
            frame = FakeClient(world.log, name).frame(a_call("get", detail))
            world.log.append(NS.call(SERVICE, GROUP, name), encode_calls(frame))
        elif step == "silence":
            world.silence(int(detail), name)
        else:
            world.log.append(NS.instance(SERVICE, GROUP, name), b"\xc1")
        world.settle()
        for record in world.log.records[live.position :]:
            live.apply(record)
    assert live.to_plain() == world.state.to_plain()
    group = live.topology.group(SERVICE, GROUP)
    if group is not None and group.holder is not None:
        holder = group.instances[group.holder]
        assert holder.is_live
        assert holder.incarnation == group.holder_incarnation
