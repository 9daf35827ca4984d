"""Runs a service's own health check for one incarnation, and acts on what it finds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import structlog

from aegisipc.eventstore.errors import AckUnknown
from aegisipc.eventstore.events import Event, InstanceHealthy, InstanceUnhealthy
from aegisipc.sdk.announcing import Announcer
from aegisipc.sdk.core.health import HealthRecord, Word
from aegisipc.sdk.core.pen import Identity
from aegisipc.sdk.health import HealthCheck
from aegisipc.sdk.hosts.base import Host

_log = structlog.get_logger("aegisipc.instance")

_NANO: Final = 1_000_000_000


class HealthWatch:
    """Checks from admission on; a failure keeps the host from starting calls, and is said in the log, until
    the check passes again. ``on_change`` is called whenever ``record`` has changed.
    """

    def __init__(
        self,
        check: HealthCheck,
        record: HealthRecord,
        announcer: Announcer,
        host: Host,
        identity: Identity,
        on_change: Callable[[], None],
    ) -> None:
        self._check, self._record = check, record
        self._announcer, self._host, self._identity = announcer, host, identity
        self._on_change = on_change
        self._words = 0

    async def until_healthy(self, is_over: Callable[[], bool]) -> bool:
        """Check until it passes; tells whether it did before `is_over`. This is for an instance that is not
        ready yet: nothing is said in the log, only in the program's own.
        """
        told = None
        while (reason := await self._check.run()) is not None:
            self._record.on_check_before_ready(reason)
            self._on_change()
            if reason != told:
                told = reason
                _log.warning("not_ready_yet", instance=self._identity.instance, unhealthy=reason)
            with suppress(AckUnknown):
                await self._host.signal.until(is_over, self._check.every_s, "wait")
                return False
        self._record.on_check_before_ready(None)
        self._on_change()
        return True

    async def run(self) -> None:
        """Check for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._check.every_s)
            word = self._record.on_check(await self._check.run(), int(loop.time() * _NANO))
            if word is None:
                continue
            async with self._announcer.turn:
                if word is Word.UNHEALTHY:
                    self._host.hold(f"unhealthy: {self._record.reason}")
                    self._on_change()
                await self._say(word)
                self._record.on_said(word, int(loop.time() * _NANO))
                if word is Word.HEALTHY:
                    self._host.release()
                    self._on_change()

    async def _say(self, word: Word) -> None:
        incarnation = self._identity.incarnation
        event: Event
        if word is Word.UNHEALTHY:
            event = InstanceUnhealthy(incarnation=incarnation, reason=self._record.reason or "unhealthy")
            _log.warning("unhealthy", instance=self._identity.instance, reason=event.reason)
        else:
            event = InstanceHealthy(incarnation=incarnation)
            _log.info("healthy_again", instance=self._identity.instance)
        self._words += 1
        await self._announcer.insist(event, number=self._words)
