"""How each kind of record reads in ``aegis log tail``: one line for people, plain data for programs."""

from __future__ import annotations

import io
import json
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.calls import GroupCalls
from aegisipc.eventstore.cli.output import Paint
from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.frames import NO_CALL, Mark, PenEntry, PenFrame, encode_pen
from aegisipc.eventstore.group_snapshots import GroupSnapshot, dump_calls, encode_snapshot
from aegisipc.eventstore.ids import CallIds, format_call_id
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.subjects import subjects_of
from aegisipc.router.cli.records import as_line, as_plain

S = subjects_of("test")
_ids = CallIds(1)
A, B, C, D = (_ids.next(1_763_000_000_000) for _ in range(4))
ID = format_call_id(A)
BY = {"author": "ann@box", "reason": "new version", "decided_by": "r1"}
SEEN = {"last_pulse_ns": 0, "silence_ms": 1012, "decided_by": "r1"}

FENCE, WATCH = S.fence("orders", "g1"), S.watch("orders", "g1")
OWN = S.instance("orders", "g1", "a")
PEN, EVIDENCE = S.pen("orders", "g1", "a"), S.evidence("orders", "g1", "a")

type Fact = tuple[Mark, bytes, bytes | None]


def line(subject: str, payload: bytes) -> str:
    """What follows time, sequence, place and type."""
    text = as_line(Record(7, subject, payload, 0), S, Paint(io.StringIO()))
    assert "\n" not in text
    assert text.startswith("1970-01-01T00:00:00.000Z       7  ")
    return text[len("1970-01-01T00:00:00.000Z       7  ") :].split(maxsplit=2)[2]


def frame(*facts: Fact, epoch: int = 2) -> bytes:
    entries = [PenEntry(mark, call_id) for mark, call_id, _ in facts]
    return encode_pen(PenFrame(1, 1, epoch, entries, [body for *_, body in facts]))


def said(body: ev.Resolution | ev.ErrorInfo) -> bytes:
    return encode(body)


EVENTS: list[tuple[str, ev.Event, str]] = [
    (
        FENCE,
        ev.GroupPromoted(epoch=1, holder="a", incarnation="x", kind="first", cause="first", decided_by="r1"),
        "epoch 1 to a: first",
    ),
    (
        FENCE,
        ev.GroupPromoted(
            epoch=2, holder="b", incarnation="x", kind="planned", cause="a left", decided_by="r1"
        ),
        "epoch 2 to b (planned): a left",
    ),
    (
        FENCE,
        ev.GroupVacated(epoch=2, cause="b left", decided_by="r1"),
        "nobody holds epoch 2 any more: b left",
    ),
    (
        FENCE,
        ev.GroupHandoverStarted(
            epoch=2, holder="b", to="a", to_incarnation="x", cause="promoted by ann@box", decided_by="r1"
        ),
        "b is to finish epoch 2 and hand over to a: promoted by ann@box",
    ),
    (
        FENCE,
        ev.GroupHandoverCancelled(epoch=2, cause="a is gone", decided_by="r1"),
        "the handover is off, epoch 2 goes on: a is gone",
    ),
    (WATCH, ev.InstanceAdmitted(instance="a", incarnation="x", decided_by="r1"), "a (by r1)"),
    (WATCH, ev.InstanceSuspected(instance="a", incarnation="x", **SEEN), "a: silent for 1012 ms (by r1)"),
    (
        WATCH,
        ev.InstanceSuspected(
            instance="a", incarnation="x", source="disconnect", cause="its connection ended", **SEEN
        ),
        "a: its connection ended (by r1)",
    ),
    (WATCH, ev.InstanceLost(instance="a", incarnation="x", **SEEN), "a: silent for 1012 ms (by r1)"),
    (WATCH, ev.InstanceRecovered(instance="a", incarnation="x", decided_by="r1"), "a lives (by r1)"),
    (
        WATCH,
        ev.InstanceDrainRequested(instance="a", incarnation="x", **BY),
        "a is to leave, asks ann@box: new version (by r1)",
    ),
    (
        WATCH,
        ev.InstanceRefused(
            instance="a", incarnation="x", error=ev.ErrorInfo(code="c", message="no"), decided_by="r1"
        ),
        "a: no",
    ),
    (WATCH, ev.GroupPaused(scope="group", **BY), "paused, asks ann@box: new version (by r1)"),
    (
        WATCH,
        ev.GroupResumed(scope="service", author="ann@box", decided_by="r1"),
        "resumed with the whole service, asks ann@box (by r1)",
    ),
    (OWN, ev.InstanceReady(incarnation="x"), "incarnation x"),
    (OWN, ev.InstanceDraining(incarnation="x", cause="stop requested"), "stop requested"),
    (OWN, ev.InstanceYielded(incarnation="x", epoch=2, cause="draining"), "has finished epoch 2: draining"),
    (OWN, ev.InstanceUnhealthy(incarnation="x", reason="no link\n"), "its health check fails: no link\\n"),
    (OWN, ev.InstanceHealthy(incarnation="x"), "its health check passes again"),
    (OWN, ev.InstanceLeft(incarnation="x", cause="stop requested"), "stop requested"),
    (
        OWN,
        ev.InstanceRegistered(
            incarnation="x",
            mode="owned",
            resources=("acc_1",),
            contract={},
            host="box",
            pid=7,
            version="1",
            quarantined=True,
        ),
        "owned, resources acc_1, methods -, pid 7 on box, in quarantine",
    ),
    (
        S.term,
        ev.RouterElected(term=1, router="r1", incarnation="x", cause="nobody leads"),
        "r1 leads term 1: nobody leads",
    ),
    (S.term, ev.RouterResigned(term=1, router="r1", incarnation="x"), "r1 leads term 1 no more"),
    (
        S.contract("orders", "acc", "i1"),
        ev.ServiceContract(digest="0123456789abcdef" * 4, schemas="eJyr"),
        "schemas 0123456789abcdef of what it offers (4 bytes)",
    ),
    (
        WATCH,
        ev.GroupCongested(open=57, limit=50, retry_after_ms=1500, decided_by="r1"),
        "57 open calls of 50: clients hold back, 1.5 s (by r1)",
    ),
    (WATCH, ev.GroupRelieved(open=39, decided_by="r1"), "39 open calls: clients may go on (by r1)"),
    (
        S.cancel("orders", "g1", "desk-1"),
        ev.CancelRequested(call_ids=(ID,), author="ann@box", reason="wrong account"),
        f"{ID} not to run, or to stop, asks ann@box: wrong account",
    ),
]


