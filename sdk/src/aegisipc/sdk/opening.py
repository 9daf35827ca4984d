"""Opening a client's connection, with as much patience as it is given."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final

from aegisipc.eventstore.errors import AckUnknown, AegisError, LogMissing, NoResponders, NotConnected

_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 1.0

PASSING: Final = (AckUnknown, LogMissing, NoResponders, NotConnected)
"""Time may heal these: a server that starts, a cluster that elects a leader, a router that makes the log."""


async def with_patience[T](
    attempt: Callable[[], Awaitable[T]],
    patience_s: float | None,
    *,
    chance: Callable[[], float] = random.random,
) -> T:
    """Return what an attempt gives; for `patience_s` seconds it is tried again, after pauses that grow and
    vary. `chance` gives numbers from 0 to 1.

    Raises:
        NotConnected: there was no server in all that time.
        AegisError: what the last attempt raised, if that is something else; at once if time does not heal it.
    """
    if not patience_s:
        return await attempt()
    loop = asyncio.get_running_loop()
    give_up_at, pause_s, attempts = loop.time() + patience_s, _FIRST_PAUSE_S, 0
    while True:
        attempts += 1
        left_s = max(0.05, give_up_at - loop.time())
        try:
            async with asyncio.timeout(left_s):
                return await attempt()
        except TimeoutError as error:
            raise _in_vain(patience_s, attempts, "the server did not answer") from error
        except PASSING as error:
            this_pause_s = pause_s * (0.5 + 0.5 * chance())
            if loop.time() + this_pause_s >= give_up_at:
                if isinstance(error, LogMissing):
                    raise
                raise _in_vain(patience_s, attempts, error.message) from error
        await asyncio.sleep(this_pause_s)
        pause_s = min(_LONGEST_PAUSE_S, pause_s * 2)


def _in_vain(patience_s: float, attempts: int, why: str) -> AegisError:
    times = "once" if attempts == 1 else f"{attempts} times"
    return NotConnected(
        f"cannot connect within {patience_s:g} s (tried {times}): {why}; start the server, or check the URL",
        timeout_s=patience_s,
        attempts=attempts,
    )
