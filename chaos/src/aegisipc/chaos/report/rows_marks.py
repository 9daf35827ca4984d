"""The rows of single events: contradictions, promotions, and errors that clients were told."""

from __future__ import annotations

from collections.abc import Iterator

from aegisipc.chaos.report.anchors import verdict_anchor
from aegisipc.chaos.report.calls import Asked
from aegisipc.chaos.report.figures import Figures
from aegisipc.chaos.report.markup import Markup, join, tag
from aegisipc.chaos.report.rows import COLUMN, Row, fits, title
from aegisipc.chaos.report.scale import WIDTH
from aegisipc.chaos.report.wording import counted, moment
from aegisipc.chaos.verdicts import Finding

HEIGHT = 18
MOST_MARKS = 150
"""In one row; of more, the first are shown."""

_GROUP = "Events"
_FIRST_ERRORS = ("call_in_doubt", "call_expired")
_MOST_ERRORS = 6
_MIDDLE = HEIGHT / 2


def violation_row(figures: Figures, anchor: str) -> Iterator[Row]:
    """Yield a row with a mark at each operation that a finding names; none if nothing is broken."""
    by_number = {one.number: one for one in figures.calls}
    by_call = {one.call_id: one for one in figures.calls if one.call_id is not None}
    marks: list[Markup] = []
    for index, verdict in enumerate(figures.run.judgement.verdicts):
        for finding in verdict.findings[:MOST_MARKS]:
            at_ns = _first_time(finding, by_number, by_call)
            if at_ns is None or len(marks) == MOST_MARKS:
                continue
            x = min(max(figures.scale.x(at_ns), 6.0), WIDTH - 6.0)
            cross = f"M{x - 4:.1f},{_MIDDLE - 4}l8,8m-8,0l8,-8"
            when = f"{verdict.name}, {moment(figures.scale.seconds(at_ns))}"
            shapes = title(when, finding.text), tag("path", class_="cross", d=cross)
            marks.append(tag("a", *shapes, href=f"#{verdict_anchor(anchor, index, verdict.name)}"))
    if marks:
        yield Row(_GROUP, "contradictions", HEIGHT, join(marks))


def _first_time(finding: Finding, by_number: dict[int, Asked], by_call: dict[str, Asked]) -> int | None:
    named = [by_number[number] for number in finding.numbers if number in by_number]
    named += [by_call[call_id] for call_id in finding.call_ids if call_id in by_call]
    return min((one.at_ns for one in named), default=None)


def promotion_row(figures: Figures) -> Iterator[Row]:
    """Yield a row with a mark where a node began an epoch; none if nothing is known of roles."""
    marks = []
    reached = 0.0
    for span in figures.promotions[:MOST_MARKS]:
        x = figures.scale.x(span.at_ns)
        left = min(max(x, 5.0), WIDTH - 5.0)
        words = f"e{span.epoch}"
        has_room = left + 6 >= reached and fits(words, WIDTH - left - 6) and span.epoch > 0
        reached = left + 6 + len(words) * 7 if has_room else reached
        marks.append(
            tag(
                "g",
                title(
                    f"{span.node} {span.role}, epoch {span.epoch}", moment(figures.scale.seconds(span.at_ns))
                ),
                tag("path", class_="promotion", d=f"M{left - 5:.1f},{_MIDDLE + 4}h10l-5,-9Z"),
                tag("text", words, class_="by-bar", x=left + 6, y=_MIDDLE + 3.5) if has_room else None,
            )
        )
    if marks:
        yield Row(_GROUP, "promotions", HEIGHT, join(marks))


def error_rows(figures: Figures) -> Iterator[Row]:
    """Yield a row for each error that clients were told: doubts and expired calls first, then the most
    frequent; the rest together.
    """
    errors = figures.series.errors
    first = [code for code in _FIRST_ERRORS if code in errors]
    rest = sorted((code for code in errors if code not in first), key=lambda code: (-sum(errors[code]), code))
    single = [*first, *rest][:_MOST_ERRORS]
    others = [errors[code] for code in [*first, *rest][_MOST_ERRORS:]]
    for code in single:
        yield _error_row(code, errors[code], figures)
    if others:
        together = [sum(column) for column in zip(*others, strict=True)]
        yield _error_row(f"{len(others)} other errors", together, figures)


def _error_row(name: str, counts: list[int], figures: Figures) -> Row:
    most = max(counts)
    marks = []
    for column, number in enumerate(counts):
        if number:
            height = 4 + (HEIGHT - 8) * (number / most) ** 0.5
            since = moment(figures.scale.seconds(figures.scale.column_ns(column)))
            shape = tag(
                "rect",
                title(f"{counted(number, 'call')}: {name}", f"from {since} on"),
                class_="error",
                x=column * COLUMN + 0.5,
                y=_MIDDLE - height / 2,
                width=COLUMN - 1,
                height=height,
            )
            marks.append(shape)
    return Row(_GROUP, f"{name} ({sum(counts):,})", HEIGHT, join(marks))
