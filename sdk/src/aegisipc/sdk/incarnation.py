"""One run of an instance under its id: it registers, is admitted, serves, and leaves or is let go.

An instance that comes back, because it was taken for lost or because its host failed, does so as the next
incarnation: nothing of the former one is taken along.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import structlog

from aegisipc.eventstore.errors import AckUnknown, AegisError, NoResponders, NotConnected
from aegisipc.eventstore.events import (
    ErrorInfo,
    InstanceDraining,
    InstanceLeft,
    InstanceReady,
    InstanceRegistered,
    MethodContract,
)
from aegisipc.eventstore.ids import session_of
from aegisipc.eventstore.lifecycles import InstanceState
from aegisipc.eventstore.names import POOL_GROUP
from aegisipc.eventstore.topology import InstanceView
from aegisipc.sdk.announcing import Announcer
from aegisipc.sdk.core.health import HealthRecord
from aegisipc.sdk.core.pen import Identity
from aegisipc.sdk.errors import ContractConflict, InstanceRefused, InstanceReplaced, ResourceConflict
from aegisipc.sdk.health_watch import HealthWatch
from aegisipc.sdk.hosts.base import Host, HostParts, Site, describe
from aegisipc.sdk.hosts.owned import OwnedHost
from aegisipc.sdk.hosts.pool import PoolHost
from aegisipc.sdk.service import Service
from aegisipc.sdk.version import VERSION
from aegisipc.sdk.vitals import Vitals
from aegisipc.sdk.yielding import Yielding

_log = structlog.get_logger("aegisipc.instance")

_LOOK_S: Final = 0.25
_LAST_WORDS_S: Final = 2.0
_SIGNATURE_CHARS: Final = 1000
_REFUSALS: Final[dict[str, type[AegisError]]] = {
    ResourceConflict.code: ResourceConflict,
    ContractConflict.code: ContractConflict,
}


@dataclass(frozen=True, slots=True)
class Terms:
    """As what an incarnation joins, and how patient it is. Times are in seconds."""

    group: str
    instance: str
    resources: tuple[str, ...]
    pulse_s: float
    join_timeout_s: float
    drain_timeout_s: float
    quarantined: bool = False
    follows: str = ""
    """The incarnation that it comes back from, if any: of that one the log may know better what holds."""


class Incarnation:
    """The life of one incarnation: :meth:`join`, then :meth:`drain` if it may leave in order, then
    :meth:`stop`.
    """

    def __init__(self, site: Site, service: Service, terms: Terms) -> None:
        self._service, self._terms = service, terms
        name = secrets.token_hex(8)
        self.identity = Identity(service.name, terms.group, terms.instance, name, session_of(name))
        parts = HostParts(site, service, self.identity)
        self.host: Host = PoolHost(parts) if terms.group == POOL_GROUP else OwnedHost(parts)
        self.announcer = Announcer(site, self.identity)
        health = HealthRecord()
        self.vitals = Vitals(site, self.identity, self.host, health, pulse_s=terms.pulse_s)
        self._health: HealthWatch | None = None
        check = service.health_check
        if check is not None:
            self._health = HealthWatch(
                check, health, self.announcer, self.host, self.identity, self.vitals.pulse
            )
        self._duties: list[asyncio.Task[None]] = []
        self._is_registered = False
        """The registration is in the log, or may be."""
        self._is_read_back = False
        """And the host has folded it: if the host knows nothing of it later, another one has the place."""

    # -- what has become of it --------------------------------------------------------------------------

    @property
    def me(self) -> InstanceView | None:
        """This incarnation as the log tells it."""
        return self.host.me

    @property
    def is_over(self) -> bool:
        """Once it has joined: it cannot serve any more."""
        # Then it is unknown only if another incarnation has taken its place.
        return self.host.failure is not None or self.me is None or not self.me.is_live

    @property
    def may_be_live(self) -> bool:
        """Whether the others may count on it, as far as can be told from here."""
        if self.me is not None:
            return self.me.is_live
        return self._is_registered and not self._is_read_back

    def replaced(self) -> InstanceReplaced:
        """Return the error that says so: another incarnation has its place."""
        self._is_read_back = True
        return InstanceReplaced(
            f"cannot go on as instance {self._terms.instance!r}: another process registered under that id; "
            "give each process an id of its own, or none",
            instance=self._terms.instance,
        )

    # -- joining ----------------------------------------------------------------------------------------

    async def join(self) -> None:
        """Register, wait for the router's word, and be ready.

        Raises:
            ResourceConflict, ContractConflict, InstanceRefused: the router does not want it.
            InstanceReplaced: another one registered under its id.
            AckUnknown: no router answered, or the log did not.
        """
        await self.host.start()
        patience_s = self._terms.join_timeout_s
        contract_seq = await self.announcer.offer(self._service.schemas, patience_s=patience_s)
        self._is_registered = True
        registered_seq = await self.announcer.say(self._registration(contract_seq), patience_s=patience_s)
        await self.vitals.start()
        await self._read_back(registered_seq)
        await self._until_known(
            lambda me: me.admitted or not me.is_live,
            f"join service {self._service.name!r}: no router answered; start one (aegis router, or aegis "
            "dev), or wait longer: nobody admitted the instance",
        )
        if self.me is not None and self.me.refusal is not None:
            raise _refusal(self.me.refusal)
        await self._until_healthy()
        await self.announcer.say(
            InstanceReady(incarnation=self.identity.incarnation), patience_s=self._terms.join_timeout_s
        )
        await self._until_known(
            lambda me: me.state is not InstanceState.JOINING, "read back that the instance is ready"
        )
        self._begin_duties()
        _log.info(
            "joined", service=self._service.name, group=self._terms.group, instance=self._terms.instance
        )

    def _registration(self, contract_seq: int) -> InstanceRegistered:
        return InstanceRegistered(
            incarnation=self.identity.incarnation,
            mode="pool" if self._terms.group == POOL_GROUP else "owned",
            resources=self._terms.resources,
            contract={name: _bounded(method) for name, method in self._service.contract.items()},
            host=socket.gethostname(),
            pid=os.getpid(),
            version=VERSION,
            quarantined=self._is_quarantined(),
            max_backlog=self._service.max_backlog,
            contract_seq=contract_seq,
        )

    def _is_quarantined(self) -> bool:
        """An operator may have lifted the quarantine of the former incarnation, even while nobody of it was
        there.
        """
        group = self.host.group
        former = group.instances.get(self._terms.instance) if group is not None else None
        if former is not None and former.incarnation == self._terms.follows:
            return former.quarantined
        return self._terms.quarantined

    async def _read_back(self, registered_seq: int) -> None:
        """Wait until the host has folded the registration.

        Another one of the same id may follow so closely that the host knows only that one. So if nothing
        is known of ours, the log is asked.
        """
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._terms.join_timeout_s
        while self.me is None:
            with suppress(AckUnknown):
                await self.host.signal.until(
                    lambda: self.me is not None, _LOOK_S, "read back the registration"
                )
                break
            if loop.time() >= give_up_at:
                raise AckUnknown(
                    f"cannot join service {self._service.name!r}: its registration is stored, but was not "
                    f"read back within {self._terms.join_timeout_s:g} s; is the server there?"
                )
            with suppress(AckUnknown, NotConnected, NoResponders):
                if await self.announcer.is_followed(registered_seq):
                    raise self.replaced()
        self._is_read_back = True

    async def _until_known(self, true: Callable[[InstanceView], bool], what: str) -> None:
        """Wait until it is `true` of this incarnation, which the host knows.

        Raises:
            InstanceReplaced: it is known no more: another one registered under its id.
        """
        host = self.host
        await host.signal.until(
            lambda: host.failure is not None or self.me is None or true(self.me),
            self._terms.join_timeout_s,
            what,
        )
        if host.failure is not None:
            raise AckUnknown(f"cannot {what}: {describe(host.failure)}")
        if self.me is None:
            raise self.replaced()

    async def _until_healthy(self) -> None:
        if self._health is None or await self._health.until_healthy(lambda: self.is_over):
            return
        if self.me is None:
            raise self.replaced()
        raise AckUnknown(
            f"cannot join service {self._service.name!r}: the instance did not become healthy before it was "
            f"{self.me.state}; join again"
        )

    # -- duties -----------------------------------------------------------------------------------------

    def _begin_duties(self) -> None:
        works = [Yielding(self.announcer, self.host, self.identity).run()]
        if self._health is not None:
            works.append(self._health.run())
        for work in works:
            duty = asyncio.get_running_loop().create_task(work, name=f"duty of {self.identity.instance}")
            duty.add_done_callback(self._on_duty_done)
            self._duties.append(duty)

    def _on_duty_done(self, duty: asyncio.Task[None]) -> None:
        """Duties have no end: one that has failed must not be left undone without a word."""
        if not duty.cancelled() and self.host.failure is None:
            self.host.failure = duty.exception()
            self.host.signal.notify()

    async def _end_duties(self) -> None:
        duties, self._duties = self._duties, []
        for duty in duties:
            duty.cancel()
        await asyncio.gather(*duties, return_exceptions=True)

    # -- leaving ----------------------------------------------------------------------------------------

    async def drain(self, cause: str) -> None:
        """Start nothing more, let what runs come to its end, and leave. What does not end within
        ``drain_timeout_s`` stays open in the log.
        """
        await self._end_duties()
        incarnation = self.identity.incarnation
        if self.me is not None and self.me.admitted:
            with suppress(AegisError):
                await self.announcer.say(
                    InstanceDraining(incarnation=incarnation, cause=cause), patience_s=_LAST_WORDS_S
                )
        self.host.drain()
        try:
            await self.host.signal.until(
                lambda: self.host.is_quiet, self._terms.drain_timeout_s, "finish the running calls"
            )
        except AckUnknown as error:
            _log.warning("drain_incomplete", instance=self._terms.instance, error=describe(error))
        left = InstanceLeft(incarnation=incarnation, cause=cause, finished=self.host.is_quiet)
        with suppress(AegisError):
            await self.announcer.say(left, patience_s=_LAST_WORDS_S)

    async def stop(self) -> None:
        """Let go of everything, at once, and say nothing."""
        await self._end_duties()
        await self.vitals.stop()
        await self.host.stop()


def _bounded(method: MethodContract) -> MethodContract:
    """A registration is one record: what is only there for people must not burst it."""
    if len(method.signature) <= _SIGNATURE_CHARS:
        return method
    return method.model_copy(update={"signature": method.signature[: _SIGNATURE_CHARS - 1] + "…"})


def _refusal(error: ErrorInfo) -> AegisError:
    cls = _REFUSALS.get(error.code, InstanceRefused)
    return cls(error.message, **error.details)
