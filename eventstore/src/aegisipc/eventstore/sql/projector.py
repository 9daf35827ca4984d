"""The projector: follows the log and keeps the read model current. It is never in the way of a call.

Rows and the place up to which the log was taken in are written in one transaction. So whenever it dies, it
goes on exactly where the database is: it takes up the state of the fold there, from a snapshot and the
records behind it, and writes on.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import structlog
from sqlalchemy import Connection

from aegisipc.eventstore import checkpoints
from aegisipc.eventstore.errors import LogFailed
from aegisipc.eventstore.following import JetStreamFollowing
from aegisipc.eventstore.jetstream import JetStreamLog
from aegisipc.eventstore.log import Bounds, Record, Start
from aegisipc.eventstore.replay.folding import fold_on
from aegisipc.eventstore.replay.sources import Source
from aegisipc.eventstore.sql import checkpointing
from aegisipc.eventstore.sql.capture import Capture
from aegisipc.eventstore.sql.checkpointing import LogName, Place
from aegisipc.eventstore.sql.engines import Database, Work
from aegisipc.eventstore.sql.errors import (
    CheckpointMoved,
    DatabaseLocked,
    DatabaseUnreachable,
    ReadModelError,
    RebuildNeeded,
    WrongLog,
)
from aegisipc.eventstore.sql.projecting import Batch, Level, Projection
from aegisipc.eventstore.sql.retention import EVERY_S, Retention, remove_old
from aegisipc.eventstore.sql.writing import write_batch
from aegisipc.eventstore.subjects import Subjects
from aegisipc.eventstore.system import SystemState

_log = structlog.get_logger("aegisipc.projector")

BATCH_ROWS: Final = 5_000
BATCH_S: Final = 0.2
_MOST_ROWS: Final = 4 * BATCH_ROWS
"""No more is folded while so much waits for the database."""
_MOST_WAITING: Final = 2_048
"""Records; if more have arrived, the server is asked to pause."""
_SLICE_S: Final = 0.005
"""How long it folds before others have their turn: it may share its event loop with a router."""
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 5.0
_ALONE_S: Final = 60.0
"""If nobody else wrote for so long, nobody else is there."""
_TELL_EVERY_S: Final = 10.0
_MAY_PASS: Final = (DatabaseLocked, DatabaseUnreachable)


@dataclass(frozen=True, slots=True)
class ProjectorOptions:
    """What the read model is to hold. While the database is locked or cannot be reached, writing is tried
    again for ``patience_s``.
    """

    level: Level = Level.ALL
    capture: Capture = field(default_factory=Capture)
    retention: Retention = field(default_factory=Retention)
    patience_s: float = 600.0


class Projector:
    """Keeps one read model. Run it with :meth:`run`; ``following`` is set once it follows the log."""

    def __init__(
        self,
        log: JetStreamLog,
        subjects: Subjects,
        name: LogName,
        database: Database,
        options: ProjectorOptions = ProjectorOptions(),
    ) -> None:
        self.options = options
        self.following = asyncio.Event()
        self.caught_up = asyncio.Event()
        self.reloads = 0
        self._subjects = subjects
        self._name = name
        self._database = database
        self._source = log
        self._place = Place(0, 0, 0)
        self._delivered = 0
        self._pending_since_ns = 0
        self._clock_ns = 0
        self._error: str | None = None

    # -- what is known ----------------------------------------------------------------------------------

    @property
    def position(self) -> int:
        """Up to where the read model is."""
        return self._place.position

    def status(self) -> dict[str, Any]:
        """Return how far it is, and how far behind: JSON-ready. ``lag_s`` is the age of the oldest record
        that has arrived and is not in the tables; ``error`` is why it does not get on now.
        """
        behind = max(0, self._delivered - self.position)
        now_ns = time.time_ns() + self._clock_ns
        lag_s = (
            max(0.0, (now_ns - self._pending_since_ns) / 1e9) if behind and self._pending_since_ns else 0.0
        )
        return {
            "database": self._database.shown,
            "level": self.options.level.value,
            "position": self.position,
            "lag_records": behind,
            "lag_s": round(lag_s, 3),
            "error": self._error,
        }

    # -- running ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the read model current until cancelled.

        Raises:
            WrongMigration, WrongNamespace, WrongLog, RebuildNeeded: the database is not the right one.
            DatabaseReadOnly, DatabaseFull, DatabaseLocked, DatabaseUnreachable: it cannot be written.
            AegisError: the log cannot be followed.
        """
        pause_s, reloaded_at = _FIRST_PAUSE_S, 0.0
        while True:
            try:
                projection = await self._take_up()
                await self._follow(projection)
            except CheckpointMoved as error:
                self.reloads += 1
                _log.warning("projector_reloads", position=self.position, error=error.message)
            # Two that run for good would take each other's place at every batch: one lets the other be.
            if time.monotonic() - reloaded_at > _ALONE_S:
                pause_s = _FIRST_PAUSE_S
            await asyncio.sleep(pause_s)
            pause_s, reloaded_at = min(_LONGEST_PAUSE_S, 2 * pause_s), time.monotonic()

    async def _take_up(self) -> Projection:
        """Return the projection as it stands where the database is."""
        level, shown, now_ns = self.options.level, self._database.shown, time.time_ns()
        self._place = await self._patiently(
            lambda connection: checkpointing.begin(connection, shown, self._name, level, now_ns),
            _MAY_PASS if self.reloads else (DatabaseLocked,),  # one that was never there is told at once
        )
        bounds = await self._source.bounds()
        self._clock_ns = bounds.now_ns - time.time_ns()
        self._check_bounds(bounds)
        known = await self._database.read(lambda connection: checkpointing.known(connection, level))
        state = await state_at(self._source, self._subjects, self._place.position)
        return Projection(state, level=level, capture=self.options.capture, known=known)

    def _check_bounds(self, bounds: Bounds) -> None:
        position, shown = self._place.position, self._database.shown
        if bounds.last_seq < position:
            raise WrongLog(
                f"cannot go on in {shown!r}: it was filled up to sequence {position}, and the log ends at "
                f"{bounds.last_seq}: it is an older copy of it; run `aegis migrate rebuild --sql URL`",
                database=shown,
            )
        if position and bounds.first_seq > position + 1:
            raise RebuildNeeded(
                f"cannot go on in {shown!r} from sequence {position}: the log begins at {bounds.first_seq} "
                "now; run `aegis migrate rebuild --sql URL`",
                database=shown,
            )

    async def _follow(self, projection: Projection) -> None:
        arrived: deque[Record] = deque()
        something = asyncio.Event()

        def deliver(record: Record) -> None:
            if not arrived:
                something.set()
            arrived.append(record)
            if self._delivered <= self.position:  # else an older one waits
                self.note_pending(record.timestamp_ns)
            self._delivered = record.seq

        start = Start(projection.state.position + 1)
        following = await self._source.follow([self._subjects.everything], deliver, start=start)
        self.following.set()
        turn = _Turn(self, projection, arrived, something, following)
        cleaning = asyncio.create_task(self._clean(), name="read model retention")
        try:
            await turn.run()
        finally:
            cleaning.cancel()
            await asyncio.gather(cleaning, return_exceptions=True)
            await following.stop()
            await turn.end()

    # -- writing ------------------------------------------------------------------------------------------

    async def write(self, batch: Batch) -> None:
        """Write a batch, and move on; see :meth:`run` for what is raised."""
        shown, former, now_ns = self._database.shown, self._place, time.time_ns()

        def work(connection: Connection) -> Place:
            place = checkpointing.advance(connection, shown, former, batch, now_ns)
            write_batch(connection, batch)
            return place

        self._place = await self._patiently(work)

    async def _patiently[T](self, work: Work[T], may_pass: tuple[type[ReadModelError], ...] = _MAY_PASS) -> T:
        """Try again while the database is locked, or not there."""
        began, pause_s, told = time.monotonic(), _FIRST_PAUSE_S, 0.0
        while True:
            try:
                done = await self._database.write(work)
            except may_pass as error:
                self._error = error.message
                waited_s = time.monotonic() - began
                if waited_s >= self.options.patience_s:
                    raise
                if not told or waited_s - told >= _TELL_EVERY_S:
                    told = max(waited_s, 1e-9)
                    _log.warning("projector_waits", error=error.message, waited_s=round(waited_s, 1))
            else:
                self._error = None
                return done
            await asyncio.sleep(pause_s)
            pause_s = min(_LONGEST_PAUSE_S, 2 * pause_s)

    async def _clean(self) -> None:
        retention = self.options.retention
        if retention == Retention():
            return
        while True:
            try:
                removed = await remove_old(self._database, retention)
                if removed:
                    _log.info("read_model_shortened", rows=removed)
            except ReadModelError as error:  # the next batch meets it, too, and says so
                _log.warning("cannot_shorten_read_model", error=error.message)
            await asyncio.sleep(EVERY_S)

    def note_pending(self, first_ns: int) -> None:
        """The oldest record that is not in the tables is of that time."""
        self._pending_since_ns = first_ns


