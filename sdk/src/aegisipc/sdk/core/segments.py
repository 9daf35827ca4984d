"""When the holder writes a segment of the index of idempotency keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from aegisipc.eventstore.calls import GroupCalls
from aegisipc.eventstore.keys import HASH_BYTES, MAX_SEGMENTS, SEGMENT_KEYS, KeyIndex, encode_segment

_ENTRY_BYTES: Final = 3 * HASH_BYTES
_HEAD_BYTES: Final = 64
_SHARE_BEFORE_SNAPSHOT: Final = 8
"""Before a snapshot an eighth of a segment is written, too: a snapshot holds all keys that no segment has."""


class Segments:
    """The segments of one holder: one at a time, of what is folded. It must have folded all that it wrote:
    what stands in the log between the keys in a segment and the segment itself would be lost with it.
    """

    __slots__ = ("_calls", "_is_on_its_way", "_session", "most")

    def __init__(self, session: int, calls: Callable[[], GroupCalls], *, max_bytes: int) -> None:
        self._session = session
        self._calls = calls
        self.most = max(1, min(SEGMENT_KEYS, (max_bytes - _HEAD_BYTES) // _ENTRY_BYTES))
        """How many keys gather before they are written."""
        self._is_on_its_way = False

    def is_due(self, *, before_snapshot: bool) -> bool:
        """Tell whether there is one to be written."""
        index = self._calls().keys
        if index is None or self._is_on_its_way or not index.recent:
            return False
        enough = max(1, self.most // _SHARE_BEFORE_SNAPSHOT) if before_snapshot else self.most
        return len(index.recent) >= enough and len(index.segments) < MAX_SEGMENTS

    def take(self, epoch: int, position: int) -> bytes:
        """Return the segment that is due. `position` is the sequence of the last record that was folded."""
        index = self._calls().keys or KeyIndex()
        self._is_on_its_way = True
        return encode_segment(index.next_segment(self._session, epoch, position, self.most))

    def on_stored(self) -> None:
        """The own segment was folded."""
        self._is_on_its_way = False

    def clear(self) -> None:
        """The pen is someone else's."""
        self._is_on_its_way = False
