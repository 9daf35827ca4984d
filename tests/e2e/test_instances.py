"""How an instance joins and leaves when things get in its way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from aegisipc.eventstore.events import Event, GroupPromoted, InstanceLost, InstanceRegistered, encode_event
from aegisipc.eventstore.lifecycles import InstanceState
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from aegisipc.sdk import Service
from aegisipc.sdk.announcing import Announcer
from aegisipc.sdk.errors import AckUnknown, ContractConflict, InstanceReplaced
from aegisipc.sdk.hosts.base import RebuildNeeded
from aegisipc.sdk.instance import Instance
from tests.e2e.kit import Place, Running
from tests.e2e.kit_log import said, states, until_said
from tests.support.proxy import FaultyProxy
from tests.support.waiting import eventually


@pytest.fixture
async def without_router(shared_server: EmbeddedServer) -> AsyncIterator[Place]:
    """A fresh namespace whose log is there, and whose router is gone."""
    async with AsyncExitStack() as stack:
        found = Place(shared_server, stack)
        await (await found.router()).stop()
        yield found


def offering(*methods: str) -> Service:
    service = Service("orders")
    for method in methods:

        async def answer() -> int:
            return 1

        service.method(effect="pure", name=method)(answer)
    return service


def is_registered(instance: Instance) -> bool:
    return instance.incarnation is not None and instance.incarnation.me is not None


@pytest.mark.parametrize("resources", [(), ("x",)], ids=["pool", "owned"])
async def test_a_stop_while_joining_ends_the_wait_and_the_instance_has_left(
    without_router: Place, resources: tuple[str, ...]
) -> None:
    place = without_router
    instance = Instance(offering("get"), place.options(*resources, instance="a", join_timeout_s=60))
    running = asyncio.create_task(instance.run())
    await eventually(lambda: is_registered(instance), within_s=5)
    instance.request_stop()
    async with asyncio.timeout(5):
        await running
    assert await states(place) == {"a": InstanceState.LEFT}


async def test_an_instance_that_nobody_admits_leaves_when_it_gives_up(without_router: Place) -> None:
    with pytest.raises(AckUnknown, match="no router answered"):
        await without_router.serve(offering("get"), "x", instance="a", join_timeout_s=0.3)
    assert await states(without_router) == {"a": InstanceState.LEFT}


@pytest.mark.parametrize("resources", [(), ("x",)], ids=["pool", "owned"])
async def test_an_id_started_twice_at_once_tells_the_loser_at_once(
    without_router: Place, resources: tuple[str, ...]
) -> None:
    place = without_router
    options = place.options(*resources, instance="same", join_timeout_s=60)
    first, second = (Instance(offering("get"), options) for _ in range(2))
    losing = asyncio.create_task(first.start())
    await eventually(lambda: is_registered(first), within_s=5)
    joining = asyncio.create_task(second.start())
    with pytest.raises(InstanceReplaced, match="another process registered under that id"):
        async with asyncio.timeout(5):
            await losing
    await place.router()
    await joining
    assert await states(place) in ({"same": InstanceState.ACTIVE}, {"same": InstanceState.STANDBY})
    await second.stop()


async def test_of_instances_of_one_id_that_race_exactly_one_joins(place: Place) -> None:
    options = place.options("x", instance="same", join_timeout_s=60)
    instances = [Instance(offering("get"), options) for _ in range(4)]
    runs = [asyncio.create_task(instance.run()) for instance in instances]
    async with asyncio.timeout(20):
        while sum(not run.done() for run in runs) > 1:
            await asyncio.wait([r for r in runs if not r.done()], return_when=asyncio.FIRST_COMPLETED)
    ended = [run for run in runs if run.done()]
    assert [type(run.exception()) for run in ended] == [InstanceReplaced] * 3
    (survivor,) = (i for i, run in zip(instances, runs, strict=True) if not run.done())
    survivor.request_stop()
    await asyncio.gather(*runs, return_exceptions=True)


async def test_the_loser_is_told_even_if_its_own_registration_was_never_folded(
    without_router: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = without_router
    instance = Instance(offering("get"), place.options("x", instance="same", join_timeout_s=60))
    say = Announcer.say

    async def say_and_be_overtaken(announcer: Announcer, event: Event, *, patience_s: float) -> int:
        seq = await say(announcer, event, patience_s=patience_s)
        if isinstance(event, InstanceRegistered):
            other = event.model_copy(update={"incarnation": "another"})
            taken = await announcer._log.append(announcer._subject, encode_event(other))
            host = instance.joined().host
            await eventually(lambda: host.pulse()["position"] >= taken.seq, within_s=5)
        return seq

    monkeypatch.setattr(Announcer, "say", say_and_be_overtaken)
    with pytest.raises(InstanceReplaced):
        async with asyncio.timeout(5):
            await instance.start()


async def test_an_instance_that_was_lost_and_is_refused_ends_with_the_refusal(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = await place.serve(offering("get"), instance="old")
    instance = running.instance
    join = instance._join
    joined = asyncio.Event()

    async def join_late() -> None:
        await joined.wait()
        await join()

    monkeypatch.setattr(instance, "_join", join_late)
    await running.fall_silent()
    await eventually(lambda: instance.incarnation is None, within_s=5, what="it is taken for lost")
    await place.serve(offering("put"), instance="new")
    joined.set()
    with pytest.raises(ContractConflict):
        async with asyncio.timeout(5):
            await running.task
    running.task = asyncio.create_task(asyncio.sleep(0))  # for whoever ends it
    assert len(await said(place, InstanceRegistered, "old")) == 2


async def test_the_pauses_between_attempts_to_rejoin_double_up_to_half_a_minute(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = Instance(offering("get"), place.options())
    pauses: list[float] = []

    async def fail() -> None:
        raise AckUnknown("cannot join")

    async def pause(pause_s: float) -> None:
        pauses.append(pause_s)
        if len(pauses) == 7:
            instance.request_stop()

    monkeypatch.setattr(instance, "_join", fail)
    monkeypatch.setattr(instance, "_stopped_within", pause)
    await instance._rejoin()
    assert pauses == [1, 2, 4, 8, 16, 30, 30]


async def fail(running: Running, error: Exception) -> None:
    """Its host cannot go on; returns when another incarnation has joined."""
    former = running.incarnation
    running.host.failure = error
    running.host.signal.notify()
    await eventually(
        lambda: running.incarnation not in ("", former) and running.instance.joined()._duties,
        within_s=10,
        what="another incarnation, on duty",
    )


@pytest.mark.parametrize("resources", [(), ("x",)], ids=["pool", "owned"])
async def test_an_instance_whose_state_is_ahead_of_the_log_is_back_without_a_pause(
    place: Place, monkeypatch: pytest.MonkeyPatch, resources: tuple[str, ...]
) -> None:
    running = await place.serve(offering("get"), *resources, instance="a")
    pauses = watch_pauses(running.instance, monkeypatch)
    await fail(running, RebuildNeeded("cannot write: the pen went elsewhere"))
    client = await place.client()
    assert await client.call("orders.get", resource_id=next(iter(resources), None), returns=int) == 1
    assert pauses == [0]


async def test_an_instance_that_fails_soon_after_it_joined_again_and_again_takes_more_and_more_time(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = await place.serve(offering("get"), instance="a")
    pauses = watch_pauses(running.instance, monkeypatch)
    for _ in range(5):
        await fail(running, ValueError("a defect"))
    assert pauses == [0, 0, 1, 2, 4]


def watch_pauses(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that it makes from here on, which take no time."""
    pauses: list[float] = []

    async def pause(pause_s: float) -> None:
        pauses.append(pause_s)

    monkeypatch.setattr(instance, "_stopped_within", pause)
    return pauses


