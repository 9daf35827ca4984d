"""The NATS configuration: real servers accept it, form a cluster, and hold each role to its own writes."""

from __future__ import annotations

import asyncio
import json
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from aegisipc.eventstore.errors import AegisError, PermissionDenied
from aegisipc.eventstore.ids import parse_call_id
from aegisipc.eventstore.log import Expect
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.streams import LogOptions, create_log, open_log
from aegisipc.eventstore.subjects import subjects_of
from aegisipc.router.application.router import Router, RouterOptions
from aegisipc.router.infrastructure.child import ChildProcess
from aegisipc.router.infrastructure.free_ports import choose_free_port
from aegisipc.router.infrastructure.server_config import find_server_binary
from aegisipc.sdk import Service, connect
from aegisipc.sdk.instance import Instance, InstanceOptions
from aegisipc.sdk.wire import decode_outcomes, encode_ask
from tests.deploy.commands import check_aegis_command

ROOT = Path(__file__).parents[2]
NATS = ROOT / "deploy/nats"
SUBJECTS = subjects_of("trading")
START_S = 30.0


def variables(node: str, ports: tuple[int, int, int], routes: str, data: Path) -> dict[str, str]:
    port, cluster_port, monitor_port = ports
    return {
        "NATS_NAME": node,
        "NATS_HOST": "127.0.0.1",
        "NATS_PORT": str(port),
        "NATS_CLUSTER_PORT": str(cluster_port),
        "NATS_MONITOR": f"127.0.0.1:{monitor_port}",
        "NATS_ROUTES": routes,
        "NATS_ROUTE_PASSWORD": "route-secret",
        "NATS_DATA": str(data),
        "NATS_MAX_STORE": "8GB",
        "AEGIS_PASSWORD": "secret",
        "AEGIS_SYS_PASSWORD": "secret",
        "AEGIS_ROUTER_PASSWORD": "secret",
        "AEGIS_ORDERS_1_PASSWORD": "secret",
        "AEGIS_ORDERS_2_PASSWORD": "secret",
        "AEGIS_QUOTES_1_PASSWORD": "secret",
        "AEGIS_STRATEGY_7_PASSWORD": "secret",
    }


