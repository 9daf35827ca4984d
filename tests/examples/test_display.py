"""The figures of a run and the ways to show them."""

from __future__ import annotations

import io
import math
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console

from examples.demo.display import Lines, Picture, display_for, sparkline
from examples.demo.recount import Recount
from examples.demo.summary import summarize
from examples.demo.tally import SLOT_S, Ending, Seen, Tally, percentile
from examples.demo.verdict import verdict
from examples.orders import Report, Status
from tests.examples.gateway import order

REPORT = Report(order=order(), status=Status.FILLED, execution_id="x", at=datetime(2026, 1, 2, tzinfo=UTC))


def some_tally() -> Tally:
    tally = Tally(4)
    tally.begin(10.0)
    for number, (ending, code) in enumerate(
        [(Ending.SUCCEEDED, ""), (Ending.FAILED, "unknown_symbol"), (Ending.NOT_ACCEPTED, "no_route")]
    ):
        tally.sent()
        value = REPORT if ending is Ending.SUCCEEDED else None
        seen = Seen(bytes([number]) * 16, "orders.place", ending, value, code)
        tally.add(seen, latency_s=0.002 * (number + 1), now_s=10.0 + number * 2 * SLOT_S)
    tally.sent()
    return tally


def test_the_tally_counts_by_ending_method_code_and_time() -> None:
    tally = some_tally()
    assert (tally.done, tally.in_flight, tally.total) == (3, 1, 4)
    assert tally.by_target == {"orders.place": {e: 1 for e in list(Ending) if tally.endings[e]}}
    assert tally.codes == {"unknown_symbol": 1, "no_route": 1}
    assert tally.latencies_s == [0.002, 0.004]  # what was not accepted took no time worth counting
    assert list(tally.slots) == [1, 0, 1, 0, 1]
    assert list(tally.fills) == [REPORT]
    assert tally.calls_per_s == pytest.approx(3 / (4 * SLOT_S))


def test_a_tally_without_calls_has_no_figures() -> None:
    tally = Tally(1)
    tally.begin(1.0)
    assert tally.calls_per_s == 0
    assert summarize(tally, Recount()).to_json()["p50_ms"] is None


def test_percentiles_are_of_the_nearest_rank() -> None:
    values = [float(n) for n in range(100, 0, -1)]
    assert [percentile(values, share) for share in (0.0, 0.5, 0.99, 1.0)] == [1, 50, 99, 100]
    assert percentile([7.0], 0.99) == 7
    assert math.isnan(percentile([], 0.5))


def test_a_sparkline_is_as_high_as_its_values() -> None:
    assert sparkline([0, 1, 4, 8]) == " ▁▄█"
    assert sparkline([0, 0]) == "  "
    assert sparkline([]) == ""


@pytest.mark.parametrize("width", [40, 80, 130])
def test_the_picture_fits_any_width_and_shows_what_there_is_room_for(width: int) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=40)
    picture = Picture(console, "title")
    picture.process("router", "ready")
    picture.show(some_tally())
    with console.capture() as capture:
        console.print(picture.picture())
    shown = capture.get()
    assert "orders.place" in shown
    assert ("acc_1" in shown) is (width >= 80)
    assert ("unknown_symbol" in shown) is (width >= 120)


def test_without_a_terminal_there_are_plain_lines_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    display = display_for("title")
    assert isinstance(display, Lines)
    with display:
        display.process("router", "starting")
        display.process("router", "ready")
        display.show(some_tally())
        display.tick()
        display.tick()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[:2] == ["demo: title", "demo: router is ready"]
    assert err.count("3 of 4 calls") == 1


def test_the_verdict_says_what_is_wrong() -> None:
    console = Console(file=io.StringIO(), width=100)
    with console.capture() as capture:
        console.print(verdict(summarize(some_tally(), Recount()), 1.0, Path("kept")))
    shown = capture.get()
    assert "Something is wrong" in shown
    assert "1 not accepted" in shown
    assert "aegis dev --data kept --namespace demo" in shown
