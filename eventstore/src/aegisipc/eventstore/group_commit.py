"""Group commit: whatever gathered while the previous frame was in flight goes out as the next one.

One frame is in flight per writer. Alone, a call travels in a frame of its own at once; under load frames grow
by themselves, and one fsync, one round trip and one pass through Python serve hundreds of calls.

What to write is the business of a *source* (a sans-IO core); how long to try, and what an unclear answer
means, is settled here: the very same frame is sent again under the same record id until the log acknowledges
it, refuses it, or its time is up. Between two attempts it pauses, longer each time, and by chance not as long
as another writer that failed at the same moment.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

import structlog

from aegisipc.eventstore.errors import (
    AckUnknown,
    AegisError,
    LogFailed,
    LogFull,
    NoResponders,
    NotConnected,
    Overloaded,
    WrongSequence,
)
from aegisipc.eventstore.jetstream_api import CheckInFlight
from aegisipc.eventstore.log import Appended, Expect, Log, Record, Start

_log = structlog.get_logger("aegisipc.commit")

ATTEMPT_TIMEOUT_S: Final = 2.0
_FIRST_PAUSE_S: Final = 0.01
_LONGEST_PAUSE_S: Final = 0.25
_SHORTEST_ATTEMPT_S: Final = 0.05

_PASSING: Final = (CheckInFlight, AckUnknown, NotConnected, NoResponders, Overloaded, LogFull, LogFailed)
"""Worth trying again: the next attempt may fare better."""

_UNCLEAR: Final = (AckUnknown, LogFailed)
"""The attempt may have been stored all the same."""


class OutFrame(NamedTuple):
    """One frame on its way to the log. ``content`` is the source's own; ``give_up_at`` is event-loop time.

    No two frames of a subject may have the same payload (ours hold their session and number): that is how a
    frame is recognised in the log.
    """

    subject: str
    payload: bytes
    record_id: str
    expect: Expect | None
    give_up_at: float
    content: Any


class FrameSource(Protocol):
    """Whoever has something to write. Called from the event loop only; never while a frame is in flight."""

    def next_frame(self) -> OutFrame | None:
        """Return the next frame, or ``None`` when there is nothing to write."""
        ...

    def acked(self, frame: OutFrame, appended: Appended) -> None:
        """The frame is in the log."""
        ...

    async def refused(self, frame: OutFrame, error: WrongSequence) -> OutFrame | None:
        """The frame's expectation did not hold. Return the frame to try again (with another expectation), or
        ``None``.

        Whatever :class:`AegisError` it raises (it may have to read the log) is taken as passing: it is asked
        again.
        """
        ...

    def gave_up(self, frame: OutFrame, error: AegisError, *, maybe_stored: bool) -> None:
        """The frame's time is up, or the log cannot take it. `maybe_stored`: an attempt went unanswered."""
        ...


