"""What a fold of calls remembers beside the open ones: the latest outcomes, and the frames it has seen."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final, NamedTuple

from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.ids import CallId

MAX_SESSIONS: Final = 65_536
"""Writers' sessions whose last frame number a fold remembers, most recently heard ones first."""


class Outcome(NamedTuple):
    """What became of a call: a final mark (or ``IN_DOUBT``) and the encoded result or error."""

    call_id: CallId
    mark: Mark
    body: bytes | None


class Sessions:
    """Drops frames that were stored twice. Bounded; deterministic, because what is forgotten depends on log
    order only.
    """

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: OrderedDict[tuple[str, int], int] = OrderedDict()

    def is_new(self, subject: str, session: int, number: int) -> bool:
        """Tell whether this frame is the first of its number, and remember it."""
        key = (subject, session)
        if number <= self._last.get(key, 0):
            return False
        self._last[key] = number
        self._last.move_to_end(key)
        if len(self._last) > MAX_SESSIONS:
            self._last.popitem(last=False)
        return True

    def dump(self) -> list[tuple[str, int, int]]:
        """Return what is remembered, least recently heard first."""
        return [(subject, session, number) for (subject, session), number in self._last.items()]

    def load(self, plain: Iterable[tuple[str, int, int]]) -> None:
        """Remember what :meth:`dump` gave."""
        self._last = OrderedDict(((subject, session), number) for subject, session, number in plain)


class Outcomes:
    """The latest outcomes of a group, for those who ask again. Bounded in count and bytes; older ones are in
    the log.
    """

    __slots__ = ("_bytes", "_kept", "_max_bytes", "_max_count")

    def __init__(self, max_count: int = 100_000, max_bytes: int = 64 << 20) -> None:
        self._kept: OrderedDict[CallId, Outcome] = OrderedDict()
        self._bytes = 0
        self._max_count = max_count
        self._max_bytes = max_bytes

    def add(self, outcome: Outcome) -> None:
        """Remember `outcome`, forgetting the oldest ones over the limits."""
        kept = self._kept
        call_id, _, body = outcome
        if call_id in kept:  # a doubt, resolved by now
            self._bytes -= len(kept.pop(call_id).body or b"")
        kept[call_id] = outcome
        if body is not None:
            self._bytes += len(body)
        while len(kept) > self._max_count or self._bytes > self._max_bytes:
            _, oldest = kept.popitem(last=False)
            self._bytes -= len(oldest.body or b"")

    def drop(self, call_id: CallId) -> None:
        """Forget a doubt that is over."""
        dropped = self._kept.pop(call_id, None)
        if dropped is not None:
            self._bytes -= len(dropped.body or b"")

    def get(self, call_id: CallId) -> Outcome | None:
        """Return the outcome of a call, if it is still remembered."""
        return self._kept.get(call_id)
