"""A first client. Start a broker and the order gateway, each in a terminal of its own, then this::

aegis dev
aegis serve examples.orders:orders --resource acc_1
python -m examples.client
"""

from __future__ import annotations

import asyncio
import secrets
from decimal import Decimal

from aegisipc.sdk import RemoteError, connect
from examples.orders import Order, OrdersApi, Side


async def main() -> None:
    """Place an order, one that is refused, and look at the account."""
    async with connect() as client:  # AEGIS_URL, else nats://127.0.0.1:4222
        venue = client.service(OrdersApi, resource_id="acc_1", timeout=5.0)

        order = Order(
            account="acc_1",
            order_id=f"first-{secrets.token_hex(3)}",
            symbol="ACME",
            side=Side.BUY,
            quantity=100,
            limit_price=Decimal("101.60"),
        )
        report = await venue.place(order)  # durable before it is sent on, executed once, typed
        print(f"{report.status}: {order.side} {order.quantity} {order.symbol} at {report.price}")

        try:
            await venue.place(order.model_copy(update={"order_id": "second", "limit_price": Decimal(150)}))
        except RemoteError as refused:  # the gateway said no: that is an outcome, durable like any other
            print(f"{refused.code}: {refused.message}")

        position = await venue.position("acc_1")
        print(f"{position.account} has {position.cash:,} in cash and holds {position.holdings}")


if __name__ == "__main__":
    asyncio.run(main())
