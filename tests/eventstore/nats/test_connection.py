"""What a connection does when nothing goes wrong."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from uuid import uuid4

import pytest

from aegisipc.eventstore.errors import InvalidName, NoResponders, NotConnected
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.events import Connected, Disconnected, Event
from aegisipc.eventstore.nats.message import Message
from aegisipc.eventstore.nats.options import ConnectOptions, Endpoint
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from tests.support.waiting import eventually

from .conftest import Opener


@pytest.fixture
def subject() -> str:
    return f"t.{uuid4().hex}"


async def test_a_request_gets_the_answer_with_its_headers(
    shared_server: EmbeddedServer, connect: Opener, subject: str
) -> None:
    client, service = await connect(shared_server.url), await connect(shared_server.url)

    async def answer(message: Message) -> None:
        await service.publish(
            message.reply, message.payload.upper(), headers={"Echo": message.headers["Word"]}
        )

    await service.subscribe(subject, answer)
    reply = await client.request(subject, b"hello", timeout_s=2, headers={"Word": "grüezi: a b"})
    assert reply.payload == b"HELLO"
    assert reply.headers == {"Echo": "grüezi: a b"}


async def test_concurrent_requests_get_their_own_answers(
    shared_server: EmbeddedServer, connect: Opener, subject: str
) -> None:
    client, service = await connect(shared_server.url), await connect(shared_server.url)

    async def answer(message: Message) -> None:
        await service.publish(message.reply, message.payload)

    await service.subscribe(subject, answer)
    replies = await asyncio.gather(
        *(client.request(subject, str(number).encode(), timeout_s=5) for number in range(500))
    )
    assert [int(reply.payload) for reply in replies] == list(range(500))


async def test_nobody_there_is_an_error_at_once(
    shared_server: EmbeddedServer, connect: Opener, subject: str
) -> None:
    client = await connect(shared_server.url)
    with pytest.raises(NoResponders) as caught:
        await client.request(subject, b"", timeout_s=30)
    assert caught.value.subject == subject


async def test_a_subscription_is_in_force_when_subscribe_returns(
    shared_server: EmbeddedServer, connect: Opener, subject: str
) -> None:
    first, second = await connect(shared_server.url), await connect(shared_server.url)
    for number in range(50):
        got: list[Message] = []
        subscription = await first.subscribe(f"{subject}.{number}", got.append)
        await second.publish(f"{subject}.{number}", b"x")
        await eventually(partial(len, got), within_s=2, what="the message")
        await subscription.unsubscribe()


async def test_messages_of_one_subscription_arrive_in_order_and_once(
    shared_server: EmbeddedServer, connect: Opener, subject: str
) -> None:
    client = await connect(shared_server.url)
    plain: list[int] = []
    awaited: list[int] = []

    async def slowly(message: Message) -> None:
        await asyncio.sleep(0)
        awaited.append(int(message.payload))

    await client.subscribe(subject, lambda message: plain.append(int(message.payload)))
    await client.subscribe(subject, slowly)
    for number in range(2000):
        await client.publish(subject, str(number).encode())
    await eventually(lambda: len(plain) == len(awaited) == 2000, within_s=5)
    assert plain == awaited == list(range(2000))


async def test_members_of_a_queue_group_share_the_messages(
    shared_server: EmbeddedServer, connect: Opener, subject: str
) -> None:
    client = await connect(shared_server.url)
    left: list[Message] = []
    right: list[Message] = []
    await client.subscribe(subject, left.append, queue="workers")
    await client.subscribe(subject, right.append, queue="workers")
    for _ in range(200):
        await client.publish(subject, b"")
    await eventually(lambda: len(left) + len(right) == 200, within_s=2)
    assert left
    assert right


async def test_nothing_is_delivered_after_unsubscribe(
    shared_server: EmbeddedServer, connect: Opener, subject: str
) -> None:
    client = await connect(shared_server.url)
    got: list[Message] = []
    subscription = await client.subscribe(subject, got.append)
    await client.publish(subject, b"1")
    await subscription.unsubscribe()
    await subscription.unsubscribe()
    await client.flush(2)
    assert got == []
    with pytest.raises(NoResponders):
        await client.request(subject, b"", timeout_s=2)


async def test_a_cancelled_request_is_forgotten(
    shared_server: EmbeddedServer, connect: Opener, subject: str
) -> None:
    client = await connect(shared_server.url)
    got: list[Message] = []
    await client.subscribe(subject, got.append)
    request = asyncio.ensure_future(client.request(subject, b"", timeout_s=30))
    await eventually(lambda: got, within_s=2)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert client.requests_in_flight == 0
    await client.publish(got[0].reply, b"too late")
    await client.flush(2)


async def test_the_callers_headers_are_not_changed(
    shared_server: EmbeddedServer, connect: Opener, subject: str
) -> None:
    client = await connect(shared_server.url)
    await client.subscribe(subject, lambda _: None)
    headers = {"A": "1"}
    await client.publish(subject, b"", headers=headers)
    assert headers == {"A": "1"}


@pytest.mark.parametrize(
    ("bad_subject", "headers"),
    [("", None), ("a b", None), ("a\r\nPUB x 0", None), ("a", {"B\r\nC": "1"}), ("a", {"B": "1\r\nX: 2"})],
)
async def test_what_would_break_the_protocol_is_refused(
    shared_server: EmbeddedServer, connect: Opener, bad_subject: str, headers: dict[str, str] | None
) -> None:
    client = await connect(shared_server.url)
    with pytest.raises(InvalidName):
        await client.publish(bad_subject, b"", headers=headers)
    await client.flush(2)
    assert client.generation == 1


async def test_the_server_introduces_itself(shared_server: EmbeddedServer, connect: Opener) -> None:
    client = await connect(shared_server.url)
    server = client.server
    assert server.version_numbers >= (2, 11, 0)
    assert server.jetstream
    assert server.max_payload_bytes == 1024 * 1024
    assert server.client_id > 0
    assert client.is_connected
    assert client.generation == 1


async def test_a_closed_connection_says_so(shared_server: EmbeddedServer, connect: Opener) -> None:
    client = await connect(shared_server.url)
    await asyncio.gather(client.close(), client.close())
    await client.close()
    assert client.is_closed
    assert not client.is_connected
    with pytest.raises(NotConnected, match="closed"):
        await client.publish("x", b"")
    with pytest.raises(NotConnected, match="closed"):
        await client.subscribe("x", lambda _: None)
    with pytest.raises(NotConnected, match="closed"):
        await client.wait_connected(5)


async def test_close_lets_messages_and_requests_finish(
    shared_server: EmbeddedServer, connect: Opener, subject: str
) -> None:
    client, service = await connect(shared_server.url), await connect(shared_server.url)
    asked = asyncio.Event()
    release = asyncio.Event()

    async def answer(message: Message) -> None:
        asked.set()
        await release.wait()
        await service.publish(message.reply, b"done")

    await service.subscribe(subject, answer)
    request = asyncio.ensure_future(client.request(subject, b"", timeout_s=5))
    await asked.wait()
    closing = [asyncio.ensure_future(client.close(5)), asyncio.ensure_future(service.close(5))]
    release.set()
    assert (await request).payload == b"done"
    await asyncio.gather(*closing)


async def test_close_handles_what_the_server_had_sent(
    shared_server: EmbeddedServer, connect: Opener, subject: str
) -> None:
    client, publisher = await connect(shared_server.url), await connect(shared_server.url)
    plain: list[Message] = []
    awaited: list[Message] = []

    async def slowly(message: Message) -> None:
        await asyncio.sleep(0)
        awaited.append(message)

    await client.subscribe(subject, plain.append)
    await client.subscribe(subject, slowly, queue="workers")
    for _ in range(500):
        publisher.publish_nowait(subject, bytes(1000))
    await publisher.flush(2)
    await client.close(5)
    assert len(plain) == len(awaited) == 500


async def test_a_callback_may_end_its_own_subscription_and_go_on(
    shared_server: EmbeddedServer, connect: Opener, subject: str
) -> None:
    client = await connect(shared_server.url)
    finished: list[bytes] = []

    async def once(message: Message) -> None:
        await subscription.unsubscribe()
        await asyncio.sleep(0)
        finished.append(message.payload)

    subscription = await client.subscribe(subject, once)
    for payload in (b"1", b"2", b"3"):
        await client.publish(subject, payload)
    await eventually(lambda: finished, within_s=2)
    await client.flush(2)
    assert finished == [b"1"]


async def test_events_go_to_listeners_until_they_are_removed(
    nats_server: EmbeddedServer, connect: Opener
) -> None:
    client = await connect(nats_server.url)
    heard: list[Event] = []
    removed: list[Event] = []

    def faulty(_: Event) -> None:
        raise RuntimeError("a listener's own fault")

    client.on_event(faulty)
    client.on_event(heard.append)
    stop = client.on_event(removed.append)
    stop()
    stop()
    await nats_server.restart()
    await client.wait_connected(5)
    assert isinstance(heard[0], Disconnected)
    assert heard[0].generation == 1
    assert isinstance(heard[-1], Connected)
    assert heard[-1].generation == client.generation == 2
    assert removed == []


async def test_the_system_account_tells_who_disconnected(
    nats_server: EmbeddedServer, connect: Opener
) -> None:
    observer = await connect(nats_server.system_url, require_jetstream=False)
    told: list[dict[str, object]] = []
    await observer.subscribe(
        "$SYS.ACCOUNT.AEGIS.DISCONNECT", lambda message: told.append(json.loads(message.payload)["client"])
    )
    short_lived = await connect(nats_server.url, name="orders/1")
    await short_lived.close()
    await eventually(lambda: told, within_s=2, what="the server's event")
    assert told[0]["name"] == "orders/1"
    assert told[0]["id"] == short_lived.server.client_id


@pytest.mark.parametrize("url", ["", "http://x:1", "nats://", "nats://h:99999", "nats://u:secret@h:x"])
async def test_a_bad_url_is_refused_without_showing_its_password(url: str) -> None:
    with pytest.raises(InvalidName) as caught:
        await Connection.open(ConnectOptions(url=url))
    assert "secret" not in str(caught.value)


def test_endpoints_have_defaults() -> None:
    assert Endpoint.parse("h").url == "nats://h:4222"
    assert Endpoint.parse("[::1]:5").url == "nats://[::1]:5"
    assert Endpoint.parse("tls://u:p%40@h:5") == Endpoint("tls", "h", 5, "u", "p@")
    options = ConnectOptions(url="nats://u:p@a,nats://b", password="hidden", token="hidden", user=None)
    assert [endpoint.host for endpoint in options.endpoints()] == ["a", "b"]
    assert "hidden" not in repr(options)
    assert "p@" not in repr(Endpoint.parse("tls://u:p%40@h:5"))


def test_it_runs_on_uvloop_too(shared_server: EmbeddedServer, subject: str) -> None:
    uvloop = pytest.importorskip("uvloop")

    sizes = [0, 1, 1_000_000]

    async def scenario() -> list[bytes]:
        got: list[bytes] = []
        async with await Connection.open(ConnectOptions(url=shared_server.url)) as client:

            async def answer(message: Message) -> None:
                await client.publish(message.reply, message.payload)

            await client.subscribe(subject, answer)
            got += [(await client.request(subject, bytes(size), timeout_s=5)).payload for size in sizes]
            client._wire.end("on purpose")  # type: ignore[union-attr]
            await eventually(lambda: client.generation == 2, within_s=2)
            await client.request(subject, b"", timeout_s=5)
        return got

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert [len(payload) for payload in runner.run(scenario())] == sizes
