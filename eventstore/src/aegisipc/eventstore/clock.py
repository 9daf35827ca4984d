"""What time it is on the server, estimated from the messages that come from there.

No promise rests on a clock, but a deadline is the server's timestamp of a call plus its timeout, so everybody
needs an idea of the server's time. A message stamped at server time *s* and received at local monotonic time
*l* proves that the server's clock had reached *s* by then; the smallest ``l - s`` seen lately is the best
bound. The host's own wall clock plays no part.
"""

from __future__ import annotations

WINDOW_NS = 30_000_000_000


class ServerClock:
    """An estimate of the server's clock: behind it by the fastest delivery seen lately, and not ahead of it.

    Not ahead as long as both clocks run at the same rate. Should they drift apart, or the server's be set
    back, it may be ahead by what has gathered in two windows; evidence older than that is forgotten.
    """

    __slots__ = ("_older", "_recent", "_since_ns")

    def __init__(self, server_ns: int, local_ns: int) -> None:
        """Start from one observation; see :meth:`observe`."""
        self._recent = self._older = local_ns - server_ns
        self._since_ns = local_ns

    def observe(self, server_ns: int, local_ns: int) -> None:
        """Take in that a message stamped `server_ns` (Unix) was received at `local_ns` (monotonic)."""
        offset = local_ns - server_ns
        age_ns = local_ns - self._since_ns
        if age_ns > WINDOW_NS:  # two windows: old evidence fades, so drift is followed
            self._older = self._recent if age_ns <= 2 * WINDOW_NS else offset
            self._recent, self._since_ns = offset, local_ns
        elif offset < self._recent:
            self._recent = offset

    def now_ns(self, local_ns: int) -> int:
        """Return the server's Unix time in nanoseconds at local monotonic time `local_ns`."""
        return local_ns - (min(self._older, self._recent))
