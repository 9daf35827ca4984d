"""Makes a flow of orders: ``python -m examples.demo.generate --seed 7 --orders 5000 > orders.jsonl``.

Desks of very different activity trade against prices that wander around yesterday's closes. They look at
quotes, place orders in bursts around the price, cancel some that did not trade and check their positions;
and they make mistakes, so that every rule of the gateway refuses something. Each desk keeps rough books, to
sell only what it should have and to slow down when cash runs low.

The same seed gives the same bytes on every machine and Python: all chance comes from ``Random.random``, the
one method whose sequence is guaranteed, and all arithmetic is on whole numbers.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from random import Random
from typing import Final

from examples.demo.flow import AskPosition, AskQuote, Cancel, Place, Step, dump_step
from examples.orders import OPENING_CASH, Side, TimeInForce
from examples.quotes import CLOSES, touch

SHIPPED_SEED: Final = 7
SHIPPED_ORDERS: Final = 5_000

_DESKS: Final = 64
_SYMBOLS: Final = tuple(CLOSES)
_LOW_CASH_CENTS: Final = 15_000_000


class Chance:
    """Whole numbers from a seeded source."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed).random  # noqa: S311 - reproducible on purpose

    def below(self, end: int) -> int:
        """Return a number from 0 to `end` - 1."""
        return int(self._random() * end)

    def between(self, first: int, last: int) -> int:
        """Return a number from `first` to `last`."""
        return first + self.below(last - first + 1)

    def of_1000(self, share: int) -> bool:
        """Be true `share` times in a thousand."""
        return self.below(1000) < share

    def one_of[T](self, choices: Sequence[T]) -> T:
        """Return one of `choices`."""
        return choices[self.below(len(choices))]


@dataclass
class Desk:
    """One account's trader and what it believes it has."""

    account: str
    cash_cents: int = int(OPENING_CASH * 100)
    held: dict[str, int] = field(default_factory=dict)
    working: list[Place] = field(default_factory=list)
    placed: int = 0

    def next_id(self) -> str:
        """Name the next order."""
        self.placed += 1
        return f"{self.account[4:]}-{self.placed}"

    def book(self, place: Place) -> None:
        """Expect the order to be accepted."""
        cents, buys = int(place.limit_price * 100) * place.quantity, place.side is Side.BUY
        bid, ask = touch(place.symbol)
        trades = place.limit_price >= ask if buys else place.limit_price <= bid
        if not trades and place.time_in_force is TimeInForce.IOC:
            return
        if buys:
            self.cash_cents -= cents
            self.held[place.symbol] = self.held.get(place.symbol, 0) + (place.quantity if trades else 0)
        else:
            self.held[place.symbol] -= place.quantity
            self.cash_cents += cents if trades else 0
        if not trades:
            self.working.append(place)

    def unbook(self, place: Place) -> None:
        """Expect the order to be cancelled."""
        self.working.remove(place)
        if place.side is Side.BUY:
            self.cash_cents += int(place.limit_price * 100) * place.quantity
        else:
            self.held[place.symbol] += place.quantity


