"""The proxy before a real server: what it breaks, and that it breaks nothing else."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegisipc.chaos.nemeses.network import FaultyProxy
from aegisipc.chaos.nemeses.protocol import (
    NotNats,
    Splitter,
    client_name,
    is_plain,
    of_subjects,
    read_frame,
)
from aegisipc.chaos.nemeses.rules import Towards
from aegisipc.eventstore.errors import AckUnknown, NotConnected
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.message import Message
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from tests.support.waiting import eventually

OPERATIONS = [
    b"PING\r\n",
    b'CONNECT {"name":"x"}\r\n',
    b"-ERR 'no'\r\n",
    b"PUB a.b 3\r\n1\r\n\r\n",
    b"PUB a.b r.1 0\r\n\r\n",
    b"HPUB a r 12 14\r\nNATS/1.0\r\n\r\nhi\r\n",
    b"MSG a 7 2\r\nhi\r\n",
    b"HMSG a 7 r 12 14\r\nNATS/1.0\r\n\r\nhi\r\n",
]


@given(st.lists(st.sampled_from(OPERATIONS)), st.lists(st.integers(0, 300)))
def test_operations_are_found_however_the_bytes_arrive(operations: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(operations)
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    splitter, found = Splitter(), []
    for begin, end in pairwise(places):
        whole, bounds = splitter.feed(stream[begin:end])
        found += [whole[first:last] for first, last in bounds]
        assert b"".join(whole[first:last] for first, last in bounds) == whole
    assert found == operations
    assert splitter.rest() == b""


@pytest.mark.parametrize(
    "stream", [b"\r\n", b"PUB\r\n", b"PUB a x\r\n", b"PUB a -1\r\n", b"PUB a 1\r\nhello\r\n", b"x" * 100_000]
)
def test_what_is_not_the_protocol_is_refused_and_given_back(stream: bytes) -> None:
    splitter = Splitter()
    with pytest.raises(NotNats):
        splitter.feed(stream)
    assert splitter.rest() == stream


def test_a_message_says_what_it_is() -> None:
    frame = read_frame(b"HMSG a.b 7 r.1 12 14\r\nNATS/1.0\r\n\r\nhi\r\n")
    assert (frame.subject, frame.reply, frame.headers, frame.payload) == (
        "a.b",
        "r.1",
        b"NATS/1.0\r\n\r\n",
        b"hi",
    )
    assert is_plain(frame)
    assert not is_plain(read_frame(b"MSG a 7 $JS.ACK.s.c.1.2.3.4.0 2\r\nhi\r\n"))
    assert not is_plain(read_frame(b"HMSG a 7 15 15\r\nNATS/1.0 100\r\n\r\n\r\n"))
    assert of_subjects("x", "a.*")(frame)
    assert of_subjects("a.>")(frame)
    assert not of_subjects("a", "a.b.>", "b.*")(frame)
    assert client_name(b'CONNECT {"name":"x"}\r\n') == "x"
    assert client_name(b"PING\r\n") is None


# -- on a server -----------------------------------------------------------------------------------------


@asynccontextmanager
async def connected(
    server: EmbeddedServer, name: str = "me"
) -> AsyncIterator[tuple[FaultyProxy, Connection]]:
    """A connection through the proxy, and a service ``echo`` that answers who asks, directly connected."""

    async def answer(message: Message) -> None:
        await direct.publish(message.reply, message.payload)

    async with (
        FaultyProxy(server.url, rng=random.Random(1)) as proxy,
        await Connection.open(ConnectOptions(server.url)) as direct,
    ):
        await direct.subscribe(f"{name}.echo", answer)
        async with await Connection.open(ConnectOptions(proxy.url, name=name)) as connection:
            yield proxy, connection


async def ask(connection: Connection, payload: bytes = b"?", *, timeout_s: float = 10.0) -> bytes:
    answer = await connection.request(f"{connection.options.name}.echo", payload, timeout_s=timeout_s)
    return answer.payload


async def ask_until_answered(connection: Connection) -> None:
    async with asyncio.timeout(15):
        while True:
            try:
                await ask(connection, timeout_s=1)
            except (AckUnknown, NotConnected):
                await asyncio.sleep(0.01)
            else:
                return


async def test_without_faults_everything_passes_large_messages_too(shared_server: EmbeddedServer) -> None:
    async with connected(shared_server) as (proxy, connection):
        bodies = [bytes([n % 251]) * size for n, size in enumerate((0, 1, 70_000, 900_000))]
        assert await asyncio.gather(*(ask(connection, body) for body in bodies)) == bodies
        assert proxy.names == ["me"]
        assert proxy.counts.not_nats == 0
        assert proxy.counts.to_client_bytes > 970_000
    assert proxy.open_links == 0


async def test_what_a_partition_held_arrives_when_it_is_over(shared_server: EmbeddedServer) -> None:
    async with connected(shared_server) as (proxy, connection):
        proxy.partition()
        with pytest.raises(AckUnknown):
            await ask(connection, timeout_s=0.1)
        asking = asyncio.create_task(ask(connection, b"held"))
        await asyncio.sleep(0)
        await proxy.pass_all()
        assert await asking == b"held"
        assert proxy.counts.accepted == 1


async def test_what_a_lossy_partition_took_never_arrives(shared_server: EmbeddedServer) -> None:
    async with connected(shared_server) as (proxy, connection):
        proxy.partition(is_lossy=True)
        asking = asyncio.create_task(ask(connection, b"gone"))
        await eventually(lambda: proxy.counts.lost_bytes, within_s=5)
        await proxy.pass_all()
        with pytest.raises(AckUnknown):
            await asking
        await ask_until_answered(connection)
        assert proxy.counts.accepted == 2


async def test_one_way_loss_leaves_the_other_way_open(shared_server: EmbeddedServer) -> None:
    heard: list[bytes] = []

    async def hear(message: Message) -> None:
        heard.append(message.payload)

    async with (
        connected(shared_server) as (proxy, connection),
        await Connection.open(ConnectOptions(shared_server.url)) as direct,
    ):
        await direct.subscribe("me.said", hear)
        await connection.subscribe("me.told", hear)
        await ask(connection)
        proxy.one_way(Towards.CLIENT)
        await connection.publish("me.said", b"to the server")
        await eventually(lambda: heard == [b"to the server"], within_s=5)
        await proxy.pass_all()
        proxy.one_way(Towards.SERVER)
        await direct.publish("me.told", b"to the client")
        await eventually(lambda: heard[1:] == [b"to the client"], within_s=5)
        await proxy.pass_all()


async def test_a_silent_network_lets_nobody_connect_until_it_heals(shared_server: EmbeddedServer) -> None:
    async with connected(shared_server) as (proxy, _):
        proxy.partition()
        opening = asyncio.create_task(Connection.open(ConnectOptions(proxy.url, name="late")))
        await eventually(lambda: proxy.counts.accepted == 2, within_s=5)
        assert proxy.open_links == 1
        await proxy.pass_all()
        async with await opening:
            assert proxy.names == ["late", "me"]


@pytest.mark.parametrize("closed", list(Towards))
async def test_of_a_half_open_connection_one_side_knows_nothing(
    shared_server: EmbeddedServer, closed: Towards
) -> None:
    async with connected(shared_server) as (proxy, connection):
        before = connection.generation
        assert proxy.half_open(closed) == 1
        if closed is Towards.SERVER:
            with pytest.raises(AckUnknown):
                await ask(connection, timeout_s=0.1)
            assert connection.is_connected
            assert connection.generation == before
            await proxy.pass_all()
        await ask_until_answered(connection)
        assert (proxy.counts.half_opened, proxy.counts.accepted) == (1, 2)


async def test_delays_add_up_and_keep_the_order(shared_server: EmbeddedServer) -> None:
    async with connected(shared_server) as (proxy, connection):
        heard: list[int] = []

        async def hear(message: Message) -> None:
            heard.append(int(message.payload))

        await connection.subscribe("me.numbers", hear)
        proxy.delay(0.03, 0.02)
        loop = asyncio.get_running_loop()
        began = loop.time()
        await ask(connection)
        assert loop.time() - began >= 0.02
        for number in range(50):
            await connection.publish("me.numbers", b"%d" % number)
            await asyncio.sleep(0)
        await eventually(lambda: len(heard) == 50, within_s=10)
        assert heard == list(range(50))
        assert proxy.counts.delayed > 2


async def test_connections_are_reset_and_made_again(shared_server: EmbeddedServer) -> None:
    async with connected(shared_server) as (proxy, connection):
        assert proxy.reset() == 1
        await ask_until_answered(connection)
        assert proxy.counts.resets == 1
        assert proxy.counts.accepted == 2


@pytest.mark.parametrize("towards", list(Towards))
async def test_a_connection_breaks_in_the_middle_of_a_message(
    shared_server: EmbeddedServer, towards: Towards
) -> None:
    async with connected(shared_server) as (proxy, connection):
        assert proxy.reset_mid_frame(towards) == 1
        with pytest.raises(AckUnknown):
            await ask(connection, b"x" * 1000)
        assert proxy.counts.mid_frame_resets == 1
        await ask_until_answered(connection)


async def test_nobody_is_let_in_while_it_refuses(shared_server: EmbeddedServer) -> None:
    async with connected(shared_server) as (proxy, connection):
        proxy.refuse()
        assert await ask(connection) == b"?"
        with pytest.raises(NotConnected):
            await Connection.open(ConnectOptions(proxy.url))
        await proxy.pass_all()
        await (await Connection.open(ConnectOptions(proxy.url))).close()


async def test_faults_hit_only_who_is_aimed_at(shared_server: EmbeddedServer) -> None:
    async with (
        connected(shared_server) as (proxy, connection),
        await Connection.open(ConnectOptions(proxy.url, name="other")) as other,
    ):
        await eventually(lambda: proxy.names == ["me", "other"], within_s=5)
        proxy.aim(lambda name: name == "other")
        proxy.partition(is_lossy=True)
        assert await ask(connection) == b"?"
        with pytest.raises(AckUnknown):
            await other.request("me.echo", b"", timeout_s=0.1)
        await proxy.pass_all()
        assert proxy.counts.accepted in {2, 3}


async def test_messages_come_twice_late_in_another_order_or_not_at_all(shared_server: EmbeddedServer) -> None:
    async with (
        connected(shared_server) as (proxy, connection),
        await Connection.open(ConnectOptions(shared_server.url)) as direct,
    ):
        heard: list[int] = []
        spared: list[int] = []

        async def hear(message: Message) -> None:
            (heard if message.subject == "me.numbers" else spared).append(int(message.payload))

        await connection.subscribe("me.numbers", hear)
        await connection.subscribe("me.spared", hear)
        await ask(connection)
        proxy.pick(of_subjects("me.numbers"))
        proxy.drop(0.1)
        proxy.duplicate(0.1, 0.02)
        proxy.late(0.1, 0.02)
        proxy.reorder(0.1)
        for number in range(500):
            await direct.publish("me.numbers", b"%d" % number)
            await direct.publish("me.spared", b"%d" % number)
        counts = proxy.delivered
        await eventually(lambda: counts.seen == 500, within_s=10)
        await eventually(lambda: len(heard) == 500 - counts.dropped + counts.duplicated, within_s=10)
        await eventually(lambda: len(spared) == 500, within_s=10)
        assert spared == list(range(500))
        assert min(counts.dropped, counts.duplicated, counts.late, counts.reordered) > 10
        assert len(set(heard)) == 500 - counts.dropped
        assert heard != sorted(heard)


async def test_a_message_is_overtaken_only_for_a_moment(shared_server: EmbeddedServer) -> None:
    async with connected(shared_server) as (proxy, connection):
        proxy.reorder(1.0)
        assert await ask(connection, b"alone") == b"alone"
        assert proxy.delivered.reordered == 1


async def test_a_client_that_reads_nothing_holds_its_server_up_and_not_our_memory(
    shared_server: EmbeddedServer,
) -> None:
    size = 512 * 1024
    async with (
        connected(shared_server) as (proxy, _),
        await Connection.open(ConnectOptions(shared_server.url)) as direct,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port, limit=1024)
        writer.write(b'CONNECT {"name":"slow","verbose":false}\r\nSUB me.flood 1\r\nPING\r\n')
        await eventually(lambda: "slow" in proxy.names, within_s=5)
        await reader.readuntil(b"PONG")
        proxy.delay(0.001)
        before = proxy.counts.to_client_bytes
        for _ in range(60):  # 30 MB, of which the kernel takes some, and the server keeps the rest
            await direct.publish("me.flood", b"x" * size)
        await ask_until_answered(
            direct_as_me := await Connection.open(ConnectOptions(shared_server.url, name="me"))
        )
        await direct_as_me.close()
        kept = [pipe for link in proxy._links for pipe in link.pipes.values()]
        assert max(pipe._kept_bytes for pipe in kept) < 8 * 1024 * 1024
        assert proxy.counts.to_client_bytes - before < 60 * size
        writer.transport.abort()
        await eventually(lambda: "slow" not in proxy.names, within_s=5)


async def test_who_speaks_another_protocol_passes_unread() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, FaultyProxy(f"nats://127.0.0.1:{port}") as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"\x16\x03\x01 what?\n")
        assert await reader.read() == b"\x16\x03\x01 what?\n"
        writer.close()
        await writer.wait_closed()
        await eventually(lambda: proxy.open_links == 0, within_s=5)


async def test_a_target_that_nobody_listens_at_resets_who_connects() -> None:
    async with FaultyProxy("nats://user:p%40ss@127.0.0.1:1") as proxy:
        assert proxy.url == f"nats://user:p%40ss@127.0.0.1:{proxy.port}"
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        writer.close()
        assert proxy.counts.unreachable == 1
