"""The index of a pool's idempotency keys: a fold that comes to the same on every worker, whenever it joined.

Many workers write, and none of them keeps all keys in memory: old ones are in segments, which have to be
read. A fold cannot wait for that. So whoever writes a word about a key reads first, and says in the word how
far it had read (``checked_to``). Such a word counts if

- that is not before ``covered``, up to which segments tell of every key at that place of the log; and
- nothing contradicts it that was said of the key since: all of that is in memory, on every worker.

What was said before ``covered`` the writer has looked up, and nothing about the key has changed since then. A
word that does not count changes nothing, and its writer looks again. See ``docs/adr/0018``.

Segments form a chain: one counts if it begins where the one before it ends. So two of them never tell of the
same time, and if several workers write one at once, the first counts. A pool has no keys before its first
segment, which is empty: so whoever joins later can begin to read at the end of what segments cover.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

from aegisipc.eventstore.ids import CallId
from aegisipc.eventstore.keys import (
    HASH_BYTES,
    MAX_SEGMENTS,
    SEGMENT_KEYS,
    Elsewhere,
    KeyIndex,
    KeyOwner,
    Segment,
    Spill,
    hash_of,
)

SEGMENT_SAID: Final = 1_000_000
"""How many words about calls gather before a segment is written, however few of them are about keys."""
SEGMENT_AGE_NS: Final = 3600 * 1_000_000_000
"""How old the latest segment may be: a log may forget what is old."""

_COUNTER_BYTES: Final = 8
_HEAD_BYTES: Final = 64
_MAX_BASES: Final = 8


class Keyed(NamedTuple):
    """What a word about a key says: ``checked_to`` is how far its writer had read when it wrote."""

    key: bytes
    digest: bytes
    checked_to: int


def keyed_body(key: bytes, digest: bytes, checked_to: int) -> bytes:
    """Return the body of a pool's ``KEYED`` fact; `key` is the key's hash."""
    return key + digest + checked_to.to_bytes(_COUNTER_BYTES)


def released_body(key: bytes, checked_to: int) -> bytes:
    """Return the body of a pool's ``RELEASED`` fact."""
    return key + checked_to.to_bytes(_COUNTER_BYTES)


def keyed_in(body: bytes | None) -> Keyed | None:
    """Read the body of a pool's ``KEYED`` fact; ``None`` if it is none."""
    if body is None or len(body) != 2 * HASH_BYTES + _COUNTER_BYTES:
        return None
    return Keyed(body[:HASH_BYTES], body[HASH_BYTES : 2 * HASH_BYTES], int.from_bytes(body[2 * HASH_BYTES :]))


def released_in(body: bytes | None) -> Keyed | None:
    """Read the body of a pool's ``RELEASED`` fact; ``None`` if it is none."""
    if body is None or len(body) != HASH_BYTES + _COUNTER_BYTES:
        return None
    return Keyed(body[:HASH_BYTES], b"", int.from_bytes(body[HASH_BYTES:]))


class Said(NamedTuple):
    """The latest word about a key that no segment has: whose it is (``None``: it is free), where that stands,
    and which run of which worker said so.
    """

    owner: KeyOwner | None
    seq: int
    writer: str = ""
    session: int = 0


