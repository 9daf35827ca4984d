"""An open loop: calls leave at a steady rate, whatever becomes of those before them.

A caller that waits for each answer stops asking while nobody answers, and so hides the very outage that is to
be measured. Here every call has a time at which it is due, and its latency counts from then.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

from aegisipc.eventstore.errors import AegisError
from aegisipc.sdk import CallInDoubt
from bench.relay import Relayed

_TICK_S: Final = 0.001
_MOST_OPEN: Final = 100_000
"""With so many calls open, the next ones wait; they are late then, and their latency says so."""

type Call = Callable[[int], Awaitable[Relayed]]
"""Makes the call of that number."""


class Load:
    """Calls at ``rate`` per second while :meth:`pour` runs, and what came of them."""

    def __init__(self, call: Call, rate: float) -> None:
        self.rate = rate
        self.made = 0
        self.poured_s = 0.0
        self.latencies_s = array("d")
        self.errors: Counter[str] = Counter()
        self.in_doubt = 0
        self.latest: Relayed | None = None
        """The latest reply of the newest epoch: who holds the pen, as far as callers can tell."""
        self.first_reply_s: dict[int, float] = {}
        """When the first reply came that was carried out in this epoch (``time.perf_counter()``)."""
        self._call = call
        self._open: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()

    async def pour(self, stop: asyncio.Event) -> None:
        """Make calls until `stop` is set."""
        began_s, before = time.perf_counter(), self.made
        loop = asyncio.get_running_loop()
        while not stop.is_set():
            now_s = time.perf_counter()
            due = before + int((now_s - began_s) * self.rate)
            while self.made < due and len(self._open) < _MOST_OPEN:
                due_s = began_s + (self.made - before) / self.rate
                task = loop.create_task(self._one(self.made, due_s))
                self._open.add(task)
                task.add_done_callback(self._open.discard)
                self.made += 1
            await asyncio.sleep(_TICK_S)
        self.poured_s += time.perf_counter() - began_s

    async def _one(self, number: int, due_s: float) -> None:
        try:
            reply = await self._call(number)
        except CallInDoubt:
            self.in_doubt += 1
        except AegisError as error:
            self.errors[error.code] += 1
        else:
            self._heard(reply)
        self.latencies_s.append(time.perf_counter() - due_s)

    def _heard(self, reply: Relayed) -> None:
        if self.latest is None or reply.epoch >= self.latest.epoch:
            self.latest = reply
        if reply.epoch not in self.first_reply_s:
            self.first_reply_s[reply.epoch] = time.perf_counter()
            self._changed.set()

    async def reply_after(self, epoch: int, timeout_s: float) -> int:
        """Wait for a reply of a later epoch than `epoch`; returns that epoch.

        Raises:
            TimeoutError: there was none.
        """
        async with asyncio.timeout(timeout_s):
            while True:
                later = [known for known in self.first_reply_s if known > epoch]
                if later:
                    return min(later)
                self._changed.clear()
                await self._changed.wait()

    async def settled(self, timeout_s: float) -> None:
        """Wait until every call is over.

        Raises:
            TimeoutError: some are not.
        """
        async with asyncio.timeout(timeout_s):
            while self._open:
                await asyncio.wait(self._open)

    async def abandon(self) -> None:
        """Stop waiting for calls that are not over."""
        left = list(self._open)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
