"""G8 of the snapshots that a log holds: they are what the log up to there gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from aegisipc.chaos.log_facts import read_log_facts
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.memory import MemoryLog
from aegisipc.eventstore.snapshot_records import encode_index, encode_parts, pack_snapshot
from aegisipc.eventstore.system import SystemState
from aegisipc.eventstore.system_snapshots import dump_state
from tests.chaos.checking.scene import NS, START_NS, Scene, a_scene, broken_by, holds

CALLS, OPEN, SESSIONS = 5, 6, 5


def snapshot(scene: Scene, spoil: Callable[[list[Any]], None] = lambda _: None, *, parts: int = 1) -> int:
    """Write what a router would, or something else; returns where its index stands."""
    state = SystemState(NS)
    for record in scene.records:
        state.fold(record)
    plain = dump_state(state)
    spoil(plain)
    packed = pack_snapshot(plain)
    seqs = [scene.store(NS.snapshot_part, part) for part in encode_parts(packed, 1 << 20)][:parts]
    index = encode_index(packed, seqs or [1], router="r", taken_ns=state.position_ns)
    return scene.store(NS.snapshot_index, index)


def no_open_calls(plain: list[Any]) -> None:
    for _, _, calls in plain[CALLS]:
        calls[OPEN] = []


def no_frames(plain: list[Any]) -> None:
    for _, _, calls in plain[CALLS]:
        calls[SESSIONS] = []


def one_open(scene: Scene) -> str:
    return scene.accept(scene.invoke())


@pytest.mark.parametrize("spoil", [no_open_calls, no_frames])
def test_a_snapshot_that_leaves_something_out_is_found(spoil: Callable[[list[Any]], None]) -> None:
    scene = a_scene()
    scene.whole_call()
    call_id = one_open(scene)
    seq = snapshot(scene, spoil)
    scene.mark(Mark.EXPIRED, call_id)
    assert seq in broken_by(scene, "G8").seqs


def test_so_it_is_if_a_good_one_follows() -> None:
    scene = a_scene()
    call_id = one_open(scene)
    seq = snapshot(scene, no_open_calls)
    scene.mark(Mark.EXPIRED, call_id)
    snapshot(scene)
    assert {finding.seqs[0] for finding in scene.verdict("G8").findings} == {seq}


def test_a_snapshot_without_its_parts_is_found() -> None:
    scene = a_scene()
    scene.whole_call()
    seq = snapshot(scene, parts=0)
    finding = broken_by(scene, "G8")
    assert seq in finding.seqs
    assert "nothing" in finding.text


def test_good_snapshots_and_such_as_nobody_uses_are_legal() -> None:
    scene = a_scene()
    for _ in range(3):
        call_id = one_open(scene)
        snapshot(scene)
        scene.whole_call()
        scene.mark(Mark.EXPIRED, call_id)
    scene.store(NS.snapshot_index, b"of somebody hostile")
    scene.store(NS.snapshot_part, b"of one that was not finished")
    holds(scene)
    # Three of them; the first and the last one are loaded, too, and folded on.
    assert scene.verdict("G8").looked_at == 7


async def test_a_log_that_is_read_from_its_server_is_compared_as_well() -> None:
    scene, log = a_scene(), MemoryLog(lambda: START_NS)
    call_id = one_open(scene)
    snapshot(scene, no_open_calls)
    scene.mark(Mark.EXPIRED, call_id)
    for record in scene.records:
        await log.append(record.subject, record.payload)
    facts = await read_log_facts(log, NS)
    (held, *_) = facts.snapshots_compared()
    assert held.digest != held.folded


def test_without_snapshots_nothing_is_folded() -> None:
    scene = a_scene()
    scene.whole_call()
    assert scene.facts.snapshots_compared() == []
