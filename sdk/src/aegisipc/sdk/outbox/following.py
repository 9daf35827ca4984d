"""Waiting for the outcomes of accepted calls: those just submitted by their replies, others in the log."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from contextlib import suppress
from heapq import heappop, heappush
from typing import Any, Final, NamedTuple, Protocol

import structlog

from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.errors import AegisError, CodecError
from aegisipc.sdk.core.outbox import Backoff, Status
from aegisipc.sdk.errors import CallCancelled, CallExpired, CallFailed, CallInDoubt, CallUnknown
from aegisipc.sdk.outbox.errors import pack_error
from aegisipc.sdk.outbox.notes import Doubted, Ended, Note
from aegisipc.sdk.outbox.store import Known

_log = structlog.get_logger("aegisipc.outbox")

LOOKS: Final = 16
"""How many calls are looked up in the log at once."""
_LOOK_S: Final = 5.0
_UNKNOWN_LOOKS: Final = 3
"""So many times in a row the log must not know an accepted call before that is believed."""
_PATIENCE: Final = Backoff(first_ns=500_000_000, most_ns=15_000_000_000)


class Submitted(Protocol):
    """What a relay needs of a call."""

    @property
    def call_id(self) -> str:
        """Its id."""
        ...

    async def result(self, timeout: float | None = None) -> Any:
        """Wait for its outcome."""
        ...


class Submitter(Protocol):
    """What a relay needs of a client."""

    async def submit(self, target: str, /, *args: Any, **kwargs: Any) -> Submitted:
        """Make a call durable."""
        ...

    def attach(self, *args: Any, **kwargs: Any) -> Any:
        """Return a call made before."""
        ...


class _Look(NamedTuple):
    """A call to be looked up in the log at a time."""

    due_s: float
    entry_id: int
    call_id: str
    looks: int
    unknown: int


class Followers:
    """The accepted calls of a relay that have no outcome yet."""

    def __init__(self, client: Submitter, note: Callable[[Note], None]) -> None:
        self._client = client
        self._note = note
        self._loop = asyncio.get_running_loop()
        self._later: list[_Look] = []
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(LOOKS)

    def follow(self, entry_id: int, pending: Submitted) -> None:
        """Wait for the outcome of a call that was accepted just now."""
        self._spawn(self._reply(entry_id, pending))

    def follow_known(self, known: Known) -> None:
        """Wait for the outcome of a call that was accepted before."""
        self._look_at(_Look(self._loop.time(), known.entry_id, known.call_id, 0, 0))

    async def run(self) -> None:
        """Look up in the log what has to be, until cancelled."""
        while True:
            self._changed.clear()
            wait_s = self._later[0].due_s - self._loop.time() if self._later else None
            if wait_s is None or wait_s > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._changed.wait()
                continue
            await self._room.acquire()
            self._spawn(self._look(heappop(self._later)))

    async def stop(self) -> None:
        """Cancel every wait."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    # -- one call ---------------------------------------------------------------------------------------

    async def _reply(self, entry_id: int, pending: Submitted) -> None:
        try:
            note = await _outcome(entry_id, pending, None)
        except Exception as error:  # noqa: BLE001 - whatever it is, the log knows better
            if not isinstance(error, AegisError):
                _log.exception("outbox_outcome_not_read", entry=entry_id)
            self._again(_Look(0.0, entry_id, pending.call_id, 0, 0))
        else:
            self._take(note, _Look(0.0, entry_id, pending.call_id, 0, 0))

    async def _look(self, look: _Look) -> None:
        try:
            pending = await self._client.attach(look.call_id)
            note = await _outcome(look.entry_id, pending, _LOOK_S)
        except CallUnknown as error:
            if look.unknown + 1 < _UNKNOWN_LOOKS:
                self._again(look._replace(unknown=look.unknown + 1))
            else:
                self._note(Ended(look.entry_id, Status.LOST, error=pack_error(error)))
        except Exception as error:  # noqa: BLE001 - it is tried again, whatever it is
            if not isinstance(error, AegisError):
                _log.exception("outbox_outcome_not_read", entry=look.entry_id)
            self._again(look._replace(unknown=0))
        else:
            self._take(note, look._replace(unknown=0))
        finally:
            self._room.release()

    def _take(self, note: Note, look: _Look) -> None:
        if look.looks == 0 or not isinstance(note, Doubted):
            self._note(note)
        if isinstance(note, Doubted):
            self._again(look)

    def _again(self, look: _Look) -> None:
        looks = look.looks + 1
        delay_s = _PATIENCE.delay_ns(looks, random.random()) / 1e9  # noqa: S311 - not a secret
        self._look_at(look._replace(due_s=self._loop.time() + delay_s, looks=looks))

    def _look_at(self, look: _Look) -> None:
        heappush(self._later, look)
        self._changed.set()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _outcome(entry_id: int, pending: Submitted, timeout_s: float | None) -> Note:
    """Wait for the outcome; raises what says that there is none yet."""
    try:
        result = encode(await pending.result(timeout_s))
    except CallInDoubt:
        return Doubted(entry_id)
    except (
        CallFailed,
        CallExpired,
        CallCancelled,
        CodecError,
    ) as error:  # a CodecError: it has one that cannot be read
        return Ended(entry_id, Status.FAILED, error=pack_error(error))
    return Ended(entry_id, Status.SUCCEEDED, result=result)