class _Turn:
    """Following from one place on: folds what arrives, and writes it in batches, one at a time. While one is
    written, the next is folded.
    """

    def __init__(
        self,
        projector: Projector,
        projection: Projection,
        arrived: deque[Record],
        something: asyncio.Event,
        following: JetStreamFollowing,
    ) -> None:
        self._projector = projector
        self._projection = projection
        self._arrived = arrived
        self._something = something
        self._following = following
        self._writing: asyncio.Task[None] | None = None
        self._began = 0.0

    async def run(self) -> None:
        while True:
            if self._following.failure is not None:
                raise LogFailed("cannot follow the log any more") from self._following.failure
            self._fold_some()
            await self._write_if_due()
            if self._following.is_caught_up and not self._arrived:
                self._projector.caught_up.set()
            if self._arrived:
                await asyncio.sleep(0)
            else:
                await self._wait()

    async def end(self) -> None:
        """What is being written is finished or given up: whatever becomes of it, the database knows."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)

    def _fold_some(self) -> None:
        arrived, fold, batch = self._arrived, self._projection.fold, self._projection.batch
        if len(arrived) > _MOST_WAITING:
            self._following.hold()
        until = time.perf_counter() + _SLICE_S
        if arrived and not batch.records:
            self._began = time.monotonic()
        while arrived and batch.rows < _MOST_ROWS and time.perf_counter() < until:
            fold(arrived.popleft())
        if len(arrived) <= _MOST_WAITING // 2:
            self._following.release()

    async def _write_if_due(self) -> None:
        if self._writing is not None and self._writing.done():
            writing, self._writing = self._writing, None
            await writing
        batch = self._projection.batch
        if not batch.records:
            return
        due = batch.rows >= BATCH_ROWS or time.monotonic() - self._began >= BATCH_S
        if due and self._writing is not None and batch.rows >= _MOST_ROWS:
            self._following.hold()  # nobody looks how much arrives meanwhile
            await asyncio.wait({self._writing})
            return
        if self._writing is None:
            self._projector.note_pending(batch.first_ns)
            if due:
                taken = self._projection.take()
                self._writing = asyncio.create_task(self._projector.write(taken), name="read model write")
                self._writing.add_done_callback(lambda _: self._something.set())

    async def _wait(self) -> None:
        """Until something arrives, or what was gathered is due, or was written."""
        due_s = self._began + BATCH_S - time.monotonic() if self._projection.batch.records else BATCH_S
        with suppress(TimeoutError):
            async with asyncio.timeout(max(_SLICE_S, due_s)):
                await self._something.wait()
        self._something.clear()


async def state_at(log: JetStreamLog, subjects: Subjects, position: int) -> SystemState:
    """Return the state of the fold after the record `position`: from the newest snapshot before it, and what
    follows that.
    """
    if position == 0:
        return await checkpoints.beginning(log, subjects)
    state = await checkpoints.newest(log, subjects, until_seq=position)
    return await fold_on(Source(log, subjects, subjects.stream), state, position)
