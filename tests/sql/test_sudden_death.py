"""A projector that is killed again and again while calls come in: its tables equal a rebuild from scratch."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from aegisipc.router.infrastructure.embedded import EmbeddedServer
from tests.sql.kit import Model, Stored, projecting, reached, stored, until
from tests.sql.stories import Story

NURSERY = Path(__file__).with_name("dying.py")
DEATHS = 20


@asynccontextmanager
async def load(here: Stored) -> AsyncIterator[list[int]]:
    """Records that come in all the time, one story after the other; gives the last one's sequence."""
    last = [0]

    async def append() -> None:
        for seed in range(1000):
            for record in Story(seed).records(200):
                last[0] = await here.append([record])
                await asyncio.sleep(0.002)

    task = asyncio.create_task(append())
    try:
        yield last
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def nursery(here: Stored, model: Model) -> AsyncIterator[Callable[[], Awaitable[int]]]:
    """Gives what starts a projector, and returns its process id once it follows."""
    where = (here.connection.server.url, here.subjects.namespace, model.url)
    process = await asyncio.create_subprocess_exec(
        sys.executable, NURSERY, *where, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    stdin, stdout = process.stdin, process.stdout
    assert stdin is not None
    assert stdout is not None

    async def start() -> int:
        stdin.write(b"start\n")
        await stdin.drain()
        return int(await stdout.readline())

    try:
        yield start
    finally:
        stdin.close()
        await process.wait()


@pytest.mark.slow
async def test_it_is_killed_again_and_again_under_load(shared_server: EmbeddedServer, model: Model) -> None:
    positions = [0]
    async with stored(shared_server.url, f"sql-kill-{model.engine.name}") as here:
        async with load(here), nursery(here, model) as start:
            for number in range(DEATHS):
                pid = await start()
                try:
                    if number % 2 == 0:
                        await until(lambda: (model.checkpoint_position() or 0) > positions[-1], "it gets on")
                finally:
                    os.kill(pid, signal.SIGKILL)
                positions.append(model.checkpoint_position() or 0)
        last = (await here.log.bounds()).last_seq
        async with projecting(here, model) as projector:
            await reached(projector, last)
        assert model.tables() == await here.expected()
    assert positions == sorted(positions)
    assert len(set(positions)) > DEATHS // 2
