"""The index of idempotency keys: which call of a group has a key, for as long as the log is kept.

A key belongs to the first call in log order of which a frame says so (``KEYED``), until one says that it had
no effect (``RELEASED``). The latest of these are kept in memory. Whenever enough have gathered, the holder of
the pen writes them to the log as a *segment*, sorted; from then on eight bytes of each key are kept: they
tell at once that a key was never seen, and of one that was, in which segment. So the index of a million keys
takes about 8 MB, and is rebuilt by reading its segments, not the calls.

A hundred million keys would take 800 MB; whoever has room for that on disk rather than in memory lets large
parts of the index go there (``spill``).
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import msgpack  # type: ignore[import-untyped]

from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.eventstore.ids import SESSION_BITS, CallId

HASH_BYTES: Final = 16
SEGMENT_TYPE: Final = "keys.v1"
SEGMENT_KEYS: Final = 16_384
"""How many keys gather before they become a segment."""
MAX_SEGMENTS: Final = 1 << 16

_ENTRY: Final = 3 * HASH_BYTES
_NOBODY: Final = bytes(HASH_BYTES)
_MAX_TIER: Final = 16 * SEGMENT_KEYS
_COUNTER_END: Final = 1 << 63

type Spill = Callable[[array[int]], Sequence[int]]
"""Puts a sorted array somewhere else, and returns it as a sequence."""


class KeyOwner(NamedTuple):
    """The call that has a key, and the digest of its payload."""

    call_id: CallId
    digest: bytes


class Elsewhere(NamedTuple):
    """The segments that may tell who has a key, by their sequences, newest first: the first one that says
    something of the key is right, and nobody has it if none does.
    """

    segments: Sequence[int]


class Segment(NamedTuple):
    """A part of the index: all that frames said of keys after the record ``since`` and up to ``covers``.

    ``entries`` are sorted by the key's hash; the owner is ``None`` for a key that is free again.
    """

    session: int
    epoch: int
    since: int
    covers: int
    entries: Sequence[tuple[bytes, KeyOwner | None]]


def key_hash(key: str) -> bytes:
    """Return what stands for a key in the index: 16 bytes."""
    return hashlib.blake2b(key.encode(), digest_size=HASH_BYTES).digest()


def payload_digest(method: str, resource: str | None, body: bytes) -> bytes:
    """Return a digest of what a call asks for: 16 bytes. `body` holds the encoded arguments; if they lie in
    the object store, give their digest there.
    """
    digest = hashlib.blake2b(digest_size=HASH_BYTES)
    for part in (method.encode(), b"" if resource is None else b"=" + resource.encode()):
        digest.update(len(part).to_bytes(4))
        digest.update(part)
    digest.update(body)
    return digest.digest()


def keyed_body(key: bytes, digest: bytes) -> bytes:
    """Return the body of a ``KEYED`` fact."""
    return key + digest


def read_keyed(body: bytes | None, call_id: CallId) -> tuple[bytes, KeyOwner] | None:
    """Read the body of a ``KEYED`` fact of the call: the key's hash, and its owner; ``None`` if it is bad."""
    if body is None or len(body) != 2 * HASH_BYTES:
        return None
    return body[:HASH_BYTES], KeyOwner(call_id, body[HASH_BYTES:])


def encode_segment(segment: Segment) -> bytes:
    """Return the record payload."""
    blob = b"".join(
        key + (owner.call_id + owner.digest if owner is not None else _NOBODY + _NOBODY)
        for key, owner in segment.entries
    )
    head = [SEGMENT_TYPE, segment.session, segment.epoch, segment.since, segment.covers]
    packed: bytes = msgpack.packb([*head, blob])
    return packed


def decode_segment(payload: bytes) -> Segment:
    """Read a segment.

    Raises:
        MalformedPayload: it is none.
    """
    try:
        found, session, epoch, since, covers, blob = msgpack.unpackb(payload, max_array_len=6, max_map_len=0)
        _require(found == SEGMENT_TYPE and type(blob) is bytes, "its type is another")
        _require(len(blob) % _ENTRY == 0, "it is cut off")
        for number, end in ((session, 1 << SESSION_BITS), (epoch, _COUNTER_END), (covers, _COUNTER_END)):
            _require(type(number) is int and 0 <= number < end, "a number is out of range")
        _require(type(since) is int and 0 <= since <= covers, "it covers nothing")
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise MalformedPayload(f"cannot read a segment of keys: {error}") from error
    return Segment(session, epoch, since, covers, [_entry(blob, at) for at in range(0, len(blob), _ENTRY)])


def _entry(blob: bytes, at: int) -> tuple[bytes, KeyOwner | None]:
    key, call_id = blob[at : at + HASH_BYTES], blob[at + HASH_BYTES : at + 2 * HASH_BYTES]
    return key, None if call_id == _NOBODY else KeyOwner(call_id, blob[at + 2 * HASH_BYTES : at + _ENTRY])


def find_in(segment: Segment, key: bytes) -> tuple[bool, KeyOwner | None]:
    """Tell whether the segment says something of a key (by its hash), and what."""
    at = bisect_left(segment.entries, key, key=hash_of)
    if at < len(segment.entries) and segment.entries[at][0] == key:
        return True, segment.entries[at][1]
    return False, None


