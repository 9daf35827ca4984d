"""A desk that trades, and has its trades settled by ``examples/settlement.py``.

A trade and the call that pays for it are written in one transaction into the desk's own database: either both
are there, or neither is. From there on the outbox sees to it that the call is made, once, also if the desk is
killed in between and started again, or if there is no broker for the time being.
"""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
from contextlib import closing
from decimal import Decimal
from types import TracebackType
from typing import Final, Self

from aegisipc.sdk import RemoteError, connect
from aegisipc.sdk.outbox import Outbox, Ticket
from examples.settlement import HOUSE, Settled, Trade

PATIENCE_S: Final = 24 * 3600.0
"""So long a payment may wait for the house to open."""


class Desk:
    """The desk's books, and its outbox in the same file."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.outbox = Outbox(path)
        with closing(sqlite3.connect(path)) as database, database:
            columns = "trade_id TEXT PRIMARY KEY, payer TEXT, payee TEXT, amount TEXT"
            database.execute(f"CREATE TABLE IF NOT EXISTS trades ({columns})")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.outbox.close()

    def book(self, trade: Trade) -> Ticket:
        """Book a trade, and have it settled."""
        with closing(sqlite3.connect(self._path)) as database, database:
            row = (trade.trade_id, trade.payer, trade.payee, str(trade.amount))
            database.execute("INSERT INTO trades VALUES (?, ?, ?, ?)", row)
            return self.outbox.add(
                database,
                "settlement.settle",
                trade,
                resource_id=HOUSE,
                idempotency_key=trade.trade_id,
                timeout=PATIENCE_S,
            )


async def main() -> None:
    """Book a trade that can be paid for and one that cannot, and see what becomes of them."""
    day = secrets.token_hex(3)
    trades = [
        Trade(trade_id=f"{day}-1", payer="acc_1", payee="acc_2", amount=Decimal("2500.00")),
        Trade(trade_id=f"{day}-2", payer="acc_3", payee="acc_4", amount=Decimal("90000000.00")),
    ]
    with Desk("desk.db") as desk:
        tickets = [desk.book(trade) for trade in trades]
        async with connect(name="desk-1") as client, desk.outbox.relay(client):
            for trade, ticket in zip(trades, tickets, strict=True):
                try:
                    settled = await desk.outbox.result(ticket, returns=Settled)
                except RemoteError as refused:
                    print(f"{trade.trade_id} is not paid for: {refused.message}")
                else:
                    print(f"{settled.trade_id} is paid for; {trade.payer} has {settled.payer_cash:,} left")


if __name__ == "__main__":
    asyncio.run(main())
