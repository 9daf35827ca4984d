"""A bounded queue of messages in front of a coroutine callback."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from .message import Message


class Mailbox:
    """Messages go to ``handle`` one after another, in order, by a task of the mailbox's own.

    Bounded in messages and in payload bytes: ``offer`` refuses what does not fit. ``handle`` must not raise.
    """

    def __init__(
        self, handle: Callable[[Message], Awaitable[None]], *, limit_msgs: int, limit_bytes: int, name: str
    ) -> None:
        self._handle = handle
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._is_closed = False
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
        """Return once everything taken so far has been handled, or the mailbox is closed."""
        await self._queue.join()

    async def close(self) -> None:
        """Handle no more; what waits is dropped.

        A callback in progress is cancelled, unless it is the one that calls this: that one may finish.
        """
        self._is_closed = True
        while not self._queue.empty():
            self._queue.get_nowait()
            self._queue.task_done()
        if self._worker is not asyncio.current_task():
            self._worker.cancel()
            await asyncio.wait({self._worker})

    async def _work(self) -> None:
        while not self._is_closed:
            message = await self._queue.get()
            try:
                await self._handle(message)
            finally:
                self._bytes -= len(message.payload)
                self._queue.task_done()
