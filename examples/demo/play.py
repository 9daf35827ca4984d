"""The clients: they play a flow, per account in order, as fast as `concurrency` allows.

Every account's desk sends its bursts one after another: the calls of a burst go out without waiting for each
other, and the next burst once all of them have their outcome. The desks of a group share a client, and all
desks share one for quotes; together they have at most `concurrency` calls in flight.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.ids import parse_call_id
from aegisipc.sdk import (
    CallCancelled,
    CallError,
    CallExpired,
    CallFailed,
    CallInDoubt,
    CallTimeout,
    Client,
    DeadLettered,
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
_DOUBT_S: Final = 5.0
"""How long the caller of a call in doubt waits for somebody to find out."""

type MaySend = Callable[[Step], Awaitable[None]]
"""Returns when a step may be sent."""


async def _at_once(_step: Step) -> None:
    """Nothing is held back."""


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


async def play(
    url: str,
    namespace: str,
    steps: Sequence[Step],
    tally: Tally,
    *,
    concurrency: int,
    may_send: MaySend = _at_once,
) -> None:
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
                desk = _Desk(gateways[account], market, room, tally, may_send)
                desks.create_task(desk.play(bursts))


class _Desk:
    """Plays one account."""

    def __init__(
        self, gateway: Client, market: Client, room: asyncio.Semaphore, tally: Tally, may_send: MaySend
    ) -> None:
        self._gateway = gateway
        self._market = market
        self._room = room
        self._tally = tally
        self._may_send = may_send

    async def play(self, bursts: Sequence[Sequence[Step]]) -> None:
        for burst in bursts:
            async with asyncio.TaskGroup() as calls:
                for step in burst:
                    await self._may_send(step)
                    await (
                        self._room.acquire()
                    )  # here, and not in the task: calls go out in the order of the flow
                    self._tally.sent()
                    calls.create_task(self._call(call_of(step)))

    async def _call(self, call: Call) -> None:
        began_s = time.perf_counter()
        seen = await make_call(self._gateway if call.resource_id else self._market, call, _DOUBT_S)
        self._room.release()
        now_s = time.perf_counter()
        self._tally.add(seen, now_s - began_s, now_s)


async def make_call(client: Client, call: Call, doubt_s: float = 0.0) -> Seen:
    """Make one call and say what its caller saw; a doubt is its last word after `doubt_s` seconds."""
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
        value = await _final(pending, doubt_s)
    except AegisError as error:
        return Seen(call_id, call.target, _ending_of(error), code=error.code)
    return Seen(call_id, call.target, Ending.SUCCEEDED, value)


async def _final(pending: Pending, doubt_s: float) -> Any:
    """Return the result; if it is in doubt, wait on for so long until somebody finds out."""
    try:
        return await pending.result()
    except CallInDoubt as doubt:
        if not doubt_s:
            raise
        try:
            return await pending.settled(doubt_s)
        except CallTimeout:
            raise doubt from None


_ENDINGS: Final[tuple[tuple[type[AegisError], Ending], ...]] = (
    (DeadLettered, Ending.DEAD_LETTERED),
    (CallFailed, Ending.FAILED),
    (CallExpired, Ending.EXPIRED),
    (CallCancelled, Ending.CANCELLED),
    (CallInDoubt, Ending.IN_DOUBT),
)


def _ending_of(error: AegisError) -> Ending:
    if isinstance(error, RemoteError) and error.code == "unexpected_result":
        return Ending.SUCCEEDED  # with a result that is not ours to read
    return next((ending for kind, ending in _ENDINGS if isinstance(error, kind)), Ending.UNANSWERED)
