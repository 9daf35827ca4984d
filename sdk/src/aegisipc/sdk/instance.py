"""Running an instance of a service: connect, join, serve, leave.

An instance joins its group (or pool) by registering in the log and waiting for the router's word. It pulses
while it lives. If the router takes it for lost while it is alive, it comes back as a new incarnation of the
same id: see :mod:`aegisipc.sdk.incarnation`.
"""

from __future__ import annotations

import asyncio
import secrets
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Self

import structlog

from aegisipc.eventstore.errors import AegisError, NotConnected
from aegisipc.eventstore.names import check_name, check_resource, default_group
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.objects import DEFAULT_MAX_OBJECT_BYTES
from aegisipc.eventstore.streams import open_log
from aegisipc.eventstore.subjects import subjects_of
from aegisipc.sdk.connect_options import resolve_namespace, resolve_url
from aegisipc.sdk.errors import (
    ContractConflict,
    InstanceRefused,
    InstanceReplaced,
    ResourceConflict,
    ServiceDefinitionError,
)
from aegisipc.sdk.hosts.base import RebuildNeeded, Site, describe, open_site
from aegisipc.sdk.incarnation import Incarnation, Terms
from aegisipc.sdk.service import Service

_log = structlog.get_logger("aegisipc.instance")

PULSE_MS: Final = range(10, 10_001)
"""Milliseconds between two pulses."""

_REJOIN_S: Final = 1.0
_LONGEST_REJOIN_S: Final = 30.0
_SETTLED_S: Final = 5.0
_FREE_FAILURES: Final = 2
"""How often in a row it may fail within ``_SETTLED_S`` after it joined, and join again without a pause."""

_PERMANENT: Final = (ResourceConflict, ContractConflict, InstanceRefused, InstanceReplaced)
"""What trying again does not change: somebody has to look at it."""


@dataclass(frozen=True, slots=True)
class InstanceOptions:
    """How to run an instance.

    ``url`` and ``namespace`` default to ``AEGIS_URL`` and ``AEGIS_NAMESPACE``. With ``resources`` the
    instance joins the group that serves them (``group`` names it, else the resources do); without, it joins
    the service's pool. ``instance`` is its id, else one is made up. ``pulse_ms`` is the time between
    heartbeats (10 to 10,000), ``join_timeout_s`` how long to wait for a router, ``drain_timeout_s`` how long
    running calls may take to end when the instance stops. With ``quarantine`` the instance accepts and queues
    calls, and runs none until an operator resumes its group. ``max_payload_bytes`` bounds the arguments and
    the result of a call; what does not fit in a frame goes through the object store.
    """

    url: str | None = None
    namespace: str | None = None
    group: str | None = None
    resources: tuple[str, ...] = ()
    instance: str | None = None
    pulse_ms: int = 250
    join_timeout_s: float = 30.0
    drain_timeout_s: float = 30.0
    quarantine: bool = False
    max_payload_bytes: int = DEFAULT_MAX_OBJECT_BYTES
    on_ready: Callable[[Instance], None] | None = field(default=None, repr=False)


