"""What a client does when connections break: the same frame again, in the same order, within bounds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from aegisipc.eventstore.calls import GroupCalls
from aegisipc.eventstore.errors import (
    AegisError,
    BadCredentials,
    LogMissing,
    NoResponders,
    NotConnected,
)
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.subjects import CALL
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from aegisipc.router.infrastructure.free_ports import choose_free_port
from aegisipc.sdk import connect
from aegisipc.sdk.opening import with_patience
from tests.sdk.hand import SERVICE, Hand, a_hand, failing
from tests.support.proxy import FaultyProxy, Flow
from tests.support.waiting import eventually


@pytest.fixture
async def hand(shared_server: EmbeddedServer) -> AsyncIterator[Hand]:
    async with a_hand(shared_server.url) as found:
        yield found


async def frames(hand: Hand) -> list[Record]:
    return [record async for record in hand.log.read([hand.subjects.of_kind(SERVICE, hand.group, CALL)])]


@pytest.mark.parametrize("is_reset", [True, False], ids=["connection reset", "connection silent"])
async def test_a_frame_whose_acknowledgement_is_lost_is_sent_again_and_is_in_the_log_once(
    hand: Hand, is_reset: bool
) -> None:
    async with FaultyProxy(hand.url) as proxy:
        client = await hand.client(url=proxy.url)
        await client.submit("orders.put", 0, resource_id="x")
        proxy.to_client.set(Flow.DISCARD)
        submitting = asyncio.create_task(client.submit("orders.put", 1, resource_id="x", timeout=30))
        await hand.accepted(2)
        assert not submitting.done()
        (lane,) = client._dispatcher._caller.lanes.values()
        if is_reset:
            await proxy.reset()
        else:
            await eventually(lambda: lane.driver.retries, within_s=10, what="it is sent again")
        proxy.to_client.set(Flow.FORWARD)
        pending = await submitting
        assert lane.driver.retries > 0
        stored = await frames(hand)
        assert len(stored) == 2
        assert pending.receipt.seq == stored[1].seq
        assert len(hand.order) == 2


async def test_a_frame_that_was_stored_twice_all_the_same_counts_once(hand: Hand) -> None:
    client = await hand.client()
    await client.submit("orders.put", 1, resource_id="x")
    await hand.accepted(1)
    (frame,) = await frames(hand)
    await hand.log.append(frame.subject, frame.payload)  # as after the time in which the server knows its id
    fold = GroupCalls(keep_bodies=True)
    for record in await frames(hand):
        fold.apply(record, hand.subjects.parse(record.subject))
    assert (fold.accepted, len(fold.open)) == (1, 1)
    assert fold.anomalies == {"frame stored twice": 1}


async def test_calls_of_one_client_keep_their_order_across_reconnects(hand: Hand) -> None:
    async with FaultyProxy(hand.url) as proxy:
        client = await hand.client(url=proxy.url)
        submitting = []
        for number in range(400):
            task = asyncio.create_task(client.submit("orders.put", number, resource_id="x", timeout=60))
            submitting.append(task)
            await asyncio.sleep(0)
            if number % 100 == 50:
                await proxy.reset()
            if number % 40 == 0:
                await asyncio.wait(submitting[-1:], timeout=0.02)
        made = [pending.call_id for pending in await asyncio.gather(*submitting)]
        await hand.accepted(400)
        assert hand.order == sorted(hand.order)
        assert len(set(hand.order)) == len(hand.order) == len(made) == 400
        assert made == sorted(made)


# -- the first connection ------------------------------------------------------------------------------


async def test_a_client_waits_for_a_server_that_comes_late(hand: Hand) -> None:
    proxy = FaultyProxy(hand.url)
    await proxy.listen()
    await proxy.refuse()
    connecting = asyncio.ensure_future(_connected(proxy.url, hand.namespace, 30))
    await asyncio.wait({connecting}, timeout=0.2)
    assert not connecting.done()
    await proxy.listen()
    assert await connecting
    await proxy.refuse()
    await proxy.reset()


async def _connected(url: str, namespace: str, patience_s: float) -> bool:
    async with connect(url, namespace=namespace, connect_timeout_s=patience_s) as client:
        return client._connection.is_connected


async def test_without_a_server_in_time_it_says_so_clearly() -> None:
    url = f"nats://127.0.0.1:{choose_free_port('127.0.0.1')}"
    error = await failing(_connected(url, "x", 0.3))
    assert isinstance(error, NotConnected)
    assert "cannot connect within 0.3 s (tried " in error.message
    assert "start the server, or check the URL" in error.message
    assert (error.timeout_s, error.attempts > 1) == (0.3, True)


async def test_it_waits_for_a_namespace_that_a_router_makes_late(shared_server: EmbeddedServer) -> None:
    error = await failing(_connected(shared_server.url, "nobody_made_it", 0.3))
    assert isinstance(error, LogMissing)


class Attempts:
    """Attempts that fail with these errors, and then succeed."""

    def __init__(self, *errors: AegisError) -> None:
        self.errors = list(errors)
        self.at: list[float] = []

    async def __call__(self) -> str:
        self.at.append(asyncio.get_running_loop().time())
        if self.errors:
            raise self.errors.pop(0)
        return "connected"


async def test_what_time_does_not_heal_is_raised_at_once() -> None:
    attempts = Attempts(BadCredentials("no"))
    with pytest.raises(BadCredentials):
        await with_patience(attempts, 10)
    assert len(attempts.at) == 1


async def test_without_patience_it_is_tried_once() -> None:
    for patience_s in (None, 0):
        attempts = Attempts(NotConnected("no"))
        with pytest.raises(NotConnected, match=r"^no$"):
            await with_patience(attempts, patience_s)
        assert len(attempts.at) == 1


@pytest.mark.parametrize("chance", [0.0, 1.0])
async def test_pauses_grow_and_vary_by_chance(chance: float) -> None:
    attempts = Attempts(*(NoResponders("no") for _ in range(3)))
    assert await with_patience(attempts, 10, chance=lambda: chance) == "connected"
    share = 0.5 + 0.5 * chance
    least = [share * pause_s for pause_s in (0.05, 0.1, 0.2)]
    for pause_s, (before, after) in zip(least, zip(attempts.at, attempts.at[1:], strict=False), strict=True):
        assert after - before >= pause_s - 0.001


async def test_an_attempt_that_hangs_ends_with_the_patience() -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    error = await failing(with_patience(hang, 0.1))
    assert isinstance(error, NotConnected)
    assert "the server did not answer" in error.message
