"""Calls whose outcome is awaited separately: submitted by this client, or found in the log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Protocol

from aegisipc.eventstore.codec import TypeCodec
from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.frames import CLOSING
from aegisipc.eventstore.ids import format_call_id
from aegisipc.sdk.attached import AttachedCall, Seeker, is_final, still_open
from aegisipc.sdk.cancelling import (
    CANCEL_TIMEOUT_S,
    CallAddress,
    check_reason,
    judge,
    no_outcome,
    repeats,
    request_cancel,
)
from aegisipc.sdk.core.lanes import Fate, PendingCall
from aegisipc.sdk.outcomes import error_of_fate
from aegisipc.sdk.receipts import Receipt

__all__ = ["AttachedCall", "Pending", "Seeker", "SubmittedCall", "wake"]

_SHORTEST_LOOK_S: Final = 0.1


class Pending(Protocol):
    """A durable call."""

    @property
    def call_id(self) -> str:
        """The id by which any process can attach to the call."""
        ...

    @property
    def receipt(self) -> Receipt:
        """Where it is in the log, and what the server's word for that is worth."""
        ...

    async def result(self, timeout: float | None = None) -> Any:
        """Wait for the outcome: return the result, or raise what ``Client.call`` raises.

        Without `timeout` (seconds), waits until the call's own deadline.
        """
        ...

    async def settled(self, timeout: float | None = None) -> Any:
        """Like :meth:`result`, but waits on through a doubt for the final answer; without `timeout`, for as
        long as it takes. A dead letter that was requeued goes on to what comes of that.
        """
        ...

    async def cancel(self, reason: str = "", timeout: float | None = None) -> None:
        """Ask for the call to be cancelled, durably, and return when it is: it does not start any more, or
        its handler was cancelled. `timeout` (default: 30 s) bounds the wait.

        Raises:
            CallFinished: it has another outcome. If it had that before, nothing was written.
            CallTimeout: it has no outcome in time. The request stands.
            ServiceDefinitionError: the reason cannot be used.
        """
        ...


def wake(waiters: list[asyncio.Future[None]]) -> None:
    """Resolve futures that are not done yet."""
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)


async def _once(waiters: list[Any] | None, timeout_s: float | None, *, is_true: bool) -> None:
    """Wait for one wake-up of a list of waiters."""
    if waiters is None or is_true:
        return
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiters.append(future)
    async with asyncio.timeout(timeout_s):
        await future


class SubmittedCall:
    """A call that this client submitted and still holds in memory. `drop` keeps it from being sent, and tells
    whether that was in time.
    """

    def __init__(
        self,
        pending: PendingCall,
        target: str,
        codec: TypeCodec[Any] | None,
        seeker: Seeker,
        drop: Callable[[PendingCall], bool],
    ) -> None:
        self._pending = pending
        self._target = target
        self._codec = codec
        self._seeker = seeker
        self._drop = drop
        lane = pending.lane
        self._address = CallAddress(pending.call_id, lane.service, lane.group, target)
        if pending.over_waiters is None:
            pending.over_waiters = []
        if pending.accept_waiters is None:
            pending.accept_waiters = []

    @property
    def call_id(self) -> str:
        """The id by which any process can attach to the call."""
        return format_call_id(self._pending.call_id)

    @property
    def receipt(self) -> Receipt:
        """Where it is in the log, and what the server's word for that is worth."""
        return self._seeker.receipt(self._pending.seq)

    async def accepted(self) -> None:
        """Wait until the call is durable; raises why it is not."""
        pending = self._pending
        await _once(pending.accept_waiters, None, is_true=bool(pending.seq) or pending.is_over)
        if pending.seq:
            return
        if pending.fate is not None:
            raise error_of_fate(pending)
        await self._look_up()

    async def _look_up(self) -> None:
        """Its outcome overtook the acknowledgement, which may be lost: the log tells where it is. Within the
        caller's time; what is not found out by then is not claimed.
        """
        pending = self._pending
        left_s = max(_SHORTEST_LOOK_S, (pending.deadline_ns - time.monotonic_ns()) / 1e9)
        with suppress(AegisError):
            found = await self._seeker.find(pending.call_id, self._codec, left_s)
            pending.seq = pending.seq or found.receipt.seq

    async def result(self, timeout: float | None = None) -> Any:
        """Wait for the outcome; see :class:`Pending`."""
        pending = self._pending
        try:
            await _once(pending.over_waiters, timeout, is_true=pending.is_over)
        except TimeoutError:
            shown = format_call_id(pending.first) if pending.first is not None else self.call_id
            raise still_open(self._target, shown, timeout) from None
        if pending.outcome is None:
            raise error_of_fate(pending)
        return await self._seeker.results.value_of(pending.outcome, self._target, self._codec)

    async def settled(self, timeout: float | None = None) -> Any:
        """Wait for the final outcome; see :class:`Pending`."""
        outcome = self._pending.outcome
        if outcome is not None and is_final(outcome):
            return await self._seeker.results.value_of(outcome, self._target, self._codec)
        found = await self._seeker.find(self._pending.call_id, self._codec, timeout)
        return await found.settled(timeout)

    async def cancel(self, reason: str = "", timeout: float | None = None) -> None:
        """Have the call cancelled; see :class:`Pending`. One that was not sent yet is dropped."""
        check_reason(reason)
        pending, seeker = self._pending, self._seeker
        timeout_s = CANCEL_TIMEOUT_S if timeout is None else timeout
        if self._drop(pending) or pending.fate is Fate.DROPPED:
            return
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + timeout_s
        try:
            await _once(pending.accept_waiters, timeout_s, is_true=bool(pending.seq) or pending.is_over)
        except TimeoutError:
            raise still_open(self._target, self.call_id, timeout_s) from None
        if pending.fate is not None and not pending.seq:
            raise error_of_fate(pending)
        if pending.first is not None:
            raise repeats(self._address, pending.first)
        if pending.outcome is not None and pending.outcome.mark in CLOSING:
            judge(self._address, pending.outcome)
            return
        left_s = max(0.0, give_up_at - loop.time())
        await request_cancel(seeker.log, seeker.subjects, self._address, seeker.name, reason, left_s)
        await self._cancelled(give_up_at, timeout_s)

    async def _cancelled(self, give_up_at: float, timeout_s: float) -> None:
        pending, loop = self._pending, asyncio.get_running_loop()
        try:
            await _once(pending.over_waiters, give_up_at - loop.time(), is_true=pending.is_over)
        except TimeoutError:
            raise no_outcome(self._address, timeout_s) from None
        if pending.first is not None:
            raise repeats(self._address, pending.first)
        if pending.outcome is not None and pending.outcome.mark in CLOSING:
            judge(self._address, pending.outcome)
            return
        # It is in doubt, or its caller's time is up: what becomes of it is in the log.
        found = await self._seeker.find(pending.call_id, self._codec, max(0.1, give_up_at - loop.time()))
        await found.cancelled(max(0.0, give_up_at - loop.time()))