@pytest.mark.parametrize(("subject", "event", "says"), EVENTS, ids=[e.type for _, e, _ in EVENTS])
def test_an_event_is_one_clear_line(subject: str, event: ev.Event, says: str) -> None:
    assert line(subject, ev.encode_event(event)) == says


def test_every_event_that_there_is_has_a_line_of_its_own() -> None:
    assert {event.type for _, event, _ in EVENTS} == set(ev.REGISTRY.classes)


def test_an_event_of_another_version_is_shown_all_the_same() -> None:
    assert line(FENCE, msgpack.packb(["group.promoted.v9", {"epoch": 3}])) == "epoch 3"
    assert line(FENCE, msgpack.packb(["group.merged.v1", {"with": "g2"}])) == "with g2"
    assert line(FENCE, msgpack.packb(["group.merged.v1", {}]) + b"x").startswith("cannot read this record")


RESOLUTION = said(ev.Resolution(source="operator", author="ann@box", reason="seen at the venue"))
WHY = said(ev.ErrorInfo(code="in_doubt", message="a claimed it in epoch 1 and lost the pen"))


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ([(Mark.CLAIMED, A, None), (Mark.CLAIMED, B, None)], "2 claimed (epoch 2)"),
        (
            [
                (Mark.EMITTED, A, encode(["Filled", {}])),
                (Mark.EMITTED, A, None),
                (Mark.SUCCEEDED, A, b"\x01"),
            ],
            "2 emitted, 1 succeeded (epoch 2)",
        ),
        ([(Mark.IN_DOUBT, A, WHY)], f"epoch 2: {ID} is in doubt: a claimed it in epoch 1 and lost the pen"),
        ([(Mark.IN_DOUBT, A, None)], f"epoch 2: {ID} is in doubt"),
        (
            [(Mark.EXECUTED, A, RESOLUTION), (Mark.SUCCEEDED, A, b"\x01")],
            f"1 succeeded (epoch 2); {ID} was executed, says operator ann@box: seen at the venue",
        ),
        (
            [(Mark.NOT_EXECUTED, A, RESOLUTION)],
            f"epoch 2: {ID} was not executed, says operator ann@box: seen at the venue",
        ),
        ([(Mark.NOT_EXECUTED, A, b"\xc1")], f"epoch 2: {ID} was not executed"),
        ([(Mark.ATTEMPTED, A, encode(2))], f"epoch 2: {ID} is begun again, alone: attempt 2"),
        ([(Mark.ATTEMPTED, A, None)], f"epoch 2: {ID} is begun again, alone"),
        ([(Mark.CHECKED, NO_CALL, bytes(range(32)))], "epoch 2: state checked: 0001020304050607"),
        (
            [(Mark.DEAD_LETTERED, A, said(ev.ErrorInfo(code="dead_lettered", message="it kills")))],
            f"epoch 2: {ID} is a dead letter: it kills",
        ),
    ],
)
def test_a_pen_frame_counts_what_is_usual_and_tells_what_is_not(facts: list[Fact], says: str) -> None:
    assert line(PEN, frame(*facts)) == says


