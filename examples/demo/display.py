"""What there is to see while the demonstration runs, on stderr: a live picture on a terminal, else lines."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from examples.demo.tally import SLOT_S, Ending, Tally, percentile
from examples.orders import Report, Side

_BARS: Final = " ▁▂▃▄▅▆▇█"
_CURVE: Final = 48
_REFUSALS: Final = 8
_STORY: Final = 10
_STATES: Final = {
    "starting": "yellow",
    "ready": "green",
    "leaving": "yellow",
    "gone": "dim",
    "killed": "red",
    "frozen": "blue",
}
_SAID: Final = {"killed": "bold red", "frozen": "bold blue"}
_WIDTHS: Final = (0, 78, 106)
"""From which width of the terminal on there is room for one, two, three tables."""


class Display(Protocol):
    """Shows how things go. ``every_s`` says how often to call :meth:`tick`."""

    every_s: float

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def process(self, name: str, state: str) -> None:
        """A process changed: starting, ready, killed, frozen, leaving, gone."""
        ...

    def phase(self, text: str) -> None:
        """Something else begins."""
        ...

    def happened(self, text: str) -> None:
        """Something happened that is worth a line."""
        ...

    def show(self, tally: Tally) -> None:
        """From now on, show this."""
        ...

    def tick(self) -> None:
        """Draw again."""
        ...


def display_for(title: str) -> Display:
    """Return the display that stderr can carry."""
    console = Console(stderr=True)
    return Picture(console, title) if console.is_terminal and not console.is_dumb_terminal else Lines(title)


class Lines:
    """One line a second, for logs and pipes."""

    every_s = 1.0

    def __init__(self, title: str) -> None:
        self._title = title
        self._tally: Tally | None = None
        self._told = -1

    def __enter__(self) -> Self:
        self._say(self._title)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.tick()

    def process(self, name: str, state: str) -> None:
        """Say what became ready; the rest is taken as read."""
        if state == "ready":
            self._say(f"{name} is ready")

    def phase(self, text: str) -> None:
        """Say what begins."""
        self._say(text)

    def happened(self, text: str) -> None:
        """Say so."""
        self._say(text)

    def show(self, tally: Tally) -> None:
        """Report on this from now on."""
        self._tally = tally

    def tick(self) -> None:
        """Say how far it is."""
        tally = self._tally
        if tally is None or tally.done == self._told:
            return
        self._told = tally.done
        p50, p99 = (percentile(tally.recent_s, share) * 1000 for share in (0.5, 0.99))
        refused = tally.endings[Ending.FAILED]
        self._say(
            f"{tally.done:,} of {tally.total:,} calls, {tally.calls_per_s:,.0f}/s, p50 {p50:.1f} ms, "
            f"p99 {p99:.1f} ms, {refused:,} refused, {tally.in_flight} in flight"
        )

    @staticmethod
    def _say(text: str) -> None:
        sys.stderr.write(f"demo: {text}\n")
        sys.stderr.flush()


class Picture:
    """Everything at a glance, drawn in place several times a second."""

    every_s = SLOT_S

    def __init__(self, console: Console, title: str) -> None:
        self._title = title
        self._phase = ""
        self._states: dict[str, str] = {}
        self._story: deque[str] = deque(maxlen=_STORY)
        self._tally: Tally | None = None
        self._live = Live(console=console, auto_refresh=False, vertical_overflow="crop")

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.tick()
        self._live.stop()

    def process(self, name: str, state: str) -> None:
        """Colour its lamp."""
        self._states[name] = state
        self.tick()

    def phase(self, text: str) -> None:
        """Write it under the title."""
        self._phase = text
        self.tick()

    def happened(self, text: str) -> None:
        """Add it to the story."""
        passed_s = 0.0 if self._tally is None else time.perf_counter() - self._tally.began_s
        self._story.append(f"{passed_s:6.2f} s  {text}")
        self.tick()

    def show(self, tally: Tally) -> None:
        """Draw this from now on."""
        self._tally = tally

    def tick(self) -> None:
        """Draw again."""
        self._live.update(self.picture(), refresh=True)

    def picture(self) -> RenderableType:
        """Return the whole picture."""
        parts: list[RenderableType] = [self._heading(), lamps(self._states)]
        if self._tally is not None:
            width = self._live.console.width
            curve = max(8, min(_CURVE, width - 54))
            parts += ["", progress(self._tally, curve), "", pace(self._tally, curve)]
        if self._story:  # before the details: those may be cropped where there are few lines
            parts += ["", Text("\n".join(self._story), "bold magenta", no_wrap=True, overflow="ellipsis")]
        if self._tally is not None:
            parts += ["", details(self._tally, self._live.console.width)]
        return Padding(Group(*parts), (1, 2), expand=False)

    def _heading(self) -> Text:
        return Text.assemble((self._title, "bold"), ("  " + self._phase, "cyan"))


def lamps(states: dict[str, str]) -> Text:
    """Return one lamp per process."""
    text = Text()
    for name, state in states.items():
        text.append("● ", _STATES.get(state, ""))
        shown = (f"{name} {state}" if state in _SAID else name).replace(" ", "\N{NO-BREAK SPACE}")
        text.append(f"{shown}  ", _SAID.get(state, "dim" if state == "gone" else ""))
    return text


def progress(tally: Tally, width: int) -> RenderableType:
    """Return how far it is."""
    row = Table.grid(padding=(0, 2))
    bar = ProgressBar(total=tally.total, completed=tally.done, width=width)
    done = f"{tally.done:,} of {tally.total:,} calls".ljust(22)
    row.add_row(bar, done, Text(f"{tally.in_flight} in flight", "dim"))
    return row


def pace(tally: Tally, width: int) -> RenderableType:
    """Return how fast it goes, and how long a call takes."""
    rates = [count / SLOT_S for count in list(tally.slots)[-width:]]
    row = Table.grid(padding=(0, 2))
    p50, p99 = (percentile(tally.recent_s, share) * 1000 for share in (0.5, 0.99))
    rate = f"{tally.calls_per_s:,.0f}"
    row.add_row(
        Text(sparkline(rates).ljust(width), "green"),
        Text.assemble((rate, "bold"), " calls/s".ljust(22 - len(rate))),
        Text.assemble("p50 ", (f"{p50:.1f} ms", "bold"), "  p99 ", (f"{p99:.1f} ms", "bold")),
    )
    return row


def sparkline(values: Sequence[float]) -> str:
    """Return one character per value, as high as the value is, the highest one full."""
    top = max(values, default=0)
    if top <= 0:
        return " " * len(values)
    return "".join(_BARS[max(1, round(value / top * 8)) if value else 0] for value in values)


def details(tally: Tally, width: int) -> RenderableType:
    """Return the methods, the latest trades and the refusals side by side: as many as fit."""
    tables = (methods(tally), trades(list(tally.fills)), refusals(tally))
    grid = Table.grid(padding=(0, 4))
    grid.add_row(*tables[: sum(width >= least for least in _WIDTHS)])
    return grid


def methods(tally: Tally) -> Table:
    """Return how the calls of each method ended."""
    table = _table("method", "   done", "refused", "other")
    for target, endings in sorted(tally.by_target.items()):
        done, refused = endings[Ending.SUCCEEDED], endings[Ending.FAILED]
        other = endings.total() - done - refused
        table.add_row(
            target, f"{done:,}", Text(f"{refused:,}", "yellow"), Text(f"{other:,}", "red" if other else "dim")
        )
    return table


def trades(fills: Sequence[Report]) -> Table:
    """Return the latest trades, the newest first."""
    table = _table("trades", "", "", "")
    for report in reversed(fills):
        order = report.order
        side = Text(order.side.upper(), "green" if order.side is Side.BUY else "red")
        table.add_row(Text(order.account, "dim"), side, f"{order.quantity} {order.symbol}", f"{report.price}")
    return table


def refusals(tally: Tally) -> Table:
    """Return what was refused, and how often."""
    table = _table("refusals", "")
    for code, count in tally.codes.most_common(_REFUSALS):
        table.add_row(Text(code, "yellow"), f"{count:,}")
    return table


def _table(*headers: str) -> Table:
    table = Table(box=None, padding=(0, 1), pad_edge=False, show_edge=False)
    for index, header in enumerate(headers):
        table.add_column(Text(header, "dim"), justify="right" if index else "left", no_wrap=True)
    return table
