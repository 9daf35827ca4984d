"""Every known way for a NATS connection to go wrong, and what ours makes of it."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from aegisipc.eventstore.errors import AckUnknown, NotConnected, Overloaded, PayloadTooLarge
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.events import Disconnected, Event
from aegisipc.eventstore.nats.message import Message, publish_command
from aegisipc.eventstore.nats.subscription import Subscription
from aegisipc.eventstore.nats.wire import Wire
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from tests.support.proxy import FaultyProxy, Flow
from tests.support.waiting import eventually

from .conftest import Opener

# A silent session is given up after max_pings_out + 1 intervals of 0.15 s, plus what a busy box adds.
NOTICED_WITHIN_S = 3.0


async def api(connection: Connection, verb: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """One request to JetStream's API."""
    payload = b"" if body is None else json.dumps(body).encode()
    reply = await connection.request(f"$JS.API.{verb}", payload, timeout_s=5)
    parsed: dict[str, Any] = json.loads(reply.payload)
    return parsed


async def make_stream(connection: Connection) -> None:
    await api(connection, "STREAM.CREATE.S", {"name": "S", "subjects": ["s.>"], "storage": "file"})


async def stored(connection: Connection) -> int:
    count: int = (await api(connection, "STREAM.INFO.S"))["state"]["messages"]
    return count


def wire_of(connection: Connection) -> Wire:
    wire = connection._wire
    assert wire is not None
    return wire


# -- ghost writes and unknown outcomes ----------------------------------------------------------------------


async def test_nothing_sent_while_disconnected_is_stored_later(
    nats_server: EmbeddedServer, connect: Opener
) -> None:
    async with FaultyProxy(nats_server.url) as proxy:
        client = await connect(proxy.url)
        await make_stream(client)
        await proxy.refuse()
        await proxy.reset()
        await eventually(lambda: not client.is_connected, within_s=NOTICED_WITHIN_S)
        with pytest.raises(NotConnected):
            await client.request("s.x", b"ghost", timeout_s=1)
        with pytest.raises(NotConnected):
            await client.publish("s.x", b"ghost")
        await proxy.listen()
        await client.wait_connected(5)
        assert await stored(client) == 0


