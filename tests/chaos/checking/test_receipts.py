"""What callers were told of how a call is kept, against the log and the servers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from aegisipc.chaos.history import Deed, Evidence, Keeping, Operation, Stage, from_line, to_line
from aegisipc.chaos.real.recording import entry_of, line_of
from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.frames import Mark
from tests.chaos.checking.scene import START_NS, Scene, a_scene, broken_by, holds

ONE = Keeping(1, syncs=True)
LAZY = Keeping(1, syncs=False)
THREE = Keeping(3, syncs=False)


def submitted(scene: Scene, keeping: Keeping | None, *, wait_s: float = 0.0, **receipt: Any) -> str:
    """A call with a timeout of a second that was submitted, and done; with a receipt after `wait_s`. What is
    not said of that is true.
    """
    scene.evidence.keeping = keeping
    number = scene.invoke(Deed.SUBMIT, timeout_s=1.0)
    call_id = scene.accept(number)
    scene.wait(wait_s)
    said = {"call_id": call_id, "durability": "written", "replicas": 1, "fsync": "unknown"}
    said |= {"seq": len(scene.records)} | receipt
    scene.answer(number, call_id=call_id)
    scene.evidence.operations.append(replace(scene.evidence.operations.pop(), receipt=said))
    scene.ran(call_id)
    scene.mark(Mark.SUCCEEDED, call_id, encode("done"))
    return call_id


@pytest.mark.parametrize(
    ("keeping", "receipt"),
    [
        (ONE, {"durability": "fsynced", "fsync": "always"}),
        (ONE, {}),
        (LAZY, {"fsync": "interval"}),
        (LAZY, {}),
        (THREE, {"durability": "replicated", "replicas": 3, "fsync": "interval"}),
        (Keeping(3, syncs=True), {"durability": "replicated", "replicas": 3, "fsync": "always"}),
        (Keeping(1, syncs=False, storage="memory"), {"durability": "memory"}),
        (None, {"durability": "fsynced", "fsync": "always"}),
    ],
)
def test_what_is_true_or_claims_less_may_be_said(keeping: Keeping | None, receipt: dict[str, Any]) -> None:
    scene = a_scene()
    submitted(scene, keeping, **receipt)
    holds(scene)
    assert scene.verdict("receipts").looked_at == 1


@pytest.mark.parametrize(
    ("keeping", "receipt"),
    [
        (LAZY, {"durability": "fsynced", "fsync": "always"}),
        (LAZY, {"fsync": "always"}),
        (ONE, {"fsync": "interval"}),
        (ONE, {"durability": "fsynced"}),
        (ONE, {"durability": "replicated", "fsync": "always"}),
        (ONE, {"durability": "memory"}),
        (ONE, {"replicas": 3}),
        (THREE, {"durability": "written", "replicas": 3}),
        (THREE, {"durability": "replicated", "replicas": 1}),
        (Keeping(1, syncs=True, storage="memory"), {"durability": "fsynced", "fsync": "always"}),
        (ONE, {"durability": "carved in stone"}),
    ],
)
def test_what_the_servers_do_not_do_is_found(keeping: Keeping, receipt: dict[str, Any]) -> None:
    scene = a_scene()
    broken_by(scene, "receipts", submitted(scene, keeping, **receipt))


@pytest.mark.parametrize("seq", [0, 1, 5, 1000])
def test_a_record_that_does_not_hold_the_call_is_found(seq: int) -> None:
    scene = a_scene()
    broken_by(scene, "receipts", submitted(scene, None, seq=seq))


def test_each_record_of_a_frame_that_was_stored_twice_holds_its_calls() -> None:
    scene = a_scene()
    first = scene.records[submitted_at(scene, submitted(scene, ONE)) - 1]
    again = scene.store(first.subject, first.payload)
    number = scene.invoke(Deed.ATTACH)
    call_id = next(iter(scene.facts.calls))
    scene.answer(number, value="done", call_id=call_id)
    said = {"call_id": call_id, "durability": "written", "replicas": 1, "fsync": "unknown", "seq": again}
    scene.evidence.operations.append(replace(scene.evidence.operations.pop(), receipt=said))
    holds(scene)
    assert scene.verdict("receipts").looked_at == 2


def submitted_at(scene: Scene, call_id: str) -> int:
    return scene.facts.calls[call_id].seq


def test_a_receipt_is_about_the_call_that_it_names_not_about_the_one_whose_outcome_was_told() -> None:
    scene = a_scene()
    first, second = (scene.accept(scene.invoke(key="k"), key="k", argument=1) for _ in range(2))
    scene.mark(Mark.KEYED, first, bytes(32))
    scene.ran(first)
    scene.mark(Mark.SUCCEEDED, first, encode("done"))
    number = scene.invoke(Deed.ATTACH)
    scene.answer(number, value="done", call_id=first)
    said = {"call_id": second, "durability": "written", "replicas": 1, "fsync": "unknown"}
    said |= {"seq": submitted_at(scene, second)}
    scene.evidence.operations.append(replace(scene.evidence.operations.pop(), receipt=said))
    assert scene.verdict("receipts").holds


@pytest.mark.parametrize("seq", [0, 3])
def test_only_when_a_callers_time_is_up_the_record_may_be_unknown(seq: int) -> None:
    scene = a_scene()
    call_id = submitted(scene, ONE, seq=seq, wait_s=0.9)
    broken_by(scene, "receipts", call_id)
    scene = a_scene()
    submitted(scene, ONE, seq=seq, wait_s=1.1)
    assert scene.verdict("receipts").holds == (seq == 0)


def test_of_a_log_that_lost_its_beginning_only_the_claims_are_compared() -> None:
    scene = a_scene()
    submitted(scene, ONE, seq=3)
    del scene.records[0]
    assert scene.verdict("receipts").holds
    scene = a_scene()
    submitted(scene, LAZY, durability="fsynced", fsync="always")
    del scene.records[0]
    assert not scene.verdict("receipts").holds


def test_receipts_are_kept_with_a_history() -> None:
    said = {"call_id": "a", "durability": "written", "replicas": 1, "seq": 7, "fsync": "unknown"}
    operation = Operation(1, Stage.OK, Deed.SUBMIT, "c", START_NS, call_id="a", receipt=said)
    for line in (to_line(operation), line_of(operation)):
        assert from_line(line) == operation == entry_of(line)
    evidence = Evidence()
    evidence.take(operation)
    assert evidence.operations == [operation]
