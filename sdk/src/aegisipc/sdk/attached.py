"""Calls found in the log. What became of them is read from there: no instance needs to be alive for that."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aegisipc.eventstore.calls import Outcome
from aegisipc.eventstore.codec import TypeCodec
from aegisipc.eventstore.errors import AegisError, UnknownCall
from aegisipc.eventstore.frames import CLOSING, Mark
from aegisipc.eventstore.histories import AcceptedCall, CallHistory
from aegisipc.eventstore.ids import CallId, format_call_id
from aegisipc.eventstore.log import Following, Log, Record, Start
from aegisipc.eventstore.seeking import find_call, read_conclusions
from aegisipc.eventstore.subjects import Subjects
from aegisipc.sdk.bodies import Results
from aegisipc.sdk.cancelling import (
    CANCEL_TIMEOUT_S,
    CallAddress,
    check_reason,
    judge,
    no_outcome,
    request_cancel,
)
from aegisipc.sdk.core.lanes import GRACE_NS
from aegisipc.sdk.core.links import MAX_LINKS, first_in
from aegisipc.sdk.errors import CallTimeout, CallUnknown
from aegisipc.sdk.persistence import PASSING, persist
from aegisipc.sdk.receipts import Durability, Receipt

_NEVER_SEQ: Final = 1 << 63
_FOR_EVER_S: Final = 1e9

_SHORTEST_SEARCH_S: Final = 5.0
"""A caller's time is for waiting: what is in the log already is found even when it is up."""

type Enough = Callable[[Outcome], bool]


class Seeker:
    """Finds calls in the log by the time in their ids. ``name`` is the client's. While the log cannot be read
    it is asked again, until `is_closed` says that there is nothing to ask it with.
    """

    def __init__(
        self,
        log: Log,
        subjects: Subjects,
        *,
        name: str = "",
        results: Results | None = None,
        durability: Durability | None = None,
        is_closed: Callable[[], bool] = lambda: False,
    ) -> None:
        self.log = log
        self.subjects = subjects
        self.name = name
        self.results = results or Results()
        self.durability = durability
        self.is_closed = is_closed

    async def find(
        self, call_id: CallId, codec: TypeCodec[Any] | None, timeout_s: float | None
    ) -> AttachedCall:
        """Find an accepted call by the time in its id.

        Raises:
            CallUnknown: the log does not have it.
            CallTimeout: finding it took longer than `timeout_s`.
        """
        shown = format_call_id(call_id)
        why = ""

        async def attempt() -> AcceptedCall:
            nonlocal why
            try:
                return await find_call(self.log, self.subjects, call_id)
            except PASSING as error:
                why = f": {error.message}"
                raise

        try:
            async with asyncio.timeout(timeout_s):
                call = await persist(attempt, self.is_closed)
        except TimeoutError:
            raise CallTimeout(
                f"cannot find call {shown} within {timeout_s:g} s{why}; try again with more time",
                call_id=shown,
            ) from None
        except UnknownCall as error:
            raise CallUnknown(
                f"cannot attach to call {shown}: {error.details['why']}", call_id=shown
            ) from None
        return AttachedCall(self, call, codec)

    async def learn(self) -> None:
        """Find out what receipts are worth, unless that is known."""
        if self.durability is not None:
            await self.durability.learn()

    def receipt(self, seq: int) -> Receipt:
        """Return the receipt for the record at `seq`."""
        if self.durability is None:
            return Receipt("memory", 1, seq)
        return self.durability.receipt(seq)


class _Patience:
    """How long somebody waits: for a time, until a call's own deadline, or for as long as it takes.
    `longest_ns`: how far off that deadline is at most. When it is, only the log's server can tell.
    """

    def __init__(self, timeout_s: float | None, *, longest_ns: int | None = None) -> None:
        self.timeout_s = timeout_s
        self._until_deadline = longest_ns is not None and timeout_s is None
        self._loop = asyncio.get_running_loop()
        longest_s = timeout_s
        if longest_s is None and longest_ns is not None:
            longest_s = (longest_ns + GRACE_NS) / 1e9
        self._give_up_at = None if longest_s is None else self._loop.time() + longest_s

    def is_over(self) -> bool:
        """Whether it is at its end for whoever cannot ask the server for the time."""
        return self._give_up_at is not None and self._loop.time() >= self._give_up_at

    async def left_s(self, log: Log, deadline_ns: int) -> float | None:
        """Return what is left of it, ``None`` for ever."""
        if self._until_deadline:
            left_ns = deadline_ns + GRACE_NS - (await log.bounds()).now_ns
            self._until_deadline = False
            self._give_up_at = self._loop.time() + max(0, left_ns) / 1e9
        return None if self._give_up_at is None else max(0.0, self._give_up_at - self._loop.time())


