"""What happens in the golden histories. Each scene plays in a namespace of its own, which one router serves.

A scene waits for what it needs to have happened, never for time to pass.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.frames import Mark, decode_pen
from aegisipc.eventstore.lifecycles import RouterState
from aegisipc.eventstore.subjects import CANCEL, DEAD, subjects_of
from aegisipc.sdk import Client, Executed, NotExecuted
from aegisipc.sdk.core.member import GroupMember
from aegisipc.sdk.errors import (
    CallCancelled,
    CallExpired,
    CallInDoubt,
    DeadLettered,
    IdempotencyConflict,
    InstanceRefused,
    RemoteError,
    ResourceConflict,
)
from aegisipc.sdk.hosts.owned import OwnedHost
from aegisipc.sdk.pending import Pending
from tests.e2e.kit import Place, Running
from tests.e2e.kit_log import records, until_said
from tests.e2e.kit_operator import ask, command
from tests.golden.cast import Desk, Gate, Orders, Rates
from tests.support.waiting import eventually

SOON_S: Final = 30.0
ACCOUNT: Final = "acc_1"
OTHER_ACCOUNT: Final = "acc_2"


async def tell(place: Place, service: str, group: str, what: str, **more: Any) -> dict[str, Any]:
    """What operator ``ann`` tells the holder of a pen; it must not refuse."""
    told: dict[str, Any] = {"command": what, **more}
    if what != "check":
        told = {"author": "ann", "reason": "seen at the venue", **told}
    answer = await ask(place, subjects_of(place.namespace).tell(service, group), **told)
    assert answer.get("ok") is True, answer
    return answer


async def entered(gate: Gate, number: int) -> None:
    """The handler of that number has begun."""
    await eventually(
        lambda: any(found == number for _, found in gate.entered), within_s=SOON_S, what=f"start of {number}"
    )


async def fails(call: Pending, error: type[Exception]) -> None:
    """The call ends with this error."""
    try:
        await call.result(SOON_S)
    except error:
        return
    raise AssertionError(f"{call.call_id} did not end with {error.__name__}")


async def order(client: Client, lots: int, *, of: str = ACCOUNT, **options: Any) -> Pending:
    """Have an order placed."""
    return await client.submit("orders.place", of, lots, resource_id=of, timeout=60, **options)


# -- a failover ------------------------------------------------------------------------------------------


async def failover(place: Place) -> None:
    """The active instance is killed while it places an order; an operator says what became of that one."""
    first, second = Orders(), Orders()
    active = await place.serve(first.service, ACCOUNT, instance="orders-a", pulse_ms=250)
    standby = await place.serve(second.service, ACCOUNT, instance="orders-b", pulse_ms=250)
    _member_of(active).snapshots.every = 10
    client = await place.client(name="strategy")
    await _quiet_trading(place, client, first)
    first.gate.shut()
    doubtful = await order(client, 7, idempotency_key="order-7")
    await entered(first.gate, 7)
    behind = [await order(client, lots) for lots in (8, 9)]
    beside = [await client.submit("orders.amend", n, resource_id=ACCOUNT, timeout=60) for n in (1, 2)]
    await active.kill()
    await fails(doubtful, CallInDoubt)
    assert [await call.result(SOON_S) for call in (*behind, *beside)] == [8, 9, 1, 2]
    group = standby.instance.group
    await tell(place, "orders", group, "resolve", call_id=doubtful.call_id, executed=True, result=7)
    assert await doubtful.settled(SOON_S) == 7
    assert await (await order(client, 7, idempotency_key="order-7")).result(SOON_S) == 7
    await until_said(place, ev.InstanceLost)
    await place.serve(Orders().service, ACCOUNT, instance="orders-a", pulse_ms=250)
    await tell(place, "orders", group, "check")
    for lots in range(20, 26):
        assert await (await order(client, lots)).result(SOON_S) == lots


def _member_of(running: Running) -> GroupMember:
    host = running.host
    assert isinstance(host, OwnedHost)
    return host.member


async def _quiet_trading(place: Place, client: Client, orders: Orders) -> None:
    """Calls that succeed, fail, expire, are cancelled, and one that was made before."""
    for lots in range(1, 6):
        assert await (await order(client, lots)).result(SOON_S) == lots
    await fails(await order(client, -1), RemoteError)
    first = await order(client, 6, idempotency_key="order-6", priority="high")
    assert await first.result(SOON_S) == 6
    assert await (await order(client, 6, idempotency_key="order-6")).result(SOON_S) == 6
    await fails(await order(client, 66, idempotency_key="order-6"), IdempotencyConflict)
    orders.gate.shut()
    running = await order(client, 10)
    await entered(orders.gate, 10)
    late = await client.submit("orders.amend", 3, resource_id=ACCOUNT, timeout=0.3)
    unwanted = await order(client, 11, idempotency_key="order-11")
    await unwanted.cancel("wrong account")
    await fails(unwanted, CallCancelled)
    await fails(late, CallExpired)
    orders.gate.open()
    assert await running.result(SOON_S) == 10
    assert await client.call("orders.position", ACCOUNT, resource_id=ACCOUNT) == 31
    await _refused_rival(place)


async def _refused_rival(place: Place) -> None:
    """Another group wants the same account."""
    with suppress(ResourceConflict, InstanceRefused):
        await place.serve(Orders().service, ACCOUNT, instance="rival", group="rivals", pulse_ms=250)
        raise AssertionError("the rival was admitted")


# -- doubts ----------------------------------------------------------------------------------------------


async def doubt(place: Place) -> None:
    """Calls in doubt, and the ways out: the service's own word, evidence, an operator, a cancellation."""
    await _doubts_of_a_group(place)
    await _doubt_of_a_pool(place)


