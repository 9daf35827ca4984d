"""Signs of life of an incarnation, as plain messages: it pulses, and answers probes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgpack  # type: ignore[import-untyped]

from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.nats.events import Connected
from aegisipc.eventstore.nats.events import Event as ConnectionEvent
from aegisipc.eventstore.nats.message import Message
from aegisipc.eventstore.nats.subscription import Subscription
from aegisipc.eventstore.subjects import may_answer
from aegisipc.sdk.core.health import HealthRecord
from aegisipc.sdk.core.pen import Identity
from aegisipc.sdk.hosts.base import Host, SharesState, Site

_PROBED = ("active", "epoch", "running", "waiting", "open", "position")
"""What an answer to a probe takes over from the host's word about itself."""


class Vitals:
    """From :meth:`start` to :meth:`stop` it pulses every `pulse_s` seconds, and at once on each new session
    with a server. A pulse names the session's connection, since a server can tell which of them has ended.
    """

    def __init__(
        self, site: Site, identity: Identity, host: Host, health: HealthRecord, *, pulse_s: float
    ) -> None:
        self._connection = site.connection
        self._identity, self._host, self._health = identity, host, health
        self._pulse_s = pulse_s
        self._pulse_subject = site.subjects.pulse("instance", identity.instance)
        self._probe_subject = site.subjects.probe(identity.service, identity.group, identity.instance)
        self._pulser: asyncio.Task[None] | None = None
        self._probed: Subscription | None = None
        self._unlisten: Callable[[], None] = _nothing

    async def start(self) -> None:
        """Begin.

        Raises:
            NotConnected: the connection was closed.
            PermissionDenied: the server does not let this user be probed.
        """
        self._probed = await self._connection.subscribe(self._probe_subject, self._on_probe)
        self._unlisten = self._connection.on_event(self._on_event)
        self._pulser = asyncio.get_running_loop().create_task(
            self._pulse_for_ever(), name=f"pulse {self._identity.instance}"
        )

    async def stop(self) -> None:
        """Fall silent. Idempotent."""
        self._unlisten()
        if self._pulser is not None:
            self._pulser.cancel()
            await asyncio.gather(self._pulser, return_exceptions=True)
            self._pulser = None
        if self._probed is not None:
            await self._probed.unsubscribe()
            self._probed = None

    def pulse(self) -> None:
        """Pulse now. Without a session, the next one begins with a pulse."""
        with suppress(AegisError):
            server = self._connection.server
            report: dict[str, Any] = {
                **self._host.pulse(),
                "service": self._identity.service,
                "group": self._identity.group,
                "incarnation": self._identity.incarnation,
                "healthy": self._health.reason is None,
                "cid": server.client_id,
                "server": server.server_id,
            }
            self._connection.publish_nowait(self._pulse_subject, msgpack.packb(report))

    async def _pulse_for_ever(self) -> None:
        while True:
            self.pulse()
            await asyncio.sleep(self._pulse_s)

    def _on_event(self, event: ConnectionEvent) -> None:
        if isinstance(event, Connected):
            self.pulse()

    def _on_probe(self, message: Message) -> None:
        if may_answer(message.reply):
            with suppress(AegisError):
                self._connection.publish_nowait(message.reply, json.dumps(self.answer()).encode())

    def answer(self) -> dict[str, Any]:
        """Return what a probe is told."""
        host = self._host
        told = host.pulse()
        return {
            "ok": True,
            "instance": self._identity.instance,
            "incarnation": self._identity.incarnation,
            "healthy": self._health.reason is None,
            "reason": self._health.reason or "",
            **{name: told[name] for name in _PROBED},
            "state_digests": host.state_digests() if isinstance(host, SharesState) else {},
        }


def _nothing() -> None:
    """Nobody listens yet."""
