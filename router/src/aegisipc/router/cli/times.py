"""How times are shown to people."""

from __future__ import annotations

from datetime import UTC, datetime


def shown_time(at_ns: int) -> str:
    """Return a time (Unix nanoseconds) in UTC, to the millisecond."""
    seconds, ns = divmod(at_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{ns // 1_000_000:03}Z"