class Flow:
    """The whole market: desks, wandering prices, and a clock."""

    def __init__(self, seed: int) -> None:
        self.chance = Chance(seed)
        self.desks = [Desk(f"acc_{number}") for number in range(1, _DESKS + 1)]
        self.closes = {symbol: int(close * 100) for symbol, close in CLOSES.items()}
        self.prices = dict(self.closes)  # in cents
        self.at_ms = 0

    def steps(self, orders: int) -> Iterator[Step]:
        """Yield steps until there have been `orders` orders."""
        placed = 0
        while placed < orders:
            self.at_ms += self.chance.between(1, 40)
            self._wander()
            desk = self._next_desk()
            for step in self._visit(desk, orders - placed):
                placed += isinstance(step, Place)
                yield step

    def _next_desk(self) -> Desk:
        """The first desks trade more than the last ones: now and then the lesser of two draws counts."""
        drawn = self.chance.below(_DESKS)
        return self.desks[min(drawn, self.chance.below(_DESKS)) if self.chance.of_1000(300) else drawn]

    def _wander(self) -> None:
        symbol = self.chance.one_of(_SYMBOLS)
        close, price = self.closes[symbol], self.prices[symbol]
        pull = (close - price) // 50
        stride = max(1, close // 400)
        self.prices[symbol] = max(1, price + pull + self.chance.between(-stride, stride))

    def _visit(self, desk: Desk, most: int) -> Iterator[Step]:
        chance = self.chance
        symbol = chance.one_of(_SYMBOLS)
        if chance.of_1000(550):
            listed = "ZZZZ" if chance.of_1000(15) else symbol
            yield AskQuote(at_ms=self.at_ms, account=desk.account, symbol=listed)
            self.at_ms += 1
        size = chance.between(4, 9) if chance.of_1000(250) else chance.between(1, 3)
        for _ in range(min(size, most)):
            yield self._mistake(desk, symbol) if chance.of_1000(60) else self._order(desk, symbol)
        if desk.working and chance.of_1000(500):
            self.at_ms += 1
            yield from self._cancels(desk)
        if chance.of_1000(180):
            self.at_ms += 1
            yield AskPosition(at_ms=self.at_ms, account=desk.account)

    def _cancels(self, desk: Desk) -> Iterator[Step]:
        chance = self.chance
        for _ in range(chance.between(1, min(5, len(desk.working)))):
            place = chance.one_of(desk.working)
            desk.unbook(place)
            yield Cancel(at_ms=self.at_ms, account=desk.account, order_id=place.order_id)
        if chance.of_1000(40):
            never = f"{desk.account[4:]}-{desk.placed + 1000}"
            yield Cancel(at_ms=self.at_ms, account=desk.account, order_id=never)

    def _order(self, desk: Desk, symbol: str) -> Place:
        chance = self.chance
        held = desk.held.get(symbol, 0)
        sells = held >= 10 and (desk.cash_cents < _LOW_CASH_CENTS or chance.of_1000(480))
        price = self.prices[symbol]
        room = min(4_800 - held, max(0, desk.cash_cents) // price)
        most = (held if sells else max(10, room)) // 10
        reach = chance.between(-price // 300, price // 200)  # how far beyond the price it would go
        place = self._place(
            desk,
            symbol,
            Side.SELL if sells else Side.BUY,
            quantity=10 * chance.between(1, min(60, most)),
            cents=price - reach if sells else price + reach,
            ioc=chance.of_1000(150),
        )
        affordable = int(place.limit_price * 100) * place.quantity <= desk.cash_cents
        if sells or (affordable and held + place.quantity <= 5_000):
            desk.book(place)
        return place

    def _mistake(self, desk: Desk, symbol: str) -> Place:
        price, side = self.prices[symbol], self.chance.one_of((Side.BUY, Side.SELL))
        match self.chance.below(5):
            case 0:  # a symbol that is not listed
                return self._place(desk, "ZZZZ", side, quantity=100, cents=10_000)
            case 1:  # a decimal point in the wrong place
                return self._place(desk, symbol, side, quantity=100, cents=max(1, price // 10))
            case 2:  # more than the account has
                return self._place(desk, "CRUX", Side.BUY, quantity=4_000, cents=self.closes["CRUX"])
            case 3:  # more than is held
                return self._place(desk, symbol, Side.SELL, quantity=9_000, cents=price)
            case _:  # an account that does not exist
                stray = Desk(f"desk_{self.chance.between(1, 3)}", placed=self.at_ms)
                return self._place(stray, symbol, side, quantity=10, cents=price)

    def _place(
        self, desk: Desk, symbol: str, side: Side, *, quantity: int, cents: int, ioc: bool = False
    ) -> Place:
        return Place(
            at_ms=self.at_ms,
            account=desk.account,
            order_id=desk.next_id(),
            symbol=symbol,
            side=side,
            quantity=quantity,
            limit_price=Decimal(cents).scaleb(-2),
            time_in_force=TimeInForce.IOC if ioc else TimeInForce.DAY,
        )


def generate(seed: int, orders: int) -> list[Step]:
    """Return the flow of `seed`, with `orders` orders and what goes with them."""
    return list(Flow(seed).steps(orders))


def main(argv: Sequence[str] | None = None) -> None:
    """Write a flow to standard output."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.demo.generate", description="Write a flow of orders."
    )
    parser.add_argument("--seed", type=int, default=SHIPPED_SEED, help="default: %(default)s")
    parser.add_argument("--orders", type=int, default=SHIPPED_ORDERS, help="default: %(default)s")
    chosen = parser.parse_args(argv)
    if chosen.orders < 1:
        parser.error("--orders is at least 1")
    for step in generate(chosen.seed, chosen.orders):
        sys.stdout.write(dump_step(step) + "\n")


if __name__ == "__main__":
    main()