async def _doubts_of_a_group(place: Place) -> None:
    client = await place.client(name="strategy")
    former, heir = Orders(), Orders(reconciles=True)
    holder = await _orders(place, former, "orders-0")
    answers: list[Executed | NotExecuted] = [Executed(1), NotExecuted("the venue has no such order")]
    for lots, answer in enumerate(answers, start=1):
        heir.venue_says = {lots: answer}
        former.gate.shut()
        standby = await _orders(place, heir, f"orders-{lots}")
        call = await order(client, lots)
        unwanted = await order(client, lots + 10, of=OTHER_ACCOUNT, idempotency_key=f"order-{lots}")
        for number in (lots, lots + 10):
            await entered(former.gate, number)
        await holder.kill()
        for doubtful in (call, unwanted):
            await fails(doubtful, CallInDoubt)
        assert await call.settled(SOON_S) == lots
        await _cancelled_as_not_executed(place, unwanted, "orders", "book")
        former, holder, heir = heir, standby, Orders(reconciles=True)
    await _orders(place, heir, "orders-3")
    former.gate.shut()
    call = await order(client, 3)
    await entered(former.gate, 3)
    await holder.fall_silent()
    await fails(call, CallInDoubt)
    former.gate.open()
    assert await call.settled(SOON_S) == 3


async def _orders(place: Place, orders: Orders, name: str) -> Running:
    return await place.serve(
        orders.service, ACCOUNT, OTHER_ACCOUNT, group="book", instance=name, pulse_ms=250
    )


async def _cancelled_as_not_executed(place: Place, call: Pending, service: str, group: str) -> None:
    """Somebody wants a call in doubt cancelled; the request stands until an operator says it did not run."""
    known = await _requests_to_cancel(place)
    cancelling = asyncio.ensure_future(call.cancel("booked by telephone", timeout=SOON_S))
    async with asyncio.timeout(SOON_S):
        while await _requests_to_cancel(place) == known:  # noqa: ASYNC110 - what others write
            await asyncio.sleep(0.01)
    await tell(place, service, group, "resolve", call_id=call.call_id, executed=False)
    await cancelling


async def _requests_to_cancel(place: Place) -> int:
    subjects = subjects_of(place.namespace)
    return sum(subjects.parse(record.subject).kind == CANCEL for record in await records(place))


async def _doubt_of_a_pool(place: Place) -> None:
    client = await place.client(name="desk")
    first = Rates()
    worker = await place.serve(first.service, instance="rates-1", pulse_ms=250)
    first.gate.shut()
    once = await client.submit("rates.book", 5, timeout=60)
    unwanted = await client.submit("rates.book", 6, timeout=60, idempotency_key="booking-6")
    for number in (5, 6):
        await entered(first.gate, number)
    await place.serve(Rates().service, instance="rates-2", pulse_ms=250)
    await worker.kill()
    for call in (once, unwanted):
        await fails(call, CallInDoubt)
    await _cancelled_as_not_executed(place, unwanted, "rates", "_pool")
    await tell(place, "rates", "_pool", "resolve", call_id=once.call_id, executed=False)
    assert await once.settled(SOON_S) == 50


# -- a rolling restart -----------------------------------------------------------------------------------


async def rolling_restart(place: Place) -> None:
    """Every instance and the leading router are replaced, one by one, under calls that all succeed."""
    desks: dict[str, Desk] = {}
    running = {name: await _desk(place, desks, name) for name in ("desk-a", "desk-b")}
    workers = {name: await _worker(place, name) for name in ("rates-1", "rates-2")}
    client = await place.client(name="strategy")

    async def calls(first: int) -> None:
        for number in range(first, first + 3):
            sent = await client.submit("desk.send", number, resource_id="x", timeout=60)
            assert await sent.result(SOON_S) == number
            assert await client.call("rates.convert", number, timeout=60) == number * 10

    await calls(100)
    await command(place, "promote", service="desk", group="x", instance="desk-b", reason="restart of desk-a")
    await until_said(place, ev.GroupPromoted, times=2)
    await calls(200)
    await _restarted(place, running, "desk-a", partial(_desk, place, desks, "desk-a"))
    await calls(300)
    await _unwell(place, desks["desk-b"])
    await calls(400)
    await _restarted(place, running, "desk-b", partial(_desk, place, desks, "desk-b"))
    await calls(500)
    for name in workers:
        await _restarted(place, workers, name, partial(_worker, place, name))
    await calls(600)
    await _another_router(place)
    for verb in ("pause", "resume"):
        await command(place, verb, service="desk", group="x", reason="end of the restart")
    await calls(700)
    for name in ("desk-a", "desk-b"):
        await running[name].leave()
    await until_said(place, ev.GroupVacated)


