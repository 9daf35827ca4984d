"""The order gateway's rules and books."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from aegisipc.sdk import ServiceError
from examples.orders import OPENING_CASH, OrdersApi, Side, Status, TimeInForce, cancel, place, position
from examples.orders import orders as service
from examples.quotes import CLOSES, QuotesApi, quote, touch
from examples.quotes import quotes as quotes_service
from tests.examples.gateway import context, fresh_ledgers, order


@pytest.fixture(autouse=True)
def ledgers() -> Iterator[None]:
    with fresh_ledgers():
        yield


async def cash_and_holdings(account: str = "acc_1") -> tuple[Decimal, dict[str, int]]:
    now = await position(account, context(account))
    return now.cash, now.holdings


async def refusal_of(order_id: str = "bad", **changes: Any) -> str:
    with pytest.raises(ServiceError) as caught:
        await place(order(order_id, **changes), context(changes.get("account", "acc_1")))
    return caught.value.code


async def test_an_order_beyond_the_touch_is_filled_at_the_touch() -> None:
    _, ask = touch("ACME")
    report = await place(order(), context("acc_1"))
    assert (report.status, report.price) == (Status.FILLED, ask)
    assert await cash_and_holdings() == (OPENING_CASH - 100 * ask, {"ACME": 100})


async def test_a_sale_brings_its_money_in() -> None:
    bid, ask = touch("ACME")
    await place(order("in"), context("acc_1"))
    sale = order("out", side=Side.SELL, quantity=40, limit_price=Decimal("100.00"))
    assert (await place(sale, context("acc_1"))).price == bid
    assert await cash_and_holdings() == (OPENING_CASH - 100 * ask + 40 * bid, {"ACME": 60})


async def test_an_order_short_of_the_touch_works_and_sets_its_cash_aside_until_it_is_cancelled() -> None:
    patient = order(limit_price=Decimal("100.00"))
    assert (await place(patient, context("acc_1"))).status is Status.WORKING
    assert await cash_and_holdings() == (OPENING_CASH - 10_000, {})
    assert (await position("acc_1", context("acc_1"))).working_orders == 1
    for _ in range(2):  # cancelling twice is cancelling once
        assert (await cancel("acc_1", "o-1", context("acc_1"))).status is Status.CANCELLED
        assert await cash_and_holdings() == (OPENING_CASH, {})


async def test_a_working_sale_sets_its_shares_aside_until_it_is_cancelled() -> None:
    await place(order("in"), context("acc_1"))
    await place(order("out", side=Side.SELL, limit_price=Decimal("105.00")), context("acc_1"))
    assert (await cash_and_holdings())[1] == {}
    await cancel("acc_1", "out", context("acc_1"))
    assert (await cash_and_holdings())[1] == {"ACME": 100}


async def test_an_immediate_or_cancel_order_never_works() -> None:
    hasty = order(limit_price=Decimal("100.00"), time_in_force=TimeInForce.IOC)
    assert (await place(hasty, context("acc_1"))).status is Status.CANCELLED
    assert await cash_and_holdings() == (OPENING_CASH, {})


async def test_cancelling_a_filled_order_leaves_it_filled() -> None:
    await place(order(), context("acc_1"))
    before = await cash_and_holdings()
    assert (await cancel("acc_1", "o-1", context("acc_1"))).status is Status.FILLED
    assert await cash_and_holdings() == before


async def test_every_rule_refuses_by_its_own_code_and_changes_nothing() -> None:
    await place(order("first"), context("acc_1"))
    before = await cash_and_holdings()
    assert await refusal_of(symbol="ZZZZ") == "unknown_symbol"
    assert await refusal_of(limit_price=Decimal("10.16")) == "price_off_market"
    assert await refusal_of(quantity=4_901) == "position_limit"
    assert await refusal_of(side=Side.SELL, quantity=101, limit_price=Decimal(101)) == "position_limit"
    crux = refusal_of(symbol="CRUX", quantity=4_000, limit_price=Decimal("312.40"))
    assert await crux == "insufficient_funds"
    assert await refusal_of(order_id="first") == "duplicate_order"
    assert await refusal_of(account="desk_1") == "unknown_account"
    assert await refusal_of(account="acc_0") == "unknown_account"
    with pytest.raises(ServiceError, match="no order") as caught:
        await cancel("acc_1", "never", context("acc_1"))
    assert caught.value.code == "unknown_order"
    assert await cash_and_holdings() == before


async def test_an_order_for_another_account_than_the_resource_is_refused() -> None:
    with pytest.raises(ServiceError) as caught:
        await place(order(), context("acc_2"))
    assert caught.value.code == "unknown_account"


async def test_any_account_of_the_pattern_opens_at_its_first_use() -> None:
    assert await cash_and_holdings("acc_31337") == (OPENING_CASH, {})


async def test_the_execution_is_named_after_its_call() -> None:
    ctx = context("acc_1")
    assert (await place(order(), ctx)).execution_id == ctx.call_id


@pytest.mark.parametrize("symbol", CLOSES)
async def test_a_quote_is_around_the_closing_price(symbol: str) -> None:
    found = await quote(symbol)
    assert found.bid < CLOSES[symbol] < found.ask


def test_effects_are_declared_for_what_the_methods_do() -> None:
    effects = {name: str(method.effect) for name, method in service.methods.items()}
    assert effects == {"place": "once", "cancel": "idempotent", "position": "pure"}
    assert {name: str(method.effect) for name, method in quotes_service.methods.items()} == {"quote": "pure"}


def test_the_protocols_name_the_services_and_their_methods() -> None:
    assert OrdersApi.service_name == service.name
    assert QuotesApi.service_name == quotes_service.name
    assert all(hasattr(OrdersApi, method) for method in service.methods)
    assert all(hasattr(QuotesApi, method) for method in quotes_service.methods)
