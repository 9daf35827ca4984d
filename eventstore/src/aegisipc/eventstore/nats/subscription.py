"""A subscription that outlives the sessions it is attached to."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import cast

import structlog

from .events import CallbackFailed, Event, SlowConsumer
from .mailbox import Mailbox
from .message import Message

type SyncCallback = Callable[[Message], None]
type AsyncCallback = Callable[[Message], Awaitable[None]]
type Callback = SyncCallback | AsyncCallback

DEFAULT_PENDING_MSGS = 65_536
DEFAULT_PENDING_BYTES = 64 * 1024 * 1024
_REPORT_DROPS_EVERY_S = 1.0

_log = structlog.get_logger(__name__)


class Subscription:
    """One subject (or pattern), one callback; made by ``Connection.subscribe``.

    A plain function is called as the message is read: nothing is queued, nothing can be dropped, and it
    must be quick. A coroutine function gets its messages one after another from a bounded queue; what does
    not fit is dropped and counted. A callback that raises is reported and gets the next message all the
    same.
    """

    def __init__(
        self,
        subject: str,
        queue: str,
        callback: Callback,
        *,
        limits: tuple[int, int],
        report: Callable[[Event], None],
        unsubscribe: Callable[[Subscription], Awaitable[None]],
    ) -> None:
        self.subject = subject
        self.queue = queue
        self.received = 0
        self.dropped = 0
        self.failures = 0
        self.is_closed = False
        self._report = report
        self._unsubscribe = unsubscribe
        self._drops_reported_at = float("-inf")
        self._mailbox: Mailbox | None = None
        self._callback = callback
        if _is_coroutine_function(callback):
            limit_msgs, limit_bytes = limits
            self._mailbox = Mailbox(
                self._call_async, limit_msgs=limit_msgs, limit_bytes=limit_bytes, name=subject
            )

    async def unsubscribe(self) -> None:
        """No callback begins after this, and one in progress is cancelled (unless it is the one that calls).

        Idempotent; never raises for want of a connection.
        """
        await self._unsubscribe(self)

    def deliver(self, message: Message) -> None:
        """A message was read. Never raises."""
        if self.is_closed:
            return
        self.received += 1
        if self._mailbox is None:
            self._call(message)
        elif not self._mailbox.offer(message):
            self.dropped += 1
            self._report_drops()

    async def drained(self) -> None:
        """Return once the callback has finished with everything received so far."""
        if self._mailbox is not None:
            await self._mailbox.drained()

    async def close(self) -> None:
        """Stop delivering, at once."""
        self.is_closed = True
        if self._mailbox is not None:
            await self._mailbox.close()

    def _call(self, message: Message) -> None:
        try:
            result = cast("Callable[[Message], object]", self._callback)(message)
        except Exception as error:  # noqa: BLE001 - reported; it must not end the loop that reads
            self._failed(error)
            return
        if inspect.iscoroutine(result):
            result.close()
            self._failed(TypeError("a callback that returns a coroutine must be declared with 'async def'"))

    async def _call_async(self, message: Message) -> None:
        try:
            await cast("AsyncCallback", self._callback)(message)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            self._failed(error)  # something inside the callback was cancelled, not the callback
        except Exception as error:  # noqa: BLE001 - reported; it must not end the task that calls
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        self.failures += 1
        _log.error("subscription callback failed", subject=self.subject, exc_info=error)
        self._report(CallbackFailed(self.subject, error))

    def _report_drops(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._drops_reported_at < _REPORT_DROPS_EVERY_S:
            return
        self._drops_reported_at = now
        _log.warning("slow consumer: messages dropped", subject=self.subject, dropped=self.dropped)
        self._report(SlowConsumer(self.subject, self.dropped))


def _is_coroutine_function(callback: Callback) -> bool:
    return inspect.iscoroutinefunction(callback) or inspect.iscoroutinefunction(
        getattr(callback, "__call__", None)  # noqa: B004 - an object with an asynchronous __call__
    )
