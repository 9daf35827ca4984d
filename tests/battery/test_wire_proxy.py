"""The proxy that reads the protocol: it keeps back what it is asked to, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegisipc.eventstore.errors import AckUnknown
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.message import Message
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from tests.battery.wire_proxy import AnswerTo, Frame, NotNats, Seen, Splitter, WireProxy
from tests.support.waiting import eventually

OPERATIONS = [
    Frame("PING", b"PING\r\n"),
    Frame("CONNECT", b'CONNECT {"name":"x"}\r\n'),
    Frame("PUB", b"PUB a.b 3\r\n1\r\n\r\n", "a.b", "", b"1\r\n"),
    Frame("PUB", b"PUB a.b r.1 0\r\n\r\n", "a.b", "r.1", b""),
    Frame("HPUB", b"HPUB a r 12 14\r\nNATS/1.0\r\n\r\nhi\r\n", "a", "r", b"hi"),
    Frame("HPUB", b"HPUB a 12 14\r\nNATS/1.0\r\n\r\nhi\r\n", "a", "", b"hi"),
    Frame("MSG", b"MSG a 7 2\r\nhi\r\n", "a", "", b"hi"),
    Frame("MSG", b"MSG a 7 r.2 2\r\nhi\r\n", "a", "r.2", b"hi"),
    Frame("HMSG", b"HMSG a 7 r 12 14\r\nNATS/1.0\r\n\r\nhi\r\n", "a", "r", b"hi"),
    Frame("HMSG", b"HMSG a 7 12 14\r\nNATS/1.0\r\n\r\nhi\r\n", "a", "", b"hi"),
]


@given(st.lists(st.sampled_from(OPERATIONS)), st.lists(st.integers(0, 300)))
def test_operations_are_found_however_the_bytes_arrive(operations: list[Frame], cuts: list[int]) -> None:
    stream = b"".join(operation.raw for operation in operations)
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    splitter = Splitter()
    chunks = [stream[begin:end] for begin, end in pairwise(places)]
    assert [frame for chunk in chunks for frame in splitter.feed(chunk)] == operations


@pytest.mark.parametrize(
    "stream",
    [
        b"\r\n",
        b"PUB\r\n",
        b"PUB a\r\n",
        b"PUB a b c d 1\r\n",
        b"PUB a x\r\n",
        b"PUB a -1\r\n",
        b"PUB \xff\xff 1\r\n",
        b"HPUB a 9 3\r\n",
        b"HMSG a 7 3\r\n",
        b"PUB a 1\r\nhello\r\n",
        b"x" * 100_000,
    ],
)
def test_what_is_not_the_protocol_is_refused(stream: bytes) -> None:
    with pytest.raises(NotNats):
        list(Splitter().feed(stream))


# -- on a server -----------------------------------------------------------------------------------------


@asynccontextmanager
async def connected(server: EmbeddedServer) -> AsyncIterator[tuple[WireProxy, Connection, list[bytes]]]:
    """A connection through the proxy, and what a subscriber who goes his own way hears."""
    heard: list[bytes] = []

    async def answer(message: Message) -> None:
        heard.append(message.payload)
        if message.reply:
            await direct.publish(message.reply, b"answer")

    async with WireProxy(server.url) as proxy, await Connection.open(ConnectOptions(server.url)) as direct:
        await direct.subscribe("wire.*", answer)
        async with await Connection.open(ConnectOptions(proxy.url, name="me")) as connection:
            yield proxy, connection, heard
        assert proxy.failures == []


async def test_a_message_is_kept_back_until_it_is_released(shared_server: EmbeddedServer) -> None:
    async with connected(shared_server) as (proxy, connection, heard):
        hold = proxy.hold(lambda seen: seen.is_to_server and seen.frame.subject == "wire.a")
        asking = asyncio.create_task(connection.request("wire.a", b"1", timeout_s=10))
        await eventually(hold.caught.is_set, within_s=5)
        assert (hold.seen[0].who, hold.seen[0].frame.payload) == ("me", b"1")
        assert heard == []
        hold.release()
        assert (await asking).payload == b"answer"
        assert heard == [b"1"]
        assert (await connection.request("wire.a", b"2", timeout_s=10)).payload == b"answer"


async def test_a_message_that_is_dropped_takes_its_connection_along(shared_server: EmbeddedServer) -> None:
    async with connected(shared_server) as (proxy, connection, heard):
        hold = proxy.hold(lambda seen: seen.is_to_server and seen.frame.subject == "wire.a")
        asking = asyncio.create_task(connection.request("wire.a", b"1", timeout_s=10))
        await eventually(hold.caught.is_set, within_s=5)
        hold.drop()
        with pytest.raises(AckUnknown):
            await asking
        await connection.wait_connected(5)
        assert proxy.accepted == 2
        assert (await connection.request("wire.a", b"2", timeout_s=10)).payload == b"answer"
        assert heard == [b"2"]


async def test_an_answer_is_kept_back_and_the_question_is_not(shared_server: EmbeddedServer) -> None:
    def is_question(seen: Seen) -> bool:
        return seen.frame.subject == "wire.a"

    async with connected(shared_server) as (proxy, connection, heard):
        hold = proxy.hold(AnswerTo(is_question))
        asking = asyncio.create_task(connection.request("wire.a", b"1", timeout_s=10))
        await eventually(hold.caught.is_set, within_s=5)
        assert heard == [b"1"]
        assert not hold.seen[0].is_to_server
        assert not asking.done()
        hold.release()
        assert (await asking).payload == b"answer"
