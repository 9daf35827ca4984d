"""An in-memory log, the twin of the JetStream one: for tests of the core and for simulation."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Sequence

import structlog

from aegisipc.eventstore.errors import AckUnknown, LogFailed, LogFull, PayloadTooLarge, WrongSequence
from aegisipc.eventstore.log import (
    BEGINNING,
    DEFAULT_TIMEOUT_S,
    Appended,
    Bounds,
    Deliver,
    Expect,
    Following,
    Record,
    Start,
)

_log = structlog.get_logger("aegisipc.log")


def matches(pattern: str, subject: str) -> bool:
    """Tell whether `subject` matches a NATS subject filter (``*`` one token, a final ``>`` one or more)."""
    wanted, given = pattern.split("."), subject.split(".")
    for i, token in enumerate(wanted):
        if token == ">":  # noqa: S105 - of a subject
            return len(given) > i
        if i >= len(given) or token not in ("*", given[i]):
            return False
    return len(wanted) == len(given)


class MemoryLog:
    """A log that lives in this process. `now_ns` is its clock; limits are in bytes of payload.

    Like a single server, it checks an expectation before it looks for the record id: a retry of a stored
    record whose expectation is used up raises ``WrongSequence``. With `replicated` it answers as a cluster
    does: a duplicate.
    """

    def __init__(
        self,
        now_ns: Callable[[], int],
        *,
        max_record_bytes: int = 1 << 20,
        max_log_bytes: int = 1 << 40,
        dedup_window: int = 10_000,
        replicated: bool = False,
    ) -> None:
        self._now_ns = now_ns
        self._max_record_bytes = max_record_bytes
        self._max_log_bytes = max_log_bytes
        self._dedup_window = dedup_window
        self._replicated = replicated
        self._records: list[Record] = []
        self._last_on: dict[str, int] = {}
        self._seen: OrderedDict[str, int] = OrderedDict()
        self._bytes = 0
        self._followers: list[_MemoryFollowing] = []

    @property
    def max_record_bytes(self) -> int:
        """Largest payload that :meth:`append` takes."""
        return self._max_record_bytes

    async def append(
        self,
        subject: str,
        payload: bytes,
        *,
        record_id: str | None = None,
        expect: Expect | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,  # noqa: ARG002 - part of the Log interface; memory never waits
    ) -> Appended:
        """Store one record; see :class:`~aegisipc.eventstore.log.Log`."""
        if len(payload) > self._max_record_bytes:
            raise PayloadTooLarge(
                f"cannot append {len(payload)} bytes: the limit is {self._max_record_bytes}",
                size_bytes=len(payload),
                limit_bytes=self._max_record_bytes,
            )
        known = self._seen.get(record_id) if record_id is not None else None
        if expect is not None and not (known and self._replicated):
            self._check(subject, expect)
        if known:
            return Appended(known, duplicate=True)
        if self._bytes + len(payload) > self._max_log_bytes:
            raise LogFull("cannot append: the log is full; raise its size limit or shorten its retention")
        record = Record(len(self._records) + 1, subject, payload, self._now_ns())
        self._records.append(record)
        self._bytes += len(payload)
        self._last_on[subject] = record.seq
        if record_id is not None:
            self._seen[record_id] = record.seq
            if len(self._seen) > self._dedup_window:
                self._seen.popitem(last=False)
        for follower in list(self._followers):
            follower.wake()
        return Appended(record.seq, duplicate=False)

    def _check(self, subject: str, expect: Expect) -> None:
        guarded = expect.subject or subject
        found = self._last_on.get(guarded, 0)
        if found != expect.seq:
            raise WrongSequence(
                f"cannot append: {guarded!r} is at sequence {found}, not {expect.seq}",
                subject=guarded,
                expected=expect.seq,
            )

    async def last(self, subject: str) -> Record | None:
        """Return the last record on `subject`, or ``None``."""
        found = max((seq for on, seq in self._last_on.items() if matches(subject, on)), default=0)
        return self._records[found - 1] if found else None

    async def bounds(self) -> Bounds:
        """Return what the log holds."""
        return Bounds(1, len(self._records), self._now_ns())

    async def read(self, subjects: Sequence[str], *, start: Start = BEGINNING) -> AsyncGenerator[Record]:
        """Iterate over what matches from `start` to the end as of now."""
        end = len(self._records)
        for record in self._records[self._first(start) - 1 : end]:
            if any(matches(pattern, record.subject) for pattern in subjects):
                yield record

    async def follow(
        self, subjects: Sequence[str], deliver: Deliver, *, start: Start = BEGINNING
    ) -> Following:
        """Deliver what matches from `start` on, and then what is appended."""
        following = _MemoryFollowing(self, tuple(subjects), deliver, self._first(start))
        self._followers.append(following)
        following.wake()
        return following

    def _first(self, start: Start) -> int:
        if start.time_ns is None:
            return max(1, start.seq)
        return next((r.seq for r in self._records if r.timestamp_ns >= start.time_ns), len(self._records) + 1)

    def records_from(self, seq: int) -> Sequence[Record]:
        """Return the records from `seq` on."""
        return self._records[seq - 1 :]

    def detach(self, following: _MemoryFollowing) -> None:
        """Forget a follower that stopped."""
        if following in self._followers:
            self._followers.remove(following)


class _MemoryFollowing:
    """One follower. Delivery happens in a task of its own, never inside append, as with a real server."""

    def __init__(self, log: MemoryLog, subjects: tuple[str, ...], deliver: Deliver, next_seq: int) -> None:
        self._log = log
        self._subjects = subjects
        self._deliver = deliver
        self._next = next_seq
        self._end_at_start = len(log.records_from(1))
        self._position = 0
        self._wakeup = asyncio.Event()
        self._moved = asyncio.Event()
        self._failure: BaseException | None = None
        self._task = asyncio.get_running_loop().create_task(self._run())

    @property
    def position(self) -> int:
        return self._position

    @property
    def failure(self) -> BaseException | None:
        return self._failure

    def wake(self) -> None:
        self._wakeup.set()

    async def _run(self) -> None:
        while self._failure is None:
            await self._wakeup.wait()
            self._wakeup.clear()
            try:
                self._deliver_new()
            except Exception as error:  # noqa: BLE001 - a fold that raises must not be fed on: stop here, loudly
                self._failure = error
                self._log.detach(self)
                _log.error("follow_failed", position=self._position, exc_info=error)
            self._moved.set()
            self._moved.clear()

    def _deliver_new(self) -> None:
        for record in self._log.records_from(self._next):
            if any(matches(pattern, record.subject) for pattern in self._subjects):
                self._deliver(record)
                self._position = record.seq
            self._next = record.seq + 1

    async def caught_up(self, timeout_s: float) -> None:
        await self._until(lambda: self._next > self._end_at_start, timeout_s)

    async def reached(self, seq: int, timeout_s: float) -> None:
        await self._until(lambda: self._position >= seq, timeout_s)

    async def _until(self, true: Callable[[], bool], timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                while not true():
                    if self._failure is not None:
                        raise LogFailed("cannot read the log: following failed") from self._failure
                    await self._moved.wait()
        except TimeoutError:
            raise AckUnknown(
                f"cannot say that the log was read: still at {self._position} after {timeout_s} s"
            ) from None

    async def stop(self) -> None:
        self._log.detach(self)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
