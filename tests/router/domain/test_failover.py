"""Who holds the pen: given a holder that is gone or in doubt, then this one follows."""

from __future__ import annotations

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.frames import Mark
from tests.router.domain.world import World, of, only, promoted, told, types
from tests.sdk.kit import FakeClient, a_call

# -- who is gone ---------------------------------------------------------------------------------------


def test_when_the_holder_leaves_the_longest_waiting_standby_is_promoted_as_planned() -> None:
    world = of("a", "c", "b")
    world.leave("a")
    event = promoted(world)
    assert told(event) == ("c", 2, "planned", "holder 'a' left")
    assert event.evidence == {
        "former_holder": "a",
        "former_epoch": 1,
        "former_state": "left",
        "ready": ["c", "b"],
        "open": 0,
        "claimed": 0,
        "doubts": 0,
    }


def test_the_evidence_of_a_promotion_names_eight_heirs_and_counts_the_rest() -> None:
    world = World()
    world.joined(*(f"i{n:02}" for n in range(12)))
    world.leave("i00")
    event = only(world.settle(), ev.GroupPromoted)
    assert event.evidence["ready"] == [f"i{n:02}" for n in range(1, 9)]
    assert event.evidence["more_ready"] == 3


def test_when_the_holder_leaves_and_nobody_is_ready_the_group_is_vacated_once() -> None:
    world = of("a")
    world.leave("a")
    vacated = only(world.settle(), ev.GroupVacated)
    assert (vacated.epoch, vacated.cause, vacated.evidence["finished"]) == (1, "holder 'a' left", True)
    assert world.settle() == []


def test_a_group_whose_holder_left_is_held_again_by_the_next_that_comes_as_planned() -> None:
    world = of("a")
    world.leave("a")
    world.settle()
    world.register("b")
    assert told(promoted(world)) == ("b", 2, "planned", "vacant: holder 'a' left")


def test_a_group_whose_holder_was_lost_is_held_again_by_failover() -> None:
    world = of("a")
    world.silence(5000)
    assert types(world.settle()) == [ev.InstanceSuspected, ev.InstanceLost, ev.GroupVacated]
    world.register("b")
    assert told(promoted(world)) == ("b", 2, "failover", "vacant: holder 'a' was lost")


def test_a_restarted_holder_gets_a_new_epoch() -> None:
    world = of("a")
    world.register("a", "2")
    event = promoted(world)
    assert told(event) == ("a", 2, "failover", "vacant: holder 'a' was restarted")
    assert event.incarnation == "2"


def test_a_standby_goes_before_a_restarted_holder() -> None:
    world = of("a", "b")
    world.register("a", "2")
    assert told(promoted(world)) == ("b", 2, "failover", "holder 'a' was restarted")


def test_a_holder_that_nobody_knows_any_more_is_replaced() -> None:
    world = of("a")
    world.log.promote("forgotten", 2)
    assert told(promoted(world)) == ("a", 3, "failover", "holder 'forgotten' is unknown")


def test_a_suspected_standby_is_promoted_only_if_there_is_no_other() -> None:
    world = of("a", "b", "c")
    world.silence(1250, "a", "c")
    assert only(world.settle(), ev.InstanceSuspected).instance == "b"
    world.leave("a")
    assert promoted(world).holder == "c"
    world.leave("c")
    assert promoted(world).holder == "b"


def test_an_instance_in_quarantine_is_promoted_only_if_there_is_no_other() -> None:
    world = of("a")
    world.joined("q", quarantined=True)
    world.joined("b")
    world.leave("a")
    assert promoted(world).holder == "b"
    world.leave("b")
    assert promoted(world).holder == "q"


def test_who_is_in_quarantine_goes_before_who_is_suspected() -> None:
    world = of("a", "b")
    world.joined("q", quarantined=True)
    world.silence(1250, "a", "q")
    world.settle()
    world.leave("a")
    assert promoted(world).holder == "q"


def test_who_is_ill_or_asked_to_drain_is_not_promoted() -> None:
    world = of("a", "b", "c")
    world.fall_ill("b")
    world.asked_to_drain("c")
    world.leave("a")
    only(world.settle(), ev.GroupVacated)
    world.get_well("b")
    assert promoted(world).holder == "b"


# -- who is in doubt -----------------------------------------------------------------------------------


def test_a_holder_in_doubt_is_replaced_at_once_and_before_the_suspicion_is_written() -> None:
    world = of("a", "b")
    client = FakeClient(world.log)
    first, _ = client.send(a_call("pay", "acc_1"), a_call("get", "acc_1"))
    world.marks("a", (Mark.CLAIMED, first))
    world.silence(1250, "b")
    decisions = world.decide()
    event, suspected = (decision.event for decision in decisions)
    assert isinstance(suspected, ev.InstanceSuspected)
    assert isinstance(event, ev.GroupPromoted)
    assert told(event) == ("b", 2, "failover", "holder 'a' is suspected: silent for 1250 ms")
    assert event.evidence == {
        "former_holder": "a",
        "former_epoch": 1,
        "former_state": "active",
        "ready": ["a", "b"],
        "open": 2,
        "claimed": 1,
        "doubts": 0,
        "source": "silence",
        "silence_ms": 1250,
        "last_pulse_ns": world.board.now_ns - 1_250_000_000,
        "now_ns": world.board.now_ns,
        "suspect_after_ms": 1000,
    }


def test_a_former_holder_that_comes_back_is_a_standby() -> None:
    world = of("a", "b")
    world.silence(1250, "b")
    world.settle()
    world.pulse("a", "b")
    only(world.settle(), ev.InstanceRecovered)
    assert (world.group().holder, str(world.group().instances["a"].state)) == ("b", "standby")


def test_a_holder_in_doubt_keeps_the_pen_while_everybody_else_is_in_doubt_too() -> None:
    world = of("a", "b")
    world.silence(1250)
    assert set(types(world.settle())) == {ev.InstanceSuspected}
    assert world.group().holder == "a"
    world.pulse("b")
    assert types(world.settle()) == [ev.GroupPromoted, ev.InstanceRecovered]
    assert world.group().holder == "b"


def test_a_holder_in_doubt_keeps_the_pen_if_the_only_standby_is_in_quarantine_until_it_is_lost() -> None:
    world = of("a")
    world.joined("q", quarantined=True)
    world.silence(1250, "q")
    only(world.settle(), ev.InstanceSuspected)
    world.silence(2000, "q")
    lost, event = world.settle()
    assert isinstance(lost, ev.InstanceLost)
    assert isinstance(event, ev.GroupPromoted)
    assert world.group().holder == "q"


def test_a_holder_in_quarantine_in_doubt_is_replaced_by_another_in_quarantine() -> None:
    world = World()
    world.joined("p", "q", quarantined=True)
    world.pulse("p", "q")
    world.silence(1250, "q")
    assert promoted(world).holder == "q"


def test_a_holder_in_doubt_without_a_standby_keeps_the_pen_until_it_is_lost() -> None:
    world = of("a")
    world.silence(1250)
    only(world.settle(), ev.InstanceSuspected)
    world.silence(1750)
    assert world.settle() == []
    world.silence(250)
    lost, vacated = world.settle()
    assert isinstance(lost, ev.InstanceLost)
    assert isinstance(vacated, ev.GroupVacated)
    assert vacated.evidence["finished"] is False


def test_pens_do_not_wander_while_nothing_new_is_heard() -> None:
    world = of("a", "b")
    world.silence(1250, "b")
    world.settle()
    world.pulse("a", "b")
    world.settle()
    assert world.settle() == []
    assert world.group().epoch == 2
