"""The server dies, hangs, comes back in a loop, or loses a node: calls wait, go on, and none is lost."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.streams import LogOptions
from aegisipc.router.domain.decide import Policy
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from aegisipc.router.infrastructure.embedded_cluster import running_cluster, three_node_cluster
from aegisipc.sdk import Client, Context, Service
from aegisipc.sdk.errors import CallTimeout, NotConnected
from tests.e2e.kit import Place
from tests.support.waiting import eventually

PATIENT = Policy(suspect_after_ms=1000, lost_after_ms=20_000, leader_after_ms=1000)
"""A server that is away for a moment costs nobody its place."""


class Counting:
    """An owned service and a pool that count the starts of each call."""

    def __init__(self, name: str) -> None:
        self.service = Service(name)
        self.starts: Counter[int] = Counter()

        @self.service.method(effect="once")
        async def pay(number: int, ctx: Context) -> int:
            self.starts[number] += 1
            return number

        @self.service.method(effect="idempotent")
        async def put(number: int) -> int:
            return number


class Callers:
    """Clients that call without a pause, each call with patience for the outage."""

    def __init__(self, client: Client, targets: list[str], count: int) -> None:
        self._client = client
        self.answered = 0
        self._numbers = iter(range(1_000_000))
        self._is_over = False
        self._tasks = [
            asyncio.create_task(self._go_on(targets[number % len(targets)])) for number in range(count)
        ]

    async def _go_on(self, target: str) -> None:
        while not self._is_over:
            number = next(self._numbers)
            resource = "x" if target.startswith("owned") else None
            answer = await self._client.call(target, number, resource_id=resource, timeout=60.0)
            assert answer == number
            self.answered += 1

    async def until_more(self, count: int, within_s: float = 30.0) -> None:
        wanted = self.answered + count
        await eventually(
            lambda: self.answered >= wanted or any(task.done() for task in self._tasks),
            within_s=within_s,
            what=f"{count} more answers",
        )
        for task in self._tasks:
            if task.done():
                task.result()

    async def finish(self) -> None:
        self._is_over = True
        await asyncio.gather(*self._tasks)


@asynccontextmanager
async def busy_place(server: EmbeddedServer) -> AsyncIterator[tuple[Place, Callers, Counting]]:
    """An owned group of two and a pool of two under load."""
    async with AsyncExitStack() as stack:
        place = Place(server, stack)
        await place.router(policy=PATIENT)
        owned, pool = Counting("owned"), Counting("pool")
        for name in ("a", "b"):
            await place.serve(owned.service, "x", instance=name, join_timeout_s=30.0)
            await place.serve(pool.service, instance=f"p{name}", join_timeout_s=30.0)
        client = await place.client()
        callers = Callers(client, ["owned.pay", "owned.put", "pool.put", "pool.pay"], 12)
        await callers.until_more(50)
        yield place, callers, owned
        await callers.finish()
        counted = await place.recount()
        assert (counted.without, counted.several) == ([], [])
        assert counted.marks() == {Mark.SUCCEEDED: len(counted.accepted)}
        assert max(owned.starts.values()) == max(pool.starts.values()) == 1


async def test_who_asks_the_log_for_an_outcome_waits_through_an_outage(nats_server: EmbeddedServer) -> None:
    service, may_go_on = Service("slow"), asyncio.Event()

    @service.method(effect="idempotent")
    async def put(number: int) -> int:
        await may_go_on.wait()
        return number

    async with AsyncExitStack() as stack:
        place = Place(nats_server, stack)
        await place.router(policy=PATIENT)
        await place.serve(service, "x", instance="a", join_timeout_s=30.0)
        client, other = await place.client(), await place.client()
        submitted = await client.submit("slow.put", 7, resource_id="x", timeout=60.0)
        attached = await other.attach(submitted.call_id)
        await nats_server.kill()
        waiting = [
            asyncio.create_task(ask)
            for ask in (
                submitted.settled(),
                attached.settled(),
                attached.result(60.0),
                other.attach(submitted.call_id, timeout=60.0).settled(),
            )
        ]
        done, _ = await asyncio.wait(waiting, timeout=1.0)
        assert not done, "somebody did not wait"
        await nats_server.start()
        may_go_on.set()
        assert await asyncio.wait_for(asyncio.gather(*waiting), 60) == [7, 7, 7, 7]


async def test_a_server_that_is_killed_and_restarted_in_a_loop_loses_nothing(
    nats_server: EmbeddedServer,
) -> None:
    async with busy_place(nats_server) as (_, callers, _):
        for _ in range(3):
            await nats_server.kill()
            await nats_server.restart()
            await callers.until_more(30)


async def test_a_server_that_hangs_for_seconds_loses_nothing(nats_server: EmbeddedServer) -> None:
    async with busy_place(nats_server) as (_, callers, _):
        nats_server.freeze()
        try:
            frozen_at = time.monotonic()
            await eventually(lambda: time.monotonic() > frozen_at + 4.0, within_s=10, what="the hang itself")
        finally:
            nats_server.thaw()
        await callers.until_more(30)


async def test_a_cluster_that_loses_the_logs_leader_goes_on_with_another(tmp_path: Path) -> None:
    servers = three_node_cluster(tmp_path, fsync=False)
    async with running_cluster(servers):
        urls = ",".join(server.url for server in servers)
        async with AsyncExitStack() as stack:
            place = Place(servers[0], stack)
            place.url = urls
            await place.router(policy=PATIENT, log=LogOptions(replicas=3))
            counting = Counting("owned")
            await place.serve(counting.service, "x", join_timeout_s=30.0)
            client = await place.client()
            callers = Callers(client, ["owned.pay", "owned.put"], 6)
            await callers.until_more(50)
            leader = await _leader(servers, place)
            await leader.kill()
            await callers.until_more(30, within_s=60.0)
            await leader.restart(30.0)
            await callers.until_more(30)
            await callers.finish()
            counted = await place.recount()
            assert (counted.without, counted.several) == ([], [])
            assert counted.marks() == {Mark.SUCCEEDED: len(counted.accepted)}
            assert max(counting.starts.values()) == 1


async def _leader(servers: list[EmbeddedServer], place: Place) -> EmbeddedServer:
    """The node that leads the log's stream."""
    async with await Connection.open(ConnectOptions(place.url)) as connection:
        answer = await connection.request(f"$JS.API.STREAM.INFO.AEGIS_{place.namespace}", b"", timeout_s=5)
    name = json.loads(answer.payload)["cluster"]["leader"]
    return next(server for server in servers if server.tuning.server_name == name)


