"""How an explanation is shown to people: the answer first, then the chain that led there."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator
from typing import Final

from aegisipc.eventstore.cli.output import Paint, printable
from aegisipc.eventstore.replay import Link, Point, Reason
from aegisipc.eventstore.replay.moments import to_the_ms

_WIDEST: Final = 160
_NARROWEST: Final = 60
_MS: Final = 1_000_000

_STYLES: Final = {
    "silence": "yellow",
    "disconnected": "yellow",
    "probe_failed": "yellow",
    "suspected": "yellow",
    "unhealthy": "yellow",
    "lost": "red",
    "refused": "red",
    "fence": "cyan",
    "decided": "cyan",
    "promoted": "cyan",
    "demoted": "cyan",
    "vacated": "red",
    "in_doubt": "yellow",
    "late": "yellow",
    "dead_lettered": "red",
    "first_outcome": "green",
    "succeeded": "green",
    "ended": "green",
    "recovered": "green",
    "heard_again": "green",
}
"""What somebody looks for first."""


def as_text(reason: Reason, point: Point, about: str, paint: Paint) -> str:
    """Return the answer and the chain; each link says which ones it follows from, and how much later."""
    columns = _columns()
    lines = [*_wrapped(printable(reason.answer), columns, "", paint, "bold"), ""]
    lines += _chain(reason, columns, paint)
    if reason.omitted:
        lines.append(paint("dim", f"{reason.omitted} more are left out"))
    if reason.notes:
        lines += ["", paint("dim", "also")]
        lines += [line for note in reason.notes for line in _wrapped(f"- {printable(note)}", columns, "  ")]
    where = f"{about}, up to sequence {point.seq} ({to_the_ms(point.at_ns)})"
    return "\n".join([*lines, "", paint("dim", printable(where))])


def _columns() -> int:
    wide = shutil.get_terminal_size().columns if sys.stdout.isatty() else _WIDEST
    return max(_NARROWEST, min(_WIDEST, wide))


def _wrapped(text: str, columns: int, indent: str, paint: Paint | None = None, style: str = "") -> list[str]:
    lines = textwrap.wrap(text, columns, subsequent_indent=indent, break_on_hyphens=False) or [""]
    return [paint(style, line) for line in lines] if paint is not None and style else lines


def _chain(reason: Reason, columns: int, paint: Paint) -> Iterator[str]:
    """One block for each link: number, time (the date where it changes), sequence, what, and from where."""
    if not reason.links:
        return
    seqs = [str(link.seq) if link.seq else "-" for link in reason.links]
    numbers, width = len(str(len(reason.links))), max(len("SEQ"), *(len(seq) for seq in seqs))
    head = f"{'#':>{numbers}}  {'TIME':<12}  {'SEQ':>{width}}  "
    day = ""
    yield paint("dim", f"{head}WHAT (after which #)")
    for link, seq in zip(reason.links, seqs, strict=True):
        date, _, clock = to_the_ms(link.at_ns).partition("T")
        if date != day:
            day = date
            yield paint("dim", f"{' ' * numbers}  {day}")
        before = f"{link.number:>{numbers}}  {clock.rstrip('Z'):<12}  {seq:>{width}}  "
        first, *rest = _wrapped(_told(link, reason), max(_NARROWEST // 2, columns - len(head)), "  ")
        style = _STYLES.get(link.what, "")
        yield before + (paint(style, first) if style else first)
        yield from (" " * len(head) + (paint(style, line) if style else line) for line in rest)


def _told(link: Link, reason: Reason) -> str:
    """What a link says, and after which ones it comes: with the time since the latest of them."""
    said = printable(link.said)
    if not link.follows:
        return said
    latest = max(reason.links[number - 1].at_ns for number in link.follows)
    after = ", ".join(f"#{number}" for number in link.follows)
    return f"{said}  <- {after}, +{(link.at_ns - latest) // _MS} ms"
