"""The clients: they play a flow, per account in order, as fast as `concurrency` allows.

Every account's desk sends its bursts one after another: the calls of a burst go out without waiting for each
other, and the next burst once all of them have their outcome. The desks of a group share a client, and all
desks share one for quotes; together they have at most `concurrency` calls in flight.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.ids import parse_call_id
from aegisipc.sdk import (
    CallError,
    CallExpired,
    CallFailed,
    CallInDoubt,
    Client,
    Pending,
    RemoteError,
    connect,
)
from examples.demo.flow import AskPosition, AskQuote, Cancel, Place, Step, groups_of
from examples.demo.tally import Ending, Seen, Tally
from examples.orders import Position, Report
from examples.quotes import Quote

RESULTS: Final[dict[str, type]] = {
    "orders.place": Report,
    "orders.cancel": Report,
    "orders.position": Position,
    "quotes.quote": Quote,
}
"""What each method returns."""

_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Call:
    """A step as a call. Quotes come from a pool: they are about no resource."""

    target: str
    args: tuple[Any, ...]
    resource_id: str | None


def call_of(step: Step) -> Call:
    """Return the call that a step stands for."""
    match step:
        case Place():
            return Call("orders.place", (step.order,), step.account)
        case Cancel():
            return Call("orders.cancel", (step.account, step.order_id), step.account)
        case AskPosition():
            return Call("orders.position", (step.account,), step.account)
        case AskQuote():
            return Call("quotes.quote", (step.symbol,), None)


def bursts_of(steps: Sequence[Step]) -> dict[str, list[list[Step]]]:
    """Return each account's bursts, in order."""
    by_account: dict[str, list[Step]] = {}
    for step in steps:
        by_account.setdefault(step.account, []).append(step)
    return {
        account: [list(burst) for _, burst in groupby(own, key=lambda step: step.at_ms)]
        for account, own in by_account.items()
    }


async def play(url: str, namespace: str, steps: Sequence[Step], tally: Tally, *, concurrency: int) -> None:
    """Play a flow to its end; `tally` has what came of every call.

    Raises:
        AegisError: the clients cannot connect. What happens to a call is in the tally.
    """
    async with AsyncExitStack() as stack:
        market = await stack.enter_async_context(connect(url, namespace=namespace, name="market-data"))
        gateways: dict[str, Client] = {}
        for group, accounts in groups_of(steps).items():
            client = await stack.enter_async_context(connect(url, namespace=namespace, name=f"desks-{group}"))
            gateways |= dict.fromkeys(accounts, client)
        room = asyncio.Semaphore(concurrency)
        tally.begin(time.perf_counter())
        async with asyncio.TaskGroup() as desks:
            for account, bursts in bursts_of(steps).items():
                desks.create_task(_Desk(gateways[account], market, room, tally).play(bursts))


class _Desk:
    """Plays one account."""

    def __init__(self, gateway: Client, market: Client, room: asyncio.Semaphore, tally: Tally) -> None:
        self._gateway = gateway
        self._market = market
        self._room = room
        self._tally = tally

    async def play(self, bursts: Sequence[Sequence[Step]]) -> None:
        for burst in bursts:
            async with asyncio.TaskGroup() as calls:
                for step in burst:
                    await (
                        self._room.acquire()
                    )  # here, and not in the task: calls go out in the order of the flow
                    self._tally.sent()
                    calls.create_task(self._call(call_of(step)))

    async def _call(self, call: Call) -> None:
        began_s = time.perf_counter()
        seen = await make_call(self._gateway if call.resource_id else self._market, call)
        self._room.release()
        now_s = time.perf_counter()
        self._tally.add(seen, now_s - began_s, now_s)


async def make_call(client: Client, call: Call) -> Seen:
    """Make one call and say what its caller saw."""
    try:
        pending: Pending = await client.submit(
            call.target,
            *call.args,
            resource_id=call.resource_id,
            timeout=_TIMEOUT_S,
            returns=RESULTS[call.target],
        )
    except CallError as error:  # sent, and never acknowledged
        return Seen(parse_call_id(error.call_id), call.target, Ending.UNANSWERED, code=error.code)
    except AegisError as error:
        return Seen(b"", call.target, Ending.NOT_ACCEPTED, code=error.code)
    call_id = parse_call_id(pending.call_id)
    try:
        value = await pending.result()
    except AegisError as error:
        return Seen(call_id, call.target, _ending_of(error), code=error.code)
    return Seen(call_id, call.target, Ending.SUCCEEDED, value)


def _ending_of(error: AegisError) -> Ending:
    match error:
        case RemoteError(code="unexpected_result"):  # it succeeded, with a result that is not ours to read
            return Ending.SUCCEEDED
        case CallFailed():
            return Ending.FAILED
        case CallExpired():
            return Ending.EXPIRED
        case CallInDoubt():
            return Ending.IN_DOUBT
        case _:
            return Ending.UNANSWERED
