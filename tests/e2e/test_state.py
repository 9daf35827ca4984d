"""State that the members of a group share: exact after any failover, and the same on every member."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from pydantic import BaseModel

from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.streams import open_log
from aegisipc.eventstore.subjects import STATE, subjects_of
from aegisipc.sdk import Context, Service
from aegisipc.sdk.errors import RemoteError
from aegisipc.sdk.hosts.base import SharesState
from aegisipc.sdk.hosts.owned import OwnedHost
from tests.e2e.kit import Place, Running
from tests.support.waiting import eventually


class Added(BaseModel):
    account: str
    amount: int


class Book:
    """A service that adds up amounts; each instance has its own copy, as processes have."""

    def __init__(self, *, fails_on: int = 0) -> None:
        self.service = Service("book")
        self.totals: dict[str, int] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.applied = 0
        self.restored_from: list[dict[str, int] | None] = []

        @self.service.method(effect="idempotent")
        async def add(account: str, amount: int, ctx: Context) -> str:
            ctx.emit(Added(account=account, amount=amount))
            await self.gate.wait()
            if amount < 0:
                raise ValueError("no debts")
            return ctx.instance

        @self.service.method(effect="pure")
        async def total(account: str) -> int:
            return self.totals.get(account, 0)

        @self.service.on(Added)
        def added(event: Added) -> None:
            if fails_on and event.amount == fails_on:
                raise ArithmeticError("it does not add up")
            self.applied += 1
            self.totals[event.account] = self.totals.get(event.account, 0) + event.amount

        @self.service.snapshot
        def taken() -> dict[str, int]:
            return self.totals

        @self.service.restore
        def restored(state: dict[str, int] | None) -> None:
            self.restored_from.append(state)
            self.totals.clear()
            self.totals.update(state or {})


async def told(place: Place, command: dict[str, Any], running: Running) -> dict[str, Any]:
    subject = subjects_of(place.namespace).tell("book", running.instance.group)
    async with await Connection.open(ConnectOptions(place.url, name="operator")) as connection:
        answer = await connection.request(subject, json.dumps(command).encode(), timeout_s=5.0)
    found: dict[str, Any] = json.loads(answer.payload)
    return found


async def agreed(place: Place, *members: Running) -> bool:
    """Have the state checked, and compare what every member found at that place of the log."""
    answer = await told(place, {"command": "check"}, members[0])
    assert answer["ok"] is True
    seq = str(answer["seq"])

    def checks(member: Running) -> dict[str, str] | None:
        host = member.host
        assert isinstance(host, SharesState)
        return host.state_digests().get(seq)

    await eventually(
        lambda: all(checks(member) for member in members), within_s=5, what="every member checked"
    )
    return all(checks(member) == {"own": answer["digest"], "log": answer["digest"]} for member in members)


async def test_a_standby_has_the_same_state_at_the_same_place_of_the_log(place: Place) -> None:
    books = [Book(), Book(), Book()]
    members = [
        await place.serve(book.service, "x", instance=name) for book, name in zip(books, "abc", strict=True)
    ]
    client = await place.client()
    calls = [client.call("book.add", f"acc{n % 5}", n) for n in range(200)]
    await asyncio.gather(*calls)
    assert await agreed(place, *members)
    assert books[0].totals == books[1].totals == books[2].totals
    assert sum(books[0].totals.values()) == sum(range(200))
    assert books[0].applied == 200


async def test_positions_survive_the_active_and_a_new_member_builds_them_from_the_log(place: Place) -> None:
    books = [Book(), Book(), Book()]
    active = await place.serve(books[0].service, "x", instance="a")
    standby = await place.serve(books[1].service, "x", instance="b")
    client = await place.client()
    for n in range(20):
        await client.call("book.add", "acc", n)
    await active.kill()
    assert await client.call("book.add", "acc", 1000) == "b"
    assert await client.call("book.total", "acc") == 1190
    third = await place.serve(books[2].service, "x", instance="c")
    assert await agreed(place, standby, third)
    assert books[2].totals == {"acc": 1190}


async def test_events_of_a_call_that_failed_are_dropped(place: Place) -> None:
    book = Book()
    await place.serve(book.service, "x")
    client = await place.client()
    with pytest.raises(RemoteError, match="no debts"):
        await client.call("book.add", "acc", -1)
    assert await client.call("book.total", "acc") == 0
    assert book.applied == 0


async def test_a_zombies_events_are_refused_and_it_is_a_healthy_standby_again(place: Place) -> None:
    books = [Book(), Book()]
    zombie = await place.serve(books[0].service, "x", instance="a")
    heir = await place.serve(books[1].service, "x", instance="b")
    client = await place.client()
    await client.call("book.add", "acc", 1)
    books[0].gate.clear()
    books[1].gate.set()
    late = asyncio.ensure_future(client.call("book.add", "acc", 10, timeout=30.0))
    await eventually(lambda: zombie.host.pulse()["running"] == 1, within_s=5, what="the call runs")
    former = zombie.incarnation
    await zombie.fall_silent()
    assert await late == "b"
    books[0].gate.set()
    await eventually(lambda: zombie.incarnation not in ("", former), within_s=10, what="it came back")
    await eventually(lambda: zombie.host.me and zombie.host.me.is_ready, within_s=10, what="as a standby")
    assert await agreed(place, heir, zombie)
    assert books[0].totals == books[1].totals == {"acc": 11}


async def test_a_state_that_does_not_take_an_event_fails_the_call_and_is_built_again(place: Place) -> None:
    book = Book(fails_on=13)
    running = await place.serve(book.service, "x")
    client = await place.client()
    await client.call("book.add", "acc", 5)
    former = running.incarnation
    with pytest.raises(RemoteError, match="does not add up") as caught:
        await client.call("book.add", "acc", 13)
    assert caught.value.code == "state_apply_failed"
    await eventually(lambda: running.incarnation not in ("", former), within_s=10, what="it came back")
    assert await client.call("book.add", "acc", 6, timeout=20.0) == running.id
    assert book.totals == {"acc": 11}


async def test_a_member_starts_from_the_newest_snapshot_and_reads_on_from_there(place: Place) -> None:
    books = [Book(), Book()]
    active = await place.serve(books[0].service, "x", instance="a")
    host = active.host
    assert isinstance(host, OwnedHost)
    host.member.snapshots.every = 50
    client = await place.client()
    for _ in range(4):
        await asyncio.gather(*(client.call("book.add", "acc", 1) for _ in range(50)))
    await eventually_stored(place)
    await client.call("book.add", "acc", 1)
    late = await place.serve(books[1].service, "x", instance="b")
    assert await agreed(place, active, late)
    assert books[1].totals == books[0].totals == {"acc": 201}
    assert books[1].restored_from[0] is not None
    assert books[1].applied < 201
    await active.kill()
    assert await client.call("book.total", "acc", timeout=20.0) == 201


async def test_a_snapshot_that_cannot_be_read_is_passed_over(place: Place) -> None:
    books = [Book(), Book()]
    active = await place.serve(books[0].service, "x", instance="a")
    client = await place.client()
    for _ in range(3):
        await client.call("book.add", "acc", 1)
    async with await Connection.open(ConnectOptions(place.url, name="vandal")) as connection:
        subjects = subjects_of(place.namespace)
        log = await open_log(connection, subjects)
        await log.append(subjects.state("book", active.instance.group, "a"), b"rubbish")
    late = await place.serve(books[1].service, "x", instance="b")
    assert await agreed(place, active, late)
    assert books[1].restored_from == [None]


async def test_a_service_without_state_has_nothing_to_check(place: Place) -> None:
    service = Service("book")

    @service.method(effect="pure")
    async def ping() -> int:
        return 1

    running = await place.serve(service, "x")
    assert (await told(place, {"command": "check"}, running))["error"]["code"] == "no_shared_state"


async def eventually_stored(place: Place) -> None:
    async with await Connection.open(ConnectOptions(place.url, name="reader")) as connection:
        subjects = subjects_of(place.namespace)
        log = await open_log(connection, subjects)
        async with asyncio.timeout(10):
            while await log.last(subjects.of_kind("book", "*", STATE)) is None:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.02)
