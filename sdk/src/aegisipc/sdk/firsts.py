"""Looks in the log for what became of calls that others repeat, when no reply tells it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

import structlog

from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.ids import CallId, format_call_id
from aegisipc.sdk.attached import Seeker
from aegisipc.sdk.core.lanes import PendingCall
from aegisipc.sdk.core.links import Links
from aegisipc.sdk.errors import CallUnknown
from aegisipc.sdk.wire import WireOutcome

_log = structlog.get_logger("aegisipc.client")

MAX_AT_ONCE: Final = 16
"""For so many first calls the log is followed at a time; the holder of the pen is asked about all of them."""

_AGAIN_S: Final = 0.5
_MIN_WAIT_S: Final = 0.01


class Firsts:
    """One search per first call, for as long as anybody waits for it."""

    def __init__(
        self,
        links: Links,
        seeker: Seeker,
        *,
        tell: Callable[[list[WireOutcome]], Any],
        lost: Callable[[CallId, AegisError], None],
    ) -> None:
        self._links = links
        self._seeker = seeker
        self._tell = tell
        self._lost = lost
        self._places = asyncio.Semaphore(MAX_AT_ONCE)
        self._tasks: dict[CallId, asyncio.Task[None]] = {}
        self._is_closed = False

    @property
    def is_busy(self) -> bool:
        """Whether anything is being looked for."""
        return bool(self._tasks)

    def look_for(self, firsts: Iterable[CallId]) -> None:
        """Begin to look for calls."""
        for first in firsts:
            if first not in self._tasks:
                task = asyncio.get_running_loop().create_task(self._look(first))
                self._tasks[first] = task
                task.add_done_callback(partial(self._forget, first))

    def _forget(self, first: CallId, task: asyncio.Task[None]) -> None:
        del self._tasks[first]
        is_sound = task.cancelled() or task.exception() is None
        if is_sound and not self._is_closed and _longest(self._links.waiting_for(first)) > _MIN_WAIT_S:
            self.look_for([first])  # somebody began to wait while the search came to its end

    def tidy(self) -> None:
        """Give up what nobody waits for any more."""
        for first, task in list(self._tasks.items()):
            if first not in self._links:
                task.cancel()

    async def close(self) -> None:
        """Give up everything."""
        self._is_closed = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _look(self, first: CallId) -> None:
        async with self._places:
            while left_s := _longest(self._links.waiting_for(first)):
                try:
                    found = await self._seeker.find(first, None, left_s)
                    outcome = await found.own_outcome(left_s)
                except CallUnknown as error:
                    self._lost(first, error)
                    return
                except AegisError as error:
                    shown = format_call_id(first)
                    _log.warning("first_call_not_read", call_id=shown, error=error.message)
                    await asyncio.sleep(_AGAIN_S)
                    continue
                if outcome is not None:
                    self._tell([(first, int(outcome.mark), outcome.body)])
                    return


def _longest(calls: list[PendingCall]) -> float:
    """Return how long anybody waits yet; 0 if nobody does."""
    if not calls:
        return 0.0
    return max(_MIN_WAIT_S, (max(call.deadline_ns for call in calls) - time.monotonic_ns()) / 1e9)