class KeyIndex:
    """The fold. ``covered`` is the sequence up to which segments tell of every key; ``segments`` says where
    they stand in the log, oldest first.
    """

    __slots__ = ("_spill", "_tiers", "covered", "recent", "segments")

    def __init__(self, spill: Spill | None = None) -> None:
        self.recent: dict[bytes, KeyOwner | None] = {}
        """What no segment has yet; ``None`` for a key that is free again."""
        self.segments: list[int] = []
        self.covered = 0
        self._tiers: list[Sequence[int]] = []
        self._spill: Spill = spill or _keep

    def __len__(self) -> int:
        """How many entries there are; a key that was taken, freed and taken again has three."""
        return len(self.recent) + sum(len(tier) for tier in self._tiers)

    def own(self, key: bytes, owner: KeyOwner) -> None:
        """A frame says that a key (by its hash) belongs to a call. Whether it counts is judged before."""
        self.recent[key] = owner

    def release(self, key: bytes, call_id: CallId) -> None:
        """A frame says that the call that has the key had no effect."""
        owner = self.recent.get(key)
        if owner is not None and owner.call_id != call_id:
            return  # it is another call's by now
        if owner is not None and not self._seen_in(key):
            del self.recent[key]
        else:
            self.recent[key] = None

    def find(self, key: bytes) -> KeyOwner | Elsewhere | None:
        """Return who has a key (by its hash): its owner, ``None`` for nobody, or where that can be read."""
        if key in self.recent:
            return self.recent[key]
        seen = self._seen_in(key)
        return Elsewhere([self.segments[number] for number in seen]) if seen else None

    def _seen_in(self, key: bytes) -> list[int]:
        """Return the numbers of the segments that seem to have a key, newest first."""
        low = _fingerprint(key, 0)
        high = low + MAX_SEGMENTS
        found: list[int] = []
        for tier in self._tiers:
            at = bisect_left(tier, low)
            while at < len(tier) and tier[at] < high:
                found.append(tier[at] - low)
                at += 1
        return sorted(found, reverse=True)

    def next_segment(self, session: int, epoch: int, position: int, most: int = SEGMENT_KEYS) -> Segment:
        """Return the segment of all that is in memory, or of the `most` oldest ones of more; then it covers
        nothing new. `position` is the sequence of the last record that was folded.
        """
        taken = list(self.recent.items())[:most]
        covers = position if len(taken) == len(self.recent) else self.covered
        return Segment(session, epoch, self.covered, covers, sorted(taken, key=hash_of))

    def on_segment(self, seq: int, segment: Segment) -> None:
        """A segment stands at `seq` in the log. One that covers less than those before it does not count: who
        wrote it did not know them yet.
        """
        is_known = bool(self.segments) and seq <= self.segments[-1]
        if is_known or segment.covers < self.covered or len(self.segments) >= MAX_SEGMENTS:
            return
        number = len(self.segments)
        self.segments.append(seq)
        if segment.since <= self.covered:
            self.covered = max(self.covered, segment.covers)
        recent = self.recent
        for key, owner in segment.entries:
            if key in recent and recent[key] == owner:
                del recent[key]
        self._add(array("Q", sorted(_fingerprint(key, number) for key, _ in segment.entries)))

    def _add(self, tier: array[int]) -> None:
        tiers = self._tiers
        while tiers and isinstance(tiers[-1], array) and len(tiers[-1]) <= len(tier) < _MAX_TIER:
            tier = array("Q", sorted([*tiers.pop(), *tier]))
        tiers.append(self._spill(tier) if len(tier) >= _MAX_TIER else tier)

    def dump(self) -> list[Any]:
        """Return what a snapshot needs beside the segments: what is in memory alone."""
        return [
            self.covered,
            [[key, *(owner or (_NOBODY, _NOBODY))] for key, owner in self.recent.items()],
        ]

    def load(self, plain: list[Any]) -> None:
        """Take up what :meth:`dump` gave; the segments up to there were given before.

        Raises:
            ValueError, TypeError: it does not hold together. Then the index is as it was.
        """
        covered, recent = plain
        loaded = {_hash(key): _owner(call_id, digest) for key, call_id, digest in recent}
        self.covered = max(self.covered, int(covered))
        self.recent = loaded


def _require(true: bool, what: str) -> None:  # noqa: FBT001 - reads as an assertion
    if not true:
        raise ValueError(what)


def _keep(tier: array[int]) -> Sequence[int]:
    return tier


def _fingerprint(key: bytes, number: int) -> int:
    return int.from_bytes(key[:6]) << 16 | number


def hash_of(entry: tuple[bytes, KeyOwner | None]) -> bytes:
    """Return the hash of the key in an entry: what entries are sorted by."""
    return entry[0]


def _hash(value: Any) -> bytes:
    if type(value) is not bytes or len(value) != HASH_BYTES:
        raise TypeError("not a hash")
    return value


def _owner(call_id: Any, digest: Any) -> KeyOwner | None:
    owner = KeyOwner(_hash(call_id), _hash(digest))
    return None if owner.call_id == _NOBODY else owner
