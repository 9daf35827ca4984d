"""The position keeper without a network: its arithmetic, and its state from events and snapshots."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegisipc.sdk import ServiceError
from aegisipc.sdk.state import SharedState
from examples import positions
from examples.positions import Fill, Position
from tests.examples.gateway import context

FILLS = st.lists(
    st.tuples(st.integers(-500, 500).filter(bool), st.decimals("0.01", "900", places=2)), max_size=30
)


@pytest.fixture(autouse=True)
def nothing_is_held() -> Iterator[None]:
    positions.restored(None)
    yield
    positions.restored(None)


def fill(quantity: int, price: str, *, account: str = "acc_1", instrument: str = "ACME") -> Fill:
    return Fill(account=account, instrument=instrument, quantity=quantity, price=Decimal(price))


def after(*fills: tuple[int, str]) -> tuple[int, Decimal, Decimal]:
    """Quantity, average price and what was realized, after fills one after another."""
    position = Position(account="acc_1", instrument="ACME")
    for quantity, price in fills:
        position = position.after(fill(quantity, price))
    return position.quantity, position.average_price, position.realized


@pytest.mark.parametrize(
    ("fills", "quantity", "average", "realized"),
    [
        ([(100, "10")], 100, "10", "0"),
        ([(100, "10"), (300, "12")], 400, "11.5", "0"),
        ([(100, "10"), (-40, "12")], 60, "10", "80"),
        ([(100, "10"), (-100, "9")], 0, "0", "-100"),
        ([(100, "10"), (-150, "12")], -50, "12", "200"),
        ([(-100, "10"), (-100, "20")], -200, "15", "0"),
        ([(-100, "10"), (50, "8")], -50, "10", "100"),
        ([(-100, "10"), (130, "11")], 30, "11", "-100"),
    ],
)
def test_a_position_has_the_average_price_of_what_is_open_and_the_profit_of_what_is_closed(
    fills: list[tuple[int, str]], quantity: int, average: str, realized: str
) -> None:
    assert after(*fills) == (quantity, Decimal(average), Decimal(realized))


@given(FILLS)
def test_what_was_paid_is_what_is_open_less_what_was_realized(fills: list[tuple[int, Decimal]]) -> None:
    quantity, average, realized = after(*((quantity, str(price)) for quantity, price in fills))
    paid = sum((quantity * price for quantity, price in fills), Decimal(0))
    assert quantity == sum(quantity for quantity, _ in fills)
    assert abs(quantity * average - realized - paid) < Decimal("1e-12")


async def test_booking_emits_the_fill_and_changes_nothing_by_itself() -> None:
    emitted: list[object] = []
    bought = fill(100, "10")
    found = await positions.book(bought, context("acc_1", emitted=emitted))
    assert emitted == [bought]
    assert (found.quantity, found.average_price) == (100, Decimal(10))
    assert await positions.account("acc_1", context("acc_1")) == []
    positions.booked(bought)
    assert await positions.position("acc_1", "ACME", context("acc_1")) == found
    assert await positions.account("acc_1", context("acc_1")) == [found]


async def test_a_call_about_another_account_than_its_resource_is_refused() -> None:
    with pytest.raises(ServiceError) as refused:
        await positions.book(fill(1, "1"), context("acc_2", emitted=[]))
    assert refused.value.code == "wrong_resource"
    with pytest.raises(ServiceError):
        await positions.position("acc_1", "ACME", context(None))


def test_a_standby_that_starts_from_a_snapshot_agrees_with_one_that_read_every_fill() -> None:
    fills = [fill(7, "3", account=f"acc_{n % 2}", instrument=f"I{n % 3}") for n in range(12)]
    state = SharedState(positions.positions)
    bodies = [state.encode(one) for one in fills]
    state.restore(None)
    for body in bodies[:8]:
        state.apply(body)
    half = state.snapshot()
    for body in bodies[8:]:
        state.apply(body)
    digest = state.digest()
    state.restore(half)
    assert state.digest() != digest
    for body in bodies[8:]:
        state.apply(body)
    assert state.digest() == digest
    assert positions.held("acc_1", "I1").quantity == 14
