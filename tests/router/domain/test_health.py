"""Who may be dead: given what was and was not heard, an instance is suspected, recovered or lost."""

from __future__ import annotations

import msgpack  # type: ignore[import-untyped]

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.log import Record
from tests.router.domain.world import World, only
from tests.sdk.kit import EPOCH_NS, GROUP, NS, SERVICE

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


def test_an_instance_that_stays_silent_is_lost() -> None:
    world = World()
    world.joined("a")
    world.pulse("a")
    world.silence(1250)
    world.settle()
    world.silence(1750)
    assert world.settle() == []
    world.silence(250)
    lost, vacated = world.settle()
    assert isinstance(lost, ev.InstanceLost)
    assert (lost.instance, lost.silence_ms, lost.source, lost.cause) == (
        "a",
        3250,
        "silence",
        "silent for 3250 ms",
    )
    assert isinstance(vacated, ev.GroupVacated)
    assert vacated.cause == "holder 'a' was lost"


def test_the_pulses_of_an_earlier_incarnation_do_not_count() -> None:
    world = World()
    world.joined("a")
    world.joined("a", incarnation="2")
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


def test_one_that_has_recovered_is_judged_by_a_pulse_from_after_its_suspicion_only() -> None:
    world = World()
    world.joined("a")
    world.pulse("a")
    world.silence(1250)
    world.settle()
    world.pulse(after_ms=60_000)  # the server was away: nobody is judged by the silence before
    assert world.settle() == []
    world.pulse("a", after_ms=250)
    recovered = only(world.settle(), ev.InstanceRecovered)
    assert recovered.evidence == {"last_pulse_ns": world.board.now_ns}


def test_one_suspected_by_another_router_stays_so_for_this_one_until_it_pulses() -> None:
    world = World()
    world.joined("a")
    world.pulse("a")
    event = ev.InstanceSuspected(
        instance="a",
        incarnation="1",
        last_pulse_ns=world.board.now_ns,
        silence_ms=0,
        source="disconnect",
        decided_by="r2",
    )
    world.log.say(NS.watch(SERVICE, GROUP), event)
    world.silence(500)
    assert world.settle() == []
    world.pulse("a")
    only(world.settle(), ev.InstanceRecovered)


# -- connections ---------------------------------------------------------------------------------------


def connected(*instances: str) -> World:
    """These joined in that order, and have just pulsed through their connections."""
    world = World()
    world.joined(*instances)
    world.connect(*instances)
    world.pulse(*instances)
    return world


def test_one_whose_connection_ended_is_suspected_at_once() -> None:
    world = connected("a")
    world.pulse(after_ms=100)
    world.disconnect("a", "Client Closed")
    event = only(world.settle(), ev.InstanceSuspected)
    assert (event.source, event.cause, event.silence_ms) == (
        "disconnect",
        "its connection ended: Client Closed",
        100,
    )
    assert event.evidence == {
        "now_ns": world.board.now_ns,
        "disconnected_ns": world.board.now_ns,
        "reason": "Client Closed",
        "client_id": 1,
    }


def test_the_standby_of_one_whose_connection_ended_is_promoted_before_the_suspicion_is_written() -> None:
    world = connected("a", "b")
    world.disconnect("a")
    promoted, suspected = (decision.event for decision in world.decide())
    assert isinstance(promoted, ev.GroupPromoted)
    assert isinstance(suspected, ev.InstanceSuspected)
    assert (promoted.holder, promoted.kind, promoted.cause) == (
        "b",
        "failover",
        "holder 'a' is suspected: its connection ended: Client Closed",
    )
    assert promoted.evidence["disconnected_ns"] == world.board.now_ns


def test_one_whose_connection_ended_is_not_promoted() -> None:
    world = connected("a", "b", "c")
    world.disconnect("a")
    world.disconnect("b")
    promoted = next(e for e in world.settle() if isinstance(e, ev.GroupPromoted))
    assert promoted.holder == "c"


def test_one_that_connects_again_has_recovered_and_is_a_standby() -> None:
    world = connected("a", "b")
    world.disconnect("a")
    world.settle()
    world.connect("a")
    world.pulse("a", "b", after_ms=250)
    assert only(world.settle(), ev.InstanceRecovered).instance == "a"
    assert world.group().holder == "b"


def test_one_that_does_not_connect_again_is_lost_a_second_after() -> None:
    world = connected("a")
    world.disconnect("a")
    only(world.settle(), ev.InstanceSuspected)
    world.silence(750)
    assert world.settle() == []
    world.silence(250)
    lost, vacated = world.settle()
    assert isinstance(lost, ev.InstanceLost)
    assert (lost.source, lost.cause) == ("disconnect", "its connection ended: Client Closed")
    assert isinstance(vacated, ev.GroupVacated)


# -- probes --------------------------------------------------------------------------------------------


def test_one_that_pulses_and_answers_no_probe_is_suspected_and_replaced_and_never_lost() -> None:
    world = connected("a", "b")
    world.miss_probes("a", 2)
    assert world.settle() == []
    world.miss_probes("a", 3)
    promoted, suspected = world.settle()
    assert isinstance(promoted, ev.GroupPromoted)
    assert promoted.holder == "b"
    assert isinstance(suspected, ev.InstanceSuspected)
    assert (suspected.source, suspected.cause) == (
        "probe",
        "3 probes in a row had no answer: nobody there",
    )
    world.silence(10_000, "a", "b")
    assert world.settle() == []
    world.board.probe_answered((SERVICE, GROUP, "a"), "1")
    only(world.settle(), ev.InstanceRecovered)


# -- the board -----------------------------------------------------------------------------------------


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
