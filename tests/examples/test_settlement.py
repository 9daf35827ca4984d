"""The settlement house and a desk as their users run them: processes, of which the active one is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, closing
from decimal import Decimal
from pathlib import Path

import pytest

from aegisipc.router.domain.decide import Policy
from aegisipc.router.infrastructure.child import ChildProcess
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from aegisipc.sdk import RemoteError
from aegisipc.sdk.outbox import OutboxKeyConflict
from examples.settlement import HOUSE, OPENING_CENTS, Settled, SettlementApi, Trade, prepare, settlement
from examples.settlement_desk import Desk
from tests.e2e.kit import Place
from tests.support.waiting import eventually

PATIENCE_S = 60.0
MINE, OTHERS = "acc_1", "acc_2"


class Houses:
    """Instances of the house in processes of their own, with one database."""

    def __init__(self, place: Place, folder: Path) -> None:
        self._place = place
        self._folder = folder
        self.database = folder / "settlement.db"
        self.running: dict[str, ChildProcess] = {}

    async def start(self, name: str) -> None:
        """Start an instance; returns when it has joined."""
        prepare(str(self.database))
        output = self._folder / f"{name}.log"
        words = ["serve", "examples.settlement:settlement", "--instance", name, "--resource", HOUSE]
        argv = [sys.executable, "-m", "aegisipc.router.cli.main", *words]
        env = os.environ | {
            "AEGIS_URL": self._place.url,
            "AEGIS_NAMESPACE": self._place.namespace,
            "SETTLEMENT_DATABASE": str(self.database),
        }
        self.running[name] = await asyncio.to_thread(ChildProcess, argv, output, env=env)
        await eventually(lambda: "ready" in output.read_text(), within_s=PATIENCE_S, what=f"{name} is ready")

    async def kill_the_active(self) -> None:
        """``kill -9`` of whoever holds the pen."""
        group = self._place.routers[0].state.topology.group("settlement", HOUSE)
        assert group is not None
        assert group.holder is not None
        child = self.running.pop(group.holder)
        os.kill(child.pid, signal.SIGKILL)
        await child.wait(PATIENCE_S)

    async def end_all(self) -> None:
        for child in self.running.values():
            os.kill(child.pid, signal.SIGKILL)
            await child.wait(PATIENCE_S)

    def payments(self) -> list[str]:
        """The trades that were paid for."""
        with closing(sqlite3.connect(self.database)) as database:
            return [row[0] for row in database.execute("SELECT trade_id FROM payments ORDER BY trade_id")]

    def cents(self) -> dict[str, int]:
        with closing(sqlite3.connect(self.database)) as database:
            return dict(database.execute("SELECT name, cents FROM accounts"))


@pytest.fixture
async def place(shared_server: EmbeddedServer) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        found = Place(shared_server, stack)
        await found.router(policy=Policy())  # with patience: the machine may be busy
        yield found


@pytest.fixture
async def houses(place: Place, tmp_path: Path) -> AsyncIterator[Houses]:
    found = Houses(place, tmp_path)
    try:
        yield found
    finally:
        await found.end_all()


def trade(number: int, amount: str = "10.00", payer: str = MINE) -> Trade:
    return Trade(trade_id=f"t-{number:03}", payer=payer, payee=OTHERS, amount=Decimal(amount))


@pytest.mark.slow
async def test_every_trade_is_paid_for_once_although_whoever_pays_is_killed(
    place: Place, houses: Houses, tmp_path: Path
) -> None:
    with Desk(str(tmp_path / "desk.db")) as desk:
        tickets = [desk.book(trade(number)) for number in range(60)]  # nobody is there to pay yet
        await houses.start("house-1")
        await houses.start("house-2")
        client = await place.client(name="desk-1")
        async with desk.outbox.relay(client):
            await desk.outbox.result(tickets[9], returns=Settled, timeout=PATIENCE_S)
            await houses.kill_the_active()
            settled = [
                await desk.outbox.result(ticket, returns=Settled, timeout=PATIENCE_S) for ticket in tickets
            ]
    assert [one.trade_id for one in settled] == houses.payments() == [f"t-{n:03}" for n in range(60)]
    paid = 60 * 10_00
    assert houses.cents() == {
        MINE: OPENING_CENTS - paid,
        OTHERS: OPENING_CENTS + paid,
        "acc_3": OPENING_CENTS,
        "acc_4": OPENING_CENTS,
    }
    total = await client.service(SettlementApi, resource_id=HOUSE, timeout=PATIENCE_S).total()
    assert total == Decimal(4 * OPENING_CENTS) / 100
    counted = await place.recount()
    assert (counted.without, counted.several) == ([], [])


@pytest.mark.slow
async def test_a_trade_that_cannot_be_paid_for_changes_nothing_and_is_not_tried_again(
    place: Place, houses: Houses, tmp_path: Path
) -> None:
    await houses.start("house-1")
    client = await place.client()
    with Desk(str(tmp_path / "desk.db")) as desk:
        tickets = [desk.book(trade(1, amount="90000000.00")), desk.book(trade(2, payer="nobody"))]
        codes = []
        async with desk.outbox.relay(client):
            for ticket in tickets:
                with pytest.raises(RemoteError) as refused:
                    await desk.outbox.result(ticket, returns=Settled, timeout=PATIENCE_S)
                codes.append(refused.value.code)
    assert codes == ["insufficient_funds", "unknown_account"]
    assert (houses.payments(), set(houses.cents().values())) == ([], {OPENING_CENTS})


@pytest.mark.slow
async def test_a_database_that_somebody_locks_only_delays_a_payment(
    place: Place, houses: Houses, tmp_path: Path
) -> None:
    await houses.start("house-1")
    client = await place.client()
    with closing(sqlite3.connect(houses.database, autocommit=True)) as other:
        other.execute("BEGIN IMMEDIATE")
        paying = asyncio.ensure_future(
            client.call("settlement.settle", trade(1), resource_id=HOUSE, returns=Settled, timeout=PATIENCE_S)
        )
        await client.call("settlement.total", resource_id=None, timeout=PATIENCE_S)  # it is there, and reads
        assert not paying.done()
        other.execute("ROLLBACK")
    assert (await paying).trade_id == "t-001"
    assert houses.payments() == ["t-001"]


def test_a_trade_that_is_booked_twice_or_whose_booking_fails_leaves_one_entry(tmp_path: Path) -> None:
    with Desk(str(tmp_path / "desk.db")) as desk:
        desk.book(trade(1))
        with pytest.raises(sqlite3.IntegrityError):
            desk.book(trade(1, amount="11.00"))
        assert desk.outbox.pending_count() == 1
        with pytest.raises(OutboxKeyConflict):
            desk.outbox.put("settlement.settle", trade(2), resource_id=HOUSE, idempotency_key="t-001")


def test_the_protocol_names_the_service_and_its_methods() -> None:
    assert SettlementApi.service_name == settlement.name
    assert all(hasattr(SettlementApi, method) for method in settlement.methods)
    assert {name: str(method.effect) for name, method in settlement.methods.items()} == {
        "settle": "idempotent",
        "total": "pure",
    }
