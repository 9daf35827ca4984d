"""How the history of a call is shown, whatever it holds."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.cli.output import Paint
from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.histories import AcceptedCall, CallHistory, Step
from aegisipc.eventstore.ids import parse_call_id
from aegisipc.eventstore.names import POOL_GROUP
from aegisipc.eventstore.subjects import subjects_of
from aegisipc.router.cli.stories import as_plain, as_text, said_in, said_of

CALL_ID = "019a9e6e-8d5b-7000-8000-3b9aca000001"
NOW_NS = 1_763_000_000_000_000_000


def history(*args: Any, group: str = "g1", body: bytes | None = None, **kwargs: Any) -> CallHistory:
    body = encode([list(args), kwargs]) if body is None else body
    call = AcceptedCall(
        parse_call_id(CALL_ID), "orders", group, "c1", "place", None, 7, NOW_NS, NOW_NS, 1, body
    )
    return CallHistory(subjects_of("test"), call)


def step(mark: Mark, says: Any = None, **fields: Any) -> Step:
    body = None if says is None else encode(says)
    return Step(mark.name.lower(), 8, NOW_NS, "i1", 2, mark=mark, body=body)._replace(**fields)


def test_arguments_are_shown_by_position_and_by_name() -> None:
    shown = as_text(history(5, {"side": "buy"}, at=Decimal("1.50")), Paint())
    assert 'arguments  5\n           {\n             "side": "buy"\n           }\n' in shown
    assert '           at="1.50"\n' in shown


def test_a_call_without_arguments_says_so() -> None:
    assert "arguments  none\n" in as_text(history(), Paint())


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (Decimal("1.50"), "1.50"),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00Z"),
        (b"\x00\xff", "AP8="),
        (float("nan"), "NaN"),
        ({(1, 2): {3}}, {"1,2": [3]}),
        ({None: 1}, {"None": 1}),
        ("\x1b[31m", "\x1b[31m"),
    ],
)
def test_every_value_is_told_to_programs_in_json(value: Any, shown: Any) -> None:
    told = json.loads(json.dumps(as_plain(history(value)), allow_nan=False))
    assert told["arguments"] == {"positional": [shown], "named": {}}


def test_nothing_of_a_call_reaches_the_terminal_as_a_control_sequence() -> None:
    shown = as_text(history(body=encode([["\x1b[31m"], {"\x1b]0;": "\x07"}])), Paint())
    shown += said_of(step(Mark.FAILED, {"code": "\x1b", "message": "a\nb"}))
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "a\\nb" in shown


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x93\x01"])
def test_what_nobody_can_read_is_told_by_its_size(body: bytes) -> None:
    assert said_in(body) == f"(unreadable, {len(body)} bytes)"
    assert as_plain(history(body=body))["arguments"]["positional"] == [f"(unreadable, {len(body)} bytes)"]


def test_what_does_not_count_is_in_parentheses() -> None:
    told = history()
    told.steps.append(step(Mark.SUCCEEDED, 5, counts=False))
    assert "(succeeded: 5: did not count)" in as_text(told, Paint())


def test_steps_that_are_left_out_are_counted() -> None:
    told = history()
    told.omitted = 3
    assert "3 steps before the last one are left out" in as_text(told, Paint())
    assert as_plain(told)["omitted"] == 3


def test_a_pool_has_no_epochs() -> None:
    last = as_text(history(group=POOL_GROUP), Paint()).splitlines()[-1]
    assert last.split()[1:] == ["7", "c1", "-", "accepted"]


BY_ANN = {"source": "operator", "author": "ann", "reason": "the venue says so"}


@pytest.mark.parametrize(
    ("told", "says"),
    [
        (step(Mark.CLAIMED), "claimed"),
        (step(Mark.SUCCEEDED, {"filled": 5}), 'succeeded: {"filled": 5}'),
        (step(Mark.SUCCEEDED, 5, emitted=(b"x",)), "succeeded: 5 (and 1 event)"),
        (step(Mark.FAILED, {"code": "no_funds", "message": "too little"}), "failed: no_funds: too little"),
        (step(Mark.FAILED, "odd"), 'failed: "odd"'),
        (step(Mark.EXPIRED), "expired"),
        (step(Mark.IN_DOUBT), "in doubt"),
        (step(Mark.IN_DOUBT, {"code": "in_doubt", "message": "i0 is gone"}), "in doubt: i0 is gone"),
        (step(Mark.EXECUTED, BY_ANN), "executed, says ann (operator): the venue says so"),
        (step(Mark.NOT_EXECUTED, BY_ANN | {"reason": ""}), "not executed, says ann (operator)"),
        (step(Mark.NOT_EXECUTED, 7), "not executed, says nobody"),
        (step(Mark.ATTEMPTED, 1), "begun again, alone"),
        (step(Mark.SUCCEEDED, 5, what="evidence"), "evidence: it ran and succeeded: 5"),
        (step(Mark.FAILED, what="evidence"), "evidence: it ran and failed"),
    ],
)
def test_a_step_is_told_in_a_line(told: Step, says: str) -> None:
    assert said_of(told) == says


HANDOVER = ev.GroupHandoverStarted(
    epoch=1, holder="i1", to="i2", to_incarnation="x", cause="new version", decided_by="r"
)


@pytest.mark.parametrize(
    ("event", "says"),
    [
        (HANDOVER, "i1 is to hand the pen over to i2: new version"),
        (
            ev.GroupHandoverCancelled(epoch=1, cause="i2 is gone", decided_by="r"),
            "the handover is off: i2 is gone",
        ),
        (
            ev.GroupVacated(epoch=1, cause="i1 left", decided_by="r"),
            "nobody holds the pen any more: i1 left",
        ),
    ],
)
def test_what_becomes_of_the_pen_is_told_in_a_line(event: ev.Event, says: str) -> None:
    assert said_of(Step("x", 8, NOW_NS, "r", 1, event=event)) == says


def test_a_long_result_is_cut_for_people_and_whole_for_programs() -> None:
    told = history()
    told.steps.append(step(Mark.SUCCEEDED, "x" * 1000))
    assert len(said_of(told.steps[-1])) == 300
    assert as_plain(told)["steps"][-1]["says"] == "x" * 1000
