"""How long callers wait when the active instance of a group is killed: ``aegis bench failover``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from aegisipc.eventstore.cli import say
from aegisipc.eventstore.cli.ending import ended_by_sigterm
from aegisipc.eventstore.cli.output import print_json
from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.streams import open_log
from aegisipc.eventstore.subjects import subjects_of
from aegisipc.sdk import connect
from aegisipc.sdk.client import Client
from bench.chronicle import Chronicle
from bench.load import Call, Load
from bench.outages import Outages, described, outage_of
from bench.relay import RESOURCES, Relayed, started
from bench.scene import Kill, Plan, Scene, scene
from bench.workload import ORDER

NAMESPACE: Final = "default"

_BEFORE_S: Final = 0.5
_AFTER_S: Final = 0.5
_GOLDEN: Final = 0.618
_FAILOVER_S: Final = 30.0
_CALL_TIMEOUT_S: Final = 60.0
_SETTLE_S: Final = _CALL_TIMEOUT_S + 15.0
_MOST_OPEN: Final = 200_000
_INTERRUPTED: Final = 130

type Tell = Callable[[str], None]


class NoFailover(AegisError):
    """The active instance was killed, and nobody took over in time. Fields: ``victim``, ``epoch``."""

    code = "no_failover"


async def report(plan: Plan, *, as_json: bool) -> int:
    """Measure and print: one JSON line, or tables. Exit code 1 if a call was lost, or anything else wrong."""
    try:
        with ended_by_sigterm():
            outages = await measure(plan, say)
    except asyncio.CancelledError:
        say("stopped")
        return _INTERRUPTED
    if as_json:
        print_json(outages.to_json())
    else:
        print(described(outages))
    return 0 if outages.is_good else 1


async def measure(plan: Plan, tell: Tell) -> Outages:
    """Kill as often as planned, under load; then read from the log what happened.

    Raises:
        NoFailover: no standby took over.
        ChildFailed: a process ended by itself, or did not get ready.
    """
    async with scene(plan) as there:
        async with connect(there.url, name="bench", max_open=_MOST_OPEN, timeout_s=_CALL_TIMEOUT_S) as client:
            load = Load(_call(client, plan.effect), plan.rate)
            try:
                kills = [await _round(plan, there, load, number, tell) for number in range(plan.kills)]
            finally:
                await load.abandon()
        tell("reading the log")
        chronicle = await chronicled(there.url)
        began, again = await asyncio.to_thread(started, there.run_files)
    found = [outage_of(kill, chronicle.after(kill.epoch), load.first_reply_s) for kill in kills]
    unknown = sum(call_id in began for call_id in chronicle.doubts)
    return Outages(plan, found, chronicle, load, started_again=again, doubts_that_ran=unknown)


def _call(client: Client, effect: str) -> Call:
    target = f"relay.{effect}"

    async def call(number: int) -> Relayed:
        resource = RESOURCES[number % len(RESOURCES)]
        return await client.call(target, ORDER, resource_id=resource, returns=Relayed)

    return call


async def _round(plan: Plan, there: Scene, load: Load, number: int, tell: Tell) -> Kill:
    """Load, kill, load on until the standby has answered for a while; returns when all calls are over."""
    await there.complete()
    stop = asyncio.Event()
    pouring = asyncio.ensure_future(load.pour(stop))
    try:
        await asyncio.sleep(
            _BEFORE_S + plan.pulse_ms / 1000 * (number * _GOLDEN % 1)
        )  # any phase of the pulses
        active = load.latest or await _first_reply(load)
        kill = there.kill(active)
        epoch = await _taken_over(load, kill)
        waited_ms = (load.first_reply_s[epoch] - kill.at_s) * 1000
        tell(
            f"kill {number + 1} of {plan.kills}: {kill.victim}; its standby replied after {waited_ms:.1f} ms"
        )
        await asyncio.sleep(_AFTER_S)
    finally:
        stop.set()
        await pouring
    await load.settled(_SETTLE_S)
    return kill


async def _first_reply(load: Load) -> Relayed:
    await load.reply_after(0, _FAILOVER_S)
    assert load.latest is not None  # noqa: S101 - that is what it waited for
    return load.latest


async def _taken_over(load: Load, kill: Kill) -> int:
    try:
        return await load.reply_after(kill.epoch, _FAILOVER_S)
    except TimeoutError:
        raise NoFailover(
            f"cannot measure: {kill.victim} was killed, and no standby answered within {_FAILOVER_S:g} s; "
            "if this machine is overloaded, try a lower --rate",
            victim=kill.victim,
            epoch=kill.epoch,
        ) from None


async def chronicled(url: str) -> Chronicle:
    """Read the whole log by a connection of its own."""
    subjects, found = subjects_of(NAMESPACE), Chronicle()
    async with await Connection.open(ConnectOptions(url, name="aegis:bench:chronicle")) as connection:
        log = await open_log(connection, subjects)
        async for record in log.read([subjects.everything]):
            found.add(record, subjects)
    return found
