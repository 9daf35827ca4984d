"""The rows of what was broken: a bar from the fault to its repair, with its victim."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from aegisipc.chaos.history import Fault
from aegisipc.chaos.report.figures import Figures, is_endless
from aegisipc.chaos.report.markup import Markup, join, tag
from aegisipc.chaos.report.rows import Row, fits, letters, title
from aegisipc.chaos.report.scale import WIDTH, Scale
from aegisipc.chaos.report.wording import counted, lasting, moment, shortened

HEIGHT = 18
MOST_ROWS = 14
MOST_BARS = 120
"""In one row; of more, the longest are shown."""

_GROUP = "Faults"
_SPIKE = 5.0
"""Half the width of the mark for a fault that was over at once."""

_FEWEST_LETTERS = 6
"""Of a victim's name that are worth writing."""

type _Entry = tuple[Fault, float | None]


def fault_rows(figures: Figures) -> Iterator[Row]:
    """Yield a row for each kind of fault, and more where those of a kind overlap; what does not fit into
    :data:`MOST_ROWS` shares the last one.
    """
    by_name: dict[str, list[_Entry]] = {}
    for entry in sorted(figures.recoveries, key=lambda entry: entry[0].at_ns):
        by_name.setdefault(entry[0].name, []).append(entry)
    packed = [
        (f"{shortened(name, 60)}{_times(entries)}" if index == 0 else "", row)
        for name, entries in by_name.items()
        for index, row in enumerate(_packed(entries, figures.scale))
    ]
    if len(packed) > MOST_ROWS:
        rest = [entry for _, row in packed[MOST_ROWS - 1 :] for entry in row]
        packed = [*packed[: MOST_ROWS - 1], (f"others{_times(rest)}", rest)]
    for label, row in packed:
        yield _row(label, row, figures.scale)


def _packed(entries: Sequence[_Entry], scale: Scale) -> list[list[_Entry]]:
    """Put bars that overlap into rows below each other, three at most."""
    rows: list[tuple[float, list[_Entry]]] = []
    for entry in entries:
        begin, end = scale.x(entry[0].at_ns), _end(entry[0], scale)
        free = next((index for index, (until, _) in enumerate(rows) if until <= begin), None)
        if free is None and len(rows) < 3:
            rows.append((end, [entry]))
            continue
        until, row = rows[free or 0]
        row.append(entry)
        rows[free or 0] = (max(until, end), row)
    return [row for _, row in rows]


def _end(fault: Fault, scale: Scale) -> float:
    return max(scale.x(fault.until_ns), scale.x(fault.at_ns) + 2 * _SPIKE)


def _row(label: str, entries: list[_Entry], scale: Scale) -> Row:
    shown = sorted(entries, key=lambda entry: entry[0].at_ns - entry[0].until_ns)[:MOST_BARS]
    shown.sort(key=lambda entry: entry[0].at_ns)
    nexts = [scale.x(fault.at_ns) for fault, _ in shown[1:]] + [float(WIDTH)]
    body = join(_bar(*entry, scale, room) for entry, room in zip(shown, nexts, strict=True))
    return Row(_GROUP, label, HEIGHT, body)


def _times(entries: Sequence[_Entry]) -> str:
    return f" ({len(entries)})" if len(entries) > 1 else ""


def _bar(fault: Fault, recovery_s: float | None, scale: Scale, room: float) -> Markup:
    x, until = scale.x(fault.at_ns), scale.x(fault.until_ns)
    middle = HEIGHT / 2
    if fault.until_ns <= fault.at_ns or until - x < 3:
        left = min(max(x, _SPIKE), WIDTH - _SPIKE)
        points = f"M{left - _SPIKE:.1f},{middle - 5}h{2 * _SPIKE:g}l-{_SPIKE:g},10Z"
        shape, end = tag("path", class_="spike", d=points), left + _SPIKE
    else:
        shape, end = tag("rect", class_="bar", x=x, y=3, width=until - x, height=HEIGHT - 6, rx=2), until
    return tag("g", title(*_told(fault, recovery_s, scale)), shape, _name(fault, x, end, room))


def _name(fault: Fault, x: float, end: float, room: float) -> Markup | None:
    """Write the victim into the bar if it has room, else behind it if nothing follows soon."""
    baseline = HEIGHT / 2 + 3.5
    if fits(fault.victim, end - x):
        return tag("text", fault.victim, class_="on-bar", x=x + 4, y=baseline)
    space = letters(room - end)
    if space < min(len(fault.victim), _FEWEST_LETTERS):
        return None
    words = fault.victim if len(fault.victim) <= space else fault.victim[: space - 1] + "…"
    return tag("text", words, class_="by-bar", x=end + 3, y=baseline)


def _told(fault: Fault, recovery_s: float | None, scale: Scale) -> Iterator[str]:
    yield f"{fault.name}: {fault.victim}"
    lasted_s = (fault.until_ns - fault.at_ns) / 1e9
    yield f"{moment(scale.seconds(fault.at_ns))}, {'for ' + lasting(lasted_s) if lasted_s > 0 else 'at once'}"
    if is_endless(recovery_s):
        yield "no call made after it succeeded"
    elif recovery_s is not None:
        yield f"calls succeeded again after {lasting(recovery_s)}"
    yield fault.detail


def left_out(figures: Figures) -> str:
    """Return what the picture does not show of the faults, as a sentence; empty if it shows all."""
    names = {fault.name for fault, _ in figures.recoveries}
    if len(figures.recoveries) <= MOST_BARS and len(names) <= MOST_ROWS:
        return ""
    return (
        f"Of {counted(len(figures.recoveries), 'fault')}, the longest {MOST_BARS} of each row are drawn; "
        "report.json has all."
    )
