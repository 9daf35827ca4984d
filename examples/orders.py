"""An order gateway: accounts place limit orders, cancel them and ask where they stand.

Run it next to a broker (``aegis dev``), and call it::

    aegis serve examples.orders:orders --resource acc_1 --resource acc_2
    aegis call orders.position '"acc_1"' --resource-id acc_1

The account is the call's *resource*: calls for one account run one after another, so nothing here needs a
lock. Each account has a ledger in the memory of the process that serves it; accounts named ``acc_1``,
``acc_2`` and so on open with 1,000,000 in cash at their first use. A standby that takes over opens them anew;
``examples/positions.py`` shows state that standbys share.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import ClassVar, Final, Protocol

from pydantic import BaseModel, ConfigDict, Field

from aegisipc.sdk import Context, Service, ServiceError
from examples.quotes import reference, touch

orders = Service("orders")

OPENING_CASH: Final = Decimal(1_000_000)
MAX_POSITION: Final = 5_000  # shares of one symbol; accounts are long only
MAX_DISTANCE: Final = Decimal("0.10")  # of a limit price from the reference price
ACCOUNT: Final = re.compile(r"acc_[1-9][0-9]{0,8}")


class Side(StrEnum):
    """Which way an order goes."""

    BUY = "buy"
    SELL = "sell"


class TimeInForce(StrEnum):
    """What happens to an order that cannot be filled at once."""

    DAY = "day"  # it works until it is cancelled
    IOC = "ioc"  # immediate or cancel


class Status(StrEnum):
    """Where an order stands."""

    WORKING = "working"
    FILLED = "filled"
    CANCELLED = "cancelled"


class Order(BaseModel):
    """A limit order. ``order_id`` is the client's own, unique within the account."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    account: str = Field(min_length=1, max_length=64)
    order_id: str = Field(min_length=1, max_length=64)
    symbol: str = Field(min_length=1, max_length=16)
    side: Side
    quantity: int = Field(gt=0, le=1_000_000)
    limit_price: Decimal = Field(gt=0, max_digits=12, decimal_places=2)
    time_in_force: TimeInForce = TimeInForce.DAY


class Report(BaseModel):
    """What became of an order. ``price`` is what it was filled at."""

    order: Order
    status: Status
    execution_id: str
    price: Decimal | None = None
    at: datetime


class Position(BaseModel):
    """What an account may still spend and sell: working orders have set their part aside."""

    account: str
    cash: Decimal
    holdings: dict[str, int]
    working_orders: int
    at: datetime


class OrdersApi(Protocol):
    """The service as its callers see it: ``client.service(OrdersApi, resource_id=account)``."""

    service_name: ClassVar[str] = "orders"

    async def place(self, order: Order) -> Report:
        """Fill an order, or let it work."""

    async def cancel(self, account: str, order_id: str) -> Report:
        """Cancel an order that works."""

    async def position(self, account: str) -> Position:
        """Say where an account stands."""


@dataclass
class Ledger:
    """The books of one account."""

    cash: Decimal = OPENING_CASH
    holdings: dict[str, int] = field(default_factory=dict)
    reports: dict[str, Report] = field(default_factory=dict)

    def reserve(self, order: Order, sign: int = 1) -> None:
        """Set aside what the order may need, cash or shares; with ``sign=-1``, put it back."""
        if order.side is Side.BUY:
            self.cash -= sign * order.quantity * order.limit_price
        else:
            self.holdings[order.symbol] -= sign * order.quantity

    def enter(self, report: Report) -> None:
        """Book what became of a new order."""
        self.reports[report.order.order_id] = report
        if report.status is not Status.CANCELLED:
            self.reserve(report.order)
        if report.price is not None:
            self.fill(report.order, report.price)

    def cancel(self, order_id: str) -> Report:
        """Take an order that works back; one that does not stays as it is. Returns where it stands now."""
        report = self.reports[order_id]
        if report.status is Status.WORKING:
            report.status = Status.CANCELLED
            self.reserve(report.order, sign=-1)
        return report

    def fill(self, order: Order, price: Decimal) -> None:
        """Book a trade, at the limit or better."""
        if order.side is Side.BUY:
            self.cash += order.quantity * (order.limit_price - price)
            self.holdings[order.symbol] = self.holdings.get(order.symbol, 0) + order.quantity
        else:
            self.cash += order.quantity * price


ledgers: dict[str, Ledger] = {}


def ledger_of(account: str, ctx: Context) -> Ledger:
    """Return the books of `account`, opening them at their first use."""
    if ACCOUNT.fullmatch(account) is None or ctx.resource_id not in (account, None):
        raise ServiceError("unknown_account", f"no account {account} at {ctx.resource_id}", account=account)
    return ledgers.setdefault(account, Ledger())


def check(order: Order, ledger: Ledger) -> None:
    """Refuse an order that breaks a rule: its caller gets a ``RemoteError`` with that code."""
    distance = abs(order.limit_price / reference(order.symbol) - 1)
    if distance > MAX_DISTANCE:
        raise ServiceError("price_off_market", f"the limit is {distance:.1%} off", limit=MAX_DISTANCE)
    if order.order_id in ledger.reports:
        raise ServiceError("duplicate_order", f"there is an order {order.order_id} already")
    held = ledger.holdings.get(order.symbol, 0)
    after = held + order.quantity if order.side is Side.BUY else held - order.quantity
    if not 0 <= after <= MAX_POSITION:
        raise ServiceError("position_limit", f"{held} {order.symbol} would become {after}", held=held)
    missing = order.quantity * order.limit_price - ledger.cash
    if missing > 0 and order.side is Side.BUY:
        raise ServiceError("insufficient_funds", f"the order needs {missing:,} more cash", missing=missing)


@orders.method  # effect="once" is the default: whatever fails, an order never reaches the market twice
async def place(order: Order, ctx: Context) -> Report:
    """Check an order and try to fill it at once; what cannot be filled works on, or is cancelled (IOC)."""
    ledger = ledger_of(order.account, ctx)
    check(order, ledger)
    bid, ask = touch(order.symbol)
    buys = order.side is Side.BUY
    report = Report(order=order, status=Status.WORKING, execution_id=ctx.call_id, at=datetime.now(UTC))
    if order.limit_price >= ask if buys else order.limit_price <= bid:
        report.status, report.price = Status.FILLED, ask if buys else bid
    elif order.time_in_force is TimeInForce.IOC:
        report.status = Status.CANCELLED
    ledger.enter(report)
    return report


@orders.method(effect="idempotent")  # cancelling twice is cancelling once: a standby may run it again
async def cancel(account: str, order_id: str, ctx: Context) -> Report:
    """Cancel an order that works; one that does not is left as it is. Returns where it stands now."""
    ledger = ledger_of(account, ctx)
    if order_id not in ledger.reports:
        raise ServiceError("unknown_order", f"{account} has no order {order_id}")
    return ledger.cancel(order_id)


@orders.method(effect="pure")  # it changes nothing
async def position(account: str, ctx: Context) -> Position:
    """Say where an account stands."""
    ledger = ledger_of(account, ctx)
    working = sum(report.status is Status.WORKING for report in ledger.reports.values())
    held = {symbol: shares for symbol, shares in ledger.holdings.items() if shares}
    now = datetime.now(UTC)
    return Position(account=account, cash=ledger.cash, holdings=held, working_orders=working, at=now)


if __name__ == "__main__":
    orders.run(resources=["acc_1", "acc_2"])
