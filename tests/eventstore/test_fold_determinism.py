"""The folds are functions of the records alone: same records, same state, in whichever process."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.calls import GroupCalls, Outcomes
from aegisipc.eventstore.events import encode_event
from aegisipc.eventstore.frames import (
    CallEntry,
    CallFrame,
    Mark,
    PenEntry,
    PenFrame,
    encode_calls,
    encode_pen,
)
from aegisipc.eventstore.ids import CallIds
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.subjects import subjects_of
from aegisipc.eventstore.topology import Topology

S = subjects_of("test")
ROOT = Path(__file__).parents[2]
FEW = settings(max_examples=40)
"""Each example is a whole log, folded twice."""
CONTRACT = {
    name: ev.MethodContract(effect=ev.Effect.PURE, arguments="a", returns="b", signature=f"{name}()")
    for name in ("b", "a")
}


def random_records(seed: int, count: int = 400) -> list[Record]:
    """A log in which anything may happen, sensible or not."""
    draw = random.Random(seed)
    ids = CallIds(seed)
    known = [ids.next(1000) for _ in range(60)]
    records = []
    for seq in range(1, count + 1):
        group = draw.choice(["g1", "g2", "_pool"])
        subject, payload = _random_record(draw, group, known, seq)
        records.append(Record(seq, subject, payload, seq * 1000))
    return records


def _random_record(draw: random.Random, group: str, known: list[bytes], seq: int) -> tuple[str, bytes]:
    who, run, epoch = draw.choice(["i1", "i2", "i3"]), draw.choice(["r1", "r2"]), draw.randint(1, 9)
    about: dict[str, Any] = {"instance": who, "incarnation": run, "decided_by": "router-1"}
    silence = {"last_pulse_ns": 1, "silence_ms": 2}
    resources = tuple(draw.sample(["x", "y", "z", "ä", "acc 1"], 3))
    own = S.instance("orders", group, who)
    watch, fence = S.watch("orders", group), S.fence("orders", group)
    registered = ev.InstanceRegistered(
        incarnation=run, mode="owned", resources=resources, contract=CONTRACT, host="h", pid=1, version="1"
    )
    entries = draw.sample(known, draw.randint(1, 5))
    call_entries = [CallEntry(call_id, "place", 1000, draw.choice([None, "x"])) for call_id in entries]
    pen_entries = [PenEntry(draw.choice(list(Mark)), call_id) for call_id in entries]
    choices: list[tuple[str, bytes]] = [
        (own, encode_event(registered)),
        (own, encode_event(ev.InstanceReady(incarnation=run))),
        (own, encode_event(ev.InstanceDraining(incarnation=run, cause="c"))),
        (own, encode_event(ev.InstanceLeft(incarnation=run, cause="c"))),
        (watch, encode_event(ev.InstanceAdmitted(**about))),
        (watch, encode_event(ev.InstanceSuspected(**about, **silence))),
        (watch, encode_event(ev.InstanceRecovered(**about))),
        (watch, encode_event(ev.InstanceLost(**about, **silence))),
        (
            fence,
            encode_event(
                ev.GroupPromoted(epoch=epoch, holder=who, incarnation=run, cause="c", decided_by="r")
            ),
        ),
        (fence, encode_event(ev.GroupVacated(epoch=epoch, cause="c", decided_by="r"))),
        (S.term, encode_event(ev.RouterElected(term=epoch, router=who, incarnation=run, cause="c"))),
        (S.term, encode_event(ev.RouterResigned(term=epoch, router=who, incarnation=run))),
        (draw.choice([own, fence, watch, S.term]), draw.randbytes(8)),
        (
            S.call("orders", group, who),
            encode_calls(CallFrame(1, draw.randint(1, seq), 1, call_entries, [b"b"] * len(entries))),
        ),
        (
            S.pen("orders", group, who),
            encode_pen(PenFrame(2, draw.randint(1, seq), 1, pen_entries, [b"r"] * len(entries))),
        ),
        (S.pen("orders", group, who), draw.randbytes(8)),
    ]
    return draw.choice(choices)


def folded(records: list[Record], *, keep_bodies: bool = True) -> str:
    """The state of both folds after `records`, as canonical text."""
    topology, calls = Topology(S), GroupCalls(keep_bodies=keep_bodies, outcomes=Outcomes())
    for record in records:
        topology.apply(record)
        calls.apply(record, S.parse(record.subject))
    return json.dumps([topology.to_plain(), calls.to_plain()])


@FEW
@given(st.integers(0, 1 << 32))
def test_the_same_records_give_the_same_state_and_nothing_is_refused(seed: int) -> None:
    records = random_records(seed, 120)
    assert folded(records) == folded(list(records))


@FEW
@given(st.integers(0, 1 << 32))
def test_supervisors_and_members_agree_on_every_call(seed: int) -> None:
    records = random_records(seed, 120)
    assert folded(records, keep_bodies=False) == folded(records)


@FEW
@given(st.integers(0, 1 << 32), st.integers(0, 120))
def test_a_place_that_was_parsed_before_makes_no_difference(seed: int, cut: int) -> None:
    records = random_records(seed, 120)[cut:]
    one, other = Topology(S), Topology(S)
    for record in records:
        one.apply(record)
        other.apply(record, S.parse(record.subject))
    assert one.to_plain() == other.to_plain()


@pytest.mark.slow
def test_the_canonical_state_does_not_depend_on_the_hash_seed_of_the_process() -> None:
    program = (
        "from tests.eventstore.test_fold_determinism import folded, random_records\n"
        "print(*(folded(random_records(seed)) for seed in range(5)))\n"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "4242")
    }
    assert len(outputs) == 1
    assert len(outputs.pop()) > 1000


def test_every_prefix_of_a_log_is_a_state_of_its_own() -> None:
    records = random_records(3)
    states = [folded(records[:end]) for end in (100, 200, 300, 400)]
    assert len(set(states)) == 4