@pytest.fixture(scope="module")
def by_role(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration with the change that the page describes."""
    folder = tmp_path_factory.mktemp("by-role")
    shutil.copytree(NATS, folder, dirs_exist_ok=True)
    config = folder / "nats.conf"
    text = config.read_text(encoding="utf-8")
    changed = text.replace("include ./accounts.conf", "include ./accounts-by-role.conf")
    assert changed != text
    config.write_text(changed, encoding="utf-8")
    return config


def check(config: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [find_server_binary(), "-t", "-c", config],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_a_server_accepts_the_configuration(tmp_path: Path) -> None:
    checked = check(
        NATS / "nats.conf", variables("nats-1", (4222, 6222, 8222), "[nats://127.0.0.1:6222]", tmp_path)
    )
    assert checked.returncode == 0, checked.stderr


def test_a_server_accepts_the_configuration_by_role(by_role: Path, tmp_path: Path) -> None:
    checked = check(by_role, variables("nats-1", (4222, 6222, 8222), "[nats://127.0.0.1:6222]", tmp_path))
    assert checked.returncode == 0, checked.stderr


def test_a_server_refuses_to_start_without_a_password(tmp_path: Path) -> None:
    environment = variables("nats-1", (4222, 6222, 8222), "[nats://127.0.0.1:6222]", tmp_path)
    del environment["AEGIS_PASSWORD"]
    checked = check(NATS / "nats.conf", environment)
    assert checked.returncode != 0
    assert "AEGIS_PASSWORD" in checked.stderr


def test_the_page_shows_only_commands_that_exist() -> None:
    page = (ROOT / "docs/deployment.md").read_text(encoding="utf-8")
    commands = [line for line in page.splitlines() if line.startswith("aegis ")]
    assert {shlex.split(command)[1] for command in commands} >= {"router", "serve", "call"}
    for command in commands:
        check_aegis_command(shlex.split(command)[1:])


@dataclass(frozen=True)
class Cluster:
    """Three running servers; ``ports`` are the clients', ``logs`` what the servers wrote."""

    ports: tuple[int, ...]
    logs: tuple[Path, ...]

    def url(self, user: str) -> str:
        return ",".join(f"nats://{user}:secret@127.0.0.1:{port}" for port in self.ports)

    async def connect(self, user: str) -> Connection:
        return await Connection.open(ConnectOptions(url=self.url(user), require_jetstream=user != "sys"))

    def refusals(self) -> list[str]:
        """Everything that a permission has refused so far."""
        lines = [line for log in self.logs for line in log.read_text(encoding="utf-8").splitlines()]
        return sorted(line for line in lines if "Violation" in line)


def wait_healthy(monitor_port: int, deadline: float) -> None:
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{monitor_port}/healthz", timeout=1):
                return
        except (urllib.error.URLError, OSError) as error:
            if time.monotonic() > deadline:
                pytest.fail(f"no healthy server at port {monitor_port}: {error}")
            time.sleep(0.02)


@pytest.fixture(scope="module")
def cluster(by_role: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three servers on free ports, started the way the page starts them."""
    folder = tmp_path_factory.mktemp("cluster")
    taken: list[int] = []
    for _ in range(9):
        taken.append(choose_free_port("127.0.0.1", avoid=taken))
    routes = ", ".join(f"nats://route:route-secret@127.0.0.1:{port}" for port in taken[3:6])
    env = shutil.which("env")
    assert env is not None
    children: list[ChildProcess] = []
    try:
        for index in range(3):
            ports = (taken[index], taken[index + 3], taken[index + 6])
            settings = variables(f"nats-{index + 1}", ports, f"[{routes}]", folder / f"nats-{index + 1}")
            words = [f"{name}={value}" for name, value in settings.items()]
            argv = [env, *words, str(find_server_binary()), "-c", str(by_role)]
            children.append(ChildProcess(argv, folder / f"nats-{index + 1}.log"))
        deadline = time.monotonic() + START_S
        for monitor_port in taken[6:]:
            wait_healthy(monitor_port, deadline)
        yield Cluster(tuple(taken[:3]), tuple(folder / f"nats-{index + 1}.log" for index in range(3)))
    finally:
        for child in children:
            child.send(signal.SIGKILL)
            child.exit_status.result(10)


@pytest.mark.slow
async def test_three_servers_form_a_cluster_that_keeps_three_copies(cluster: Cluster) -> None:
    async with await cluster.connect("router") as router:
        log = await create_log(router, SUBJECTS, LogOptions(replicas=3, max_bytes=1 << 30))
        appended = await log.append(SUBJECTS.term, b"elected", expect=Expect(0))
        answer = await router.request(f"$JS.API.STREAM.INFO.{SUBJECTS.stream}", b"", timeout_s=5)
    assert appended.seq == 1
    peers = json.loads(answer.payload)["cluster"]
    assert {peers["leader"], *(peer["name"] for peer in peers["replicas"])} == {"nats-1", "nats-2", "nats-3"}


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

        seen = [record.payload async for record in log.read([SUBJECTS.group("orders", "g1")])]
        routes = [record.payload async for record in clients_log.read([SUBJECTS.topology])]
        last = await log.last(SUBJECTS.fence("orders", "g1"))
    assert seen == [b"registered", b"promoted", b"call", b"outcome"]
    assert routes == [b"registered", b"promoted"]
    assert last is not None
    assert last.payload == b"promoted"


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
        Router(RouterOptions(cluster.url("router"), "trading", id="router-1", log=log)),
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
        for user in ("router", "orders-1", "quotes-1", "strategy-7"):
            status = await asyncio.to_thread(
                subprocess.run,
                [
                    sys.executable,
                    "-m",
                    "aegisipc.router.cli.main",
                    "status",
                    "--json",
                    "--url",
                    cluster.url(user),
                ],
                env={"AEGIS_NAMESPACE": "trading"},
                capture_output=True,
                text=True,
                timeout=30,
                check=True,
            )
            told = json.loads(status.stdout)
            assert told["router"]["router"] == "router-1", user
            assert told["services"]["orders"]["groups"]["g1"]["instances"]["orders-1"]["pulse"], user
    assert cluster.refusals() == refused_before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("user", "subject"),
    [
        ("strategy-7", SUBJECTS.call("orders", "g1", "strategy-8")),
        ("strategy-7", SUBJECTS.pen("orders", "g1", "orders-1")),
        ("strategy-7", SUBJECTS.fence("orders", "g1")),
        ("strategy-7", SUBJECTS.reply("strategy-8")),
        ("orders-1", SUBJECTS.pen("orders", "g1", "orders-2")),
        ("orders-1", SUBJECTS.instance("orders", "g1", "orders-2")),
        ("orders-1", SUBJECTS.fence("orders", "g1")),
        ("orders-1", SUBJECTS.watch("orders", "g1")),
        ("orders-1", SUBJECTS.term),
        ("orders-1", SUBJECTS.pulse("instance", "orders-2")),
        ("orders-1", f"$JS.API.CONSUMER.MSG.NEXT.{SUBJECTS.stream}.pool-quotes"),
        ("quotes-1", f"$JS.API.CONSUMER.DELETE.{SUBJECTS.stream}.pool-quotes"),
        ("strategy-7", f"$JS.API.CONSUMER.CREATE.{SUBJECTS.stream}.pool-quotes"),
        ("strategy-7", f"$JS.API.CONSUMER.DELETE.{SUBJECTS.stream}.pool-quotes"),
        ("orders-1", f"$JS.API.STREAM.DELETE.{SUBJECTS.stream}"),
        ("router", SUBJECTS.call("orders", "g1", "strategy-7")),
        ("router", SUBJECTS.pen("orders", "g1", "orders-1")),
        ("router", f"$JS.API.STREAM.DELETE.{SUBJECTS.stream}"),
    ],
)
async def test_a_role_cannot_write_what_another_role_writes(
    cluster: Cluster, user: str, subject: str
) -> None:
    async with await cluster.connect(user) as connection:
        with pytest.raises(PermissionDenied):
            await connection.request(subject, b"forged", timeout_s=5)


@pytest.mark.slow
async def test_only_the_system_user_sees_connections(cluster: Cluster) -> None:
    async with await cluster.connect("sys") as system:
        await system.subscribe("$SYS.ACCOUNT.*.DISCONNECT", lambda _: None)
        with pytest.raises(AegisError):
            await system.request(SUBJECTS.term, b"forged", timeout_s=1)