def test_frames_of_a_pool_have_no_epoch() -> None:
    subject = S.pen("orders", "_pool", "w1")
    assert line(subject, frame((Mark.SUCCEEDED, A, None), epoch=0)) == "1 succeeded"
    assert line(subject, frame((Mark.ATTEMPTED, A, None), epoch=0)) == f"{ID} is begun again, alone"


def test_of_many_doubts_the_first_ones_are_told() -> None:
    text = as_plain(Record(1, PEN, frame(*((Mark.IN_DOUBT, i, None) for i in (A, B, C, D))), 0), S)
    assert len(text["entries"]) == 4
    shown = line(PEN, frame(*((Mark.IN_DOUBT, i, None) for i in (A, B, C, D))))
    assert shown.count("is in doubt") == 3
    assert shown.endswith("; 1 more")


def test_evidence_says_who_ran_what() -> None:
    facts = [(Mark.EMITTED, A, b"\x01"), (Mark.SUCCEEDED, A, b"\x01"), (Mark.FAILED, B, None)]
    assert line(EVIDENCE, frame(*facts, epoch=0)).startswith(
        f"a lost the pen, and says: {ID} ran to its end there: succeeded (with 1 event); {format_call_id(B)} "
    )


def test_a_snapshot_says_how_far_it_reaches() -> None:
    calls = dump_calls(GroupCalls(keep_bodies=True))
    subject = S.state("orders", "g1", "a")
    with_state = encode_snapshot(GroupSnapshot(41, 2, calls, b"12345"))
    assert line(subject, with_state) == "up to sequence 41: 5 bytes of state, 0 open calls (epoch 2)"
    without = encode_snapshot(GroupSnapshot(41, 2, calls, None))
    assert line(subject, without) == "up to sequence 41: no shared state, 0 open calls (epoch 2)"
    plain = as_plain(Record(1, subject, with_state, 0), S)
    assert (plain["covers"], plain["open_calls"], plain["state_bytes"]) == (41, 0, 5)
    broken = line(subject, encode_snapshot(GroupSnapshot(41, 2, [], None)))
    assert broken == "cannot read the calls in a snapshot"
    assert line(subject, b"x").startswith("cannot read a snapshot")


def test_programs_get_what_marks_say_but_no_results() -> None:
    facts: list[Fact] = [
        (Mark.EMITTED, A, encode(["Filled", {"secret": 1}])),
        (Mark.EXECUTED, A, RESOLUTION),
        (Mark.SUCCEEDED, A, encode("secret")),
        (Mark.CHECKED, NO_CALL, b"\x0f"),
        (Mark.ATTEMPTED, A, b"\xc1"),
    ]
    plain: dict[str, Any] = json.loads(json.dumps(as_plain(Record(1, PEN, frame(*facts), 0), S)))
    emitted, executed, succeeded, checked, attempted = plain["entries"]
    assert emitted == {"mark": "emitted", "call_id": ID, "event": "Filled"}
    assert executed["says"]["reason"] == "seen at the venue"
    assert succeeded == {"mark": "succeeded", "call_id": ID}
    assert checked == {"mark": "checked", "call_id": None, "says": "0f"}
    assert attempted["says"] == "(unreadable, 1 bytes)"
    assert "secret" not in json.dumps(plain)


def test_a_line_is_cut_where_it_gets_too_long() -> None:
    event = ev.GroupVacated(epoch=2, cause="x" * 500, decided_by="r1")
    text = line(FENCE, ev.encode_event(event))
    assert len(text) == 200
    assert text.endswith("…")
