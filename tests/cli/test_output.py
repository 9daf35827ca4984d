"""Tables, colours, JSON and the lines of the log, without a server."""

from __future__ import annotations

import io
import json
import uuid
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest

from aegisipc.eventstore.cli.output import (
    Cell,
    Paint,
    ago,
    pretty_json,
    print_json,
    printable,
    shorten,
    table,
)
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.subjects import subjects_of
from aegisipc.router.cli.records import as_line, as_plain

SUBJECTS = subjects_of("default")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Paint:
    return Paint(io.StringIO())


def test_columns_are_aligned_and_numbers_right(plain: Paint) -> None:
    text = table(("NAME", "N"), [("a", 5), ("long name", 12345), ("東京", None)], plain)
    assert text.splitlines() == [
        "NAME           N",
        "a              5",
        "long name  12345",
        "東京           -",
    ]


def test_colours_are_for_terminals_and_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert Paint(Terminal())("green", "x") == "\x1b[32mx\x1b[0m"
    assert Paint(io.StringIO())("green", "x") == "x"
    coloured = table(("A", "B"), [(Cell("x", "green"), "y")], Paint(Terminal()))
    assert coloured.splitlines()[1] == "\x1b[32mx\x1b[0m  y"
    monkeypatch.setenv("NO_COLOR", "1")
    assert Paint(Terminal())("green", "x") == "x"


def test_values_that_json_does_not_have_become_text(capsys: pytest.CaptureFixture[str]) -> None:
    value = {
        "d": Decimal("1.50"),
        "t": datetime(2026, 1, 2, tzinfo=UTC),
        "u": uuid.UUID(int=1),
        "b": b"\xff",
        "s": {1},
        "o": object,
    }
    print_json(value)
    told = json.loads(capsys.readouterr().out)
    assert (told["d"], told["t"], told["u"], told["b"]) == (
        "1.50",
        "2026-01-02T00:00:00Z",
        str(uuid.UUID(int=1)),
        "_w==",
    )
    assert told["s"] == [1]
    assert json.loads(pretty_json(value)) == told


def test_what_the_output_cannot_encode_is_told_to_programs_all_the_same(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_json({"name": "\udcff", "other": "ü"})
    assert json.loads(capsys.readouterr().out) == {"name": "\udcff", "other": "ü"}


def test_text_from_a_log_cannot_control_the_terminal() -> None:
    assert printable("a\x1b[2Jb\n") == r"a\x1b[2Jb\n"
    assert printable("é 東京") == "é 東京"


@pytest.mark.parametrize(
    ("items", "shown"),
    [([], "-"), (["a"], "a"), (["a", "b", "c", "d", "e"], "a, b, c +2"), (["x" * 50], "x" * 39 + "…")],
)
def test_long_lists_are_shortened(items: list[str], shown: str) -> None:
    assert shorten(items) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(-1, "0.0 s"), (0.25, "0.2 s"), (50, "50 s"), (300, "5 min"), (10_000, "3 h"), (500_000, "6 d")],
)
def test_durations_are_for_people(seconds: float, shown: str) -> None:
    assert ago(seconds) == shown


# -- records -----------------------------------------------------------------------------------------------


def record(payload: bytes, subject: str = "orders.g1.ha._group") -> Record:
    return Record(7, f"{SUBJECTS.log_root}.{subject}", payload, 1_700_000_000_123_456_789)


def event(type_name: str, **data: Any) -> bytes:
    packed: bytes = msgpack.packb([type_name, data])
    return packed


def test_an_event_is_a_line_with_time_place_type_and_essence(plain: Paint) -> None:
    line = as_line(
        record(event("group.promoted.v1", epoch=2, holder="o2", cause="was lost")), SUBJECTS, plain
    )
    assert line.startswith("2023-11-14T22:13:20.123Z       7  orders/g1/ha/_group ")
    assert line.endswith(" group.promoted.v1         epoch 2 to o2: was lost")


def test_events_of_other_versions_are_shown_as_they_are(plain: Paint) -> None:
    assert as_line(record(event("group.renamed.v3", to="x")), SUBJECTS, plain).endswith(
        "group.renamed.v3          to x"
    )
    assert as_line(record(event("group.promoted.v9", no=1)), SUBJECTS, plain).endswith(" no 1")
    assert as_plain(record(event("group.renamed.v3", to="x")), SUBJECTS)["data"] == {"to": "x"}


@pytest.mark.parametrize("payload", [b"", b"\xc1", b"\x93", msgpack.packb(5), msgpack.packb([1, 2]), b"junk"])
@pytest.mark.parametrize("subject", ["orders.g1.ha._group", "orders.g1.call.c", "orders.g1.pen.i"])
def test_records_that_cannot_be_read_are_shown_all_the_same(
    payload: bytes, subject: str, plain: Paint
) -> None:
    told = as_plain(record(payload, subject), SUBJECTS)
    assert told["type"] is None
    assert told["error"].startswith("cannot read")
    assert "cannot read" in as_line(record(payload, subject), SUBJECTS, plain)


def test_a_hostile_event_cannot_control_the_terminal(plain: Paint) -> None:
    line = as_line(
        record(event("group.promoted.v1", epoch=1, holder="\x1b[2J", cause="\n" * 500)), SUBJECTS, plain
    )
    assert line.isprintable()
    assert len(line) < 300
