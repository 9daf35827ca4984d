"""The services of the examples without a network: their functions, called one after another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

from aegisipc.eventstore.ids import CallIds
from aegisipc.sdk import Context, ServiceError
from examples import orders, quotes
from examples.demo.flow import AskPosition, AskQuote, Cancel, Place, Step
from examples.orders import Order, Side

_ids = CallIds(1)


def context(resource_id: str | None, *, epoch: int = 1, emitted: list[object] | None = None) -> Context:
    """What the handler of a call about `resource_id` gets; what it emits is added to `emitted`."""

    def sink(event: object, _name: str | None) -> None:
        assert emitted is not None, f"{event!r} was emitted, and nobody expected it"
        emitted.append(event)

    call_id = _ids.next(1_000)
    return Context(
        "orders", "east", "orders-1", "any", "client", resource_id, epoch, call_id, 0, lambda: 0, sink
    )


def order(order_id: str = "o-1", **changes: Any) -> Order:
    """A purchase that is filled at once, but for `changes`."""
    usual: dict[str, Any] = {
        "account": "acc_1",
        "order_id": order_id,
        "symbol": "ACME",
        "side": Side.BUY,
        "quantity": 100,
        "limit_price": Decimal("101.60"),
    }
    return Order(**(usual | changes))


@contextmanager
def fresh_ledgers() -> Iterator[None]:
    """Forget every account, before and after."""
    orders.ledgers.clear()
    try:
        yield
    finally:
        orders.ledgers.clear()


async def run_step(step: Step) -> str:
    """Run one step of a flow; return the code of the error, or ``""``."""
    try:
        match step:
            case Place():
                await orders.place(step.order, context(step.account))
            case Cancel():
                await orders.cancel(step.account, step.order_id, context(step.account))
            case AskPosition():
                await orders.position(step.account, context(step.account))
            case AskQuote():
                await quotes.quote(step.symbol)
    except ServiceError as error:
        return error.code
    return ""
