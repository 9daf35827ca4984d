"""Idempotency keys in owned groups: whatever fails, at most one call of a key takes effect."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.subjects import subjects_of
from aegisipc.sdk import Context, Service
from aegisipc.sdk.errors import CallInDoubt, CallUnknown, IdempotencyConflict
from aegisipc.sdk.hosts.owned import OwnedHost
from tests.e2e.kit import Place, Running
from tests.e2e.kit_log import records
from tests.support.waiting import eventually


class Shop:
    """A service that counts what it did; the gate holds its handlers up."""

    def __init__(self, ran: list[tuple[str, int]]) -> None:
        self.service = Service("shop")
        self.ran = ran
        self.gate = asyncio.Event()
        self.gate.set()

        async def run(number: int, ctx: Context) -> int:
            ran.append((ctx.instance, number))
            await self.gate.wait()
            return number * 10

        self.service.method(effect="once", name="pay")(run)
        self.service.method(effect="idempotent", name="put")(run)


def core_of(running: Running) -> Any:
    host = running.host
    assert isinstance(host, OwnedHost)
    return host.member


async def find_key(place: Place, key: str) -> dict[str, Any]:
    subject = subjects_of(place.namespace).tell("shop", "x")
    async with await Connection.open(ConnectOptions(place.url, name="asker")) as connection:
        answer = await connection.request(
            subject, json.dumps({"command": "find_key", "key": key}).encode(), timeout_s=5.0
        )
    found: dict[str, Any] = json.loads(answer.payload)
    return found


@pytest.mark.parametrize("method", ["pay", "put"])
async def test_the_same_call_with_the_same_key_runs_once_and_both_callers_get_its_result(
    place: Place, method: str
) -> None:
    shop = Shop([])
    await place.serve(shop.service, "x")
    one, other = await place.client(), await place.client()
    shop.gate.clear()
    first = await one.submit(f"shop.{method}", 7, resource_id="x", idempotency_key="k")
    second = await other.submit(f"shop.{method}", 7, resource_id="x", idempotency_key="k")
    await eventually(lambda: shop.ran, within_s=5, what="a start")
    shop.gate.set()
    assert [await first.result(), await second.result()] == [70, 70]
    assert await other.call(f"shop.{method}", 7, resource_id="x", idempotency_key="k") == 70
    assert len(shop.ran) == 1


async def test_another_request_with_the_same_key_is_refused(place: Place) -> None:
    shop = Shop([])
    await place.serve(shop.service, "x")
    client = await place.client()
    first = await client.submit("shop.pay", 7, resource_id="x", idempotency_key="k")
    assert await first.result() == 70
    with pytest.raises(IdempotencyConflict) as caught:
        await client.call("shop.pay", 8, resource_id="x", idempotency_key="k")
    assert caught.value.first_call_id == first.call_id
    assert [number for _, number in shop.ran] == [7]


async def test_a_key_is_known_to_the_heir_of_a_group(place: Place) -> None:
    ran: list[tuple[str, int]] = []
    active = await place.serve(Shop(ran).service, "x", instance="a")
    await place.serve(Shop(ran).service, "x", instance="b")
    client = await place.client()
    assert await client.call("shop.pay", 7, resource_id="x", idempotency_key="k") == 70
    await active.kill()
    assert await client.call("shop.pay", 7, resource_id="x", idempotency_key="k", timeout=20) == 70
    assert ran == [("a", 7)]


async def test_a_second_call_while_the_first_is_in_doubt_is_in_the_same_doubt(place: Place) -> None:
    shop = Shop([])
    shop.gate.clear()
    active = await place.serve(shop.service, "x", instance="a")
    await place.serve(Shop(shop.ran).service, "x", instance="b")
    client = await place.client()
    first = await client.submit("shop.pay", 7, resource_id="x", idempotency_key="k", timeout=30)
    await eventually(lambda: shop.ran, within_s=5, what="a start")
    await active.vanish()
    with pytest.raises(CallInDoubt):
        await first.result(20)
    with pytest.raises(CallInDoubt):
        await client.call("shop.pay", 7, resource_id="x", idempotency_key="k", timeout=20)
    assert shop.ran == [("a", 7)]


async def test_keys_are_found_in_segments_by_the_holder_by_an_heir_and_by_one_that_begins_with_a_snapshot(
    place: Place,
) -> None:
    ran: list[tuple[str, int]] = []
    active = await place.serve(Shop(ran).service, "x", instance="a")
    core = core_of(active)
    core.segments.most = 4
    client = await place.client()
    firsts = []
    for number in range(10):
        call = await client.submit("shop.put", number, resource_id="x", idempotency_key=f"k{number}")
        assert await call.result() == number * 10
        firsts.append(call.call_id)
    await eventually(lambda: len(core.calls.keys.segments) >= 2, within_s=5, what="two segments")
    assert await client.call("shop.put", 0, resource_id="x", idempotency_key="k0") == 0
    core.snapshots.every = 1
    assert await client.call("shop.put", 100, resource_id="x") == 1000
    assert await client.call("shop.put", 101, resource_id="x") == 1010
    async with asyncio.timeout(10):
        while not any(".state." in record.subject for record in await records(place)):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    heir = await place.serve(Shop(ran).service, "x", instance="b")
    assert len(core_of(heir).calls.keys.segments) == len(core.calls.keys.segments)
    await active.kill()
    for number in range(10):
        again = client.call("shop.put", number, resource_id="x", idempotency_key=f"k{number}", timeout=20)
        assert await again == number * 10
    assert [number for _, number in ran] == [*range(10), 100, 101]
    told = await find_key(place, "k0")
    assert (told["ok"], told["call_id"]) == (True, firsts[0])


async def test_there_is_an_end_to_how_many_keys_are_looked_for_at_once(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop([])
    await place.serve(shop.service, "x")
    monkeypatch.setattr("aegisipc.sdk.hosts.resolving.MAX_WAITING", 0)
    assert (await find_key(place, "k"))["error"]["code"] == "overloaded"


async def test_the_holder_tells_which_call_has_a_key(place: Place) -> None:
    shop = Shop([])
    await place.serve(shop.service, "x")
    client = await place.client()
    shop.gate.clear()
    runs = await client.submit("shop.pay", 7, resource_id="x", idempotency_key="k")
    waits = await client.submit("shop.pay", 8, resource_id="x", idempotency_key="l")
    await eventually(lambda: shop.ran, within_s=5, what="a start")
    assert await find_key(place, "k") == {"ok": True, "call_id": runs.call_id, "state": "started"}
    assert await find_key(place, "l") == {"ok": True, "call_id": waits.call_id, "state": "accepted"}
    assert await find_key(place, "nobody's") == {"ok": True, "call_id": None}
    assert (await find_key(place, ""))["error"]["code"] == "invalid_request"
    attached = await client.attach(idempotency_key="l", service="shop", resource_id="x")
    shop.gate.set()
    assert (attached.call_id, await attached.result()) == (waits.call_id, 80)
    with pytest.raises(CallUnknown):
        await client.attach(idempotency_key="nobody's", service="shop", resource_id="x")
