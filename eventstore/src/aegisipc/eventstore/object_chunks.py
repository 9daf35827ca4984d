"""The pieces of an object: sending several at a time, in order all the same, and reading them back."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import aclosing
from itertools import pairwise
from typing import Final

from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.jetstream import HEADER_ROOM_BYTES, JetStreamLog
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.object_layout import CHUNK_BYTES, Bucket
from aegisipc.eventstore.object_requests import Stored, StreamRequests

MAX_CHUNKS_IN_FLIGHT: Final = 16
"""Of all objects that one client or instance stores at a time: 2 MiB that wait for acknowledgements."""


class PiecesOutOfOrder(Exception):
    """The pieces are not in the stream as they should be: store them anew, under another nuid."""


class Chunks:
    """The pieces of the objects of a bucket."""

    def __init__(self, connection: Connection, bucket: Bucket, requests: StreamRequests) -> None:
        self._connection = connection
        self._bucket = bucket
        self._requests = requests
        self._room = asyncio.Semaphore(MAX_CHUNKS_IN_FLIGHT)

    async def write(self, nuid: str, payload: bytes) -> tuple[int, bytes]:
        """Store the pieces of `payload`; returns how many they are, and its SHA-256.

        Raises:
            PiecesOutOfOrder: see there.
            AegisError: what :meth:`StreamRequests.store` raises.
        """
        subject = self._bucket.chunks(nuid)
        size = min(CHUNK_BYTES, self._connection.server.max_payload_bytes - HEADER_ROOM_BYTES)
        digest = hashlib.sha256()
        sending: list[asyncio.Task[Stored]] = []
        refused: list[AegisError] = []

        def ended(task: asyncio.Task[Stored]) -> None:
            self._room.release()
            if not task.cancelled() and isinstance(error := task.exception(), AegisError):
                refused.append(error)

        try:
            for start in range(0, len(payload), size):
                await self._room.acquire()
                if refused:
                    self._room.release()
                    break
                piece = payload[start : start + size]
                digest.update(piece)  # between sends: hashing it all at once would hold up the loop
                store = self._requests.store(subject, piece, message_id=f"{nuid}.{len(sending)}")
                sending.append(asyncio.create_task(store))
                sending[-1].add_done_callback(ended)
            # also those behind a refused one: what still is on its way would be stored after a clean-up
            await asyncio.gather(*sending, return_exceptions=True)
        finally:
            for task in sending:
                task.cancel()
        if refused:
            raise refused[0]
        await self._check_order(subject, [task.result() for task in sending])
        return len(sending), digest.digest()

    async def _check_order(self, subject: str, stored: list[Stored]) -> None:
        """They were sent in order on one connection, and so they are stored, unless one was sent again."""
        seqs = [each.seq for each in stored]
        if any(later <= earlier for earlier, later in pairwise(seqs)):
            raise PiecesOutOfOrder
        if not all(each.is_sure for each in stored) and await self._requests.count(subject) != len(stored):
            raise PiecesOutOfOrder

    async def read(self, nuid: str, size_bytes: int) -> tuple[bytes, bytes]:
        """Return what the pieces come to, and its SHA-256; no more than one piece over `size_bytes`.

        Raises:
            AckUnknown, NotConnected, NoResponders, LogFailed, LogMissing: they cannot be read now.
        """
        log = JetStreamLog(self._connection, self._bucket.stream)
        pieces: list[bytes] = []
        digest, total = hashlib.sha256(), 0
        reading = log.read([self._bucket.chunks(nuid)])
        async with aclosing(reading) as records:
            async for record in records:
                pieces.append(record.payload)
                digest.update(record.payload)
                total += len(record.payload)
                if total > size_bytes:
                    break
        return b"".join(pieces), digest.digest()
