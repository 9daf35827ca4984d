"""What a handler may know about the call it runs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, overload

from aegisipc.eventstore.ids import format_call_id
from aegisipc.sdk.running import Run
from aegisipc.sdk.transacting import TransactionUnsupported

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
    from sqlalchemy.orm import Session, sessionmaker


@dataclass(frozen=True, slots=True, eq=False)
class Context:
    """The call that is being run. A handler gets it by annotating a parameter with ``Context``.

    ``call_id`` is unique for ever and the same if the call is run again: use it as the client order id
    towards a venue. ``epoch`` rises with every change of the active instance: use it as a fencing token
    towards whatever you write to. ``resource_id`` is ``None`` for calls that keep no order.
    """

    service: str
    group: str
    instance: str
    method: str
    client: str
    resource_id: str | None
    epoch: int
    raw_call_id: bytes = field(repr=False)
    deadline_ns: int = field(repr=False)
    clock: Callable[[], int] = field(repr=False)
    sink: Callable[[object, str | None], None] = field(repr=False)
    run: Run | None = field(default=None, repr=False)

    @property
    def call_id(self) -> str:
        """The call's id, as ``client.attach`` takes it."""
        return format_call_id(self.raw_call_id)

    def emit(self, event: object, *, name: str | None = None) -> None:
        """Change the state that the members of the group share.

        The event is checked and encoded now, and applied by ``@service.on`` everywhere once the call has
        succeeded; if the handler fails, it is dropped. `name` is needed only if several types of event have
        values of one class (every TypedDict is a ``dict``)::

            @orders.method
            async def fill(symbol: str, quantity: int, ctx: Context) -> None:
                ctx.emit(Filled(symbol=symbol, quantity=quantity))

        Raises:
            EmitRefused: the shared state cannot take it, or the handler has ended.
            EmitLimitExceeded: over 256 events or 256 KiB in one call.
        """
        self.sink(event, name)

    def remaining_s(self) -> float:
        """Seconds until the caller's deadline, on the server's clock; negative once it has passed."""
        return (self.deadline_ns - self.clock()) / 1e9

    # -- cancelling -------------------------------------------------------------------------------------

    @property
    def cancelled(self) -> bool:
        """Whether the caller or an operator has cancelled the call. Handlers that are plain functions look at
        it now and then, from any thread; ``async`` ones are cancelled at their next ``await``.
        """
        return self.run is not None and self.run.is_cancelled

    def raise_if_cancelled(self) -> None:
        """End the handler here if the call has been cancelled.

        Raises:
            asyncio.CancelledError: it has. Leave it alone: that the handler ends by it is what makes the call
                a cancelled one.
        """
        if self.run is not None:
            self.run.raise_if_cancelled()

    # -- transaction ------------------------------------------------------------------------------------

    @overload
    def transaction(
        self, target: AsyncEngine | AsyncSession | async_sessionmaker[AsyncSession]
    ) -> AbstractAsyncContextManager[AsyncSession]: ...
    @overload
    def transaction(
        self, target: Engine | Session | sessionmaker[Session]
    ) -> AbstractContextManager[Session]: ...
    def transaction(self, target: Any) -> Any:
        """Make all changes to a database in one transaction with the outcome of the call.

        The call takes effect exactly once, however often it is run: whoever runs it again finds the outcome
        in the table ``aegis_effects`` of that database; the block is then left at once, and so is the
        handler. The commit comes when the handler has returned and its result is checked; if it raises, is
        cancelled, or its result is not valid, everything is rolled back. So do all work on the database
        within the block, and leave ``commit`` and ``rollback`` to AegisIPC::

            @accounts.method(effect="idempotent")
            async def credit(account: str, amount: Decimal, ctx: Context) -> Decimal:
                async with ctx.transaction(engine) as session:
                    found = await session.get_one(Account, account, with_for_update=True)
                    found.balance += amount
                    return found.balance

        In a handler that is a plain function it is ``with ctx.transaction(engine) as session``.

        Raises:
            TransactionUnsupported: the database, its driver or `target` cannot be used; nothing ran.
            TransactionMisused: there was a transaction in this call already, or the handler has ended.
        """
        if self.run is None:
            raise TransactionUnsupported("cannot open a transaction: this context is of no running call")
        return self.run.open_transaction(target)
