"""What every host has: an identity, a place in the log, and its own registration as the log tells it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from aegisipc.eventstore.clock import ServerClock
from aegisipc.eventstore.errors import AckUnknown, AegisError
from aegisipc.eventstore.jetstream import JetStreamLog
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.objects import DEFAULT_MAX_OBJECT_BYTES, Objects
from aegisipc.eventstore.subjects import Subjects
from aegisipc.eventstore.topology import GroupView, InstanceView
from aegisipc.sdk.core.pen import Identity
from aegisipc.sdk.hosts.leftovers import Leftovers
from aegisipc.sdk.service import Service


@dataclass(frozen=True, slots=True)
class Site:
    """Where an instance lives: its connection, its log, and the server's clock as seen from here.

    ``max_payload_bytes`` bounds the arguments and the result of a call.
    """

    connection: Connection
    log: JetStreamLog
    subjects: Subjects
    clock: ServerClock
    leftovers: Leftovers = field(default_factory=Leftovers)
    max_payload_bytes: int = DEFAULT_MAX_OBJECT_BYTES

    def objects(self) -> Objects:
        """Return the store of bodies that are too large for a frame."""
        return Objects(self.connection, self.subjects, limit_bytes=self.max_payload_bytes)

    def now_ns(self) -> int:
        """Return the server's time, in Unix nanoseconds, as estimated."""
        return self.clock.now_ns(time.monotonic_ns())

    def observe(self, timestamp_ns: int) -> None:
        """Take in a message's timestamp."""
        self.clock.observe(timestamp_ns, time.monotonic_ns())


async def open_site(
    connection: Connection,
    log: JetStreamLog,
    subjects: Subjects,
    *,
    max_payload_bytes: int = DEFAULT_MAX_OBJECT_BYTES,
) -> Site:
    """Build a site; reads the server's clock once.

    Raises:
        LogMissing, NotConnected, AckUnknown: as the log's ``bounds``.
    """
    bounds = await log.bounds()
    clock = ServerClock(bounds.now_ns, time.monotonic_ns())
    return Site(connection, log, subjects, clock, max_payload_bytes=max_payload_bytes)


class Signal:
    """Something moved: wakes whoever waits for a condition."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> None:
        """Wake all waiters; they look again."""
        self._event.set()
        self._event = asyncio.Event()

    async def until(self, true: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Wait until `true()`.

        Raises:
            AckUnknown: when that took longer than `timeout_s`; `what` completes "cannot …".
        """
        try:
            async with asyncio.timeout(timeout_s):
                while not true():
                    await self._event.wait()
        except TimeoutError:
            raise AckUnknown(f"cannot {what} within {timeout_s:g} s") from None


class RebuildNeeded(AegisError):
    """State is ahead of the log: it holds what the log refused. Only a new incarnation, which builds it from
    the log again, can go on.
    """

    code = "rebuild_needed"


class Host(Protocol):
    """Runs the calls of one incarnation of an instance.

    It ends with a ``failure`` when it cannot go on; a :class:`RebuildNeeded` is an ordinary part of losing
    the pen.
    """

    signal: Signal
    failure: BaseException | None

    @property
    def me(self) -> InstanceView | None:
        """This incarnation as the log tells it."""
        ...

    @property
    def is_quiet(self) -> bool:
        """Nothing runs here and everything that ran is in the log."""
        ...

    @property
    def group(self) -> GroupView | None:
        """The group as the log tells it."""
        ...

    @property
    def to_yield(self) -> int | None:
        """The epoch that is held here and is to be yielded, once nothing of it is under way any more.
        ``signal`` tells of a change.
        """
        ...

    def pulse(self) -> dict[str, Any]:
        """What a heartbeat tells beside the identity."""
        ...

    async def start(self) -> None:
        """Follow the log to its end."""
        ...

    def drain(self) -> None:
        """Start nothing more."""
        ...

    def hold(self, reason: str) -> None:
        """Start nothing more until :meth:`release`; what runs goes on to its outcome. Idempotent."""
        ...

    def release(self) -> None:
        """Start calls again. Idempotent."""
        ...

    async def stop(self) -> None:
        """Let go of everything, at once."""
        ...


@runtime_checkable
class SharesState(Protocol):
    """A host whose service keeps state that the members of its group share."""

    def state_digests(self) -> dict[str, dict[str, str]]:
        """Return the latest checks of the state, by the sequence of the record: ``own`` is the digest of the
        state here, ``log`` the one that the record tells; both are hexadecimal.
        """
        ...


@dataclass(frozen=True, slots=True)
class HostParts:
    """What a host is made of."""

    site: Site
    service: Service
    identity: Identity


def max_body_bytes(log: JetStreamLog) -> int:
    """Largest result that certainly fits in a frame."""
    return log.max_record_bytes - 16 * 1024


def describe(error: BaseException) -> str:
    """Return the text of an error for a log line."""
    return error.message if isinstance(error, AegisError) else f"{type(error).__name__}: {error}"
