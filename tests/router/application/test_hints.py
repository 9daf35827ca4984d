"""A router that is told more than pulses tell: what follows from a connection that ended, and from probes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, Final

import pytest

from aegisipc.eventstore.errors import BadCredentials
from aegisipc.eventstore.events import (
    GroupPromoted,
    InstanceLost,
    InstanceRecovered,
    InstanceSuspected,
)
from aegisipc.eventstore.lifecycles import InstanceState
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.router.application.router import Router, RouterOptions
from aegisipc.router.domain.decide import Policy
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from aegisipc.sdk import Service
from tests.e2e.kit import Place
from tests.e2e.kit_log import said, states, until_said
from tests.support.proxy import FaultyProxy
from tests.support.waiting import eventually

PATIENT: Final = Policy(suspect_after_ms=20_000, lost_after_ms=40_000, leader_after_ms=20_000)
"""Whoever is suspected within the time of a test, is so by a hint and not by silence."""

_PROGRAM: Final = """
import sys
from aegisipc.sdk import Service
url, namespace, instance = sys.argv[1:]
service = Service("orders")
@service.method(effect="pure")
async def get() -> str:
    return instance
service.run(url=url, namespace=namespace, instance=instance, resources=["x"],
            on_ready=lambda _: print("ready", flush=True))
"""


def orders(answer: str) -> Service:
    service = Service("orders")

    @service.method(effect="pure")
    async def get() -> str:
        return answer

    return service


@pytest.fixture
async def place(shared_server: EmbeddedServer) -> AsyncIterator[Place]:
    """A fresh namespace on the shared server, without a router."""
    async with AsyncExitStack() as stack:
        yield Place(shared_server, stack)


async def hearing(place: Place, **options: Any) -> Router:
    """A patient router that listens to the system account, and does not probe."""
    settings = {"system_url": place.server.system_url, "policy": PATIENT, "probe_ms": 0, **options}
    return await place.router(**settings)


@asynccontextmanager
async def member_process(place: Place, instance: str) -> AsyncIterator[subprocess.Popen[str]]:
    """A process that serves the group x."""
    program = [sys.executable, "-c", _PROGRAM, place.url, place.namespace, instance]
    with subprocess.Popen(  # noqa: ASYNC220 - it starts at once; what waits is in a thread
        program, stdout=subprocess.PIPE, text=True
    ) as popen:
        try:
            assert popen.stdout is not None
            assert await asyncio.to_thread(popen.stdout.readline) == "ready\n"
            yield popen
        finally:
            popen.kill()


def system_url_by(proxy: FaultyProxy, server: EmbeddedServer) -> str:
    return f"{server.system_url.rpartition('@')[0]}@{proxy.url.removeprefix('nats://')}"


# -- connections that ended ----------------------------------------------------------------------------


async def test_the_standby_of_a_process_that_is_killed_is_promoted_without_waiting_for_silence(
    place: Place,
) -> None:
    router = await hearing(place)
    client = await place.client()
    async with member_process(place, "one") as active:
        await place.serve(orders("two"), "x", instance="two")
        assert await client.call("orders.get", resource_id="x", returns=str) == "one"
        active.kill()
        assert await client.call("orders.get", resource_id="x", returns=str, timeout=10) == "two"
        suspected = (await until_said(place, InstanceSuspected))[0].event
        assert (suspected.instance, suspected.source) == ("one", "disconnect")
        assert suspected.silence_ms < PATIENT.suspect_after_ms
        lost = (await until_said(place, InstanceLost))[0].event
        assert (lost.instance, lost.source) == ("one", "disconnect")
    promoted = await said(place, GroupPromoted)
    assert [found.event.holder for found in promoted] == ["one", "two"]
    assert router.status()["disconnects"]["told"] == 1


async def test_one_that_connects_again_is_not_lost_and_bears_no_mark(place: Place) -> None:
    router = await hearing(place)
    async with FaultyProxy(place.url) as proxy, AsyncExitStack() as stack:
        there = Place(place.server, stack)
        there.url, there.namespace = proxy.url, place.namespace
        running = await there.serve(orders("one"), "x", instance="one")
        key = ("orders", "x", "one")
        await eventually(lambda: key in router.board.instances, within_s=5)
        await proxy.reset()
        await until_said(place, InstanceSuspected)
        await until_said(place, InstanceRecovered)
        assert router.board.disconnected(key, running.incarnation) is None
        assert (await states(place))["one"] in {InstanceState.STANDBY, InstanceState.ACTIVE}
        assert await said(place, InstanceLost) == []


async def test_one_that_leaves_is_neither_suspected_nor_lost(place: Place) -> None:
    router = await hearing(place)
    first = await place.serve(orders("one"), "x", instance="one")
    await place.serve(orders("two"), "x", instance="two")
    await first.leave()
    await eventually(lambda: router.status()["disconnects"]["told"] == 1, within_s=5)
    assert (await until_said(place, GroupPromoted, times=2))[-1].event.holder == "two"
    assert await said(place, InstanceSuspected) == []
    assert (await states(place))["one"] is InstanceState.LEFT


async def test_a_restart_of_the_server_is_no_fault_of_the_instances(nats_server: EmbeddedServer) -> None:
    async with AsyncExitStack() as stack:
        place = Place(nats_server, stack)
        router = await hearing(place)
        await place.serve(orders("one"), "x", instance="one")
        client = await place.client()
        await nats_server.restart()
        assert await client.call("orders.get", resource_id="x", returns=str, timeout=20) == "one"
        await eventually(lambda: router.status()["system_account"], within_s=10)
        assert await said(place, InstanceSuspected) == []


async def test_a_server_that_freezes_until_everybody_has_left_it_accuses_nobody_when_it_thaws(
    nats_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It finds the former connections closed, and tells a router that has stayed, while their owners are
    connecting again.
    """
    for place_of_use in ("router.infrastructure.disconnects", "router.application.router"):
        patient = partial(ConnectOptions, ping_interval_s=60)
        monkeypatch.setattr(f"aegisipc.{place_of_use}.ConnectOptions", patient)
    async with AsyncExitStack() as stack:
        place = Place(nats_server, stack)
        policy = Policy(suspect_after_ms=4000, lost_after_ms=8000)
        router = await hearing(place, policy=policy)
        members = [await place.serve(orders(name), "x", instance=name) for name in ("one", "two")]
        connections = [member.instance._connection for member in members]
        former = {key: pulse.report["cid"] for key, pulse in router.board.instances.items()}
        nats_server.freeze()
        for connection in connections:
            await eventually(lambda it=connection: not it.is_connected, within_s=20)  # type: ignore[misc]
        nats_server.thaw()
        await eventually(lambda: router.status()["disconnects"]["told"] >= 2, within_s=20)
        for key, cid in former.items():
            await eventually(
                lambda k=key, c=cid: router.board.instances[k].report["cid"] != c,  # type: ignore[misc]
                within_s=20,
            )
        assert await said(place, InstanceSuspected) == []
        assert len(await said(place, GroupPromoted)) == 1


