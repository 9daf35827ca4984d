"""Which objects there are, and which pieces nothing leads to: for whoever cleans up."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import NamedTuple

from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.eventstore.jetstream import JetStreamLog
from aegisipc.eventstore.log import Start
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.object_layout import ObjectEntry, bucket_of, decode_entry
from aegisipc.eventstore.object_requests import DEFAULT_PATIENCE_S, StreamRequests
from aegisipc.eventstore.subjects import Subjects


class Listed(NamedTuple):
    """An entry as it was listed: it may have been replaced since. ``at_ns`` is the server's time."""

    seq: int
    at_ns: int
    entry: ObjectEntry


class Orphan(NamedTuple):
    """Pieces that no entry leads to: of an object that is just being stored, or will never be."""

    nuid: str
    last_seq: int
    last_at_ns: int


class ObjectListing:
    """What a namespace's bucket holds. `log` reads its stream; another reader may take its time."""

    def __init__(
        self,
        connection: Connection,
        subjects: Subjects,
        *,
        log: JetStreamLog | None = None,
        patience_s: float = DEFAULT_PATIENCE_S,
    ) -> None:
        self._bucket = bucket_of(subjects)
        self._log = log or JetStreamLog(connection, self._bucket.stream)
        self._requests = StreamRequests(connection, self._bucket.stream, patience_s=patience_s)

    async def last_seq(self) -> int:
        """Return the sequence of the last message of the bucket."""
        return (await self._log.bounds()).last_seq

    async def entries(self, *, from_seq: int = 1) -> AsyncGenerator[Listed]:
        """Iterate over the entries that are stored there or later, as of now; those that nobody can read are
        passed over.
        """
        reading = self._log.read([self._bucket.all_entries], start=Start(from_seq))
        async with aclosing(reading) as records:
            async for record in records:
                try:
                    entry = decode_entry(record.payload)
                except MalformedPayload:
                    continue
                if record.subject == self._bucket.entry(entry.name):
                    yield Listed(record.seq, record.timestamp_ns, entry)

    async def orphans(self) -> AsyncGenerator[Orphan]:
        """Iterate over the pieces that no entry leads to. Pieces are listed before entries: those of an
        object that comes to exist meanwhile are none.
        """
        nuids = await self._nuids()
        async for listed in self.entries():
            nuids.discard(listed.entry.nuid)
        for nuid in sorted(nuids):
            last = await self._requests.last(self._bucket.chunks(nuid))
            if last is not None:
                yield Orphan(nuid, last.seq, last.timestamp_ns)

    async def remove(self, orphan: Orphan) -> None:
        """Remove these pieces; what came after they were listed stays."""
        await self._requests.purge(self._bucket.chunks(orphan.nuid), before_seq=orphan.last_seq + 1)

    async def _nuids(self) -> set[str]:
        found: set[str] = set()
        offset = 0
        while True:
            told = await self._requests.ask(
                "STREAM.INFO", {"subjects_filter": self._bucket.all_chunks, "offset": offset}
            )
            subjects = told["state"].get("subjects") or {}
            found.update(nuid for nuid in map(self._bucket.nuid_of, subjects) if nuid)
            offset += len(subjects)
            if not subjects or offset >= told.get("total", 0):
                return found
