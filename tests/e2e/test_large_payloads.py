"""Arguments and results of any size: the callers of a real service notice nothing of where they were kept."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any, Final

import pytest

from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.object_listing import ObjectListing
from aegisipc.eventstore.streams import open_log
from aegisipc.eventstore.subjects import CALL, subjects_of
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from aegisipc.router.infrastructure.sweeping import SweepOptions
from aegisipc.sdk import Service
from aegisipc.sdk.errors import CallFailed, IdempotencyConflict, PayloadTooLarge
from tests.e2e.kit import Place
from tests.support.waiting import eventually

LARGE: Final = 5 << 20
AT_ONCE: Final = SweepOptions(every_s=0.05, grace_s=0.0, rest=0.0)
MODES: Final = pytest.mark.parametrize("resources", [(), ("acc_1",)], ids=["pool", "owned"])


@pytest.fixture
async def swept_place(shared_server: EmbeddedServer) -> AsyncIterator[Place]:
    """A fresh namespace, with a router that removes arguments as soon as their call is over."""
    async with AsyncExitStack() as stack:
        found = Place(shared_server, stack)
        await found.router(sweep=AT_ONCE)
        yield found


class Mirrors:
    """A service that turns bytes round, and says how often it did."""

    def __init__(self) -> None:
        self.runs = 0
        self.service = Service("mirrors")

        @self.service.method(effect="idempotent")
        async def turn(data: bytes) -> bytes:
            self.runs += 1
            return data[::-1]

        @self.service.method(effect="idempotent")
        async def grow(size: int) -> bytes:
            self.runs += 1
            return bytes(size)


async def objects_in(place: Place) -> list[str]:
    """The names in the store of large bodies."""
    async with await Connection.open(ConnectOptions(place.url)) as connection:
        listing = ObjectListing(connection, subjects_of(place.namespace))
        return [listed.entry.name async for listed in listing.entries()]


async def calls_in(place: Place) -> int:
    """How many frames of calls there are in the log."""
    subjects = subjects_of(place.namespace)
    async with await Connection.open(ConnectOptions(place.url)) as connection:
        log = await open_log(connection, subjects)
        return sum([1 async for _ in log.read([subjects.of_kind("*", "*", CALL)])])


def resource(resources: tuple[str, ...]) -> dict[str, Any]:
    return {"resource_id": resources[0]} if resources else {}


@MODES
async def test_large_arguments_and_results_come_back_and_can_be_attached_to(
    swept_place: Place, resources: tuple[str, ...]
) -> None:
    mirrors, body = Mirrors(), os.urandom(LARGE)
    await swept_place.serve(mirrors.service, *resources)
    client = await swept_place.client()
    pending = await client.submit("mirrors.turn", body, returns=bytes, **resource(resources))
    assert await pending.result() == body[::-1]
    (router,) = swept_place.routers
    await eventually(lambda: router.status()["objects"]["removed_arguments"] == 1, within_s=20)
    (kept,) = await objects_in(swept_place)
    assert kept.startswith("mirrors.")
    assert ".result." in kept
    later = await swept_place.client()
    assert await (await later.attach(pending.call_id, returns=bytes)).result() == body[::-1]
    assert mirrors.runs == 1


@MODES
async def test_small_calls_beside_large_ones_keep_their_order_and_need_no_object(
    swept_place: Place, resources: tuple[str, ...]
) -> None:
    mirrors = Mirrors()
    await swept_place.serve(mirrors.service, *resources)
    client = await swept_place.client()
    bodies = [os.urandom(LARGE if number % 3 == 1 else 10) for number in range(6)]
    pendings = [await client.submit("mirrors.turn", body, **resource(resources)) for body in bodies]
    assert [await pending.result() for pending in pendings] == [body[::-1] for body in bodies]
    assert mirrors.runs == 6
    results = [name for name in await objects_in(swept_place) if ".result." in name]
    assert len(results) == 2


async def test_arguments_over_the_limit_are_refused_and_nothing_is_accepted(place: Place) -> None:
    mirrors = Mirrors()
    await place.serve(mirrors.service)
    client = await place.client(max_payload_bytes=3 << 20)
    with pytest.raises(PayloadTooLarge) as refused:
        await client.call("mirrors.turn", os.urandom(LARGE))
    assert refused.value.limit_bytes == 3 << 20
    assert refused.value.size_bytes > LARGE
    assert await calls_in(place) == 0
    assert await objects_in(place) == []
    assert await client.call("mirrors.turn", b"ab", returns=bytes) == b"ba"
    assert mirrors.runs == 1


async def test_a_result_over_the_limit_is_an_error_that_says_so(place: Place) -> None:
    mirrors = Mirrors()
    await place.serve(mirrors.service, max_payload_bytes=3 << 20)
    client = await place.client()
    with pytest.raises(CallFailed, match=str(3 << 20)):
        await client.call("mirrors.grow", LARGE)
    assert await objects_in(place) == []


async def test_a_key_knows_large_arguments_by_what_is_in_them(place: Place) -> None:
    mirrors, body = Mirrors(), os.urandom(LARGE)
    await place.serve(mirrors.service, "acc_1")
    client = await place.client()
    options: dict[str, Any] = {"resource_id": "acc_1", "idempotency_key": "once"}
    first = await client.call("mirrors.turn", body, **options)
    assert await client.call("mirrors.turn", body, **options) == first == body[::-1]
    with pytest.raises(IdempotencyConflict):
        await client.call("mirrors.turn", body[:-1] + b"x", **options)
    assert mirrors.runs == 1


@MODES
async def test_a_large_call_survives_whoever_was_to_run_it(place: Place, resources: tuple[str, ...]) -> None:
    mirrors, body = Mirrors(), os.urandom(LARGE)
    first = await place.serve(mirrors.service, *resources, instance="i1")
    client = await place.client()
    assert await client.call("mirrors.turn", body, **resource(resources)) == body[::-1]
    await first.vanish()
    pending = await client.submit("mirrors.turn", body, timeout=60, **resource(resources))
    await place.serve(mirrors.service, *resources, instance="i2")
    assert await pending.result() == body[::-1]
