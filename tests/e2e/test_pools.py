"""Workers of a pool on a real server: what they look up in the log, and how they leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import pytest

from aegisipc.eventstore.errors import NotConnected
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.ids import CallId, parse_call_id
from aegisipc.eventstore.jetstream import JetStreamLog
from aegisipc.eventstore.jetstream_api import AckPlace
from aegisipc.eventstore.log import BEGINNING, Record, Start
from aegisipc.eventstore.nats.events import Connected
from aegisipc.sdk import Client, Context, Service
from aegisipc.sdk.hosts.pool import PoolHost
from aegisipc.sdk.wire import WireOutcome, decode_outcomes, encode_ask
from tests.e2e.kit import Place, Running
from tests.support.waiting import eventually


def pool(**options: int) -> Service:
    service = Service("pool", **options)

    @service.method(effect="idempotent")
    async def echo(value: int) -> int:
        return value

    return service


def host_of(running: Running) -> PoolHost:
    host = running.host
    assert isinstance(host, PoolHost)
    return host


async def ask(client: Client, *call_ids: CallId) -> list[WireOutcome]:
    subject = client._dispatcher.subjects.ask("pool", "_pool")
    answer = await client._connection.request(subject, encode_ask(call_ids), timeout_s=5)
    return [(call_id, mark, body) for call_id, mark, body in decode_outcomes(answer.payload)]


async def test_an_outcome_that_no_worker_remembers_is_found_in_the_log(place: Place) -> None:
    first = await place.serve(pool(), instance="w1")
    client = await place.client()
    calls = [await client.submit("pool.echo", n) for n in range(3)]
    assert [await call.result() for call in calls] == [0, 1, 2]
    await first.leave()
    second = await place.serve(pool(), instance="w2")
    await place.serve(pool(), instance="w3")
    call_ids = [parse_call_id(call.call_id) for call in calls]
    assert host_of(second)._worker.answer(call_ids) == []
    assert await ask(client, *call_ids) == [(i, Mark.SUCCEEDED, bytes([n])) for n, i in enumerate(call_ids)]


async def test_an_outcome_whose_body_was_forgotten_is_read_again_from_where_it_stands(place: Place) -> None:
    running = await place.serve(pool(), instance="w1")
    client = await place.client()
    calls = [await client.submit("pool.echo", n) for n in range(3)]
    assert [await call.result() for call in calls] == [0, 1, 2]
    call_ids = [parse_call_id(call.call_id) for call in calls]
    for call_id in call_ids:
        host_of(running)._worker.outcomes.drop(call_id)
    assert await ask(client, *call_ids[1:]) == [
        (call_ids[1], Mark.SUCCEEDED, b"\x01"),
        (call_ids[2], Mark.SUCCEEDED, b"\x02"),
    ]


async def test_a_call_that_is_still_open_is_looked_up_only_once(place: Place) -> None:
    started, gate = asyncio.Event(), asyncio.Event()
    service = Service("pool")

    @service.method(effect="idempotent")
    async def wait() -> int:
        started.set()
        await gate.wait()
        return 1

    running = await place.serve(service, instance="w1")
    client = await place.client()
    call = await client.submit("pool.wait")
    await started.wait()
    questions = host_of(running).questions
    assert questions is not None
    call_id = parse_call_id(call.call_id)
    assert questions._lost([call_id]) == [call_id]
    await questions._find_older([call_id])
    assert questions._lost([call_id]) == []
    gate.set()
    assert await call.result() == 1


async def test_many_frames_of_a_backlog_are_checked_with_one_reading_of_the_log(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await place.serve(pool(), instance="w1")
    client = await place.client()
    await client.call("pool.echo", 0)
    await first.leave()
    backlog = [await client.submit("pool.echo", n, timeout=30) for n in range(300)]
    readings = 0
    read = JetStreamLog.read

    def counted(
        self: JetStreamLog, subjects: Sequence[str], *, start: Start = BEGINNING
    ) -> AsyncIterator[Record]:
        nonlocal readings
        readings += 1
        return read(self, subjects, start=start)

    monkeypatch.setattr(JetStreamLog, "read", counted)
    await place.serve(pool(), instance="w2")
    assert [await call.result() for call in backlog] == list(range(300))
    assert readings < 100
    counts = await place.recount()
    assert (len(counts.accepted), counts.without, counts.several) == (301, [], [])


async def test_every_frame_is_doubtful_until_the_consumer_was_checked_after_a_reconnect(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer = host_of(await place.serve(pool(), instance="w1")).consumer
    fresh = AckPlace(stream_seq=1 << 40, consumer_seq=1, timestamp_ns=0, pending=0, delivered=1)
    ensure = consumer.ensure
    failed = 0

    async def fail() -> None:
        nonlocal failed
        failed += 1
        raise NotConnected("no session")

    monkeypatch.setattr(consumer, "ensure", fail)
    assert not consumer.is_doubtful(fresh)
    consumer._on_event(Connected(2, cast("Any", None)))
    assert consumer.is_doubtful(fresh)
    await eventually(lambda: failed >= 2, within_s=5, what="another attempt")
    assert consumer.is_doubtful(fresh)
    monkeypatch.setattr(consumer, "ensure", ensure)
    await eventually(lambda: not consumer.is_doubtful(fresh), within_s=5, what="certainty")


async def test_a_worker_that_leaves_runs_the_waiting_calls_of_a_frame_it_has_begun(place: Place) -> None:
    service = Service("pool", max_running=1)
    gate, started = asyncio.Event(), asyncio.Event()

    @service.method(effect="idempotent")
    async def work(ctx: Context) -> str:
        started.set()
        await gate.wait()
        return ctx.instance

    first = await place.serve(service, instance="w1", drain_timeout_s=5.0)
    client = await place.client()
    calls = [asyncio.create_task(client.call("pool.work", timeout=10)) for _ in range(5)]
    await started.wait()
    worker = host_of(first)._worker
    leaving = asyncio.create_task(first.leave())
    await eventually(lambda: worker.is_draining, within_s=5, what="the drain")
    waiting = worker.waiting
    await place.serve(service, instance="w2")
    gate.set()
    await leaving
    assert (await asyncio.gather(*calls)).count("w1") == waiting + 1
    assert waiting > 0
