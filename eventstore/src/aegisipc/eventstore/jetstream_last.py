"""Reading single records from JetStream: the last one on a subject, or one whose place is known."""

from __future__ import annotations

import base64
import json
from typing import Final

from aegisipc.eventstore.jetstream_api import STREAM_NOT_FOUND, api_error, parse_time, read_json
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.nats.connection import Connection

_API_TIMEOUT_S: Final = 2.0


async def last_record(connection: Connection, stream: str, subject: str) -> Record | None:
    """Return the last record on `subject`, which may hold wildcards, or ``None``.

    It asks the stream's leader: a replica may not have the latest records yet.

    Raises:
        LogMissing: there is no such stream.
        NotConnected, AckUnknown, NoResponders: no answer.
    """
    return await _record(connection, stream, {"last_by_subj": subject}, _API_TIMEOUT_S)


async def record_at(
    connection: Connection, stream: str, seq: int, *, timeout_s: float = _API_TIMEOUT_S
) -> Record | None:
    """Return the record at a sequence, or ``None`` if the log does not hold it.

    Raises:
        LogMissing, NotConnected, AckUnknown, NoResponders: as :func:`last_record`.
    """
    return await _record(connection, stream, {"seq": seq}, timeout_s)


async def _record(
    connection: Connection, stream: str, which: dict[str, object], timeout_s: float
) -> Record | None:
    answer = read_json(
        (
            await connection.request(
                f"$JS.API.STREAM.MSG.GET.{stream}", json.dumps(which).encode(), timeout_s=timeout_s
            )
        ).payload
    )
    error = answer.get("error")
    if error is not None:
        if error.get("code") == 404 and error.get("err_code") != STREAM_NOT_FOUND:
            return None
        raise api_error(error, stream)
    message = answer["message"]
    return Record(
        int(message["seq"]),
        str(message["subject"]),
        base64.b64decode(message.get("data", "")),
        parse_time(message["time"]),
    )
