"""Several routers, one of which leads: whatever becomes of that one, another decides, and no call notices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aegisipc.eventstore.lifecycles import RouterState as Phase
from aegisipc.router.application.router import Router, RouterOptions
from aegisipc.sdk import Client, Context, Service
from tests.e2e.kit import QUICK, Place, Running
from tests.support.proxy import FaultyProxy
from tests.support.waiting import eventually


class Steady:
    """A caller that calls without a pause; whatever it sees that is not an answer ends the test."""

    def __init__(self, client: Client) -> None:
        self.answers: list[str] = []
        self._client = client
        self._is_over = False
        self._task = asyncio.create_task(self._go_on())

    async def _go_on(self) -> None:
        while not self._is_over:
            self.answers.append(await self._client.call("desk.put", resource_id="x", timeout=30.0))

    async def until_more(self, count: int = 20) -> None:
        wanted = len(self.answers) + count
        await eventually(
            lambda: self._task.done() or len(self.answers) >= wanted, within_s=20, what="answers"
        )
        if self._task.done():
            self._task.result()

    async def until_answered_by(self, instance: str) -> None:
        await eventually(
            lambda: self._task.done() or self.answers[-1] == instance, within_s=20, what=f"{instance} answers"
        )

    async def finish(self) -> None:
        self._is_over = True
        await self._task


def desk() -> Service:
    service = Service("desk")

    @service.method(effect="idempotent")
    async def put(ctx: Context) -> str:
        return ctx.instance

    return service


@asynccontextmanager
async def under_load(place: Place) -> AsyncIterator[tuple[dict[str, Running], Steady]]:
    running = {name: await place.serve(desk(), "x", instance=name) for name in ("a", "b")}
    steady = Steady(await place.client())
    await steady.until_more()
    yield running, steady
    await steady.until_more()
    await steady.finish()
    counted = await place.recount()
    assert (counted.without, counted.several) == ([], [])


async def leads(router: Router) -> None:
    await eventually(lambda: router.phase is Phase.LEADING, within_s=10, what=f"{router.me.id} leads")


async def abandon(router: Router) -> None:
    """It is gone at once: it does not resign."""
    connection, router._connection = router._connection, None
    assert connection is not None
    await connection.close()
    await router.stop()


async def test_when_the_leader_is_killed_a_warm_follower_decides(place: Place) -> None:
    first = place.routers[0]
    await leads(first)
    second = await place.router()
    async with under_load(place) as (running, steady):
        await abandon(first)
        await running["a"].vanish()
        await leads(second)
        await steady.until_answered_by("b")
        term = second.state.topology.leadership.term
        assert term == 2
        third = await place.router()
        await abandon(second)
        await leads(third)


async def test_a_leader_that_is_cut_off_is_replaced_and_decides_nothing_when_it_is_back(
    place: Place,
) -> None:
    async with FaultyProxy(place.url) as proxy:
        await abandon(place.routers.pop())
        options = RouterOptions(proxy.url, place.namespace, policy=QUICK)
        async with Router(options) as cut_off, under_load(place) as (running, steady):
            await leads(cut_off)
            other = await place.router()
            await proxy.refuse()
            await proxy.reset()
            await running["a"].vanish()
            await leads(other)
            await steady.until_answered_by("b")
            decided = cut_off.decided
            await proxy.listen()
            await eventually(
                lambda: cut_off.state.topology.leadership.router == other.me.id,
                within_s=20,
                what="it knows that it is deposed",
            )
            await eventually(lambda: cut_off.phase is Phase.FOLLOWING, within_s=10, what="it follows")
            assert cut_off.decided == decided
            epochs = [group.epoch for group in cut_off.state.topology.groups()]
            assert epochs == [group.epoch for group in other.state.topology.groups()] == [2]


async def test_all_routers_may_go_and_come_back_while_calls_go_on(place: Place) -> None:
    async with under_load(place) as (running, steady):
        await abandon(place.routers.pop())
        await steady.until_more()
        back = await place.router()
        await leads(back)
        await running["a"].vanish()
        await steady.until_answered_by("b")
