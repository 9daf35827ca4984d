"""Servers that are not there, not right or not willing: everybody is told what is wrong and what to do."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from aegisipc.eventstore.errors import (
    BadCredentials,
    LogFull,
    LogMisconfigured,
    LogMissing,
    NotConnected,
    ServerUnsuitable,
)
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.streams import LogOptions
from aegisipc.router.application.router import Router, RouterOptions
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from aegisipc.router.infrastructure.free_ports import choose_free_port
from aegisipc.sdk import Service, connect
from aegisipc.sdk.instance import Instance, InstanceOptions
from tests.e2e.kit import Place

echoes = Service("echoes")

type Enter = Callable[[str], Awaitable[None]]


@echoes.method(effect="pure")
async def echo(value: bytes) -> bytes:
    return value


async def client_of(url: str) -> None:
    async with connect(url):
        raise AssertionError("it must not connect")


async def instance_of(url: str) -> None:
    async with Instance(echoes, InstanceOptions(url=url)):
        raise AssertionError("it must not join")


async def router_of(url: str) -> None:
    async with Router(RouterOptions(url, "default")):
        raise AssertionError("it must not start")


EVERYBODY = pytest.mark.parametrize("enter", [client_of, instance_of, router_of])


@EVERYBODY
async def test_nobody_listens(enter: Enter) -> None:
    url = f"nats://127.0.0.1:{choose_free_port('127.0.0.1')}"
    with pytest.raises(NotConnected) as caught:
        await enter(url)
    assert url in caught.value.message


@EVERYBODY
async def test_the_server_refuses_the_credentials(enter: Enter, tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path, fsync=False, credentials=("me", "right")) as server:
        with pytest.raises(BadCredentials) as caught:
            await enter(f"nats://me:wrong@127.0.0.1:{server.port}")
    assert "wrong" not in caught.value.message


@EVERYBODY
async def test_the_server_has_no_jetstream(enter: Enter, tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path, fsync=False, jetstream=False) as server:
        with pytest.raises(ServerUnsuitable, match="JetStream"):
            await enter(server.url)


@pytest.mark.parametrize("enter", [client_of, instance_of])
async def test_no_router_has_made_the_log_yet(enter: Enter, nats_server: EmbeddedServer) -> None:
    with pytest.raises(LogMissing, match="start a router for it"):
        await enter(nats_server.url)


@EVERYBODY
async def test_a_stream_of_that_name_is_something_else(enter: Enter, nats_server: EmbeddedServer) -> None:
    async with await Connection.open(ConnectOptions(nats_server.url)) as connection:
        config = {"name": "AEGIS_default", "subjects": ["aegis.default.log.>"], "discard": "old"}
        await connection.request(
            "$JS.API.STREAM.CREATE.AEGIS_default", json.dumps(config).encode(), timeout_s=2
        )
    with pytest.raises(LogMisconfigured, match="discard is 'old', not 'new'"):
        await enter(nats_server.url)


async def test_a_full_log_refuses_calls_at_once_and_loses_none(nats_server: EmbeddedServer) -> None:
    async with AsyncExitStack() as stack:
        place = Place(nats_server, stack)
        await place.router(log=LogOptions(max_bytes=300_000))
        await place.serve(echoes)
        client = await place.client()
        answered = 0
        for _ in range(5):
            assert await client.call("echoes.echo", b"x" * 20_000) == b"x" * 20_000
            answered += 1
        with pytest.raises(LogFull, match="log"):
            await client.call("echoes.echo", b"x" * 250_000)
        counted = await place.recount()
        assert (len(counted.accepted), counted.without) == (answered, [])


async def test_an_instance_without_a_router_says_so(own_place: Place) -> None:
    await own_place._stack.aclose()
    with pytest.raises(Exception, match="no router answered; start one"):
        await own_place.serve(echoes, join_timeout_s=0.2)
