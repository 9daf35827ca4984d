"""The picture of a run: everything that happened on one time axis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from aegisipc.chaos.report import rows_faults, rows_roles
from aegisipc.chaos.report.figures import Figures
from aegisipc.chaos.report.markup import Markup, join, tag
from aegisipc.chaos.report.rows import Row, letters, title
from aegisipc.chaos.report.rows_charts import chart_rows, hover_columns
from aegisipc.chaos.report.rows_faults import fault_rows
from aegisipc.chaos.report.rows_marks import error_rows, promotion_row, violation_row
from aegisipc.chaos.report.rows_roles import ROLES, role_class, role_rows
from aegisipc.chaos.report.scale import WIDTH, Scale
from aegisipc.chaos.report.wording import MINUS, lasting, moment

_LABELS = 168
"""Pixels of the labels at the left; they stay when the picture is scrolled."""

_AXIS = 24
_GROUP_GAP = 22
_CHART_GAP = 10
_MOST_BANDS = 100
_MOST_LINES = 60


def timeline(figures: Figures, anchor: str) -> Markup:
    """Return the picture with its legend, or a sentence if there is nothing to be shown."""
    rows = [
        *fault_rows(figures),
        *role_rows(figures),
        *violation_row(figures, anchor),
        *promotion_row(figures),
        *error_rows(figures),
        *chart_rows(figures),
    ]
    if not rows:
        return tag("p", "The run left nothing behind that could be drawn.", class_="muted")
    placed, height = _placed(rows)
    notes = filter(None, (rows_faults.left_out(figures), rows_roles.left_out(figures)))
    return tag(
        "figure",
        tag(
            "div",
            _labels(placed, height),
            _plot(figures, placed, height),
            class_="timeline",
            role="group",
            tabindex=0,
            aria_label=f"Timeline of {figures.run.name}",
        ),
        tag("figcaption", _legend(figures), (tag("p", note) for note in notes)),
    )


def _placed(rows: Sequence[Row]) -> tuple[list[tuple[int, Row]], int]:
    """Return the rows with their upper edges, and the height of all, axes included."""
    placed: list[tuple[int, Row]] = []
    y, group = _AXIS, ""
    for row in rows:
        y += _GROUP_GAP if row.group != group else _CHART_GAP if row.is_chart else 0
        group = row.group
        placed.append((y, row))
        y += row.height
    return placed, y + _AXIS


def _labels(placed: Sequence[tuple[int, Row]], height: int) -> Markup:
    written: list[Markup] = []
    group = ""
    for y, row in placed:
        if row.group != group:
            group = row.group
            written.append(tag("text", group, class_="group", x=0, y=y - 6))
        middle = y + (row.height / 2 + 3.5 if not row.is_chart else 14)
        written.append(_label(row.label, "label", middle))
        for line, note in enumerate(filter(None, (row.note, row.second_note)), 1):
            written.append(_label(note, "note", middle + 14 * line))
    return tag("svg", written, class_="labels", width=_LABELS, height=height, aria_hidden="true")


def _label(words: str, look: str, y: float) -> Markup:
    room = letters(_LABELS - 10)
    cut = words if len(words) <= room else words[: room - 1] + "…"
    return tag("text", title(words) if cut != words else None, cut, class_=look, x=_LABELS - 10, y=y)


def _plot(figures: Figures, placed: Sequence[tuple[int, Row]], height: int) -> Markup:
    scale = figures.scale
    bottom = height - _AXIS
    charts = [(y, row) for y, row in placed if row.is_chart]
    columns = hover_columns(figures, charts[0][0], bottom - charts[0][0]) if charts else None
    return tag(
        "svg",
        title(f"{figures.run.name}: what happened when"),
        _bands(figures, bottom),
        _axis(scale, bottom),
        (_epoch_lines(figures, bottom)),
        columns,
        (
            tag("g", row.body, class_="chart" if row.is_chart else None, transform=f"translate(0,{y})")
            for y, row in placed
        ),
        _healed(figures, bottom),
        class_="plot",
        role="img",
        width=WIDTH,
        height=height,
    )


def _axis(scale: Scale, bottom: int) -> Iterator[Markup]:
    ticks = list(scale.ticks())
    digits = max((len(f"{tick:.3f}".rstrip("0").split(".")[1]) for tick in ticks), default=0)
    for tick in ticks:
        x = scale.x(scale.zero_ns + round(tick * 1e9))
        words = f"{tick:,.{digits}f} s".replace("-", MINUS)
        look = "tick first" if x < 12 else "tick last" if x > WIDTH - 20 else "tick"
        yield tag("line", class_="grid", x1=x, x2=x, y1=_AXIS - 6, y2=bottom + 4)
        yield tag("text", words, class_=look, x=x, y=_AXIS - 10)
        yield tag("text", words, class_=look, x=x, y=bottom + 17)


def _bands(figures: Figures, bottom: int) -> Iterator[Markup]:
    """Shade when something was broken through all rows, so that its effects can be told from others."""
    spans = sorted((figures.scale.x(f.at_ns), figures.scale.x(f.until_ns)) for f, _ in figures.recoveries)
    merged: list[tuple[float, float]] = []
    for begin, end in spans:
        last = merged[-1] if merged else (-1.0, -1.0)
        if begin <= last[1] + 0.5:
            merged[-1] = (last[0], max(last[1], end))
        else:
            merged.append((begin, max(end, begin)))
    for begin, end in merged[:_MOST_BANDS]:
        size = {"x": begin, "width": max(end - begin, 1.0), "y": _AXIS - 2, "height": bottom - _AXIS + 2}
        yield tag("rect", class_="band" if end - begin > 1 else "band edge", **size)


def _epoch_lines(figures: Figures, bottom: int) -> Iterator[Markup]:
    for span in figures.promotions[:_MOST_LINES]:
        x = figures.scale.x(span.at_ns)
        yield tag("line", class_="epoch", x1=x, x2=x, y1=_AXIS, y2=bottom)


def _healed(figures: Figures, bottom: int) -> Markup | None:
    at_ns = figures.run.evidence.healed_at_ns
    if not at_ns:
        return None
    x = figures.scale.x(at_ns)
    is_late = x > WIDTH - 90
    return tag(
        "g",
        title(f"everything healed, {moment(figures.scale.seconds(at_ns))}"),
        tag("line", class_="healed", x1=x, x2=x, y1=_AXIS - 4, y2=bottom + 4),
        tag(
            "text",
            "all healed",
            class_="healed-name last" if is_late else "healed-name",
            x=x + (-4 if is_late else 4),
            y=_AXIS + 8,
        ),
    )


def _legend(figures: Figures) -> Markup:
    there = {span.role for span in figures.run.roles}
    roles = [_box(role_class(role), role) for role in ROLES if role in there]
    if there and figures.run.evidence.probes:
        roles.append(
            _sign(tag("circle", class_="probe-ok", cx=10, cy=8, r=6), "✓ served at the end, ✕ did not")
        )
    groups: list[tuple[str, list[Markup]]] = [
        ("Roles", roles),
        ("Faults", _fault_signs(figures)),
        ("Events", [_sign(tag("path", class_="promotion", d="M5,12h10l-5,-9Z"), "begins an epoch")]),
    ]
    if figures.called:
        waited = [
            _sign(tag("path", class_="p50", d="M1,8h18"), "p50"),
            _sign(
                join(tag("rect", class_="spread", **_BOX), tag("path", class_="p99", d="M1,3h18")), "to p99"
            ),
            _sign(tag("path", class_="longest", d="M1,8h18"), "max, by when they asked"),
        ]
        groups += [
            ("Ended", [_box("ok", "ok"), _box("failed", "failed, no effect"), _box("unknown", "unknown")]),
            ("Waited", waited),
            ("Open", [_box("awaited", "awaited"), _box("undecided", "outcome still unknown")]),
            ("Step", [tag("span", lasting(figures.scale.column_s))]),
        ]
    lines = (tag("span", tag("b", name), *signs, class_="signs") for name, signs in groups if signs)
    return tag("p", lines, class_="legend")


def _fault_signs(figures: Figures) -> list[Markup]:
    if not figures.recoveries:
        return []
    return [
        _sign(tag("path", class_="spike", d="M5,4h10l-5,10Z"), "at once"),
        _box("bar", "for a while"),
        _box("band", "something is broken"),
    ]


_BOX = {"x": 1, "y": 3, "width": 18, "height": 10}


def _sign(shape: Markup, words: str) -> Markup:
    return tag("span", tag("svg", shape, width=20, height=16, aria_hidden="true"), words)


def _box(look: str, words: str) -> Markup:
    return _sign(tag("rect", class_=look, **_BOX), words)
