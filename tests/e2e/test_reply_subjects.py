"""Answers go to inboxes, and only requests are answered: nobody gets the rights of whoever answers,
neither by a reply subject nor by a consumer that delivers records elsewhere.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgpack  # type: ignore[import-untyped]

from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.ids import parse_call_id
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.message import Message
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.streams import open_log
from aegisipc.eventstore.subjects import subjects_of
from aegisipc.sdk import Service
from aegisipc.sdk.hosts.pool import PoolHost
from aegisipc.sdk.wire import encode_ask
from tests.e2e.kit import Place, Running
from tests.support.waiting import eventually

MUCH_S = 20.0
GROUP, POOL = "g1", "_pool"
_consumers = (f"elsewhere{number}" for number in itertools.count(1))


class Desk:
    """A service that notes what it ran; the gate holds its handlers up."""

    def __init__(self, name: str) -> None:
        self.service = Service(name)
        self.ran: list[int] = []
        self.gate = asyncio.Event()
        self.gate.set()

        @self.service.method(effect="once")
        async def echo(number: int) -> int:
            self.ran.append(number)
            await self.gate.wait()
            return number


@asynccontextmanager
async def asker(place: Place) -> AsyncIterator[Connection]:
    async with await Connection.open(
        ConnectOptions(place.url, name="asker", inbox_prefix="inboxes.a")
    ) as opened:
        yield opened


async def deliver(connection: Connection, place: Place, filtered: str, to: str) -> None:
    """Have the records of a subject delivered elsewhere, which everybody may who may follow the log."""
    stream, name = subjects_of(place.namespace).stream, next(_consumers)
    config = {
        "name": name,
        "deliver_subject": to,
        "deliver_policy": "all",
        "ack_policy": "none",
        "filter_subject": filtered,
        "mem_storage": True,
    }
    request = json.dumps({"stream_name": stream, "config": config, "action": "create"}).encode()
    told = await connection.request(f"$JS.API.CONSUMER.CREATE.{stream}.{name}", request, timeout_s=MUCH_S)
    assert "error" not in json.loads(told.payload)


async def test_whoever_answers_does_so_to_an_inbox_and_nowhere_else(place: Place) -> None:
    subjects = subjects_of(place.namespace)
    await place.router(system_url=place.server.system_url)  # so that it knows of durability
    owned = await place.serve(Desk("orders").service, "x", instance="o1", group=GROUP)
    pooled = await place.serve(Desk("quotes").service, instance="q1")
    client = await place.client()
    placed = await client.submit("orders.echo", 1, resource_id="x")
    quoted = await client.submit("quotes.echo", 2)
    assert [await placed.result(), await quoted.result()] == [1, 2]

    find = b'{"command": "find_key", "key": "k"}'
    drain = b'{"instance": "nobody", "author": "alice"}'
    requests = [
        (subjects.api("status"), b""),
        (subjects.api("digest"), b""),
        (subjects.api("durability"), b""),
        (subjects.api("doubts"), b"{}"),
        (subjects.api("drain"), drain),
    ]
    for name, group, running, call in (
        ("orders", GROUP, owned, placed),
        ("quotes", POOL, pooled, quoted),
    ):
        requests += [
            (subjects.ask(name, group), encode_ask([parse_call_id(call.call_id)])),
            (subjects.tell(name, group), find),
            (subjects.tell(name, group), b"{}"),
            (subjects.find_key(name, group), find),
            (subjects.probe(name, group, running.id), b""),
        ]
    fence = subjects.fence("orders", GROUP)
    async with asker(place) as connection:
        log = await open_log(connection, subjects)
        promoted = await log.last(fence)
        misled: list[str] = []
        for elsewhere in (fence, subjects.reply("c9"), f"aegis.{place.namespace}x.log.s.g.pen.i", "$O.b.C.x"):
            await connection.subscribe(elsewhere, lambda message: misled.append(message.subject))
            for subject, payload in requests:
                await connection.publish(subject, payload, reply=elsewhere)
        for (
            subject,
            payload,
        ) in requests:  # those that ask with an inbox of a prefix of their own are answered
            answer = await connection.request(subject, payload, timeout_s=MUCH_S)
            assert answer.payload, subject
        await connection.flush(MUCH_S)
        assert misled == []
        assert await log.last(fence) == promoted


async def test_a_record_that_a_consumer_delivers_is_no_command(place: Place) -> None:
    subjects = subjects_of(place.namespace)
    owned = await place.serve(Desk("orders").service, "x", instance="o1", group=GROUP)
    mine = subjects.call("nowhere", "g", "c9")
    async with asker(place) as connection:
        log = await open_log(connection, subjects)
        await log.append(mine, b'{"instance": "o1", "author": "mallory", "force": true}')
        heard: list[Message] = []
        await connection.subscribe(subjects.api("drain"), heard.append)
        await deliver(connection, place, mine, subjects.api("drain"))
        await eventually(lambda: heard, within_s=MUCH_S, what="the delivery")
        told = await connection.request(
            subjects.api("drain"), b'{"instance": "nobody", "author": "alice"}', timeout_s=MUCH_S
        )
        assert "error" in json.loads(told.payload)
        watched = [r.payload async for r in log.read([subjects.watch("orders", GROUP)])]
    assert heard[0].reply.startswith("$JS.ACK.")
    assert not any(b"mallory" in payload for payload in watched)
    assert owned.instance.drain_requested_by is None


async def test_a_record_that_a_consumer_delivers_is_no_outcome(place: Place) -> None:
    subjects = subjects_of(place.namespace)
    desk = Desk("orders")
    await place.serve(desk.service, "x", instance="o1", group=GROUP)
    client = await place.client(name="c1")
    desk.gate.clear()
    pending = await client.submit("orders.echo", 1, resource_id="x")
    mine = subjects.call("nowhere", "g", "c9")
    async with asker(place) as connection:
        forged: list[Any] = [(parse_call_id(pending.call_id), int(Mark.SUCCEEDED), encode(99))]
        await (await open_log(connection, subjects)).append(mine, msgpack.packb(forged))
        heard: list[Message] = []
        await connection.subscribe(subjects.reply("c1"), heard.append)
        await deliver(connection, place, mine, subjects.reply("c1"))
        await eventually(lambda: heard, within_s=MUCH_S, what="the delivery")
        desk.gate.set()
        assert await pending.result() == 1


def inbox_of(running: Running) -> str:
    host = running.host
    assert isinstance(host, PoolHost)
    return host.consumer._inbox


async def test_a_worker_of_a_pool_takes_frames_of_the_pools_own_consumer_only(place: Place) -> None:
    subjects = subjects_of(place.namespace)
    orders, quotes = Desk("orders"), Desk("quotes")
    await place.serve(orders.service, "x", instance="o1", group=GROUP)
    pooled = await place.serve(quotes.service, instance="q1")
    client = await place.client(name="c1")
    assert await client.call("orders.echo", 1, resource_id="x") == 1
    async with asker(place) as connection:
        heard: list[Message] = []
        await connection.subscribe(inbox_of(pooled), heard.append)
        await deliver(connection, place, subjects.call("orders", GROUP, "c1"), inbox_of(pooled))
        await eventually(lambda: heard, within_s=MUCH_S, what="the delivery")
        assert await client.call("quotes.echo", 2) == 2
    assert (orders.ran, quotes.ran) == ([1], [2])


async def test_the_servers_own_answers_in_the_log_hold_nobody_up(place: Place) -> None:
    """The server answers wherever it is told to, whoever asks: no permission of NATS prevents it."""
    subjects = subjects_of(place.namespace)
    orders, quotes = Desk("orders"), Desk("quotes")
    await place.serve(orders.service, "x", instance="o1", group=GROUP)
    await place.serve(quotes.service, instance="q1")
    client = await place.client(name="c1")
    assert await client.call("orders.echo", 1, resource_id="x") == 1
    places = [subjects.term, subjects.snapshot_index, subjects.snapshot_part]
    for name, group, who in (("orders", GROUP, "o1"), ("quotes", POOL, "q1")):
        places += [subjects.fence(name, group), subjects.watch(name, group)]
        at = (
            subjects.instance,
            subjects.contract,
            subjects.pen,
            subjects.dead,
            subjects.keys,
            subjects.state,
        )
        places += [
            kind(name, group, who) for kind in (*at, subjects.call, subjects.cancel, subjects.evidence)
        ]
    async with asker(place) as connection:
        log = await open_log(connection, subjects)
        before = (await log.bounds()).last_seq
        for number, where in enumerate(places):
            await connection.publish(f"$JS.API.STREAM.INFO.{subjects.stream}", b"", reply=where)
            assert await client.call("orders.echo", 10 + number, resource_id="x") == 10 + number
            assert await client.call("quotes.echo", 10 + number) == 10 + number
        rubbish = {r.subject async for r in log.read([subjects.everything]) if r.payload[:7] == b'{"type"'}
        assert (await log.bounds()).last_seq > before
    assert rubbish >= set(places)
    later = await place.client()
    assert await later.call("orders.echo", 2, resource_id="x") == 2
    await place.router()  # one that reads all of it
    assert len(orders.ran) == len(places) + 2
