"""The reasons for which a pen goes to another one."""

from __future__ import annotations

from typing import Any

import pytest

from aegisipc.eventstore import events as ev
from tests.chaos.checking.pens_scene import POLICY, is_fine, is_found, pens
from tests.chaos.checking.scene import START_NS

_S = 1_000_000_000
_ENDED_NS = START_NS + 3 * _S


# -- what there is a reason for ------------------------------------------------------------------------------


def test_a_holder_in_doubt_is_replaced_before_that_is_in_the_log_and_after() -> None:
    scene = pens()
    scene.fails_over()
    scene.suspected("a")
    scene.recovered("a")
    scene.wait(2)
    scene.suspected("b")
    scene.fails_over("a", over="b")
    is_fine(scene, 3)


@pytest.mark.parametrize(
    "seen",
    [
        {"source": "probe", "probe_failed_ns": 5},
        {"source": "disconnect", "disconnected_ns": START_NS + 3 * _S, "last_pulse_ns": START_NS + 2 * _S},
        {
            "source": "disconnect",
            "disconnected_ns": START_NS + 3 * _S,
            "last_pulse_ns": START_NS + 3 * _S + 9,
        },
    ],
)
def test_the_end_of_a_connection_and_probes_are_doubts(seen: dict[str, Any]) -> None:
    scene = pens()
    scene.wait(4)
    scene.fails_over(evidence=seen)
    is_fine(scene, 2)


def test_a_holder_that_gave_no_pulse_since_it_was_suspected_is_in_doubt() -> None:
    scene = pens("x")
    scene.suspected("x")
    scene.lost("x")
    last_ns = scene.server_ns - 1_500_000_000
    scene.suspected("a")
    scene.joins("b")
    scene.fails_over(evidence={"source": "silence", "last_pulse_ns": last_ns, "silence_ms": 10})
    is_fine(scene, 2)


@pytest.mark.parametrize(("finished", "kind"), [(True, "planned"), (False, "failover")])
def test_a_holder_that_left_has_a_successor(*, finished: bool, kind: str) -> None:
    scene = pens()
    scene.leaves(finished=finished)
    scene.gets("b", f"holder 'a' left{'' if finished else ' before it had finished what it ran'}", kind)
    is_fine(scene, 2)


def test_a_holder_that_was_lost_or_restarted_has_one_even_if_that_is_in_doubt() -> None:
    scene = pens()
    scene.suspected("a")
    scene.suspected("b")
    scene.lost("a")
    scene.gets("b", "holder 'a' was lost")
    scene.recovered("b")
    scene.joins("a", 2)
    scene.joins("b", 2)
    scene.gets("a", "holder 'b' was restarted", incarnation="a-2")
    is_fine(scene, 3)


def test_a_group_without_anybody_is_vacant_until_somebody_comes() -> None:
    scene = pens("b")
    scene.leaves("b")
    scene.leaves(finished=False)
    scene.vacated(finished=False)
    scene.joins("b", 2)
    scene.gets("b", "vacant: holder 'a' left", incarnation="b-2")
    is_fine(scene, 3)


def test_an_operator_moves_the_pen_when_its_holder_has_yielded_or_had_its_time() -> None:
    scene = pens()
    scene.hands_over()
    scene.yields()
    scene.gets("b", "promoted by ann", "planned", author="ann")
    scene.hands_over("a", holder="b")
    scene.wait(30)
    scene.gets("a", "promoted by ann; 'b' did not finish within 30 s", author="ann")
    is_fine(scene, 5)


def test_an_unhealthy_holder_hands_over_or_leaves_the_group_vacant() -> None:
    scene = pens()
    scene.ill()
    scene.hands_over(author="")
    scene.yields()
    scene.gets("b", "holder 'a' is unhealthy: no venue", "planned")
    scene.ill("b")
    scene.yields("b")
    scene.vacated("holder 'b' is unhealthy: no venue")
    is_fine(scene, 4)


def test_a_holder_that_drains_for_too_long_is_replaced() -> None:
    scene = pens()
    scene.own("a", ev.InstanceDraining(incarnation="a-1", cause="asked"))
    scene.wait(30)
    scene.gets("b", "holder 'a' is draining; 'a' did not finish within 30 s")
    is_fine(scene, 2)


def test_the_same_promotion_may_be_said_again() -> None:
    scene = pens()
    scene.epoch = 0
    scene.gets("a", "first instance of the group", "first")
    is_fine(scene, 1)


# -- what a router need not have read yet --------------------------------------------------------------------


def test_what_came_after_the_decision_does_not_speak_against_it() -> None:
    scene = pens()
    seen = scene.doubted()
    scene.suspected("a")
    scene.recovered("a")
    scene.own("b", ev.InstanceDraining(incarnation="b-1", cause="asked"))
    scene.leaves("b")
    scene.fails_over(evidence=seen | {"ready": ["a", "b"], "former_state": "active", "former_holder": "a"})
    is_fine(scene, 2)


def test_a_router_that_was_deposed_may_be_late_if_nothing_was_said_on_the_fence_since() -> None:
    scene = pens()
    scene.elect("other", policy=POLICY)
    scene.fails_over()
    is_fine(scene, 2)


def test_what_another_router_heard_is_not_known_to_this_one() -> None:
    scene = pens()
    seen = scene.doubted()
    scene.suspected("a", by="other")
    scene.recovered("a", by="other")
    scene.fails_over(evidence=seen)
    is_fine(scene, 2)


