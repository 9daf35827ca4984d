"""An instance in the foreground: patient at the start, told what it has become, drained at the end."""

from __future__ import annotations

import asyncio
import signal
from argparse import Namespace
from contextlib import suppress
from typing import Final

from aegisipc.eventstore.cli import say
from aegisipc.eventstore.cli.output import print_json, printable
from aegisipc.eventstore.cli.waiting import patiently
from aegisipc.eventstore.errors import AckUnknown
from aegisipc.eventstore.lifecycles import InstanceState
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.sdk.incarnation import Incarnation
from aegisipc.sdk.instance import Instance, InstanceOptions
from aegisipc.sdk.service import Service

_SHORTEST_JOIN_S: Final = 5.0
_ROLE_WAIT_S: Final = 1.0
_ACTIVE: Final = frozenset({InstanceState.ACTIVE, InstanceState.SUSPECTED_ACTIVE})


async def serve(service: Service, args: Namespace) -> int:
    """Run an instance until a signal comes, or an operator wants it to leave."""
    return await Serving(service, args).run()


class Serving:
    """Runs one instance until a signal comes, or an operator wants it to leave."""

    def __init__(self, service: Service, args: Namespace) -> None:
        self._args = args
        self._instance = Instance(
            service,
            InstanceOptions(
                url=args.url,
                namespace=args.namespace,
                group=args.group,
                resources=tuple(args.resources),
                instance=args.instance,
                join_timeout_s=max(_SHORTEST_JOIN_S, args.wait),
                pulse_ms=args.pulse_ms,
                quarantine=args.quarantine,
            ),
        )
        self._servers = ",".join(endpoint.url for endpoint in ConnectOptions(args.url).endpoints())
        self._starting: asyncio.Task[None] | None = None
        self._is_stopping = False

    async def run(self) -> int:
        """Start, serve, drain."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        self._starting = loop.create_task(patiently(self._start, self._args.wait))
        try:
            await self._starting
        except asyncio.CancelledError:
            if self._is_stopping:
                return 0
            raise
        try:
            await self._instance.serve()
            if (by := self._instance.drain_requested_by) is not None:
                say(f"leaving {self._instance.id}: drain requested by {printable(by)}")
        finally:
            await self._instance.stop()
        say(f"stopped {self._instance.id}")
        return 0

    def _stop(self) -> None:
        self._is_stopping = True
        self._instance.request_stop()
        if self._starting is not None:
            self._starting.cancel()

    async def _start(self) -> None:
        await self._instance.start()
        try:
            self._announce(await self._role())
        except BaseException:
            await self._instance.stop()
            raise

    def _announce(self, role: str) -> None:
        instance = self._instance
        if self._args.json:
            print_json(
                {
                    "ready": True,
                    "service": instance.service.name,
                    "group": instance.group,
                    "instance": instance.id,
                    "role": role,
                    "resources": instance.resources,
                    "url": self._servers,
                    "namespace": instance.subjects.namespace,
                }
            )
            return
        place = f"{instance.service.name}/{instance.group}"
        print(f"ready {printable(place)} as {instance.id} ({role}) at {self._servers}", flush=True)

    async def _role(self) -> str:
        """What the instance has become. A promotion under way is waited for, for a moment."""
        incarnation = self._instance.joined()
        with suppress(AckUnknown):
            await incarnation.host.signal.until(
                lambda: _role_now(incarnation) is not None, _ROLE_WAIT_S, "learn its role"
            )
        return _role_now(incarnation) or "standby"


def _role_now(incarnation: Incarnation) -> str | None:
    """Active, standby, or ``None`` while the group has no holder that can be told."""
    me, group = incarnation.me, incarnation.host.group
    if me is not None and me.state in _ACTIVE:
        return "active"
    is_held = group is not None and group.holder is not None and group.holder != incarnation.identity.instance
    return "standby" if is_held else None
