"""Cleaning up large bodies: what the log is done with goes, and nothing else."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import AsyncIterator
from typing import Final

import pytest

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.errors import NotConnected, ObjectMissing
from aegisipc.eventstore.frames import (
    CallEntry,
    CallFrame,
    Mark,
    PenEntry,
    PenFrame,
    encode_calls,
    encode_pen,
)
from aegisipc.eventstore.ids import CallId, CallIds
from aegisipc.eventstore.jetstream import JetStreamLog
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.object_layout import CHUNK_BYTES
from aegisipc.eventstore.object_listing import ObjectListing
from aegisipc.eventstore.objects import Objects
from aegisipc.eventstore.references import Reference, arguments_name, encode_reference, result_name
from aegisipc.eventstore.seeking import MAX_ACCEPT_DELAY_S
from aegisipc.eventstore.streams import create_log
from aegisipc.eventstore.subjects import Subjects, subjects_of
from aegisipc.router.application.router import Router, RouterOptions
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from aegisipc.router.infrastructure.sweeping import Sweeper, SweepOptions
from tests.support.waiting import eventually

GRACE_S: Final = 3600.0
DAY_S: Final = 24 * 3600.0
OPTIONS: Final = SweepOptions(every_s=0.01, grace_s=GRACE_S, unclaimed_s=DAY_S, rest=0.0)
_namespaces = (f"swept{number}" for number in itertools.count(1))


class World:
    """A namespace with large bodies, and what parts of the system would write about them."""

    def __init__(self, connection: Connection, log: JetStreamLog, subjects: Subjects) -> None:
        self.connection, self.log, self.subjects = connection, log, subjects
        self.objects = Objects(connection, subjects)
        self.is_leading = True
        self.later_s = 0.0
        self.sweeper = self.new_sweeper()
        self._ids = CallIds(int.from_bytes(os.urandom(4)))
        self._numbers = itertools.count(1)

    def new_sweeper(self, options: SweepOptions = OPTIONS) -> Sweeper:
        return Sweeper(
            self.connection,
            self.subjects,
            is_leading=lambda: self.is_leading,
            now_ns=lambda: time.time_ns() + int(self.later_s * 1e9),
            options=options,
        )

    def new_call(self, ago_s: float = 0.0) -> CallId:
        return self._ids.next(int((time.time() - ago_s) * 1000))

    async def arguments(self, call_id: CallId, group: str = "_pool") -> Reference:
        return await self.objects.put(arguments_name("orders", group, call_id), os.urandom(1000))

    async def result(self, call_id: CallId, writer: str = "i1", group: str = "_pool") -> Reference:
        return await self.objects.put(result_name("orders", group, call_id, writer, 1), os.urandom(1000))

    async def accept(self, call_id: CallId, reference: Reference, group: str = "_pool") -> None:
        entry = CallEntry(call_id, "place", 60_000, None)
        frame = CallFrame(7, next(self._numbers), 1, [entry], [encode_reference(reference)])
        await self.log.append(self.subjects.call("orders", group, "c1"), encode_calls(frame))

    async def say(
        self,
        call_id: CallId,
        mark: Mark,
        body: bytes | None = None,
        *,
        writer: str = "i1",
        group: str = "_pool",
        kind: str = "pen",
    ) -> int:
        frame = PenFrame(1, next(self._numbers), 1, [PenEntry(mark, call_id)], [body])
        subject = f"{self.subjects.log_root}.orders.{group}.{kind}.{writer}"
        return (await self.log.append(subject, encode_pen(frame))).seq

    async def promote(self, holder: str, epoch: int = 1) -> None:
        event = ev.GroupPromoted(
            epoch=epoch, holder=holder, incarnation=f"{holder}-1", cause="first", decided_by="r1"
        )
        await self.log.append(self.subjects.fence("orders", "g1"), ev.encode_event(event))

    async def is_there(self, reference: Reference) -> bool:
        try:
            await self.objects.get(reference)
        except ObjectMissing:
            return False
        return True

    async def sweep(self, later_s: float) -> None:
        self.later_s = later_s
        await self.sweeper.sweep()


@pytest.fixture
async def world(shared_server: EmbeddedServer) -> AsyncIterator[World]:
    async with await Connection.open(ConnectOptions(shared_server.url)) as connection:
        subjects = subjects_of(next(_namespaces))
        yield World(connection, await create_log(connection, subjects), subjects)


# -- arguments ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mark", "body"),
    [
        (Mark.SUCCEEDED, encode(1)),
        (Mark.FAILED, encode({"code": "x", "message": "y"})),
        (Mark.EXPIRED, None),
        (Mark.CANCELLED, encode({"code": "cancelled", "message": "y"})),
        (Mark.DUPLICATE, bytes(16)),
    ],
)
async def test_arguments_go_when_the_call_is_over_and_the_grace_too(
    world: World, mark: Mark, body: bytes | None
) -> None:
    call = world.new_call()
    reference = await world.arguments(call)
    await world.accept(call, reference)
    if mark in (Mark.SUCCEEDED, Mark.FAILED):
        await world.say(call, Mark.CLAIMED)
    await world.say(call, mark, body)
    await world.sweep(GRACE_S - 60)
    assert await world.is_there(reference)
    await world.sweep(GRACE_S + 60)
    assert not await world.is_there(reference)
    assert world.sweeper.status()["removed_arguments"] == 1
    assert world.sweeper.status()["waiting"] == 0


@pytest.mark.parametrize("said", [[], [Mark.CLAIMED], [Mark.CLAIMED, Mark.IN_DOUBT], [Mark.ATTEMPTED]])
async def test_arguments_of_a_call_that_is_not_over_stay(world: World, said: list[Mark]) -> None:
    call = world.new_call()
    reference = await world.arguments(call)
    await world.accept(call, reference)
    for mark in said:
        await world.say(call, mark, encode({"code": "in_doubt", "message": ""}))
    for days in range(1, 5):
        await world.sweep(days * DAY_S)
    assert await world.is_there(reference)
    assert world.sweeper.status()["waiting"] == 1
    await world.say(call, Mark.SUCCEEDED if said == [Mark.CLAIMED] else Mark.EXPIRED, encode(1))
    await world.sweep(9 * DAY_S)
    assert await world.is_there(reference) == (Mark.IN_DOUBT in said)


@pytest.mark.parametrize("group", ["_pool", "g1"])
async def test_a_dead_letter_keeps_its_arguments_until_it_is_discarded(world: World, group: str) -> None:
    await world.promote("i1")
    call = world.new_call()
    reference = await world.arguments(call, group)
    await world.accept(call, reference, group)
    claimed_seq = await world.say(call, Mark.CLAIMED, group=group)
    details = {"attempts": 3, "claimed_seq": claimed_seq}  # in a pool, facts name what they are about
    error = encode({"code": "dead_lettered", "message": "", "details": details})
    await world.say(call, Mark.DEAD_LETTERED, error, group=group, kind="dead")
    for days in range(1, 4):
        await world.sweep(days * DAY_S)
    assert await world.is_there(reference)
    decision = encode(ev.Resolution(source="operator", author="ann"))
    await world.say(call, Mark.DISCARDED, decision, group=group, kind="dead")
    await world.sweep(9 * DAY_S)
    assert not await world.is_there(reference)


async def test_who_does_not_hold_the_pen_cannot_end_a_call(world: World) -> None:
    await world.promote("i1")
    call = world.new_call()
    reference = await world.arguments(call, "g1")
    await world.accept(call, reference, "g1")
    await world.say(call, Mark.SUCCEEDED, encode(1), writer="i2", group="g1")
    await world.sweep(DAY_S)
    assert await world.is_there(reference)


async def test_arguments_of_a_call_that_was_never_accepted_go_a_day_later(world: World) -> None:
    never, accepted = world.new_call(), world.new_call()
    reference, other = await world.arguments(never), await world.arguments(accepted)
    await world.accept(accepted, other)
    await world.sweep(DAY_S - 60)
    assert await world.is_there(reference)
    await world.sweep(DAY_S + 60)
    assert not await world.is_there(reference)
    assert await world.is_there(other)
    assert world.sweeper.status()["removed_unaccepted"] == 1


async def test_arguments_of_a_call_that_was_accepted_very_late_stay(world: World) -> None:
    call = world.new_call(ago_s=MAX_ACCEPT_DELAY_S + 3600)
    reference = await world.arguments(call)
    await world.accept(call, reference)
    await world.sweep(2 * DAY_S)
    assert await world.is_there(reference)
    assert world.sweeper.status()["unclear"] == 1


async def test_arguments_that_are_stored_anew_meanwhile_stay(world: World) -> None:
    call = world.new_call()
    await world.arguments(call)
    await world.sweep(0)
    again = await world.arguments(call)
    candidate = next(iter(world.sweeper._candidates.values()))
    assert not await world.sweeper._remove(candidate, "never accepted")
    assert await world.is_there(again)
    await world.sweep(2 * DAY_S)
    assert not await world.is_there(again)


# -- results --------------------------------------------------------------------------------------------


async def test_results_that_a_frame_refers_to_stay_for_ever(world: World) -> None:
    references = []
    for kind in ("pen", "evidence"):
        call = world.new_call()
        reference = await world.result(call)
        await world.say(call, Mark.SUCCEEDED, encode_reference(reference), kind=kind)
        references.append(reference)
    for days in range(1, 4):
        await world.sweep(days * DAY_S + 60)
    assert all([await world.is_there(reference) for reference in references])
    assert world.sweeper.status()["kept_results"] == 2
    assert world.sweeper.status()["removed_results"] == 0


async def test_a_result_that_nothing_refers_to_goes_a_day_later(world: World) -> None:
    call = world.new_call()
    lost, told = await world.result(call, "i1"), await world.result(call, "i2")
    await world.say(call, Mark.SUCCEEDED, encode_reference(told), writer="i2")
    await world.sweep(DAY_S - 60)
    assert await world.is_there(lost)
    await world.sweep(DAY_S + 60)
    assert not await world.is_there(lost)
    assert await world.is_there(told)
    assert world.sweeper.status()["removed_results"] == 1


async def test_a_result_that_may_be_in_a_services_database_stays_until_its_call_is_over(world: World) -> None:
    call = world.new_call()
    stored, lost = await world.result(call, "i1"), await world.result(call, "i2")
    await world.accept(call, await world.arguments(call))
    await world.sweep(3 * DAY_S)
    await world.say(call, Mark.SUCCEEDED, encode_reference(stored))
    await world.sweep(9 * DAY_S)
    assert [await world.is_there(result) for result in (stored, lost)] == [True, False]


# -- pieces and strangers -------------------------------------------------------------------------------


async def test_pieces_that_nothing_leads_to_go_a_day_later(world: World) -> None:
    call = world.new_call()
    kept = await world.objects.put(arguments_name("orders", "_pool", call), os.urandom(3 * CHUNK_BYTES))
    await world.accept(call, kept)
    for _ in range(2):
        answer = await world.connection.request(
            world.objects.bucket.chunks("cutoff1"), os.urandom(CHUNK_BYTES), timeout_s=5
        )
        assert b"error" not in answer.payload
    listing = ObjectListing(world.connection, world.subjects)
    await world.sweep(DAY_S - 60)
    assert [orphan.nuid async for orphan in listing.orphans()] == ["cutoff1"]
    await world.sweep(2 * DAY_S)
    assert [orphan.nuid async for orphan in listing.orphans()] == []
    assert await world.is_there(kept)
    assert world.sweeper.status()["removed_orphans"] == 1


@pytest.mark.parametrize("name", ["report", "orders.g1.no-id.args", "a.b.c.d.e.f"])
async def test_objects_of_others_stay(world: World, name: str) -> None:
    reference = await world.objects.put(name, b"mine")
    for days in range(1, 4):
        await world.sweep(days * DAY_S)
    assert await world.is_there(reference)
    assert world.sweeper.status()["unclear"] == 1


async def test_an_object_of_another_service_than_its_call_stays(world: World) -> None:
    call = world.new_call()
    await world.accept(call, await world.arguments(call))
    await world.say(call, Mark.EXPIRED)
    foreign = await world.objects.put(arguments_name("quotes", "_pool", call), b"x")
    await world.sweep(2 * DAY_S)
    assert await world.is_there(foreign)
    assert world.sweeper.status()["unclear"] == 1


# -- the duty -------------------------------------------------------------------------------------------


async def test_who_does_not_lead_removes_nothing(world: World) -> None:
    call = world.new_call()
    reference = await world.arguments(call)
    world.is_leading, world.later_s = False, 9 * DAY_S
    world.sweeper.start()
    try:
        await world.sweeper.sweep()
        assert await world.is_there(reference)
        world.is_leading = True
        await eventually(lambda: world.sweeper.counts.unaccepted, within_s=20)
    finally:
        await world.sweeper.stop()
    assert not await world.is_there(reference)


async def test_a_failure_does_not_end_the_duty(world: World) -> None:
    reference = await world.arguments(world.new_call())
    failing = iter([NotConnected("away"), ValueError("a defect"), NotConnected("away")])
    last_seq = world.sweeper._listing.last_seq

    async def unreliable() -> int:
        for error in failing:
            raise error
        return await last_seq()

    world.sweeper._listing.last_seq = unreliable  # type: ignore[method-assign]
    world.later_s = 9 * DAY_S
    world.sweeper.start()
    try:
        await eventually(lambda: world.sweeper.counts.unaccepted, within_s=20)
    finally:
        await world.sweeper.stop()
        await world.sweeper.stop()
    assert world.sweeper.status()["failures"] == 3
    assert not await world.is_there(reference)


async def test_a_bucket_that_was_made_anew_is_listed_anew(world: World) -> None:
    for _ in range(3):
        await world.arguments(world.new_call())
    await world.sweep(0)
    assert world.sweeper.status()["waiting"] == 3
    stream = world.objects.bucket.stream
    await world.connection.request(f"$JS.API.STREAM.DELETE.{stream}", b"", timeout_s=5)
    await create_log(world.connection, world.subjects)
    reference = await world.arguments(world.new_call())
    await world.sweep(0)
    assert world.sweeper.status()["waiting"] == 1
    await world.sweep(2 * DAY_S)
    assert not await world.is_there(reference)


async def test_reading_much_of_the_log_lets_others_work(world: World) -> None:
    for _ in range(2999):
        world.connection.publish_nowait(world.subjects.call("orders", "_pool", "c9"), b"noise")
    await world.log.append(world.subjects.call("orders", "_pool", "c9"), b"noise")  # stored after the others
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    working = asyncio.create_task(other())
    try:
        hurried = world.new_sweeper(SweepOptions(rest=4.0))
        count = sum([1 async for _ in hurried._log.read([world.subjects.everything])])
    finally:
        working.cancel()
    assert count == 3000
    assert turns > 3000 / 256


async def test_a_router_that_leads_cleans_up_and_says_so(shared_server: EmbeddedServer) -> None:
    namespace = next(_namespaces)
    now = SweepOptions(every_s=0.01, grace_s=0.0, unclaimed_s=0.0, rest=0.0)
    options = RouterOptions(shared_server.url, namespace, sweep=now)
    async with Router(options) as router, await Connection.open(ConnectOptions(shared_server.url)) as own:
        objects = Objects(own, router.subjects)
        ids = CallIds(5)
        name = arguments_name("orders", "_pool", ids.next(int(time.time() * 1000)))
        reference = await objects.put(name, b"x" * 1000)
        await eventually(lambda: router.status()["objects"]["removed_unaccepted"] == 1, within_s=20)
        with pytest.raises(ObjectMissing):
            await objects.get(reference)
    async with Router(RouterOptions(shared_server.url, namespace, sweep=None)) as router:
        assert router.status()["objects"] is None
