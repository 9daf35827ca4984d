"""Cancelling calls at the client: what is written, and what callers are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.ids import format_call_id
from aegisipc.eventstore.subjects import CANCEL
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from aegisipc.sdk import Client
from aegisipc.sdk.errors import (
    CallCancelled,
    CallFinished,
    CallTimeout,
    DeadLettered,
    NotConnected,
    ServiceDefinitionError,
)
from aegisipc.sdk.pending import Pending
from tests.sdk.hand import SERVICE, Hand, a_hand, error_body, failing
from tests.support.proxy import FaultyProxy
from tests.support.waiting import eventually

CANCELLED = error_body("cancelled", "cancelled", started=False, author="c9", reason="changed my mind")


@pytest.fixture
async def hand(shared_server: EmbeddedServer) -> AsyncIterator[Hand]:
    async with a_hand(shared_server.url) as found:
        yield found


@pytest.fixture(params=["submitted", "attached"])
async def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def a_pending(hand: Hand, way: str) -> Pending:
    client = await hand.client()
    pending = await client.submit("orders.put", 1, resource_id="x", timeout=30)
    await hand.accepted(1)
    return pending if way == "submitted" else await (await hand.client()).attach(pending.call_id)


async def requests(hand: Hand) -> int:
    """How many requests to cancel are in the log."""
    found = 0
    async for _ in hand.log.read([hand.subjects.of_kind(SERVICE, hand.group, CANCEL)]):
        found += 1
    return found


async def test_a_call_is_cancelled_by_a_durable_request(hand: Hand, way: str) -> None:
    pending = await a_pending(hand, way)
    cancelling = asyncio.create_task(pending.cancel("changed my mind", 20))
    await eventually(lambda: hand.cancels, within_s=5)
    (request,) = hand.cancels
    assert (request.call_ids, request.reason) == ((pending.call_id,), "changed my mind")
    assert request.author.startswith("client-")
    assert not cancelling.done()
    await hand.conclude(hand.order[0], Mark.CANCELLED, CANCELLED)
    await cancelling
    error = await failing(pending.result())
    assert isinstance(error, CallCancelled)
    assert (error.started, error.author, error.reason) == (False, "c9", "changed my mind")
    assert "it certainly did not run" in error.message
    await pending.cancel()  # it is so already
    assert await requests(hand) == 1


async def test_a_call_that_had_started_says_so(hand: Hand) -> None:
    pending = await a_pending(hand, "submitted")
    await hand.conclude(hand.order[0], Mark.CANCELLED, error_body("cancelled", started=True, author="ann"))
    error = await failing(pending.result())
    assert isinstance(error, CallCancelled)
    assert (error.started, error.author, error.reason) == (True, "ann", "")
    assert "may have done part of it" in error.message


@pytest.mark.parametrize(
    "body", [None, b"", b"\xc1", encode([1]), error_body("cancelled", started="no", author=5)]
)
async def test_a_cancellation_that_cannot_be_read_is_one_all_the_same(hand: Hand, body: bytes | None) -> None:
    pending = await a_pending(hand, "submitted")
    await hand.conclude(hand.order[0], Mark.CANCELLED, body)
    error = await failing(pending.result())
    assert isinstance(error, CallCancelled)
    assert error.started  # nobody says that it had not


OTHERS: list[tuple[Mark, bytes | None, str]] = [
    (Mark.SUCCEEDED, encode(1), "succeeded"),
    (Mark.FAILED, error_body("broken"), "failed"),
    (Mark.EXPIRED, None, "expired"),
    (Mark.DEAD_LETTERED, error_body("dead_lettered", attempts=3, reason="attempts"), "dead_lettered"),
]


@pytest.mark.parametrize(("mark", "body", "state"), OTHERS, ids=[state for *_, state in OTHERS])
async def test_a_call_with_another_outcome_cannot_be_cancelled_and_nothing_is_written(
    hand: Hand, way: str, mark: Mark, body: bytes | None, state: str
) -> None:
    pending = await a_pending(hand, way)
    await hand.conclude(hand.order[0], mark, body)
    if way == "submitted":
        await asyncio.wait({asyncio.ensure_future(pending.result())})
    with pytest.raises(CallFinished) as caught:
        await pending.cancel()
    assert (caught.value.state, caught.value.call_id) == (state, pending.call_id)
    assert await requests(hand) == 0


async def test_who_cancels_is_told_when_another_outcome_comes_first(hand: Hand, way: str) -> None:
    pending = await a_pending(hand, way)
    cancelling = asyncio.create_task(pending.cancel(timeout=20))
    await eventually(lambda: hand.cancels, within_s=5)
    await hand.conclude(hand.order[0], Mark.SUCCEEDED, encode(3))
    error = await failing(cancelling)
    assert isinstance(error, CallFinished)
    assert error.state == "succeeded"
    assert await pending.result() == 3


async def test_without_an_outcome_in_time_the_request_stands(hand: Hand, way: str) -> None:
    pending = await a_pending(hand, way)
    error = await failing(pending.cancel(timeout=0.2))
    assert isinstance(error, CallTimeout)
    assert "is durable and stands" in error.message
    assert error.call_id == pending.call_id
    assert await requests(hand) == 1
    await hand.conclude(hand.order[0], Mark.CANCELLED, CANCELLED)
    assert isinstance(await failing(pending.result(10)), CallCancelled)


async def test_a_call_in_doubt_is_cancelled_once_it_is_found_not_to_have_run(hand: Hand, way: str) -> None:
    pending = await a_pending(hand, way)
    (call_id,) = hand.order
    await hand.write((Mark.CLAIMED, call_id, None))
    await hand.conclude(call_id, Mark.IN_DOUBT)
    if way == "submitted":
        await asyncio.wait({asyncio.ensure_future(pending.result())})
    cancelling = asyncio.create_task(pending.cancel(timeout=20))
    await eventually(lambda: hand.cancels, within_s=5)
    await hand.write((Mark.NOT_EXECUTED, call_id, None), (Mark.CANCELLED, call_id, CANCELLED))
    await cancelling


async def test_a_call_that_was_not_sent_yet_is_dropped_here(hand: Hand) -> None:
    async with FaultyProxy(hand.url) as proxy:
        client = await hand.client(url=proxy.url)
        first = asyncio.create_task(client.submit("orders.put", 1, resource_id="x", timeout=30))
        await hand.accepted(1)
        await first
        proxy.to_server.set(proxy.to_server.flow.STALL)
        stuck = asyncio.create_task(client.call("orders.put", 2, resource_id="x", timeout=30))
        await eventually(lambda: any(call.sent for call in _open(client) if not call.seq), within_s=5)
        waiting = asyncio.create_task(client.submit("orders.put", 3, resource_id="x", timeout=30))
        await eventually(lambda: any(not call.sent for call in _open(client)), within_s=5)
        (unsent,) = [call for call in _open(client) if not call.sent]
        assert client._dispatcher.drop(unsent)
        assert not client._dispatcher.drop(unsent)
        error = await failing(waiting)
        assert isinstance(error, CallCancelled)
        assert not error.started
        assert "cancelled before it was sent; it certainly did not run" in error.message
        proxy.heal()
        await hand.accepted(2)
        await hand.conclude(hand.order[1], Mark.SUCCEEDED, encode(2))
        assert await stuck == 2
    assert len(hand.order) == 2


def _open(client: Client) -> list[Any]:
    return list(client._dispatcher.open_calls.values())


async def test_a_request_that_cannot_be_written_is_not_claimed_to_stand(hand: Hand) -> None:
    async with FaultyProxy(hand.url) as proxy:
        client = await hand.client(url=proxy.url)
        pending = await client.submit("orders.put", 1, resource_id="x", timeout=60)
        await proxy.refuse()
        await proxy.reset()
        error = await failing(pending.cancel(timeout=0.3))
        assert isinstance(error, NotConnected | CallTimeout)
        assert "stands" not in error.message
        await proxy.listen()
        await client._connection.wait_connected(10)
        cancelling = asyncio.create_task(pending.cancel(timeout=20))
        await eventually(lambda: hand.cancels, within_s=10)
        await hand.conclude(hand.order[0], Mark.CANCELLED, CANCELLED)
        await cancelling


async def test_a_request_whose_acknowledgement_is_lost_is_in_the_log_once(hand: Hand) -> None:
    async with FaultyProxy(hand.url) as proxy:
        client = await hand.client(url=proxy.url)
        pending = await client.submit("orders.put", 1, resource_id="x", timeout=60)
        proxy.to_client.set(proxy.to_client.flow.DISCARD)
        cancelling = asyncio.create_task(pending.cancel(timeout=30))
        await eventually(lambda: hand.cancels, within_s=5)
        proxy.to_client.set(proxy.to_client.flow.FORWARD)
        await proxy.reset()
        await client._connection.wait_connected(10)
        await hand.conclude(hand.order[0], Mark.CANCELLED, CANCELLED)
        hand.told[hand.order[0]] = (Mark.CANCELLED, CANCELLED)
        await cancelling
    assert await requests(hand) == 1


@pytest.mark.parametrize("reason", ["r" * 501, None, 5], ids=["long", "none", "number"])
async def test_what_is_no_reason_is_refused(hand: Hand, way: str, reason: Any) -> None:
    pending = await a_pending(hand, way)
    with pytest.raises(ServiceDefinitionError, match="give text of at most 500 characters"):
        await pending.cancel(reason)
    assert hand.cancels == []


async def test_a_cancelled_task_does_not_cancel_the_call(hand: Hand) -> None:
    client = await hand.client()
    calling = asyncio.create_task(client.call("orders.put", 1, resource_id="x"))
    (call_id,) = await hand.accepted(1)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    await hand.conclude(call_id, Mark.SUCCEEDED, encode(8))
    assert await client.attach(format_call_id(call_id)).result(10) == 8
    assert hand.cancels == []


async def test_a_dead_letter_that_an_operator_requeued_can_be_cancelled(hand: Hand) -> None:
    pending = await a_pending(hand, "attached")
    (call_id,) = hand.order
    await hand.write((Mark.DEAD_LETTERED, call_id, error_body("dead_lettered", attempts=1)))
    assert isinstance(await failing(pending.result(1)), DeadLettered)
    call = {"client": "c", "method": "put", "resource": "x", "key": None, "priority": 1, "body": b""}
    requeued = encode({"author": "ann", "reason": "", "dead_seq": 0, "timeout_ms": 60_000, "call": call})
    await hand.write((Mark.REQUEUED, call_id, requeued))
    cancelling = asyncio.create_task(pending.cancel(timeout=20))
    await eventually(lambda: hand.cancels, within_s=5)
    await hand.write((Mark.CANCELLED, call_id, CANCELLED))
    await cancelling
