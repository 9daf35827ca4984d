"""Who acts in the golden histories: services that do what a scene needs, and no more."""

from __future__ import annotations

import asyncio

from pydantic import BaseModel

from aegisipc.sdk import Context, Executed, NotExecuted, Service
from aegisipc.sdk.reconciling import Doubt
from aegisipc.sdk.retry import Retry


class Placed(BaseModel):
    """An order was placed: the shared state of a group counts them by account."""

    account: str
    lots: int


class Gate:
    """Handlers pass it unless it is shut; ``entered`` are those that came to it, as (instance, number)."""

    def __init__(self) -> None:
        self.entered: list[tuple[str, int]] = []
        self._open = asyncio.Event()
        self._open.set()

    def shut(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    async def passed(self, instance: str, number: int) -> None:
        self.entered.append((instance, number))
        await self._open.wait()


class Orders:
    """Sends orders of accounts to a venue, once each, and keeps the positions that come of them."""

    def __init__(self, *, reconciles: bool = False) -> None:
        self.service = Service("orders")
        self.gate = Gate()
        self.positions: dict[str, int] = {}
        self.down: str | None = None
        self.venue_says: dict[int, Executed | NotExecuted] = {}
        self._define_methods()
        self._define_state()
        if reconciles:
            self.service.reconcile(self._ask_the_venue)

    def _define_methods(self) -> None:
        @self.service.method(effect="once")
        async def place(account: str, lots: int, ctx: Context) -> int:
            ctx.emit(Placed(account=account, lots=lots))
            await self.gate.passed(ctx.instance, lots)
            if lots < 0:
                raise ValueError("no short sales")
            return lots

        @self.service.method(effect="idempotent", retry=Retry(attempts=2, base_s=0.01, jitter=0.0))
        async def amend(number: int, ctx: Context) -> int:
            await self.gate.passed(ctx.instance, number)
            if self.down is not None:
                raise ConnectionError(self.down)
            return number

        @self.service.method(effect="pure")
        async def position(account: str) -> int:
            return self.positions.get(account, 0)

    def _define_state(self) -> None:
        @self.service.on(Placed)
        def placed(event: Placed) -> None:
            self.positions[event.account] = self.positions.get(event.account, 0) + event.lots

        @self.service.snapshot
        def taken() -> dict[str, int]:
            return self.positions

        @self.service.restore
        def restored(state: dict[str, int] | None) -> None:
            self.positions.clear()
            self.positions.update(state or {})

    async def _ask_the_venue(self, doubt: Doubt) -> Executed | NotExecuted | None:
        return self.venue_says.get(doubt.arguments["lots"])


class Desk:
    """A service that says whether it is well."""

    def __init__(self) -> None:
        self.service = Service("desk", max_running=4)
        self.gate = Gate()
        self.down: str | None = None

        @self.service.health(every_s=0.05)
        async def venue() -> str | None:
            return self.down

        @self.service.method(effect="once")
        async def send(number: int, ctx: Context) -> int:
            await self.gate.passed(ctx.instance, number)
            return number


class Rates:
    """A service for a pool."""

    POISON = 13

    def __init__(self) -> None:
        self.service = Service("rates")
        self.gate = Gate()
        self.is_mended = False

        @self.service.method(effect="idempotent")
        async def convert(amount: int, ctx: Context) -> int:
            if amount == self.POISON and not self.is_mended:
                self.gate.shut()  # until the scene has killed this worker
            await self.gate.passed(ctx.instance, amount)
            return amount * 10

        @self.service.method(effect="once")
        async def book(amount: int, ctx: Context) -> int:
            await self.gate.passed(ctx.instance, amount)
            return amount * 10
