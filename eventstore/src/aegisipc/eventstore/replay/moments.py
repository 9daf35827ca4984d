"""Times for people and programs: in UTC, exact to the nanosecond."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

NS: Final = 1_000_000_000


def iso(unix_ns: int) -> str | None:
    """Return a time in ISO form, which is also one that a point can be given as; ``None`` for 0, and for what
    no calendar has.
    """
    if not unix_ns:
        return None
    seconds, fraction = divmod(unix_ns, NS)
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{fraction:09}Z"
    except (ValueError, OverflowError, OSError):
        return None


def to_the_ms(unix_ns: int) -> str:
    """Return a time for a table: the same, cut to the millisecond."""
    shown = iso(unix_ns)
    return "-" if shown is None else f"{shown[:23]}Z"
