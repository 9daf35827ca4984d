"""The permissions of each role: it can do its work, and no more than that."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any, Protocol

import pytest

from aegisipc.eventstore.errors import ObjectMissing, PermissionDenied
from aegisipc.eventstore.ids import CallIds, parse_call_id
from aegisipc.eventstore.jetstream import JetStreamLog
from aegisipc.eventstore.log import Expect
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.object_layout import CHUNK_BYTES
from aegisipc.eventstore.objects import Objects
from aegisipc.eventstore.references import arguments_name, result_name
from aegisipc.eventstore.streams import LogOptions, create_log, open_log
from aegisipc.eventstore.topology import Topology
from aegisipc.router.application.router import Router, RouterOptions
from aegisipc.router.infrastructure.sweeping import Sweeper, SweepOptions
from aegisipc.sdk import (
    CallCancelled,
    Context,
    ContractMismatch,
    DeadLettered,
    Service,
    ServiceError,
    connect,
)
from aegisipc.sdk.instance import Instance, InstanceOptions
from aegisipc.sdk.retry import Retry
from aegisipc.sdk.wire import decode_outcomes, encode_ask
from tests.deploy.cluster import SUBJECTS, Cluster
from tests.support.waiting import eventually


async def read_on(log: JetStreamLog, subject: str, count: int) -> list[bytes]:
    """Read until there are so many records: who reads may sit at a server that is a moment behind."""
    async with asyncio.timeout(20):
        while True:
            found = [record.payload async for record in log.read([subject])]
            if len(found) >= count:
                return found


@pytest.mark.slow
async def test_each_role_can_do_its_own_work(cluster: Cluster) -> None:
    async with (
        await cluster.connect("router") as router,
        await cluster.connect("orders-1") as instance,
        await cluster.connect("strategy-7") as client,
    ):
        routers_log = await create_log(router, SUBJECTS, LogOptions(replicas=3, max_bytes=1 << 30))
        log = await open_log(instance, SUBJECTS)
        await log.append(SUBJECTS.instance("orders", "g1", "orders-1"), b"registered")
        fence = await routers_log.append(SUBJECTS.fence("orders", "g1"), b"promoted")
        clients_log = await open_log(client, SUBJECTS)
        await clients_log.append(SUBJECTS.call("orders", "g1", "strategy-7"), b"call")
        expected = Expect(fence.seq, SUBJECTS.fence("orders", "g1"))
        await log.append(SUBJECTS.pen("orders", "g1", "orders-1"), b"outcome", expect=expected)
        await log.append(SUBJECTS.dead("orders", "g1", "orders-1"), b"dead letter", expect=expected)
        await log.append(SUBJECTS.keys("orders", "g1", "orders-1"), b"segment", expect=expected)
        await log.append(SUBJECTS.state("orders", "g1", "orders-1"), b"snapshot", expect=expected)
        await log.append(SUBJECTS.evidence("orders", "g1", "orders-1"), b"it ran")
        hints: list[bytes] = []
        await client.subscribe(SUBJECTS.flow("orders", "g1"), lambda message: hints.append(message.payload))
        await instance.publish(SUBJECTS.flow("orders", "g1"), b"wait")
        await eventually(lambda: hints, within_s=20)

        seen = await read_on(log, SUBJECTS.group("orders", "g1"), 8)
        routes = await read_on(clients_log, SUBJECTS.topology, 2)
        last = await log.last(SUBJECTS.fence("orders", "g1"))
    assert seen[:4] == [b"registered", b"promoted", b"call", b"outcome"]
    assert seen[4:] == [b"dead letter", b"segment", b"snapshot", b"it ran"]
    assert hints == [b"wait"]
    assert routes == [b"registered", b"promoted"]
    assert last is not None
    assert last.payload == b"promoted"


async def aegis(cluster: Cluster, user: str, *words: str) -> dict[str, Any]:
    """What a command prints, run by that user."""
    done = await asyncio.to_thread(
        subprocess.run,
        [
            sys.executable,
            "-m",
            "aegisipc.router.cli.main",
            *words,
            "--json",
            "--url",
            cluster.url(user),
        ],
        env={"AEGIS_NAMESPACE": "trading"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


@pytest.mark.slow
async def test_a_router_an_instance_a_worker_and_a_client_need_nothing_more(cluster: Cluster) -> None:
    orders, quotes = Service("orders"), Service("quotes")

    @orders.method
    async def place(quantity: int) -> int:
        return quantity + 1

    @quotes.method
    async def quote(quantity: int) -> int:
        return quantity * 2

    def options(instance: str, **more: Any) -> InstanceOptions:
        return InstanceOptions(url=cluster.url(instance), namespace="trading", instance=instance, **more)

    refused_before = cluster.refusals()
    log = LogOptions(replicas=3, max_bytes=1 << 30)
    async with (
        Router(
            RouterOptions(
                cluster.url("router"), "trading", id="router-1", log=log, system_url=cluster.url("router-sys")
            )
        ) as router,
        Instance(orders, options("orders-1", group="g1", resources=("acc_1",))),
        Instance(orders, options("orders-2", group="g1", resources=("acc_1",))),
        Instance(quotes, options("quotes-1")),
        connect(cluster.url("strategy-7"), namespace="trading", name="strategy-7") as client,
    ):
        placed = await client.submit("orders.place", 1, resource_id="acc_1")
        assert await placed.result() == 2
        quoted = await client.submit("quotes.quote", 2)
        assert await quoted.result() == 4
        async with await cluster.connect("strategy-7") as other:
            for subject, call in (
                (SUBJECTS.ask("orders", "g1"), placed),
                (SUBJECTS.ask("quotes", "_pool"), quoted),
            ):
                question = encode_ask([parse_call_id(call.call_id)])
                answer = await other.request(subject, question, timeout_s=5)
                assert len(decode_outcomes(answer.payload)) == 1
        async with connect(cluster.url("strategy-7"), namespace="trading", name="strategy-7") as later:
            assert await (await later.attach(placed.call_id)).result() == 2
        for user in ("router", "orders-1", "quotes-1", "strategy-7", "operator"):
            told = await aegis(cluster, user, "status")
            assert told["router"]["router"] == "router-1", user
            assert told["services"]["orders"]["groups"]["g1"]["instances"]["orders-1"]["pulse"], user
        assert router.status()["system_account"]
        await eventually(lambda: router.status()["probes"]["answered"] >= 3, within_s=20)
    assert cluster.refusals() == refused_before


@pytest.mark.slow
async def test_large_bodies_are_stored_by_those_who_call_and_serve_and_removed_by_the_router(
    cluster: Cluster,
) -> None:
    body = os.urandom(3 * CHUNK_BYTES + 1)
    call_id = CallIds(7).next(int(time.time() * 1000))
    arguments = arguments_name("orders", "g1", call_id)
    refused_before = cluster.refusals()
    async with (
        await cluster.connect("router") as router,
        await cluster.connect("orders-1") as instance,
        await cluster.connect("quotes-1") as worker,
        await cluster.connect("strategy-7") as client,
        await cluster.connect("operator") as operator,
    ):
        await create_log(router, SUBJECTS, LogOptions(replicas=3, max_bytes=1 << 30))
        sent = await Objects(client, SUBJECTS).put(arguments, body)
        for reader in (instance, worker, operator):
            assert await Objects(reader, SUBJECTS).get(sent) == body
        for writer, name in ((instance, "orders-1"), (worker, "quotes-1")):
            result = await Objects(writer, SUBJECTS).put(
                result_name("orders", "g1", call_id, name, 1), body[::-1]
            )
            assert await Objects(client, SUBJECTS).get(result) == body[::-1]
        sweeper = Sweeper(
            router,
            SUBJECTS,
            is_leading=lambda: True,
            now_ns=time.time_ns,
            options=SweepOptions(grace_s=0, unclaimed_s=0, rest=0),
        )
        await sweeper.sweep()
        assert sweeper.counts.unaccepted == 1
        assert sweeper.counts.results == 2
        with pytest.raises(ObjectMissing):
            await Objects(instance, SUBJECTS).get(sent)
        assert cluster.refusals() == refused_before
        kept = await Objects(client, SUBJECTS).put(arguments, body)
        with pytest.raises(PermissionDenied):
            await Objects(client, SUBJECTS).delete(arguments)
        assert await Objects(instance, SUBJECTS).get(kept) == body


class Venue:
    """A service that can be closed, and what a client sees of it."""

    def __init__(self, name: str) -> None:
        self.service = Service(name)
        self.is_closed = True
        self.placed: list[int] = []

        @self.service.method(effect="idempotent", retry=Retry(attempts=2, base_s=0.01, on="closed"))
        async def place(number: int) -> int:
            if self.is_closed:
                raise ServiceError("closed", "the venue is closed")
            self.placed.append(number)
            return number * 2

        @self.service.method
        async def hold() -> None:
            await asyncio.Event().wait()

        @self.service.method(effect="pure")
        async def echo(body: bytes) -> bytes:
            return body


class VenueApi(Protocol):
    """The part of it that this client knows."""

    async def place(self, number: int) -> int: ...


class OtherApi(Protocol):
    """What it is not."""

    async def place(self, number: str) -> int: ...


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "group", "instance", "resource"),
    [
        pytest.param("orders", "g1", "orders-1", "acc_1", id="owned"),
        pytest.param("quotes", None, "quotes-1", None, id="pool"),
    ],
)
async def test_keys_retries_dead_letters_cancelling_large_bodies_and_contracts_need_nothing_more(
    cluster: Cluster, name: str, group: str | None, instance: str, resource: str | None
) -> None:
    venue = Venue(name)
    options = InstanceOptions(
        url=cluster.url(instance),
        namespace="trading",
        instance=instance,
        group=group,
        resources=(resource,) if resource else (),
    )
    log = LogOptions(replicas=3, max_bytes=1 << 30)
    routing = RouterOptions(
        cluster.url("router"), "trading", id="router-1", log=log, system_url=cluster.url("router-sys")
    )
    refused_before = cluster.refusals()
    async with (
        Router(routing),
        Instance(venue.service, options),
        connect(cluster.url("strategy-7"), namespace="trading", name="strategy-7") as client,
    ):
        given_up = [
            await client.submit(f"{name}.place", n, timeout=600.0, resource_id=resource) for n in (1, 2)
        ]
        for pending in given_up:
            with pytest.raises(DeadLettered):
                await pending.result()
        venue.is_closed = False
        letters = await aegis(cluster, "operator", "dlq", "list", "--service", name)
        assert {letter["call_id"] for letter in letters["dead_letters"]} == {p.call_id for p in given_up}
        await aegis(cluster, "operator", "dlq", "discard", given_up[1].call_id)
        await aegis(cluster, "operator", "dlq", "requeue", given_up[0].call_id)
        assert await (await client.attach(given_up[0].call_id)).settled(20) == 2

        for _ in range(2):
            assert await client.call(f"{name}.place", 3, idempotency_key=name, resource_id=resource) == 6
        found = await client.attach(idempotency_key=name, service=name, resource_id=resource)
        assert await found.result() == 6
        assert venue.placed == [1, 3]

        for by_operator in (False, True):
            held = await client.submit(f"{name}.hold", resource_id=resource)
            assert (held.receipt.durability, held.receipt.fsync) == ("replicated", "always")
            if by_operator:
                await aegis(cluster, "operator", "calls", "cancel", held.call_id)
            else:
                await held.cancel("not needed", 20)
            with pytest.raises(CallCancelled):
                await held.result()

        body = os.urandom(3 * CHUNK_BYTES * 8)
        assert await client.call(f"{name}.echo", body, resource_id=resource) == body

        assert await client.service(VenueApi, name=name, resource_id=resource).place(4) == 8
        with pytest.raises(ContractMismatch):
            await client.service(OtherApi, name=name, resource_id=resource).place("4")
        shown = await aegis(cluster, "operator", "contract", "show", name)
        assert "place" in str(shown)
    assert cluster.refusals() == refused_before


@dataclass
class Count:
    """Something that the instances of a group share."""

    value: int = 0


def counter() -> Service:
    """A service with shared state."""
    service, count = Service("orders"), Count()

    @service.on(Count)
    def counted(event: Count) -> None:
        count.value += event.value

    @service.snapshot
    def taken() -> Count:
        return count

    @service.restore
    def restored(state: Count | None) -> None:
        count.value = state.value if state else 0

    @service.method(effect="idempotent")
    async def place(quantity: int, ctx: Context) -> int:
        ctx.emit(Count(quantity))
        return count.value + quantity

    return service


@pytest.mark.slow
async def test_an_operator_and_those_who_obey_need_nothing_more(cluster: Cluster) -> None:
    def options(instance: str) -> InstanceOptions:
        return InstanceOptions(
            url=cluster.url(instance),
            namespace="trading",
            instance=instance,
            group="g1",
            resources=("acc_1",),
        )

    refused_before = cluster.refusals()
    log = LogOptions(replicas=3, max_bytes=1 << 30)
    async with (
        Router(RouterOptions(cluster.url("router"), "trading", id="router-1", log=log)),
        Instance(counter(), options("orders-1")) as first,
        Instance(counter(), options("orders-2")) as second,
        connect(cluster.url("strategy-7"), namespace="trading", name="strategy-7") as client,
        await cluster.connect("operator") as operator,
    ):
        by_id = {instance.id: instance for instance in (first, second)}
        first_call = await client.submit("orders.place", 7, resource_id="acc_1")
        assert await first_call.result() == 7
        holder = await holder_of("orders", "g1", operator)
        (heir,) = by_id.keys() - {holder}
        promoted = await aegis(cluster, "operator", "promote", "orders", "g1", heir, "--reason", "a trial")
        assert promoted["ok"], promoted
        assert by_id[heir].joined().host.pulse()["active"]
        assert await client.call("orders.place", 1, resource_id="acc_1") == 8
        verified = await aegis(cluster, "operator", "verify", "orders")
        assert verified["ok"], verified
        shown = await aegis(cluster, "operator", "doubt", "show", first_call.call_id)
        assert shown["state"] == "succeeded"
        for verb in ("pause", "resume"):
            assert (await aegis(cluster, "operator", verb, "orders/g1"))["ok"]
        drained = await aegis(cluster, "operator", "drain", f"orders/g1/{holder}", "--no-wait")
        assert drained["ok"], drained
        await eventually(lambda: by_id[holder].drain_requested_by is not None, within_s=20)
        assert (await aegis(cluster, "operator", "doubt", "list"))["doubts"] == []
        resolution = {"command": "resolve", "call_id": first_call.call_id, "executed": False, "author": "ops"}
        told = await operator.request(
            SUBJECTS.tell("orders", "g1"), json.dumps(resolution).encode(), timeout_s=20
        )
        assert json.loads(told.payload)["error"]["code"] == "not_in_doubt"
    assert cluster.refusals() == refused_before


async def holder_of(service: str, group: str, operator: Connection) -> str:
    """Who holds the pen, as an operator reads it from the log."""
    log = await open_log(operator, SUBJECTS)
    async with asyncio.timeout(20):
        while True:
            topology = Topology(SUBJECTS)
            async for record in log.read([SUBJECTS.topology]):
                topology.apply(record)
            found = topology.group(service, group)
            if found is not None and found.holder is not None:
                return found.holder
