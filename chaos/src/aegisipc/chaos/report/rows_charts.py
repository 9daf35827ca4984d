"""The charts of what clients saw: throughput, how long they waited, and how many calls were open."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from aegisipc.chaos.report.figures import Figures
from aegisipc.chaos.report.markup import Markup, join, tag
from aegisipc.chaos.report.rows import COLUMN, Row, line, steps, title
from aegisipc.chaos.report.scale import COLUMNS, WIDTH
from aegisipc.chaos.report.series import Series, filled
from aegisipc.chaos.report.wording import count, lasting, moment, quantile

_HEIGHT = 64
_TALL = 92
_TOP = 4
_CUT = 4
"""How many times the median of a chart is shown at most."""

_GROUP = "Clients"


def chart_rows(figures: Figures) -> Iterator[Row]:
    """Yield the three charts; none if there was no call."""
    if figures.called:
        yield _throughput(figures)
        yield _latency(figures.series)
        yield _open(figures.series)


def _stacked(layers: list[tuple[str, list[int]]], height: int, top: int) -> Markup:
    """Return areas on top of each other, the first one lowest; `top` is the value at the upper edge, and what
    is higher is cut there.
    """
    scale = (height - _TOP) / max(top, 1)
    below = [0] * COLUMNS
    areas = [tag("line", class_="base", x1=0, x2=WIDTH, y1=height, y2=height)]
    for name, values in layers:
        above = [lower + value for lower, value in zip(below, values, strict=True)]
        lows, highs = ([height - min(value, top) * scale for value in row] for row in (below, above))
        for begin, row in filled([value or None for value in values]):
            span = slice(begin, begin + len(row))
            areas.append(tag("path", class_=name, d=steps(begin, highs[span], lows[span])))
        below = above
    return join(areas)


def _usual_top(values: list[int]) -> int:
    """Return a value for the upper edge that keeps the usual ones readable beside a single high one."""
    there = sorted(value for value in values if value)
    return min(there[-1], _CUT * quantile(there, 0.5)) if there else 0


def _throughput(figures: Figures) -> Row:
    series, seconds = figures.series, figures.scale.column_s
    ended = [series.told(column) for column in range(COLUMNS)]
    peak, top = max(ended), _usual_top(ended)
    body = _stacked([("ok", series.ok), ("failed", series.failed), ("unknown", series.unknown)], _HEIGHT, top)
    note = f"peak {_rate(peak, seconds)}"
    return Row(_GROUP, "calls ended", _HEIGHT, body, note, _cut_note(peak, top, seconds), is_chart=True)


def _cut_note(peak: int, top: int, seconds: float) -> str:
    return f"cut at {_rate(top, seconds)}" if top < peak else ""


def _open(series: Series) -> Row:
    peak = max(map(int.__add__, series.awaited, series.undecided))
    body = _stacked([("awaited", series.awaited), ("undecided", series.undecided)], _HEIGHT, peak)
    return Row(_GROUP, "calls open", _HEIGHT, body, f"peak {count(peak)}", is_chart=True)


def _latency(series: Series) -> Row:
    low, high = _decades(series)
    y = _log_scale(low, high)
    shapes: list[Markup] = []
    levels: list[Markup] = []
    for power in range(low, high + 1):
        level = round(y(10**power), 1)
        shapes.append(tag("line", class_="grid", x1=0, x2=WIDTH, y1=level, y2=level))
        if power > low:
            levels.append(tag("text", _power_of_ten(power), class_="level", x=WIDTH - 3, y=level + 9))
    for (begin, p50), (_, p99), (_, longest) in zip(
        filled(series.p50_ns), filled(series.p99_ns), filled(series.longest_ns), strict=True
    ):
        lower, upper = [y(value) for value in p50], [y(value) for value in p99]
        shapes += [
            tag("path", class_="spread", d=steps(begin, upper, lower)),
            tag("path", class_="longest", d=line(begin, [y(value) for value in longest])),
            tag("path", class_="p99", d=line(begin, upper)),
            tag("path", class_="p50", d=line(begin, lower)),
        ]
    longest_s = max((value for value in series.longest_ns if value is not None), default=0) / 1e9
    note = f"max {lasting(longest_s)}"
    return Row(_GROUP, "clients waited", _TALL, join(shapes, levels), note, "log scale", is_chart=True)


def _power_of_ten(power: int) -> str:
    """Return a power of ten nanoseconds in words: ``100 ms``."""
    unit = min(power // 3, 3)
    return f"{10 ** (power - 3 * unit):,} {('ns', 'µs', 'ms', 's')[unit]}"


def _decades(series: Series) -> tuple[int, int]:
    """Return powers of ten, in nanoseconds, that enclose all values; at least two of them apart."""
    values = [value for row in (series.p50_ns, series.longest_ns) for value in row if value]
    low = math.floor(math.log10(min(values, default=1_000_000)))
    return low, max(math.ceil(math.log10(max(values, default=1_000_000))), low + 2)


def _log_scale(low: int, high: int) -> Callable[[int], float]:
    def y(value_ns: int) -> float:
        share = (math.log10(max(value_ns, 10**low)) - low) / (high - low)
        return _TOP + (_TALL - _TOP) * (1 - share)

    return y


def hover_columns(figures: Figures, top: int, height: int) -> Markup:
    """Return a column over the charts for each span of time that tells its figures."""
    series = figures.series
    return join(
        tag(
            "rect",
            title(*_told(figures, column)),
            class_="column",
            x=column * COLUMN,
            y=top,
            width=COLUMN,
            height=height,
        )
        for column in range(COLUMNS)
        if series.told(column) or series.awaited[column] or series.undecided[column]
    )


def _told(figures: Figures, column: int) -> Iterator[str]:
    series, scale = figures.series, figures.scale
    yield f"from {moment(scale.seconds(scale.column_ns(column)))}, {lasting(scale.column_s)}"
    ended = (("ok", series.ok), ("failed", series.failed), ("unknown", series.unknown))
    rates = [f"{_rate(row[column], scale.column_s)} {name}" for name, row in ended if row[column]]
    yield ", ".join(rates) or "no call ended"
    p50, p99, longest = series.p50_ns[column], series.p99_ns[column], series.longest_ns[column]
    if p50 is not None and p99 is not None and longest is not None:
        yield f"waited p50 {lasting(p50 / 1e9)}, p99 {lasting(p99 / 1e9)}, max {lasting(longest / 1e9)}"
    undecided = f", {count(series.undecided[column])} of unknown outcome" if series.undecided[column] else ""
    yield f"open {count(series.awaited[column])}{undecided}"


def _rate(number: int, seconds: float) -> str:
    rate = number / seconds
    return f"{count(round(rate))}/s" if rate >= 10 or not rate else f"{rate:.1f}/s"
