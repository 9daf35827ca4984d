"""Idempotency keys at the client: duplicates have the first call's outcome, whenever that comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.eventstore.frames import HIGH, LOW, CallOptions, Mark
from aegisipc.eventstore.ids import CallId, CallIds, format_call_id
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from aegisipc.sdk import Client
from aegisipc.sdk.errors import (
    CallFinished,
    CallInDoubt,
    CallTimeout,
    CallUnknown,
    IdempotencyConflict,
    InvalidName,
    ServiceDefinitionError,
)
from tests.sdk.hand import Hand, a_hand, error_body, failing
from tests.support.waiting import eventually


@pytest.fixture
async def hand(shared_server: EmbeddedServer) -> AsyncIterator[Hand]:
    async with a_hand(shared_server.url) as found:
        yield found


async def two_calls(
    hand: Hand, client: Client, timeout: float = 20
) -> tuple[asyncio.Task[Any], CallId, asyncio.Task[Any], CallId]:
    """A call and one that repeats it, both accepted and without an outcome."""
    tasks = []
    for count in (1, 2):
        calling = client.call("orders.put", 1, idempotency_key="k", resource_id="x", timeout=timeout)
        tasks.append(asyncio.create_task(calling))
        await hand.accepted(count)
    return tasks[0], hand.order[0], tasks[1], hand.order[1]


# -- what goes out -------------------------------------------------------------------------------------


async def test_key_and_priority_travel_in_the_frame_and_plain_calls_have_no_options(hand: Hand) -> None:
    client = await hand.client()
    pendings = [
        await client.submit("orders.put", 1, resource_id="x"),
        await client.submit("orders.put", 1, resource_id="x", idempotency_key="k"),
        await client.submit("orders.put", 1, resource_id="x", priority="low"),
        await client.submit("orders.put", 1, resource_id="x", idempotency_key="k2", priority="high"),
        await client.submit("orders.put", 1, resource_id="x", idempotency_key=None, priority="normal"),
    ]
    await hand.accepted(len(pendings))
    assert [hand.calls[call_id][1].options for call_id in hand.order] == [
        None,
        CallOptions("k"),
        CallOptions(None, LOW),
        CallOptions("k2", HIGH),
        None,
    ]


@pytest.mark.parametrize("key", ["", "k" * 257, "\ud800", 5, b"k"], ids=ascii)
async def test_what_is_no_key_is_refused_before_anything_is_sent(hand: Hand, key: Any) -> None:
    client = await hand.client()
    for use in (client.call, client.submit):
        with pytest.raises(InvalidName, match="as an idempotency key"):
            await use("orders.put", 1, resource_id="x", idempotency_key=key)
    assert client.open_calls == 0


@pytest.mark.parametrize("priority", ["urgent", "", None, 2, ["high"]], ids=repr)
async def test_what_is_no_priority_is_refused_before_anything_is_sent(hand: Hand, priority: Any) -> None:
    client = await hand.client()
    for use in (client.call, client.submit):
        with pytest.raises(ServiceDefinitionError, match="it is 'low', 'normal' or 'high'"):
            await use("orders.put", 1, resource_id="x", priority=priority)
    assert client.open_calls == 0


# -- duplicates ----------------------------------------------------------------------------------------


async def test_a_duplicate_told_together_with_the_first_calls_outcome_has_that_at_once(hand: Hand) -> None:
    client = await hand.client()
    first, first_id, again, again_id = await two_calls(hand, client)
    hand.is_deaf = True
    hand.tell((again_id, Mark.DUPLICATE, first_id), (first_id, Mark.SUCCEEDED, encode(42)))
    assert await again == await first == 42
    assert hand.asked == []


async def test_a_duplicate_of_a_call_that_runs_waits_for_it(hand: Hand) -> None:
    client = await hand.client()
    first, first_id, again, again_id = await two_calls(hand, client)
    hand.tell((again_id, Mark.DUPLICATE, first_id))
    await eventually(lambda: client._dispatcher.open_calls[again_id].first == first_id, within_s=5)
    assert not again.done()
    hand.tell((first_id, Mark.SUCCEEDED, encode(7)))
    assert await again == await first == 7


async def test_the_first_call_of_another_client_is_followed_in_the_log_while_it_runs(hand: Hand) -> None:
    hand.is_deaf = True
    one, other = await hand.client(), await hand.client()
    await one.submit("orders.put", 1, idempotency_key="k", resource_id="x")
    await hand.accepted(1)
    again = asyncio.create_task(other.call("orders.put", 1, idempotency_key="k", resource_id="x", timeout=20))
    first_id, again_id = await hand.accepted(2)
    await hand.write(hand.keyed(first_id), (Mark.DUPLICATE, again_id, first_id))
    hand.tell((again_id, Mark.DUPLICATE, first_id))
    await eventually(lambda: other._dispatcher._firsts.is_busy, within_s=5)
    await hand.write((Mark.SUCCEEDED, first_id, encode("once")))
    assert await again == "once"
    await eventually(lambda: not other._dispatcher._firsts.is_busy, within_s=5)


async def test_a_first_call_whose_outcome_is_only_remembered_by_the_holder_is_asked_for(hand: Hand) -> None:
    client = await hand.client()
    again = asyncio.create_task(
        client.call("orders.put", 1, idempotency_key="k", resource_id="x", timeout=20)
    )
    (again_id,) = await hand.accepted(1)
    await hand.client(name="somebody")
    elsewhere = CallIds(99).next(1)  # nothing in the log leads to it
    hand.told[elsewhere] = (Mark.SUCCEEDED, encode(3))
    hand.told[again_id] = (Mark.DUPLICATE, elsewhere)
    pending = client._dispatcher.open_calls[again_id]
    outcomes = [(again_id, int(Mark.DUPLICATE), elsewhere), (elsewhere, int(Mark.SUCCEEDED), encode(3))]
    hand.tell(*outcomes)
    assert await again == 3
    assert pending.is_over


async def test_duplicates_of_duplicates_lead_to_the_first_call(hand: Hand) -> None:
    client = await hand.client()
    tasks = []
    for count in (1, 2, 3):
        calling = client.call("orders.put", 1, idempotency_key="k", resource_id="x", timeout=20)
        tasks.append(asyncio.create_task(calling))
        await hand.accepted(count)
    a, b, c = hand.order
    hand.tell((c, Mark.DUPLICATE, b))
    await eventually(lambda: client._dispatcher.open_calls[c].first == b, within_s=5)
    hand.tell((b, Mark.DUPLICATE, a))
    await eventually(lambda: client._dispatcher.open_calls[c].first == a, within_s=5)
    hand.tell((a, Mark.SUCCEEDED, encode("a")))
    assert await asyncio.gather(*tasks) == ["a"] * 3


async def test_duplicates_that_lead_in_circles_are_told_so(hand: Hand) -> None:
    client = await hand.client()
    first, first_id, again, again_id = await two_calls(hand, client)
    hand.tell((again_id, Mark.DUPLICATE, first_id), (first_id, Mark.DUPLICATE, again_id))
    for task in (first, again):
        error = await failing(task)
        assert isinstance(error, MalformedPayload)
        assert "they lead in circles" in str(error)
    assert client.open_calls == 0


@pytest.mark.parametrize("body", [None, b"", b"short", b"x" * 17])
async def test_a_duplicate_that_names_no_call_is_told_so(hand: Hand, body: bytes | None) -> None:
    client = await hand.client()
    task = asyncio.create_task(client.call("orders.put", 1, idempotency_key="k", resource_id="x"))
    (call_id,) = await hand.accepted(1)
    hand.tell((call_id, Mark.DUPLICATE, body))
    assert isinstance(await failing(task), MalformedPayload)


async def test_out_of_time_the_first_calls_id_is_named(hand: Hand) -> None:
    client = await hand.client()
    first, first_id, again, again_id = await two_calls(hand, client, timeout=0.5)
    hand.tell((again_id, Mark.DUPLICATE, first_id))
    error = await failing(again)
    assert isinstance(error, CallTimeout)
    assert error.call_id == format_call_id(first_id)
    assert error.duplicate_call_id == format_call_id(again_id)
    assert f"repeats call {format_call_id(first_id)}" in error.message
    await failing(first)
    await hand.write((Mark.SUCCEEDED, first_id, encode(1)))
    assert await client.attach(error.call_id).result() == 1


async def test_a_first_call_that_the_log_does_not_have_is_unknown(hand: Hand) -> None:
    client = await hand.client()
    task = asyncio.create_task(client.call("orders.put", 1, idempotency_key="k", resource_id="x", timeout=20))
    (call_id,) = await hand.accepted(1)
    hand.tell((call_id, Mark.DUPLICATE, CallIds(3).next(1_000)))
    error = await failing(task)
    assert isinstance(error, CallUnknown)
    assert "it is older than the log" in error.message


async def test_a_doubt_about_the_first_call_is_the_duplicates_and_settles_with_it(hand: Hand) -> None:
    client = await hand.client()
    first = await client.submit("orders.put", 1, idempotency_key="k", resource_id="x")
    again = await client.submit("orders.put", 1, idempotency_key="k", resource_id="x")
    first_id, again_id = await hand.accepted(2)
    await hand.write((Mark.CLAIMED, first_id, None), (Mark.DUPLICATE, again_id, first_id))
    await hand.write((Mark.IN_DOUBT, first_id, None))
    hand.tell((again_id, Mark.DUPLICATE, first_id), (first_id, Mark.IN_DOUBT, None))
    error = await failing(again.result())
    assert isinstance(error, CallInDoubt)
    assert error.call_id == first.call_id
    settling = asyncio.create_task(again.settled(20))
    await hand.write((Mark.EXECUTED, first_id, b""), (Mark.SUCCEEDED, first_id, encode(9)))
    assert await settling == 9


async def test_attached_to_a_duplicate_the_first_calls_outcome_is_told(hand: Hand) -> None:
    client, other = await hand.client(), await hand.client()
    await client.submit("orders.put", 1, idempotency_key="k", resource_id="x")
    again = await client.submit("orders.put", 1, idempotency_key="k", resource_id="x")
    first_id, again_id = await hand.accepted(2)
    await hand.write(hand.keyed(first_id), (Mark.DUPLICATE, again_id, first_id))
    attached = await other.attach(again.call_id)
    with pytest.raises(CallTimeout) as caught:
        await attached.result(0.05)
    assert caught.value.call_id == format_call_id(first_id)
    waiting = [asyncio.create_task(attached.result(20)), asyncio.create_task(attached.settled(20))]
    await hand.write((Mark.SUCCEEDED, first_id, encode(5)))
    assert await asyncio.gather(*waiting) == [5, 5]
    assert await attached.result() == 5


async def test_a_duplicate_cannot_be_cancelled_for_it_is_not_what_runs(hand: Hand) -> None:
    client = await hand.client()
    await client.submit("orders.put", 1, idempotency_key="k", resource_id="x")
    again = await client.submit("orders.put", 1, idempotency_key="k", resource_id="x")
    first_id, again_id = await hand.accepted(2)
    await hand.write((Mark.DUPLICATE, again_id, first_id))
    hand.tell((again_id, Mark.DUPLICATE, first_id))
    await eventually(lambda: client._dispatcher.open_calls[again_id].first is not None, within_s=5)
    for pending in (again, await (await hand.client()).attach(again.call_id)):
        with pytest.raises(CallFinished) as caught:
            await pending.cancel()
        assert (caught.value.state, caught.value.first_call_id) == ("duplicate", format_call_id(first_id))
    assert hand.cancels == []


async def test_another_payload_with_the_same_key_is_a_conflict_that_names_the_first_call(hand: Hand) -> None:
    client = await hand.client()
    task = asyncio.create_task(client.call("orders.put", 2, idempotency_key="k", resource_id="x"))
    (call_id,) = await hand.accepted(1)
    first = format_call_id(CallIds(3).next(1_000))
    body = error_body("idempotency_conflict", first=first, key="k")
    await hand.conclude(call_id, Mark.FAILED, body)
    error = await failing(task)
    assert isinstance(error, IdempotencyConflict)
    assert (error.key, error.first_call_id) == ("k", first)
    assert first in error.message
    assert "use a new key" in error.message


async def test_thousands_of_duplicates_of_one_call_cost_one_search(hand: Hand) -> None:
    hand.is_deaf = True
    one, client = await hand.client(), await hand.client()
    await one.submit("orders.put", 1, idempotency_key="k", resource_id="x")
    await hand.accepted(1)
    calls = [
        asyncio.create_task(client.call("orders.put", 1, idempotency_key="k", resource_id="x", timeout=30))
        for _ in range(2000)
    ]
    first_id, *again = await hand.accepted(2001)
    for at in range(0, len(again), 500):
        hand.tell(*((call_id, Mark.DUPLICATE, first_id) for call_id in again[at : at + 500]))
    await eventually(lambda: len(client._dispatcher._caller.links.waiting_for(first_id)) == 2000, within_s=10)
    assert len(client._dispatcher._firsts._tasks) == 1
    await hand.write((Mark.SUCCEEDED, first_id, encode(1)))
    assert await asyncio.gather(*calls) == [1] * 2000
    assert set(hand.asked) <= {first_id}
