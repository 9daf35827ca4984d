"""What the server's system account tells of connections that end, and what is made of it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]
import pytest

from aegisipc.eventstore.errors import BadCredentials, InvalidName, MalformedPayload, PermissionDenied
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.pulses import ConnectionId, PulseBoard
from aegisipc.eventstore.subjects import subjects_of
from aegisipc.router.infrastructure.disconnects import MAX_EVENT_BYTES, Disconnects, Ended, read_ended
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from aegisipc.router.infrastructure.free_ports import choose_free_port
from aegisipc.router.infrastructure.server_config import ServerConfig
from aegisipc.router.infrastructure.server_config import render as sound
from tests.router.infrastructure.children import connected_child
from tests.support.proxy import FaultyProxy
from tests.support.waiting import eventually

NAMESPACE: Final = "here"
NAME: Final = f"aegis:{NAMESPACE}:orders:g:a"
EVENT: Final[dict[str, Any]] = {
    "type": "io.nats.server.advisory.v1.client_disconnect",
    "timestamp": "2026-01-02T03:04:05.000000006Z",
    "server": {"name": "n1", "id": "S1"},
    "client": {"id": 7, "acc": "AEGIS", "name": NAME},
    "reason": "Client Closed",
}


@asynccontextmanager
async def listening(url: str) -> AsyncIterator[tuple[Disconnects, list[Ended]]]:
    """A listener on the system account at `url`, and what it was told."""
    told: list[Ended] = []
    disconnects = Disconnects(url, NAMESPACE, name="t", on_end=told.append)
    await disconnects.start()
    try:
        yield disconnects, told
    finally:
        await disconnects.stop()


async def come_and_go(url: str, name: str) -> ConnectionId:
    """Somebody connects, and closes the connection as planned."""
    async with await Connection.open(ConnectOptions(url, name=name)) as connection:
        return ConnectionId(connection.server.server_id, connection.server.client_id)


# -- what is told --------------------------------------------------------------------------------------


async def test_the_board_marks_the_instance_of_a_process_that_is_killed(
    shared_server: EmbeddedServer,
) -> None:
    subjects = subjects_of(NAMESPACE)
    board = PulseBoard(subjects, gap_ms=500)
    key = ("orders", "g", "a")

    def mark(ended: Ended) -> None:
        board.connection_ended(ended.connection, reason=ended.reason, event_ns=ended.at_ns)

    disconnects = Disconnects(shared_server.system_url, NAMESPACE, name="t", on_end=mark)
    await disconnects.start()
    async with connected_child(shared_server.url, NAME) as child:
        server, client_id = child.connection
        report = {"service": "orders", "group": "g", "incarnation": "1", "server": server, "cid": client_id}
        board.now_ns = time.time_ns()
        board.apply(Record(1, subjects.pulse("instance", "a"), msgpack.packb(report), board.now_ns))
        assert board.disconnected(key, "1") is None
        child.kill()
        await eventually(lambda: board.disconnected(key, "1"), within_s=5, what="the server's word")
    await disconnects.stop()
    assert disconnects.told == 1


async def test_a_connection_closed_as_planned_is_told_of_too(shared_server: EmbeddedServer) -> None:
    async with listening(shared_server.system_url) as (_, told):
        connection = await come_and_go(shared_server.url, NAME)
        await eventually(lambda: told, within_s=5)
    assert [(e.name, e.connection, e.reason) for e in told] == [(NAME, connection, "Client Closed")]
    assert abs(told[0].at_ns - time.time_ns()) < 60e9


async def test_connections_of_others_are_not_told_of(shared_server: EmbeddedServer) -> None:
    others = ["x", "aegis:client:c", "aegis:elsewhere:orders:g:a", f"aegis:{NAMESPACE}:orders:g", f"{NAME}:b"]
    others += [f"my {NAME}"]
    async with listening(shared_server.system_url) as (disconnects, told):
        for name in others:
            await come_and_go(shared_server.url, name)
        connection = await come_and_go(shared_server.url, NAME)
        await eventually(lambda: told, within_s=5)
        assert [ended.connection for ended in told] == [connection]
        assert (disconnects.told, disconnects.ignored, disconnects.unreadable) == (1, 0, 0)


async def test_one_that_an_operator_disconnects_is_not_taken_for_dead(shared_server: EmbeddedServer) -> None:
    async with AsyncExitStack() as stack:
        disconnects, told = await stack.enter_async_context(listening(shared_server.system_url))
        options = ConnectOptions(shared_server.system_url, require_jetstream=False)
        operator = await stack.enter_async_context(await Connection.open(options))
        kicked = await stack.enter_async_context(
            await Connection.open(ConnectOptions(shared_server.url, name=NAME))
        )
        server = kicked.server
        body = json.dumps({"cid": server.client_id}).encode()
        await operator.request(f"$SYS.REQ.SERVER.{server.server_id}.KICK", body, timeout_s=5)
        await eventually(lambda: disconnects.ignored, within_s=5, what="the kick to be ignored")
        assert told == []


async def test_a_server_that_is_stopped_tells_of_nobody_and_is_heard_again_when_it_is_back(
    nats_server: EmbeddedServer,
) -> None:
    async with listening(nats_server.system_url) as (disconnects, told):
        async with await Connection.open(ConnectOptions(nats_server.url, name=NAME)) as instance:
            await nats_server.stop()
            await eventually(lambda: not disconnects.is_connected, within_s=5)
            await nats_server.start()
            await instance.wait_connected(10)
            await eventually(lambda: disconnects.is_connected, within_s=10)
            assert told == []
            again = ConnectionId(instance.server.server_id, instance.server.client_id)
        await eventually(lambda: told, within_s=5)
        assert [ended.connection for ended in told] == [again]


async def test_a_lost_link_to_the_system_account_is_replaced(shared_server: EmbeddedServer) -> None:
    async with FaultyProxy(shared_server.url) as proxy:
        url = shared_server.system_url.replace(shared_server.url.removeprefix("nats://"), proxy.url[7:])
        async with listening(url) as (disconnects, told):
            await proxy.refuse()
            await proxy.reset()
            await eventually(lambda: not disconnects.is_connected, within_s=5)
            await proxy.listen()
            await eventually(lambda: disconnects.is_connected, within_s=10)
            await come_and_go(shared_server.url, NAME)
            await eventually(lambda: told, within_s=5)


async def test_a_server_that_is_not_there_yet_is_heard_once_it_is(tmp_path: Path) -> None:
    port = choose_free_port("127.0.0.1")
    server = EmbeddedServer(tmp_path, port=port, fsync=False)
    await server.start()
    await server.stop()
    async with listening(server.system_url) as (disconnects, told):
        assert not disconnects.is_connected
        async with server:
            await eventually(lambda: disconnects.is_connected, within_s=10)
            await come_and_go(server.url, NAME)
            await eventually(lambda: told, within_s=5)


async def test_one_that_waits_for_its_server_can_be_stopped() -> None:
    url = f"nats://sys:x@127.0.0.1:{choose_free_port('127.0.0.1')}"
    async with listening(url) as (disconnects, _):
        assert not disconnects.is_connected
    await disconnects.stop()
    assert not any(task.get_name() == "router system account" for task in asyncio.all_tasks())


# -- what is refused -----------------------------------------------------------------------------------


async def test_wrong_credentials_are_refused_with_what_to_do(shared_server: EmbeddedServer) -> None:
    url = shared_server.url.replace("nats://", "nats://sys:wrong@")
    with pytest.raises(BadCredentials, match=r"cannot use the system account: .*--system-url") as caught:
        await Disconnects(url, NAMESPACE, name="t", on_end=print).start()
    assert "wrong@" not in caught.value.message


async def test_a_user_of_another_account_is_refused_for_it_would_never_hear_anything(
    shared_server: EmbeddedServer,
) -> None:
    with pytest.raises(BadCredentials, match="does not belong to the system account"):
        await Disconnects(shared_server.url, NAMESPACE, name="t", on_end=print).start()


async def test_a_url_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidName):
        await Disconnects("http://x", NAMESPACE, name="t", on_end=print).start()


def allow_system_user(monkeypatch: pytest.MonkeyPatch, permissions: str) -> None:
    """Let servers that start from now on hold the user of the system account to that."""

    def render(config: ServerConfig) -> str:
        password = json.dumps(config.system_password)
        return sound(config).replace(f"password: {password}", f"password: {password}, {permissions}")

    monkeypatch.setattr("aegisipc.router.infrastructure.embedded.render", render)


async def test_a_user_who_may_not_hear_of_connections_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow_system_user(monkeypatch, 'permissions: { subscribe: "_INBOX.>" }')
    async with EmbeddedServer(tmp_path, fsync=False) as server:
        with pytest.raises(PermissionDenied, match="may not subscribe") as caught:
            await Disconnects(server.system_url, NAMESPACE, name="t", on_end=print).start()
    assert "DISCONNECT" in caught.value.subject


async def test_a_user_who_may_only_hear_of_connections_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hears = '["$SYS.ACCOUNT.*.DISCONNECT", "_INBOX.>"]'
    allow_system_user(monkeypatch, f'permissions: {{ publish: {{ deny: ">" }}, subscribe: {hears} }}')
    async with EmbeddedServer(tmp_path, fsync=False) as server, listening(server.system_url) as (_, told):
        await come_and_go(server.url, NAME)
        await eventually(lambda: told, within_s=5)


# -- what a server's event says ------------------------------------------------------------------------


def test_an_event_says_who_was_disconnected_and_why() -> None:
    ended = read_ended(json.dumps(EVENT).encode())
    assert ended == Ended(NAME, ConnectionId("S1", 7), "Client Closed", 1_767_323_045_000_000_006)
    assert ended.says_something


@pytest.mark.parametrize("reason", ["Server Shutdown", "Kicked", "Authentication Expired"])
def test_reasons_that_lie_with_the_server_say_nothing_of_the_client(reason: str) -> None:
    assert not read_ended(json.dumps(EVENT | {"reason": reason}).encode()).says_something


@pytest.mark.parametrize("reason", ["Read Error", "Stale Connection", "Slow Consumer (Pending Bytes)", ""])
def test_reasons_that_may_lie_with_the_client_do(reason: str) -> None:
    assert read_ended(json.dumps(EVENT | {"reason": reason}).encode()).says_something


ODD: Final[list[bytes]] = [
    b"",
    b"\xff",
    b"[" * 10_000,
    b"[]",
    b"{}",
    *(json.dumps(EVENT | {key: value}).encode() for key in EVENT if key != "type" for value in (5, None)),
    json.dumps(EVENT | {"timestamp": "yesterday"}).encode(),
    json.dumps(EVENT | {"client": {"id": "7", "name": NAME}}).encode(),
    json.dumps(EVENT | {"client": {"id": 7, "name": [NAME]}}).encode(),
    json.dumps(EVENT | {"server": {"id": {}}}).encode(),
    json.dumps(EVENT | {"more": "x" * MAX_EVENT_BYTES}).encode(),
]


@pytest.mark.parametrize("payload", ODD, ids=range(len(ODD)))
def test_an_event_that_is_none_cannot_be_read(payload: bytes) -> None:
    with pytest.raises(MalformedPayload, match="cannot read"):
        read_ended(payload)


async def test_events_that_cannot_be_read_are_counted_and_the_next_one_is_heard(
    shared_server: EmbeddedServer,
) -> None:
    async with listening(shared_server.system_url) as (disconnects, told):
        options = ConnectOptions(shared_server.system_url, require_jetstream=False)
        async with await Connection.open(options) as other:
            await other.publish("$SYS.ACCOUNT.AEGIS.DISCONNECT", f"{{ {NAME}".encode())
        await come_and_go(shared_server.url, NAME)
        await eventually(lambda: told, within_s=5)
        assert disconnects.unreadable == 1
