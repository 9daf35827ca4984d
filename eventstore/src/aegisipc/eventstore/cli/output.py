"""What verbs print: aligned tables and colours for people, JSON for programs."""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, Self, TextIO

_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


def print_json(value: Any) -> None:
    """Print `value` as one line of JSON, at once. Decimals, times, bytes and the like become strings."""
    try:
        print(json.dumps(value, default=_jsonable, ensure_ascii=False, separators=(",", ":")), flush=True)
    except UnicodeEncodeError:  # an argument that is no UTF-8, or a terminal that has few characters
        print(json.dumps(value, default=_jsonable, separators=(",", ":")), flush=True)


def pretty_json(value: Any) -> str:
    """Return `value` as indented JSON for people."""
    return json.dumps(value, default=_jsonable, ensure_ascii=False, indent=2)


def _jsonable(value: Any) -> Any:
    from pydantic_core import to_jsonable_python  # noqa: PLC0415 - only for what plain JSON cannot say

    return to_jsonable_python(value, fallback=repr, bytes_mode="base64")


class Paint:
    """Colours for a stream: none unless it is a terminal and ``NO_COLOR`` is not set.

    ::

        paint = Paint()
        print(paint("green", "active"))
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        out = sys.stdout if stream is None else stream
        self.is_on = out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def __call__(self, style: str, text: str) -> str:
        """Return `text` in that style (bold, dim, red, green, yellow, cyan)."""
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if self.is_on else text


class Cell(str):
    """A table cell with a style: ``Cell("active", "green")``."""

    __slots__ = ("style",)
    style: str

    def __new__(cls, text: str, style: str = "") -> Self:
        """Make the cell; an empty style is none."""
        cell = super().__new__(cls, text)
        cell.style = style
        return cell


def table(headers: Sequence[str], rows: Iterable[Sequence[object]], paint: Paint | None = None) -> str:
    """Return rows as text in aligned columns, two spaces apart; columns of numbers are aligned right."""
    paint = paint or Paint()
    texts = [[_cell(value) for value in row] for row in rows]
    numeric = [_is_numeric([row[i] for row in texts]) for i in range(len(headers))]
    widths = [max(map(_width, column)) for column in zip(headers, *texts, strict=True)]
    lines = [_line([Cell(header, "dim") for header in headers], widths, numeric, paint)]
    lines += [_line(row, widths, numeric, paint) for row in texts]
    return "\n".join(lines)


def _cell(value: object) -> str:
    if isinstance(value, str):
        return value
    return "-" if value is None else str(value)


def _line(cells: Sequence[str], widths: Sequence[int], numeric: Sequence[bool], paint: Paint) -> str:
    parts = []
    for index, (cell, width, right) in enumerate(zip(cells, widths, numeric, strict=True)):
        padding = " " * (width - _width(cell))
        style = getattr(cell, "style", "")
        shown = paint(style, str(cell)) if style else str(cell)
        is_last = index == len(cells) - 1
        parts.append(padding + shown if right else shown if is_last else shown + padding)
    return "  ".join(parts)


def _is_numeric(column: Sequence[str]) -> bool:
    values = [text for text in column if text != "-"]
    return bool(values) and all(map(_is_number, values))


def _is_number(text: str) -> bool:
    return text.replace(",", "").replace(".", "", 1).isdigit()


def _width(text: str) -> int:
    """Columns on a terminal: East Asian wide characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )


def printable(text: str) -> str:
    """Return `text` with control characters escaped: names and resources from a log may hold any."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def shorten(items: Sequence[str], limit: int = 3, width: int = 40) -> str:
    """Return the first few of `items`, and how many more there are."""
    if not items:
        return "-"
    shown = ", ".join(printable(item) for item in items[:limit])
    if len(shown) > width:
        shown = f"{shown[: width - 1]}…"
    more = len(items) - limit
    return f"{shown} +{more}" if more > 0 else shown


def ago(seconds: float) -> str:
    """Return a duration for people: ``0.3 s``, ``12 s``, ``4 min``, ``3 h``, ``5 d``."""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f} s"
    for limit, unit, size in ((120, "s", 1), (7200, "min", 60), (172_800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"
