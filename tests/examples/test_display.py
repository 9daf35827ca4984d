"""The figures of a run and the ways to show them."""

from __future__ import annotations

import io
import math
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console

from examples.demo.audit import Audit
from examples.demo.display import Lines, Picture, display_for, sparkline
from examples.demo.faults import Failover
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


@pytest.mark.parametrize("width", [80, 130])
def test_the_picture_tells_what_happened_and_to_whom(width: int) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=50)
    picture = Picture(console, "title")
    picture.process("orders east 1", "killed")
    picture.process("orders west 1", "frozen")
    picture.show(some_tally())
    for number in range(12):
        picture.happened(f"thing {number}.")
    with console.capture() as capture:
        console.print(picture.picture())
    shown = capture.get()
    spaced = shown.replace("\N{NO-BREAK SPACE}", " ")
    assert "orders east 1 killed" in spaced
    assert "orders west 1 frozen" in spaced
    assert "thing 11." in shown
    assert "thing 1." not in shown  # the oldest make room


def test_what_happens_is_a_line_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    Lines("title").happened("it was killed")
    assert capsys.readouterr().err == "demo: it was killed\n"


def test_the_verdict_tells_of_failovers_and_doubts() -> None:
    audit = Audit(
        [Failover("kill", "east", "orders-east-1", "orders-east-2", 2, 3.14)],
        executed=9,
        executed_twice=0,
        not_executed=0,
        unexplained=0,
        doubted=5,
        doubted_executed=3,
        found_executed=2,
        found_not_executed=1,
    )
    console = Console(file=io.StringIO(), width=120)
    with console.capture() as capture:
        console.print(verdict(summarize(some_tally(), Recount(), audit), 1.0, None))
    shown = " ".join(capture.get().split())
    assert "orders-east-1 orders-east-2 (epoch 2) 3.1 ms" in shown
    assert "calls in doubt: 5. The gateway asked the venue: 2 had been executed, 1 had not" in shown
    assert "the venue's book: 9 orders, 3 of them had been in doubt" in shown
    assert "2 still in doubt." in shown
    assert "1 failovers missing" in shown


def test_the_verdict_says_what_is_wrong() -> None:
    console = Console(file=io.StringIO(), width=100)
    with console.capture() as capture:
        console.print(verdict(summarize(some_tally(), Recount()), 1.0, Path("kept")))
    shown = capture.get()
    assert "Something is wrong" in shown
    assert "1 not accepted" in shown
    assert "aegis dev --data kept --namespace demo" in shown
