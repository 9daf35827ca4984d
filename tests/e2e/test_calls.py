"""Calls from end to end: a real server, a router, instances and clients."""

from __future__ import annotations

import asyncio
import random
import threading
from decimal import Decimal
from typing import Protocol

import msgpack  # type: ignore[import-untyped]
import pytest
from pydantic import BaseModel

from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.ids import parse_call_id
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.sdk import Context, Service, connect
from aegisipc.sdk.errors import (
    CallExpired,
    CallTimeout,
    CallUnknown,
    InvalidArguments,
    InvalidName,
    NoRoute,
    NotConnected,
    NotEncodable,
    Overloaded,
    PayloadTooLarge,
    RemoteError,
    ServiceDefinitionError,
    ServiceError,
)
from tests.e2e.kit import Place


class Order(BaseModel):
    symbol: str
    qty: int
    price: Decimal


class Fill(BaseModel):
    order_id: str
    symbol: str


class OrdersApi(Protocol):
    async def place(self, order: Order) -> Fill: ...
    async def fail(self, how: str) -> int: ...


ORDER = Order(symbol="A", qty=3, price=Decimal("1.50"))


def orders() -> Service:
    service = Service("orders")

    @service.method
    async def place(order: Order, ctx: Context) -> Fill:
        return Fill(order_id=ctx.call_id, symbol=order.symbol)

    @service.method(effect="pure")
    async def fail(how: str) -> int:
        if how == "business":
            raise ServiceError("insufficient_funds", "not enough", missing=Decimal("1.5"))
        if how == "bug":
            raise ValueError("boom")
        return "no number"  # type: ignore[return-value]

    @service.method(effect="pure")
    async def echo(value: bytes) -> bytes:
        return value

    return service


# -- the four ways to call -----------------------------------------------------------------------------


async def test_a_call_returns_its_result_as_the_type_asked_for_and_else_as_plain_data(place: Place) -> None:
    await place.serve(orders(), "acc_1")
    client = await place.client()
    fill = await client.call("orders.place", ORDER, resource_id="acc_1", returns=Fill)
    assert (type(fill), fill.symbol) == (Fill, "A")
    plain = await client.call("orders.place", order=ORDER, resource_id="acc_1")
    assert plain["symbol"] == "A"
    counted = await place.recount()
    assert (len(counted.accepted), counted.without, counted.several) == (2, [], [])
    assert set(counted.claims.values()) == {1}


async def test_a_submitted_call_is_durable_and_can_be_attached_to_by_another_client(place: Place) -> None:
    await place.serve(orders(), "acc_1")
    client, other = await place.client(), await place.client()
    pending = await client.submit("orders.place", ORDER, resource_id="acc_1", returns=Fill)
    fill = await pending.result()
    assert fill.order_id == pending.call_id
    attached = await other.attach(pending.call_id, returns=Fill)
    assert attached.call_id == pending.call_id
    assert await attached.result() == await attached.settled() == await pending.settled() == fill


async def test_a_stub_reads_like_a_local_object(place: Place) -> None:
    await place.serve(orders(), "acc_1")
    client = await place.client()
    typed = client.service(OrdersApi, resource_id="acc_1", timeout=2.0)
    fill = await typed.place(ORDER)
    assert isinstance(fill, Fill)
    untyped = client.service("orders", resource_id="acc_1")
    assert (await untyped.place(ORDER))["symbol"] == "A"
    with pytest.raises(AttributeError, match="has no method 'nope'"):
        typed.nope  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(NoRoute):
        await untyped.nope()


# -- errors --------------------------------------------------------------------------------------------


async def test_what_a_handler_raises_arrives_with_code_message_and_details(place: Place) -> None:
    await place.serve(orders(), "acc_1")
    venue = (await place.client()).service(OrdersApi, resource_id="acc_1")
    with pytest.raises(RemoteError, match="not enough") as caught:
        await venue.fail("business")
    assert (caught.value.code, caught.value.missing) == ("insufficient_funds", Decimal("1.5"))
    with pytest.raises(RemoteError, match=r"orders\.fail failed: ValueError: boom") as caught:
        await venue.fail("bug")
    assert caught.value.code == "internal_error"
    with pytest.raises(RemoteError, match="its result does not fit") as caught:
        await venue.fail("")
    assert caught.value.code == "invalid_result"


async def test_arguments_that_do_not_fit_name_the_field(place: Place) -> None:
    await place.serve(orders(), "acc_1")
    client = await place.client()
    with pytest.raises(InvalidArguments, match=r"order\.qty") as caught:
        await client.call("orders.place", {"symbol": "A", "qty": "many", "price": "1"}, resource_id="acc_1")
    assert caught.value.errors[0]["field"] == "order.qty"
    assert caught.value.call_id


async def test_a_result_that_is_not_what_the_caller_expects_says_so(place: Place) -> None:
    await place.serve(orders(), "acc_1")
    client = await place.client()
    with pytest.raises(
        RemoteError, match="succeeded, but its result is not what this caller expects"
    ) as caught:
        await client.call("orders.place", ORDER, resource_id="acc_1", returns=int)
    assert caught.value.code == "unexpected_result"