async def test_a_server_that_stays_away_is_a_typed_error_in_time_and_never_a_hang(
    nats_server: EmbeddedServer,
) -> None:
    async with AsyncExitStack() as stack:
        place = Place(nats_server, stack)
        await place.router(policy=PATIENT)
        counting = Counting("owned")
        await place.serve(counting.service, "x")
        client = await place.client()
        assert await client.call("owned.put", 1, resource_id="x") == 1
        await nats_server.kill()
        began = time.monotonic()
        calls = [client.call("owned.put", n, resource_id="x", timeout=1.0) for n in range(5)]
        failed = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(error) for error in failed} <= {NotConnected, CallTimeout}
        assert time.monotonic() - began < 20.0
        await nats_server.restart()
        assert await client.call("owned.put", 2, resource_id="x", timeout=30.0) == 2


async def test_calls_accepted_before_a_long_outage_end_after_it(nats_server: EmbeddedServer) -> None:
    async with AsyncExitStack() as stack:
        place = Place(nats_server, stack)
        await place.router(policy=PATIENT)
        gate = asyncio.Event()
        service = Service("owned")

        @service.method(effect="once")
        async def slow(number: int) -> int:
            await gate.wait()
            return number

        await place.serve(service, "x")
        client = await place.client()
        pending = [await client.submit("owned.slow", n, resource_id="x", timeout=60.0) for n in range(10)]
        await nats_server.kill()
        gate.set()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await pending[0].result()
        await nats_server.restart()
        assert [await call.result() for call in pending] == list(range(10))
