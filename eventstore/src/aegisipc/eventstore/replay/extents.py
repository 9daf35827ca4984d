"""What a log holds, and points in it."""

from __future__ import annotations

from typing import NamedTuple


class Extent(NamedTuple):
    """What a log holds. ``end_ns``: up to when it is known that nothing else happened; on a server that is
    now. An empty log has ``first_seq == last_seq + 1``.
    """

    first_seq: int
    last_seq: int
    first_ns: int
    last_ns: int
    end_ns: int

    @property
    def is_empty(self) -> bool:
        """There is no record."""
        return self.last_seq < self.first_seq


class Point(NamedTuple):
    """A point in a history. ``said`` is how it was asked for, ``extent`` what the log held then."""

    seq: int
    at_ns: int
    said: str
    extent: Extent