async def test_a_router_that_loses_the_system_account_goes_on_by_the_pulses(place: Place) -> None:
    async with FaultyProxy(place.url) as proxy:
        url = system_url_by(proxy, place.server)
        router = await place.router(system_url=url, probe_ms=0)
        assert router.status()["system_account"] is True
        one = await place.serve(orders("one"), "x", instance="one")
        await place.serve(orders("two"), "x", instance="two")
        await proxy.refuse()
        await proxy.reset()
        await eventually(lambda: router.status()["system_account"] is False, within_s=5)
        await one.vanish()
        suspected = (await until_said(place, InstanceSuspected))[0].event
        assert (suspected.instance, suspected.source) == ("one", "silence")
        assert (await until_said(place, GroupPromoted, times=2))[-1].event.holder == "two"
        assert router.failure is None
        await proxy.listen()
        await eventually(lambda: router.status()["system_account"], within_s=10)


async def test_a_router_without_the_system_account_says_so(place: Place) -> None:
    status = (await place.router()).status()
    assert status["system_account"] is False
    assert status["disconnects"] == {"told": 0, "ignored": 0, "unreadable": 0}


async def test_wrong_credentials_for_the_system_account_keep_a_router_from_starting(place: Place) -> None:
    url = place.url.replace("nats://", "nats://sys:wrong@")
    options = RouterOptions(place.url, place.namespace, system_url=url)
    assert "wrong" not in repr(options)
    router = Router(options)
    with pytest.raises(BadCredentials, match="cannot use the system account"):
        await router.start()
    assert router.phase == "stopped"


# -- probes --------------------------------------------------------------------------------------------


async def test_only_the_leader_probes(place: Place) -> None:
    leader = await place.router(id="one", probe_ms=20)
    await eventually(lambda: leader.phase == "leading", within_s=10)
    other = await place.router(id="two", probe_ms=20)
    await place.serve(orders("one"), "x", instance="one")
    await eventually(lambda: leader.status()["probes"]["answered"] >= 5, within_s=10)
    assert other.status()["probes"] == {"on": True, "asked": 0, "answered": 0, "missed": 0}


async def test_an_instance_that_pulses_but_cannot_be_reached_is_suspected_by_its_probes(place: Place) -> None:
    router = await place.router(policy=PATIENT, probe_ms=20)
    one = await place.serve(orders("one"), "x", instance="one")
    await place.serve(orders("two"), "x", instance="two")
    await eventually(lambda: router.status()["probes"]["answered"] >= 2, within_s=10)
    probed = one.instance.joined().vitals._probed
    assert probed is not None
    await probed.unsubscribe()
    suspected = (await until_said(place, InstanceSuspected))[0].event
    assert (suspected.instance, suspected.source) == ("one", "probe")
    assert (await until_said(place, GroupPromoted, times=2))[-1].event.holder == "two"


async def test_a_router_told_not_to_probe_asks_nobody(place: Place) -> None:
    router = await place.router(probe_ms=0)
    await place.serve(orders("one"), "x", instance="one")
    assert router.status()["probes"] == {"on": False, "asked": 0, "answered": 0, "missed": 0}
    assert not any(task.get_name() == "router probes" for task in asyncio.all_tasks())
