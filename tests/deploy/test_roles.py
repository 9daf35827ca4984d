"""The permissions of each role: it can do its work, and no more than that."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from aegisipc.eventstore.errors import AegisError, PermissionDenied
from aegisipc.eventstore.ids import parse_call_id
from aegisipc.eventstore.jetstream import JetStreamLog
from aegisipc.eventstore.log import Expect
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.streams import LogOptions, create_log, open_log
from aegisipc.eventstore.topology import Topology
from aegisipc.router.application.router import Router, RouterOptions
from aegisipc.sdk import Context, Service, connect
from aegisipc.sdk.instance import Instance, InstanceOptions
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
        await log.append(SUBJECTS.state("orders", "g1", "orders-1"), b"snapshot", expect=expected)
        await log.append(SUBJECTS.evidence("orders", "g1", "orders-1"), b"it ran")

        seen = await read_on(log, SUBJECTS.group("orders", "g1"), 6)
        routes = await read_on(clients_log, SUBJECTS.topology, 2)
        last = await log.last(SUBJECTS.fence("orders", "g1"))
    assert seen == [b"registered", b"promoted", b"call", b"outcome", b"snapshot", b"it ran"]
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("user", "subject"),
    [
        ("strategy-7", SUBJECTS.call("orders", "g1", "strategy-8")),
        ("strategy-7", SUBJECTS.pen("orders", "g1", "orders-1")),
        ("strategy-7", SUBJECTS.fence("orders", "g1")),
        ("strategy-7", SUBJECTS.evidence("orders", "g1", "orders-1")),
        ("strategy-7", SUBJECTS.state("orders", "g1", "orders-1")),
        ("strategy-7", SUBJECTS.tell("orders", "g1")),
        ("strategy-7", SUBJECTS.probe("orders", "g1", "orders-1")),
        ("strategy-7", SUBJECTS.api("promote")),
        ("strategy-7", SUBJECTS.reply("strategy-8")),
        ("orders-1", SUBJECTS.pen("orders", "g1", "orders-2")),
        ("orders-1", SUBJECTS.evidence("orders", "g1", "orders-2")),
        ("orders-1", SUBJECTS.state("orders", "g1", "orders-2")),
        ("orders-1", SUBJECTS.tell("orders", "g1")),
        ("orders-1", SUBJECTS.api("drain")),
        ("orders-1", SUBJECTS.instance("orders", "g1", "orders-2")),
        ("orders-1", SUBJECTS.fence("orders", "g1")),
        ("orders-1", SUBJECTS.watch("orders", "g1")),
        ("orders-1", SUBJECTS.term),
        ("orders-1", SUBJECTS.pulse("instance", "orders-2")),
        ("orders-1", f"$JS.API.CONSUMER.MSG.NEXT.{SUBJECTS.stream}.pool-quotes"),
        ("strategy-7", SUBJECTS.peers("quotes", "_pool")),
        ("orders-1", SUBJECTS.peers("quotes", "_pool")),
        ("quotes-1", SUBJECTS.evidence("quotes", "_pool", "quotes-1")),
        ("quotes-1", f"$JS.API.CONSUMER.DELETE.{SUBJECTS.stream}.pool-quotes"),
        ("strategy-7", f"$JS.API.CONSUMER.CREATE.{SUBJECTS.stream}.pool-quotes"),
        ("strategy-7", f"$JS.API.CONSUMER.DELETE.{SUBJECTS.stream}.pool-quotes"),
        ("orders-1", f"$JS.API.STREAM.DELETE.{SUBJECTS.stream}"),
        ("router", SUBJECTS.call("orders", "g1", "strategy-7")),
        ("router", SUBJECTS.pen("orders", "g1", "orders-1")),
        ("router", SUBJECTS.evidence("orders", "g1", "orders-1")),
        ("router", SUBJECTS.state("orders", "g1", "orders-1")),
        ("router", SUBJECTS.tell("orders", "g1")),
        ("router", f"$JS.API.STREAM.DELETE.{SUBJECTS.stream}"),
        ("operator", SUBJECTS.fence("orders", "g1")),
        ("operator", SUBJECTS.watch("orders", "g1")),
        ("operator", SUBJECTS.pen("orders", "g1", "orders-1")),
        ("operator", SUBJECTS.evidence("orders", "g1", "orders-1")),
        ("operator", SUBJECTS.call("orders", "g1", "strategy-7")),
        ("operator", f"$JS.API.STREAM.DELETE.{SUBJECTS.stream}"),
        ("operator", f"$JS.API.CONSUMER.DELETE.{SUBJECTS.stream}.pool-quotes"),
    ],
)
async def test_a_role_cannot_write_what_another_role_writes(
    cluster: Cluster, user: str, subject: str
) -> None:
    async with await cluster.connect(user) as connection:
        with pytest.raises(PermissionDenied):
            await connection.request(subject, b"forged", timeout_s=5)


@pytest.mark.slow
@pytest.mark.parametrize("user", ["sys", "router-sys"])
async def test_the_users_of_the_system_account_hear_of_connections_that_end_and_reach_nothing_else(
    cluster: Cluster, user: str
) -> None:
    ended: list[str] = []
    async with await cluster.connect(user) as system:
        await system.subscribe(
            "$SYS.ACCOUNT.*.DISCONNECT",
            lambda message: ended.append(json.loads(message.payload)["client"].get("user", "")),
        )
        async with await cluster.connect("strategy-7"):
            pass
        await eventually(lambda: "strategy-7" in ended, within_s=20)
        with pytest.raises(AegisError):
            await system.request(SUBJECTS.term, b"forged", timeout_s=1)


@pytest.mark.slow
async def test_the_user_that_routers_have_in_the_system_account_cannot_ask_about_it(
    cluster: Cluster,
) -> None:
    async with await cluster.connect("router-sys") as system:
        with pytest.raises(PermissionDenied):
            await system.request("$SYS.REQ.ACCOUNT.AEGIS.CONNZ", b"", timeout_s=5)
        with pytest.raises(PermissionDenied):
            await system.subscribe("$SYS.ACCOUNT.*.CONNECT", lambda _: None)


@pytest.mark.slow
@pytest.mark.parametrize("user", ["router", "orders-1", "strategy-7", "operator"])
async def test_nobody_else_may_listen_to_the_commands_for_a_holder(cluster: Cluster, user: str) -> None:
    where = SUBJECTS.tell("quotes", "_pool")
    async with await cluster.connect(user) as connection:
        with pytest.raises(PermissionDenied):
            await connection.subscribe(where, lambda _: None)