class GroupCommit:
    """Drives one source: one frame in flight at a time.

    A source that raises has a defect, and nobody knows what it would have written: nothing more is written
    then. It is logged, kept as ``failure``, and `on_failure` is told, which must fail whatever waits for the
    source. `chance` gives numbers from 0 to 1.
    """

    def __init__(
        self,
        log: Log,
        source: FrameSource,
        *,
        name: str,
        on_failure: Callable[[BaseException], None] | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._log = log
        self._chance = chance
        self._source = source
        self._name = f"commit {name}"
        self._on_failure = on_failure
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._is_busy = False
        self._scheduled = False
        self._closed = False
        self.failure: BaseException | None = None
        self.frames = 0
        self.retries = 0

    @property
    def is_idle(self) -> bool:
        """Nothing is in flight and nothing is about to be."""
        return not self._is_busy and not self._scheduled

    def kick(self, *, now: bool = False) -> None:
        """Say that the source may have something to write. Cheap; call it as often as you like.

        The frame is made in the next turn of the event loop, so that it takes all that this turn brings;
        `now` makes it at once, when enough has gathered already. After :meth:`close`, and after a failure, it
        does nothing.
        """
        if self._is_busy or self._closed:
            return
        if now:
            self._start()
        elif not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._start)

    async def close(self) -> None:
        """Stop at once; what is in flight stays unknown. Idempotent."""
        self._closed = True
        task = self._task
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    def _start(self) -> None:
        self._scheduled = False
        if not self._closed and not self._is_busy:
            # Eager: the frame is on the wire before this returns.
            self._is_busy = True
            task = asyncio.Task(self._run(), loop=self._loop, name=self._name, eager_start=True)
            self._task = None if task.done() else task

    async def _run(self) -> None:
        try:
            while (frame := self._source.next_frame()) is not None:
                self.frames += 1
                await self._store(frame)
        except Exception as error:  # noqa: BLE001 - whatever it was: it must not vanish with this task
            self._fail(error)
        finally:
            self._is_busy = False
            self._task = None

    def _fail(self, error: Exception) -> None:
        self._closed = True
        self.failure = error
        _log.error("commit_failed", name=self._name, frames=self.frames, exc_info=error)
        if self._on_failure is not None:
            self._on_failure(error)

    async def _store(self, frame: OutFrame) -> None:
        longest_s, maybe_stored = _FIRST_PAUSE_S, False
        while True:
            try:
                appended = await self._attempt(frame)
            except _PASSING as error:
                maybe_stored = maybe_stored or isinstance(error, _UNCLEAR)
                pause_s = longest_s * (0.5 + 0.5 * self._chance())
                # What may be stored already is asked for again as long as there is time: that tells.
                is_refused = isinstance(error, LogFull) and not maybe_stored
                hopeless = is_refused and frame.give_up_at != math.inf
                if hopeless or self._loop.time() + pause_s >= frame.give_up_at:
                    self._source.gave_up(frame, error, maybe_stored=maybe_stored)
                    return
                self.retries += 1
                await asyncio.sleep(pause_s)
                longest_s = min(_LONGEST_PAUSE_S, longest_s * 2)
            except WrongSequence as error:
                again = await self._after_refusal(frame, error)
                if again is None:
                    return
                frame = again
            except AegisError as error:
                self._source.gave_up(frame, error, maybe_stored=maybe_stored)
                return
            else:
                self._source.acked(frame, appended)
                return

    async def _attempt(self, frame: OutFrame) -> Appended:
        left_s = frame.give_up_at - self._loop.time()
        return await self._log.append(
            frame.subject,
            frame.payload,
            record_id=frame.record_id,
            expect=frame.expect,
            timeout_s=max(_SHORTEST_ATTEMPT_S, min(ATTEMPT_TIMEOUT_S, left_s)),
        )

    async def _after_refusal(self, frame: OutFrame, error: WrongSequence) -> OutFrame | None:
        """A refusal may mean that an earlier, unanswered attempt of this very frame was stored: look before
        believing it.
        """
        while True:
            try:
                stored = await self._stored(frame)
                if stored is not None:
                    self._source.acked(frame, Appended(stored.seq, duplicate=True))
                    return None
                return await self._source.refused(frame, error)
            except AegisError as unreachable:
                if self._loop.time() >= frame.give_up_at:
                    self._source.gave_up(frame, unreachable, maybe_stored=True)
                    return None
                await asyncio.sleep(_LONGEST_PAUSE_S)

    async def _stored(self, frame: OutFrame) -> Record | None:
        """Return the record that an earlier attempt of `frame` left, if there is one."""
        last = await self._log.last(frame.subject)
        if last is None or last.payload == frame.payload:
            return last
        expect = frame.expect
        if expect is None or expect.subject not in (None, frame.subject):
            return None  # the subject is this writer's own: its latest frame would be the last record there
        # Many may write here: ours would be the first one after the expected sequence, whatever came later.
        async for record in self._log.read([frame.subject], start=Start(expect.seq + 1)):
            return record if record.payload == frame.payload else None
        return None
