"""Where scripts run: on the model, on virtual time, and on real servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

from aegisipc.chaos.conformance.stage import Script, Transcript, play
from aegisipc.chaos.sim.clock import virtual
from aegisipc.chaos.sim.loop import Actor, SimLoop
from aegisipc.chaos.sim.network import Network
from aegisipc.chaos.sim.server import ModelServer
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from aegisipc.router.infrastructure.embedded_cluster import running_cluster, three_node_cluster
from aegisipc.router.infrastructure.server_config import ServerTuning

_MODEL_URL = "nats://sim:4222"
_CLUSTER_REPLICAS = 3
_CLUSTER_WRITE_S = 0.002


class ModelSite:
    """The model of a server."""

    def __init__(self, server: ModelServer) -> None:
        self._server = server

    @property
    def replicas(self) -> int:
        """How many servers keep each stream."""
        return self._server.jetstream.replicas

    async def connect(self, name: str) -> Connection:
        """Open a connection of a client."""
        return await Connection.open(ConnectOptions(_MODEL_URL, name=name))

    async def connect_system(self, name: str) -> Connection:
        """Open a connection to the system account."""
        return await Connection.open(ConnectOptions(_MODEL_URL, name=name, require_jetstream=False))

    async def restart(self) -> None:
        """Kill the server, and start it again."""
        self._server.kill()
        await asyncio.sleep(0.1)
        self._server.start()


class RealSite:
    """A real server, or one node of a cluster."""

    def __init__(self, server: EmbeddedServer, replicas: int = 1) -> None:
        self._server = server
        self.replicas = replicas

    async def connect(self, name: str) -> Connection:
        """Open a connection of a client."""
        return await Connection.open(ConnectOptions(self._server.url, name=name))

    async def connect_system(self, name: str) -> Connection:
        """Open a connection to the system account."""
        return await Connection.open(
            ConnectOptions(self._server.system_url, name=name, require_jetstream=False)
        )

    async def restart(self) -> None:
        """Kill the server, and start it again."""
        await self._server.kill()
        await self._server.start()


def play_on_model(root: str, script: Script, *, seed: int = 0, replicas: int = 1) -> Transcript:
    """Run a script on a model of its own, whose own choices `seed` decides; returns what was seen.

    Raises:
        Stuck, TooLong: the script does not end.
    """
    loop = SimLoop()
    with virtual(loop, seed):
        try:
            return loop.run(_play_on_model(loop, root, script, seed, replicas))
        finally:
            loop.close()


async def _play_on_model(loop: SimLoop, root: str, script: Script, seed: int, replicas: int) -> Transcript:
    network = Network(loop, Random(seed))  # noqa: S311 - reproducible on purpose
    server = ModelServer(network, Random(seed + 1))  # noqa: S311 - reproducible on purpose
    server.jetstream.syncs = False
    server.jetstream.replicas = replicas
    if replicas > 1:
        server.jetstream.write_s = _CLUSTER_WRITE_S
    return await loop.start_actor(Actor("script"), play(ModelSite(server), root, script))


@asynccontextmanager
async def real_server(directory: Path) -> AsyncIterator[RealSite]:
    """A server that lasts as long as the block.

    Raises:
        AegisError: it cannot be started.
    """
    tuning = ServerTuning(jetstream_max_store_bytes=1 << 42)
    async with EmbeddedServer(directory, fsync=False, tuning=tuning) as server:
        yield RealSite(server)


@asynccontextmanager
async def real_cluster(directory: Path) -> AsyncIterator[RealSite]:
    """Three servers that last as long as the block, seen from one of them.

    Raises:
        AegisError: they cannot be started.
    """
    servers = three_node_cluster(directory, fsync=False)
    async with running_cluster(servers):
        yield RealSite(servers[0], _CLUSTER_REPLICAS)
