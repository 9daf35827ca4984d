"""Every known way for a NATS connection to go wrong, and what ours makes of it."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from aegisipc.eventstore.errors import AckUnknown, NotConnected, Overloaded, PayloadTooLarge
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.events import CallbackFailed, Connected, Disconnected, Event, SlowConsumer
from aegisipc.eventstore.nats.message import Message, publish_command
from aegisipc.eventstore.nats.wire import Wire
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from tests.support.proxy import FaultyProxy, Flow
from tests.support.waiting import eventually

from .conftest import Opener

# A silent session is given up after (max_pings_out + 1) × ping_interval_s = 0.45 s, plus what a busy box adds.
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


# -- ghost writes and unknown outcomes ------------------------------------------------------------------------


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
        proxy.to_server.set(Flow.STALL)
        requests = [
            asyncio.ensure_future(client.request("s.x", bytes(500_000), timeout_s=30)) for _ in range(20)
        ]
        outcomes = await asyncio.gather(*requests, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {AckUnknown}
        proxy.heal()
        await client.wait_connected(5)
        # Those that were in the kernel's buffers may be stored: unknown means unknown. The rest must not be.
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


# -- size limits ----------------------------------------------------------------------------------------------


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


# -- servers that go away, freeze or fall silent --------------------------------------------------------------


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


async def test_a_dead_read_loop_is_noticed_at_once(shared_server: EmbeddedServer, connect: Opener) -> None:
    client = await connect(shared_server.url, ping_interval_s=30.0)
    wire = wire_of(client)

    async def corrupt(_: bytes = b"") -> None:
        raise TypeError("can't extend bytearray with int")

    wire._ps.parse = corrupt
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
        with pytest.raises(Overloaded) as caught:
            for _ in range(1000):
                await client.publish("x", bytes(200_000))
                await asyncio.sleep(0)
        assert caught.value.limit == 2_000_000


# -- callbacks ------------------------------------------------------------------------------------------------


async def test_an_exception_in_a_callback_is_reported_and_the_next_message_delivered(
    shared_server: EmbeddedServer, connect: Opener
) -> None:
    client = await connect(shared_server.url)
    failures: list[CallbackFailed] = []
    client.on_event(lambda event: failures.append(event) if isinstance(event, CallbackFailed) else None)
    got: list[bytes] = []

    def plain(message: Message) -> None:
        got.append(message.payload)
        raise ValueError("plain")

    async def awaited(message: Message) -> None:
        got.append(message.payload)
        if message.payload == b"1":
            raise asyncio.CancelledError
        raise ValueError("awaited")

    subscriptions = [await client.subscribe("cb", plain), await client.subscribe("cb", awaited)]
    for payload in (b"1", b"2", b"3"):
        await client.publish("cb", payload)
    await eventually(lambda: len(got) == 6, within_s=2)
    await eventually(lambda: len(failures) == 6, within_s=2)
    assert [subscription.failures for subscription in subscriptions] == [3, 3]
    assert client.generation == 1


async def test_a_function_that_returns_a_coroutine_is_an_error_that_is_reported(
    shared_server: EmbeddedServer, connect: Opener
) -> None:
    client = await connect(shared_server.url)

    async def later() -> None:
        raise AssertionError("never awaited")

    subscription = await client.subscribe("mistake", lambda _: later())
    await client.publish("mistake", b"")
    await eventually(lambda: subscription.failures == 1, within_s=2)


@pytest.mark.parametrize("limits", [{"pending_msgs_limit": 10}, {"pending_bytes_limit": 1000}])
async def test_messages_that_a_slow_consumer_loses_are_counted_and_reported(
    shared_server: EmbeddedServer, connect: Opener, limits: dict[str, int]
) -> None:
    client = await connect(shared_server.url)
    reports: list[Event] = []
    client.on_event(reports.append)
    release = asyncio.Event()
    handled = 0

    async def slow(_: Message) -> None:
        nonlocal handled
        await release.wait()
        handled += 1

    subscription = await client.subscribe("slow", slow, **limits)
    for _ in range(100):
        await client.publish("slow", bytes(100))
    await eventually(lambda: subscription.received == 100, within_s=2)
    assert isinstance(reports[0], SlowConsumer)
    assert reports[0].subject == "slow"
    assert 80 <= subscription.dropped < 100
    release.set()
    await eventually(lambda: handled == 100 - subscription.dropped, within_s=2)


# -- closing --------------------------------------------------------------------------------------------------


async def test_closing_does_not_wait_longer_than_asked_for_a_stuck_callback(
    shared_server: EmbeddedServer, connect: Opener
) -> None:
    client = await connect(shared_server.url)
    entered = asyncio.Event()

    async def stuck(_: Message) -> None:
        entered.set()
        await asyncio.Event().wait()

    await client.subscribe("stuck", stuck)
    await client.publish("stuck", b"")
    await entered.wait()
    began = time.monotonic()
    await client.close(timeout_s=0.1)
    assert time.monotonic() - began < 1.0


async def test_closing_does_not_wait_longer_than_asked_for_a_silent_server(
    shared_server: EmbeddedServer, connect: Opener
) -> None:
    async with FaultyProxy(shared_server.url) as proxy:
        client = await connect(proxy.url, ping_interval_s=30.0)
        await client.subscribe("silent.too", lambda _: None)
        request = asyncio.ensure_future(client.request("silent.too", bytes(1_000_000), timeout_s=60))
        proxy.stall()
        began = time.monotonic()
        await client.close(timeout_s=0.1)
        assert time.monotonic() - began < 1.0
        with pytest.raises(AckUnknown, match="closed"):
            await request


async def test_closing_while_reconnecting_ends_the_attempts(
    nats_server: EmbeddedServer, connect: Opener
) -> None:
    client = await connect(nats_server.url)
    await nats_server.kill()
    await eventually(lambda: not client.is_connected, within_s=NOTICED_WITHIN_S)
    events: list[Event] = []
    client.on_event(events.append)
    await client.close(timeout_s=0.5)
    await nats_server.start()
    assert not any(isinstance(event, Connected) for event in events)
    assert (await nats_server.varz())["connections"] == 0
