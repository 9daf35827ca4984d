"""The records of an incident bundle, or its heartbeats, as a log: read from the file as they are asked for.

In memory is an index: for every so many records where they begin in the file, how new they are and which
subjects they have. So what nobody asked for is passed over without reading it.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NoReturn

import structlog

from aegisipc.eventstore.errors import AckUnknown, LogFailed
from aegisipc.eventstore.log import (
    BEGINNING,
    DEFAULT_TIMEOUT_S,
    Bounds,
    Deliver,
    Expect,
    Following,
    Record,
    Start,
)
from aegisipc.eventstore.memory import matches
from aegisipc.eventstore.replay.bundle_errors import ReadOnly
from aegisipc.eventstore.replay.bundle_files import Cursor, Entry, record_of

BLOCK_RECORDS: Final = 256
"""For so many records there is one place in the index."""

_log = structlog.get_logger("aegisipc.bundle")


class Block:
    """Some records in a row. ``newest_ns`` is the latest time of these and all before them: so the first
    record of a time or later is in the first block that is so new, even if the server's clock went back.
    """

    __slots__ = ("count", "first_seq", "newest_ns", "offset", "subjects")

    def __init__(self, first_seq: int, offset: int) -> None:
        self.first_seq = first_seq
        self.offset = offset
        self.count = 0
        self.newest_ns = 0
        self.subjects: frozenset[str] = frozenset()


class BlockIndex:
    """Where the records of one kind are in a file. Fed once, in order; then only looked at."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.blocks: list[Block] = []
        self.last_seq = 0
        self.last_ns = 0
        self._subjects: dict[str, str] = {}
        self._sets: dict[frozenset[str], frozenset[str]] = {}
        self._open: set[str] = set()

    def note(self, record: Record, offset: int) -> None:
        """A record begins at `offset`."""
        if not self.blocks or self.blocks[-1].count == BLOCK_RECORDS:
            self.seal()
            self.blocks.append(Block(record.seq, offset))
            self._open = set()
        block = self.blocks[-1]
        block.count += 1
        self.last_seq = record.seq
        self.last_ns = max(self.last_ns, record.timestamp_ns)
        block.newest_ns = self.last_ns
        self._open.add(self._subjects.setdefault(record.subject, record.subject))

    def seal(self) -> None:
        """Nothing more comes for the latest block."""
        if self.blocks:
            subjects = frozenset(self._open)
            self.blocks[-1].subjects = self._sets.setdefault(subjects, subjects)  # most blocks are alike

    def starting(self, start: Start) -> int:
        """Return the number of the first block that reading has to look at."""
        if start.time_ns is not None:
            return bisect_left(self.blocks, start.time_ns, key=_newest_ns)
        return max(0, bisect_right(self.blocks, start.seq, key=_first_seq) - 1)


def _first_seq(block: Block) -> int:
    return block.first_seq


def _newest_ns(block: Block) -> int:
    return block.newest_ns


