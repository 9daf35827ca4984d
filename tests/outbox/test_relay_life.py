"""The relay: entries whose time runs out, restarts, two relays on one file, and a database in trouble."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from aegisipc.sdk.errors import (
    CallTimeout,
    NoRoute,
    NotConnected,
    ServiceDefinitionError,
)
from aegisipc.sdk.outbox import (
    Backoff,
    Outbox,
    OutboxCorrupted,
    OutboxEntryExpired,
    OutboxError,
    OutboxLocked,
    Status,
)
from tests.outbox.kit import Clock, FakeCall, FakeClient, FakeLog
from tests.support.waiting import eventually

QUICK = Backoff(first_ns=1_000_000, most_ns=10_000_000)


# -- expiry ------------------------------------------------------------------------------------------------


async def test_what_was_certainly_not_sent_in_time_is_never_sent(
    outbox: Outbox, client: FakeClient, clock: Clock
) -> None:
    late = outbox.put("orders.place", 0, expires_in=5, resource_id="r")
    good = outbox.put("orders.place", 1, expires_in=500, resource_id="r")
    clock.move(5)
    async with outbox.relay(client) as relay:
        await relay.idle(10)
        with pytest.raises(OutboxEntryExpired, match="certainly did not run"):
            await outbox.result(late)
        assert await outbox.result(good) == "orders.place"
    assert client.submissions == [1]
    assert client.attached == []


async def test_an_entry_that_was_refused_until_its_time_was_up_is_expired(
    outbox: Outbox, client: FakeClient, clock: Clock
) -> None:
    def refuse(number: int, resource: str | None) -> None:
        raise NoRoute("not now")

    client.refuse = refuse
    ticket = outbox.put("orders.place", 0, expires_in=5)
    async with outbox.relay(client, backoff=QUICK) as relay:
        await eventually(lambda: len(client.submissions) > 2, within_s=10)
        clock.move(5)
        await relay.idle(10)
    assert outbox.entry(ticket).status is Status.EXPIRED
    assert client.attached == []  # it was certainly not accepted: nothing to ask


async def test_an_entry_does_not_wait_in_the_client_for_longer_than_it_may(
    outbox: Outbox, client: FakeClient, log: FakeLog, clock: Clock
) -> None:
    outbox.put("orders.place", 0, expires_in=5, timeout=30)
    outbox.put("orders.place", 1, expires_in=50)  # the client's default is less
    clock.move(2)
    async with outbox.relay(client) as relay:
        await relay.idle(10)
    assert [call.options["timeout"] for call in log.calls] == [3.0, 30.0]


@pytest.mark.parametrize("knows_id", [True, False])
async def test_an_entry_that_may_have_been_accepted_is_looked_up_when_its_time_is_up(
    outbox: Outbox, client: FakeClient, log: FakeLog, clock: Clock, knows_id: bool
) -> None:
    def after(call: FakeCall) -> None:
        clock.move(10)  # and its time is up
        raise CallTimeout("sent, and not acknowledged", **({"call_id": call.call_id} if knows_id else {}))

    client.after = after
    ticket = outbox.put("orders.place", 0, expires_in=5, idempotency_key="k")
    async with outbox.relay(client, backoff=QUICK):
        assert await outbox.result(ticket, timeout=10) == "orders.place"
    assert client.submissions == [0]
    assert outbox.entry(ticket).call_id == log.calls[0].call_id
    question = client.attached[0]
    assert question["call_id"] == log.calls[0].call_id if knows_id else question["idempotency_key"] == "k"


async def test_an_entry_that_the_log_does_not_know_is_expired_once_that_is_certain(
    outbox: Outbox, client: FakeClient, log: FakeLog, clock: Clock
) -> None:
    def refuse(number: int, resource: str | None) -> None:
        raise CallTimeout("sent, and not acknowledged", call_id="01")

    client.refuse = refuse
    ticket = outbox.put("orders.place", 0, expires_in=5)
    behind = outbox.put("orders.place", 1, idempotency_key="other")
    async with outbox.relay(client, backoff=QUICK, settle_s=10.0) as relay:
        await eventually(lambda: client.submissions, within_s=10)
        clock.move(6)
        submitted = len(client.submissions)
        await eventually(lambda: len(client.attached) > 6, within_s=10)
        assert outbox.entry(ticket).status is Status.SENDING  # it may just be on its way
        assert outbox.entry(behind).status is Status.WAITING
        client.refuse = lambda number, resource: None
        clock.move(10)
        await relay.idle(10)
    assert outbox.entry(ticket).status is Status.EXPIRED
    assert client.submissions[submitted + 1 :] in ([1], [])
    assert log.numbers() == [1]


async def test_a_look_up_that_fails_is_made_again(
    outbox: Outbox, client: FakeClient, clock: Clock, path: Path
) -> None:
    ticket = outbox.put("orders.place", 0, expires_in=5)
    database = sqlite3.connect(path)
    database.execute("UPDATE aegis_outbox SET status = 'sending', tried_ns = ?", (clock.ns,))
    database.commit()
    database.close()
    clock.move(60)
    asked = 0

    def attach(call_id: str | None = None, **question: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked < 3:
            raise NotConnected("no server")
        return FakeClient.attach(client, call_id, **question)

    client.attach = attach  # type: ignore[method-assign]
    async with outbox.relay(client, backoff=QUICK) as relay:
        await relay.idle(10)
    assert (asked, outbox.entry(ticket).status) == (3, Status.EXPIRED)
    assert client.submissions == []


# -- life --------------------------------------------------------------------------------------------------


async def test_what_was_being_sent_when_the_relay_stopped_is_sent_again_with_its_key(
    outbox: Outbox, client: FakeClient, log: FakeLog
) -> None:
    reached = asyncio.Event()

    async def submit(target: str, /, *args: Any, **options: Any) -> FakeCall:
        call = await FakeClient.submit(client, target, *args, **options)
        if call.arguments[0][0] == 2:
            reached.set()
            await asyncio.Event().wait()  # accepted, and the word of it never comes
        return call

    client.submit = submit  # type: ignore[method-assign]
    for number in range(5):
        outbox.put("orders.place", number, resource_id="r")
    async with outbox.relay(client):
        await reached.wait()
    statuses = [entry.status for entry in outbox.entries()]
    assert statuses[2:] == [Status.SENDING, Status.WAITING, Status.WAITING]
    again = FakeClient(log)
    async with outbox.relay(again) as relay:
        await relay.idle(10)
    assert again.submissions == [2, 3, 4]
    assert log.numbers() == [0, 1, 2, 3, 4]


async def test_the_same_bytes_are_sent_again(outbox: Outbox, client: FakeClient, log: FakeLog) -> None:
    """The fake log insists on it, as keys do."""

    def after(call: FakeCall) -> None:
        if len(client.submissions) == 1:
            raise CallTimeout("sent, and not acknowledged", call_id=call.call_id)

    client.after = after
    outbox.put("orders.place", 0, {f"member {number}" for number in range(50)})
    async with outbox.relay(client, backoff=QUICK) as relay:
        await relay.idle(10)
    assert client.submissions == [0, 0]


async def test_a_second_relay_waits_and_then_says_who_has_the_place(
    outbox: Outbox, client: FakeClient, path: Path
) -> None:
    with Outbox(path) as same:
        async with outbox.relay(client):
            second = same.relay(client, wait_s=0.05)
            with pytest.raises(OutboxLocked, match=r"another one works on .*process \d+ on"):
                await second.__aenter__()
            standby = asyncio.ensure_future(same.relay(client, wait_s=None).run())
            await asyncio.sleep(0)
        ticket = outbox.put("orders.place", 1)
        assert await outbox.result(ticket, timeout=10) == "orders.place"  # the standby has taken over
        standby.cancel()
        await asyncio.wait({standby})


async def test_two_relays_that_both_believe_to_be_alone_make_one_call_of_each_entry(
    outbox: Outbox, client: FakeClient, log: FakeLog, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aegisipc.sdk.outbox.schema.RelayLock.take", lambda self: True)
    with Outbox(path) as same:
        async with outbox.relay(client) as one, same.relay(FakeClient(log)) as other:
            for number in range(100):
                outbox.put("orders.place", number, resource_id="r")
            await one.idle(20)
            await other.idle(20)
    assert sorted(log.numbers()) == list(range(100))
    assert log.numbers() == sorted(log.numbers())
    assert outbox.counts()[Status.SUCCEEDED] == 100


async def test_a_database_that_is_held_for_long_only_delays(
    path: Path, client: FakeClient, log: FakeLog
) -> None:
    with Outbox(path, busy_s=0.01) as outbox:
        ticket = outbox.put("orders.place", 1)
        other = sqlite3.connect(path, isolation_level=None)
        async with outbox.relay(client) as relay:
            await relay.idle(10)
            second = outbox.put("orders.place", 2)
            other.execute("BEGIN IMMEDIATE")
            await asyncio.sleep(0.1)  # not for correctness: so that the relay has met the lock
            assert outbox.entry(second).status in set(Status)
            other.execute("COMMIT")
            await relay.idle(10)
        other.close()
        assert outbox.wait(ticket) == outbox.wait(second) == "orders.place"
    assert log.numbers() == [1, 2]


async def test_a_relay_ends_with_a_database_that_is_damaged(
    outbox: Outbox, client: FakeClient, path: Path
) -> None:
    relay = outbox.relay(client)
    await relay.__aenter__()
    database = sqlite3.connect(path)
    database.execute("DROP TABLE aegis_outbox")
    database.commit()
    database.close()
    work = relay._work
    assert work is not None
    await eventually(work.done, within_s=10)
    with pytest.raises(OutboxCorrupted):
        await relay.idle()
    with pytest.raises(OutboxCorrupted):
        await relay.__aexit__(None, None, None)
    with pytest.raises(OutboxCorrupted, match="version unknown"):
        Outbox(path)
    database = sqlite3.connect(path)
    database.execute("DROP TABLE aegis_outbox_meta")
    database.close()
    with Outbox(path) as fresh:  # the tables are made anew, and the place is free
        async with fresh.relay(client):
            pass


async def test_running_ends_with_what_made_it_impossible(
    outbox: Outbox, client: FakeClient, path: Path
) -> None:
    running = asyncio.ensure_future(outbox.relay(client).run())
    ticket = outbox.put("orders.place", 1)
    assert await outbox.result(ticket, timeout=10) == "orders.place"
    database = sqlite3.connect(path)
    database.execute("DROP TABLE aegis_outbox")
    database.commit()
    database.close()
    with pytest.raises(OutboxCorrupted):
        async with asyncio.timeout(10):
            await running


async def test_a_relay_is_started_once(outbox: Outbox, client: FakeClient) -> None:
    relay = outbox.relay(client)
    async with relay:
        pass
    with pytest.raises(RuntimeError, match="make another one"):
        await relay.__aenter__()
    with pytest.raises(OutboxError, match="not running"):
        await relay.idle()
    outbox.nudge()


async def test_entries_of_a_status_that_does_not_exist(outbox: Outbox) -> None:
    outbox.put("orders.place", 1)
    assert len(outbox.entries("waiting")) == 1
    assert len(outbox.entries(["waiting", "expired"], after=1)) == 0
    assert len(outbox.entries([Status.EXPIRED])) == 0
    with pytest.raises(ServiceDefinitionError, match="there are waiting, sending"):
        outbox.entries("gone")
