"""Finding in the log which call of a group has an idempotency key, where nobody answers who keeps an index.

The segments of the index say it for all keys up to a point; from there on the frames do. So the calls
themselves are read from that point only; where no segment was ever written, that is the beginning of the log.

In a pool many write, so which segments count, and which words, is a matter of how they follow one another
(``docs/adr/0018``). There the search keeps a worker's own index, of that one key.
"""

from __future__ import annotations

from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.eventstore.frames import Mark, decode_calls, decode_pen
from aegisipc.eventstore.ids import CallId
from aegisipc.eventstore.keys import (
    Elsewhere,
    KeyOwner,
    Segment,
    decode_segment,
    find_in,
    key_hash,
    read_keyed,
)
from aegisipc.eventstore.log import Log, Record, Start
from aegisipc.eventstore.memories import Sessions
from aegisipc.eventstore.names import POOL_GROUP
from aegisipc.eventstore.pool_keys import PoolKeys, keyed_in, released_in
from aegisipc.eventstore.subjects import CALL, CONCLUSIONS, HA, KEYS, Place, Subjects
from aegisipc.eventstore.topology import Topology

_WITHOUT_KEY = frozenset({Mark.FAILED, Mark.EXPIRED, Mark.CANCELLED, Mark.DUPLICATE})
"""A call that ends like this and has no key will never have it."""


class _Search:
    """What searches in groups and pools share: the calls that came with the key, and wait."""

    def __init__(self, subjects: Subjects, service: str, group: str, key: str) -> None:
        self._subjects = subjects
        self._service, self._group, self._key = service, group, key
        self._hash = key_hash(key)
        self._sessions = Sessions()
        self._waiting: dict[CallId, None] = {}
        self.covered = 0
        """Up to this sequence the segments tell of every key."""

    @property
    def owner(self) -> CallId | None:
        """The call that has the key. If none has it yet, the first one that came with it and waits."""
        owner = self._owner_now()
        if owner is not None:
            return owner.call_id
        return next(iter(self._waiting), None)

    def _owner_now(self) -> KeyOwner | None:
        raise NotImplementedError

    def apply(self, record: Record) -> None:
        """Fold one record."""
        try:
            place = self._subjects.parse(record.subject)
            if (place.service, place.group) == (self._service, self._group):
                self._apply(record, place)
        except MalformedPayload:
            return  # no fold can read it

    def _apply(self, record: Record, place: Place) -> None:
        raise NotImplementedError

    def _read_calls(self, record: Record) -> None:
        frame = decode_calls(record.payload, bodies=False)
        if not self._sessions.is_new(record.subject, frame.session, frame.number):
            return
        for entry in frame.entries:
            if entry.options is not None and entry.options.key == self._key:
                self._waiting[entry.call_id] = None


class KeyFold(_Search):
    """Who has one key of one owned group. Pure. Feed it with the segments first, and then with all that comes
    after ``covered``; the records of the group's fence come in both times, up to where the others are.
    """

    def __init__(self, subjects: Subjects, service: str, group: str, key: str) -> None:
        super().__init__(subjects, service, group, key)
        self._topology = Topology(subjects)
        self._owner: KeyOwner | None = None

    def _owner_now(self) -> KeyOwner | None:
        return self._owner

    def begin_again(self) -> None:
        """The segments are read: now comes what they do not cover."""
        self._topology = Topology(self._subjects)

    def _apply(self, record: Record, place: Place) -> None:
        if place.kind == HA:
            self._topology.apply(record, place)
        elif place.kind == KEYS:
            self._read_segment(record, place)
        elif record.seq <= self.covered:
            return
        elif place.kind == CALL:
            self._read_calls(record)
        elif place.kind in CONCLUSIONS:
            self._read_facts(record, place)

    def _counts(self, place: Place, epoch: int) -> bool:
        """Only the holder of the pen says anything of keys."""
        group = self._topology.group(self._service, self._group)
        return group is not None and (place.who, epoch) == (group.holder, group.epoch)

    def _read_segment(self, record: Record, place: Place) -> None:
        segment = decode_segment(record.payload)
        if not self._counts(place, segment.epoch) or segment.covers < self.covered:
            return  # as in :class:`~aegisipc.eventstore.keys.KeyIndex`
        is_there, owner = find_in(segment, self._hash)
        if is_there:
            self._owner = owner
        if segment.since <= self.covered:
            self.covered = max(self.covered, segment.covers)

    def _read_facts(self, record: Record, place: Place) -> None:
        frame = decode_pen(record.payload, bodies=False)
        if not self._counts(place, frame.epoch):
            return
        if not self._sessions.is_new(record.subject, frame.session, frame.number):
            return
        bodies = frame.bodies or (None,) * len(frame.entries)
        for (mark, call_id), body in zip(frame.entries, bodies, strict=True):
            if mark is Mark.KEYED:
                keyed = read_keyed(body, call_id)
                if keyed is not None and keyed[0] == self._hash and self._owner is None:
                    self._owner = keyed[1]
            elif mark is Mark.RELEASED and body == self._hash:
                self._release(call_id)
            elif mark in _WITHOUT_KEY:
                self._waiting.pop(call_id, None)

    def _release(self, call_id: CallId) -> None:
        self._waiting.pop(call_id, None)
        if self._owner is not None and self._owner.call_id == call_id:
            self._owner = None