async def test_what_had_not_left_when_the_session_ended_is_never_sent(
    nats_server: EmbeddedServer, connect: Opener
) -> None:
    async with FaultyProxy(nats_server.url) as proxy:
        client = await connect(proxy.url)
        await make_stream(client)
        raw = wire_of(client)._raw
        assert raw is not None
        unsent_bytes: list[int] = []
        client.on_event(
            lambda event: (
                unsent_bytes.append(raw.get_write_buffer_size()) if isinstance(event, Disconnected) else None
            )
        )
        proxy.to_server.set(Flow.STALL)
        total_bytes = 20 * 500_000
        requests = [
            asyncio.ensure_future(client.request("s.x", bytes(500_000), timeout_s=30)) for _ in range(20)
        ]
        outcomes = await asyncio.gather(*requests, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {AckUnknown}
        assert unsent_bytes[0] > 1_000_000
        proxy.heal()
        await client.wait_connected(5)
        await eventually(lambda: proxy.open_links == 1, within_s=5, what="the end of the old session")
        # What the kernel had may arrive and be stored: unknown means unknown. The rest does not.
        overhead_bytes = 100_000
        assert proxy.to_server.forwarded_bytes < total_bytes - unsent_bytes[0] + overhead_bytes
        assert await stored(client) < 20


async def test_requests_in_flight_fail_as_soon_as_the_connection_is_lost(
    nats_server: EmbeddedServer, connect: Opener
) -> None:
    client = await connect(nats_server.url)
    asked: list[Message] = []
    await client.subscribe("silent", asked.append)
    requests = [asyncio.ensure_future(client.request("silent", b"", timeout_s=60)) for _ in range(10)]
    await eventually(lambda: len(asked) == 10, within_s=2)
    began = time.monotonic()
    await nats_server.kill()
    outcomes = await asyncio.gather(*requests, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {AckUnknown}
    assert time.monotonic() - began < 2.0
    assert client.requests_in_flight == 0


async def test_a_request_without_an_answer_is_unknown_after_its_timeout(
    shared_server: EmbeddedServer, connect: Opener
) -> None:
    client = await connect(shared_server.url)
    subscription = await client.subscribe("never.answered", lambda _: None)
    with pytest.raises(AckUnknown):
        await client.request("never.answered", b"", timeout_s=0.05)
    await subscription.unsubscribe()
    assert client.is_connected
    assert client.requests_in_flight == 0


async def test_a_rejected_publish_is_answered_and_not_left_pending(
    nats_server: EmbeddedServer, connect: Opener
) -> None:
    client = await connect(nats_server.url)
    await make_stream(client)
    began = time.monotonic()
    reply = await client.request(
        "s.x", b"", timeout_s=10, headers={"Nats-Expected-Last-Subject-Sequence": "7"}
    )
    assert json.loads(reply.payload)["error"]["err_code"] == 10071
    assert time.monotonic() - began < 5


# -- size limits --------------------------------------------------------------------------------------------


async def test_a_message_over_the_limit_is_refused_and_the_session_stays(
    shared_server: EmbeddedServer, connect: Opener
) -> None:
    client = await connect(shared_server.url)
    limit = client.server.max_payload_bytes
    with pytest.raises(PayloadTooLarge) as caught:
        await client.request("x", bytes(limit + 1), timeout_s=1)
    assert (caught.value.size_bytes, caught.value.limit_bytes) == (limit + 1, limit)
    await client.flush(2)
    assert client.generation == 1


async def test_headers_count_towards_the_limit(shared_server: EmbeddedServer, connect: Opener) -> None:
    client = await connect(shared_server.url)
    got: list[int] = []
    await client.subscribe("big", lambda message: got.append(len(message.payload)))
    limit = client.server.max_payload_bytes
    block = len(b"NATS/1.0\r\nA: b\r\n\r\n")
    with pytest.raises(PayloadTooLarge) as caught:
        await client.publish("big", bytes(limit - block + 1), headers={"A": "b"})
    assert caught.value.size_bytes == limit + 1
    await client.publish("big", bytes(limit - block), headers={"A": "b"})
    await client.publish("big", bytes(limit))
    await eventually(lambda: got == [limit - block, limit], within_s=5)
    assert client.generation == 1


async def test_a_session_that_the_server_closed_for_good_is_replaced(
    shared_server: EmbeddedServer, connect: Opener
) -> None:
    client = await connect(shared_server.url)
    events: list[Event] = []
    got: list[Message] = []
    client.on_event(events.append)
    await client.subscribe("after.all", got.append)
    wire_of(client).send(publish_command("x", "", b"", bytes(client.server.max_payload_bytes + 1)))
    await eventually(lambda: client.generation == 2, within_s=NOTICED_WITHIN_S)
    assert isinstance(events[0], Disconnected)
    assert "maximum payload" in events[0].reason or "EOF" in events[0].reason or "reset" in events[0].reason
    await client.publish("after.all", b"still here")
    await eventually(lambda: got, within_s=2)


async def test_an_unknown_error_of_the_server_only_costs_a_session(
    shared_server: EmbeddedServer, connect: Opener
) -> None:
    client = await connect(shared_server.url)
    wire_of(client).send((b"NONSENSE\r\n",))
    await eventually(lambda: client.generation == 2, within_s=NOTICED_WITHIN_S)
    await client.flush(2)


# -- servers that go away, freeze or fall silent ------------------------------------------------------------


async def test_subscriptions_and_requests_survive_a_killed_server(
    nats_server: EmbeddedServer, connect: Opener
) -> None:
    client = await connect(nats_server.url)

    async def answer(message: Message) -> None:
        await client.publish(message.reply, message.payload)

    await client.subscribe("echo", answer)
    for generation in (2, 3):
        await nats_server.kill()
        await eventually(lambda: not client.is_connected, within_s=NOTICED_WITHIN_S)
        await nats_server.start()
        await client.wait_connected(5)
        assert client.generation == generation
        assert (await client.request("echo", b"hello", timeout_s=2)).payload == b"hello"


async def test_a_subscription_made_while_disconnected_is_in_force_on_the_next_session(
    nats_server: EmbeddedServer, connect: Opener
) -> None:
    client = await connect(nats_server.url)
    await nats_server.kill()
    await eventually(lambda: not client.is_connected, within_s=NOTICED_WITHIN_S)
    got: list[Message] = []
    await client.subscribe("later", got.append)
    await nats_server.start()
    await client.wait_connected(5)
    await client.publish("later", b"")
    await eventually(lambda: got, within_s=2)


async def test_subscriptions_that_come_and_go_while_a_session_is_being_made_are_not_forgotten(
    shared_server: EmbeddedServer, connect: Opener
) -> None:
    async with FaultyProxy(shared_server.url) as proxy:
        client, publisher = await connect(proxy.url), await connect(shared_server.url)
        got: set[str] = set()
        proxy.to_client.delay_s = 0.05
        await proxy.reset()
        await eventually(lambda: proxy.accepted == 2, within_s=NOTICED_WITHIN_S)
        subscriptions: list[Subscription] = []
        while client.generation == 1:
            subject = f"window.{len(subscriptions)}"
            subscriptions.append(await client.subscribe(subject, lambda message: got.add(message.subject)))
            gone = await client.subscribe("window.gone", lambda message: got.add(message.subject))
            if client.generation == 1:
                await asyncio.sleep(0.01)
            await gone.unsubscribe()
        assert len(subscriptions) > 3
        assert len(wire_of(client)._handlers) == len(subscriptions) + 1
        await client.flush(2)
        for number in range(len(subscriptions)):
            publisher.publish_nowait(f"window.{number}", b"")
        publisher.publish_nowait("window.gone", b"")
        await eventually(lambda: len(got) == len(subscriptions), within_s=2)
        assert "window.gone" not in got


async def test_a_frozen_server_is_noticed_in_bounded_time(
    nats_server: EmbeddedServer, connect: Opener
) -> None:
    client = await connect(nats_server.url)
    await client.subscribe("silent", lambda _: None)
    nats_server.freeze()
    began = time.monotonic()
    with pytest.raises(AckUnknown, match="lost"):
        await client.request("silent", b"", timeout_s=60)
    assert time.monotonic() - began < NOTICED_WITHIN_S
    with pytest.raises(NotConnected):
        await client.wait_connected(0.05)
    nats_server.thaw()
    await client.wait_connected(5)
    await client.flush(2)


@pytest.mark.parametrize("fault", ["stall", "blackhole"])
async def test_a_silent_network_is_noticed_in_bounded_time(
    shared_server: EmbeddedServer, connect: Opener, fault: str
) -> None:
    async with FaultyProxy(shared_server.url) as proxy:
        client = await connect(proxy.url)
        getattr(proxy, fault)()
        began = time.monotonic()
        await eventually(lambda: not client.is_connected, within_s=NOTICED_WITHIN_S)
        assert time.monotonic() - began < NOTICED_WITHIN_S
        proxy.heal()
        await client.wait_connected(5)
        await client.flush(2)


async def test_a_half_open_connection_is_noticed(shared_server: EmbeddedServer, connect: Opener) -> None:
    async with FaultyProxy(shared_server.url) as proxy:
        client = await connect(proxy.url)
        proxy.to_client.set(Flow.DISCARD)  # our writes arrive, answers do not
        await eventually(lambda: not client.is_connected, within_s=NOTICED_WITHIN_S)
        proxy.heal()
        await client.wait_connected(5)


async def test_a_reset_in_the_middle_of_a_message_delivers_nothing_of_it(
    shared_server: EmbeddedServer, connect: Opener
) -> None:
    async with FaultyProxy(shared_server.url) as proxy:
        client, publisher = await connect(proxy.url), await connect(shared_server.url)
        got: list[bytes] = []
        await client.subscribe("mid.frame", lambda message: got.append(message.payload))
        proxy.to_client.cut_after_bytes = 300
        await publisher.publish("mid.frame", bytes(1000))
        await eventually(lambda: client.generation == 2, within_s=NOTICED_WITHIN_S)
        assert got == []
        await publisher.publish("mid.frame", b"whole")
        await eventually(lambda: got == [b"whole"], within_s=2)


async def test_a_dead_read_loop_is_noticed_at_once(
    shared_server: EmbeddedServer, connect: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await connect(shared_server.url, ping_interval_s=30.0)
    wire = wire_of(client)

    async def corrupt(_: bytes = b"") -> None:
        raise TypeError("can't extend bytearray with int")

    monkeypatch.setattr(wire._ps, "parse", corrupt)
    await client.publish("x", b"")
    wire.send((b"PING\r\n",))
    await eventually(lambda: client.generation == 2, within_s=2.0, what="a new session")
    await client.flush(2)


async def test_a_late_pong_does_no_harm(shared_server: EmbeddedServer, connect: Opener) -> None:
    async with FaultyProxy(shared_server.url) as proxy:
        client = await connect(proxy.url, ping_interval_s=30.0)
        proxy.to_client.set(Flow.STALL)
        with pytest.raises(NotConnected, match="PING"):
            await client.flush(0.05)
        proxy.heal()
        await client.flush(2)
        assert client.generation == 1


async def test_a_stalled_event_loop_is_not_taken_for_a_dead_server(
    shared_server: EmbeddedServer, connect: Opener
) -> None:
    client = await connect(shared_server.url, ping_interval_s=0.05)
    for _ in range(3):
        time.sleep(0.3)  # noqa: ASYNC251 - the fault under test: several ping intervals without the loop
        await client.flush(2)
    assert client.generation == 1


async def test_a_server_that_does_not_read_cannot_fill_the_memory(
    shared_server: EmbeddedServer, connect: Opener
) -> None:
    async with FaultyProxy(shared_server.url) as proxy:
        client = await connect(proxy.url, ping_interval_s=30.0, max_unsent_bytes=2_000_000)
        proxy.stall()

        async def flood() -> None:
            for _ in range(1000):
                await client.publish("x", bytes(200_000))
                await asyncio.sleep(0)

        with pytest.raises(Overloaded) as caught:
            await flood()
        assert caught.value.limit == 2_000_000


async def test_a_message_on_a_subject_that_is_not_utf8_ends_no_session(
    nats_server: EmbeddedServer, connect: Opener
) -> None:
    client = await connect(nats_server.url)
    got: list[Message] = []
    await client.subscribe("odd.>", got.append)
    wire_of(client).send((b"PUB odd.\xff 2\r\nhi\r\n",))
    await client.publish("odd.plain", b"after")
    await eventually(lambda: len(got) == 2, within_s=2)
    assert [(m.subject.isascii(), m.payload) for m in got] == [(False, b"hi"), (True, b"after")]
    assert client.generation == 1
