"""Services for the tests of ``aegis serve``."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from aegisipc.sdk import Context, Service
from aegisipc.sdk.errors import ServiceError

orders = Service("orders")
prices = Service("prices")
not_a_service = 5


@orders.method(effect="idempotent")
async def position(account: str, at: int = 0) -> dict[str, Any]:
    return {"account": account, "at": at, "value": Decimal("1.50"), "time": datetime(2026, 1, 2, tzinfo=UTC)}


@orders.method
def record(what: str) -> str:
    """Leave a trace of each run."""
    with Path(os.environ["TRACE"]).open("a", encoding="utf-8") as trace:
        trace.write(f"{what}\n")
    return what


@orders.method(effect="pure")
async def refuse(ctx: Context) -> None:
    raise ServiceError("insufficient_funds", "the order needs more", missing=Decimal("12.50"))


@prices.method(effect="pure")
async def last(symbol: str) -> str:
    return symbol
