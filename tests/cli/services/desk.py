"""A service for the tests of failover: it writes down every start, and takes its time if told so."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from pydantic import BaseModel

from aegisipc.sdk import Context, Service

desk = Service("desk")
_total = 0


class Booked(BaseModel):
    amount: int


def _note(what: str, ctx: Context) -> None:
    with Path(os.environ["TRACE"]).open("a", encoding="utf-8") as trace:
        trace.write(f"{what} {ctx.instance} {ctx.epoch}\n")


async def _hold(name: str) -> None:
    """Wait while there is a file of that name in the directory of the trace."""
    while (Path(os.environ["TRACE"]).parent / f"hold-{name}").exists():  # noqa: ASYNC110 - told by a file
        await asyncio.sleep(0.01)


@desk.method(effect="once")
async def order(number: int, ctx: Context) -> str:
    _note(f"order {number}", ctx)
    await _hold(str(number))
    return f"{number} by {ctx.instance}"


@desk.method(effect="idempotent")
async def book(amount: int, ctx: Context) -> str:
    ctx.emit(Booked(amount=amount))
    await _hold(f"{ctx.instance}")
    return ctx.instance


@desk.method(effect="idempotent")
async def poison(ctx: Context) -> None:
    _note("poison", ctx)
    os._exit(7)


@desk.method(effect="pure")
async def total() -> int:
    return _total


@desk.on(Booked)
def booked(event: Booked) -> None:
    global _total  # noqa: PLW0603 - the state of a process
    _total += event.amount


@desk.snapshot
def taken() -> int:
    return _total


@desk.restore
def restored(state: int | None) -> None:
    global _total  # noqa: PLW0603 - the state of a process
    _total = state or 0
