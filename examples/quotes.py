"""Quotes: a service without state, run as a pool. Any worker may answer any call.

Start it as often as you like; each process is one more worker, and idle workers take the next calls::

    aegis serve examples.quotes:quotes
    aegis call quotes.quote '"ACME"'
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from types import MappingProxyType
from typing import ClassVar, Final, Protocol

from pydantic import BaseModel

from aegisipc.sdk import Service, ServiceError

quotes = Service("quotes")

CLOSES: Final = MappingProxyType(
    {
        "ACME": Decimal("101.50"),
        "BOLT": Decimal("24.18"),
        "CRUX": Decimal("312.40"),
        "DYNE": Decimal("57.95"),
        "EMBR": Decimal("8.72"),
        "FLUX": Decimal("143.06"),
        "GRIT": Decimal("76.33"),
        "HALO": Decimal("228.90"),
    }
)
"""What is listed, with yesterday's closing prices. They are the reference for every price check."""

TICK: Final = Decimal("0.01")


class UnknownSymbol(ServiceError):
    """The symbol is not listed."""

    code = "unknown_symbol"


class Quote(BaseModel):
    """The best prices of one symbol at one moment (UTC)."""

    symbol: str
    bid: Decimal
    ask: Decimal
    at: datetime


class QuotesApi(Protocol):
    """What callers see: ``client.service(QuotesApi)``."""

    service_name: ClassVar[str] = "quotes"

    async def quote(self, symbol: str) -> Quote:
        """Return the best bid and ask."""
        ...


def reference(symbol: str) -> Decimal:
    """Return the closing price of `symbol`; raises ``UnknownSymbol``."""
    try:
        return CLOSES[symbol]
    except KeyError:
        raise UnknownSymbol(f"{symbol} is not listed; {', '.join(CLOSES)} are", symbol=symbol) from None


def touch(symbol: str) -> tuple[Decimal, Decimal]:
    """Return the best bid and ask: two basis points, at least one tick, around the closing price.

    This market stands still, so that a flow of orders always ends the same way.
    """
    close = reference(symbol)
    half_spread = max(TICK, (close * Decimal("0.0002")).quantize(TICK))
    return close - half_spread, close + half_spread


@quotes.method(effect="pure")  # it changes nothing: any worker may run it, and run it again
async def quote(symbol: str) -> Quote:
    """Return the best bid and ask."""
    bid, ask = touch(symbol)
    return Quote(symbol=symbol, bid=bid, ask=ask, at=datetime.now(UTC))


if __name__ == "__main__":
    quotes.run()
