"""Idempotency keys and cancelling from end to end, also when the process that called is gone."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from textwrap import dedent

import pytest

from aegisipc.eventstore.ids import format_call_id
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.sdk import Service
from aegisipc.sdk.errors import CallCancelled, CallFinished, CallTimeout, IdempotencyConflict
from tests.e2e.kit import Place
from tests.support.waiting import eventually

SERVICES = [pytest.param(("acc_1",), id="owned"), pytest.param((), id="pool")]


class Desk:
    """A service that counts what it did."""

    def __init__(self) -> None:
        self.service = Service("desk", max_running=64)
        self.placed: Counter[str] = Counter()
        self.gate = asyncio.Event()
        self.gate.set()
        self.began = 0
        self.interrupted = 0

        @self.service.method(effect="once")
        async def place(order: str) -> str:
            self.began += 1
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.interrupted += 1
                raise
            self.placed[order] += 1
            return f"{order} #{self.placed[order]}"


@pytest.mark.parametrize("resources", SERVICES)
async def test_calls_with_the_same_key_run_once_and_all_have_the_result(
    place: Place, resources: tuple[str, ...]
) -> None:
    desk = Desk()
    await place.serve(desk.service, *resources)
    clients = [await place.client() for _ in range(4)]
    resource = resources[0] if resources else None
    desk.gate.clear()
    calls = [
        asyncio.create_task(
            clients[number % 4].call("desk.place", "o1", resource_id=resource, idempotency_key="k1")
        )
        for number in range(40)
    ]
    await eventually(lambda: desk.began, within_s=10)
    desk.gate.set()
    assert set(await asyncio.gather(*calls)) == {"o1 #1"}
    again = await clients[0].submit("desk.place", "o1", resource_id=resource, idempotency_key="k1")
    assert await again.result() == await again.settled() == "o1 #1"
    assert await (await clients[1].attach(again.call_id)).result() == "o1 #1"
    assert desk.placed == {"o1": 1}


@pytest.mark.parametrize("resources", SERVICES)
async def test_other_arguments_with_the_same_key_are_a_conflict(
    place: Place, resources: tuple[str, ...]
) -> None:
    desk = Desk()
    await place.serve(desk.service, *resources)
    client, resource = await place.client(), resources[0] if resources else None
    first = await client.submit("desk.place", "o1", resource_id=resource, idempotency_key="k1")
    await first.result()
    with pytest.raises(IdempotencyConflict) as caught:
        await client.call("desk.place", "o2", resource_id=resource, idempotency_key="k1")
    assert (caught.value.first_call_id, caught.value.key) == (first.call_id, "k1")
    assert desk.placed == {"o1": 1}


@pytest.mark.parametrize("resources", SERVICES)
async def test_what_a_crashed_process_submitted_is_found_by_its_key_in_the_next_one(
    place: Place, resources: tuple[str, ...]
) -> None:
    desk = Desk()
    desk.gate.clear()
    running = await place.serve(desk.service, *resources)
    program = dedent(f"""
        import asyncio, os
        from aegisipc.sdk import connect

        async def main():
            client = await connect({place.url!r}, namespace={place.namespace!r})
            resource = {(*resources, None)[0]!r}
            await client.submit("desk.place", "o1", resource_id=resource, idempotency_key="k")
            os._exit(9)  # the id is lost with it

        asyncio.run(main())
    """)
    ended = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", program], check=False)
    assert ended.returncode == 9
    await eventually(lambda: desk.began, within_s=10)
    client, resource = await place.client(), resources[0] if resources else None
    found = await client.attach(idempotency_key="k", service="desk", resource_id=resource)
    desk.gate.set()
    assert await found.result(20) == "o1 #1"
    await running.leave()  # nobody answers any more: the log does
    again = await (await place.client()).attach(idempotency_key="k", service="desk", resource_id=resource)
    assert again.call_id == found.call_id
    assert await again.result() == "o1 #1"
    assert desk.placed == {"o1": 1}


@pytest.mark.parametrize("resources", SERVICES)
async def test_a_running_call_is_cancelled_by_another_client(
    place: Place, resources: tuple[str, ...]
) -> None:
    desk = Desk()
    desk.gate.clear()
    await place.serve(desk.service, *resources)
    client, other = await place.client(), await place.client(name="other")
    resource = resources[0] if resources else None
    calling = asyncio.create_task(client.call("desk.place", "o1", resource_id=resource))
    await eventually(lambda: desk.began, within_s=10)
    (call_id,) = (call for call in client._dispatcher.open_calls)
    await other.attach(format_call_id(call_id)).cancel("too late", 20)
    with pytest.raises(CallCancelled) as caught:
        await calling
    assert (caught.value.started, caught.value.author, caught.value.reason) == (True, "other", "too late")
    assert (desk.placed, desk.interrupted) == ({}, 1)


@pytest.mark.parametrize("resources", SERVICES)
async def test_a_call_that_waits_is_cancelled_before_it_starts(
    place: Place, resources: tuple[str, ...]
) -> None:
    desk = Desk()
    desk.gate.clear()
    desk.service.max_running = 1
    await place.serve(desk.service, *resources)
    client, resource = await place.client(), resources[0] if resources else None
    first = await client.submit("desk.place", "o1", resource_id=resource)
    await eventually(lambda: desk.began, within_s=10)
    waits = await client.submit("desk.place", "o2", resource_id=resource)
    cancelling = asyncio.create_task(waits.cancel("not wanted", 20))
    if not resources:  # no worker has it yet; the one that takes it hears that it is not wanted
        with pytest.raises(CallTimeout, match="is durable and stands"):
            await waits.cancel("not wanted", 0.2)
        desk.gate.set()
    await cancelling
    with pytest.raises(CallCancelled) as caught:
        await waits.result()
    assert not caught.value.started
    desk.gate.set()
    assert await first.result() == "o1 #1"
    with pytest.raises(CallFinished):
        await first.cancel()
    assert desk.placed == {"o1": 1}


async def test_a_call_without_an_instance_is_cancelled_once_one_comes(place: Place) -> None:
    desk = Desk()
    running = await place.serve(desk.service, "acc_1")
    client = await place.client()
    await running.leave()
    pending = await client.submit("desk.place", "o1", resource_id="acc_1", timeout=60)
    with pytest.raises(CallTimeout, match="is durable and stands"):
        await pending.cancel(timeout=0.2)
    await place.serve(Desk().service, "acc_1")
    with pytest.raises(CallCancelled):
        await pending.result(20)


@pytest.mark.parametrize("resources", SERVICES)
async def test_where_clients_ask_for_keys_nobody_obeys_commands(
    place: Place, resources: tuple[str, ...]
) -> None:
    desk = Desk()
    await place.serve(desk.service, *resources)
    client, resource = await place.client(), resources[0] if resources else None
    pending = await client.submit("desk.place", "o1", resource_id=resource, idempotency_key="k1")
    await pending.result()
    subject = client.subjects.find_key("desk", resource or "_pool")
    command = {"command": "discard", "call_id": pending.call_id, "author": "me", "reason": ""}
    async with await Connection.open(ConnectOptions(place.url, name="asker")) as connection:
        answered: list[bytes] = []
        inbox = "_INBOX.test"
        await connection.subscribe(inbox, lambda message: answered.append(message.payload))
        for question in (command, {"command": "find_key", "key": "k1"}):
            connection.publish_nowait(subject, json.dumps(question).encode(), reply=inbox)
        await eventually(lambda: answered, within_s=10)
    assert [json.loads(answer)["call_id"] for answer in answered] == [pending.call_id]
