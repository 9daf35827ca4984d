"""Failures that came together in unlucky ways, on a real server."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, cast

import msgpack  # type: ignore[import-untyped]
import pytest

from aegisipc.eventstore.events import (
    InstanceDrainRequested,
    InstanceLost,
    InstanceSuspected,
    encode_event,
)
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.streams import open_log
from aegisipc.eventstore.subjects import EVIDENCE, subjects_of
from aegisipc.sdk import Client, Service
from aegisipc.sdk.core.replica import Replica
from aegisipc.sdk.hosts.base import Host
from aegisipc.sdk.hosts.owned import OwnedHost
from aegisipc.sdk.instance import Instance
from tests.e2e.kit import Place, Running
from tests.e2e.test_doubts import Venue, said_of
from tests.e2e.test_state import Book, told
from tests.support.waiting import eventually


def owned(running: Running) -> OwnedHost:
    host = running.host
    assert isinstance(host, OwnedHost)
    return host


async def settled(client: Client, call_id: str, timeout_s: float = 20.0) -> Any:
    return await (await client.attach(call_id)).settled(timeout_s)


async def test_an_outcome_that_was_not_written_when_the_pen_went_elsewhere_is_told_as_evidence(
    place: Place,
) -> None:
    sent: list[tuple[str, int]] = []
    first, second = Venue(sent), Venue(sent)
    active = await place.serve(first.service, "x", instance="a")
    await place.serve(second.service, "x", instance="b")
    client = await place.client()
    call = await client.submit("venue.order", 7, resource_id="x", timeout=30.0)
    await eventually(lambda: sent == [("a", 7)], within_s=5, what="a has sent the order")
    host = owned(active)
    host._commit.kick = lambda *, now=False: None  # type: ignore[method-assign]  # it writes nothing more
    first.gate.set()
    await eventually(lambda: host.member.running == 0, within_s=5, what="a has finished")
    await active.fall_silent()
    assert await settled(client, call.call_id) == 70
    assert sent == [("a", 7)]
    assert await said_of(place, call.call_id, EVIDENCE) == [(Mark.SUCCEEDED, 70)]


@pytest.mark.parametrize("payload", [b"junk", msgpack.packb(["group.blessed.v9", {}])])
async def test_a_record_on_the_fence_that_nobody_understands_takes_the_pen_from_nobody(
    place: Place, payload: bytes
) -> None:
    venue = Venue([])
    active = await place.serve(venue.service, "x", instance="a")
    client = await place.client()
    call = await client.submit("venue.order", 7, resource_id="x", timeout=30.0)
    await eventually(lambda: venue.sent == [("a", 7)], within_s=5, what="a has sent the order")
    subjects, host = subjects_of(place.namespace), owned(active)
    host._commit._is_busy = True  # its next frame is made before it has read that record, and sent after it
    venue.gate.set()
    await eventually(lambda: host.member.running == 0, within_s=5, what="a has finished")
    frame = host._commit._source.next_frame()
    assert frame is not None
    async with await Connection.open(ConnectOptions(place.url, name="stranger")) as connection:
        log = await open_log(connection, subjects)
        await log.append(subjects.fence("venue", active.instance.group), payload)
    await host._commit._store(frame)
    host._commit._is_busy = False
    assert await asyncio.wait_for(call.result(), 10) == 70
    assert await client.call("venue.order", 8, resource_id="x", timeout=10.0) == 80
    marks = [mark for mark, _ in await said_of(place, call.call_id)]
    assert marks == [Mark.CLAIMED, Mark.SUCCEEDED]
    assert host.member.fenced_frames == 0


async def test_an_instance_whose_clockwork_breaks_comes_back_as_a_new_one(place: Place) -> None:
    service = Service("orders")

    @service.method(effect="pure")
    async def ping() -> int:
        return 1

    running = await place.serve(service, "x", instance="a")
    client = await place.client()
    assert await client.call("orders.ping", resource_id="x", timeout=5.0) == 1
    before, host = running.incarnation, owned(running)

    def breaks(now_ns: int) -> None:
        raise RuntimeError("it is broken")

    host.member.on_tick = breaks  # type: ignore[method-assign]
    await eventually(lambda: running.incarnation not in ("", before), within_s=10, what="it is back")
    assert await client.call("orders.ping", resource_id="x", timeout=10.0) == 1


async def test_an_outcome_that_cannot_be_taken_in_ends_the_incarnation_and_not_the_call(place: Place) -> None:
    service = Service("orders")

    @service.method(effect="idempotent")
    async def put() -> int:
        await asyncio.sleep(0)
        return 1

    running = await place.serve(service, "x", instance="a")
    client = await place.client()
    assert await client.call("orders.put", resource_id="x", timeout=5.0) == 1
    host = owned(running)

    def breaks(*args: object) -> bool:
        raise RuntimeError("it is broken")

    cast("Any", host.member).on_finished = breaks
    assert await client.call("orders.put", resource_id="x", timeout=20.0) == 1


def has_read(host: Host, seq: int) -> bool:
    position: int = host.pulse()["position"]
    return position >= seq


async def test_an_instance_that_is_to_leave_does_not_come_back_when_it_is_taken_for_lost(
    place: Place,
) -> None:
    service = Service("orders")

    @service.method(effect="pure")
    async def ping() -> int:
        return 1

    async with Instance(service, place.options("x", instance="a")) as instance:
        subjects, host = subjects_of(place.namespace), instance.joined().host
        about: dict[str, Any] = {
            "instance": "a",
            "incarnation": instance.joined().identity.incarnation,
            "decided_by": "r",
        }
        heard: dict[str, Any] = {"last_pulse_ns": 0, "silence_ms": 1}
        async with await Connection.open(ConnectOptions(place.url, name="operator")) as connection:
            log = await open_log(connection, subjects)
            watch = subjects.watch("orders", instance.group)
            await log.append(watch, encode_event(InstanceDrainRequested(**about, author="alice")))
            while host.me is not None and host.me.is_live:  # the router hears it, and may say so in between
                for event in (InstanceSuspected(**about, **heard), InstanceLost(**about, **heard)):
                    lost = await log.append(watch, encode_event(event))
                await eventually(partial(has_read, host, lost.seq), within_s=10)
        await asyncio.wait_for(instance.serve(), 10)
        assert instance.drain_requested_by == "alice"


async def test_a_command_that_meets_a_defect_is_answered_all_the_same(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = Book()
    running = await place.serve(book.service, "x", instance="a")

    def breaks(replica: Replica) -> bytes:
        raise RuntimeError("it is broken")

    monkeypatch.setattr(Replica, "check", breaks)
    answer = await told(place, {"command": "check"}, running)
    assert answer["error"]["message"].startswith("cannot obey: an unexpected error")


async def test_a_state_that_has_to_be_built_again_does_not_wait_for_ever_for_a_call_that_never_ends(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aegisipc.sdk.hosts.owned._LAST_CALLS_S", 0.5)
    books = [Book(), Book()]
    books[0].gate.clear()
    active, _ = [
        await place.serve(book.service, "x", instance=name) for book, name in zip(books, "ab", strict=True)
    ]
    before = active.incarnation
    client = await place.client()
    stuck = asyncio.create_task(client.call("book.add", "acc", 1, timeout=30.0))
    await eventually(lambda: owned(active).member.running == 1, within_s=5, what="it is stuck")
    host = owned(active)
    host.member.replica.spoiled = "it is of no use"
    assert await asyncio.wait_for(stuck, 20) == "b"
    await eventually(lambda: active.incarnation not in ("", before), within_s=10, what="it is back")
