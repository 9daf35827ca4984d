"""How an instance joins and leaves when things get in its way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from aegisipc.eventstore.events import InstanceRegistered, encode_event
from aegisipc.eventstore.lifecycles import InstanceState
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.streams import open_log
from aegisipc.eventstore.subjects import subjects_of
from aegisipc.eventstore.topology import Topology
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from aegisipc.sdk import Service
from aegisipc.sdk.errors import AckUnknown, ContractConflict, InstanceReplaced
from aegisipc.sdk.instance import Instance
from tests.e2e.kit import Place
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


async def records(place: Place) -> list[Record]:
    """What the log of the namespace holds now."""
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(await Connection.open(ConnectOptions(place.url)))
        subjects = subjects_of(place.namespace)
        log = await open_log(connection, subjects)
        return [record async for record in log.read([subjects.everything])]


async def states(place: Place) -> dict[str, InstanceState]:
    topology = Topology(subjects_of(place.namespace))
    for record in await records(place):
        topology.apply(record)
    return {i.id: i.state for group in topology.groups() for i in group.instances.values()}


def is_registered(instance: Instance) -> bool:
    return instance._host is not None and instance._host.me is not None


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
    say = instance._say

    async def say_and_be_overtaken(event: object, **options: float) -> int:
        seq = await say(event, **options)  # type: ignore[arg-type]
        if isinstance(event, InstanceRegistered):
            other = event.model_copy(update={"incarnation": "another"})
            site = instance._opened_site()
            subject = site.subjects.instance("orders", instance.group, "same")
            taken = await site.log.append(subject, encode_event(other))
            host = instance._joined_host()
            await eventually(lambda: host.pulse()["position"] >= taken.seq, within_s=5)
        return seq

    monkeypatch.setattr(instance, "_say", say_and_be_overtaken)
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
    assert instance._pulser is not None
    instance._pulser.cancel()  # it falls silent, and is taken for lost
    await eventually(lambda: instance._host is None, within_s=5)
    await place.serve(offering("put"), instance="new")
    joined.set()
    with pytest.raises(ContractConflict):
        async with asyncio.timeout(5):
            await running.task
    running.task = asyncio.create_task(asyncio.sleep(0))  # for whoever ends it
    registered = [
        r for r in await records(place) if r.subject.endswith(".old") and b"instance.registered" in r.payload
    ]
    assert len(registered) == 2


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


async def test_an_instance_whose_on_ready_raises_has_left_and_pulses_no_more(place: Place) -> None:
    def refuse(_: Instance) -> None:
        raise ValueError("not today")

    instance = Instance(offering("get"), place.options("x", instance="a", on_ready=refuse))
    with pytest.raises(ValueError, match="not today"):
        await instance.start()
    assert (instance._host, instance._pulser, instance._connection) == (None, None, None)
    assert await states(place) == {"a": InstanceState.LEFT}


async def test_a_signature_of_any_length_can_be_registered(place: Place) -> None:
    service = Service("wide")
    arguments = ", ".join(f"argument_{number}: int = 0" for number in range(200))
    scope: dict[str, Any] = {}
    exec(f"async def wide({arguments}) -> int: return 1", scope)
    service.method(effect="pure")(scope["wide"])
    running = await place.serve(service)
    me = running.instance._joined_host().me
    assert me is not None
    assert len(me.registration.contract["wide"].signature) == 1000
