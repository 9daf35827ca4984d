"""Calls whose outcome is awaited separately: submitted by this client, or found in the log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, Protocol

from aegisipc.eventstore.calls import Outcome
from aegisipc.eventstore.codec import TypeCodec
from aegisipc.eventstore.errors import UnknownCall
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.histories import AcceptedCall, CallHistory
from aegisipc.eventstore.ids import CallId, format_call_id
from aegisipc.eventstore.log import Following, Log, Record, Start
from aegisipc.eventstore.seeking import find_call
from aegisipc.eventstore.subjects import Subjects
from aegisipc.sdk.core.caller import GRACE_NS, PendingCall
from aegisipc.sdk.errors import CallTimeout, CallUnknown
from aegisipc.sdk.outcomes import error_of_fate, value_of

_CATCH_UP_S: Final = 60.0
_NEVER_SEQ: Final = 1 << 63
_FOR_EVER_S: Final = 1e9


class Pending(Protocol):
    """A durable call."""

    @property
    def call_id(self) -> str:
        """The id by which any process can attach to the call."""
        ...

    async def result(self, timeout: float | None = None) -> Any:
        """Wait for the outcome: return the result, or raise what ``Client.call`` raises.

        Without `timeout` (seconds), waits until the call's own deadline.
        """
        ...

    async def settled(self, timeout: float | None = None) -> Any:
        """Like :meth:`result`, but waits on through a doubt for the final answer; without `timeout`, for as
        long as it takes.
        """
        ...


def wake(waiters: list[asyncio.Future[None]]) -> None:
    """Resolve futures that are not done yet."""
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)


async def _once(waiters: list[Any] | None, timeout_s: float | None, *, is_true: bool) -> list[Any]:
    """Wait for one wake-up of a list of waiters (made if there is none yet)."""
    waiters = [] if waiters is None else waiters
    if not is_true:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters.append(future)
        async with asyncio.timeout(timeout_s):
            await future
    return waiters


class SubmittedCall:
    """A call that this client submitted and still holds in memory."""

    def __init__(
        self, pending: PendingCall, target: str, codec: TypeCodec[Any] | None, seeker: Seeker
    ) -> None:
        self._pending = pending
        self._target = target
        self._codec = codec
        self._seeker = seeker
        if pending.over_waiters is None:
            pending.over_waiters = []
        if pending.accept_waiters is None:
            pending.accept_waiters = []

    @property
    def call_id(self) -> str:
        """The id by which any process can attach to the call."""
        return format_call_id(self._pending.call_id)

    async def accepted(self) -> None:
        """Wait until the call is durable; raises why it is not."""
        pending = self._pending
        await _once(pending.accept_waiters, None, is_true=bool(pending.seq) or pending.is_over)
        if pending.fate is not None and not pending.seq:
            raise error_of_fate(pending)

    async def result(self, timeout: float | None = None) -> Any:
        """Wait for the outcome; see :class:`Pending`."""
        pending = self._pending
        try:
            await _once(pending.over_waiters, timeout, is_true=pending.is_over)
        except TimeoutError:
            raise _still_open(self._target, self.call_id, timeout) from None
        if pending.outcome is None:
            raise error_of_fate(pending)
        return value_of(pending.outcome, self._target, self._codec)

    async def settled(self, timeout: float | None = None) -> Any:
        """Wait for the final outcome; see :class:`Pending`."""
        outcome = self._pending.outcome
        if outcome is not None and outcome.mark is not Mark.IN_DOUBT:
            return value_of(outcome, self._target, self._codec)
        found = await self._seeker.find(self._pending.call_id, self._codec, timeout)
        return await found.settled(timeout)


class Seeker:
    """Finds calls in the log by the time in their ids."""

    def __init__(self, log: Log, subjects: Subjects) -> None:
        self.log = log
        self.subjects = subjects

    async def find(
        self, call_id: CallId, codec: TypeCodec[Any] | None, timeout_s: float | None
    ) -> AttachedCall:
        """Find an accepted call by the time in its id.

        Raises:
            CallUnknown: the log does not have it.
            CallTimeout: finding it took longer than `timeout_s`.
        """
        shown = format_call_id(call_id)
        try:
            async with asyncio.timeout(timeout_s):
                call = await find_call(self.log, self.subjects, call_id)
        except TimeoutError:
            raise CallTimeout(
                f"cannot find call {shown} within {timeout_s:g} s; try again with more time", call_id=shown
            ) from None
        except UnknownCall:
            raise CallUnknown(
                f"cannot attach to call {shown}: the log holds no such call; it was never accepted, or it is "
                "older than the log",
                call_id=shown,
            ) from None
        return AttachedCall(self.log, self.subjects, call, codec)


class AttachedCall:
    """A call found in the log. Its outcome is read from there: no instance needs to be alive for that."""

    def __init__(
        self,
        log: Log,
        subjects: Subjects,
        call: AcceptedCall,
        codec: TypeCodec[Any] | None,
    ) -> None:
        self._log = log
        self._subjects = subjects
        self._call = call
        self._target = f"{call.service}.{call.method}"
        self._codec = codec
        self._outcome: Outcome | None = None

    @property
    def call_id(self) -> str:
        """The id of the call."""
        return format_call_id(self._call.call_id)

    async def result(self, timeout: float | None = None) -> Any:
        """Wait for the outcome; see :class:`Pending`."""
        if timeout is None:
            left_ns = self._call.deadline_ns - (await self._log.bounds()).now_ns
            timeout = max(0.0, (left_ns + GRACE_NS) / 1e9)
        return await self._follow(lambda _: True, timeout)

    async def settled(self, timeout: float | None = None) -> Any:
        """Wait for the final outcome; see :class:`Pending`."""
        return await self._follow(lambda outcome: outcome.mark is not Mark.IN_DOUBT, timeout)

    async def _follow(self, enough: Callable[[Outcome], bool], timeout_s: float | None) -> Any:
        if self._outcome is None or not enough(self._outcome):
            await self._read_on(enough, timeout_s)
        if self._outcome is None or not enough(self._outcome):
            raise _still_open(self._target, self.call_id, timeout_s)
        return value_of(self._outcome, self._target, self._codec)

    async def _read_on(self, enough: Callable[[Outcome], bool], timeout_s: float | None) -> None:
        found = asyncio.Event()
        history = CallHistory(self._subjects, self._call)
        async for record in self._log.read([history.fence]):  # who held the pen when the call came in
            if record.seq > self._call.seq:
                break
            history.apply(record)

        def look(record: Record) -> None:
            history.apply(record)
            self._outcome = history.outcome
            if self._outcome is not None and enough(self._outcome):
                found.set()
            else:
                found.clear()  # it was in doubt, and is to run again

        start = Start(self._call.seq + 1)
        following = await self._log.follow([history.pen, history.fence], look, start=start)
        try:
            await following.caught_up(_CATCH_UP_S)
            await _found_or_failed(found, following, timeout_s)
        finally:
            await following.stop()


async def _found_or_failed(found: asyncio.Event, following: Following, timeout_s: float | None) -> None:
    """Return when it was found or the time is up; raises why following ended, if it did."""
    finding = asyncio.ensure_future(found.wait())
    failing = asyncio.ensure_future(following.reached(_NEVER_SEQ, _FOR_EVER_S))
    try:
        await asyncio.wait({finding, failing}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if failing.done() and not found.is_set():
            await failing
    finally:
        finding.cancel()
        failing.cancel()
        await asyncio.wait({finding, failing})


def _still_open(target: str, call_id: str, timeout_s: float | None) -> CallTimeout:
    waited = "" if timeout_s is None else f" after {timeout_s:g} s"
    return CallTimeout(
        f"{target} is durable, but has no outcome{waited}; attach({call_id!r}) waits on", call_id=call_id
    )
