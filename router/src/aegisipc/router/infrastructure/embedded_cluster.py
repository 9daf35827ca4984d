"""Three embedded nats-servers as one JetStream cluster on loopback (streams with three replicas)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from .embedded import EmbeddedServer
from .free_ports import choose_free_port
from .server_config import ClusterMember, ServerTuning

_NODES = 3


def three_node_cluster(
    data_dir: Path, *, fsync: bool = True, credentials: tuple[str, str] | None = None
) -> list[EmbeddedServer]:
    """Three servers, not started, that will form one cluster; each has its directory under ``data_dir``."""
    route_ports: list[int] = []
    for _ in range(_NODES):
        route_ports.append(choose_free_port("127.0.0.1", avoid=route_ports))
    return [
        EmbeddedServer(
            data_dir / f"node-{number}",
            fsync=fsync,
            credentials=credentials,
            tuning=ServerTuning(
                server_name=f"node-{number}",
                cluster=ClusterMember("aegis", route_ports[number - 1], tuple(route_ports)),
            ),
        )
        for number in range(1, _NODES + 1)
    ]


@asynccontextmanager
async def running_cluster(servers: list[EmbeddedServer], timeout_s: float = 30.0) -> AsyncIterator[None]:
    """Run all servers for the duration of the block, which begins when the cluster has a leader.

    Raises what ``EmbeddedServer.start`` raises, in an ``ExceptionGroup``.
    """
    try:
        async with asyncio.TaskGroup() as starting:
            for server in servers:
                starting.create_task(server.start(timeout_s, wait_healthy=False))
        async with asyncio.TaskGroup() as waiting:
            for server in servers:
                waiting.create_task(server.wait_healthy(timeout_s))
        yield
    finally:
        await asyncio.gather(*(server.stop() for server in servers))
