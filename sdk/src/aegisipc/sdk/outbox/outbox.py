"""The outbox as an application sees it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from weakref import WeakSet

from aegisipc.eventstore.calls import Outcome
from aegisipc.eventstore.codec import TypeCodec
from aegisipc.eventstore.errors import CodecError
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.ids import parse_call_id
from aegisipc.sdk.call_options import Priority
from aegisipc.sdk.core.outbox import CLOSED, UNSENT, Status
from aegisipc.sdk.errors import ServiceDefinitionError
from aegisipc.sdk.outbox.adding import Adder
from aegisipc.sdk.outbox.entries import Draft, Entry, Ticket, draft
from aegisipc.sdk.outbox.errors import (
    OutboxEntryExpired,
    OutboxMisused,
    OutboxTimeout,
    damaged,
    unpack_error,
)
from aegisipc.sdk.outbox.following import Submitter
from aegisipc.sdk.outbox.relay import Relay, RelayOptions
from aegisipc.sdk.outbox.schema import RelayLock
from aegisipc.sdk.outbox.store import Ending, Store
from aegisipc.sdk.outcomes import codec_of, value_of

DEFAULT_MAX_WAITING: Final = 100_000
DEFAULT_MAX_ARGUMENTS_BYTES: Final = 64 * 1024 * 1024
DEFAULT_BUSY_S: Final = 5.0

_FIRST_POLL_S: Final = 0.01
_LAST_POLL_S: Final = 0.25


class Outbox:
    """Calls that wait in a SQLite database to be submitted, each exactly once.

    `path` is the application's own database: :meth:`add` writes into the transaction that the application is
    in, so that a call is made if and only if that is committed. A *relay* submits what is committed.

    `max_waiting` bounds how many entries may wait, `max_arguments_bytes` the arguments of each, and `busy_s`
    how long to wait for the database while others write to it.

    Its methods block for as long as SQLite takes, except those that are awaited. It may be used from any
    thread, and by any number of processes.

    Raises:
        OutboxCorrupted: the file is no database, is damaged, or has the tables of another version.
        OutboxLocked, OutboxUnavailable, OutboxMisused: it cannot be opened.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_waiting: int = DEFAULT_MAX_WAITING,
        max_arguments_bytes: int = DEFAULT_MAX_ARGUMENTS_BYTES,
        busy_s: float = DEFAULT_BUSY_S,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        text = os.fspath(path)
        if not text or text == ":memory:" or text.startswith("file:"):
            raise OutboxMisused(
                f"cannot open an outbox at {text!r}: it is for what must outlive the process; give the path "
                "of the application's database file"
            )
        self.path = Path(text).absolute()
        self._busy_s = busy_s
        self._clock_ns = clock_ns
        self._max_arguments_bytes = max_arguments_bytes
        self._adder = Adder(self.path, max_waiting)
        self._relays: WeakSet[Relay] = WeakSet()
        self._store = self._open()
        try:
            self._store.check()
        except BaseException:
            self._store.close()
            raise

    def _open(self) -> Store:
        return Store(self.path, self._busy_s, self._clock_ns)

    # -- adding -----------------------------------------------------------------------------------------

    def add(
        self,
        connection: Any,
        target: str,
        /,
        *args: Any,
        resource_id: str | None = None,
        timeout: float | None = None,
        idempotency_key: str | None = None,
        priority: Priority = "normal",
        expires_in: float | None = None,
        **kwargs: Any,
    ) -> Ticket:
        """Add a call in the transaction that `connection` is in; it is made once that is committed.

        `connection` is a ``sqlite3.Connection``, or a ``Connection`` or ``Session`` of SQLAlchemy, of the
        database in which the outbox is. Nothing is committed here.

        The arguments and options are those of ``Client.submit``. The key is made up if there is none. Adding
        the same call with the same key again gives the same entry. ``expires_in`` (seconds): what is not
        accepted by then is not made at all.

        Raises:
            InvalidName, NotEncodable, PayloadTooLarge, ServiceDefinitionError: it could never be accepted.
            OutboxFull, OutboxLocked, OutboxMisused, OutboxKeyConflict: see there. Nothing was added.
            OutboxCorrupted, OutboxUnavailable: the file cannot be used.
        """
        options = _options(resource_id, timeout, idempotency_key, priority, expires_in)
        return self._adder.add(connection, self._draft(target, args, kwargs, options))

    async def add_async(
        self,
        connection: Any,
        target: str,
        /,
        *args: Any,
        resource_id: str | None = None,
        timeout: float | None = None,
        idempotency_key: str | None = None,
        priority: Priority = "normal",
        expires_in: float | None = None,
        **kwargs: Any,
    ) -> Ticket:
        """Like :meth:`add`, with an ``AsyncConnection`` or ``AsyncSession`` of SQLAlchemy (on aiosqlite), or
        an ``aiosqlite.Connection``.
        """
        options = _options(resource_id, timeout, idempotency_key, priority, expires_in)
        return await self._adder.add_async(connection, self._draft(target, args, kwargs, options))

    def put(
        self,
        target: str,
        /,
        *args: Any,
        resource_id: str | None = None,
        timeout: float | None = None,
        idempotency_key: str | None = None,
        priority: Priority = "normal",
        expires_in: float | None = None,
        **kwargs: Any,
    ) -> Ticket:
        """Add a call in a transaction of its own: it is durable when this returns. Like :meth:`add`."""
        options = _options(resource_id, timeout, idempotency_key, priority, expires_in)
        return self._put(self._draft(target, args, kwargs, options))

    async def put_async(
        self,
        target: str,
        /,
        *args: Any,
        resource_id: str | None = None,
        timeout: float | None = None,
        idempotency_key: str | None = None,
        priority: Priority = "normal",
        expires_in: float | None = None,
        **kwargs: Any,
    ) -> Ticket:
        """Like :meth:`put`, without blocking the event loop. If cancelled, it may be added all the same."""
        options = _options(resource_id, timeout, idempotency_key, priority, expires_in)
        return await asyncio.to_thread(self._put, self._draft(target, args, kwargs, options))

    def _draft(self, target: str, args: Any, kwargs: dict[str, Any], options: dict[str, Any]) -> Draft:
        now_ns, limit = self._clock_ns(), self._max_arguments_bytes
        return draft(target, args, kwargs, options, now_ns=now_ns, limit_bytes=limit)

    def _put(self, entry: Draft) -> Ticket:
        with self._store.transaction("add an entry to the outbox") as connection:
            ticket = self._adder.add(connection, entry)
        self.nudge()
        return ticket

    # -- relaying ---------------------------------------------------------------------------------------

    def relay(self, client: Submitter, **options: Any) -> Relay:
        """Return a relay that submits with `client`: ``async with outbox.relay(client): …``, or ``await
        outbox.relay(client).run()``. `options` are those of :class:`RelayOptions`.

        One relay works on a file at a time, whichever process it is in.
        """
        relay = Relay(self._open, RelayLock(self.path), client, RelayOptions(**options), self._clock_ns)
        self._relays.add(relay)
        return relay

    def nudge(self) -> None:
        """Tell this outbox's relays to look for new entries now: after a commit, from any thread. They look
        by themselves, too, twenty times in a second.
        """
        for relay in list(self._relays):
            relay.nudge()

    # -- what became of them ----------------------------------------------------------------------------

    async def result(self, entry: int | Ticket, *, returns: Any = None, timeout: float | None = None) -> Any:
        """Wait until an entry has its outcome: return the result, or raise the error.

        It waits through a doubt, and for as long as it takes if there is no `timeout` (seconds).

        Raises:
            OutboxEntryExpired: it was not accepted in time.
            OutboxEntryUnknown: there is no such entry.
            OutboxTimeout: no outcome yet.
            AegisError: the entry's own error, as ``Client.call`` raises it.
        """
        number, codec = _number(entry), codec_of(returns)
        until_s = None if timeout is None else time.monotonic() + timeout
        pauses = _pauses()
        while True:
            ending = await asyncio.to_thread(self._store.ending, number)
            if ending.status in CLOSED:
                return self._value(number, ending, codec)
            await asyncio.sleep(_pause_s(next(pauses), until_s, number, ending))

    def wait(self, entry: int | Ticket, *, returns: Any = None, timeout: float | None = None) -> Any:
        """Like :meth:`result`, blocking."""
        number, codec = _number(entry), codec_of(returns)
        until_s = None if timeout is None else time.monotonic() + timeout
        pauses = _pauses()
        while True:
            ending = self._store.ending(number)
            if ending.status in CLOSED:
                return self._value(number, ending, codec)
            time.sleep(_pause_s(next(pauses), until_s, number, ending))

    def _value(self, number: int, ending: Ending, codec: TypeCodec[Any] | None) -> Any:
        if ending.status is Status.EXPIRED:
            raise OutboxEntryExpired(
                f"{ending.target} (entry {number} of the outbox) was not accepted in time, and is not made: "
                "it certainly did not run. Add it again if it should be made all the same",
                entry_id=number,
            )
        try:
            if ending.status is Status.SUCCEEDED:
                outcome = Outcome(parse_call_id(ending.call_id or ""), Mark.SUCCEEDED, ending.result)
                return value_of(outcome, ending.target, codec)
            failure = unpack_error(ending.error or b"")
        except (CodecError, KeyError, TypeError) as error:
            raise damaged(self.path, "read an outcome from the outbox", repr(error)) from error
        raise failure

    def entry(self, entry: int | Ticket) -> Entry:
        """Return an entry as it stands; raises OutboxEntryUnknown."""
        return self._store.entry(_number(entry))

    def entries(
        self, status: str | Iterable[str] | None = None, *, after: int = 0, limit: int = 1000
    ) -> list[Entry]:
        """Return the first entries after number `after`, with that status or one of several.

        Raises:
            ServiceDefinitionError: there is no such status.
        """
        if status is None:
            return self._store.entries(None, after, limit)
        names = [status] if isinstance(status, str) else list(status)
        try:
            statuses = frozenset(map(Status, names))
        except ValueError as error:
            raise ServiceDefinitionError(
                f"cannot list entries: {error}; there are {', '.join(Status)}"
            ) from None
        return self._store.entries(statuses, after, limit)

    def pending_count(self) -> int:
        """Return how many entries are not known to be accepted: those that count against the limit."""
        return self._store.count_of(UNSENT)

    def counts(self) -> dict[Status, int]:
        """Return how many entries stand where."""
        return self._store.counts()

    def purge(self, older_than: float | timedelta) -> int:
        """Remove the entries that ended longer ago than that (seconds); returns how many.

        What is not at its end stays. A key is forgotten here with its entry, though not by the service.
        """
        seconds = older_than.total_seconds() if isinstance(older_than, timedelta) else older_than
        return self._store.purge(self._clock_ns() - int(seconds * 1e9))

    # -- life -------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the outbox's connection; its relays have their own. Idempotent."""
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _options(
    resource_id: str | None,
    timeout: float | None,
    idempotency_key: str | None,
    priority: str,
    expires_in: float | None,
) -> dict[str, Any]:
    return {
        "resource_id": resource_id,
        "timeout": timeout,
        "idempotency_key": idempotency_key,
        "priority": priority,
        "expires_in": expires_in,
    }


def _number(entry: int | Ticket) -> int:
    return entry.entry_id if isinstance(entry, Ticket) else entry


def _pauses() -> Iterator[float]:
    """How long to wait before looking again: longer each time, up to a bound."""
    pause_s = _FIRST_POLL_S
    while True:
        yield pause_s
        pause_s = min(_LAST_POLL_S, pause_s * 1.5)


def _pause_s(pause_s: float, until_s: float | None, number: int, ending: Ending) -> float:
    """Return how long to wait now; raises OutboxTimeout if the time is up."""
    if until_s is None:
        return pause_s
    left_s = until_s - time.monotonic()
    if left_s <= 0:
        why = f" ({ending.trouble})" if ending.trouble else ""
        raise OutboxTimeout(
            f"{ending.target} (entry {number} of the outbox) has no outcome yet: it is "
            f"{ending.status.replace('_', ' ')}{why}; it goes on as long as a relay runs, so wait on",
            entry_id=number,
            status=str(ending.status),
            call_id=ending.call_id,
        )
    return min(pause_s, left_s)