async def test_when_its_id_is_used_again_an_instance_ends_and_no_call_is_lost(place: Place) -> None:
    service = Service("orders")

    @service.method(effect="idempotent")
    async def put(number: int) -> int:
        await asyncio.sleep(0.001)
        return number

    ready = asyncio.Event()
    options = place.options("x", instance="same", on_ready=lambda _: ready.set())
    run = asyncio.create_task(Instance(service, options).run())
    await asyncio.wait_for(ready.wait(), 5)
    client = await place.client()
    calls = [asyncio.create_task(client.call("orders.put", n, resource_id="x")) for n in range(200)]
    await eventually(lambda: sum(call.done() for call in calls) > 10, within_s=5, what="the first answers")
    await place.serve(service, "x", instance="same")
    with pytest.raises(InstanceReplaced, match="give each process an id of its own") as caught:
        await asyncio.wait_for(run, 5)
    assert caught.value.instance == "same"
    assert await asyncio.gather(*calls) == list(range(200))
    counted = await place.recount()
    assert (len(counted.accepted), counted.without, counted.several) == (200, [], [])


async def test_an_instance_whose_on_ready_raises_has_left_and_pulses_no_more(place: Place) -> None:
    def refuse(_: Instance) -> None:
        raise ValueError("not today")

    instance = Instance(offering("get"), place.options("x", instance="a", on_ready=refuse))
    with pytest.raises(ValueError, match="not today"):
        await instance.start()
    assert (instance.incarnation, instance._connection) == (None, None)
    assert await states(place) == {"a": InstanceState.LEFT}


async def test_a_signature_of_any_length_can_be_registered(place: Place) -> None:
    service = Service("wide")
    arguments = ", ".join(f"argument_{number}: int = 0" for number in range(200))
    scope: dict[str, Any] = {}
    exec(f"async def wide({arguments}) -> int: return 1", scope)
    service.method(effect="pure")(scope["wide"])
    running = await place.serve(service)
    me = running.host.me
    assert me is not None
    assert len(me.registration.contract["wide"].signature) == 1000


@pytest.mark.parametrize("is_lost", [False, True], ids=["suspected", "lost"])
async def test_a_holder_that_was_cut_off_is_soon_a_standby_that_can_take_over_again(
    place: Place, is_lost: bool
) -> None:
    async with FaultyProxy(place.url) as proxy, AsyncExitStack() as stack:
        there = Place(place.server, stack)
        there.url, there.namespace = proxy.url, place.namespace
        cut_off = await there.serve(offering("get"), "x", instance="a")
        other = await place.serve(offering("get"), "x", instance="b")
        proxy.blackhole()
        if is_lost:
            await until_said(place, InstanceLost)
        else:
            await until_said(place, GroupPromoted, times=2)
        proxy.heal()
        await eventually(lambda: is_standby(cut_off), within_s=15, what="a standby again")
        await other.leave()
        client = await place.client()
        assert await client.call("orders.get", resource_id="x", returns=int, timeout=10) == 1
    holders = [at.event.holder for at in await said(place, GroupPromoted)]
    assert holders == ["a", "b", "a"]


def is_standby(running: Running) -> bool:
    present = running.instance.incarnation
    return present is not None and present.me is not None and present.me.state is InstanceState.STANDBY
