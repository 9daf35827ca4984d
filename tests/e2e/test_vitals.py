"""What an instance shows of itself beside the log: its connection, its pulses, its answers to probes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest

from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.message import Message
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.subjects import subjects_of
from aegisipc.sdk import Service
from aegisipc.sdk.errors import NoResponders, ServiceDefinitionError
from aegisipc.sdk.instance import Instance, InstanceOptions
from tests.e2e.kit import Place, Running
from tests.e2e.kit_operator import ask
from tests.support.proxy import FaultyProxy
from tests.support.waiting import eventually

GROUP_OR_POOL = pytest.mark.parametrize("resources", [("x",), ()], ids=["group", "pool"])


class Gate:
    """A service whose method waits for ``open``."""

    def __init__(self) -> None:
        self.service = Service("gate")
        self.open = asyncio.Event()
        self.runs = 0

        @self.service.method(effect="idempotent")
        async def passing() -> None:
            self.runs += 1
            await self.open.wait()


@asynccontextmanager
async def pulses_of(place: Place, instance: str) -> AsyncIterator[list[dict[str, Any]]]:
    """The pulses of an instance from here on, as they come."""
    heard: list[dict[str, Any]] = []

    def hear(message: Message) -> None:
        heard.append(msgpack.unpackb(message.payload))

    async with await Connection.open(ConnectOptions(place.url, name="listener")) as connection:
        await connection.subscribe(subjects_of(place.namespace).pulse("instance", instance), hear)
        yield heard


def session_of(running: Running) -> tuple[int, str]:
    connection = running.instance._connection
    assert connection is not None
    return connection.server.client_id, connection.server.server_id


async def probe(place: Place, group: str, instance: str) -> dict[str, Any]:
    return await ask(place, subjects_of(place.namespace).probe("gate", group, instance))


@GROUP_OR_POOL
async def test_a_connection_is_named_after_the_instance(place: Place, resources: tuple[str, ...]) -> None:
    running = await place.serve(Gate().service, *resources, instance="a")
    connection = running.instance._connection
    assert connection is not None
    group = resources[0] if resources else "_pool"
    assert connection.options.name == f"aegis:{place.namespace}:gate:{group}:a"


@GROUP_OR_POOL
async def test_a_pulse_tells_who_it_is_of_and_over_which_connection(
    place: Place, resources: tuple[str, ...]
) -> None:
    running = await place.serve(Gate().service, *resources, instance="a")
    async with pulses_of(place, "a") as heard:
        await eventually(lambda: heard, within_s=5)
    pulse = heard[-1]
    assert (pulse["cid"], pulse["server"]) == session_of(running)
    assert (pulse["service"], pulse["incarnation"]) == ("gate", running.incarnation)
    assert pulse["healthy"] is True


async def test_a_new_session_is_told_at_once(place: Place) -> None:
    async with FaultyProxy(place.url) as proxy, AsyncExitStack() as stack:
        there = Place(place.server, stack)
        there.url, there.namespace = proxy.url, place.namespace
        running = await there.serve(Gate().service, "x", instance="a", pulse_ms=10_000)
        former = session_of(running)
        async with pulses_of(place, "a") as heard:
            await proxy.reset()
            await eventually(lambda: heard, within_s=9, what="a pulse long before the next one is due")
        assert (heard[0]["cid"], heard[0]["server"]) == session_of(running) != former


@GROUP_OR_POOL
async def test_an_instance_answers_a_probe_with_what_it_is_doing(
    place: Place, resources: tuple[str, ...]
) -> None:
    gate = Gate()
    running = await place.serve(gate.service, *resources, instance="a")
    client = await place.client()
    resource = resources[0] if resources else None
    call = asyncio.create_task(client.call("gate.passing", resource_id=resource))
    await eventually(lambda: gate.runs == 1, within_s=5)
    answer = await probe(place, running.instance.group, "a")
    gate.open.set()
    await call
    assert answer.pop("position") > 0
    assert answer == {
        "ok": True,
        "instance": "a",
        "incarnation": running.incarnation,
        "healthy": True,
        "reason": "",
        "active": True,
        "epoch": 1 if resources else 0,
        "running": 1,
        "waiting": 0,
        "open": 1,
        "state_digests": {},
    }


async def test_an_instance_that_is_unhealthy_says_so_in_pulses_and_probes(place: Place) -> None:
    gate = Gate()
    down: list[str] = []
    gate.service.health(every_s=0.02)(lambda: down[0] if down else None)
    await place.serve(gate.service, "x", instance="a")
    assert (await probe(place, "x", "a"))["healthy"] is True
    down.append("no licence")
    async with pulses_of(place, "a") as heard:
        await eventually(lambda: heard and not heard[-1]["healthy"], within_s=5)
    answer = await probe(place, "x", "a")
    assert (answer["healthy"], answer["reason"]) == (False, "no licence")


async def test_an_instance_that_has_left_answers_no_probe(place: Place) -> None:
    running = await place.serve(Gate().service, "x", instance="a")
    await running.leave()
    with pytest.raises(NoResponders):
        await probe(place, "x", "a")


@pytest.mark.parametrize("pulse_ms", [9, 10_001, 0, -250])
async def test_pulses_are_neither_so_many_nor_so_few_that_they_mean_nothing(pulse_ms: int) -> None:
    with pytest.raises(ServiceDefinitionError, match="pulse_ms is 10 to 10000"):
        Instance(Gate().service, InstanceOptions(pulse_ms=pulse_ms))
