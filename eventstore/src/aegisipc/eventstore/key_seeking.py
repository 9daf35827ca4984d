"""Finding in the log which call of a group has an idempotency key, where nobody answers who keeps an index.

The segments of the index say it for all keys up to a point; from there on the frames do. So the calls
themselves are read from that point only; where no segment was ever written, that is the beginning of the log.
"""

from __future__ import annotations

from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.eventstore.frames import Mark, decode_calls, decode_pen
from aegisipc.eventstore.ids import CallId
from aegisipc.eventstore.keys import KeyOwner, decode_segment, find_in, key_hash, read_keyed
from aegisipc.eventstore.log import Log, Record, Start
from aegisipc.eventstore.memories import Sessions
from aegisipc.eventstore.names import POOL_GROUP
from aegisipc.eventstore.subjects import CALL, CONCLUSIONS, HA, KEYS, Place, Subjects
from aegisipc.eventstore.topology import Topology

_WITHOUT_KEY = frozenset({Mark.FAILED, Mark.EXPIRED, Mark.CANCELLED})
"""A call that ends like this and has no key will never have it."""


class KeyFold:
    """Who has one key of one group. Pure. Feed it with the segments first, and then with all that comes after
    ``covered``; the records of the group's fence come in both times, up to where the others are.
    """

    def __init__(self, subjects: Subjects, service: str, group: str, key: str) -> None:
        self._subjects = subjects
        self._service, self._group, self._key = service, group, key
        self._hash = key_hash(key)
        self._sessions = Sessions()
        self._topology = Topology(subjects)
        self._owner: KeyOwner | None = None
        self._waiting: dict[CallId, None] = {}
        self.covered = 0
        """Up to this sequence the segments tell of every key."""

    @property
    def owner(self) -> CallId | None:
        """The call that has the key. If none has it yet, the first one that came with it and waits."""
        if self._owner is not None:
            return self._owner.call_id
        return next(iter(self._waiting), None)

    def begin_again(self) -> None:
        """The segments are read: now comes what they do not cover."""
        self._topology = Topology(self._subjects)

    def apply(self, record: Record) -> None:
        """Fold one record."""
        try:
            place = self._subjects.parse(record.subject)
            if (place.service, place.group) != (self._service, self._group):
                return
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
        except MalformedPayload:
            return  # no fold can read it

    def _counts(self, place: Place, epoch: int) -> bool:
        """In an owned group only the holder of the pen says anything of keys."""
        if self._group == POOL_GROUP:
            return True
        group = self._topology.group(self._service, self._group)
        return group is not None and (place.who, epoch) == (group.holder, group.epoch)

    def _read_segment(self, record: Record, place: Place) -> None:
        segment = decode_segment(record.payload)
        if not self._counts(place, segment.epoch):
            return
        is_there, owner = find_in(segment, self._hash)
        if is_there:
            self._owner = owner
        if segment.since <= self.covered:
            self.covered = max(self.covered, segment.covers)

    def _read_calls(self, record: Record) -> None:
        frame = decode_calls(record.payload, bodies=False)
        if not self._sessions.is_new(record.subject, frame.session, frame.number):
            return
        for entry in frame.entries:
            if entry.options is not None and entry.options.key == self._key:
                self._waiting[entry.call_id] = None

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


async def find_key(log: Log, subjects: Subjects, service: str, group: str, key: str) -> CallId | None:
    """Return the call that has the key, or else the first one that came with it and waits; ``None``: there is
    none.

    Raises:
        AegisError: the log cannot be read now.
    """
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
