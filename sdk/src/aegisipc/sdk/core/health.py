"""What follows from the results of a service's own health checks: when to say so, and how often at most."""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

MIN_UNHEALTHY_NS: Final = 1_000_000_000
"""From the word that an instance is unhealthy to the word that it is healthy again, at least: whatever its
checks say, the log gets one such pair per second at most, and no group changes its holder to and fro.
"""


class Word(Enum):
    """What is to be said in the log."""

    UNHEALTHY = auto()
    HEALTHY = auto()


class HealthRecord:
    """State of the health of one incarnation. Times are nanoseconds of any clock that only goes forward.

    ``reason`` says why it is unhealthy; ``None`` if it is not. It stays until the word of the recovery is in
    the log, so what one sees of an instance is what the others were told.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._said_at_ns: int | None = None

    def on_check_before_ready(self, reason: str | None) -> None:
        """Take the result of a check of an instance that the others do not count on yet: nothing is said."""
        self.reason = reason

    def on_check(self, reason: str | None, now_ns: int) -> Word | None:
        """Take the result of a check: `reason` says why it failed. Returns the word that is due; tell
        :meth:`on_said` when it is in the log, before the next check.
        """
        if reason is not None:
            self.reason = reason
            return Word.UNHEALTHY if self._said_at_ns is None else None
        if self._said_at_ns is None or now_ns - self._said_at_ns < MIN_UNHEALTHY_NS:
            return None
        return Word.HEALTHY

    def on_said(self, word: Word, now_ns: int) -> None:
        """The word is in the log."""
        if word is Word.UNHEALTHY:
            self._said_at_ns = now_ns
        else:
            self._said_at_ns = self.reason = None
