"""What faulty callbacks, slow consumers and an impatient ``close`` do to a connection: little."""

from __future__ import annotations

import asyncio
import time

import pytest

from aegisipc.eventstore.errors import AckUnknown
from aegisipc.eventstore.nats.events import CallbackFailed, Connected, Event, SlowConsumer
from aegisipc.eventstore.nats.message import Message
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from tests.support.proxy import FaultyProxy
from tests.support.waiting import eventually

from .conftest import Opener

NOTICED_WITHIN_S = 3.0


# -- callbacks ----------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(("msgs", "size_bytes"), [(10, 10**9), (10**9, 1000)])
async def test_messages_that_a_slow_consumer_loses_are_counted_and_reported(
    shared_server: EmbeddedServer, connect: Opener, msgs: int, size_bytes: int
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

    subscription = await client.subscribe(
        "slow", slow, pending_msgs_limit=msgs, pending_bytes_limit=size_bytes
    )
    for _ in range(100):
        await client.publish("slow", bytes(100))
    await eventually(lambda: subscription.received == 100, within_s=2)
    assert isinstance(reports[0], SlowConsumer)
    assert reports[0].subject == "slow"
    assert 80 <= subscription.dropped < 100
    release.set()
    await eventually(lambda: handled == 100 - subscription.dropped, within_s=2)


# -- closing ------------------------------------------------------------------------------------------------


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
