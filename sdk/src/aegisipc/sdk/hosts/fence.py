"""What the fence of a group says now."""

from __future__ import annotations

from typing import Final

from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.eventstore.events import (
    Event,
    GroupHandoverCancelled,
    GroupHandoverStarted,
    GroupPromoted,
    GroupVacated,
    decode_event,
)
from aegisipc.eventstore.log import Log, Record

_MOVES_IT: Final = (GroupPromoted, GroupVacated, GroupHandoverStarted, GroupHandoverCancelled)


async def read_fence(log: Log, subject: str) -> tuple[int, Event | None]:
    """Return the sequence of the last record on a group's fence, and the last event there that says whose the
    pen is. Records that nobody can read, or that say something else, move the fence and nothing else, as in
    the fold of the routing records.

    Raises:
        LogMissing, NotConnected, NoResponders, AckUnknown: as the log's ``last`` and ``read``.
    """
    latest = await log.last(subject)
    if latest is None:
        return 0, None
    seq, event = latest.seq, _understood(latest)
    if event is None:
        async for record in log.read([subject]):
            seq, event = record.seq, _understood(record) or event
    return seq, event


def _understood(record: Record) -> Event | None:
    try:
        event = decode_event(record.payload)
    except MalformedPayload:
        return None
    return event if isinstance(event, _MOVES_IT) else None
