"""A settlement house: it pays for trades, from one account to another, in a SQLite database, exactly once.

Start a broker, the house, and in a third terminal somebody who trades::

    aegis dev
    python -m examples.settlement
    python -m examples.settlement_desk

Start the house a second time in a fourth terminal: that one is a standby. Kill either of them, at any moment:
no payment is lost, and none is made twice. What makes it so is ``ctx.transaction``: the payment and the
outcome of its call are committed together, so whoever runs the call again finds what came of it.
"""

from __future__ import annotations

import os
from decimal import Decimal
from typing import ClassVar, Final, Protocol

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import create_engine, func, select
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from aegisipc.sdk import Context, Retry, Service, ServiceError
from aegisipc.sdk.transactions import create_table

DATABASE: Final = os.environ.get("SETTLEMENT_DATABASE", "settlement.db")
HOUSE: Final = "house"  # the one resource: payments are made one after another
OPENING_CENTS: Final = 1_000_000_00

settlement = Service("settlement", max_backlog=10_000)
engine = create_async_engine(f"sqlite+aiosqlite:///{DATABASE}")


class Trade(BaseModel):
    """What is to be paid, by whom to whom. ``trade_id`` is its idempotency key, too."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trade_id: str = Field(min_length=1, max_length=64)
    payer: str = Field(min_length=1, max_length=64)
    payee: str = Field(min_length=1, max_length=64)
    amount: Decimal = Field(gt=0, max_digits=12, decimal_places=2)


class Settled(BaseModel):
    """A trade that is paid for."""

    trade_id: str
    call_id: str
    payer_cash: Decimal


class SettlementApi(Protocol):
    """The service as its callers see it: ``client.service(SettlementApi, resource_id=HOUSE)``."""

    service_name: ClassVar[str] = "settlement"

    async def settle(self, trade: Trade) -> Settled:
        """Pay for a trade."""
        ...

    async def total(self) -> Decimal:
        """Say how much cash there is in all accounts together."""
        ...


class Base(DeclarativeBase):
    """The tables."""


class Account(Base):
    """Somebody's cash, in cents."""

    __tablename__ = "accounts"
    name: Mapped[str] = mapped_column(primary_key=True)
    cents: Mapped[int]


class Payment(Base):
    """A trade that is paid for. Nothing keeps a trade from being here twice but that its call runs once."""

    __tablename__ = "payments"
    number: Mapped[int] = mapped_column(primary_key=True)
    trade_id: Mapped[str]
    cents: Mapped[int]


# Twice would be wrong, and yet it is "idempotent": with the transaction, running it again does nothing more.
# So it needs no claim and is never in doubt. If the database is locked or away, it is tried again; that an
# account has no money is a ServiceError, and with that an answer.
@settlement.method(effect="idempotent", retry=Retry(attempts=6, base_s=0.1, max_s=2.0))
async def settle(trade: Trade, ctx: Context) -> Settled:
    """Pay for a trade."""
    cents = int(trade.amount * 100)
    async with ctx.transaction(engine) as session:
        payer, payee = [await session.get(Account, name) for name in (trade.payer, trade.payee)]
        if payer is None or payee is None or payer is payee:
            raise ServiceError("unknown_account", f"{trade.payer} cannot pay {trade.payee}")
        if payer.cents < cents:
            raise ServiceError("insufficient_funds", f"{payer.name} has {Decimal(payer.cents) / 100:,}")
        payer.cents -= cents
        payee.cents += cents
        session.add(Payment(trade_id=trade.trade_id, cents=cents))
        cash = Decimal(payer.cents) / 100
        return Settled(trade_id=trade.trade_id, call_id=ctx.call_id, payer_cash=cash)


@settlement.method(effect="pure")
async def total() -> Decimal:
    """Say how much cash there is in all accounts together: it never changes."""
    async with engine.connect() as connection:
        return Decimal(await connection.scalar(select(func.sum(Account.cents))) or 0) / 100


def prepare(database: str = DATABASE) -> None:
    """Make the tables and open the accounts ``acc_1`` to ``acc_4``, where that has not been done."""
    sync_engine = create_engine(f"sqlite:///{database}")
    Base.metadata.create_all(sync_engine)
    create_table(sync_engine)  # where outcomes are kept; "aegis migrate effects up" does the same
    with Session(sync_engine) as session, session.begin():
        for number in range(1, 5):
            if session.get(Account, f"acc_{number}") is None:
                session.add(Account(name=f"acc_{number}", cents=OPENING_CENTS))
    sync_engine.dispose()


if __name__ == "__main__":
    prepare()
    settlement.run(resources=[HOUSE])
