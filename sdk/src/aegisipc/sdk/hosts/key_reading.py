"""Reads segments of the index of idempotency keys, for the holder of the pen: who has an old key?"""

from __future__ import annotations

import asyncio
from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from mmap import ACCESS_READ, mmap
from tempfile import TemporaryFile
from typing import Any, Final, cast

import structlog

from aegisipc.eventstore.errors import AegisError, MalformedPayload
from aegisipc.eventstore.jetstream_last import record_at
from aegisipc.eventstore.keys import Elsewhere, KeyOwner, Segment, decode_segment, find_in
from aegisipc.sdk.core.key_lookups import Lookup
from aegisipc.sdk.hosts.base import Site

_log = structlog.get_logger("aegisipc.instance")

MAX_SEGMENTS_KEPT: Final = 4
_PAUSE_S: Final = 0.2
_NO_KEYS: Final = Segment(0, 0, 0, 0, ())


class KeyReader:
    """Reads one segment at a time, and keeps the latest few. While the log cannot be read, it tries again:
    without an answer the call may neither run nor end.
    """

    def __init__(
        self,
        site: Site,
        spawn: Callable[[Any], None],
        found: Callable[[Lookup, KeyOwner | None], None],
    ) -> None:
        self._site = site
        self._spawn = spawn
        self._found = found
        self._kept: OrderedDict[int, Segment] = OrderedDict()
        self._wanted: list[Lookup] = []
        self._is_running = False

    def add(self, lookups: list[Lookup]) -> None:
        """Look these up, too."""
        if not lookups:
            return
        self._wanted += lookups
        if not self._is_running:
            self._is_running = True
            self._spawn(self._run())

    async def _run(self) -> None:
        try:
            while self._wanted:
                lookup = self._wanted.pop(0)
                self._found(lookup, await self._patiently(lookup))
        finally:
            self._is_running = False

    async def _patiently(self, lookup: Lookup) -> KeyOwner | None:
        while True:
            try:
                return await self.find(lookup.key, lookup.segments)
            except AegisError as error:
                _log.info("keys_not_read", error=error.message)
                await asyncio.sleep(_PAUSE_S)

    async def owner(self, key: bytes, known: KeyOwner | Elsewhere | None) -> KeyOwner | None:
        """Return who has a key (by its hash), from what the index says of it.

        Raises:
            AegisError: the log cannot be read now.
        """
        return await self.find(key, known.segments) if isinstance(known, Elsewhere) else known

    async def find(self, key: bytes, segments: Sequence[int]) -> KeyOwner | None:
        """Return who has a key (by its hash), from the first of these segments that tells of it.

        Raises:
            AegisError: the log cannot be read now.
        """
        for seq in segments:
            is_there, owner = find_in(await self._segment(seq), key)
            if is_there:
                return owner
        return None

    async def _segment(self, seq: int) -> Segment:
        kept = self._kept.get(seq)
        if kept is None:
            kept = self._kept[seq] = await self._read(seq)
            if len(self._kept) > MAX_SEGMENTS_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(seq)
        return kept

    async def _read(self, seq: int) -> Segment:
        record = await record_at(self._site.connection, self._site.subjects.stream, seq)
        if record is None:
            _log.warning(
                "keys_gone", seq=seq
            )  # the log no longer reaches back so far: its keys are forgotten
            return _NO_KEYS
        try:
            return decode_segment(record.payload)
        except MalformedPayload as error:  # it was readable when it was folded
            _log.error("keys_unreadable", seq=seq, error=error.message)
            return _NO_KEYS


def spill(tier: array[int]) -> Sequence[int]:
    """Put a large part of the index into a file that has no name: the system keeps as much of it in memory as
    is worth it. Where there is no room for files it stays in memory.
    """
    try:
        with TemporaryFile(prefix="aegisipc-keys-") as file:
            file.write(tier)
            file.flush()
            mapped = mmap(file.fileno(), 0, access=ACCESS_READ)
    except OSError as error:
        _log.warning("keys_not_spilled", error=str(error))
        return tier
    return cast("Sequence[int]", memoryview(mapped).cast("Q"))
