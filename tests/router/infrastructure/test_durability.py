"""How servers keep the log: what they say through their system account, and what clients claim by that."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from aegisipc.eventstore.errors import MalformedPayload, NoResponders
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.streams import LogOptions
from aegisipc.eventstore.subjects import subjects_of
from aegisipc.router.application.router import Router, RouterOptions
from aegisipc.router.infrastructure.durability import (
    ALWAYS,
    INTERVAL,
    UNKNOWN,
    Syncing,
    judge,
    keepers_in,
    read_syncing,
)
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from aegisipc.sdk import connect
from aegisipc.sdk.receipts import Durability, Receipt

A, B, C = (Syncing(name, True, 0.0) for name in "abc")
LAZY = Syncing("b", False, 120.0)


def answer(**config: Any) -> bytes:
    return json.dumps({"server": {"name": "n1"}, "data": {"config": config}}).encode()


def test_a_servers_answer_is_read() -> None:
    told = answer(sync_interval=120_000_000_000, sync_always=True)
    assert read_syncing(told) == Syncing("n1", True, 120.0)
    assert read_syncing(answer(sync_interval=5_000_000_000)) == Syncing("n1", False, 5.0)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"5",
        b"{}",
        b'{"server": {}, "data": {"config": {}}}',
        b'{"server": {"name": 5}, "data": {"config": {}}}',
        b'{"server": {"name": "n"}, "data": {"config": null}}',
        b'{"server": {"name": "n"}, "data": {}}',
        answer(sync_always="yes"),
        answer(sync_interval="2m"),
        b"[" * 100_000,
    ],
    ids=lambda payload: payload[:40].decode(),
)
def test_what_is_no_answer_is_refused(payload: bytes) -> None:
    with pytest.raises(MalformedPayload, match="cannot read how a server keeps streams"):
        read_syncing(payload)


@pytest.mark.parametrize(
    ("told", "keepers", "verdict"),
    [
        ([A], None, (ALWAYS, 0.0)),
        ([LAZY], None, (INTERVAL, 120.0)),
        ([], None, (UNKNOWN, 0.0)),
        ([A, B], None, (UNKNOWN, 0.0)),  # one of them keeps it, but which?
        ([A, B, C], {"a", "b", "c"}, (ALWAYS, 0.0)),
        ([A, LAZY, C], {"a", "b", "c"}, (INTERVAL, 120.0)),
        ([A, LAZY, C], {"a", "c"}, (ALWAYS, 0.0)),
        ([A, C], {"a", "b", "c"}, (UNKNOWN, 0.0)),
        ([LAZY], {"a", "b", "c"}, (INTERVAL, 120.0)),
        ([A], {"x"}, (UNKNOWN, 0.0)),
    ],
)
def test_nothing_is_claimed_that_not_every_keeper_says(
    told: list[Syncing], keepers: set[str] | None, verdict: tuple[str, float]
) -> None:
    assert judge(told, keepers) == verdict


def test_the_servers_that_keep_a_stream_are_read_from_its_information() -> None:
    cluster = {"leader": "a", "replicas": [{"name": "b"}, {"name": "c"}, 5, {}]}
    assert keepers_in({"cluster": cluster}) == {"a", "b", "c"}
    assert keepers_in({"cluster": {"leader": "a"}}) == {"a"}
    assert keepers_in({}) is None
    assert keepers_in({"cluster": {}}) is None


@pytest.mark.parametrize(
    ("fsync", "system", "durability", "told"),
    [
        (True, True, "fsynced", "always"),
        (False, True, "written", "interval"),
        (True, False, "written", "unknown"),
    ],
)
async def test_a_receipt_says_what_the_server_does(
    tmp_path: Path, fsync: bool, system: bool, durability: str, told: str
) -> None:
    async with EmbeddedServer(tmp_path / "nats", fsync=fsync) as server:
        url = server.system_url if system else None
        async with (
            Router(RouterOptions(server.url, "n", system_url=url)),
            connect(server.url, namespace="n") as client,
        ):
            await client._seeker.learn()
            assert client._seeker.receipt(7) == Receipt(durability, 1, 7, told)  # type: ignore[arg-type]


async def test_a_log_in_memory_is_never_said_to_be_more(nats_server: EmbeddedServer) -> None:
    options = RouterOptions(
        nats_server.url, "n", system_url=nats_server.system_url, log=LogOptions(storage="memory")
    )
    async with Router(options), connect(nats_server.url, namespace="n") as client:
        await client._seeker.learn()
        assert client._seeker.receipt(7) == Receipt("memory", 1, 7)


async def test_many_who_ask_at_once_have_one_answer(nats_server: EmbeddedServer) -> None:
    options = RouterOptions(nats_server.url, "n", system_url=nats_server.system_url)
    async with Router(options), await Connection.open(ConnectOptions(nats_server.url)) as asker:
        subject = subjects_of("n").api("durability")
        answers = await asyncio.gather(*(asker.request(subject, b"{}", timeout_s=5) for _ in range(20)))
        assert {message.payload for message in answers} == {answers[0].payload}
        plain = json.loads(answers[0].payload)
        assert plain == {
            "ok": True,
            "fsync": "interval",
            "interval_s": 120.0,
            "replicas": 1,
            "storage": "file",
        }
        asker.publish_nowait(subject, b"no reply wanted")


async def test_a_router_without_the_system_account_takes_no_questions(nats_server: EmbeddedServer) -> None:
    async with (
        Router(RouterOptions(nats_server.url, "n")),
        await Connection.open(ConnectOptions(nats_server.url)) as asker,
    ):
        with pytest.raises(NoResponders):
            await asker.request(subjects_of("n").api("durability"), b"{}", timeout_s=5)


async def test_a_system_account_that_is_none_leaves_it_unknown(nats_server: EmbeddedServer) -> None:
    options = RouterOptions(nats_server.url, "n", system_url=nats_server.system_url)
    async with Router(options) as router, await Connection.open(ConnectOptions(nats_server.url)) as asker:
        desk = router._servers
        assert desk is not None
        await asyncio.wait({desk._read_soon()})
        desk._known = None
        system, desk._system = desk._system, await Connection.open(ConnectOptions(nats_server.url))
        assert system is not None
        await system.close()
        message = await asker.request(subjects_of("n").api("durability"), b"{}", timeout_s=5)
        assert json.loads(message.payload)["fsync"] == "unknown"


@pytest.mark.parametrize("payload", [b"", b"5", b"[]", b"{}", b'{"fsync": "perhaps"}', b'{"fsync": 1}'])
async def test_a_client_takes_no_odd_answer_for_a_promise(
    nats_server: EmbeddedServer, payload: bytes
) -> None:
    async with (
        Router(RouterOptions(nats_server.url, "n")),
        await Connection.open(ConnectOptions(nats_server.url)) as other,
        await Connection.open(ConnectOptions(nats_server.url)) as connection,
    ):
        await other.subscribe(
            subjects_of("n").api("durability"),
            lambda message: other.publish_nowait(message.reply, payload),
        )
        await other.flush(5)
        durability = Durability(connection, subjects_of("n"))
        assert durability.receipt(1).durability == "memory"  # nothing is known yet
        await durability.read()
        await durability.learn()
        assert durability.receipt(1) == Receipt("written", 1, 1, "unknown")


@pytest.mark.parametrize(
    ("storage", "replicas", "fsync", "receipt"),
    [
        ("file", 3, "always", Receipt("replicated", 3, 1, "always")),
        ("file", 5, "interval", Receipt("replicated", 5, 1, "interval")),
        ("file", 3, None, Receipt("replicated", 3, 1, "unknown")),
        ("file", 2, "interval", Receipt("written", 2, 1, "interval")),
        ("file", 2, "always", Receipt("fsynced", 2, 1, "always")),
        ("memory", 3, "always", Receipt("memory", 3, 1)),
        ("something new", 3, "always", Receipt("memory", 3, 1)),
    ],
)
async def test_a_receipt_never_claims_more_than_is_known(
    nats_server: EmbeddedServer, storage: str, replicas: int, fsync: Any, receipt: Receipt
) -> None:
    async with await Connection.open(ConnectOptions(nats_server.url)) as connection:
        durability = Durability(connection, subjects_of("n"))
        durability._storage, durability._replicas, durability._fsync = storage, replicas, fsync
        assert durability.receipt(1) == receipt


async def test_after_a_reconnect_it_is_asked_again(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path / "nats", fsync=True) as server:
        options = RouterOptions(server.url, "n", system_url=server.system_url)
        async with Router(options), connect(server.url, namespace="n") as client:
            await client._seeker.learn()
            assert client._seeker.receipt(1).durability == "fsynced"
            await server.restart()
            await client._connection.wait_connected(10)
            assert client._seeker.receipt(1).durability == "written"  # nothing is claimed of this one yet
