"""Flow control from end to end: too many calls are refused until there is room; nobody is stuck behind."""

from __future__ import annotations

import asyncio

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.streams import open_log
from aegisipc.eventstore.subjects import subjects_of
from aegisipc.sdk import Client, Service
from aegisipc.sdk.call_options import Priority
from aegisipc.sdk.errors import Overloaded
from aegisipc.sdk.hosts.owned import OwnedHost
from aegisipc.sdk.pending import Pending
from tests.e2e.kit import Place, Running
from tests.support.waiting import eventually

LIMIT = 50


class Gated:
    """A service whose calls wait for a gate, one at a time, and note the order in which they ran."""

    def __init__(self, *, max_running: int = 1, max_backlog: int = 100_000) -> None:
        self.gate = asyncio.Event()
        self.ran: list[str] = []
        self.service = Service("gated", max_running=max_running, max_backlog=max_backlog)

        @self.service.method(effect="pure")
        async def work(name: str) -> str:
            await self.gate.wait()
            self.ran.append(name)
            return name


async def calls(client: Client, *names: str, priority: Priority = "normal") -> list[Pending]:
    """Submit them in this order."""
    return [
        await client.submit("gated.work", name, resource_id=name, returns=str, timeout=60, priority=priority)
        for name in names
    ]


def waiting(running: Running) -> int:
    host = running.host
    assert isinstance(host, OwnedHost)
    return host.member.waiting


async def told(place: Place) -> list[ev.Event]:
    """What the log says of congestion, in order."""
    subjects = subjects_of(place.namespace)
    async with await Connection.open(ConnectOptions(place.url)) as connection:
        log = await open_log(connection, subjects)
        records = [record async for record in log.read([subjects.watch("gated", "g")])]
    events = [ev.decode_event(record.payload) for record in records]
    return [event for event in events if isinstance(event, ev.GroupCongested | ev.GroupRelieved)]


async def refused(client: Client, pending: list[Pending]) -> Overloaded:
    """Call until the client refuses."""
    while True:
        try:
            pending += await calls(client, "r1")
        except Overloaded as error:
            return error
        assert len(pending) < 20 * LIMIT
        await asyncio.sleep(0.01)


async def test_clients_refuse_calls_of_a_congested_group_and_take_them_again_when_it_is_relieved(
    place: Place,
) -> None:
    gated = Gated(max_backlog=LIMIT)
    await place.serve(gated.service, "r1", group="g")
    client, other = await place.client(), await place.client()
    pending = await calls(client, *["r1"] * (LIMIT - 1))
    error = await refused(client, pending)
    assert 0.05 <= error.retry_after_s <= 60
    assert error.limit == LIMIT
    assert len(pending) >= LIMIT
    await refused(other, pending)  # and so does everybody else
    gated.gate.set()
    async with asyncio.timeout(20):
        assert {await each.result() for each in pending} == {"r1"}
        while True:
            try:
                assert await client.call("gated.work", "r1", resource_id="r1", returns=str) == "r1"
                break
            except Overloaded:
                await asyncio.sleep(0.01)
    congested, relieved = await told(place)
    assert isinstance(congested, ev.GroupCongested)
    assert (congested.limit, congested.open >= LIMIT) == (LIMIT, True)
    assert isinstance(relieved, ev.GroupRelieved)
    assert relieved.open < 0.8 * LIMIT


async def test_a_client_with_few_calls_is_not_stuck_behind_one_that_floods(place: Place) -> None:
    gated = Gated()
    few, many = ["few1", "few2", "few3"], [f"flood{n}" for n in range(100)]
    running = await place.serve(gated.service, *few, *many, group="g")
    flooding, modest = await place.client(name="flood"), await place.client(name="modest")
    pending = await calls(flooding, *many)
    await eventually(lambda: waiting(running) == len(many) - 1, within_s=10)
    pending += await calls(modest, *few)
    await eventually(lambda: waiting(running) == len(many) + len(few) - 1, within_s=10)
    gated.gate.set()
    async with asyncio.timeout(20):
        for each in pending:
            await each.result()
    assert [gated.ran.index(name) for name in few] == [2, 4, 6]
    assert [name for name in gated.ran if name not in few] == many


async def test_high_comes_before_low_and_low_comes_all_the_same(place: Place) -> None:
    gated = Gated()
    low, high = [f"low{n}" for n in range(40)], [f"high{n}" for n in range(40)]
    running = await place.serve(gated.service, *low, *high, group="g")
    client = await place.client()
    pending = await calls(client, *low, priority="low")
    pending += await calls(client, *high, priority="high")
    await eventually(lambda: waiting(running) == len(low) + len(high) - 1, within_s=10)
    gated.gate.set()
    async with asyncio.timeout(20):
        for each in pending:
            await each.result()
    assert gated.ran[0] == "low0"  # it had begun before
    assert set(gated.ran[1:15]) <= set(high)
    assert any(name in low for name in gated.ran[1:40])
    assert [name for name in gated.ran if name in low] == low
    assert [name for name in gated.ran if name in high] == high
