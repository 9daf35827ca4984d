"""Which log a read model is of, and how far it is behind it."""

from __future__ import annotations

from typing import NamedTuple

from aegisipc.eventstore.errors import LogMissing
from aegisipc.eventstore.jetstream import JetStreamLog
from aegisipc.eventstore.jetstream_api import api_error, read_json
from aegisipc.eventstore.log import Start
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.replay.timeline import first_from
from aegisipc.eventstore.sql.checkpointing import LogName
from aegisipc.eventstore.subjects import Subjects

_TIMEOUT_S = 5.0


class Lag(NamedTuple):
    """The log ends at ``log_end``; ``records`` of it are not in the read model, and the oldest of these is
    ``seconds`` old.
    """

    log_end: int
    records: int
    seconds: float


async def log_name(connection: Connection, subjects: Subjects) -> LogName:
    """Return which log of that namespace there is.

    Raises:
        LogMissing, NotConnected, AckUnknown, NoResponders: as the server says.
    """
    stream = subjects.stream
    answer = await connection.request(f"$JS.API.STREAM.INFO.{stream}", b"", timeout_s=_TIMEOUT_S)
    info = read_json(answer.payload)
    if "error" in info:
        raise api_error(info["error"], stream)
    created = info.get("created")
    if not isinstance(created, str):
        raise LogMissing(
            f"cannot tell which log {stream!r} is: the server does not say when it was made",
            namespace=subjects.namespace,
        )
    return LogName(subjects.namespace, created)


async def lag_of(log: JetStreamLog, subjects: Subjects, position: int) -> Lag:
    """Return how far a read model that is at `position` is behind the log.

    Raises:
        AegisError: the log cannot be read.
    """
    bounds = await log.bounds()
    behind = max(0, bounds.last_seq - position)
    if not behind:
        return Lag(bounds.last_seq, 0, 0.0)
    oldest = await first_from(log, [subjects.everything], Start(position + 1))
    age_ns = bounds.now_ns - oldest.timestamp_ns if oldest is not None else 0
    return Lag(bounds.last_seq, behind, round(max(0, age_ns) / 1e9, 3))
