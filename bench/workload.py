"""What is measured: the smallest order-to-fill call, as a service and as a plain nats-py responder."""

from __future__ import annotations

import asyncio
import contextlib
import sys

import nats
from nats.aio.msg import Msg
from pydantic import BaseModel

from aegisipc.sdk import Service

ECHO_SUBJECT = "bench.echo"

service = Service("bench", max_running=1024)


class Order(BaseModel):
    """An order, as small as they come."""

    symbol: str
    qty: int
    price: float
    side: str


class Fill(BaseModel):
    """What became of it."""

    order_id: int
    symbol: str
    qty: int
    price: float


ORDER = Order(symbol="AAPL", qty=100, price=150.25, side="buy")


@service.method(effect="idempotent")
async def idempotent(order: Order) -> Fill:
    """Fill an order; may run again."""
    return Fill(order_id=1, symbol=order.symbol, qty=order.qty, price=order.price)


@service.method(effect="once")
async def once(order: Order) -> Fill:
    """Fill an order; is claimed in the log before it starts."""
    return Fill(order_id=1, symbol=order.symbol, qty=order.qty, price=order.price)


async def echo(url: str) -> None:
    """The baseline's other side: validates nothing, stores nothing, sends back what it got."""
    client = await nats.connect(url)

    async def respond(message: Msg) -> None:
        await message.respond(message.data)

    await client.subscribe(ECHO_SUBJECT, cb=respond)
    await client.flush()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    import uvloop

    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(echo(sys.argv[1]))
