"""Servers that are not there, do not want us, or will not do."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from pathlib import Path

import pytest

from aegisipc.eventstore.errors import BadCredentials, NotConnected, PermissionDenied, ServerUnsuitable
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.events import Event, ReconnectFailed, SubjectRefused
from aegisipc.eventstore.nats.message import Message
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from aegisipc.router.infrastructure.embedded_cluster import running_cluster, three_node_cluster
from aegisipc.router.infrastructure.free_ports import choose_free_port
from tests.support.fake_server import fake_server
from tests.support.waiting import eventually

from .conftest import Opener


async def test_no_server_there_names_the_url_and_what_to_do() -> None:
    url = f"nats://127.0.0.1:{choose_free_port('127.0.0.1')}"
    with pytest.raises(NotConnected, match="check the URL") as caught:
        await Connection.open(ConnectOptions(url=url))
    assert url in str(caught.value)


async def test_a_server_that_says_nothing_is_given_up_after_the_timeout() -> None:
    async with fake_server(None) as url:
        began = time.monotonic()
        with pytest.raises(NotConnected, match="no answer"):
            await Connection.open(ConnectOptions(url=url, connect_timeout_s=0.2))
        assert time.monotonic() - began < 2.0


async def test_wrong_credentials_are_named_as_such_and_not_shown(tmp_path: Path, connect: Opener) -> None:
    async with EmbeddedServer(tmp_path, fsync=False, credentials=("trader", "s3cret/@:")) as server:
        await connect(server.url)
        address = server.url.rpartition("@")[2]
        for url in (f"nats://{address}", f"nats://trader:wr0ng@{address}", f"nats://t0ken@{address}"):
            with pytest.raises(BadCredentials) as caught:
                await connect(url)
            assert "wr0ng" not in str(caught.value)
            assert "t0ken" not in str(caught.value)
        await connect(f"nats://{address}", user="trader", password="s3cret/@:")


async def test_a_credentials_file_that_cannot_be_used_is_bad_credentials(
    tmp_path: Path, shared_server: EmbeddedServer, connect: Opener
) -> None:
    with pytest.raises(BadCredentials, match="credentials file"):
        await connect(shared_server.url, creds_file=tmp_path / "missing.creds")


async def test_a_server_without_jetstream_will_not_do(tmp_path: Path, connect: Opener) -> None:
    async with EmbeddedServer(tmp_path, jetstream=False) as server:
        with pytest.raises(ServerUnsuitable, match="JetStream is off"):
            await connect(server.url)
        await connect(server.url, require_jetstream=False)


async def test_a_server_older_than_2_11_will_not_do_and_its_version_is_named() -> None:
    info = {
        "version": "2.10.0",
        "jetstream": True,
        "max_payload": 1048576,
        "headers": True,
        "server_id": "old",
    }
    async with fake_server(info) as url:
        with pytest.raises(ServerUnsuitable, match=re.escape("2.10.0")) as caught:
            await Connection.open(ConnectOptions(url=url))
    assert caught.value.version == "2.10.0"


async def test_the_first_server_that_takes_us_is_used(shared_server: EmbeddedServer, connect: Opener) -> None:
    nobody = f"nats://127.0.0.1:{choose_free_port('127.0.0.1')}"
    client = await connect(f"{nobody}, {shared_server.url}")
    assert client.server.url == shared_server.url


async def test_refused_credentials_after_a_restart_are_tried_again_until_they_are_right(
    tmp_path: Path, connect: Opener
) -> None:
    server = EmbeddedServer(tmp_path, fsync=False, credentials=("a", "right"))
    async with server:
        client = await connect(server.url)
        failures: list[Event] = []
        client.on_event(failures.append)
    stranger = EmbeddedServer(tmp_path, fsync=False, credentials=("a", "other"), port=server.port)
    async with stranger:
        refused = ReconnectFailed
        await eventually(
            lambda: any(isinstance(event, refused) and "credentials" in event.reason for event in failures),
            within_s=3,
        )
    async with server:
        await client.wait_connected(5)
        await client.flush(2)


async def test_a_client_of_one_cluster_node_moves_to_another(tmp_path: Path, connect: Opener) -> None:
    nodes = three_node_cluster(tmp_path, fsync=False)
    async with running_cluster(nodes):
        client = await connect(nodes[0].url)
        assert client.server.cluster == "aegis"
        await eventually(lambda: len(client.server.discovered) >= 1, within_s=1)
        await nodes[0].kill()
        await eventually(lambda: client.generation == 2, within_s=5)
        assert client.server.server_name in {"node-2", "node-3"}


@pytest.fixture
async def restricted_url(nats_server: EmbeddedServer) -> str:
    """The server, after it was told to let our user publish ``ok.>`` only and never read ``Secret.>``."""
    path = nats_server.data_dir / "nats-server.conf"
    permissions = 'permissions: { publish: ["ok.>", "_INBOX.>"], subscribe: { deny: "Secret.>" } }'
    text = re.sub(r'(user: "aegis", password: "[^"]*")', rf"\1, {permissions}", path.read_text())
    path.write_text(text)
    os.kill(nats_server.pid, signal.SIGHUP)
    await eventually(lambda: "Reloaded" in nats_server.log_path.read_text(), within_s=3, what="the reload")
    return nats_server.url


async def test_a_refused_publish_fails_its_request_and_keeps_the_session(
    restricted_url: str, connect: Opener
) -> None:
    client = await connect(restricted_url)
    events: list[Event] = []
    client.on_event(events.append)
    with pytest.raises(PermissionDenied) as caught:
        await client.request("Not.Ok", b"", timeout_s=10)
    assert caught.value.subject == "Not.Ok"
    assert events == [SubjectRefused("publish", "not.ok")]
    got: list[Message] = []
    await client.subscribe("ok.x", got.append)
    await client.publish("ok.x", b"")
    await eventually(lambda: got, within_s=2)
    assert client.generation == 1


async def test_a_refused_subscription_is_an_error_and_not_repeated_on_the_next_session(
    restricted_url: str, connect: Opener, nats_server: EmbeddedServer
) -> None:
    client = await connect(restricted_url)
    with pytest.raises(PermissionDenied) as caught:
        await client.subscribe("Secret.x", lambda _: None)
    assert caught.value.subject == "Secret.x"
    events: list[Event] = []
    client.on_event(events.append)
    await nats_server.restart()
    await client.wait_connected(5)
    await asyncio.sleep(0)
    assert not any(isinstance(event, SubjectRefused) for event in events)
