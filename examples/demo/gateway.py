"""The order gateway of ``aegis demo --kill``: that of ``examples/orders.py``, and a venue that keeps a book.

What reaches the venue is written to a file of its own (:mod:`examples.demo.book`) before the call has an
outcome. That makes three things possible: a standby that takes over opens the accounts as the book has them,
it finds out whether a call in doubt was executed, and the demonstration can count what was executed without
asking the log.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from aegisipc.sdk import Context, Doubt, Executed, NotExecuted, Service, ServiceError
from examples import orders
from examples.demo.book import DIRECTORY, Book, ShutOut, book_of
from examples.orders import Ledger, Order, Position, Report, Status

gateway = Service("orders")

_books: Final[dict[str, Book]] = {}
_opened_in: Final[dict[str, int]] = {}
"""The epoch in which this process opened a group's accounts."""


def venue_of(ctx: Context) -> Book:
    """Return the group's book; in a new epoch, shut out the earlier ones and open the accounts from it."""
    book = _book(ctx.group)
    if _opened_in.get(ctx.group) != ctx.epoch:
        book.shut(ctx.epoch)
        orders.ledgers.clear()
        for report in book.entries:
            _replay(report)
        _opened_in[ctx.group] = ctx.epoch
    return book


def _book(group: str) -> Book:
    if group not in _books:
        _books[group] = book_of(Path(os.environ[DIRECTORY]), group)
    return _books[group]


def _replay(report: Report) -> None:
    ledger = orders.ledgers.setdefault(report.order.account, Ledger())
    if report.order.order_id not in ledger.reports:
        ledger.enter(report.model_copy())
    elif report.status is Status.CANCELLED:
        ledger.cancel(report.order.order_id)


def _enter(venue: Book, report: Report, ctx: Context) -> None:
    """Tell the venue. What a former holder of the group says too late is refused, and so its call."""
    try:
        venue.enter(ctx.epoch, report)
    except ShutOut as error:
        raise ServiceError(error.code, error.message, epoch=ctx.epoch) from error


@gateway.method
async def place(order: Order, ctx: Context) -> Report:
    """Place an order, and enter it in the venue's book."""
    venue = venue_of(ctx)
    report = await orders.place(order, ctx)
    _enter(venue, report, ctx)
    return report


@gateway.method(effect="idempotent")
async def cancel(account: str, order_id: str, ctx: Context) -> Report:
    """Cancel an order, here and at the venue."""
    venue = venue_of(ctx)
    report = await orders.cancel(account, order_id, ctx)
    known = venue.orders.get(report.execution_id)
    if known is None or known.status is not report.status:
        _enter(venue, report, ctx)
    return report


@gateway.method(effect="pure")
async def position(account: str, ctx: Context) -> Position:
    """Say where an account stands."""
    venue_of(ctx)
    return await orders.position(account, ctx)


@gateway.reconcile
def ask_the_venue(doubt: Doubt) -> Executed | NotExecuted:
    """Find out whether an order was executed that the former active instance had begun.

    That one may be frozen between its claim and the venue. So its epoch is shut out first: what the book does
    not have now, it will not have later.
    """
    venue = _book(doubt.group)
    venue.shut(doubt.claimed_epoch + 1)
    report = venue.placed_as(doubt.call_id)
    return NotExecuted("it is not in the venue's book") if report is None else Executed(report)
