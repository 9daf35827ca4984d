"""Reading again what cannot be read just now, for as long as somebody waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from aegisipc.eventstore.errors import AckUnknown, AegisError, NoResponders, NotConnected

PASSING: Final = (AckUnknown, NoResponders, NotConnected)
"""Time may heal these: the connection was lost, the server starts, or a cluster elects a leader."""

_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 0.5


async def persist[T](
    attempt: Callable[[], Awaitable[T]],
    is_over: Callable[[], bool],
    *,
    passing: tuple[type[AegisError], ...] = PASSING,
) -> T:
    """Return what an attempt gives; while it fails in a way that time may heal, it is repeated until
    `is_over`. Only for what may be repeated: reading, and writing the same again.

    Raises:
        AegisError: what the last attempt raised; at once if time does not heal it.
    """
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            return await attempt()
        except passing:
            if is_over():
                raise
        await asyncio.sleep(pause_s)
        pause_s = min(_LONGEST_PAUSE_S, 2 * pause_s)