async def _desk(place: Place, desks: dict[str, Desk], name: str) -> Running:
    desks[name] = Desk()
    return await place.serve(desks[name].service, "x", instance=name, group="x", pulse_ms=250)


async def _worker(place: Place, name: str) -> Running:
    return await place.serve(Rates().service, instance=name, pulse_ms=250)


async def _restarted(
    place: Place, running: dict[str, Running], name: str, start: Callable[[], Awaitable[Running]]
) -> None:
    """It is drained, leaves, and comes back."""
    known = len(await until_said(place, ev.InstanceLeft, times=0))
    await command(place, "drain", instance=name, reason="new version")
    await running[name].task
    await running[name].instance.stop()
    await until_said(place, ev.InstanceLeft, times=known + 1)
    running[name] = await start()


async def _unwell(place: Place, holder: Desk) -> None:
    """The holder is not well for a while; the other one takes over."""
    known = len(await until_said(place, ev.GroupPromoted))
    holder.down = "the venue is away"
    await until_said(place, ev.GroupPromoted, times=known + 1)
    holder.down = None
    await until_said(place, ev.InstanceHealthy)


async def _another_router(place: Place) -> None:
    """The leader resigns, and the next one takes the lead."""
    former = place.routers[0]
    following = await place.router(id="router-2", policy=former.options.policy)
    await former.stop()
    await eventually(lambda: following.phase is RouterState.LEADING, within_s=SOON_S, what="the next leader")


# -- a poison call ---------------------------------------------------------------------------------------


async def poison_call(place: Place) -> None:
    """A call takes down three workers of a pool and is given up; it is requeued when the service is mended.
    Calls of a group fail for good, too: one is requeued, one discarded.
    """
    await _poisoned_pool(place)
    await _letters_of_a_group(place)


async def _poisoned_pool(place: Place) -> None:
    client = await place.client(name="desk")
    count = 0
    pool: list[tuple[Rates, Running]] = []

    async def hire() -> None:
        nonlocal count
        count += 1
        rates = Rates()
        pool.append((rates, await place.serve(rates.service, instance=f"rates-{count}", pulse_ms=250)))

    await hire()
    await hire()
    call = await client.submit("rates.convert", Rates.POISON, timeout=120)
    given_up = asyncio.ensure_future(fails(call, DeadLettered))
    while not given_up.done():
        for one in [one for one in pool if any(number == Rates.POISON for _, number in one[0].gate.entered)]:
            pool.remove(one)
            await one[1].kill()
            await hire()
        await asyncio.sleep(0.01)
    await given_up
    for rates, _ in pool:
        rates.is_mended = True
    assert await client.call("rates.convert", 1, timeout=60) == 10
    await tell(place, "rates", "_pool", "requeue", call_id=call.call_id)
    await _until_requeued(place)
    assert await (await client.attach(call.call_id)).settled(SOON_S) == Rates.POISON * 10


async def _until_requeued(place: Place) -> None:
    """Whoever takes the call says so; until then it is still a dead letter for whoever asks."""
    subjects = subjects_of(place.namespace)
    async with asyncio.timeout(SOON_S):
        while True:
            dead = [r for r in await records(place) if subjects.parse(r.subject).kind == DEAD]
            if any(mark is Mark.REQUEUED for r in dead for mark, _ in decode_pen(r.payload).entries):
                return
            await asyncio.sleep(0.01)


async def _letters_of_a_group(place: Place) -> None:
    client = await place.client(name="strategy")
    orders = Orders()
    await place.serve(orders.service, ACCOUNT, instance="orders-a", group=ACCOUNT, pulse_ms=250)
    orders.down = "the venue does not answer"
    letters = [await client.submit("orders.amend", n, resource_id=ACCOUNT, timeout=60) for n in (1, 2)]
    for letter in letters:
        await fails(letter, DeadLettered)
    orders.down = None
    await tell(place, "orders", ACCOUNT, "requeue", call_id=letters[0].call_id)
    assert await (await client.attach(letters[0].call_id)).settled(SOON_S) == 1
    await tell(place, "orders", ACCOUNT, "discard", call_id=letters[1].call_id)


SCENES: Final[dict[str, Callable[[Place], Awaitable[None]]]] = {
    "failover": failover,
    "doubt": doubt,
    "rolling-restart": rolling_restart,
    "poison-call": poison_call,
}
"""By the name of the history that they give."""
