"""Services that change while they are called: rolling upgrades, versions, and stubs that do not fit."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any, ClassVar, Protocol

import pytest
from pydantic import BaseModel

from aegisipc.eventstore.errors import NotConnected
from aegisipc.eventstore.jetstream_last import record_at
from aegisipc.sdk import Client, Service, blocking, remote
from aegisipc.sdk.errors import (
    ContractConflict,
    ContractMismatch,
    InvalidName,
    NoRoute,
    ServiceDefinitionError,
)
from aegisipc.sdk.instance import Instance, InstanceOptions
from tests.e2e.kit import Place, Running
from tests.support.waiting import eventually


class Order(BaseModel):
    """As the first version has it."""

    symbol: str
    quantity: int


class NotedOrder(BaseModel):
    """As the second one has it."""

    symbol: str
    quantity: int
    note: str = ""


class Fill(BaseModel):
    """The same for ever."""

    symbol: str
    quantity: int


def first() -> Service:
    service = Service("orders")

    @service.method(effect="idempotent")
    async def place(order: Order) -> Fill:
        return Fill(symbol=order.symbol, quantity=order.quantity)

    return service


def second() -> Service:
    """With an optional parameter, an optional field, and a method more."""
    service = Service("orders")

    @service.method(effect="idempotent")
    async def place(order: NotedOrder, urgent: bool = False) -> Fill:
        return Fill(symbol=order.note or order.symbol, quantity=order.quantity * (2 if urgent else 1))

    @service.method(effect="pure")
    async def count() -> int:
        return 2

    return service


class OrdersApi(Protocol):
    """What callers of the first version know."""

    async def place(self, order: Order) -> Fill: ...


class NewOrdersApi(Protocol):
    """What callers of the second version know."""

    service_name: ClassVar[str] = "orders"

    async def place(self, order: NotedOrder, urgent: bool = ...) -> Fill: ...

    async def count(self) -> int: ...


class WrongApi(Protocol):
    """It takes the quantity for text, and has a method that fits."""

    service_name: ClassVar[str] = "orders"

    async def place(self, order: WrongOrder) -> Fill: ...

    async def count(self) -> int: ...


class WrongOrder(BaseModel):
    """The quantity is no number."""

    symbol: str
    quantity: str


async def holder_is(client: Client, running: Running) -> None:
    def holder() -> str | None:
        group = client.topology.group("orders", "x")
        return group.holder if group is not None else None

    await eventually(lambda: holder() == running.id, within_s=5, what=f"{running.id} is active")


# -- rolling upgrades -------------------------------------------------------------------------------------


async def test_a_service_is_upgraded_while_it_is_called_and_no_call_is_lost(place: Place) -> None:
    old = await place.serve(first(), "x", instance="old")
    client = await place.client()
    stub = client.service(OrdersApi, resource_id="x")
    stop = asyncio.Event()
    filled: list[int] = []

    async def trade() -> None:
        while not stop.is_set():
            quantity = len(filled)
            assert await stub.place(Order(symbol="s", quantity=quantity)) == Fill(
                symbol="s", quantity=quantity
            )
            filled.append(quantity)

    trading = asyncio.create_task(trade())
    await eventually(lambda: len(filled) > 5, within_s=5, what="calls to the old one")
    new = await place.serve(second(), "x", instance="new")
    with pytest.raises(NoRoute, match=r"no such method; it has place"):
        await client.call("orders.count", resource_id="x")
    before = len(filled)
    await old.leave()
    await holder_is(client, new)
    await eventually(lambda: len(filled) > before + 5, within_s=5, what="calls to the new one")
    stop.set()
    await trading
    newer = client.service(NewOrdersApi, resource_id="x")
    assert await newer.count() == 2
    assert await newer.place(NotedOrder(symbol="s", quantity=2, note="n"), urgent=True) == Fill(
        symbol="n", quantity=4
    )
    assert filled == list(range(len(filled)))


async def test_an_instance_that_would_break_callers_does_not_join(place: Place) -> None:
    await place.serve(second(), "x", instance="new")
    with pytest.raises(ContractConflict) as caught:
        await place.serve(first(), "x", instance="old")
    assert caught.value.differences == [
        "orders.count: is gone",
        "orders.place argument order.note: is gone: what callers give there is ignored",
        "orders.place argument urgent: is gone: what callers give there is refused",
    ]


async def test_versions_of_a_method_stand_side_by_side(place: Place) -> None:
    service = first()

    @service.method(effect="idempotent", name="place", version=2)
    async def place_in_parts(order: Order, parts: int) -> list[Fill]:
        return [Fill(symbol=order.symbol, quantity=order.quantity // parts)] * parts

    class BothApi(Protocol):
        service_name: ClassVar[str] = "orders"

        async def place(self, order: Order) -> Fill: ...

        @remote("place", version=2)
        async def place_in_parts(self, order: Order, parts: int) -> list[Fill]: ...

        @remote("place", version=3)
        async def place_at_once(self, order: Order) -> Fill: ...

    await place.serve(service, "x")
    stub = (await place.client()).service(BothApi)
    order = Order(symbol="s", quantity=4)
    assert await stub.place(order) == Fill(symbol="s", quantity=4)
    assert await stub.place_in_parts(order, parts=2) == [Fill(symbol="s", quantity=2)] * 2
    with pytest.raises(NoRoute, match=r"'orders' has no version 3 of 'place'; it has place, place@2"):
        await stub.place_at_once(order)


# -- stubs ------------------------------------------------------------------------------------------------


async def test_a_stub_that_does_not_fit_is_refused_before_anything_is_submitted(place: Place) -> None:
    await place.serve(second(), "x")
    client = await place.client()
    stub = client.service(WrongApi)
    before = (await client._dispatcher._event_log.bounds()).last_seq
    for _ in range(2):
        with pytest.raises(ContractMismatch) as caught:
            await stub.place(WrongOrder(symbol="s", quantity="2"))
    assert caught.value.service == "orders"
    assert caught.value.method == "place"
    assert caught.value.differences == ["orders.place argument order.quantity: string became integer"]
    assert (await client._dispatcher._event_log.bounds()).last_seq == before
    assert await stub.count() == 2  # what fits can be called


async def test_calls_of_a_stub_keep_their_order_while_it_is_checked(place: Place) -> None:
    service, ran = Service("orders"), list[int]()

    @service.method(effect="pure")
    async def note(number: int, more: str = "") -> None:
        ran.append(number)

    class NotesApi(Protocol):
        service_name: ClassVar[str] = "orders"

        async def note(self, number: int) -> None: ...

    await place.serve(service, "x")
    stub = (await place.client()).service(NotesApi, resource_id="x")
    await asyncio.gather(*(stub.note(number) for number in range(20)))
    assert ran == list(range(20))


async def test_a_stub_is_checked_again_when_what_is_offered_changes(place: Place) -> None:
    old = await place.serve(first(), "x", instance="old")
    client = await place.client()
    stub = client.service(OrdersApi, resource_id="x")
    order = Order(symbol="s", quantity=1)
    assert (await stub.place(order)).quantity == 1
    await old.leave()
    other = Service("orders")

    @other.method(effect="pure", name="place")
    async def place_by_symbol(symbol: str) -> Fill:
        return Fill(symbol=symbol, quantity=0)

    new = await place.serve(other, "x", instance="new")
    await holder_is(client, new)
    with pytest.raises(ContractMismatch) as caught:
        await stub.place(order)
    assert caught.value.differences == [
        "orders.place argument order: is gone: what callers give there is refused",
        "orders.place argument symbol: is new and required",
    ]


async def test_while_the_contract_cannot_be_read_calls_go_on_unchecked(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    await place.serve(second(), "x")
    client = await place.client()
    stub: Any = client.service(WrongApi)

    async def unreadable(*_: Any, **__: Any) -> None:
        raise NotConnected("no server now")

    with monkeypatch.context() as patched:
        patched.setattr(client.schemas, "read", unreadable)
        with pytest.raises(Exception, match="quantity") as caught:
            await stub.place(WrongOrder(symbol="s", quantity="many"))
        assert not isinstance(caught.value, ContractMismatch)  # the service said so

    stub._fit._unreadable_until = 0.0  # the pause is over
    with pytest.raises(ContractMismatch):
        await stub.place(WrongOrder(symbol="s", quantity="2"))


@pytest.mark.parametrize(
    "options", [{"timeout": 0}, {"timeout": "soon"}, {"resource_id": 7}, {"resource_id": ["x"]}], ids=str
)
async def test_options_that_cannot_be_used_are_refused_as_without_a_check(
    place: Place, options: dict[str, Any]
) -> None:
    await place.serve(second(), "x")
    stub = (await place.client()).service(OrdersApi, **options)
    with pytest.raises((ServiceDefinitionError, InvalidName)):
        await stub.place(Order(symbol="s", quantity=1))


async def test_a_blocking_stub_is_checked_as_well(place: Place) -> None:
    await place.serve(second(), "x")

    def call() -> None:
        with blocking.connect(place.url, namespace=place.namespace) as client:
            stub: Any = client.service(WrongApi)
            assert stub.count() == 2
            stub.place(WrongOrder(symbol="s", quantity="2"))

    with pytest.raises(ContractMismatch, match="string became integer"):
        await asyncio.to_thread(call)


# -- what is in the log -----------------------------------------------------------------------------------


async def test_schemas_are_written_once_however_often_the_same_instance_comes(place: Place) -> None:
    seqs = []
    for _ in range(2):
        running = await place.serve(first(), "x", instance="one")
        me = running.instance.joined().me
        assert me is not None
        seqs.append(me.registration.contract_seq)
        await running.leave()
    again = await place.serve(second(), "x", instance="one")
    me = again.instance.joined().me
    assert me is not None
    assert seqs[0] == seqs[1] < me.registration.contract_seq
    client = await place.client()
    record = await record_at(client._connection, client.subjects.stream, seqs[0])
    assert record is not None
    assert record.subject == client.subjects.contract("orders", "x", "one")
    assert await record_at(client._connection, client.subjects.stream, 1_000_000) is None


def test_a_contract_that_no_record_can_hold_is_refused_where_the_instance_is_made() -> None:
    service = Service("orders")

    async def wide(order: Order, noise: str = "") -> None: ...

    for number in range(40):
        noise = "".join(hashlib.sha256(f"{number}.{n}".encode()).hexdigest() for n in range(400))
        wide.__defaults__ = (noise,)
        service.method(name=f"m{number}")(wide)
    with pytest.raises(ServiceDefinitionError, match=r"cannot run service 'orders'.*limit"):
        Instance(service, InstanceOptions())
