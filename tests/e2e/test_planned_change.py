"""Changes that somebody wants: an instance is stopped, drained, quarantined, or says that it is not well."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest

from aegisipc.eventstore.events import (
    GroupPromoted,
    InstanceDraining,
    InstanceHealthy,
    InstanceLeft,
    InstanceReady,
    InstanceRegistered,
    InstanceUnhealthy,
    InstanceYielded,
)
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.lifecycles import InstanceState
from aegisipc.sdk import Client, Context, Service
from aegisipc.sdk.instance import Instance
from tests.e2e.drained import slow
from tests.e2e.kit import Place, Running
from tests.e2e.kit_log import said, states, topology_of, until_said
from tests.e2e.kit_operator import command
from tests.support.waiting import eventually

GROUP_OR_POOL = pytest.mark.parametrize("resources", [("x",), ()], ids=["group", "pool"])


class Desk:
    """A service with a health check. ``down`` says why it is not well; ``started`` is what it began."""

    def __init__(self) -> None:
        self.service = Service("desk")
        self.down: str | None = None
        self.checks = 0
        self.started: list[int] = []
        self.open = asyncio.Event()
        self.open.set()

        @self.service.health(every_s=0.02)
        async def venue() -> str | None:
            self.checks += 1
            return self.down

        @self.service.method(effect="once")
        async def send(number: int, ctx: Context) -> str:
            self.started.append(number)
            await self.open.wait()
            return ctx.instance

    async def is_checked_again(self) -> None:
        """A check has begun and ended from here on."""
        known = self.checks
        await eventually(lambda: self.checks > known + 1, within_s=5, what="another health check")


@asynccontextmanager
async def sending(client: Client, *resources: str) -> AsyncIterator[list[asyncio.Task[str]]]:
    """Send one call after another, from before the block to after it; the list gets them all."""
    calls: list[asyncio.Task[str]] = []
    enough = asyncio.Event()
    resource = resources[0] if resources else None

    async def send() -> None:
        while not enough.is_set():
            calls.append(
                asyncio.create_task(
                    client.call("desk.send", len(calls), resource_id=resource, returns=str, timeout=30)
                )
            )
            await asyncio.sleep(0.002)

    sender = asyncio.create_task(send())
    await eventually(lambda: sum(call.done() for call in calls) >= 10, within_s=10, what="the first answers")
    try:
        yield calls
    finally:
        enough.set()
        await sender


async def assert_all_is_well(place: Place, calls: int) -> None:
    """Every call has exactly one outcome, and it is a result."""
    counted = await place.recount()
    assert (counted.without, counted.several, counted.marks()) == ([], [], {Mark.SUCCEEDED: calls})
    assert max(counted.claims.values()) == 1


# -- leaving -------------------------------------------------------------------------------------------


async def test_a_holder_that_gets_sigterm_leaves_its_calls_to_the_standby(place: Place) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.e2e.drained", place.url, place.namespace),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONWARNINGS": "default"},
    )
    out = process.stdout
    assert out is not None

    async def line(text: bytes) -> None:
        async with asyncio.timeout(10):
            while text not in await out.readline():
                assert not out.at_eof()

    try:
        await line(b"ready")
        await place.serve(slow, "x", instance="standby")
        client = await place.client()
        calls = [await client.submit("slow.work", 200, resource_id="x", timeout=30) for _ in range(3)]
        await line(b"running")
        process.send_signal(signal.SIGTERM)
        assert [await call.result() for call in calls] == [200] * 3
        assert await asyncio.wait_for(process.wait(), 5) == 0
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
    await assert_all_is_well(place, 3)
    (promoted,) = [at.event for at in await said(place, GroupPromoted) if at.event.holder == "standby"]
    assert promoted.kind == "planned"
    counted = await place.recount()
    assert sorted(counted.writers.values()).count("standby") == 2


@GROUP_OR_POOL
async def test_an_instance_that_an_operator_drains_finishes_leaves_and_ends(
    place: Place, resources: tuple[str, ...]
) -> None:
    desks = {name: Desk() for name in ("a", "b")}
    leaving = Instance(desks["a"].service, place.options(*resources, instance="a", drain_timeout_s=5.0))
    run = asyncio.create_task(leaving.run())
    await until_said(place, InstanceReady, "a")
    await place.serve(desks["b"].service, *resources, instance="b")
    async with sending(await place.client(), *resources) as calls:
        await command(place, "drain", instance="a", reason="new version")
        async with asyncio.timeout(10):
            await run
        after = len(calls)
        await eventually(lambda: len(calls) > after + 10, within_s=5)
    answers = await asyncio.gather(*calls)
    assert set(answers) == {"a", "b"}
    assert set(answers[after:]) == {"b"}
    await assert_all_is_well(place, len(calls))
    cause = "drain requested by alice: new version"
    assert [at.event.cause for at in await said(place, InstanceDraining, "a")] == [cause]
    assert [at.event.cause for at in await said(place, InstanceLeft, "a")] == [cause]


async def test_an_instance_is_drained_even_if_it_is_the_last_one_when_that_is_forced(place: Place) -> None:
    instance = Instance(Desk().service, place.options("x", instance="a"))
    run = asyncio.create_task(instance.run())
    await until_said(place, InstanceReady, "a")
    await command(place, "drain", instance="a", force=True)
    async with asyncio.timeout(10):
        await run
    assert await states(place) == {"a": InstanceState.LEFT}


# -- handing over --------------------------------------------------------------------------------------


async def test_an_operator_hands_the_pen_over_and_back_and_no_call_is_lost_or_in_doubt(place: Place) -> None:
    desks = {name: Desk() for name in ("a", "b")}
    for name, desk in desks.items():
        await place.serve(desk.service, "x", instance=name)
    async with sending(await place.client(), "x") as calls:
        for name in ("b", "a"):
            known = len(desks[name].started)
            await command(place, "promote", service="desk", group="x", instance=name, reason="rehearsal")
            await eventually(lambda: len(desks[name].started) > known, within_s=10, what=name)  # noqa: B023
    await asyncio.gather(*calls)
    await assert_all_is_well(place, len(calls))
    yielded = await said(place, InstanceYielded)
    assert [(at.who, at.event.epoch) for at in yielded] == [("a", 1), ("b", 2)]
    promoted = [at.event for at in await said(place, GroupPromoted)]
    assert [(event.holder, event.kind, event.author) for event in promoted] == [
        ("a", "first", ""),
        ("b", "planned", "alice"),
        ("a", "planned", "alice"),
    ]


# -- health --------------------------------------------------------------------------------------------


@GROUP_OR_POOL
async def test_a_lone_instance_that_is_unhealthy_starts_nothing_until_it_is_well_again(
    place: Place, resources: tuple[str, ...]
) -> None:
    desk = Desk()
    await place.serve(desk.service, *resources, instance="a")
    client = await place.client()
    resource = resources[0] if resources else None
    assert await client.call("desk.send", 0, resource_id=resource) == "a"
    desk.down = "the venue is away"
    await until_said(place, InstanceUnhealthy, "a")
    call = asyncio.create_task(client.call("desk.send", 1, resource_id=resource, timeout=30))
    await eventually(lambda: client.open_calls == 1, within_s=5)
    await desk.is_checked_again()
    assert desk.started == [0]
    desk.down = None
    assert await asyncio.wait_for(call, 10) == "a"
    (unhealthy,) = await said(place, InstanceUnhealthy, "a")
    (healthy,) = await said(place, InstanceHealthy, "a")
    assert unhealthy.event.reason == "the venue is away"
    assert healthy.at_ns - unhealthy.at_ns >= 1_000_000_000
    await assert_all_is_well(place, 2)


async def test_what_runs_when_an_instance_turns_unhealthy_goes_on_to_its_outcome(place: Place) -> None:
    desk = Desk()
    desk.open.clear()
    await place.serve(desk.service, "x", instance="a")
    client = await place.client()
    call = asyncio.create_task(client.call("desk.send", 0, resource_id="x"))
    await eventually(lambda: desk.started == [0], within_s=5)
    desk.down = "the venue is away"
    await until_said(place, InstanceUnhealthy, "a")
    desk.open.set()
    assert await asyncio.wait_for(call, 5) == "a"


async def test_an_unhealthy_holder_finishes_yields_and_its_standby_takes_over(place: Place) -> None:
    first, second = Desk(), Desk()
    await place.serve(first.service, "x", instance="a")
    await place.serve(second.service, "x", instance="b")
    async with sending(await place.client(), "x") as calls:
        first.down = "the venue is away"
        await eventually(lambda: second.started, within_s=10, what="the standby's first call")
    answers = await asyncio.gather(*calls)
    assert answers == sorted(answers)  # "a" as long as it was well, "b" from then on
    assert first.started + second.started == list(range(len(calls)))
    await assert_all_is_well(place, len(calls))
    assert [at.event.epoch for at in await said(place, InstanceYielded, "a")] == [1]
    promoted = [at.event for at in await said(place, GroupPromoted)]
    assert [(event.holder, event.kind) for event in promoted] == [("a", "first"), ("b", "planned")]


async def test_a_standby_that_is_unhealthy_does_not_take_over(place: Place) -> None:
    first, second = Desk(), Desk()
    holder = await place.serve(first.service, "x", instance="a")
    await place.serve(second.service, "x", instance="b")
    second.down = "no licence"
    await until_said(place, InstanceUnhealthy, "b")
    await holder.leave()
    client = await place.client()
    call = asyncio.create_task(client.call("desk.send", 0, resource_id="x", timeout=30))
    await eventually(lambda: client.open_calls == 1, within_s=5)
    await second.is_checked_again()
    assert [at.event.holder for at in await said(place, GroupPromoted)] == ["a"]
    second.down = None
    assert await asyncio.wait_for(call, 10) == "b"


async def test_health_that_flaps_is_said_once_a_second_at_most(place: Place) -> None:
    desk = Desk()
    await place.serve(desk.service, "x", instance="a")
    flapping = asyncio.create_task(flap(desk))
    try:
        await until_said(place, InstanceHealthy, "a", times=2)
    finally:
        flapping.cancel()
    unhealthy = [at.at_ns for at in await said(place, InstanceUnhealthy, "a")]
    healthy = [at.at_ns for at in await said(place, InstanceHealthy, "a")]
    assert len(unhealthy) - len(healthy) in (0, 1)
    assert all(well - ill >= 1_000_000_000 for ill, well in zip(unhealthy, healthy, strict=False))
    words = sorted([(ns, "unhealthy") for ns in unhealthy] + [(ns, "healthy") for ns in healthy])
    assert all(one != other for (_, one), (_, other) in pairwise(words))


async def flap(desk: Desk) -> None:
    """Be well at every other check."""
    while True:
        await desk.is_checked_again()
        desk.down = None if desk.down else "now and then"


async def test_an_instance_that_is_unhealthy_from_the_start_is_not_ready_until_it_is_well(
    place: Place,
) -> None:
    desk = Desk()
    desk.down = "still warming up"
    joining = asyncio.create_task(place.serve(desk.service, "x", instance="a"))
    await desk.is_checked_again()
    assert await said(place, InstanceReady, "a") == []
    assert not joining.done()
    desk.down = None
    running = await asyncio.wait_for(joining, 5)
    assert running.host.me is not None
    assert running.host.me.is_ready
    assert await said(place, InstanceUnhealthy, "a") == []  # nobody had counted on it


async def test_an_instance_can_be_stopped_while_it_waits_to_be_well(place: Place) -> None:
    desk = Desk()
    desk.down = "still warming up"
    instance = Instance(desk.service, place.options("x", instance="a"))
    run = asyncio.create_task(instance.run())
    await desk.is_checked_again()
    instance.request_stop()
    async with asyncio.timeout(5):
        await run
    assert await states(place) == {"a": InstanceState.LEFT}


# -- quarantine ----------------------------------------------------------------------------------------


async def quarantined_call(place: Place, desk: Desk) -> tuple[Running, asyncio.Task[str]]:
    """An instance in quarantine that has read a call, and has not started it."""
    running = await place.serve(desk.service, "x", instance="a", quarantine=True)
    client = await place.client()
    call = asyncio.create_task(client.call("desk.send", 0, resource_id="x", returns=str, timeout=30))
    await eventually(lambda: running.host.pulse()["open"] == 1, within_s=5, what="an open call")
    return running, call


async def test_an_instance_in_quarantine_queues_calls_until_an_operator_resumes_its_group(
    place: Place,
) -> None:
    desk = Desk()
    _, call = await quarantined_call(place, desk)
    await desk.is_checked_again()
    assert desk.started == []
    await command(place, "resume", service="desk", group=None)
    assert await asyncio.wait_for(call, 5) == "a"
    await assert_all_is_well(place, 1)


async def test_an_instance_that_comes_back_is_still_in_quarantine(place: Place) -> None:
    desk = Desk()
    running, call = await quarantined_call(place, desk)
    former = running.incarnation
    await running.fall_silent()
    await eventually(lambda: running.incarnation not in ("", former), within_s=10, what="a new incarnation")
    await eventually(lambda: running.host.me is not None and running.host.me.is_ready, within_s=10)
    assert [at.event.quarantined for at in await said(place, InstanceRegistered, "a")] == [True, True]
    assert desk.started == []
    await command(place, "resume", service="desk", group=None)
    assert await asyncio.wait_for(call, 5) == "a"


async def test_a_quarantine_that_was_lifted_does_not_come_back(place: Place) -> None:
    desk = Desk()
    running, call = await quarantined_call(place, desk)
    await command(place, "resume", service="desk", group=None)
    assert await asyncio.wait_for(call, 5) == "a"
    former = running.incarnation
    await running.fall_silent()
    await eventually(lambda: running.incarnation not in ("", former), within_s=10, what="a new incarnation")
    registered = await until_said(place, InstanceRegistered, "a", times=2)
    assert [at.event.quarantined for at in registered] == [True, False]
    view = (await topology_of(place)).instance("desk", "x", "a")
    assert view is not None
    assert not view.quarantined
