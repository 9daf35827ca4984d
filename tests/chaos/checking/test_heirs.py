"""Who may be given a pen, and which words about a member count."""

from __future__ import annotations

from typing import Any

import pytest

from aegisipc.eventstore import events as ev
from tests.chaos.checking.pens_scene import Pens, is_fine, is_found, pens

# -- who may not get it --------------------------------------------------------------------------------------


def _asked_to_drain(scene: Pens) -> None:
    scene.watch(
        ev.InstanceDrainRequested(instance="b", incarnation="b-1", author="ann", reason="", decided_by="r")
    )


def _refused(scene: Pens) -> None:
    scene.joins("b", 2, to="registered")
    error = ev.ErrorInfo(code="contract_conflict", message="no")
    scene.watch(ev.InstanceRefused(instance="b", incarnation="b-2", error=error, decided_by="r"))


_OLD_RUN = "is no member of the group in that incarnation"


@pytest.mark.parametrize(
    ("becomes", "run", "text"),
    [
        (lambda s: s.leaves("b"), "b-1", "had left"),
        (lambda s: (s.suspected("b"), s.lost("b")), "b-1", "was lost"),
        (_refused, "b-2", "was refused"),
        (lambda s: s.joins("b", 2, to="registered"), "b-2", "was not admitted"),
        (lambda s: s.joins("b", 2, to="admitted"), "b-2", "was not ready"),
        (lambda s: s.joins("b", 2), "b-1", _OLD_RUN),
        (lambda s: s.own("b", ev.InstanceDraining(incarnation="b-1", cause="x")), "b-1", "was draining"),
        (_asked_to_drain, "b-1", "was asked to drain"),
        (lambda s: s.ill("b"), "b-1", "was unhealthy"),
    ],
)
def test_one_that_may_not_hold_the_pen_is_found(becomes: Any, run: str, text: str) -> None:
    scene = pens()
    scene.joins("c")
    becomes(scene)
    scene.joins("d")  # whom the router has read of, and so of all before
    ready = {"was asked to drain": "abcd", "was unhealthy": "abcd", _OLD_RUN: "acbd"}.get(text, "acd")
    seq = scene.fails_over(incarnation=run, evidence=scene.doubted() | {"ready": list(ready)})
    is_found(scene, seq, text)


def test_one_in_quarantine_is_found_unless_it_was_named_or_nobody_else_is_there() -> None:
    scene = pens("x")
    scene.leaves("x")
    scene.joins("b", quarantined=True)
    is_found(scene, scene.fails_over(), "is in quarantine")
    scene = pens("x")
    scene.leaves("x")
    scene.joins("b", quarantined=True)
    scene.hands_over()
    scene.fails_over()
    is_fine(scene, 3)
    scene = pens("x")
    scene.leaves("x")
    scene.joins("b", quarantined=True)
    scene.leaves()
    scene.gets("b", "holder 'a' left", "planned")
    is_fine(scene, 2)


def test_a_group_that_was_resumed_has_nobody_in_quarantine() -> None:
    scene = pens("x")
    scene.leaves("x")
    scene.joins("b", quarantined=True)
    scene.watch(ev.GroupResumed(scope="group", author="ann", reason="", decided_by="r"))
    scene.fails_over()
    is_fine(scene, 2)


def test_one_that_was_silent_itself_is_found_by_what_is_said_of_it_later() -> None:
    scene = pens()
    seq = scene.fails_over()
    scene.suspected("b", silent_s=1.2)
    is_found(scene, seq, "had itself been silent for")


@pytest.mark.parametrize("by", ["r", "other"])
def test_one_that_fell_silent_later_is_none_and_so_is_what_another_router_says(by: str) -> None:
    scene = pens()
    scene.fails_over()
    scene.wait(0.5 if by == "r" else 0)
    scene.suspected("b", silent_s=1.2, by=by)
    is_fine(scene, 2)


# -- what cannot be told -------------------------------------------------------------------------------------


def test_of_a_log_without_its_beginning_and_of_pools_nothing_is_said() -> None:
    scene = pens()
    scene.gets("b", "b is newer")
    scene.records = scene.records[3:]
    is_fine(scene, 0)
    scene = Pens()
    scene.register("w", "_pool")
    is_fine(scene, 0)


# -- which words count ---------------------------------------------------------------------------------------


def test_a_registration_that_was_stored_twice_changes_nothing() -> None:
    scene = pens()
    scene.joins("b")
    scene.fails_over(evidence=scene.doubted() | {"ready": ["a", "b"]})
    is_fine(scene, 2)


def test_words_of_an_earlier_run_and_in_a_wrong_place_are_about_nobody() -> None:
    scene = pens()
    scene.own("b", ev.InstanceLeft(incarnation="b-0", cause="late"))
    lost = ev.InstanceLost(instance="b", incarnation="b-1", last_pulse_ns=0, silence_ms=9, decided_by="r")
    scene.own("mallory", lost)
    scene.watch(lost)  # and it was not suspected
    scene.watch(ev.InstanceReady(incarnation="b-1"))
    scene.fence(ev.InstanceReady(incarnation="b-1"))
    scene.fails_over()
    is_fine(scene, 2)


def test_who_yields_although_nobody_asked_holds_on() -> None:
    scene = pens()
    scene.yields()
    is_found(scene, scene.gets("b", "holder 'a' is unhealthy: x", "planned"), "nothing is said against it")


def test_who_is_healthy_again_holds_on() -> None:
    scene = pens()
    scene.ill()
    scene.yields()
    scene.own("a", ev.InstanceHealthy(incarnation="a-1"))
    scene.joins("c")
    told = {"ready": ["a", "b", "c"]}
    seq = scene.gets("b", "holder 'a' is unhealthy: no venue", "planned", evidence=told)
    is_found(scene, seq, "nothing is said against it")


def test_a_handover_that_was_called_off_is_no_reason() -> None:
    scene = pens()
    scene.hands_over()
    scene.yields()
    scene.fence(ev.GroupHandoverCancelled(epoch=1, cause="b drains", decided_by="r"))
    is_found(scene, scene.gets("b", "promoted by ann", "planned", author="ann"), "nothing is said against it")


def test_a_second_handover_is_found() -> None:
    scene = pens()
    scene.hands_over()
    is_found(scene, scene.hands_over(), "somebody did so already")