async def test_calls_that_cannot_be_made_are_refused_at_once_and_leave_nothing_in_the_log(
    place: Place,
) -> None:
    await place.serve(orders(), "acc_1")
    client = await place.client(max_open=1, max_payload_bytes=1 << 20)
    for target, resource, error, text in [
        ("nobody.place", None, NoRoute, "no service 'nobody' has joined this namespace; there is orders"),
        ("orders.nope", None, NoRoute, "'orders' has no such method; it has echo, fail, place"),
        ("orders.place", "other", NoRoute, "no group serves it; served are acc_1"),
        ("orders", None, InvalidName, "name a service and a method"),
        ("or ders.place", None, InvalidName, "as a service name"),
        ("orders._place", None, InvalidName, "as a method name"),
        ("orders.place", "", InvalidName, "as a resource id"),
        ("orders.place", "x" * 257, InvalidName, "as a resource id"),
    ]:
        with pytest.raises(error, match=text):
            await client.call(target, ORDER, resource_id=resource)
    with pytest.raises(NotEncodable):
        await client.call("orders.place", object(), resource_id="acc_1")
    for timeout in (0, -1, float("nan")):
        with pytest.raises(ServiceDefinitionError, match="it is a number above 0"):
            await client.call("orders.place", ORDER, resource_id="acc_1", timeout=timeout)
    with pytest.raises(PayloadTooLarge, match="the limit is") as caught:
        await client.call("orders.echo", b"x" * (2 << 20))
    limit: int = caught.value.limit_bytes
    assert (await place.recount()).accepted == {}
    echoed = await client.call(
        "orders.echo", b"x" * (limit - 20_000)
    )  # within the limit of arguments, not of results
    assert len(echoed) == limit - 20_000
    first = asyncio.create_task(client.call("orders.place", ORDER, resource_id="acc_1"))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await client.call("orders.place", ORDER, resource_id="acc_1")
    await first


async def test_names_that_cannot_be_used_are_refused_where_they_are_given(place: Place) -> None:
    with pytest.raises(InvalidName, match="as a client name"):
        await connect(place.url, namespace=place.namespace, name="no good")
    with pytest.raises(InvalidName, match="as a namespace name"):
        await connect(place.url, namespace="no good")
    with pytest.raises(InvalidName, match="as a service name"):
        Service("no.good")
    for options in ({"group": "no good"}, {"instance": "_me"}):
        with pytest.raises(InvalidName):
            await place.serve(orders(), "acc_1", **options)


async def test_a_call_id_that_is_none_and_one_that_is_unknown_are_told_apart(place: Place) -> None:
    client = await place.client()
    with pytest.raises(MalformedPayload, match="give a UUID of version 7"):
        await client.attach("nonsense")
    with pytest.raises(CallUnknown, match="the log holds no such call"):
        await client.attach("01a3185c-5000-7000-8000-040000000007")


async def test_a_closed_client_refuses_to_call(place: Place) -> None:
    await place.serve(orders(), "acc_1")
    client = await place.client()
    await client.close()
    await client.close()
    with pytest.raises(NotConnected, match="the client is closed"):
        await client.call("orders.place", ORDER, resource_id="acc_1")


# -- time ----------------------------------------------------------------------------------------------


def gated() -> tuple[Service, asyncio.Event, list[str]]:
    """A service whose method ``wait`` waits for the event; the list tells which calls were started."""
    service, gate, started = Service("gated"), asyncio.Event(), list[str]()

    @service.method(effect="pure")
    async def wait(name: str) -> str:
        started.append(name)
        await gate.wait()
        return name

    return service, gate, started


async def test_a_call_that_expires_in_the_queue_never_starts(place: Place) -> None:
    service, gate, started = gated()
    await place.serve(service, "x")
    client = await place.client()
    slow = await client.submit("gated.wait", "slow", resource_id="x")
    with pytest.raises(CallExpired, match="did not start before its deadline and never will"):
        await client.call("gated.wait", "late", resource_id="x", timeout=0.1)
    gate.set()
    assert await slow.result() == "slow"
    assert await client.call("gated.wait", "next", resource_id="x") == "next"
    assert started == ["slow", "next"]
    assert (await place.recount()).marks() == {Mark.SUCCEEDED: 2, Mark.EXPIRED: 1}


async def test_a_call_that_runs_past_its_deadline_times_out_and_attach_gives_its_result(place: Place) -> None:
    service, gate, _ = gated()
    await place.serve(service, "x")
    client = await place.client()
    with pytest.raises(CallTimeout, match=r"is durable, but has no outcome after 0\.1 s") as caught:
        await client.call("gated.wait", "slow", resource_id="x", timeout=0.1)
    attached = await client.attach(caught.value.call_id, returns=str)
    with pytest.raises(CallTimeout):
        await attached.result(timeout=0.05)
    waiting = asyncio.create_task(attached.settled(timeout=5))
    gate.set()
    assert await waiting == "slow"
    assert (await place.recount()).without == []


