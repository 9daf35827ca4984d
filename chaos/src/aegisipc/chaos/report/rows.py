"""Rows of a picture, and the shapes that several of them use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aegisipc.chaos.report.markup import Markup, tag, text
from aegisipc.chaos.report.scale import COLUMNS, WIDTH
from aegisipc.chaos.report.wording import shortened

COLUMN = WIDTH / COLUMNS
"""Pixels of a column."""

_LETTER = 6.2
"""Pixels of a letter in a picture, on the safe side."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its label and smaller notes below it, its height in pixels, and what is in it, with its own
    upper left corner as origin. ``group`` is written above the first row of several with the same one.
    """

    group: str
    label: str
    height: int
    body: Markup
    note: str = ""
    second_note: str = ""
    is_chart: bool = False


def title(*lines: str) -> Markup:
    """Return what is shown when the pointer rests on a shape."""
    return tag("title", "\n".join(shortened(line, 300) for line in lines if line))


def fits(words: str, pixels: float) -> bool:
    """Whether words can be written within so many pixels."""
    return len(words) * _LETTER + 6 <= pixels


def letters(pixels: float) -> int:
    """Return how many letters can be written within so many pixels."""
    return int((pixels - 6) / _LETTER)


def steps(begin: int, tops: Sequence[float], base: float | Sequence[float]) -> Markup:
    """Return the path of an area of columns from column `begin` on, between `tops` and `base`."""
    lower = [base] * len(tops) if isinstance(base, float | int) else base
    there = "".join(f"V{_px(y)}h{_px(COLUMN)}" for y in tops)
    back = "".join(f"V{_px(y)}h-{_px(COLUMN)}" for y in reversed(lower))
    return text(f"M{_px(begin * COLUMN)},{_px(lower[0])}{there}{back}Z")


def line(begin: int, tops: Sequence[float]) -> Markup:
    """Return the path of a line of columns from column `begin` on."""
    rest = "".join(f"V{_px(y)}h{_px(COLUMN)}" for y in tops[1:])
    return text(f"M{_px(begin * COLUMN)},{_px(tops[0])}h{_px(COLUMN)}{rest}")


def _px(pixels: float) -> str:
    return f"{pixels:.1f}".removesuffix(".0")
