"""Requests to the bucket's stream that are sent again until they are answered.

Only what may take effect twice is sent this way: a piece of an object has a message id and so is stored
once, an entry says which one it replaces, and reading or purging twice is harmless.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple

from aegisipc.eventstore.errors import (
    AckUnknown,
    AegisError,
    LogFailed,
    LogFull,
    LogMissing,
    NoResponders,
    NotConnected,
    ObjectsFull,
    Overloaded,
)
from aegisipc.eventstore.jetstream_api import (
    STREAM_NOT_FOUND,
    CheckInFlight,
    api_error,
    parse_time,
    read_json,
)
from aegisipc.eventstore.log import Expect
from aegisipc.eventstore.nats.connection import Connection

DEFAULT_PATIENCE_S: Final = 30.0
"""How long one request is sent again before it is given up."""

ACK_TIMEOUT_S: Final = 5.0
_RETRY_S: Final = 0.1
_NO_MESSAGE: Final = 10037
_PASSING: Final = (AckUnknown, NotConnected, NoResponders, Overloaded, CheckInFlight)


class Stored(NamedTuple):
    """Where a message was stored. ``is_sure``: the first attempt was acknowledged, so it is there once."""

    seq: int
    is_sure: bool


class Last(NamedTuple):
    """The last message on a subject; the time is the server's."""

    seq: int
    payload: bytes
    timestamp_ns: int


class StreamRequests:
    """Requests to one stream."""

    def __init__(self, connection: Connection, stream: str, *, patience_s: float) -> None:
        self._connection = connection
        self._stream = stream
        self._patience_s = patience_s

    async def store(
        self, subject: str, payload: bytes, *, message_id: str, expect: Expect | None = None
    ) -> Stored:
        """Store a message.

        Raises:
            WrongSequence: `expect` did not hold; ``is_sure`` says whether no earlier attempt is unknown.
            ObjectsFull: the stream's size limit refuses it.
            LogMissing: there is no such stream.
            AckUnknown, NotConnected, NoResponders: no answer in all the time.
        """
        headers = {"Nats-Msg-Id": message_id, "Nats-Expected-Stream": self._stream}
        if expect is not None:
            headers["Nats-Expected-Last-Subject-Sequence"] = str(expect.seq)
        answer, is_first = await self._surely(subject, payload, headers, expect)
        try:
            return Stored(int(answer["seq"]), is_first)
        except (KeyError, TypeError, ValueError):
            raise LogFailed(
                f"cannot store on {subject!r}: the server's answer is not an acknowledgement"
            ) from None

    async def ask(self, verb: str, body: object = None) -> dict[str, Any]:
        """Ask the JetStream API about the stream. Raises what :meth:`store` raises, but for the first two."""
        payload = b"" if body is None else json.dumps(body).encode()
        answer, _ = await self._surely(f"$JS.API.{verb}.{self._stream}", payload, None, None)
        return answer

    async def last(self, subject: str) -> Last | None:
        """Return the last message on a subject, as the stream's leader has it, or ``None``."""
        try:
            message = (await self.ask("STREAM.MSG.GET", {"last_by_subj": subject}))["message"]
        except LogFailed as error:
            if error.details.get("err_code") == _NO_MESSAGE:
                return None
            raise
        return Last(
            int(message["seq"]), base64.b64decode(message.get("data", "")), parse_time(message["time"])
        )

    async def count(self, subject: str) -> int:
        """Return how many messages there are on a subject."""
        told = await self.ask("STREAM.INFO", {"subjects_filter": subject})
        return int((told["state"].get("subjects") or {}).get(subject, 0))

    async def purge(self, filter_subject: str, *, before_seq: int = 0) -> None:
        """Remove what is on a subject; only what is stored before that sequence, if one is given."""
        body: dict[str, Any] = {"filter": filter_subject}
        if before_seq:
            body["seq"] = before_seq
        await self.ask("STREAM.PURGE", body)

    async def _surely(
        self, subject: str, payload: bytes, headers: Mapping[str, str] | None, expect: Expect | None
    ) -> tuple[dict[str, Any], bool]:
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._patience_s
        is_sure = True
        while True:
            try:
                return await self._once(subject, payload, headers, expect), is_sure
            except _PASSING as error:
                is_sure = is_sure and not isinstance(error, AckUnknown)
                if loop.time() + _RETRY_S >= give_up_at or self._connection.is_closed:
                    raise
                if isinstance(error, NoResponders):
                    await self._check_there()
            except AegisError as error:
                error.details["is_sure"] = is_sure
                raise
            await self._pause(give_up_at)

    async def _pause(self, give_up_at: float) -> None:
        await asyncio.sleep(_RETRY_S)
        with suppress(NotConnected):
            await self._connection.wait_connected(max(0.0, give_up_at - asyncio.get_running_loop().time()))

    async def _once(
        self, subject: str, payload: bytes, headers: Mapping[str, str] | None, expect: Expect | None
    ) -> dict[str, Any]:
        timeout_s = min(ACK_TIMEOUT_S, self._patience_s)
        answer = await self._connection.request(subject, payload, timeout_s=timeout_s, headers=headers)
        told = read_json(answer.payload)
        if "error" not in told:
            return told
        if told["error"].get("err_code") == STREAM_NOT_FOUND:
            raise self._missing()
        try:
            raise api_error(told["error"], self._stream, expect, subject)
        except LogFull as error:
            raise ObjectsFull(
                "cannot store a large body: the store of large bodies is full; raise its limit "
                "(objects_max_bytes), or wait until those of calls that are over have been removed",
                stream=self._stream,
            ) from error

    async def _check_there(self) -> None:
        """Nobody serves the subject: is a cluster electing a leader, or is there no such stream?"""
        try:
            answer = await self._connection.request(
                f"$JS.API.STREAM.INFO.{self._stream}", b"", timeout_s=min(ACK_TIMEOUT_S, self._patience_s)
            )
        except _PASSING:
            return
        if read_json(answer.payload).get("error", {}).get("err_code") == STREAM_NOT_FOUND:
            raise self._missing()

    def _missing(self) -> LogMissing:
        return LogMissing(
            f"cannot keep large bodies: the stream {self._stream!r} is not there; start a router of this "
            "version, which makes it",
            stream=self._stream,
        )
