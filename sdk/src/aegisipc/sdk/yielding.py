"""Says in the log, for one incarnation, that the pen may go elsewhere."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

import structlog

from aegisipc.eventstore.errors import AckUnknown, AegisError
from aegisipc.eventstore.events import InstanceYielded
from aegisipc.sdk.announcing import Announcer
from aegisipc.sdk.core.pen import Identity
from aegisipc.sdk.hosts.base import Host, describe

_log = structlog.get_logger("aegisipc.instance")

_AGAIN_S: Final = 0.1
_SAY_AGAIN_S: Final = 1.0
_FOREVER: Final = float("inf")


class Yielding:
    """Yields each time that the host has come to rest for that."""

    def __init__(self, announcer: Announcer, host: Host, identity: Identity) -> None:
        self._announcer, self._host, self._identity = announcer, host, identity
        self._words = 0

    async def run(self) -> None:
        """Yield when it is due, for ever."""
        while True:
            await self._host.signal.until(lambda: self._host.to_yield is not None, _FOREVER, "yield")
            epoch = self._host.to_yield
            if epoch is not None:
                self._words += 1
                await self._see_through(epoch)

    async def _see_through(self, epoch: int) -> None:
        """Say it, and wait until there is nothing to yield any more, or something else. What is called off
        before it could be said must not be said: the holder goes on.

        If it is due all the same a while later, then what asked for it was called off and asked for anew just
        when it was said, and the word counted for nothing: it is said again.
        """
        while self._host.to_yield == epoch:
            try:
                async with self._announcer.turn:
                    if self._host.to_yield == epoch:
                        await self._say(epoch)
            except AegisError as error:
                _log.warning("cannot_yield_yet", instance=self._identity.instance, error=describe(error))
                await asyncio.sleep(_AGAIN_S)
            else:
                with suppress(AckUnknown):
                    await self._host.signal.until(
                        lambda: self._host.to_yield != epoch, _SAY_AGAIN_S, "read back that it has yielded"
                    )
                self._words += 1

    async def _say(self, epoch: int) -> None:
        event = InstanceYielded(incarnation=self._identity.incarnation, epoch=epoch, cause=self._why())
        await self._announcer.say(event, patience_s=0.0, number=self._words)

    def _why(self) -> str:
        group, me = self._host.group, self._host.me
        if group is not None and group.handover is not None:
            return group.handover.cause
        return f"unhealthy: {me.unhealthy}" if me is not None and me.unhealthy else "handover"
