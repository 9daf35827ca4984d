"""A namespace of its own on a real server, with routers, instances and clients on the test's event loop."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import AsyncExitStack, suppress
from typing import Any, Final

from aegisipc.router.application.router import Router, RouterOptions
from aegisipc.router.domain.decide import Policy
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from aegisipc.sdk import Client, Service, connect
from aegisipc.sdk.errors import InstanceReplaced
from aegisipc.sdk.hosts.base import Host
from aegisipc.sdk.instance import Instance, InstanceOptions
from tests.support.recount import Recount, recount

QUICK: Final = Policy(suspect_after_ms=400, lost_after_ms=800, leader_after_ms=400)
_names = (f"e{number}" for number in itertools.count(1))


class Running:
    """An instance that serves."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.task = asyncio.create_task(instance.serve())

    @property
    def id(self) -> str:
        return self.instance.id

    @property
    def incarnation(self) -> str:
        """Which run of it this is; empty while it is between two."""
        present = self.instance.incarnation
        return present.identity.incarnation if present is not None else ""

    @property
    def host(self) -> Host:
        return self.instance.joined().host

    async def fall_silent(self) -> None:
        """It lives and works, and nobody hears its pulses any more."""
        await self.instance.joined().vitals.stop()

    async def kill(self) -> None:
        """It is gone at once: nothing is drained, nothing is said."""
        await self._end()
        await self.instance._close()

    async def vanish(self) -> None:
        """Its connection is cut first, so that nobody hears anything of it any more."""
        connection = self.instance._connection
        assert connection is not None
        await connection.close()
        await self.kill()

    async def leave(self) -> None:
        """It drains and leaves."""
        await self._end()
        await self.instance.stop()

    async def _end(self) -> None:
        self.task.cancel()
        with suppress(asyncio.CancelledError, InstanceReplaced):
            await self.task


class Place:
    """One namespace."""

    def __init__(self, server: EmbeddedServer, stack: AsyncExitStack) -> None:
        self.server, self.url, self.namespace = server, server.url, next(_names)
        self._stack = stack
        self.routers: list[Router] = []

    async def router(self, **options: Any) -> Router:
        options.setdefault("policy", QUICK)
        router = Router(RouterOptions(self.url, self.namespace, **options))
        self.routers.append(router)
        return await self._stack.enter_async_context(router)

    async def serve(self, service: Service, *resources: str, **options: Any) -> Running:
        instance = Instance(service, self.options(*resources, **options))
        await instance.start()
        running = Running(instance)
        self._stack.push_async_callback(running.leave)
        return running

    def options(self, *resources: str, **options: Any) -> InstanceOptions:
        settings = {"pulse_ms": 50, "join_timeout_s": 5.0, "drain_timeout_s": 0.5, **options}
        return InstanceOptions(url=self.url, namespace=self.namespace, resources=resources, **settings)

    async def client(self, **options: Any) -> Client:
        return await self._stack.enter_async_context(connect(self.url, namespace=self.namespace, **options))

    async def recount(self) -> Recount:
        return await recount(self.url, self.namespace)
