"""The outbox with a real server, router and service: one effect of each entry, whatever is killed."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from pydantic import BaseModel

from aegisipc.router.infrastructure.embedded import EmbeddedServer
from aegisipc.sdk import Context, Service
from aegisipc.sdk.errors import IdempotencyConflict, InvalidArguments, RemoteError, ServiceError
from aegisipc.sdk.outbox import Backoff, Outbox, OutboxEntryExpired, Status
from tests.e2e.kit import Place
from tests.outbox.dying_app import KEY
from tests.outbox.test_crashes import rows, run_app
from tests.support.waiting import eventually

QUICK = Backoff(first_ns=10_000_000, most_ns=100_000_000)


class Fill(BaseModel):
    number: int


class Effects:
    """What ran, and a door through which every run must go."""

    def __init__(self) -> None:
        self.ran: list[int] = []
        self.door = asyncio.Event()
        self.door.set()

    def service(self) -> Service:
        service = Service("orders")

        @service.method
        async def place(number: int, ctx: Context) -> Fill:
            self.ran.append(number)
            await self.door.wait()
            return Fill(number=number)

        @service.method
        async def fail(number: int) -> int:
            raise ServiceError("insufficient_funds", "not enough", missing=number)

        return service


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "desk.db"


@pytest.fixture
async def place(shared_server: EmbeddedServer) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        found = Place(shared_server, stack)
        await found.router()
        yield found


@pytest.mark.parametrize(
    ("step", "effects"), [("added", 0), ("committed", 1), ("submitted", 1), ("accepted", 1)]
)
async def test_an_application_killed_at_each_step_has_one_effect_in_the_end(
    place: Place, path: Path, step: str, effects: int
) -> None:
    effect = Effects()
    await place.serve(effect.service(), "acc_1")
    if step == "accepted":
        effect.door.clear()
    where = ("nats", place.url, place.namespace)
    assert await run_app(step, path, *where, may_end=path) == -signal.SIGKILL
    effect.door.set()
    assert await run_app("none", path, *where, may_end=path) == 0
    assert len(rows(path, "SELECT * FROM orders")) == effects
    assert effect.ran == [1] * effects
    with Outbox(path) as outbox:
        assert [(entry.key, entry.status) for entry in outbox.entries()] == [
            (KEY, Status.SUCCEEDED)
        ] * effects
        for entry in outbox.entries():
            assert outbox.wait(entry.entry_id, returns=Fill) == Fill(number=1)


async def test_outcomes_of_every_kind_come_back(place: Place, path: Path) -> None:
    await place.serve(Effects().service(), "acc_1")
    client = await place.client()
    with Outbox(path) as outbox:
        good = outbox.put("orders.place", 1, resource_id="acc_1", priority="high", idempotency_key="k")
        bad = outbox.put("orders.fail", 3, resource_id="acc_1")
        ugly = outbox.put("orders.place", "one", resource_id="acc_1")
        await client.call("orders.place", 7, resource_id="acc_1", idempotency_key="mine")
        taken = outbox.put("orders.place", 8, resource_id="acc_1", idempotency_key="mine")
        async with outbox.relay(client) as relay:
            await relay.idle(30)
        assert outbox.wait(good, returns=Fill) == Fill(number=1)
        with pytest.raises(RemoteError) as refused:
            outbox.wait(bad)
        assert (refused.value.code, refused.value.details) == ("insufficient_funds", {"missing": 3})
        with pytest.raises(InvalidArguments) as unfit:
            outbox.wait(ugly)
        assert unfit.value.errors
        with pytest.raises(IdempotencyConflict):
            outbox.wait(taken)
        found = await client.attach(idempotency_key="k", service="orders", resource_id="acc_1")
        assert found.call_id == outbox.entry(good).call_id


async def test_a_service_that_is_not_there_yet_is_waited_for_in_order(place: Place, path: Path) -> None:
    effect = Effects()
    client = await place.client()
    with Outbox(path) as outbox:
        database = sqlite3.connect(path)
        for number in range(30):
            outbox.add(database, "orders.place", number, resource_id="acc_1")
        database.commit()
        database.close()
        late = outbox.put("orders.place", 99, resource_id="acc_1", expires_in=0.05)
        async with outbox.relay(client, backoff=QUICK) as relay:
            await eventually(lambda: (outbox.entry(1).trouble or "").startswith("NoRoute"), within_s=10)
            with pytest.raises(OutboxEntryExpired):
                await outbox.result(late, timeout=10)
            await place.serve(effect.service(), "acc_1")
            await relay.idle(30)
        assert effect.ran == list(range(30))
        assert outbox.counts()[Status.SUCCEEDED] == 30


async def test_large_arguments_go_as_well(place: Place, path: Path) -> None:
    service = Service("store")

    @service.method(effect="pure")
    async def size(number: int, data: bytes) -> int:
        return len(data)

    await place.serve(service)
    client = await place.client()
    with Outbox(path) as outbox:
        ticket = outbox.put("store.size", 1, b"x" * 3_000_000)
        async with outbox.relay(client):
            assert await outbox.result(ticket, timeout=30) == 3_000_000


async def test_an_outcome_that_came_while_nobody_relayed_is_found_in_the_log(
    place: Place, path: Path
) -> None:
    effect = Effects()
    await place.serve(effect.service(), "acc_1")
    effect.door.clear()
    with Outbox(path) as outbox:
        tickets = [outbox.put("orders.place", number, resource_id="acc_1") for number in range(5)]
        async with outbox.relay(await place.client()) as relay:
            await relay.idle(10, outcomes=False)
        effect.door.set()
        async with outbox.relay(await place.client()) as relay:
            await relay.idle(30)
        assert [outbox.wait(ticket)["number"] for ticket in tickets] == list(range(5))
    assert effect.ran == list(range(5))


async def test_an_entry_whose_time_ran_out_while_nobody_knew_is_looked_up_by_its_key(
    place: Place, path: Path
) -> None:
    effect = Effects()
    await place.serve(effect.service(), "acc_1")
    client = await place.client()
    with Outbox(path) as outbox:
        accepted = outbox.put(
            "orders.place", 1, resource_id="acc_1", idempotency_key="sent", expires_in=0.001
        )
        never = outbox.put("orders.place", 2, resource_id="acc_1", expires_in=0.001)
        database = sqlite3.connect(path)  # as a relay leaves them that dies while it sends
        database.execute("UPDATE aegis_outbox SET status = 'sending', tried_ns = added_ns")
        database.commit()
        database.close()
        await client.call("orders.place", 1, resource_id="acc_1", idempotency_key="sent")
        async with outbox.relay(client, backoff=QUICK, settle_s=0.2) as relay:
            await relay.idle(30)
        assert outbox.wait(accepted)["number"] == 1
        with pytest.raises(OutboxEntryExpired):
            outbox.wait(never)
    assert effect.ran == [1]
