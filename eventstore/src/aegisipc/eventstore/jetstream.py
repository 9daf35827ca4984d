"""The log on NATS JetStream.

Appends are request-style publishes with our own deadlines; following is in
:mod:`aegisipc.eventstore.following`. Facts about the server that this relies on are in ``docs/jetstream.md``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Final

from aegisipc.eventstore.errors import LogFailed, PayloadTooLarge
from aegisipc.eventstore.following import JetStreamFollowing
from aegisipc.eventstore.jetstream_api import (
    CheckInFlight,
    api_error,
    parse_ack_subject,
    parse_time,
    read_json,
)
from aegisipc.eventstore.jetstream_last import last_record
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
from aegisipc.eventstore.nats.connection import Connection

__all__ = [
    "CheckInFlight",
    "JetStreamFollowing",
    "JetStreamLog",
    "api_error",
    "parse_ack_subject",
    "parse_time",
]

HEADER_ROOM_BYTES: Final = 1024
"""Left free under the server's message limit for our headers."""

READ_AHEAD: Final = 4096
"""How many records :meth:`JetStreamLog.read` buffers before it asks the server to pause."""

_API_TIMEOUT_S: Final = 2.0


class JetStreamLog:
    """A log in one JetStream stream. Open it with :func:`open_log`, which makes sure that the stream is
    there.
    """

    def __init__(self, connection: Connection, stream: str) -> None:
        self._connection = connection
        self._stream = stream

    @property
    def max_record_bytes(self) -> int:
        """Largest payload that :meth:`append` takes."""
        return self._connection.server.max_payload_bytes - HEADER_ROOM_BYTES

    async def append(
        self,
        subject: str,
        payload: bytes,
        *,
        record_id: str | None = None,
        expect: Expect | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> Appended:
        """Store one record; see :class:`~aegisipc.eventstore.log.Log`.

        Raises also:
            NoResponders: nothing was stored; a cluster is electing a leader, or the stream is gone.
            CheckInFlight: append again.
        """
        if len(payload) > self.max_record_bytes:
            raise PayloadTooLarge(
                f"cannot append {len(payload)} bytes: the limit is {self.max_record_bytes}; "
                "send less, or raise max_payload on the server",
                size_bytes=len(payload),
                limit_bytes=self.max_record_bytes,
            )
        headers: dict[str, str] = {}
        if record_id is not None:
            headers["Nats-Msg-Id"] = record_id
        if expect is not None:
            headers["Nats-Expected-Last-Subject-Sequence"] = str(expect.seq)
            if expect.subject is not None and expect.subject != subject:
                headers["Nats-Expected-Last-Subject-Sequence-Subject"] = expect.subject
        answer = await self._connection.request(
            subject, payload, timeout_s=timeout_s, headers=headers or None
        )
        ack = read_json(answer.payload)
        if "error" in ack:
            raise api_error(ack["error"], self._stream, expect, subject)
        try:
            return Appended(int(ack["seq"]), bool(ack.get("duplicate", False)))
        except (KeyError, TypeError, ValueError):
            raise LogFailed(
                f"cannot append to {subject!r}: the server's answer is not an acknowledgement"
            ) from None

    async def last(self, subject: str) -> Record | None:
        """Return the last record on `subject`, or ``None``. Asks the stream's leader, never a replica."""
        return await last_record(self._connection, self._stream, subject)

    async def bounds(self) -> Bounds:
        """Return what the log holds."""
        answer = await self._api(f"$JS.API.STREAM.INFO.{self._stream}", b"")
        if "error" in answer:
            raise api_error(answer["error"], self._stream)
        state = answer["state"]
        return Bounds(int(state["first_seq"]) or 1, int(state["last_seq"]), parse_time(answer["ts"]))

    async def read(self, subjects: Sequence[str], *, start: Start = BEGINNING) -> AsyncGenerator[Record]:
        """Iterate over what matches from `start` to the end as of now."""
        end = (await self.bounds()).last_seq
        arrived: deque[Record] = deque()

        def take(record: Record) -> None:
            arrived.append(record)
            if len(arrived) > READ_AHEAD:  # whoever reads is slow, or does not ask now
                following.hold()

        following = JetStreamFollowing(self._connection, self._stream, tuple(subjects), take, start)
        await following.begin()
        try:
            while arrived or not following.is_caught_up:
                if not arrived:
                    following.release()
                    await following.moved(DEFAULT_TIMEOUT_S)
                    continue
                record = arrived.popleft()
                if record.seq > end:
                    return
                yield record
        finally:
            await following.stop()

    async def follow(
        self, subjects: Sequence[str], deliver: Deliver, *, start: Start = BEGINNING
    ) -> JetStreamFollowing:
        """Deliver what matches from `start` on, and then what is appended."""
        following = JetStreamFollowing(self._connection, self._stream, tuple(subjects), deliver, start)
        await following.begin()
        return following

    async def _api(self, subject: str, payload: bytes) -> dict[str, Any]:
        answer = await self._connection.request(subject, payload, timeout_s=_API_TIMEOUT_S)
        return read_json(answer.payload)


_: type[Following] = JetStreamFollowing
