"""Asking a service about a call in doubt: what it is told, what it may answer, what is no answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel

from aegisipc.eventstore.calls import OpenCall
from aegisipc.eventstore.codec import decode, encode
from aegisipc.eventstore.events import MAX_REASON
from aegisipc.sdk import Context, Doubt, Executed, NotExecuted
from aegisipc.sdk.core.pen import Identity
from aegisipc.sdk.errors import ServiceDefinitionError
from aegisipc.sdk.reconciling import Finding, Reconciler
from aegisipc.sdk.service import Service
from aegisipc.sdk.state import SharedState
from tests.sdk.kit import EPOCH_NS, GROUP

ID = b"\x01\xa3\x18\x5c\x50\x00\x70\x00\x80\x00\x04\x00\x00\x00\x00\x07"
LIMIT = 10_000


class Order(BaseModel):
    symbol: str
    quantity: int


class Fill(BaseModel):
    price: Decimal


class Filled(BaseModel):
    symbol: str


def made(answer: Callable[[Doubt], Any], *, timeout_s: float = 30.0) -> Reconciler:
    service = Service("orders")

    @service.method
    async def place(order: Order, ctx: Context, note: str = "none", *, urgent: bool = False) -> Fill:
        raise AssertionError("asking must not run it")

    service.on(Filled)(lambda event: None)
    service.reconcile(timeout_s=timeout_s)(answer)
    identity = Identity("orders", GROUP, "b", "2", 1)
    return Reconciler(service, identity, LIMIT, SharedState(service))


def call(method: str = "place", *args: Any, **kwargs: Any) -> OpenCall:
    body = encode([list(args or ({"symbol": "A", "quantity": 3},)), kwargs])
    found = OpenCall(ID, "c1", method, "acc_1", 1, EPOCH_NS, body)
    found.claimed_by, found.claimed_epoch = "a", 4
    return found


async def test_the_service_is_told_all_about_the_call() -> None:
    seen: list[Doubt] = []
    assert await made(seen.append).ask(call("place", {"symbol": "A", "quantity": "3"}, urgent=True)) is None
    assert seen == [
        Doubt(
            service="orders",
            group=GROUP,
            method="place",
            call_id="01a3185c-5000-7000-8000-040000000007",
            resource_id="acc_1",
            client="c1",
            arguments={"order": Order(symbol="A", quantity=3), "note": "none", "urgent": True},
            claimed_by="a",
            claimed_epoch=4,
        )
    ]


async def test_an_executed_call_gives_its_encoded_result() -> None:
    found = await made(lambda doubt: Executed(Fill(price=Decimal("1.5")))).ask(call())
    assert found is not None
    assert (found.is_executed, decode(found.body), found.emitted) == (True, {"price": Decimal("1.5")}, ())


async def test_the_events_that_the_lost_handler_would_have_emitted_come_along() -> None:
    found = await made(lambda doubt: Executed(Fill(price=Decimal(1)), [Filled(symbol="A")])).ask(call())
    assert found is not None
    assert [decode(body) for body in found.emitted] == [["Filled", {"symbol": "A"}]]


async def test_a_call_that_did_not_run_gives_the_reason() -> None:
    assert await made(lambda doubt: NotExecuted("no such order")).ask(call()) == Finding(
        is_executed=False, body=b"", emitted=(), reason="no such order"
    )


async def test_a_reason_is_cut_to_what_the_log_takes() -> None:
    found = await made(lambda doubt: NotExecuted("x" * 10_000)).ask(call())
    assert found is not None
    assert len(found.reason) == MAX_REASON


async def test_an_async_function_is_awaited() -> None:
    async def asks(doubt: Doubt) -> NotExecuted:
        await asyncio.sleep(0)
        return NotExecuted(doubt.method)

    found = await made(asks).ask(call())
    assert found is not None
    assert found.reason == "place"


async def test_a_plain_function_runs_in_a_thread() -> None:
    found = await made(lambda doubt: NotExecuted(str(threading.current_thread().daemon))).ask(call())
    assert found is not None
    assert found.reason == "True"


def raises(doubt: Doubt) -> Any:
    raise ConnectionError("venue unreachable")


NO_ANSWERS: dict[str, Callable[[Doubt], Any]] = {
    "venue unreachable": raises,
    "which is neither Executed, NotExecuted nor None": lambda doubt: True,
    "price: ": lambda doubt: Executed({"price": "dear"}),
    "the limit is 10000": lambda doubt: Executed(Fill(price=Decimal(1)), [Filled(symbol="x" * 1000)] * 12),
    "cannot emit Order": lambda doubt: Executed(Fill(price=Decimal(1)), [doubt.arguments["order"]]),
    "another event in one call": lambda doubt: Executed(Fill(price=Decimal(1)), [Filled(symbol="A")] * 300),
}


@pytest.mark.parametrize("why", NO_ANSWERS)
async def test_an_answer_that_cannot_be_used_is_none_and_the_log_says_why(
    why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await made(NO_ANSWERS[why]).ask(call()) is None
    shown = capsys.readouterr().out
    assert "reconcile_failed" in shown
    assert why in shown


async def test_a_service_that_takes_too_long_could_not_tell() -> None:
    async def hangs(doubt: Doubt) -> None:
        await asyncio.Event().wait()

    assert await made(hangs, timeout_s=0.05).ask(call()) is None


async def test_arguments_that_this_version_cannot_read_are_not_asked_about() -> None:
    seen: list[Doubt] = []
    assert await made(seen.append).ask(call("place", {"symbol": "A"})) is None
    assert seen == []


async def test_a_method_that_this_version_does_not_have_is_not_asked_about() -> None:
    seen: list[Doubt] = []
    assert await made(seen.append).ask(call("gone")) is None
    assert seen == []


async def test_a_service_without_the_function_cannot_be_asked() -> None:
    reconciler = Reconciler(Service("orders"), Identity("orders", GROUP, "b", "2", 1), LIMIT)
    assert not reconciler.is_defined
    assert made(raises).is_defined
    assert await reconciler.ask(call()) is None


async def test_events_cannot_come_along_in_a_pool() -> None:
    service = Service("orders")

    @service.method
    async def place() -> None: ...

    service.reconcile(lambda doubt: Executed(None, [Filled(symbol="A")]))
    pool = Reconciler(service, Identity("orders", "_pool", "b", "2", 1), LIMIT)
    lost = OpenCall(ID, "c1", "place", None, 1, EPOCH_NS, encode([[], {}]))
    assert await pool.ask(lost) is None


async def test_whoever_asks_can_be_cancelled() -> None:
    begun = asyncio.Event()

    async def hangs(doubt: Doubt) -> None:
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(made(hangs).ask(call()))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# -- definition ----------------------------------------------------------------------------------------


def test_a_function_that_takes_no_doubt_is_refused() -> None:
    with pytest.raises(ServiceDefinitionError, match="write it as `async def find_out"):
        Service("orders").reconcile(lambda: None)


def test_a_second_function_is_refused() -> None:
    service = Service("orders")
    service.reconcile(lambda doubt: None)
    with pytest.raises(ServiceDefinitionError, match=r"@orders\.reconcile twice"):
        service.reconcile(lambda doubt: None)


def test_a_time_that_is_none_is_refused() -> None:
    with pytest.raises(ServiceDefinitionError, match="timeout_s=0"):
        Service("orders").reconcile(timeout_s=0)(lambda doubt: None)