class PoolKeyFold(_Search):
    """Who has one key of a pool. Pure. Feed it with the segments first (:meth:`read_segment`), and from
    :meth:`join` on with all that comes.
    """

    def __init__(self, subjects: Subjects, service: str, key: str) -> None:
        super().__init__(subjects, service, POOL_GROUP, key)
        self._keys = PoolKeys()
        self._segments: list[tuple[int, int, Segment]] = []
        self._told: dict[int, KeyOwner | None] = {}
        """What segments that tell of the key say, by where they stand."""

    def _owner_now(self) -> KeyOwner | None:
        found = self._keys.find(self._hash)
        if isinstance(found, Elsewhere):
            return next((self._told[seq] for seq in found.segments if seq in self._told), None)
        return found

    def read_segment(self, record: Record) -> None:
        """Take in a segment, before :meth:`join`."""
        try:
            self._segments.append((record.seq, record.timestamp_ns, self._of_the_key(record)))
        except MalformedPayload:
            return  # no fold can read it

    def _of_the_key(self, record: Record) -> Segment:
        """Return a segment without all that it says of other keys."""
        segment = decode_segment(record.payload)
        is_there, owner = find_in(segment, self._hash)
        if is_there:
            self._told[record.seq] = owner
        return segment._replace(entries=((self._hash, owner),) if is_there else ())

    def join(self) -> int:
        """All segments are read: returns from where on everything else is to be read."""
        start = self._keys.join(self._segments)
        self.covered = (start or 1) - 1
        self._segments.clear()
        return self.covered + 1

    def _apply(self, record: Record, place: Place) -> None:
        if place.kind == CALL:
            self._read_calls(record)
        elif place.kind == KEYS:
            self._keys.on_segment(record.seq, record.timestamp_ns, self._of_the_key(record))
        elif place.kind in CONCLUSIONS:
            self._read_facts(record, place)

    def _read_facts(self, record: Record, place: Place) -> None:
        frame = decode_pen(record.payload, bodies=False)
        if not self._sessions.is_new(record.subject, frame.session, frame.number):
            return
        bodies = frame.bodies or (None,) * len(frame.entries)
        for (mark, call_id), body in zip(frame.entries, bodies, strict=True):
            if mark is Mark.KEYED:
                keyed = keyed_in(body)
                if keyed is not None and keyed.key == self._hash:
                    self._keys.on_keyed(call_id, body, record.seq, place.who, frame.session)
            elif mark is Mark.RELEASED:
                released = released_in(body)
                if released is not None and released.key == self._hash:
                    self._keys.on_released(call_id, body, record.seq)
                    self._waiting.pop(call_id, None)
            elif mark in _WITHOUT_KEY:
                self._waiting.pop(call_id, None)


async def find_key(log: Log, subjects: Subjects, service: str, group: str, key: str) -> CallId | None:
    """Return the call that has the key, or else the first one that came with it and waits; ``None``: there is
    none.

    Raises:
        AegisError: the log cannot be read now.
    """
    if group == POOL_GROUP:
        return await _find_in_pool(log, subjects, service, key)
    fold = KeyFold(subjects, service, group, key)
    fence = subjects.fence(service, group)
    async for record in log.read([fence, subjects.of_kind(service, group, KEYS)]):
        fold.apply(record)
    fold.begin_again()
    async for record in log.read([fence]):  # who held the pen from there on
        if record.seq > fold.covered:
            break
        fold.apply(record)
    kinds = [subjects.of_kind(service, group, CALL), *subjects.conclusions(service, group)]
    async for record in log.read([fence, *kinds], start=Start(fold.covered + 1)):
        fold.apply(record)
    return fold.owner


async def _find_in_pool(log: Log, subjects: Subjects, service: str, key: str) -> CallId | None:
    fold = PoolKeyFold(subjects, service, key)
    segments = subjects.of_kind(service, POOL_GROUP, KEYS)
    async for record in log.read([segments]):
        fold.read_segment(record)
    kinds = [subjects.of_kind(service, POOL_GROUP, CALL), *subjects.conclusions(service, POOL_GROUP)]
    async for record in log.read([segments, *kinds], start=Start(fold.join())):
        fold.apply(record)
    return fold.owner
