"""Patience with servers that are still starting: several programs are often started at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from aegisipc.eventstore.cli import say
from aegisipc.eventstore.errors import AckUnknown, AegisError, LogMissing, NoResponders, NotConnected

_RETRY_S: Final = 0.1
_MAY_PASS: Final = (NotConnected, NoResponders, LogMissing, AckUnknown)


async def patiently[T](attempt: Callable[[], Awaitable[T]], wait_s: float) -> T:
    """Return what `attempt` returns, trying again for up to `wait_s` seconds while there is hope.

    What is waited for is said once on stderr. What time does not heal (wrong credentials, an unsuitable
    server, another configuration) is raised at once.

    Raises:
        AegisError: what the last attempt raised.
    """
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + wait_s
    told = ""
    while True:
        try:
            return await attempt()
        except _MAY_PASS as error:
            if loop.time() + _RETRY_S > give_up_at:
                raise _gave_up(error, wait_s) from error
            if error.code != told:
                told = error.code
                say(f"waiting for up to {give_up_at - loop.time():.0f} s: {error.message}")
        await asyncio.sleep(_RETRY_S)


def _gave_up(error: AegisError, wait_s: float) -> AegisError:
    if wait_s <= 0:
        return error
    return type(error)(f"{error.message} (waited {wait_s:g} s)", **error.details)
