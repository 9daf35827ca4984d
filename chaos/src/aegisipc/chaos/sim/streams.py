"""One modelled stream: its messages, its memory of message ids, its checks, and what is on its way to disk.

Writes take their turn, and each takes its time: what waits is in the server's memory only, and reads do not
see it. One server checks a write when its turn comes; a replicated stream when it arrives, and refuses
what it cannot decide yet because another write on that subject, or with that id, is still on its way.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from aegisipc.chaos.sim.subscriptions import matching

if TYPE_CHECKING:
    from aegisipc.chaos.sim.consumers import Consumer
    from aegisipc.chaos.sim.jetstream import JetStream

_NS: Final = 1_000_000_000
_NO_TIME: Final = "0001-01-01T00:00:00Z"
_OVERHEAD: Final = 30
"""What a stored message takes beside its subject and payload, in bytes; headers take 4 more."""

_ID: Final = "Nats-Msg-Id"
_WANTED: Final = "Nats-Expected-Last-Subject-Sequence"
_GUARDED: Final = "Nats-Expected-Last-Subject-Sequence-Subject"


@lru_cache(maxsize=1 << 10)
def _second_text(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


def time_text(time_ns: int) -> str:
    """Return a time as the server writes it; runs last seconds, so that few have to be worked out."""
    seconds, fraction = divmod(time_ns, _NS)
    return f"{_second_text(seconds)}.{fraction:09}Z"


class Stored(NamedTuple):
    """A message in a stream."""

    seq: int
    subject: str
    headers: bytes
    payload: bytes
    time_ns: int
    message_id: str | None

    @property
    def size(self) -> int:
        """How many bytes it takes on disk."""
        headers = len(self.headers)
        return _OVERHEAD + len(self.subject) + len(self.payload) + (headers + 4 if headers else 0)


class Refused(Exception):
    """A publish or a request that is refused, in the words of the server."""

    def __init__(self, code: int, err_code: int, description: str) -> None:
        super().__init__(description)
        self.code, self.err_code, self.description = code, err_code, description

    def to_plain(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {"code": self.code, "err_code": self.err_code, "description": self.description}


class Write(NamedTuple):
    """A publish that waits for its turn."""

    subject: str
    fields: Mapping[str, str]
    headers: bytes
    payload: bytes
    reply: str


class ModelStream:
    """A stream on disk: everything in ``messages`` survives the death of the server, and what is not beyond
    ``synced`` a loss of power.
    """

    def __init__(self, jetstream: JetStream, name: str, config: dict[str, Any], now_ns: int) -> None:
        self.jetstream, self.name, self.config, self.created_ns = jetstream, name, config, now_ns
        self.consumers: dict[str, Consumer] = {}
        self.messages: list[Stored | None] = []
        """By sequence, from ``base`` on; ``None`` where one was removed."""
        self.base = int(config.get("first_seq") or 1)
        self.synced = self.base - 1
        self.is_broken = False
        """Whether a storage error stopped it: it takes nothing until the server is started again."""
        self.waiting: deque[Write] = deque()
        self.free_at_s = 0.0
        """When all that waits will be written."""
        self._first = self.base
        self._count = self._bytes = 0
        self._last_ns = 0
        self._times: list[int] = []
        self._last_on: dict[str, int] = {}
        self._on: dict[str, int] = {}
        """How many messages there are by subject."""
        self._ids: dict[str, tuple[int, int]] = {}
        """Sequence and time by message id, oldest first."""
        self._interested: dict[str, tuple[Consumer, ...]] = {}
        self._discards_old = config.get("discard", "old") == "old"
        self._max_bytes = int(config.get("max_bytes") or -1)
        self._max_age_ns = int(config.get("max_age") or 0)
        self._window_ns = int(config.get("duplicate_window") or 120e9)

    # -- reading ----------------------------------------------------------------------------------------

    @property
    def first_seq(self) -> int:
        """The sequence of the first message that is there, or of the next one if none is."""
        return self._first

    @property
    def last_seq(self) -> int:
        """The sequence of the last message; before the first, one less than what that will have."""
        return self.base + len(self.messages) - 1

    def at(self, seq: int) -> Stored | None:
        """Return the message at a sequence."""
        place = seq - self.base
        return self.messages[place] if 0 <= place < len(self.messages) else None

    def last(self, pattern: str) -> Stored | None:
        """Return the last message whose subject matches."""
        seq = self._last_on.get(pattern)
        if seq is None and ("*" in pattern or ">" in pattern):
            seq = max((s for subject, s in self._last_on.items() if matching(pattern, subject)), default=None)
        return None if seq is None else self.at(seq)

    def first_on(self, pattern: str) -> int:
        """Return the sequence of the first message whose subject matches, or the next one if none does."""
        found = (m.seq for m in self.messages if m is not None and matching(pattern, m.subject))
        return next(found, self.last_seq + 1)

    def first_from(self, time_ns: int) -> int:
        """Return the sequence of the first message that is not older than a time."""
        return self.base + bisect_left(self._times, time_ns)

    def state(self, wanted: str | None) -> dict[str, Any]:
        """What ``STREAM.INFO`` says of it."""
        self.expire()
        first = self.at(self._first)
        is_untouched = not self.messages and self.base == 1
        state: dict[str, Any] = {
            "messages": self._count,
            "bytes": self._bytes,
            "first_seq": 0 if is_untouched else self._first,
            "first_ts": time_text(first.time_ns) if first is not None else _NO_TIME,
            "last_seq": self.last_seq,
            "last_ts": time_text(self._last_ns) if self._last_ns else _NO_TIME,
            "consumer_count": len(self.consumers),
        }
        holes = self.last_seq - self._first + 1 - self._count
        if holes > 0:
            state["num_deleted"] = holes
        if self._on:
            state["num_subjects"] = len(self._on)
        if wanted is not None:
            subjects = {subject: count for subject, count in self._on.items() if matching(wanted, subject)}
            if subjects:
                state["subjects"] = subjects
        return state

    # -- writing ----------------------------------------------------------------------------------------

    def check_arrival(self, write: Write) -> int | None:
        """Check a write to a replicated stream; returns the sequence if it was stored before.

        Raises:
            Refused: it is not stored.
        """
        self._check_name(write.fields)
        message_id = write.fields.get(_ID)
        if message_id is not None:
            known = self._known(message_id)
            if known is not None:
                return known
            if any(other.fields.get(_ID) == message_id for other in self.waiting):
                raise Refused(409, 10158, "duplicate message id is in process")
        if _WANTED in write.fields:
            guarded = write.fields.get(_GUARDED, write.subject)
            if any(guarded in (other.subject, other.fields.get(_GUARDED)) for other in self.waiting):
                raise Refused(400, 10164, "wrong last sequence")
        self._check(write)
        return None

    def store(self, write: Write) -> tuple[int, bool]:
        """Store a message; returns its sequence, and whether it had been stored before.

        Raises:
            Refused: it is not stored.
        """
        if self.jetstream.is_failing or self.is_broken:
            self.is_broken = True
            raise Refused(503, 10077, "error opening msg block file: input/output error")
        message_id = write.fields.get(_ID)
        if self.jetstream.replicas == 1:
            self._check(write)
            known = None if message_id is None else self._known(message_id)
            if known is not None:
                return known, True
        now_ns = self.jetstream.now_ns()
        seq = self.last_seq + 1
        stored = Stored(seq, write.subject, write.headers, write.payload, now_ns, message_id)
        self._make_room(stored.size)
        self._append(stored)
        if self.jetstream.syncs:
            self.synced = seq
        return seq, False

    def _append(self, stored: Stored) -> None:
        seq, subject = stored.seq, stored.subject
        if not self._count:
            self._first = seq
        self.messages.append(stored)
        self._times.append(stored.time_ns)
        self._last_ns = stored.time_ns
        self._count += 1
        self._bytes += stored.size
        self._last_on[subject] = seq
        self._on[subject] = self._on.get(subject, 0) + 1
        if stored.message_id is not None:
            self._ids[stored.message_id] = seq, stored.time_ns

    def _make_room(self, size: int) -> None:
        if self.jetstream.is_full:
            raise Refused(503, 10023, "insufficient resources")
        if self._max_age_ns:
            self.expire()
        if self._max_bytes < 0 or self._bytes + size <= self._max_bytes:
            return
        if not self._discards_old:
            raise Refused(503, 10077, "maximum bytes exceeded")
        while self._count and self._bytes + size > self._max_bytes:
            self._remove(self._first)

    def _check(self, write: Write) -> None:
        fields = write.fields
        if not fields:
            return
        self._check_name(fields)
        wanted = fields.get(_WANTED)
        if not wanted:
            if _GUARDED in fields:
                raise Refused(400, 10193, "missing sequence for expected last sequence per subject")
            return
        last = self.last(fields.get(_GUARDED, write.subject))
        found = last.seq if last is not None else 0
        if not wanted.isdigit() or found != int(wanted):
            raise Refused(400, 10071, f"wrong last sequence: {found}")

    def _check_name(self, fields: Mapping[str, str]) -> None:
        expected = fields.get("Nats-Expected-Stream")
        if expected is not None and expected != self.name:
            raise Refused(400, 10060, "expected stream does not match")

    def _known(self, message_id: str) -> int | None:
        oldest_ns = self.jetstream.now_ns() - self._window_ns
        while self._ids:
            first = next(iter(self._ids))
            if self._ids[first][1] >= oldest_ns:
                break
            del self._ids[first]
        known = self._ids.get(message_id)
        return None if known is None else known[0]

    def forget_all_ids(self) -> None:
        """Lose the memory of message ids, as a server can whose index was damaged."""
        self._ids.clear()

    # -- removing ---------------------------------------------------------------------------------------

    def purge(self, pattern: str | None, before_seq: int) -> int:
        """Remove messages; returns how many."""
        wanted = [
            message.seq
            for message in self.messages
            if message is not None
            and (not before_seq or message.seq < before_seq)
            and (pattern is None or matching(pattern, message.subject))
        ]
        for seq in wanted:
            self._remove(seq)
        if pattern is None and before_seq > self.last_seq + 1:
            self._skip_to(before_seq)
        for consumer in self.consumers.values():
            consumer.purged(pattern)
        return len(wanted)

    def _skip_to(self, seq: int) -> None:
        """Go on at `seq`, as a server does that is to remove what was not there yet."""
        missing = seq - 1 - self.last_seq
        self.messages += [None] * missing
        self._times += [self._last_ns] * missing
        self._first = seq

    def expire(self) -> None:
        """Remove what is older than it may be."""
        if self._max_age_ns:
            first = self.first_from(self.jetstream.now_ns() - self._max_age_ns)
            while self._count and self._first < first:
                self._remove(self._first)

    def _remove(self, seq: int) -> None:
        place = seq - self.base
        message = self.messages[place]
        if message is None:
            return
        self.messages[place] = None
        self._count -= 1
        self._bytes -= message.size
        subject = message.subject
        self._on[subject] -= 1
        if not self._on[subject]:
            del self._on[subject], self._last_on[subject]
        elif self._last_on[subject] == seq:
            self._last_on[subject] = next(
                m.seq for m in reversed(self.messages[:place]) if m is not None and m.subject == subject
            )
        while self._first <= self.last_seq and self.messages[self._first - self.base] is None:
            self._first += 1

    # -- consumers --------------------------------------------------------------------------------------

    def kick(self, seq: int) -> None:
        """Let consumers send message `seq`, which is there now."""
        stored = self.at(seq)
        if stored is None:
            return
        interested = self._interested.get(stored.subject)
        if interested is None:
            interested = self._interested[stored.subject] = tuple(
                consumer for consumer in self.consumers.values() if consumer.wants(stored.subject)
            )
        for consumer in interested:
            consumer.arrived(seq)

    def kick_all(self) -> None:
        """Let consumers send whatever is there now."""
        for consumer in self.consumers.values():
            consumer.arrived(self.last_seq)

    def consumers_changed(self) -> None:
        """There is another consumer, or one less."""
        self._interested.clear()

    # -- life -------------------------------------------------------------------------------------------

    def crash(self, *, loses_power: bool) -> None:
        """The server died; memory is gone. Of the first write that waits nobody knows whether it was done."""
        self.settle(1)
        if loses_power:
            self._lose_tail(
                self.jetstream.server.random.randint(min(self.synced, self.last_seq), self.last_seq)
            )
        self._ids = {key: value for key, value in self._ids.items() if self.at(value[0]) is not None}
        for name, consumer in list(self.consumers.items()):
            if not consumer.crash():
                self.consumers.pop(name, None)
        self.consumers_changed()

    def settle(self, most: int) -> None:
        """Store a random part of what waits, at most so many, without a word; the rest is gone."""
        kept = self.jetstream.server.random.randint(0, min(most, len(self.waiting)))
        for write in list(self.waiting)[:kept]:
            try:
                self.store(write)
            except Refused:
                continue
        self.waiting.clear()
        self.free_at_s = 0.0

    def _lose_tail(self, last: int) -> None:
        for seq in range(self.last_seq, last, -1):
            self._remove(seq)
            self.messages.pop()
            self._times.pop()
        self._first = min(self._first, self.last_seq + 1)

    def recover(self) -> None:
        """The server started again: what is on its disk is there."""
        self.synced = self.last_seq
        self.is_broken = False
        for consumer in list(self.consumers.values()):
            consumer.recover()

    def end(self) -> None:
        """It was deleted."""
        self.waiting.clear()
        for consumer in list(self.consumers.values()):
            consumer.end("Consumer Deleted")
        self.consumers.clear()
