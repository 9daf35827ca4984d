"""The relay against a service that does what it is told: order, refusals, outcomes."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from aegisipc.sdk.errors import (
    CallExpired,
    CallInDoubt,
    CallTimeout,
    CallUnknown,
    DeadLettered,
    InvalidArguments,
    NoRoute,
    NotConnected,
    Overloaded,
    PayloadTooLarge,
    RemoteError,
    ServiceDefinitionError,
)
from aegisipc.sdk.outbox import (
    Backoff,
    Outbox,
    OutboxTimeout,
    Status,
)
from tests.outbox.kit import FakeCall, FakeClient, FakeLog
from tests.support.waiting import eventually

QUICK = Backoff(first_ns=1_000_000, most_ns=10_000_000)


class Fill(BaseModel):
    number: int


# -- order -------------------------------------------------------------------------------------------------


async def test_entries_are_submitted_in_order_with_all_that_was_said(
    outbox: Outbox, client: FakeClient, log: FakeLog
) -> None:
    outbox.put("orders.place", 0, timeout=2.5, priority="high", idempotency_key="k", dry=True)
    for number in range(1, 300):
        outbox.put("orders.place", number, resource_id=f"r{number % 3}")
    async with outbox.relay(client) as relay:
        await relay.idle(20)
    assert sorted(log.numbers()) == list(range(300))
    for resource in ("r0", "r1", "r2"):
        numbers = [call.arguments[0][0] for call in log.calls if call.resource == resource]
        assert numbers == sorted(numbers)
    first = log.calls[0]
    assert (first.key, first.arguments) == ("k", ([0], {"dry": True}))
    assert first.options == {"timeout": 2.5, "priority": "high"}
    assert max(Counter(client.submissions).values()) == 1
    assert outbox.counts()[Status.SUCCEEDED] == 300


async def test_what_is_committed_later_goes_as_well(outbox: Outbox, client: FakeClient, path: Path) -> None:
    database = sqlite3.connect(path)
    async with outbox.relay(client) as relay:
        await relay.idle(5)
        ticket = outbox.add(database, "orders.place", 1)  # nobody tells the relay of this one
        assert client.submissions == []
        database.commit()
        assert await outbox.result(ticket, timeout=5) == "orders.place"
    database.close()


@pytest.mark.parametrize("error", [NoRoute, Overloaded, NotConnected, CallTimeout])
async def test_a_blocked_entry_holds_only_those_behind_it_with_its_resource(
    outbox: Outbox, client: FakeClient, log: FakeLog, error: type[Exception]
) -> None:
    is_blocked = True

    def refuse(number: int, resource: str | None) -> None:
        if is_blocked and resource == "a" and number == 1:
            raise error("not now")

    client.refuse = refuse
    for number, resource in enumerate(["a", "a", "b", "a", None, "b"]):
        outbox.put("orders.place", number, resource_id=resource)
    outbox.put("quotes.place", 6, resource_id="a")
    async with outbox.relay(client, backoff=QUICK) as relay:
        await eventually(lambda: client.submissions.count(1) > 3, within_s=10)
        await eventually(lambda: len(log.calls) == 5, within_s=10)
        assert sorted(log.numbers()) == [0, 2, 4, 5, 6]
        with pytest.raises(OutboxTimeout) as waiting:
            await relay.idle(0)
        assert waiting.value.left == 2
        held = outbox.entry(2)
        assert held.trouble == f"{error.__name__}: not now"
        assert held.attempts > 1
        assert outbox.entry(4).status is Status.WAITING
        is_blocked = False
        await relay.idle(10)
    assert [number for number in log.numbers() if number in {0, 1, 3}] == [0, 1, 3]


async def test_unknown_acceptance_leads_to_one_call(outbox: Outbox, client: FakeClient, log: FakeLog) -> None:
    def after(call: FakeCall) -> None:
        if client.submissions.count(call.arguments[0][0]) < 3:
            raise CallTimeout("sent, and not acknowledged", call_id=call.call_id)

    client.after = after
    for number in range(5):
        outbox.put("orders.place", number, resource_id="r")
    async with outbox.relay(client, backoff=QUICK) as relay:
        await relay.idle(10)
    assert log.numbers() == [0, 1, 2, 3, 4]
    assert client.submissions == sorted(client.submissions)
    assert len(client.submissions) == 15


async def test_large_arguments_are_not_all_read_at_once(outbox: Outbox, client: FakeClient) -> None:
    for number in range(8):
        outbox.put("orders.place", number, b"x" * 600_000, resource_id="r")
    async with outbox.relay(client) as relay:
        await relay.idle(20)
    assert client.submissions == list(range(8))


# -- refusals and outcomes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        PayloadTooLarge("too large", size_bytes=9, limit_bytes=3),
        ServiceDefinitionError("not so"),
        InvalidArguments("not these", errors=[{"field": "x"}], call_id=""),
    ],
)
async def test_a_refusal_for_good_ends_the_entry_and_the_lane_goes_on(
    outbox: Outbox, client: FakeClient, log: FakeLog, error: Exception
) -> None:
    def refuse(number: int, resource: str | None) -> None:
        if number == 0:
            raise error

    client.refuse = refuse
    first = outbox.put("orders.place", 0, resource_id="r", idempotency_key="k")
    second = outbox.put("orders.place", 1, resource_id="r")
    async with outbox.relay(client) as relay:
        await relay.idle(10)
        with pytest.raises(type(error)) as raised:
            await outbox.result(first)
        assert raised.value.details == error.details  # type: ignore[attr-defined]
        assert await outbox.result(second) == "orders.place"
    entry = outbox.entry(first)
    assert (entry.status, entry.call_id, entry.attempts) == (Status.FAILED, None, 1)
    assert outbox.put("orders.place", 1, idempotency_key="k") != first  # the key is free


@pytest.mark.parametrize(
    "error",
    [
        RemoteError("no money", code="insufficient_funds", call_id="c", details={"message": 1, "missing": 2}),
        InvalidArguments("not these", errors=[{"field": "x"}], call_id="c"),
        DeadLettered("gone", call_id="c", attempts=3, reason="poison", recorded={}),
        CallExpired("too late", call_id="c", may_have_started=False),
    ],
)
async def test_an_error_is_kept_with_its_type_and_fields(
    outbox: Outbox, client: FakeClient, log: FakeLog, error: Exception, path: Path
) -> None:
    def answer(call: FakeCall) -> Any:
        raise error

    log.answer = answer
    ticket = outbox.put("orders.place", 0)
    async with outbox.relay(client) as relay:
        await relay.idle(10)
    with Outbox(path) as again, pytest.raises(type(error)) as raised:
        again.wait(ticket)
    assert raised.value.to_plain() == error.to_plain()  # type: ignore[attr-defined]
    assert outbox.entry(ticket).call_id == log.calls[0].call_id


async def test_a_result_is_read_as_the_type_that_is_asked_for(
    outbox: Outbox, client: FakeClient, log: FakeLog
) -> None:
    log.answer = lambda call: {"number": 7}
    ticket = outbox.put("orders.place", 0)
    async with outbox.relay(client):
        assert await outbox.result(ticket, returns=Fill, timeout=10) == Fill(number=7)
    assert outbox.wait(ticket.entry_id) == {"number": 7}
    with pytest.raises(RemoteError) as unexpected:
        outbox.wait(ticket, returns=int)
    assert unexpected.value.code == "unexpected_result"
    with pytest.raises(ServiceDefinitionError):
        await outbox.result(ticket, returns="int")


async def test_who_waits_too_short_is_told_where_the_entry_stands(
    outbox: Outbox, client: FakeClient, log: FakeLog
) -> None:
    ticket = outbox.put("orders.place", 0)
    with pytest.raises(OutboxTimeout, match="it is waiting") as waiting:
        await outbox.result(ticket, timeout=0)
    assert waiting.value.status == "waiting"
    log.answer = None
    async with outbox.relay(client) as relay:
        await relay.idle(10, outcomes=False)
        with pytest.raises(OutboxTimeout, match="it is accepted"):
            outbox.wait(ticket, timeout=0.02)
        log.calls[0].outcome.set_result(1)
        assert await outbox.result(ticket, timeout=10) == 1


async def test_a_doubt_is_noted_and_waited_through(
    outbox: Outbox, client: FakeClient, log: FakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aegisipc.sdk.outbox.following._PATIENCE", QUICK)
    ticket = outbox.put("orders.place", 0)

    def doubt(call: FakeCall) -> Any:
        raise CallInDoubt("who knows", call_id=call.call_id, reason="")

    log.answer = doubt
    async with outbox.relay(client):
        await eventually(lambda: outbox.entry(ticket).status is Status.IN_DOUBT, within_s=10)
        await eventually(lambda: len(client.attached) > 3, within_s=10)
        log.calls[0].outcome = asyncio.get_running_loop().create_future()
        log.calls[0].outcome.set_result("after all")
        assert await outbox.result(ticket, timeout=10) == "after all"


async def test_outcomes_are_found_in_the_log_after_a_restart(
    outbox: Outbox, client: FakeClient, log: FakeLog
) -> None:
    log.answer = None
    tickets = [outbox.put("orders.place", number) for number in range(40)]
    async with outbox.relay(client) as relay:
        await relay.idle(10, outcomes=False)
    assert outbox.counts()[Status.ACCEPTED] == 40
    for call in log.calls:
        call.outcome.set_result(call.arguments[0][0])
    again = FakeClient(log)
    async with outbox.relay(again) as relay:
        await relay.idle(10)
    assert again.submissions == []
    assert [outbox.wait(ticket) for ticket in tickets] == list(range(40))


async def test_a_call_that_the_log_has_lost_is_called_lost(
    outbox: Outbox, client: FakeClient, log: FakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aegisipc.sdk.outbox.following._PATIENCE", QUICK)
    log.answer = None
    ticket = outbox.put("orders.place", 0)
    async with outbox.relay(client) as relay:
        await relay.idle(10, outcomes=False)
    log.calls.clear()
    async with outbox.relay(client):
        with pytest.raises(CallUnknown):
            await outbox.result(ticket, timeout=10)
    assert outbox.entry(ticket).status is Status.LOST
    assert len(client.attached) == 3
