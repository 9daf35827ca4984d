"""How numbers and times are written for people."""

from __future__ import annotations

import math
from collections.abc import Sequence

MINUS, DASH = "\u2212", "\u2013"
"""As they are set in tables: a minus as wide as the plus, and a dash where there is nothing."""


def count(number: int) -> str:
    """Return a whole number with its thousands set apart."""
    return f"{number:,}"


def counted(number: int, one: str, many: str = "") -> str:
    """Return a number with its noun: ``1 call``, ``1,200 calls``."""
    return f"{count(number)} {one if number == 1 else many or one + 's'}"


def lasting(seconds: float) -> str:
    """Return a duration in the unit that suits it, three digits at most."""
    size = abs(seconds)
    if size == 0:
        return "0 s"
    if size < 0.9995e-3:
        return f"{seconds * 1e6:.0f} µs"
    if size < 0.9995:
        return f"{_three_digits(seconds * 1e3)} ms"
    if size < 120:
        return f"{_three_digits(seconds)} s"
    minutes, rest = divmod(round(size), 60)
    hours, minutes = divmod(minutes, 60)
    sign = MINUS if seconds < 0 else ""
    return f"{sign}{hours} h {minutes:02} min" if hours else f"{sign}{minutes} min {rest:02} s"


def _three_digits(value: float) -> str:
    size = abs(value)
    return f"{value:.{2 if size < 9.995 else 1 if size < 99.95 else 0}f}".replace("-", MINUS)


def moment(seconds: float) -> str:
    """Return a time of a run, from its beginning: ``+12.340 s``."""
    return f"{MINUS if seconds < 0 else '+'}{abs(seconds):,.3f} s"


def memory(size_bytes: int) -> str:
    """Return a size of memory in mebibytes."""
    return f"{size_bytes / 2**20:,.1f} MiB"


def shortened(value: str, limit: int) -> str:
    """Return at most `limit` characters of it, and how many were left out."""
    return value if len(value) <= limit else f"{value[:limit]}… ({count(len(value) - limit)} more characters)"


def listed(names: Sequence[str]) -> str:
    """Return names as a list in a sentence: ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]])) if names else ""


def quantile(ordered: Sequence[int], share: float) -> int:
    """Return the smallest of `ordered` (sorted, not empty) that `share` of them do not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