class AttachedCall:
    """A call found in the log."""

    def __init__(self, seeker: Seeker, call: AcceptedCall, codec: TypeCodec[Any] | None) -> None:
        self._seeker = seeker
        self._call = call
        self._codec = codec
        self._address = CallAddress(call.call_id, call.service, call.group, f"{call.service}.{call.method}")
        self._outcome: Outcome | None = None

    @property
    def call_id(self) -> str:
        """The id of the call."""
        return format_call_id(self._call.call_id)

    @property
    def receipt(self) -> Receipt:
        """What its being in the log is worth."""
        return self._seeker.receipt(self._call.seq)

    async def result(self, timeout: float | None = None) -> Any:
        """Wait for the outcome; see :class:`Pending`."""
        longest_ns = self._call.deadline_ns - self._call.at_ns
        outcome = await self.outcome(_any, _Patience(timeout, longest_ns=longest_ns))
        return await self._seeker.results.value_of(outcome, self._address.target, self._codec)

    async def settled(self, timeout: float | None = None) -> Any:
        """Wait for the final outcome; see :class:`Pending`."""
        outcome = await self.outcome(is_settled, _Patience(timeout))
        return await self._seeker.results.value_of(outcome, self._address.target, self._codec)

    async def cancel(self, reason: str = "", timeout: float | None = None) -> None:
        """Have the call cancelled; see :class:`Pending`."""
        check_reason(reason)
        patience = _Patience(CANCEL_TIMEOUT_S if timeout is None else timeout)
        seeker = self._seeker
        outcome = await self._persist(self._outcome_by_now, patience)
        if outcome is not None and outcome.mark in CLOSING:
            judge(self._address, outcome)
            return
        left_s = await patience.left_s(seeker.log, 0) or 0.0
        await request_cancel(seeker.log, seeker.subjects, self._address, seeker.name, reason, left_s)
        await self.cancelled(await patience.left_s(seeker.log, 0) or 0.0)

    async def cancelled(self, timeout_s: float) -> None:
        """Wait until it is cancelled.

        Raises:
            CallFinished: it has another outcome.
            CallTimeout: it has none within `timeout_s`.
        """
        try:
            outcome = await self._own_outcome(is_settled, _Patience(timeout_s))
        except PASSING as error:
            raise no_outcome(self._address, timeout_s) from error
        if outcome is None:
            raise no_outcome(self._address, timeout_s)
        judge(self._address, outcome)

    async def _outcome_by_now(self) -> Outcome | None:
        history = CallHistory(self._seeker.subjects, self._call)
        await read_conclusions(self._seeker.log, history)
        return history.outcome

    async def outcome(self, enough: Enough, patience: _Patience) -> Outcome:
        """Return its outcome, or that of the call it repeats, once it is `enough`.

        Raises:
            CallTimeout: there is none in time, or it could not be read; ``call_id`` is that of the call which
                has none.
            CallUnknown: it repeats a call that the log does not have.
            NotConnected: the client was closed.
        """
        call, links = self, 0
        while True:
            try:
                outcome = await call._own_outcome(enough, patience)
            except PASSING as error:
                if self._seeker.is_closed():
                    raise
                raise unread(self._address.target, call.call_id, error) from error
            if outcome is None:
                raise still_open(self._address.target, call.call_id, patience.timeout_s)
            first = first_in(outcome.call_id, outcome.body) if outcome.mark is Mark.DUPLICATE else None
            if first is None or links == MAX_LINKS:
                return outcome
            left_s = await self._persist(lambda: patience.left_s(self._seeker.log, 0), patience)
            left_s = left_s if left_s is None else max(_SHORTEST_SEARCH_S, left_s)
            call, links = await self._seeker.find(first, self._codec, left_s), links + 1

    async def own_outcome(self, timeout_s: float) -> Outcome | None:
        """Return its own outcome, whatever that is; ``None`` if there is none in time."""
        return await self._own_outcome(_any, _Patience(timeout_s))

    async def _own_outcome(self, enough: Enough, patience: _Patience) -> Outcome | None:
        if self._outcome is None or not is_final(self._outcome):
            self._outcome = await self._persist(lambda: self._read_on(enough, patience), patience)
        return self._outcome if self._outcome is not None and enough(self._outcome) else None

    async def _persist[T](self, attempt: Callable[[], Awaitable[T]], patience: _Patience) -> T:
        return await persist(attempt, lambda: self._seeker.is_closed() or patience.is_over())

    async def _read_on(self, enough: Enough, patience: _Patience) -> Outcome | None:
        """Read to a final outcome, else to the end of the log: a doubt or a dead letter may be over by then.
        If that is not `enough`, wait for more.
        """
        log = self._seeker.log
        history = CallHistory(self._seeker.subjects, self._call)
        position = await read_conclusions(log, history)
        if history.is_final or (history.outcome is not None and enough(history.outcome)):
            return history.outcome
        left_s = await patience.left_s(log, history.call.deadline_ns)
        found = asyncio.Event()

        def look(record: Record) -> None:
            history.apply(record)
            if history.is_final or (history.outcome is not None and enough(history.outcome)):
                found.set()
            else:
                found.clear()  # it was in doubt, and is to run again

        following = await log.follow(history.conclusions, look, start=Start(position + 1))
        try:
            await _found_or_failed(found, following, left_s)
        finally:
            await following.stop()
        return history.outcome


def is_settled(outcome: Outcome) -> bool:
    """Whether an outcome answers what became of the call: all but a doubt do."""
    return outcome.mark is not Mark.IN_DOUBT


def _any(_: Outcome) -> bool:
    return True


def is_final(outcome: Outcome) -> bool:
    """Whether nothing can come after an outcome."""
    return outcome.mark not in (Mark.IN_DOUBT, Mark.DEAD_LETTERED)


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


def unread(target: str, call_id: str, error: AegisError) -> CallTimeout:
    """Return the error for a call of which the log could not be read in time."""
    return CallTimeout(
        f"{target} is durable, but its outcome cannot be read now: {error.message}; attach({call_id!r}) "
        "tries again",
        call_id=call_id,
    )


def still_open(target: str, call_id: str, timeout_s: float | None) -> CallTimeout:
    """Return the error for a call that has no outcome in time."""
    waited = "" if timeout_s is None else f" after {timeout_s:g} s"
    return CallTimeout(
        f"{target} is durable, but has no outcome{waited}; attach({call_id!r}) waits on", call_id=call_id
    )
