"""The position keeper as its users run it: processes of one group, of which the active one is killed."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from decimal import Decimal
from pathlib import Path

import pytest

from aegisipc.router.domain.decide import Policy
from aegisipc.router.infrastructure.child import ChildProcess
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from aegisipc.sdk import Client
from examples.positions import Fill, Position
from tests.e2e.kit import Place
from tests.support.waiting import eventually

GROUP, ACCOUNTS, INSTRUMENTS = "keepers", ("acc_1", "acc_2"), ("ACME", "BOLT", "CRUX")
PATIENCE_S = 60.0

type Book = dict[str, dict[str, Position]]


class Keepers:
    """Instances of the position keeper in processes of their own."""

    def __init__(self, place: Place, folder: Path) -> None:
        self._place = place
        self._folder = folder
        self.running: dict[str, ChildProcess] = {}

    async def start(self, name: str) -> None:
        """Start an instance; returns when it has joined."""
        output = self._folder / f"{name}.log"
        words = ["serve", "examples.positions:positions", "--group", GROUP, "--instance", name]
        words += [word for account in ACCOUNTS for word in ("--resource", account)]
        words += ["--url", self._place.url, "--namespace", self._place.namespace]
        argv = [sys.executable, "-m", "aegisipc.router.cli.main", *words]
        self.running[name] = await asyncio.to_thread(ChildProcess, argv, output)
        await eventually(lambda: "ready" in output.read_text(), within_s=PATIENCE_S, what=f"{name} is ready")

    async def kill_the_active(self) -> None:
        """``kill -9`` of whoever holds the pen."""
        group = self._place.routers[0].state.topology.group("positions", GROUP)
        assert group is not None
        assert group.holder is not None
        await self.end(group.holder, signal.SIGKILL)

    async def end(self, name: str, signum: signal.Signals) -> None:
        child = self.running.pop(name)
        os.kill(child.pid, signum)
        await child.wait(PATIENCE_S)

    async def end_all(self) -> None:
        for name in list(self.running):
            await self.end(name, signal.SIGKILL)


@pytest.fixture
async def place(shared_server: EmbeddedServer) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        found = Place(shared_server, stack)
        await found.router(policy=Policy())  # with patience: the machine may be busy
        yield found


@pytest.fixture
async def keepers(place: Place, tmp_path: Path) -> AsyncIterator[Keepers]:
    found = Keepers(place, tmp_path)
    try:
        yield found
    finally:
        await found.end_all()


def some_fills(count: int, seed: int) -> list[Fill]:
    draw = random.Random(seed)
    return [
        Fill(
            account=draw.choice(ACCOUNTS),
            instrument=draw.choice(INSTRUMENTS),
            quantity=draw.choice((-1, 1)) * draw.randint(1, 300),
            price=Decimal(draw.randint(100, 9_999)) / 100,
        )
        for _ in range(count)
    ]


def expected(fills: list[Fill]) -> Book:
    """What the positions are after these fills, one after another."""
    book: Book = {account: {} for account in ACCOUNTS}
    for fill in fills:
        known = book[fill.account].get(fill.instrument)
        position = known or Position(account=fill.account, instrument=fill.instrument)
        book[fill.account][fill.instrument] = position.after(fill)
    return book


async def told(client: Client) -> Book:
    """What the positions are, as the active instance tells them."""
    book: Book = {}
    for account in ACCOUNTS:
        found = await client.call(
            "positions.account", account, resource_id=account, returns=list[Position], timeout=PATIENCE_S
        )
        book[account] = {position.instrument: position for position in found}
    return book


@pytest.mark.slow
async def test_positions_survive_the_death_of_the_active_instance_and_of_every_one_after_it(
    place: Place, keepers: Keepers
) -> None:
    await keepers.start("keeper-1")
    await keepers.start("keeper-2")
    client = await place.client()
    fills = some_fills(300, seed=5)

    async def book(fill: Fill) -> Position:
        return await client.call(
            "positions.book", fill, resource_id=fill.account, returns=Position, timeout=PATIENCE_S
        )

    booking = [asyncio.ensure_future(book(fill)) for fill in fills]
    await asyncio.wait_for(booking[99], PATIENCE_S)
    await keepers.kill_the_active()
    booked = await asyncio.gather(*booking)
    assert await told(client) == expected(fills)
    last = {(position.account, position.instrument): position for position in booked}
    assert {key: position.quantity for key, position in last.items()} == {
        (account, instrument): position.quantity
        for account, held in expected(fills).items()
        for instrument, position in held.items()
    }

    await keepers.start("keeper-3")
    for name in keepers.running.keys() - {"keeper-3"}:
        await keepers.end(name, signal.SIGKILL)
    assert await told(client) == expected(fills)
    assert await book(fills[0]) == expected([*fills, fills[0]])[fills[0].account][fills[0].instrument]
    counted = await place.recount()
    assert (counted.without, counted.several) == ([], [])
