"""What the permissions of each role refuse."""

from __future__ import annotations

import json

import pytest

from aegisipc.eventstore.errors import AegisError, PermissionDenied
from aegisipc.eventstore.object_layout import bucket_of
from aegisipc.eventstore.streams import LogOptions, open_log
from aegisipc.router.application.router import Router, RouterOptions
from aegisipc.sdk import Service
from aegisipc.sdk.instance import Instance, InstanceOptions
from aegisipc.sdk.wire import encode_ask
from tests.deploy.cluster import SUBJECTS, Cluster
from tests.support.waiting import eventually

BUCKET = bucket_of(SUBJECTS)
CONCLUDING = (SUBJECTS.pen, SUBJECTS.dead, SUBJECTS.keys, SUBJECTS.contract)
"""What an instance alone writes of its group."""


async def echo(number: int) -> int:
    return number


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
        *((user, f"$JS.API.STREAM.PURGE.{BUCKET.stream}") for user in ("strategy-7", "orders-1", "quotes-1")),
        *((user, f"$JS.API.STREAM.MSG.DELETE.{BUCKET.stream}") for user in ("strategy-7", "router")),
        *((user, f"$JS.API.STREAM.DELETE.{BUCKET.stream}") for user in ("orders-1", "operator", "router")),
        *((user, BUCKET.chunks("x")) for user in ("router", "operator")),
        *((user, BUCKET.entry("x")) for user in ("router", "operator")),
        ("strategy-7", SUBJECTS.cancel("orders", "g1", "strategy-8")),
        ("strategy-7", SUBJECTS.cancel("orders", "g1", "_operator")),
        *(("strategy-7", kind("orders", "g1", "orders-1")) for kind in CONCLUDING),
        *(("router", kind("orders", "g1", "orders-1")) for kind in CONCLUDING),
        *(("operator", kind("orders", "g1", "orders-1")) for kind in CONCLUDING),
        *(("orders-1", kind("orders", "g1", "orders-2")) for kind in CONCLUDING),
        *(("orders-1", kind("quotes", "_pool", "orders-1")) for kind in CONCLUDING),
        *(("quotes-1", kind("orders", "g1", "quotes-1")) for kind in CONCLUDING),
        *((user, SUBJECTS.flow("orders", "g1")) for user in ("strategy-7", "router", "operator", "quotes-1")),
        *((user, SUBJECTS.cancel("orders", "g1", user)) for user in ("orders-1", "router", "operator")),
        ("orders-1", SUBJECTS.call("orders", "g1", "orders-1")),
        ("quotes-1", SUBJECTS.call("quotes", "_pool", "strategy-7")),
        ("quotes-1", SUBJECTS.call("orders", "g1", "quotes-1")),
        ("operator", SUBJECTS.cancel("orders", "g1", "strategy-7")),
        ("orders-1", SUBJECTS.api("durability")),
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
async def test_a_role_cannot_have_another_write_for_it(cluster: Cluster) -> None:
    orders = Service("orders")
    orders.method(effect="pure", name="echo")(echo)
    log = LogOptions(replicas=3, max_bytes=1 << 30)
    router = RouterOptions(
        cluster.url("router"), "trading", id="router-1", log=log, system_url=cluster.url("router-sys")
    )
    options = InstanceOptions(
        url=cluster.url("orders-1"),
        namespace="trading",
        instance="orders-1",
        group="g1",
        resources=("acc_1",),
    )
    fence = SUBJECTS.fence("orders", "g1")
    async with (
        Router(router),
        Instance(orders, options) as holder,
        await cluster.connect("strategy-7") as client,
    ):
        await eventually(lambda: holder.joined().host.pulse()["active"], within_s=20)
        reader = await open_log(client, SUBJECTS)
        promoted = await reader.last(fence)
        assert promoted is not None
        for how in (SUBJECTS.api("status"), SUBJECTS.api("durability"), SUBJECTS.ask("orders", "g1")):
            await client.publish(how, encode_ask([]), reply=fence)
            await client.request(how, encode_ask([]), timeout_s=20)
        assert await reader.last(fence) == promoted


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
@pytest.mark.parametrize("where", [SUBJECTS.tell("quotes", "_pool"), SUBJECTS.find_key("quotes", "_pool")])
async def test_nobody_else_may_listen_to_commands_and_questions_for_a_holder(
    cluster: Cluster, user: str, where: str
) -> None:
    async with await cluster.connect(user) as connection:
        with pytest.raises(PermissionDenied):
            await connection.subscribe(where, lambda _: None)
