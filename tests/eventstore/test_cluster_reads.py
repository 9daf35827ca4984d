"""Reading from a cluster: whatever replica a consumer lives on, what was acknowledged before is read."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.streams import LogOptions, create_log, open_log
from aegisipc.eventstore.subjects import subjects_of
from aegisipc.router.infrastructure.embedded_cluster import running_cluster, three_node_cluster

ROUNDS = 40


async def test_a_read_ends_with_the_latest_record_that_was_acknowledged(tmp_path: Path) -> None:
    servers = three_node_cluster(tmp_path, fsync=False)
    subjects = subjects_of("t")
    async with running_cluster(servers), AsyncExitStack() as stack:
        connections = [
            await stack.enter_async_context(await Connection.open(ConnectOptions(server.url)))
            for server in servers
        ]
        writer = await create_log(connections[0], subjects, LogOptions(replicas=3))
        readers = [await open_log(connection, subjects) for connection in connections]
        for number in range(1, ROUNDS + 1):
            appended = await writer.append(subjects.instance("s", "g", "i"), b"%d" % number)
            await writer.append(subjects.instance("s", "other", "i"), b"")
            reader = readers[number % len(readers)]
            read = [record.seq async for record in reader.read([subjects.group("s", "g")])]
            assert (len(read), read[-1]) == (number, appended.seq)
