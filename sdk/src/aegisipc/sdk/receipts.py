"""Receipts: what an acknowledgement is worth, as far as anybody here can know.

How the log is kept says the stream's configuration. Whether a server writes through to the disk before it
acknowledges, only its own configuration says: a router with access to the system account reads that and tells
(``aegisipc.router.infrastructure.durability``). What nobody can tell is never claimed.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any, Final, Literal

from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.jetstream_api import read_json
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.events import Connected
from aegisipc.eventstore.nats.events import Event as ConnectionEvent
from aegisipc.eventstore.subjects import Subjects

DURABILITY_VERB: Final = "durability"

_INFO_TIMEOUT_S: Final = 5.0
_ASK_TIMEOUT_S: Final = 1.0
_QUORUM: Final = 3


@dataclass(frozen=True, slots=True)
class Receipt:
    """A call that is in the log, at ``seq``; 0 if that could not be found out in the caller's time: its
    outcome came before the server's acknowledgement, and the log could not be read then.

    ``durability`` is what the server had done when it said so:

    - ``"memory"``: the log is kept in memory, and ends with the server;
    - ``"written"``: it is in the file system's cache: it outlives the server's process, and an outage of
      the machine only if that comes after the server's next sync;
    - ``"fsynced"``: it is on the disk;
    - ``"replicated"``: a majority of at least three servers has it.

    ``fsync`` says beside it whether those servers sync before they acknowledge (``"always"``), now and then
    (``"interval"``), or that nobody could tell (``"unknown"``).
    """

    durability: Literal["memory", "written", "fsynced", "replicated"]
    replicas: int
    seq: int
    fsync: Literal["always", "interval", "unknown"] = "unknown"


class Durability:
    """What is known of how the log is kept."""

    def __init__(self, connection: Connection, subjects: Subjects) -> None:
        self._connection = connection
        self._subjects = subjects
        self._storage = "memory"
        self._replicas = 1
        self._fsync: Literal["always", "interval", "unknown"] | None = None
        self._asking: asyncio.Future[None] | None = None
        connection.on_event(self._on_event)

    async def read(self) -> None:
        """Read the stream's configuration.

        Raises:
            AegisError: it cannot be read.
        """
        stream = self._subjects.stream
        answer = await self._connection.request(
            f"$JS.API.STREAM.INFO.{stream}", b"", timeout_s=_INFO_TIMEOUT_S
        )
        config = read_json(answer.payload).get("config") or {}
        self._storage = str(config.get("storage", "memory"))
        self._replicas = int(config.get("num_replicas") or 1)

    async def learn(self) -> None:
        """Ask a router whether the server syncs before it acknowledges, unless somebody answered already or
        nobody did. Never fails: what it does not find out stays unknown.
        """
        if self._fsync is not None or self._storage == "memory":
            return
        if self._asking is None:
            self._asking = asyncio.ensure_future(self._ask())
        await asyncio.shield(self._asking)

    def receipt(self, seq: int) -> Receipt:
        """Return the receipt for a record that was acknowledged at `seq`."""
        fsync = self._fsync or "unknown"
        if self._storage != "file":
            return Receipt("memory", self._replicas, seq)
        if self._replicas >= _QUORUM:
            return Receipt("replicated", self._replicas, seq, fsync)
        return Receipt("fsynced" if fsync == "always" else "written", self._replicas, seq, fsync)

    async def _ask(self) -> None:
        try:
            answer = await self._connection.request(
                self._subjects.api(DURABILITY_VERB), b"{}", timeout_s=_ASK_TIMEOUT_S
            )
            self._fsync = _fsync_in(answer.payload)
        except AegisError:
            self._fsync = "unknown"
        finally:
            self._asking = None

    def _on_event(self, event: ConnectionEvent) -> None:
        if isinstance(event, Connected):
            self._fsync = None  # it may be another server, or the same with another configuration


def _fsync_in(payload: bytes) -> Literal["always", "interval", "unknown"]:
    try:
        answer: Any = json.loads(payload)
        told = answer.get("fsync")
    except (ValueError, AttributeError, RecursionError):
        return "unknown"
    return told if told in ("always", "interval") else "unknown"
