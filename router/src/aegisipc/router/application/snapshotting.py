"""Snapshots of the whole system: a router begins with the newest, and the leader writes new ones.

They only save time at a start. So nothing that goes wrong with them is allowed to hurt: it is logged,
counted, and tried again later.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import structlog

from aegisipc.eventstore import checkpoints
from aegisipc.eventstore.checkpoints import SkippedSnapshot
from aegisipc.eventstore.errors import AegisError, MalformedPayload, WrongSequence
from aegisipc.eventstore.log import Log, Record
from aegisipc.eventstore.snapshot_records import SnapshotIndex, decode_index
from aegisipc.eventstore.subjects import SNAPSHOT, Subjects
from aegisipc.eventstore.system import Effect, SystemState
from aegisipc.eventstore.system_snapshots import FOLD_VERSION, dump_state

DEFAULT_EVERY_ENTRIES: Final = 100_000
DEFAULT_EVERY_S: Final = 900.0

_LOOK_S: Final = 0.25
_REST: Final = 50
"""Between two snapshots, at least so many times as long as the event loop was held up by the last."""
_RETRY_S: Final = 30.0

_log = structlog.get_logger("aegisipc.router")


@dataclass(frozen=True, slots=True)
class SnapshotOptions:
    """When the leading router writes a snapshot: after so many words about calls (accepted, claimed,
    concluded) or events since the last (0: never writes any), or after so many seconds if there was a word at
    all. In neither case before the log has grown by as many bytes as the last one took.
    """

    every_entries: int = DEFAULT_EVERY_ENTRIES
    every_s: float = DEFAULT_EVERY_S


class Snapshots:
    """The snapshots of one router. `is_leading` and `now_ns` (server time) are asked when they matter."""

    def __init__(
        self,
        subjects: Subjects,
        router: str,
        options: SnapshotOptions,
        *,
        is_leading: Callable[[], bool],
        now_ns: Callable[[], int],
    ) -> None:
        self._subjects, self._router, self._options = subjects, router, options
        self._is_leading, self._now_ns = is_leading, now_ns
        self._latest: tuple[int, SnapshotIndex] | None = None
        self._bad: set[int] = set()
        """Where the indices of snapshots stand that could not be used."""
        self._words = 0
        self._bytes = 0
        self._since = time.monotonic()
        self._not_before = 0.0
        self._task: asyncio.Task[None] | None = None
        self._last_failure = ""
        self.written = 0
        self.failures = 0
        self.began_at = 0
        """What the snapshot covered with which this router began; 0: it read the whole log."""

    # -- reading ----------------------------------------------------------------------------------------

    async def begin(self, log: Log) -> SystemState:
        """Return the state to begin with: that of the newest snapshot that is sound, or an empty one.

        Raises:
            NotConnected, AckUnknown, LogFailed, LogMissing: as the log says.
        """
        began = time.monotonic()
        state = await checkpoints.newest(log, self._subjects, on_skip=self._skip)
        self.began_at = state.position
        if state.position:
            _log.info(
                "snapshot_used",
                router=self._router,
                covers=state.position,
                seconds=round(time.monotonic() - began, 3),
            )
        return state

    def _skip(self, skipped: SkippedSnapshot) -> None:
        self._bad.add(skipped.seq)
        _log.warning(
            "snapshot_skipped",
            router=self._router,
            seq=skipped.seq,
            covers=skipped.covers,
            reason=skipped.reason,
            error=skipped.why,
        )

    def note(self, record: Record, effect: Effect) -> None:
        """A record was folded, and this is what it came to."""
        if effect.place is not None and effect.place.kind == SNAPSHOT:
            if record.subject == self._subjects.snapshot_index:
                self._on_index(record)
            return
        folded = effect.folded
        said = len(folded.opened) + len(folded.claimed) + len(folded.concluded)
        self._words += said + (effect.event is not None)
        self._bytes += len(record.payload)

    def _on_index(self, record: Record) -> None:
        """Somebody wrote a snapshot: there is no need for another one yet."""
        with suppress(MalformedPayload):
            index = decode_index(record.payload)
            if index.fold_version == FOLD_VERSION and record.seq not in self._bad:
                self._latest = record.seq, index
                self._words = self._bytes = 0
                self._since = time.monotonic()

    # -- writing ----------------------------------------------------------------------------------------

    def start(self, log: Log, state: SystemState) -> None:
        """Begin to write snapshots of `state`, when they are due, as long as this router leads."""
        if self._options.every_entries:
            self._task = asyncio.get_running_loop().create_task(
                self._write_for_ever(log, state), name="router snapshots"
            )

    async def stop(self) -> None:
        """End; one that is half written stays without effect. Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _write_for_ever(self, log: Log, state: SystemState) -> None:
        while True:
            if self._is_leading() and self._is_due():
                try:
                    await self.write(log, state)
                    self._last_failure = ""
                except Exception as error:  # noqa: BLE001 - whatever it was: deciding goes on, and this waits
                    self._tell_failure(error)
            await asyncio.sleep(_LOOK_S)

    def _is_due(self) -> bool:
        now, options = time.monotonic(), self._options
        known = self._latest
        if not self._words or now < self._not_before or (known and self._bytes < known[1].bytes):
            return False
        return self._words >= options.every_entries or now - self._since >= options.every_s

    async def write(self, log: Log, state: SystemState) -> None:
        """Write a snapshot now.

        Raises:
            AegisError: it could not be written now; nobody uses what is there of it.
        """
        began = time.monotonic()
        plain, taken_ns = dump_state(state), self._now_ns()
        dump_s = time.monotonic() - began
        self._not_before = began + _REST * dump_s
        try:
            written = await checkpoints.write(
                log, self._subjects, plain, router=self._router, taken_ns=taken_ns
            )
        except WrongSequence as error:  # another router was first
            self._not_before = max(self._not_before, time.monotonic() + _RETRY_S)
            _log.info("snapshot_not_needed", router=self._router, error=error.message)
            return
        self.written += 1
        _log.info(
            "snapshot_written",
            router=self._router,
            seq=written.seq,
            covers=written.covers,
            bytes=written.index.bytes if written.index is not None else 0,
            dump_s=round(dump_s, 3),
            seconds=round(time.monotonic() - began, 3),
        )

    def _tell_failure(self, error: Exception) -> None:
        why = error.message if isinstance(error, AegisError) else repr(error)
        self.failures += 1
        self._not_before = max(self._not_before, time.monotonic() + _RETRY_S)
        if why != self._last_failure:
            self._last_failure = why
            _log.warning(
                "cannot_write_snapshot",
                router=self._router,
                error=why,
                exc_info=not isinstance(error, AegisError),
            )

    def status(self) -> dict[str, Any]:
        """Return which snapshot is the latest (``None``: none is known), and how it goes."""
        known = self._latest
        return {
            "latest": {
                "seq": known[0],
                "covers": known[1].covers,
                "taken_ns": known[1].taken_ns,
                "router": known[1].router,
                "bytes": known[1].bytes,
            }
            if known is not None
            else None,
            "began_at": self.began_at,
            "words_since": self._words,
            "written": self.written,
            "failures": self.failures,
            "skipped": len(self._bad),
        }
