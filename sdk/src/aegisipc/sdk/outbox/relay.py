"""The relay of an outbox: it submits what waits there, and notes what becomes of it.

It works in turns. A turn writes everything that was learned since the one before, and what is going to be
sent now, in one transaction; only then is that sent. So an entry that may have been sent says so in the
database, whenever the process ends.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Self

import structlog

from aegisipc.sdk.core.outbox import (
    OPEN,
    UNSENT,
    Backoff,
    Expire,
    FindOut,
    Now,
    Plan,
    Send,
    Status,
    Step,
)
from aegisipc.sdk.outbox.errors import OutboxError, OutboxLocked, OutboxTimeout
from aegisipc.sdk.outbox.following import Followers, Submitter
from aegisipc.sdk.outbox.notes import Ended, Note
from aegisipc.sdk.outbox.schema import RelayLock
from aegisipc.sdk.outbox.sending import Sender
from aegisipc.sdk.outbox.store import Store, Turn

_log = structlog.get_logger("aegisipc.outbox")

DEFAULT_BACKOFF: Final = Backoff()

_LOCK_POLL_S: Final = 0.05
_IDLE_POLL_S: Final = 0.05
_BUSY_PAUSE_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class RelayOptions:
    """How a relay works.

    ``wait_s``: how long to wait while another relay works on the file, before ``OutboxLocked``; ``None``: for
    as long as it takes, as a standby. ``poll_s``: how often to look for entries that others have committed.
    ``backoff``: how long a blocked lane waits. ``settle_s``: an entry that may have been sent and whose time
    is up is noted as expired if the log does not know it so long after it was sent.
    """

    wait_s: float | None = 30.0
    poll_s: float = 0.05
    settle_s: float = 10.0
    backoff: Backoff = DEFAULT_BACKOFF


class Relay:
    """Submits an outbox's entries: ``async with outbox.relay(client): …`` or ``await relay.run()``.

    It belongs to the event loop in which it is entered, and can be entered once.
    """

    def __init__(
        self,
        open_store: Callable[[], Store],
        lock: RelayLock,
        client: Submitter,
        options: RelayOptions,
        clock_ns: Callable[[], int],
    ) -> None:
        self._open_store = open_store
        self._lock = lock
        self._client = client
        self._options = options
        self._clock_ns = clock_ns
        self._thread: ThreadPoolExecutor | None = None
        self._store: Store | None = None
        self._plan = Plan(backoff=options.backoff)
        self._after_id = 0
        self._notes: list[Note] = []
        self._kicked = asyncio.Event()
        self._turned = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._work: asyncio.Task[None] | None = None

    # -- life -------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Take the relay's place, and begin.

        Raises:
            OutboxLocked: another relay works on the file, and did so for longer than ``wait_s``.
            OutboxCorrupted, OutboxUnavailable: the file cannot be used.
        """
        if self._thread is not None:
            raise RuntimeError("a relay can be started once; make another one with outbox.relay(client)")
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, "aegis outbox")
        try:
            self._store = await self._in_thread(self._open_store)
            await self._take_place()
            self._followers = Followers(self._client, self._note)
            self._sender = Sender(
                self._client,
                self._plan,
                self._followers,
                self._note,
                settle_s=self._options.settle_s,
                clock_ns=self._clock_ns,
            )
            await self._persistently(self._store.set_holder, _myself())
            for known in await self._persistently(self._store.known):
                self._followers.follow_known(known)
        except BaseException:
            await self._end()
            raise
        self._work = self._loop.create_task(self._until_cancelled(), name="aegis outbox relay")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop, and note what is known; raises what the relay ended by, if it did not end by this."""
        await self.stop()
        if kind is None:
            self._raise_failure()

    async def run(self) -> None:
        """Relay until cancelled; raises what made it impossible to go on."""
        async with self:
            assert self._work is not None  # noqa: S101 - entered
            await asyncio.wait({self._work})
            self._raise_failure()

    async def stop(self) -> None:
        """Stop. What is being sent just now is found out by the next relay. Idempotent."""
        if self._work is not None and not self._work.done():
            self._work.cancel()
            await asyncio.wait({self._work})
        await self._end()

    async def _end(self) -> None:
        if self._thread is None:
            return
        store, self._store = self._store, None
        if store is not None:
            await self._in_thread(store.close)
        self._lock.release()
        self._thread.shutdown(wait=False)

    async def _take_place(self) -> None:
        options = self._options
        give_up_s = None if options.wait_s is None else self._loop.time() + options.wait_s
        while not await self._in_thread(self._lock.take):
            if give_up_s is not None and self._loop.time() >= give_up_s:
                holder = await self._in_thread(self._opened().holder)
                raise OutboxLocked(
                    f"cannot start a relay: another one works on {self._opened().path} ({holder}); one is "
                    "enough, whoever adds the entries. wait_s=None waits for its end, as a standby",
                    path=str(self._opened().path),
                    holder=holder,
                )
            await asyncio.sleep(_LOCK_POLL_S)

    def _raise_failure(self) -> None:
        work = self._work
        if work is not None and work.done() and not work.cancelled():
            failure = work.exception()
            if failure is not None:
                raise failure

    # -- for the application ----------------------------------------------------------------------------

    def nudge(self) -> None:
        """Look for new entries now, rather than within ``poll_s``. From any thread."""
        if self._thread is not None:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._kicked.set)

    async def idle(self, timeout: float | None = None, *, outcomes: bool = True) -> None:
        """Wait until every entry is accepted (or is given up), and with ``outcomes`` has its outcome, too.

        Raises:
            OutboxTimeout: that took longer than `timeout` seconds.
            OutboxError: the relay has ended by that.
        """
        statuses = OPEN if outcomes else UNSENT
        until_s = None if timeout is None else self._loop.time() + timeout
        self.nudge()
        while True:
            self._raise_failure()
            self._turned.clear()
            left = await self._persistently(self._opened().count_of, statuses)
            if not left:
                return
            if until_s is not None and self._loop.time() >= until_s:
                raise OutboxTimeout(
                    f"{left} entries of the outbox are not done with after {timeout:g} s; "
                    "outbox.entries(status='waiting') and the like show them, each with its trouble",
                    left=left,
                )
            with suppress(TimeoutError):
                async with asyncio.timeout(_IDLE_POLL_S):
                    await self._turned.wait()

    # -- turns ------------------------------------------------------------------------------------------

    async def _until_cancelled(self) -> None:
        looking = self._loop.create_task(self._followers.run())
        try:
            while True:
                self._kicked.clear()
                await self._turn()
                await self._rest()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            _log.error("outbox_relay_ended", error=repr(error))
            raise
        finally:
            looking.cancel()
            await asyncio.wait({looking})
            await self._followers.stop()
            await self._end_tasks()
            with suppress(Exception):  # what is not noted now is found out by the next relay
                await self._in_thread(self._opened().turn, self._notes, (), (), self._after_id)

    async def _end_tasks(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _turn(self) -> None:
        steps = self._plan.steps(self._now())
        self._notes += [Ended(step.entry_id, Status.EXPIRED) for step in steps if isinstance(step, Expire)]
        sending = [entry_id for step in steps if isinstance(step, Send) for entry_id in step.entry_ids]
        looking = [step.entry_id for step in steps if isinstance(step, FindOut)]
        notes, self._notes = self._notes, []
        try:
            turn = await self._persistently(self._opened().turn, notes, sending, looking, self._after_id)
        except BaseException:
            self._notes = notes + self._notes
            raise
        self._take(turn, steps)
        self._turned.set()

    def _take(self, turn: Turn, steps: Sequence[Step]) -> None:
        if turn.headers:
            self._plan.add(turn.headers)
            self._after_id = turn.headers[-1].entry_id
        for step in steps:
            if isinstance(step, Send):
                self._spawn(self._sender.send(step, turn.to_send))
            elif isinstance(step, FindOut):
                self._spawn(self._sender.find_out(step, turn.to_send))

    async def _rest(self) -> None:
        """Wait until there may be something to do."""
        rest_ns = self._plan.rest_ns(self._now())
        if self._notes or rest_ns == 0:
            return
        wait_s = self._options.poll_s if rest_ns is None else min(self._options.poll_s, rest_ns / 1e9)
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._kicked.wait()

    def _now(self) -> Now:
        return Now(time.monotonic_ns(), self._clock_ns())

    async def _persistently[T](self, work: Callable[..., T], *args: Any) -> T:
        """Do something with the database, however long others write to it."""
        while True:
            try:
                return await self._in_thread(work, *args)
            except OutboxLocked as error:
                _log.warning("outbox_busy", error=error.message)
                await asyncio.sleep(_BUSY_PAUSE_S)

    async def _in_thread[T](self, work: Callable[..., T], *args: Any) -> T:
        assert self._thread is not None  # noqa: S101 - entered
        return await self._loop.run_in_executor(self._thread, work, *args)

    def _opened(self) -> Store:
        if self._store is None:
            raise OutboxError(
                "cannot do that: this relay is not running; start one with outbox.relay(client)"
            )
        return self._store

    def _note(self, note: Note) -> None:
        self._notes.append(note)
        self._kicked.set()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _myself() -> str:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return f"process {os.getpid()} on {socket.gethostname()}, since {since}"
