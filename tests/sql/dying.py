"""A nursery of projectors: imports everything once, then starts one whenever it is told to, as a process of
its own.

For each line on stdin it forks; the child prints its process id once it follows, and runs until it is killed.
"""

from __future__ import annotations

import asyncio
import os
import sys

from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.sql import projector as shell
from aegisipc.eventstore.sql.engines import open_database
from aegisipc.eventstore.sql.lagging import log_name
from aegisipc.eventstore.sql.projector import Projector
from aegisipc.eventstore.streams import open_log
from aegisipc.eventstore.subjects import subjects_of


async def project(url: str, namespace: str, sql: str) -> None:
    subjects = subjects_of(namespace)
    async with (
        open_database(sql) as database,
        await Connection.open(ConnectOptions(url, name="dying")) as connection,
    ):
        log = await open_log(connection, subjects)
        projector = Projector(log, subjects, await log_name(connection, subjects), database)
        running = asyncio.create_task(projector.run())
        await projector.following.wait()
        sys.stdout.write(f"{os.getpid()}\n")
        sys.stdout.flush()
        await running


def main() -> None:
    shell.BATCH_S = 0.01  # type: ignore[misc]
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            asyncio.run(project(*sys.argv[1:]))
            return
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
