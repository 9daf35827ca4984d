"""Running an instance of a service: connect, join, serve, leave.

An instance joins its group (or pool) by registering in the log and waiting for the router's word. It pulses
while it lives. If the router takes it for lost while it is alive, it comes back as a new incarnation of the
same id.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Self

import msgpack
import structlog

from aegisipc.eventstore.errors import (
    AckUnknown,
    AegisError,
    LogFull,
    MalformedPayload,
    NoResponders,
    NotConnected,
)
from aegisipc.eventstore.events import (
    ErrorInfo,
    Event,
    InstanceDraining,
    InstanceLeft,
    InstanceReady,
    InstanceRegistered,
    MethodContract,
    decode_event,
    encode_event,
)
from aegisipc.eventstore.ids import SESSION_BITS
from aegisipc.eventstore.lifecycles import InstanceState
from aegisipc.eventstore.log import Start
from aegisipc.eventstore.names import POOL_GROUP, check_name, check_resource, default_group
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.streams import open_log
from aegisipc.eventstore.subjects import subjects_of
from aegisipc.eventstore.topology import InstanceView
from aegisipc.sdk.connect_options import resolve_namespace, resolve_url
from aegisipc.sdk.core.pen import Identity
from aegisipc.sdk.errors import (
    ContractConflict,
    InstanceRefused,
    InstanceReplaced,
    ResourceConflict,
    ServiceDefinitionError,
)
from aegisipc.sdk.hosts.base import Host, HostParts, Site, describe, open_site
from aegisipc.sdk.hosts.owned import OwnedHost
from aegisipc.sdk.hosts.pool import PoolHost
from aegisipc.sdk.service import Service
from aegisipc.sdk.version import VERSION

_log = structlog.get_logger("aegisipc.instance")

_RETRY_S: Final = 0.1
_LOOK_S: Final = 0.25
_REJOIN_S: Final = 1.0
_LONGEST_REJOIN_S: Final = 30.0
_LAST_WORDS_S: Final = 2.0
_SIGNATURE_CHARS: Final = 1000
_REFUSALS: Final[dict[str, type[AegisError]]] = {
    ResourceConflict.code: ResourceConflict,
    ContractConflict.code: ContractConflict,
}
_PERMANENT: Final = (ResourceConflict, ContractConflict, InstanceRefused, InstanceReplaced)
"""What trying again does not change: somebody has to look at it."""


@dataclass(frozen=True, slots=True)
class InstanceOptions:
    """How to run an instance.

    ``url`` and ``namespace`` default to ``AEGIS_URL`` and ``AEGIS_NAMESPACE``. With ``resources`` the
    instance joins the group that serves them (``group`` names it, else the resources do); without, it joins
    the service's pool. ``instance`` is its id, else one is made up. ``pulse_ms`` is the time between
    heartbeats, ``join_timeout_s`` how long to wait for a router, ``drain_timeout_s`` how long running calls
    may take to end when the instance stops.
    """

    url: str | None = None
    namespace: str | None = None
    group: str | None = None
    resources: tuple[str, ...] = ()
    instance: str | None = None
    pulse_ms: int = 250
    join_timeout_s: float = 30.0
    drain_timeout_s: float = 30.0
    on_ready: Callable[[Instance], None] | None = field(default=None, repr=False)


class Instance:
    """One instance of a service in this process.

    ``async with`` joins and leaves; :meth:`run` also serves until :meth:`request_stop`.
    """

    def __init__(self, service: Service, options: InstanceOptions) -> None:
        if not service.methods:
            raise ServiceDefinitionError(
                f"cannot run service {service.name!r}: it has no methods; add some with @service.method"
            )
        self.service = service
        self.options = options
        self.resources = tuple(sorted({check_resource(resource) for resource in options.resources}))
        if options.group is not None and not self.resources:
            raise ServiceDefinitionError(
                f"cannot join group {options.group!r} without resources: name those it serves (--resource), "
                "or leave the group out to join the pool"
            )
        self.group = check_name(options.group, "group") if options.group else default_group(self.resources)
        self.id = check_name(options.instance or f"{service.name[:40]}-{secrets.token_hex(3)}", "instance")
        self.subjects = subjects_of(resolve_namespace(options.namespace))
        self._stop = asyncio.Event()
        self._connection: Connection | None = None
        self._site: Site | None = None
        self._host: Host | None = None
        self._identity: Identity | None = None
        self._pulser: asyncio.Task[None] | None = None
        self._is_registered = False
        """This incarnation's registration is in the log, or may be."""
        self._is_read_back = False
        """And the host has folded it: if the host knows nothing of it later, another one has the place."""

    # -- life -------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def run(self) -> None:
        """Join, serve until :meth:`request_stop` is called, drain and leave.

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
        if self._host is not None:
            self._host.signal.notify()

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
        self._connection = await Connection.open(
            ConnectOptions(url, name=f"aegis:{self.service.name}:{self.id}")
        )
        log = await open_log(self._connection, self.subjects)
        self._site = await open_site(self._connection, log, self.subjects)
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
        """Serve until asked to stop; rejoin as a new incarnation when taken for lost.

        Without a router or a server, rejoining is tried again after 1 s, 2 s, 4 s and so on, up to 30 s. A
        refusal is final: whoever supervises the process shall see it.

        Raises:
            ResourceConflict, ContractConflict: it was taken for lost, and the router does not want it back.
            InstanceReplaced: another process registered under this instance's id, and has its place now.
        """
        while not self._stop.is_set():
            host = self._joined_host()
            await self._until_over(host)
            if self._stop.is_set():
                return
            if host.failure is None and host.me is None:
                raise self._replaced()
            if host.failure is not None:
                _log.error("host_failed", instance=self.id, error=describe(host.failure))
            else:
                _log.warning(
                    "taken_for_lost", instance=self.id, state=str(host.me.state) if host.me else "unknown"
                )
            await self._leave_host()
            await self._rejoin()

    async def _until_over(self, host: Host) -> None:
        await host.signal.until(lambda: self._stop.is_set() or self._is_over(host), float("inf"), "serve")

    async def stop(self) -> None:
        """Drain, leave and disconnect. What does not end within ``drain_timeout_s`` stays open in the log."""
        host = self._host
        try:
            if host is not None and host.failure is None and self._may_be_live(host):
                await self._drain(host)
        finally:
            await self._close()

    # -- joining ----------------------------------------------------------------------------------------

    async def _join(self) -> None:
        site = self._opened_site()
        self._is_registered = self._is_read_back = False
        self._identity = Identity(
            self.service.name, self.group, self.id, secrets.token_hex(8), secrets.randbits(SESSION_BITS)
        )
        parts = HostParts(site, self.service, self._identity)
        self._host = host = PoolHost(parts) if self.group == POOL_GROUP else OwnedHost(parts)
        await host.start()
        self._is_registered = True
        registered_seq = await self._say(self._registration(self._identity))
        self._pulser = asyncio.get_running_loop().create_task(self._pulse(), name=f"pulse {self.id}")
        await self._read_back(host, registered_seq)
        await self._until_known(
            host,
            lambda me: me.admitted or not me.is_live,
            f"join service {self.service.name!r}: no router answered; start one (aegis router, or aegis "
            "dev), or wait longer: "
            "nobody admitted the instance",
        )
        if host.me is not None and host.me.refusal is not None:
            raise _refusal(host.me.refusal)
        await self._say(InstanceReady(incarnation=self._identity.incarnation))
        await self._until_known(
            host,
            lambda me: me.state is not InstanceState.JOINING,
            "read back that the instance is ready",
        )
        _log.info("joined", service=self.service.name, group=self.group, instance=self.id)

    async def _read_back(self, host: Host, registered_seq: int) -> None:
        """Wait until the host has folded the registration.

        Another one of the same id may follow so closely that the host knows only that one. So if nothing
        is known of ours, the log is asked.
        """
        site, identity = self._opened_site(), self._joined_identity()
        subject = site.subjects.instance(identity.service, identity.group, identity.instance)
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self.options.join_timeout_s
        while host.me is None:
            with suppress(AckUnknown):
                await host.signal.until(lambda: host.me is not None, _LOOK_S, "read back the registration")
                break
            if loop.time() >= give_up_at:
                raise AckUnknown(
                    f"cannot join service {self.service.name!r}: its registration is stored, but was not "
                    f"read back within {self.options.join_timeout_s:g} s; is the server there?"
                )
            with suppress(AckUnknown, NotConnected, NoResponders):
                async for record in site.log.read([subject], start=Start(registered_seq + 1)):
                    if _registers_another(record.payload, identity.incarnation):
                        raise self._replaced()
        self._is_read_back = True

    async def _until_known(self, host: Host, true: Callable[[InstanceView], bool], what: str) -> None:
        """Wait until it is `true` of this incarnation, which the host knows.

        Raises:
            InstanceReplaced: it is known no more: another one registered under its id.
        """
        await host.signal.until(lambda: host.me is None or true(host.me), self.options.join_timeout_s, what)
        if host.me is None:
            raise self._replaced()

    def _replaced(self) -> InstanceReplaced:
        self._is_read_back = True
        return InstanceReplaced(
            f"cannot go on as instance {self.id!r}: another process registered under that id; "
            "give each process an id of its own, or none",
            instance=self.id,
        )

    async def _rejoin(self) -> None:
        pause_s = _REJOIN_S
        while not self._stop.is_set():
            try:
                await self._unless_stopped(self._join())
            except _PERMANENT:
                raise
            except AegisError as error:
                _log.warning("rejoin_failed", instance=self.id, error=describe(error), pause_s=pause_s)
                await self._leave_host()
                await self._stopped_within(pause_s)
                pause_s = min(_LONGEST_REJOIN_S, 2 * pause_s)
            else:
                return

    async def _stopped_within(self, pause_s: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), pause_s)

    def _registration(self, identity: Identity) -> InstanceRegistered:
        return InstanceRegistered(
            incarnation=identity.incarnation,
            mode="pool" if self.group == POOL_GROUP else "owned",
            resources=self.resources,
            contract={name: _bounded(method) for name, method in self.service.contract.items()},
            host=socket.gethostname(),
            pid=os.getpid(),
            version=VERSION,
        )

    @staticmethod
    def _is_over(host: Host) -> bool:
        # Once it has joined, it is unknown only if another incarnation has taken its place.
        return host.failure is not None or host.me is None or not host.me.is_live

    def _may_be_live(self, host: Host) -> bool:
        """Whether the others may count on this incarnation, as far as can be told from here."""
        if host.me is not None:
            return host.me.is_live
        return self._is_registered and not self._is_read_back

    # -- leaving ----------------------------------------------------------------------------------------

    async def _drain(self, host: Host) -> None:
        identity = self._joined_identity()
        if host.me is not None and host.me.admitted:
            with suppress(AegisError):
                draining = InstanceDraining(incarnation=identity.incarnation, cause="stop requested")
                await self._say(draining, patience_s=_LAST_WORDS_S)
        host.drain()
        try:
            await host.signal.until(
                lambda: host.is_quiet, self.options.drain_timeout_s, "finish the running calls"
            )
        except AckUnknown as error:
            _log.warning("drain_incomplete", instance=self.id, error=describe(error))
        with suppress(AegisError):
            left = InstanceLeft(incarnation=identity.incarnation, cause="stop requested")
            await self._say(left, patience_s=_LAST_WORDS_S)

    async def _leave_host(self) -> None:
        if self._pulser is not None:
            self._pulser.cancel()
            await asyncio.gather(self._pulser, return_exceptions=True)
            self._pulser = None
        if self._host is not None:
            await self._host.stop()
            self._host = None

    async def _close(self) -> None:
        self._is_registered = self._is_read_back = False
        await self._leave_host()
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    # -- talking ----------------------------------------------------------------------------------------

    async def _say(self, event: Event, *, patience_s: float | None = None) -> int:
        """Append an event about this instance; the same record is sent again until it is stored. Returns its
        sequence.
        """
        site, identity = self._opened_site(), self._joined_identity()
        subject = site.subjects.instance(identity.service, identity.group, identity.instance)
        record_id = f"{identity.incarnation}.{event.type}"

        async def attempt() -> int:
            payload = encode_event(event)
            return (await site.log.append(subject, payload, record_id=record_id, timeout_s=2.0)).seq

        return await _persist(attempt, self.options.join_timeout_s if patience_s is None else patience_s)

    async def _pulse(self) -> None:
        site, identity, host = self._opened_site(), self._joined_identity(), self._joined_host()
        subject = site.subjects.pulse("instance", identity.instance)
        fixed: dict[str, Any] = {
            "service": identity.service,
            "group": identity.group,
            "incarnation": identity.incarnation,
        }
        while True:
            with suppress(NotConnected, AegisError):
                site.connection.publish_nowait(subject, msgpack.packb(fixed | host.pulse()))
            await asyncio.sleep(self.options.pulse_ms / 1000)

    def _opened_site(self) -> Site:
        if self._site is None:
            raise NotConnected("cannot use the instance: it was not started")
        return self._site

    def _joined_host(self) -> Host:
        if self._host is None:
            raise NotConnected("cannot use the instance: it has not joined")
        return self._host

    def _joined_identity(self) -> Identity:
        if self._identity is None:
            raise NotConnected("cannot use the instance: it has not joined")
        return self._identity


def _bounded(method: MethodContract) -> MethodContract:
    """A registration is one record: what is only there for people must not burst it."""
    if len(method.signature) <= _SIGNATURE_CHARS:
        return method
    return method.model_copy(update={"signature": method.signature[: _SIGNATURE_CHARS - 1] + "…"})


def _registers_another(payload: bytes, incarnation: str) -> bool:
    try:
        event = decode_event(payload)
    except MalformedPayload:
        return False
    return isinstance(event, InstanceRegistered) and event.incarnation != incarnation


async def _persist[T](attempt: Callable[[], Awaitable[T]], patience_s: float) -> T:
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + patience_s
    while True:
        try:
            return await attempt()
        except (AckUnknown, NotConnected, NoResponders, LogFull):
            if loop.time() >= give_up_at:
                raise
            await asyncio.sleep(_RETRY_S)


def _refusal(error: ErrorInfo) -> AegisError:
    cls = _REFUSALS.get(error.code, InstanceRefused)
    return cls(error.message, **error.details)


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