async def test_a_submitted_calls_result_can_be_awaited_for_a_shorter_time_and_again(place: Place) -> None:
    service, gate, _ = gated()
    await place.serve(service, "x")
    client = await place.client()
    pending = await client.submit("gated.wait", "slow", resource_id="x")
    with pytest.raises(CallTimeout, match=r"waits on"):
        await pending.result(timeout=0.05)
    gate.set()
    assert await pending.result() == "slow"


async def test_a_very_long_timeout_is_fine(place: Place) -> None:
    await place.serve(orders(), "acc_1")
    client = await place.client()
    assert await client.call("orders.echo", b"x", timeout=float("inf")) == b"x"


# -- order and threads ---------------------------------------------------------------------------------


async def test_calls_of_one_resource_run_in_the_order_in_which_they_were_made(place: Place) -> None:
    service = Service("ledger")
    ran: dict[str, list[int]] = {"x": [], "y": []}
    running: set[str] = set()
    overlaps: list[str] = []
    dice = random.Random(7)

    @service.method(effect="idempotent")
    async def add(number: int, ctx: Context) -> int:
        assert ctx.resource_id is not None
        if ctx.resource_id in running:
            overlaps.append(ctx.resource_id)
        running.add(ctx.resource_id)
        await asyncio.sleep(dice.choice([0, 0, 0.001, 0.004]))
        running.discard(ctx.resource_id)
        ran[ctx.resource_id].append(number)
        return number

    await place.serve(service, "x", "y")
    client = await place.client()
    calls = [client.call("ledger.add", n, resource_id="xy"[n % 2]) for n in range(200)]
    assert await asyncio.gather(*calls) == list(range(200))
    assert ran == {"x": list(range(0, 200, 2)), "y": list(range(1, 200, 2))}
    assert overlaps == []
    counted = await place.recount()
    made, concluded = counted.order("x")
    assert made == concluded
    assert len(counted.accepted) == len(counted.outcomes) == 200


async def test_a_plain_function_in_a_thread_does_not_hold_up_others(place: Place) -> None:
    service, release = Service("mixed"), threading.Event()

    @service.method(effect="pure")
    def blocks() -> str:
        assert release.wait(5)
        return threading.current_thread().name

    @service.method(effect="pure")
    async def quick() -> str:
        return "quick"

    await place.serve(service)
    client = await place.client()
    try:
        blocked = [asyncio.create_task(client.call("mixed.blocks")) for _ in range(3)]
        assert await asyncio.wait_for(client.call("mixed.quick"), 2) == "quick"
    finally:
        release.set()
    assert all(name.startswith("mixed_") for name in await asyncio.gather(*blocked))


async def test_two_clients_of_one_name_get_their_own_outcomes(place: Place) -> None:
    await place.serve(orders(), "acc_1")
    one, two = await place.client(name="strategy"), await place.client(name="strategy")
    calls = [
        client.call("orders.echo", f"{client is one}{n}".encode()) for n in range(50) for client in (one, two)
    ]
    answers = await asyncio.gather(*calls)
    assert answers == [f"{client is one}{n}".encode() for n in range(50) for client in (one, two)]
    counted = await place.recount()
    assert (len(counted.accepted), counted.without, counted.several) == (100, [], [])


async def test_nonsense_beside_the_log_disturbs_nobody(place: Place) -> None:
    service, gate, _ = gated()
    running = await place.serve(service, "x")
    client = await place.client(name="victim")
    call = asyncio.create_task(client.call("gated.wait", "v", resource_id="x"))
    async with await Connection.open(ConnectOptions(place.url)) as stranger:
        for payload in (
            b"",
            b"\xc1",
            b"\x05",
            b"\x91\x93\xc4\x01a\x63\xc0",
            msgpack.packb([[b"i" * 16, 99, None]]),
        ):
            await stranger.publish(client.subjects.reply("victim"), payload)
            await stranger.publish(client.subjects.ask("gated", "x"), payload, reply="elsewhere")
            await stranger.publish(client.subjects.pulse("instance", running.id), payload)
        await stranger.request(client.subjects.api("status"), b"", timeout_s=2)
    gate.set()
    assert await call == "v"


async def test_a_result_is_the_same_for_every_reader(place: Place) -> None:
    await place.serve(orders(), "acc_1")
    client, other = await place.client(), await place.client()
    pending = [await client.submit("orders.echo", str(n).encode()) for n in range(10)]
    mine = [await p.result() for p in pending]
    theirs = [await (await other.attach(p.call_id)).result() for p in pending]
    assert mine == theirs == [str(n).encode() for n in range(10)]
    counted = await place.recount()
    assert [counted.first(parse_call_id(p.call_id))[0] for p in pending] == [Mark.SUCCEEDED] * 10
