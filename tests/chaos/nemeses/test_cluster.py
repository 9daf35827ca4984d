"""Three real nodes that die, step down and restart one after another."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from aegisipc.chaos.nemeses.cluster import Cluster
from aegisipc.chaos.nemeses.errors import NemesisFailed
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.streams import LogOptions, create_log
from aegisipc.eventstore.subjects import subjects_of
from aegisipc.router.infrastructure.embedded_cluster import running_cluster, three_node_cluster
from tests.eventstore.kit import append_surely

SUBJECTS = subjects_of("broken")
CALLS = SUBJECTS.call("orders", "g1", "c1")


@pytest.mark.slow
async def test_a_cluster_loses_its_leaders_and_nothing_else(tmp_path: Path) -> None:
    servers = three_node_cluster(tmp_path, fsync=False)
    cluster = Cluster(servers)
    with pytest.raises(NemesisFailed, match="no node runs"):
        await cluster.leader(SUBJECTS.stream, timeout_s=0.2)
    async with running_cluster(servers), AsyncExitStack() as stack:
        urls = ",".join(server.url for server in servers)
        connection = await stack.enter_async_context(await Connection.open(ConnectOptions(urls)))
        log = await create_log(connection, SUBJECTS, LogOptions(replicas=3))
        await append_surely(log, CALLS, b"1")

        first = await cluster.leader(SUBJECTS.stream)
        second = await cluster.step_down(SUBJECTS.stream)
        assert second is not first
        await cluster.step_down_meta()

        killed = await cluster.kill_leader(SUBJECTS.stream)
        assert killed not in cluster.running
        assert await cluster.leader(SUBJECTS.stream) is not killed
        with pytest.raises(NemesisFailed, match="current"):
            await cluster.wait_current(0.5)
        await cluster.start_all()
        assert len(cluster.running) == 3

        before = [server.pid for server in servers]
        await cluster.rolling_restart()
        assert all(server.pid != pid for server, pid in zip(servers, before, strict=True))
        await connection.wait_connected(10)
        await append_surely(log, CALLS, b"2")
        assert (await log.bounds()).last_seq == 2
    with pytest.raises(NemesisFailed, match="node-9"):
        cluster.node("node-9")
