"""A pool's idempotency keys at one worker: it takes up what the log has of them, reads old ones, and writes
segments.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final

import structlog

from aegisipc.eventstore.errors import AegisError, MalformedPayload
from aegisipc.eventstore.keys import KeyOwner, Segment, decode_segment, encode_segment
from aegisipc.eventstore.log import Start as From
from aegisipc.eventstore.subjects import KEYS
from aegisipc.sdk.core.key_lookups import Lookup
from aegisipc.sdk.core.pen import Identity
from aegisipc.sdk.core.pool import PoolWorker
from aegisipc.sdk.hosts.base import Site, describe
from aegisipc.sdk.hosts.key_reading import KeyReader

_log = structlog.get_logger("aegisipc.instance")

_APPEND_TIMEOUT_S: Final = 2.0


class PoolKeyring:
    """One worker's part in the index. The first segment is written by whoever needs it, the others by the
    eldest; of several that are written at once, the first counts.
    """

    def __init__(
        self,
        site: Site,
        identity: Identity,
        worker: PoolWorker,
        *,
        pump: Callable[[], None],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._site, self._identity, self._worker = site, identity, worker
        self._pump, self._spawn = pump, spawn
        self.reader = KeyReader(site, self._read_on, self._found)
        self._is_writing = False
        self._written_to = 0

    async def join(self, first_followed: int) -> None:
        """Read what the log says of keys before that place, from where on it is not in segments.

        Raises:
            AegisError: the log cannot be read now.
        """
        who, subjects, worker = self._identity, self._site.subjects, self._worker
        keys_filter = subjects.of_kind(who.service, who.group, KEYS)
        segments: list[tuple[int, int, Segment]] = []
        async for record in self._site.log.read([keys_filter]):
            if record.seq >= first_followed:
                break
            try:
                segments.append((record.seq, record.timestamp_ns, decode_segment(record.payload)))
            except MalformedPayload as error:
                _log.error("keys_unreadable", seq=record.seq, error=describe(error))
        start = worker.keys.join(segments)
        if start is not None:
            filters = [keys_filter, *subjects.conclusions(who.service, who.group)]
            async for record in self._site.log.read(filters, start=From(start)):
                if record.seq >= first_followed:
                    break
                worker.on_past(record)
        worker.keys.position = first_followed - 1

    def pump(self) -> None:
        """Read and write what is to be read and written."""
        self.reader.add(self._worker.take_lookups())
        keying, keys = self._worker.keying, self._worker.keys
        if self._is_writing or keys.position < self._written_to:
            return
        if keying.needs_opening or (keys.is_open and self._is_due()):
            self._is_writing = True
            self._spawn(self._write())

    def _read_on(self, reading: Coroutine[Any, Any, None]) -> None:
        self._spawn(reading)

    def _is_due(self) -> bool:
        return self._worker.keys.is_due(self._site.now_ns()) and self._worker.is_eldest

    async def _write(self) -> None:
        try:
            who = self._identity
            segment = self._worker.keys.next_segment(who.session)
            subject = self._site.subjects.keys(who.service, who.group, who.instance)
            appended = await self._site.log.append(
                subject,
                encode_segment(segment),
                record_id=f"{who.session:x}.{who.instance}.keys.{segment.covers}",
                timeout_s=_APPEND_TIMEOUT_S,
            )
            self._written_to = appended.seq  # until it comes back, nothing more
        except AegisError as error:
            _log.warning("keys_not_written", error=describe(error))
        finally:
            self._is_writing = False

    def _found(self, lookup: Lookup, owner: KeyOwner | None) -> None:
        self._worker.on_key_found(lookup, owner, self._site.now_ns())
        self._pump()
