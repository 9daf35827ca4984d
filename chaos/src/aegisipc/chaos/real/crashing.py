"""Processes that kill themselves at a named point of what they write to the log.

A process listens for SIGUSR1 and then reads from a file at which point it is to die. From there on it looks
at each record that it appends; the one that is at the point is the last thing it does. The death is a
SIGKILL: nothing of the process knows of it, and nothing is cleaned up.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.eventstore.frames import OUTCOMES, Mark, decode_pen
from aegisipc.eventstore.jetstream import JetStreamLog
from aegisipc.eventstore.subjects import CALL, CONCLUSIONS, HA, SNAPSHOT, TERM, Place, subjects_of

_SHORTLY_S: Final = 0.001


class Point(StrEnum):
    """Where a process dies: on the way of a call, or of a decision."""

    BEFORE_APPEND = "before append"
    AFTER_APPEND = "after append before ack"
    BEFORE_CLAIM = "before the claim is stored"
    AFTER_CLAIM = "after claim"
    AFTER_EFFECT = "after effect before outcome"
    AFTER_OUTCOME = "after outcome before ack"
    BEFORE_DECISION = "before decision"
    AFTER_DECISION = "after decision before ack"
    IN_SNAPSHOT = "between the parts of a snapshot"


OF_CLIENT: Final = (Point.BEFORE_APPEND, Point.AFTER_APPEND)
OF_INSTANCE: Final = (Point.BEFORE_CLAIM, Point.AFTER_CLAIM, Point.AFTER_EFFECT, Point.AFTER_OUTCOME)
OF_ROUTER: Final = (Point.BEFORE_DECISION, Point.AFTER_DECISION, Point.IN_SNAPSHOT)

_BEFORE: Final = frozenset(
    {Point.BEFORE_APPEND, Point.BEFORE_CLAIM, Point.AFTER_EFFECT, Point.BEFORE_DECISION}
)
"""There the record is not sent any more. At the others it is: it is stored, and perhaps acknowledged."""


def order(file: Path, point: Point, pid: int, *, answered: bool) -> None:
    """Tell a process that did :func:`obey` to die at a point, the next time that it comes there. Where its
    record is sent first, it dies a moment after that, or when it is `answered`.
    """
    file.write_text(f"{point}\n{answered:d}", encoding="utf-8")
    os.kill(pid, signal.SIGUSR1)


def obey(file: Path, namespace: str) -> None:
    """Make this process die where the file says, once it is told to."""
    orders: list[tuple[Point, bool]] = []

    def take(*_: object) -> None:
        with suppress(OSError, ValueError):
            point, answered = file.read_text(encoding="utf-8").split("\n")
            orders[:] = [(Point(point), answered == "1")]

    signal.signal(signal.SIGUSR1, take)
    subjects = subjects_of(namespace)
    append: Callable[..., Any] = JetStreamLog.append

    async def appending(log: JetStreamLog, subject: str, payload: bytes, **options: Any) -> Any:
        if not orders or not is_at(orders[0][0], subjects.parse(subject), payload):
            return await append(log, subject, payload, **options)
        point, answered = orders[0]
        if point in _BEFORE:
            os.kill(os.getpid(), signal.SIGKILL)
        sent = asyncio.ensure_future(append(log, subject, payload, **options))
        if answered:
            await sent
        else:
            await asyncio.sleep(_SHORTLY_S)
        os.kill(os.getpid(), signal.SIGKILL)
        return await sent

    setattr(JetStreamLog, append.__name__, appending)


def is_at(point: Point, place: Place, payload: bytes) -> bool:
    """Tell whether a record is the one at which somebody dies who is to die at that point."""
    if point in OF_CLIENT:
        return place.kind == CALL
    if point is Point.IN_SNAPSHOT:
        return place.kind == SNAPSHOT
    if point in OF_ROUTER:
        return place.kind in (HA, TERM)
    if place.kind not in CONCLUSIONS:
        return False
    try:
        marks = {entry.mark for entry in decode_pen(payload).entries}
    except MalformedPayload:
        return False
    wanted = {Mark.CLAIMED} if point in (Point.BEFORE_CLAIM, Point.AFTER_CLAIM) else OUTCOMES
    return not marks.isdisjoint(wanted)
