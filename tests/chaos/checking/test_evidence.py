"""What a former holder says of a call in doubt: it ends the doubt, and nothing else is taken for it."""

from __future__ import annotations

import pytest

from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.events import Resolution
from aegisipc.eventstore.frames import Mark, PenEntry, PenFrame, encode_pen
from aegisipc.eventstore.ids import parse_call_id
from tests.chaos.checking.scene import (
    GROUP,
    NS,
    POOL,
    SERVICE,
    Scene,
    a_pool,
    a_scene,
    broken_by,
    error,
    holds,
    resolution,
)


def claimed(scene: Scene) -> str:
    call_id = scene.accept(scene.invoke(), "pay")
    scene.mark(Mark.CLAIMED, call_id)
    scene.ran(call_id)
    return call_id


def in_doubt(scene: Scene, call_id: str) -> None:
    scene.mark(Mark.IN_DOUBT, call_id, error("in_doubt"))


def gives_evidence(scene: Scene, call_id: str, instance: str = "a", mark: Mark = Mark.SUCCEEDED) -> None:
    number = len(scene.records)  # of a session of its own
    frame = PenFrame(number, 1, 0, [PenEntry(mark, parse_call_id(call_id))], [encode("late")])
    scene.store(NS.evidence(SERVICE, GROUP, instance), encode_pen(frame))


def by_evidence(author: str = "a") -> bytes:
    return encode(Resolution(source="evidence", author=author))


def concludes(scene: Scene, call_id: str, author: str = "a", body: bytes | None = None) -> None:
    outcome = encode("late") if body is None else body
    scene.pen((Mark.EXECUTED, call_id, by_evidence(author)), (Mark.SUCCEEDED, call_id, outcome))


def taken_over(*, before: bool = False) -> tuple[Scene, str]:
    """A call that ``a`` had claimed, in doubt at ``b``; ``a`` gives evidence."""
    scene = a_scene()
    call_id = claimed(scene)
    scene.promote("b")
    if before:
        gives_evidence(scene, call_id)
    in_doubt(scene, call_id)
    if not before:
        gives_evidence(scene, call_id)
    return scene, call_id


@pytest.mark.parametrize("before", [False, True])
def test_a_doubt_that_ends_by_evidence_is_legal(before: bool) -> None:
    scene, call_id = taken_over(before=before)
    concludes(scene, call_id)
    holds(scene)
    assert scene.verdict("orders").looked_at == 1


@pytest.mark.parametrize("source", ["operator", "reconcile"])
def test_evidence_that_is_ignored_is_found(source: str) -> None:
    scene, call_id = taken_over()
    scene.wait(0.6)
    scene.pen((Mark.EXECUTED, call_id, resolution(source)), (Mark.SUCCEEDED, call_id, encode("late")))
    assert f"EXECUTED by {source}" in broken_by(scene, "orders", call_id).text


def test_so_is_it_if_the_call_runs_again() -> None:
    scene, call_id = taken_over()
    scene.wait(0.6)
    scene.mark(Mark.NOT_EXECUTED, call_id, resolution())
    scene.mark(Mark.CLAIMED, call_id)
    scene.ran(call_id)
    scene.mark(Mark.SUCCEEDED, call_id, encode(1))
    broken_by(scene, "orders", call_id)


def test_so_is_it_if_nothing_ends_the_doubt() -> None:
    scene, call_id = taken_over()
    scene.wait(40.0)
    scene.whole_call("get")
    assert "nothing has ended it" in broken_by(scene, "orders", call_id).text


def test_what_was_on_its_way_may_end_the_doubt() -> None:
    scene, call_id = taken_over()
    scene.pen((Mark.EXECUTED, call_id, resolution()), (Mark.SUCCEEDED, call_id, encode("late")))
    holds(scene)


@pytest.mark.parametrize(("fault", "victim"), [("freeze", "b"), ("acks-lost", "server")])
def test_a_holder_that_could_not_read_or_write_is_excused(fault: str, victim: str) -> None:
    scene, call_id = taken_over()
    since_ns = scene.now_ns
    scene.wait(2.0)
    scene.fault(fault, victim, since_ns)
    scene.pen((Mark.EXECUTED, call_id, resolution()), (Mark.SUCCEEDED, call_id, encode("late")))
    holds(scene)


def test_a_former_holder_that_was_frozen_excuses_nobody() -> None:
    scene, call_id = taken_over()
    since_ns = scene.now_ns
    scene.wait(2.0)
    scene.fault("freeze", "a", since_ns)
    scene.pen((Mark.EXECUTED, call_id, resolution()), (Mark.SUCCEEDED, call_id, encode("late")))
    broken_by(scene, "orders", call_id)


def test_evidence_that_says_something_else_is_found() -> None:
    scene, call_id = taken_over()
    concludes(scene, call_id, body=encode("other"))
    assert "another body" in broken_by(scene, "orders", call_id).text


def test_evidence_that_is_not_there_is_found() -> None:
    scene = a_scene()
    one, other = claimed(scene), claimed(scene)
    scene.promote("b")
    in_doubt(scene, one)
    in_doubt(scene, other)
    gives_evidence(scene, one)
    concludes(scene, other)
    assert "the log does not have" in broken_by(scene, "orders", other).text


def test_the_word_of_one_who_had_not_claimed_the_call_counts_for_nothing() -> None:
    scene = a_scene()
    call_id = claimed(scene)
    scene.promote("b")
    in_doubt(scene, call_id)
    gives_evidence(scene, call_id, "z")
    scene.wait(2.0)
    scene.pen((Mark.EXECUTED, call_id, resolution()), (Mark.SUCCEEDED, call_id, encode("late")))
    holds(scene)


def test_evidence_of_an_earlier_claim_counts_no_more_once_the_call_may_run_again() -> None:
    scene = a_scene("a", "b", "c")
    call_id = claimed(scene)
    scene.promote("b")
    in_doubt(scene, call_id)
    scene.mark(Mark.NOT_EXECUTED, call_id, resolution())
    gives_evidence(scene, call_id)
    scene.mark(Mark.CLAIMED, call_id)
    scene.ran(call_id)
    scene.promote("c")
    in_doubt(scene, call_id)
    scene.wait(2.0)
    scene.pen((Mark.EXECUTED, call_id, resolution()), (Mark.SUCCEEDED, call_id, encode(1)))
    holds(scene)


def test_in_a_pool_evidence_is_by_its_writer_who_had_claimed_the_call() -> None:
    for author, writer in (("a", "a"), ("a", "b"), ("b", "b")):
        scene = a_pool()
        call_id = scene.accept(scene.invoke(), "pay", group=POOL)
        scene.mark(Mark.CLAIMED, call_id, writer="a", group=POOL)
        scene.ran(call_id, "a")
        scene.mark(Mark.IN_DOUBT, call_id, error("in_doubt"), writer="b", group=POOL)
        scene.pen(
            (Mark.EXECUTED, call_id, by_evidence(author)),
            (Mark.SUCCEEDED, call_id, encode(1)),
            writer=writer,
            group=POOL,
        )
        if (author, writer) == ("a", "a"):
            holds(scene)
        else:
            broken_by(scene, "orders", call_id)
