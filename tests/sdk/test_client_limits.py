"""What clients refuse by themselves, and arguments and results that fit in no message."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.codec import decode, encode
from aegisipc.eventstore.errors import ObjectDamaged, ObjectMissing
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.ids import format_call_id
from aegisipc.eventstore.objects import Objects, encode_reference, reference_in
from aegisipc.eventstore.references import arguments_name, result_name
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from aegisipc.sdk import Client
from aegisipc.sdk.core.flow import FlowHint, encode_hint
from aegisipc.sdk.errors import NotConnected, Overloaded, PayloadTooLarge, RemoteError
from tests.sdk.hand import HOLDER, SERVICE, Hand, a_hand, error_body, failing
from tests.support.waiting import eventually

LARGE = 3 << 20


@pytest.fixture
async def hand(shared_server: EmbeddedServer) -> AsyncIterator[Hand]:
    async with a_hand(shared_server.url, "x", "y") as found:
        yield found


# -- overload ------------------------------------------------------------------------------------------


async def test_a_congested_group_takes_no_calls_until_it_is_relieved(hand: Hand) -> None:
    client = await hand.client()
    watch = hand.subjects.watch(SERVICE, hand.group)
    congested = ev.GroupCongested(open=100, limit=90, retry_after_ms=1500, decided_by="r")
    await hand.say(watch, congested)
    await eventually(lambda: _congestion(client), within_s=5)
    for use in (client.call, client.submit):
        error = await failing(use("orders.put", 1, resource_id="x"))
        assert isinstance(error, Overloaded)
        assert (error.retry_after_s, error.limit) == (1.5, 90)
        assert "try again in 1.5 s" in error.message
    assert (client.open_calls, hand.order) == (0, [])
    await hand.say(watch, ev.GroupRelieved(open=10, decided_by="r"))
    await eventually(lambda: not _congestion(client), within_s=5)
    await client.submit("orders.put", 1, resource_id="x")


def _congestion(client: Client) -> Any:
    group = client.topology.group(SERVICE, "acc")
    return group is not None and group.congestion


async def test_a_call_that_would_certainly_wait_longer_than_its_timeout_is_refused(hand: Hand) -> None:
    client = await hand.client()
    await client.submit("orders.put", 1, resource_id="x", timeout=30)
    lane = client._dispatcher._caller.lane(SERVICE, hand.group)
    await client._connection.flush(5)

    def hint(waiting: int, wait_ms: int) -> None:
        subject = hand.subjects.flow(SERVICE, hand.group)
        hand.connection.publish_nowait(subject, encode_hint(FlowHint(waiting, wait_ms)))

    hint(1, 20_000)
    await eventually(lambda: lane.is_slow, within_s=5)
    error = await failing(client.call("orders.put", 2, resource_id="x", timeout=1))
    assert isinstance(error, Overloaded)
    assert error.retry_after_s == 19
    await client.submit("orders.put", 3, resource_id="x", timeout=60)  # it has the time
    hand.connection.publish_nowait(hand.subjects.flow(SERVICE, hand.group), b"nonsense")
    hint(0, 0)
    await eventually(lambda: not lane.is_slow, within_s=5)
    await client.submit("orders.put", 4, resource_id="x", timeout=1)


async def test_a_group_that_refused_a_call_for_overload_is_said_to_have_done_so(hand: Hand) -> None:
    client = await hand.client()
    calling = asyncio.create_task(client.call("orders.put", 1, resource_id="x"))
    (call_id,) = await hand.accepted(1)
    await hand.conclude(call_id, Mark.FAILED, error_body("overloaded", retry_after_ms=250))
    error = await failing(calling)
    assert isinstance(error, Overloaded)
    assert (error.retry_after_s, error.call_id) == (0.25, format_call_id(call_id))


@pytest.mark.parametrize("details", [{}, {"retry_after_ms": "soon"}, {"retry_after_ms": True}], ids=repr)
async def test_a_handlers_own_error_of_that_name_is_the_handlers(hand: Hand, details: dict[str, Any]) -> None:
    client = await hand.client()
    calling = asyncio.create_task(client.call("orders.put", 1, resource_id="x"))
    (call_id,) = await hand.accepted(1)
    await hand.conclude(call_id, Mark.FAILED, error_body("overloaded", **details))
    error = await failing(calling)
    assert isinstance(error, RemoteError)
    assert error.code == "overloaded"


async def test_over_max_open_it_says_when_to_try_again(hand: Hand) -> None:
    client = await hand.client(max_open=1)
    await client.submit("orders.put", 1, resource_id="x")
    error = await failing(client.call("orders.put", 1, resource_id="x"))
    assert isinstance(error, Overloaded)
    assert error.retry_after_s > 0


# -- large bodies --------------------------------------------------------------------------------------


async def test_large_arguments_go_by_way_of_the_object_store(hand: Hand) -> None:
    client = await hand.client()
    large = bytes(range(256)) * (LARGE // 256)
    pending = await client.submit("orders.put", large, resource_id="x", idempotency_key="k")
    (call_id,) = await hand.accepted(1)
    _, entry, body = hand.calls[call_id]
    reference = reference_in(body)
    assert reference is not None
    assert entry.options is not None
    assert entry.options.key == "k"
    assert reference.name == arguments_name(SERVICE, hand.group, call_id)
    assert decode(await Objects(hand.connection, hand.subjects).get(reference)) == [[large], {}]
    await hand.conclude(call_id, Mark.SUCCEEDED, encode(1))
    assert await pending.result() == 1
    assert pending.receipt.seq > 0


async def test_calls_of_a_resource_keep_their_order_while_arguments_are_stored(
    hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await hand.client()
    gate, stored = asyncio.Event(), client._dispatcher._objects.put

    async def slowly(name: str, payload: bytes) -> Any:
        await gate.wait()
        return await stored(name, payload)

    monkeypatch.setattr(client._dispatcher._objects, "put", slowly)
    arguments: list[tuple[str | None, Any]] = [
        ("x", bytes(LARGE)),
        ("x", "after it"),
        ("y", "beside it"),
        ("x", bytes(LARGE + 1)),
        ("x", "last"),
    ]
    calls = [
        asyncio.create_task(client.call("orders.put", value, resource_id=resource, timeout=30))
        for resource, value in arguments
    ]
    (beside,) = await hand.accepted(1)
    assert hand.calls[beside][1].resource == "y"
    gate.set()
    order = await hand.accepted(5)
    ids = [call_id for call_id in sorted(order) if hand.calls[call_id][1].resource == "x"]
    assert [call_id for call_id in order if hand.calls[call_id][1].resource == "x"] == ids
    for number, call_id in enumerate(sorted(order)):
        await hand.conclude(call_id, Mark.SUCCEEDED, encode(number))
    assert await asyncio.gather(*calls) == [0, 1, 2, 3, 4]


async def test_a_large_call_whose_time_is_up_while_it_is_stored_holds_up_no_other(
    hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await hand.client()

    async def never(name: str, payload: bytes) -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr(client._dispatcher._objects, "put", never)
    large = asyncio.create_task(client.call("orders.put", bytes(LARGE), resource_id="x", timeout=0.3))
    small = asyncio.create_task(client.call("orders.put", 1, resource_id="x", timeout=30))
    assert isinstance(await failing(large), NotConnected)
    (call_id,) = await hand.accepted(1)
    assert hand.calls[call_id][1].timeout_ms < 30_000  # its time has been running
    await hand.conclude(call_id, Mark.SUCCEEDED, encode(1))
    assert await small == 1


async def test_arguments_that_cannot_be_stored_are_certainly_not_accepted_and_hold_up_no_other(
    hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await hand.client()

    async def full(name: str, payload: bytes) -> Any:
        raise ObjectMissing("no store", name=name)

    monkeypatch.setattr(client._dispatcher._objects, "put", full)
    large = asyncio.create_task(client.submit("orders.put", bytes(LARGE), resource_id="x"))
    small = asyncio.create_task(client.submit("orders.put", 1, resource_id="x"))
    assert isinstance(await failing(large), ObjectMissing)
    assert (await small).call_id
    assert len(hand.order) == 1


async def test_over_the_clients_own_limit_nothing_is_sent(hand: Hand) -> None:
    client = await hand.client(max_payload_bytes=LARGE)
    error = await failing(client.call("orders.put", bytes(LARGE + 1), resource_id="x"))
    assert isinstance(error, PayloadTooLarge)
    assert error.limit_bytes == LARGE
    assert "max_payload_bytes" in error.message
    assert (client.open_calls, hand.order) == (0, [])
    await client.submit("orders.put", bytes(LARGE - 100), resource_id="x")


async def test_a_large_result_is_fetched_and_verified(hand: Hand) -> None:
    client, other = await hand.client(), await hand.client()
    pending = await client.submit("orders.put", 1, resource_id="x")
    calling = asyncio.create_task(client.call("orders.put", 1, resource_id="x"))
    result = bytes(LARGE)
    for call_id in list(await hand.accepted(2)):
        name = result_name(SERVICE, hand.group, call_id, HOLDER, 1)
        reference = await Objects(hand.connection, hand.subjects).put(name, encode(result))
        await hand.conclude(call_id, Mark.SUCCEEDED, encode_reference(reference))
    assert await calling == await pending.result() == await pending.settled() == result
    assert await other.attach(pending.call_id, returns=bytes).result() == result


async def test_a_large_result_that_is_not_what_it_was_is_told_as_that(hand: Hand) -> None:
    client = await hand.client()
    calls = [asyncio.create_task(client.call("orders.put", 1, resource_id="x")) for _ in range(2)]
    gone, false = await hand.accepted(2)
    objects = Objects(hand.connection, hand.subjects)
    name = result_name(SERVICE, hand.group, gone, HOLDER, 1)
    reference = await objects.put(name, encode(bytes(LARGE)))
    await objects.delete(name)
    await hand.conclude(gone, Mark.SUCCEEDED, encode_reference(reference))
    reference = await objects.put(result_name(SERVICE, hand.group, false, HOLDER, 1), encode(bytes(LARGE)))
    reference = reference._replace(sha256=hashlib.sha256(b"another").digest())
    await hand.conclude(false, Mark.SUCCEEDED, encode_reference(reference))
    for call, call_id, kind in zip(calls, (gone, false), (ObjectMissing, ObjectDamaged), strict=True):
        error = await failing(call)
        assert isinstance(error, kind)
        assert "orders.put has its outcome, but what it gave" in str(error)
        assert error.call_id == format_call_id(call_id)
