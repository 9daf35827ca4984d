"""A position keeper: fills go in, positions come out. They survive any failover, and there is no database.

Run two instances of one group beside a broker, each in a terminal of its own; the first is active, the second
its standby::

    aegis dev
    aegis serve examples.positions:positions --resource acc_1 --resource acc_2 --instance keeper-1
    aegis serve examples.positions:positions --resource acc_1 --resource acc_2 --instance keeper-2

Book a fill, kill the active instance (``kill -9``), and ask the standby::

    aegis call positions.book --resource-id acc_1 \\
        '{"account": "acc_1", "instrument": "ACME", "quantity": 100, "price": "101.50"}'
    aegis call positions.position '"acc_1"' '"ACME"' --resource-id acc_1
    aegis verify positions

A handler changes nothing by itself: it *emits* what happened, here the fill, and that is written to the log
together with the call's outcome, both or neither. Every instance of the group applies it, the active one and
its standbys alike, in the same order. A new instance starts from the latest snapshot and reads on from there.
"""

from __future__ import annotations

from decimal import Decimal
from typing import ClassVar, Final, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field

from aegisipc.sdk import Context, Service, ServiceError

positions = Service("positions")


class Fill(BaseModel):
    """A trade of an account. ``quantity`` is positive for a purchase and negative for a sale."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    account: str = Field(min_length=1, max_length=64)
    instrument: str = Field(min_length=1, max_length=16)
    quantity: int = Field(ge=-1_000_000, le=1_000_000)
    price: Decimal = Field(gt=0, max_digits=12, decimal_places=4)


class Position(BaseModel):
    """What an account has of one instrument; ``quantity`` is negative if it is short."""

    model_config = ConfigDict(frozen=True)

    account: str
    instrument: str
    quantity: int = 0
    average_price: Decimal = Decimal(0)
    """What the present quantity was bought (or sold short) for, on average; 0 if there is none."""
    realized: Decimal = Decimal(0)
    """Profit and loss of what was closed."""

    def after(self, fill: Fill) -> Self:
        """Return the position with one more fill."""
        total = self.quantity + fill.quantity
        if self.quantity * fill.quantity >= 0:  # it grows: the average moves
            cost = self.quantity * self.average_price + fill.quantity * fill.price
            return self.model_copy(
                update={"quantity": total, "average_price": cost / total if total else Decimal(0)}
            )
        closed = min(abs(fill.quantity), abs(self.quantity))
        sign = 1 if self.quantity > 0 else -1
        realized = self.realized + sign * closed * (fill.price - self.average_price)
        turned = self.quantity * total < 0  # from long to short, or back: the rest was opened by this fill
        average = fill.price if turned else self.average_price if total else Decimal(0)
        return self.model_copy(update={"quantity": total, "average_price": average, "realized": realized})


class PositionsApi(Protocol):
    """The service as its callers see it: ``client.service(PositionsApi, resource_id=account)``."""

    service_name: ClassVar[str] = "positions"

    async def book(self, fill: Fill) -> Position:
        """Book a fill; returns the position after it."""
        ...

    async def position(self, account: str, instrument: str) -> Position:
        """Say what an account has of one instrument."""
        ...

    async def account(self, account: str) -> list[Position]:
        """Say what an account has, by instrument."""
        ...


_held: Final[dict[str, dict[str, Position]]] = {}
"""By account and instrument. Only :func:`booked` and :func:`restored` change it."""


def held(account: str, instrument: str) -> Position:
    """Return a position as it is now."""
    known = _held.get(account, {}).get(instrument)
    return known or Position(account=account, instrument=instrument)


@positions.on(Fill)
def booked(fill: Fill) -> None:
    """Apply a fill: on the active instance as its call succeeds, on each standby as it reads the log."""
    _held.setdefault(fill.account, {})[fill.instrument] = held(fill.account, fill.instrument).after(fill)


@positions.snapshot
def everything() -> dict[str, dict[str, Position]]:
    """Return the whole state; written to the log now and then, so that a start need not read all of it."""
    return {account: dict(instruments) for account, instruments in _held.items()}


@positions.restore
def restored(state: dict[str, dict[str, Position]] | None) -> None:
    """Start from a snapshot, or from nothing."""
    _held.clear()
    _held.update(state or {})


# Its only effect is the event, which is in the log together with the outcome, or not at all. So nothing is
# lost or doubled by running it again if it had none, and it needs no claim: that is "idempotent".
@positions.method(effect="idempotent")
async def book(fill: Fill, ctx: Context) -> Position:
    """Book a fill; returns the position after it."""
    _check(fill.account, ctx)
    ctx.emit(fill)
    return held(fill.account, fill.instrument).after(fill)


@positions.method(effect="pure")
async def position(account: str, instrument: str, ctx: Context) -> Position:
    """Say what an account has of one instrument."""
    _check(account, ctx)
    return held(account, instrument)


@positions.method(effect="pure")
async def account(account: str, ctx: Context) -> list[Position]:
    """Say what an account has, by instrument."""
    _check(account, ctx)
    return [found for _, found in sorted(_held.get(account, {}).items())]


def _check(account: str, ctx: Context) -> None:
    if ctx.resource_id != account:  # else two fills of one account could be booked at the same time
        raise ServiceError(
            "wrong_resource", f"a call about account {account} needs it as its resource id", account=account
        )


if __name__ == "__main__":
    positions.run(resources=["acc_1", "acc_2"])
