"""How doubts of a pool end, beside the late word of the worker that claimed the call, and operators (see
:mod:`~aegisipc.sdk.hosts.pool_operators`).

The worker that has the frame of a call in doubt asks the service's own hook: it has the arguments, and as a
rule no other one has the frame.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

import structlog

from aegisipc.eventstore.events import Resolution
from aegisipc.eventstore.ids import CallId, format_call_id
from aegisipc.eventstore.open_calls import OpenCall
from aegisipc.sdk.core.pool import PoolWorker
from aegisipc.sdk.hosts.base import HostParts
from aegisipc.sdk.reconciling import Reconciler

_log = structlog.get_logger("aegisipc.instance")

_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 30.0


class PoolDoubts:
    """One worker's part in ending doubts."""

    def __init__(
        self,
        parts: HostParts,
        worker: PoolWorker,
        reconciler: Reconciler,
        *,
        pump: Callable[[], None],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._identity = parts.identity
        self._worker, self._reconciler = worker, reconciler
        self._pump, self._spawn = pump, spawn
        self._loop = asyncio.get_running_loop()
        self._asked: dict[CallId, tuple[float, float]] = {}
        """When to ask the service again about a doubt, and how long to wait after that."""
        self._is_asking = False

    # -- the service's own hook -------------------------------------------------------------------------

    def on_tick(self) -> None:
        """Ask about the next doubt, if one is due: one at a time, and nothing while calls may not begin. What
        cannot be told is asked again after 0.5 s, then after twice that, and so on up to 30 s.
        """
        doubts = self._worker.doubts
        if not doubts or self._is_asking or not self._reconciler.is_defined:
            return
        standing = self._worker.standing
        if standing.is_draining or not standing.may_start:
            return
        self._asked = {call_id: due for call_id, due in self._asked.items() if call_id in doubts}
        now = self._loop.time()
        for call_id, call in doubts.items():
            if self._asked.get(call_id, (0.0, 0.0))[0] <= now:
                self._is_asking = True
                self._spawn(self._reconcile(call))
                return

    async def _reconcile(self, call: OpenCall) -> None:
        try:
            _, pause_s = self._asked.get(call.call_id, (0.0, _FIRST_PAUSE_S))
            doubt = self._worker.facts.get(call.call_id)
            finding = await self._reconciler.ask(call)
            self._asked[call.call_id] = self._loop.time() + pause_s, min(2 * pause_s, _LONGEST_PAUSE_S)
            if finding is None or doubt != self._worker.facts.get(call.call_id):
                return  # it cannot be told; or the answer is about a doubt that has ended meanwhile
            who = self._identity
            author = f"{who.service}/{who.instance}"
            said = Resolution(source="reconcile", author=author, reason=finding.reason)
            _log.info("reconciled", call=format_call_id(call.call_id), executed=finding.is_executed)
            self._worker.resolve(call, said, finding.body if finding.is_executed else None)
            self._pump()
        finally:
            self._is_asking = False