class PoolKeys:
    """The fold. ``position`` is the sequence of the last record that was folded; ``most`` is how many entries
    a segment has at most, unless a single record has more. What it keeps of keys in segments goes where
    `spill` puts it, once it is much.
    """

    def __init__(
        self, max_record_bytes: int = 1 << 20, most: int = SEGMENT_KEYS, spill: Spill | None = None
    ) -> None:
        self.position = 0
        self.is_open = False
        """There is a segment, so keys count."""
        self.covered = 0
        self.most = max(1, min(most, (max_record_bytes - _HEAD_BYTES) // (3 * HASH_BYTES)))
        self._recent: dict[bytes, Said] = {}
        self._changes: deque[tuple[int, bytes, KeyOwner | None]] = deque()
        self._index = KeyIndex(spill)
        self._said = 0
        self._segment_ns = 0
        self._judges_after = 0

    def find(self, key: bytes) -> KeyOwner | Elsewhere | None:
        """Return who has a key (by its hash): its owner, ``None`` for nobody, or where that can be read."""
        said = self._recent.get(key)
        return self._index.find(key) if said is None else said.owner

    def recent(self, key: bytes) -> Said | None:
        """Return the latest word about a key, if no segment has it."""
        return self._recent.get(key)

    def was_free(self, key: bytes, before: Said) -> bool:
        """Tell whether a key was certainly nobody's, if `before` is what :meth:`on_keyed` found in memory."""
        return before.owner is None and (before.seq > 0 or self._index.find(key) is None)

    # -- the log's word ---------------------------------------------------------------------------------

    def on_frame(self, entries: int) -> None:
        """A frame said so much of calls."""
        self._said += entries

    def on_keyed(
        self, call_id: CallId, body: bytes | None, seq: int, writer: str, session: int
    ) -> Said | None:
        """Take in that a key belongs to a call; returns what was said of the key before as far as that is in
        memory, ``None`` if the word does not count.
        """
        keyed = keyed_in(body)
        if keyed is None or not self._may_count(keyed.checked_to, seq):
            return None
        before = self._recent.get(keyed.key)
        if before is not None and before.owner is not None and before.owner.call_id != call_id:
            return None
        self._change(keyed.key, Said(KeyOwner(call_id, keyed.digest), seq, writer, session))
        return before or Said(None, 0)

    def on_released(self, call_id: CallId, body: bytes | None, seq: int) -> bytes | None:
        """Take in that the call that has a key had no effect; returns the key's hash if that counts."""
        released = released_in(body)
        if released is None or not self._may_count(released.checked_to, seq):
            return None
        before = self._recent.get(released.key)
        if before is not None and (before.owner is None or before.owner.call_id != call_id):
            return None
        self._change(released.key, Said(None, seq))
        return released.key

    def _may_count(self, checked_to: int, seq: int) -> bool:
        return self.is_open and seq > self._judges_after and checked_to >= self.covered

    def _change(self, key: bytes, said: Said) -> None:
        self._recent[key] = said
        self._changes.append((said.seq, key, said.owner))

    def on_segment(self, seq: int, timestamp_ns: int, segment: Segment) -> bool:
        """A segment stands at `seq`; tells whether it counts."""
        if not self._is_next(segment) or len(self._index.segments) >= MAX_SEGMENTS:
            return False
        self.is_open = True
        self.covered = segment.covers
        self._said, self._segment_ns = 0, timestamp_ns
        changes, recent = self._changes, self._recent
        while changes and changes[0][0] <= segment.covers:
            _, key, _ = changes.popleft()
            said = recent.get(key)
            if said is not None and said.seq <= segment.covers:
                del recent[key]
        if segment.entries:
            self._index.on_segment(seq, segment)
        return True

    def _is_next(self, segment: Segment) -> bool:
        if not self.is_open:
            return True
        return segment.since == self.covered and segment.covers > segment.since

    # -- segments ---------------------------------------------------------------------------------------

    def is_due(self, now_ns: int) -> bool:
        """Tell whether another segment is to be written."""
        if not self.is_open or self.position <= self.covered or len(self._index.segments) >= MAX_SEGMENTS:
            return False
        is_old = now_ns - self._segment_ns >= SEGMENT_AGE_NS
        return len(self._recent) >= self.most or self._said >= SEGMENT_SAID or is_old

    def next_segment(self, session: int) -> Segment:
        """Return the segment that comes next: of the oldest words about keys, whole records of them; or the
        first one, which is empty.
        """
        if not self.is_open:
            return Segment(session, 0, 0, self.position, ())
        taken: dict[bytes, KeyOwner | None] = {}
        covers = self.covered
        record: list[tuple[bytes, KeyOwner | None]] = []
        at = 0
        for seq, key, owner in self._changes:
            if seq != at and record:
                if taken and len(taken) + len(record) > self.most:
                    return self._segment(session, covers, taken)
                taken.update(record)
                covers, record = at, []
            at = seq
            record.append((key, owner))
        if taken and len(taken) + len(record) > self.most:
            return self._segment(session, covers, taken)
        taken.update(record)
        return self._segment(session, self.position, taken)

    def _segment(self, session: int, covers: int, taken: dict[bytes, KeyOwner | None]) -> Segment:
        return Segment(session, 0, self.covered, covers, sorted(taken.items(), key=hash_of))

    # -- joining ----------------------------------------------------------------------------------------

    def join(self, segments: Sequence[tuple[int, int, Segment]]) -> int | None:
        """Take up the segments that are in the log, as sequence, time and segment. Returns from where on
        frames and segments have to be read to the end, and given to this fold; ``None`` if there are no keys.

        What was said up to the end of the last segment's cover is known from the segments alone. Where some
        of them came later than that, what they tell was in memory until then.
        """
        chain = _chain(segments)
        if not chain:
            return None
        self._judges_after = chain[-1][2].covers
        for seq, timestamp_ns, segment in chain:
            if seq <= self._judges_after:
                self.covered = segment.since
                self.is_open = False  # the first that is left need not be the first that was written
                self.on_segment(seq, timestamp_ns, segment)
                continue
            for key, owner in segment.entries:
                self._change(key, Said(owner, segment.covers))
        return (self.covered if self.is_open else self._judges_after) + 1


def _chain(segments: Sequence[tuple[int, int, Segment]]) -> list[tuple[int, int, Segment]]:
    """Return those that count. A log may have forgotten the oldest: then the longest chain is the right one,
    as one that does not count has none after it.
    """
    chains = [_chain_from(segments, base) for base in range(min(len(segments), _MAX_BASES))]
    return max(chains, key=len, default=[])


def _chain_from(segments: Sequence[tuple[int, int, Segment]], base: int) -> list[tuple[int, int, Segment]]:
    chain = [segments[base]]
    for found in segments[base + 1 :]:
        segment = found[2]
        if segment.since == chain[-1][2].covers and segment.covers > segment.since:
            chain.append(found)
    return chain