# -- what there is none for ----------------------------------------------------------------------------------


def test_a_sound_holder_that_is_replaced_is_found() -> None:
    scene = pens()
    is_found(scene, scene.gets("b", "b is newer"), "nothing is said against it")


def test_a_holder_that_had_recovered_is_found() -> None:
    scene = pens("x")
    scene.leaves("x")
    seen = scene.doubted()
    scene.suspected("a")
    scene.recovered("a")
    scene.joins("b")
    seq = scene.fails_over(evidence=seen | {"ready": ["a", "b"]})
    is_found(scene, seq, "was last heard of at")


def test_a_pulse_since_the_suspicion_is_found() -> None:
    scene = pens()
    scene.suspected("a")
    seq = scene.fails_over(evidence={"source": "silence", "last_pulse_ns": scene.server_ns, "silence_ms": 10})
    is_found(scene, seq, "has given a pulse since")


def test_a_suspicion_that_is_over_is_found() -> None:
    scene = pens()
    scene.suspected("a")
    scene.recovered("a")
    scene.joins("c")
    seen = {"source": "silence", "last_pulse_ns": scene.server_ns, "ready": ["a", "b", "c"]}
    is_found(scene, scene.fails_over(evidence=seen), "had recovered, or was never suspected")


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"silence_ms": 900}, "had been silent for 900 ms, and is suspected after 1000"),
        ({"suspect_after_ms": 250}, "by its router's policy 1000"),
        ({"silence_ms": 2500}, "which is less than 2500 ms before"),
        ({"source": "disconnect", "disconnected_ns": 1}, "after its connection had ended"),
        ({"source": "probe"}, "not since when"),
        ({"source": "dream"}, "no doubt about a that counts"),
    ],
)
def test_a_doubt_that_is_none_is_found(given: dict[str, Any], text: str) -> None:
    scene = pens()
    is_found(scene, scene.fails_over(evidence=scene.doubted() | given), text)


def test_a_handover_that_nobody_asked_for_is_found() -> None:
    scene = pens()
    is_found(scene, scene.hands_over(author=""), "was healthy, and nobody asked for it")


def test_a_holder_that_had_neither_yielded_nor_had_its_time_is_found() -> None:
    scene = pens()
    scene.hands_over()
    scene.wait(20)
    is_found(scene, scene.gets("b", "promoted by ann", author="ann"), "still had time to")


def test_a_handover_that_ends_with_another_one_is_found() -> None:
    scene = pens("b", "c")
    scene.hands_over()
    scene.yields()
    is_found(scene, scene.gets("c", "c is nicer", "planned"), "was to hand over to b")


def test_a_group_that_is_vacated_although_its_holder_is_there_is_found() -> None:
    scene = pens()
    is_found(scene, scene.vacated(), "had not yielded it for its health")


def test_a_vacancy_that_calls_an_unfinished_holder_finished_is_found() -> None:
    scene = pens()
    scene.leaves("b")
    scene.leaves(finished=False)
    is_found(scene, scene.vacated(finished=True), "that the holder had finished is said to be True")


def test_another_cause_than_the_health_of_a_holder_that_yielded_is_found() -> None:
    scene = pens()
    scene.ill()
    scene.yields()
    seq = scene.gets("b", "holder 'a' is draining", "planned")
    is_found(scene, seq, "by the log the cause was: holder 'a' is unhealthy")


def test_a_holder_that_was_never_a_member_has_a_successor() -> None:
    scene = pens()
    finding = scene.gets("x", "holder 'a' is suspected: x", evidence=scene.doubted())
    is_found(scene, finding, "is no member of the group in that incarnation")
    scene.gets("b", "holder 'x' is unknown")
    is_found(scene, finding, "is no member of the group in that incarnation")


def test_a_group_that_is_vacated_although_somebody_could_follow_is_found() -> None:
    scene = pens()
    scene.leaves()
    is_found(scene, scene.vacated(), "b could have followed")


@pytest.mark.parametrize(
    ("kind", "cause", "text"),
    [
        ("planned", "holder 'a' was lost", "it is called planned, and by the log it was failover"),
        ("failover", "holder 'a' left", "by the log the cause was: holder 'a' was lost"),
    ],
)
def test_another_reason_than_there_was_is_found(kind: str, cause: str, text: str) -> None:
    scene = pens()
    scene.suspected("a")
    scene.lost("a")
    is_found(scene, scene.gets("b", cause, kind), text)


@pytest.mark.parametrize(
    ("told", "text"),
    [
        ({"ready": ["b"]}, "it takes b to be ready, and by the log a, b"),
        ({"former_holder": "b"}, "it takes b in epoch 1 for the former holder"),
        ({"former_state": "suspected_active"}, "it takes a for suspected_active"),
    ],
)
def test_a_group_that_never_was_as_the_router_says_is_found(told: dict[str, Any], text: str) -> None:
    scene = pens()
    is_found(scene, scene.fails_over(evidence=scene.doubted() | told), text)


def test_a_router_that_did_not_lead_is_found() -> None:
    scene = pens()
    is_found(scene, scene.fails_over(decided_by="other"), "did not lead")
    scene = pens()
    scene.elect("other", policy=POLICY)
    scene.hands_over(decided_by="other")
    is_found(scene, scene.fails_over(), "router r, which decided it, did not lead")