class Instance:
    """One instance of a service in this process.

    ``async with`` joins and leaves; :meth:`run` also serves until :meth:`request_stop`.
    """

    def __init__(self, service: Service, options: InstanceOptions) -> None:
        service.check()
        self.service = service
        self.options = options
        self.resources = tuple(sorted({check_resource(resource) for resource in options.resources}))
        if options.group is not None and not self.resources:
            raise ServiceDefinitionError(
                f"cannot join group {options.group!r} without resources: name those it serves (--resource), "
                "or leave the group out to join the pool"
            )
        if options.pulse_ms not in PULSE_MS:
            raise ServiceDefinitionError(
                f"cannot pulse every {options.pulse_ms} ms: pulse_ms is {PULSE_MS[0]} to {PULSE_MS[-1]}"
            )
        self.group = check_name(options.group, "group") if options.group else default_group(self.resources)
        self.id = check_name(options.instance or f"{service.name[:40]}-{secrets.token_hex(3)}", "instance")
        self.subjects = subjects_of(resolve_namespace(options.namespace))
        self.incarnation: Incarnation | None = None
        """The present one; ``None`` before it joins, between two of them, and after the end."""
        self._stop = asyncio.Event()
        self._is_quarantined = options.quarantine
        self._former = ""
        self._quick_failures = 0
        self._connection: Connection | None = None
        self._site: Site | None = None

    # -- life -------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def run(self) -> None:
        """Join, serve until :meth:`request_stop` is called or an operator wants it drained, drain and leave.

        Raises:
            ResourceConflict, ContractConflict: the router refused the instance: when it joined, or when it
                came back after it was taken for lost.
            InstanceReplaced: another process registered under this instance's id, and has its place now.
            LogMissing, NotConnected, BadCredentials, ServerUnsuitable: as the connection found it.
        """
        await self.start()
        try:
            await self.serve()
        finally:
            await self.stop()

    def request_stop(self) -> None:
        """Ask :meth:`run` to drain and return, and :meth:`start` to give up joining. Idempotent; callable
        from a signal handler of the loop.
        """
        self._stop.set()
        if self.incarnation is not None:
            self.incarnation.host.signal.notify()

    async def start(self) -> None:
        """Connect and join; returns when calls can be taken, or at once when a stop is requested. If it
        fails, or ``on_ready`` raises, the instance has left.
        """
        try:
            if await self._unless_stopped(self._connect_and_join()) and self.options.on_ready is not None:
                self.options.on_ready(self)
        except BaseException:
            await self.stop()
            raise

    async def _connect_and_join(self) -> None:
        url = resolve_url(self.options.url)
        name = f"aegis:{self.subjects.namespace}:{self.service.name}:{self.group}:{self.id}"
        self._connection = await Connection.open(ConnectOptions(url, name=name))
        log = await open_log(self._connection, self.subjects)
        self._site = await open_site(
            self._connection, log, self.subjects, max_payload_bytes=self.options.max_payload_bytes
        )
        await self._join()

    async def _unless_stopped(self, work: Coroutine[Any, Any, None]) -> bool:
        """Do `work` until a stop is requested; tells whether it was done."""
        loop = asyncio.get_running_loop()
        doing, stopping = loop.create_task(work), loop.create_task(self._stop.wait())
        try:
            await asyncio.wait({doing, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not doing.done():
                return False
            await doing
            return True
        finally:
            doing.cancel()
            stopping.cancel()
            await asyncio.gather(doing, stopping, return_exceptions=True)

    async def serve(self) -> None:
        """Serve until asked to stop, by :meth:`request_stop` or by an operator (:attr:`drain_requested_by`);
        rejoin at once as a new incarnation when taken for lost, or when it could not go on.

        Without a router or a server, rejoining is tried again after 1 s, 2 s, 4 s and so on, up to 30 s; the
        same holds for an instance that fails again and again soon after it joined. A refusal is final:
        whoever supervises the process shall see it.

        Raises:
            ResourceConflict, ContractConflict: it was taken for lost, and the router does not want it back.
            InstanceReplaced: another process registered under this instance's id, and has its place now.
        """
        while not self._stop.is_set():
            incarnation = self.joined()
            joined_at = asyncio.get_running_loop().time()
            await self._until_over(incarnation)
            if self._stop.is_set():
                return
            if self.drain_requested_by is not None:  # and so it does not come back, if it is over as well
                _log.info("drain_requested", instance=self.id, by=self.drain_requested_by)
                return
            self._tell_end(incarnation)
            await self._let_go()
            await self._stopped_within(self._pause_after(incarnation, joined_at))
            await self._rejoin()

    async def _until_over(self, incarnation: Incarnation) -> None:
        await incarnation.host.signal.until(
            lambda: self._stop.is_set() or incarnation.is_over or self.drain_requested_by is not None,
            float("inf"),
            "serve",
        )

    @property
    def drain_requested_by(self) -> str | None:
        """The operator who wants this instance to leave, and why."""
        me = self.incarnation.me if self.incarnation is not None else None
        return me.drain_requested_by if me is not None else None

    def _tell_end(self, incarnation: Incarnation) -> None:
        failure, me = incarnation.host.failure, incarnation.me
        if isinstance(failure, RebuildNeeded):
            _log.warning("rebuilding", instance=self.id, cause=describe(failure))
        elif failure is not None:
            _log.error("host_failed", instance=self.id, error=describe(failure))
        elif me is not None:
            _log.warning("taken_for_lost", instance=self.id, state=str(me.state))
        else:
            raise incarnation.replaced()

    async def stop(self) -> None:
        """Drain, leave and disconnect. What does not end within ``drain_timeout_s`` stays open in the log."""
        incarnation = self.incarnation
        try:
            if incarnation is not None and incarnation.host.failure is None and incarnation.may_be_live:
                by = self.drain_requested_by
                await incarnation.drain("stop requested" if by is None else f"drain requested by {by}")
        finally:
            await self._close(self.options.drain_timeout_s)

    # -- incarnations -----------------------------------------------------------------------------------

    def joined(self) -> Incarnation:
        """Return the present incarnation.

        Raises:
            NotConnected: there is none.
        """
        if self.incarnation is None:
            raise NotConnected("cannot use the instance: it has not joined")
        return self.incarnation

    async def _join(self) -> None:
        if self._site is None:
            raise NotConnected("cannot use the instance: it was not started")
        terms = Terms(
            group=self.group,
            instance=self.id,
            resources=self.resources,
            pulse_s=self.options.pulse_ms / 1000,
            join_timeout_s=self.options.join_timeout_s,
            drain_timeout_s=self.options.drain_timeout_s,
            quarantined=self._is_quarantined,
            follows=self._former,
        )
        self.incarnation = Incarnation(self._site, self.service, terms)
        await self.incarnation.join()

    async def _rejoin(self) -> None:
        pause_s = _REJOIN_S
        while not self._stop.is_set():
            try:
                await self._unless_stopped(self._join())
            except _PERMANENT:
                raise
            except AegisError as error:
                _log.warning("rejoin_failed", instance=self.id, error=describe(error), pause_s=pause_s)
                await self._let_go()
                await self._stopped_within(pause_s)
                pause_s = min(_LONGEST_REJOIN_S, 2 * pause_s)
            else:
                return

    def _pause_after(self, incarnation: Incarnation, joined_at: float) -> float:
        """Seconds until it joins again. Whatever makes it fail over and over must not fill the log with
        registrations.
        """
        is_quick = asyncio.get_running_loop().time() - joined_at < _SETTLED_S
        if incarnation.host.failure is None or not is_quick:
            self._quick_failures = 0
            return 0.0
        self._quick_failures += 1
        doublings = self._quick_failures - _FREE_FAILURES
        return 0.0 if doublings <= 0 else min(_LONGEST_REJOIN_S, _REJOIN_S * 2.0 ** (doublings - 1))

    async def _stopped_within(self, pause_s: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), pause_s)

    async def _let_go(self) -> None:
        former = self.incarnation
        if former is not None:
            if former.me is not None:
                self._is_quarantined, self._former = former.me.quarantined, former.identity.incarnation
            await former.stop()
            self.incarnation = None

    async def _close(self, leftovers_s: float = 0.0) -> None:
        """Let go of everything; what earlier incarnations left running gets so long to come to its end."""
        await self._let_go()
        if self._site is not None:
            await self._site.leftovers.close(leftovers_s)
            self._site = None
        if self._connection is not None:
            await self._connection.close()
            self._connection = None


async def serve(service: Service, options: InstanceOptions) -> None:
    """Run an instance until the task is cancelled or the process gets SIGTERM or SIGINT."""
    instance = Instance(service, options)
    loop = asyncio.get_running_loop()
    caught = []
    for number in (signal.SIGTERM, signal.SIGINT):
        with suppress(
            NotImplementedError, RuntimeError, ValueError
        ):  # not in the main thread, or no such thing here
            loop.add_signal_handler(number, instance.request_stop)
            caught.append(number)
    try:
        await instance.run()
    finally:
        for number in caught:
            loop.remove_signal_handler(number)


def run(service: Service, options: InstanceOptions) -> None:
    """Run an instance in this process; with uvloop where it is installed.

    An :class:`~aegisipc.eventstore.errors.AegisError` ends the process with its message on stderr and exit
    code 1: whoever runs a service as a program reads what to do next, not a traceback.
    """
    try:
        try:
            import uvloop  # noqa: PLC0415 - optional
        except ImportError:
            asyncio.run(serve(service, options))
        else:
            uvloop.run(serve(service, options))
    except AegisError as error:
        sys.exit(f"error: {error.message}")