class BundleLog:
    """A log that was exported. It is read-only, and its end never moves.

    ``roots`` are the newest records from before its first one on the subjects that compare-and-set looks at.
    """

    def __init__(
        self, path: Path, index: BlockIndex, *, first_seq: int, now_ns: int, roots: Sequence[Record] = ()
    ) -> None:
        """`now_ns` is up to when it is known that nothing else happened."""
        self._path = path
        self._index = index
        self._first_seq = first_seq
        self._now_ns = now_ns
        self.roots = tuple(roots)

    @property
    def max_record_bytes(self) -> int:
        """Nothing can be appended."""
        return 0

    async def append(
        self,
        subject: str,
        payload: bytes,  # noqa: ARG002 - part of the Log interface
        *,
        record_id: str | None = None,  # noqa: ARG002 - as above
        expect: Expect | None = None,  # noqa: ARG002 - as above
        timeout_s: float = DEFAULT_TIMEOUT_S,  # noqa: ARG002 - as above
    ) -> NoReturn:
        """Refuse it.

        Raises:
            ReadOnly: always.
        """
        raise ReadOnly(
            f"cannot append to {subject!r}: an incident bundle is only read; to go on from it, "
            "import it into a namespace of its own (aegis log import)"
        )

    async def last(self, subject: str) -> Record | None:
        """Return the last record on `subject` (which may hold wildcards), or ``None``."""
        wanted = _Filter([subject])
        for number in range(len(self._index.blocks) - 1, -1, -1):
            found: Record | None = None
            for record in self._block(number, wanted):
                found = record
            if found is not None:
                return found
        return None

    async def bounds(self) -> Bounds:
        """Return what the bundle holds; its clock stands still at the latest thing in it."""
        last_seq = self._index.last_seq or self._first_seq - 1
        return Bounds(self._first_seq, last_seq, self._now_ns)

    async def read(self, subjects: Sequence[str], *, start: Start = BEGINNING) -> AsyncGenerator[Record]:
        """Iterate over what matches any of `subjects` from `start` to the end."""
        for record in self._from(subjects, start):
            if record is None:
                await asyncio.sleep(0)  # others may want to do something, too
            else:
                yield record

    async def follow(
        self, subjects: Sequence[str], deliver: Deliver, *, start: Start = BEGINNING
    ) -> Following:
        """Deliver what matches from `start` on; nothing comes after the end."""
        return _BundleFollowing(self._from(subjects, start), deliver)

    def _from(self, subjects: Sequence[str], start: Start) -> Iterator[Record | None]:
        """Iterate over what matches; ``None`` after each block."""
        wanted = _Filter(subjects)
        is_there = start.time_ns is None
        for number in range(self._index.starting(start), len(self._index.blocks)):
            # Until the first record of that time was met, all have to be looked at, whatever their subjects.
            for record in self._block(number, wanted if is_there else None):
                is_there = is_there or record.timestamp_ns >= (start.time_ns or 0)
                if is_there and record.seq >= start.seq and wanted(record.subject):
                    yield record
            yield None

    def _block(self, number: int, wanted: _Filter | None) -> Iterator[Record]:
        block = self._index.blocks[number]
        if wanted is not None and not any(map(wanted, block.subjects)):
            return
        with self._path.open("rb") as file:
            cursor = Cursor(file, self._path, block.offset)
            left = block.count
            while left:
                entry: Entry = cursor.next()
                if entry.kind != self._index.kind:
                    continue
                left -= 1
                record = record_of(entry.parts)
                if wanted is None or wanted(record.subject):
                    yield record


class _Filter:
    """Tells which subjects match any of some patterns; it looks at each subject once."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns = tuple(patterns)
        self._known: dict[str, bool] = {}

    def __call__(self, subject: str) -> bool:
        known = self._known.get(subject)
        if known is None:
            known = self._known[subject] = any(matches(pattern, subject) for pattern in self._patterns)
        return known


class _BundleFollowing:
    """Delivers in a task of its own, as one of a server would, and is at the end then."""

    def __init__(self, records: Iterator[Record | None], deliver: Deliver) -> None:
        self._records = records
        self._deliver = deliver
        self._position = 0
        self._is_done = False
        self._failure: BaseException | None = None
        self._moved = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run())

    @property
    def position(self) -> int:
        return self._position

    @property
    def failure(self) -> BaseException | None:
        return self._failure

    async def _run(self) -> None:
        try:
            for record in self._records:
                if record is None:
                    self._tell()
                    await asyncio.sleep(0)
                else:
                    self._deliver(record)
                    self._position = record.seq
        except Exception as error:  # noqa: BLE001 - a fold that raises must not be fed on: stop here, loudly
            self._failure = error
            _log.error("follow_failed", position=self._position, exc_info=error)
        self._is_done = self._failure is None
        self._tell()

    def _tell(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()

    async def caught_up(self, timeout_s: float) -> None:
        await self._until(lambda: self._is_done, timeout_s)

    async def reached(self, seq: int, timeout_s: float) -> None:
        await self._until(lambda: self._position >= seq, timeout_s)

    async def _until(self, true: Callable[[], bool], timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                while not true():
                    if self._failure is not None:
                        raise LogFailed("cannot read the bundle: following failed") from self._failure
                    await self._moved.wait()
        except TimeoutError:
            raise AckUnknown(
                f"cannot say that the bundle was read: still at {self._position} after {timeout_s} s"
            ) from None

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


_: type[Following] = _BundleFollowing
