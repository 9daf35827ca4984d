"""A bounded queue of messages in front of a coroutine callback."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from .message import Message


class Mailbox:
    """Messages go to ``handle`` one after another, in order, by a task of the mailbox's own.

    Bounded in messages and in payload bytes: ``offer`` refuses what does not fit. ``handle`` must not
    raise.
    """

    def __init__(
        self, handle: Callable[[Message], Awaitable[None]], *, limit_msgs: int, limit_bytes: int, name: str
    ) -> None:
        self._handle = handle
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._queue: asyncio.Queue[Message] = asyncio.Queue(limit_msgs)
        self._worker = asyncio.get_running_loop().create_task(self._work(), name=f"mailbox {name}")

    def offer(self, message: Message) -> bool:
        """Take the message, or return False when there is no room for it."""
        size = len(message.payload)
        if self._queue.full() or (self._bytes and self._bytes + size > self._limit_bytes):
            return False
        self._bytes += size
        self._queue.put_nowait(message)
        return True

    async def drained(self) -> None:
        """Return once everything taken so far has been handled."""
        await self._queue.join()

    async def close(self) -> None:
        """Stop at once; what waits is dropped, a callback in progress is cancelled."""
        self._worker.cancel()
        if self._worker is not asyncio.current_task():
            await asyncio.wait({self._worker})

    async def _work(self) -> None:
        while True:
            message = await self._queue.get()
            try:
                await self._handle(message)
            finally:
                self._bytes -= len(message.payload)
                self._queue.task_done()
