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
from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.events import GroupPromoted, InstanceReady, decode_event
from aegisipc.eventstore.jetstream import JetStreamLog
from aegisipc.eventstore.names import POOL_GROUP
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.streams import open_log
from aegisipc.sdk.instance import Instance, InstanceOptions
from aegisipc.sdk.service import Service

_SHORTEST_JOIN_S: Final = 5.0
_ROLE_WAIT_S: Final = 1.0
_LOOK_AGAIN_S: Final = 0.02


async def serve(service: Service, args: Namespace) -> int:
    """Run an instance until a signal comes."""
    return await Serving(service, args).run()


class Serving:
    """Runs one instance until a signal comes."""

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
            ),
        )
        self._connect_options = ConnectOptions(args.url, name=f"aegis:serve:{self._instance.id}")
        self._servers = ",".join(endpoint.url for endpoint in self._connect_options.endpoints())
        self._starting: asyncio.Task[None] | None = None
        self._is_stopping = False

    async def run(self) -> int:
        """Start, serve until a signal, drain."""
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
        async with await Connection.open(self._connect_options) as connection:
            log = await open_log(connection, self._instance.subjects)
            await self._instance.start()
            try:
                self._announce(await self._role(log))
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

    async def _role(self, log: JetStreamLog) -> str:
        """What the instance has become. A promotion under way is waited for, for a moment."""
        if self._instance.group == POOL_GROUP:
            return "active"
        role = None
        with suppress(AegisError, TimeoutError):
            async with asyncio.timeout(_ROLE_WAIT_S):
                while role is None:
                    role = await self._role_now(log)
                    await asyncio.sleep(0 if role else _LOOK_AGAIN_S)
        return role or "standby"

    async def _role_now(self, log: JetStreamLog) -> str | None:
        """Active, standby, or ``None`` while the group has no holder that can be told."""
        instance, subjects = self._instance, self._instance.subjects
        place = (instance.service.name, instance.group)
        fence = await log.last(subjects.fence(*place))
        said = await log.last(subjects.instance(*place, instance.id))
        promoted = decode_event(fence.payload) if fence else None
        ready = decode_event(said.payload) if said else None
        if not isinstance(promoted, GroupPromoted) or not isinstance(ready, InstanceReady):
            return None
        if promoted.holder != instance.id:
            return "standby"
        return "active" if promoted.incarnation == ready.incarnation else None
