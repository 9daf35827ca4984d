"""Three embedded nats-servers as one JetStream cluster on loopback (streams with three replicas)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from .embedded import EmbeddedServer, PortInUse
from .free_ports import choose_free_port
from .server_config import ClusterMember, ServerTuning

_NODES = 3
_ATTEMPTS = 3


def three_node_cluster(
    data_dir: Path, *, fsync: bool = True, credentials: tuple[str, str] | None = None
) -> list[EmbeddedServer]:
    """Three servers, not started, that will form one cluster; each has its directory under ``data_dir``.

    Start them together with ``running_cluster``; each can then be stopped, killed and started by itself.
    """
    servers = [
        EmbeddedServer(
            data_dir / f"node-{number}",
            fsync=fsync,
            credentials=credentials,
            tuning=ServerTuning(server_name=f"node-{number}"),
        )
        for number in range(1, _NODES + 1)
    ]
    _plan_routes(servers)
    return servers


@asynccontextmanager
async def running_cluster(servers: Sequence[EmbeddedServer], timeout_s: float = 30.0) -> AsyncIterator[None]:
    """Run all servers for the duration of the block, which begins when the cluster has a leader.

    Raises what ``EmbeddedServer.start`` raises, in an ``ExceptionGroup``.
    """
    try:
        await _start(servers, timeout_s)
        async with asyncio.TaskGroup() as waiting:
            for server in servers:
                waiting.create_task(server.wait_healthy(timeout_s))
        yield
    finally:
        await asyncio.gather(*(server.stop() for server in servers))


async def _start(servers: Sequence[EmbeddedServer], timeout_s: float) -> None:
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            async with asyncio.TaskGroup() as starting:
                for server in servers:
                    starting.create_task(server.start(timeout_s, wait_healthy=False))
        except* PortInUse:  # another program took a route's port before the server could
            if attempt == _ATTEMPTS:
                raise
            await asyncio.gather(*(server.stop() for server in servers))
            _plan_routes(servers)
        else:
            return


def _plan_routes(servers: Sequence[EmbeddedServer]) -> None:
    ports: list[int] = []
    for _ in servers:
        ports.append(choose_free_port("127.0.0.1", avoid=ports))
    for server, port in zip(servers, ports, strict=True):
        server.tuning = replace(server.tuning, cluster=ClusterMember("aegis", port, tuple(ports)))
