"""Large bodies and a server, or a connection, that fails: nothing is lost, and nothing is stored twice."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from aegisipc.eventstore.errors import (
    AckUnknown,
    NotConnected,
    ObjectMissing,
    ObjectsFull,
)
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.message import Message
from aegisipc.eventstore.object_layout import CHUNK_BYTES
from aegisipc.eventstore.object_requests import Stored
from aegisipc.eventstore.objects import Objects
from aegisipc.eventstore.references import Reference
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from tests.eventstore.conftest import JetStreamBed, connect_options
from tests.eventstore.object_kit import NAME, body_of, counts, entry_of, objects_of, publish


async def test_a_server_that_is_killed_in_the_middle_of_a_put_loses_nothing(
    own: JetStreamBed, nats_server: EmbeddedServer
) -> None:
    objects = objects_of(own)
    body = body_of(24 << 20)
    store, begun = objects._requests.store, itertools.count(1)

    async def store_and_kill(subject: str, payload: bytes, **more: Any) -> Stored:
        if next(begun) in (20, 60, 120):
            await nats_server.kill()
            await nats_server.start()
        return await store(subject, payload, **more)

    objects._requests.store = store_and_kill  # type: ignore[method-assign]
    reference = await objects.put(NAME, body)
    assert await objects.get(reference) == body
    entry = await entry_of(own)
    assert (await counts(own))[objects.bucket.chunks(entry.nuid)] == entry.chunks


async def test_a_server_that_stays_away_is_given_up(own: JetStreamBed, nats_server: EmbeddedServer) -> None:
    objects = objects_of(own, patience_s=0.3)
    reference = await objects.put(NAME, b"there")
    await nats_server.kill()
    for doing in (objects.put(NAME, b"x"), objects.get(reference), objects.delete(NAME)):
        with pytest.raises((NotConnected, AckUnknown)):
            await doing


async def test_a_server_that_is_killed_in_the_middle_of_a_get_is_waited_for(
    own: JetStreamBed, nats_server: EmbeddedServer
) -> None:
    objects = objects_of(own)
    body = body_of(24 << 20)
    reference = await objects.put(NAME, body)
    find, starting = objects._find, list[asyncio.Task[None]]()

    async def find_and_kill(name: str) -> object:
        found = await find(name)
        if not starting:
            await nats_server.kill()
            starting.append(asyncio.create_task(nats_server.start()))
        return found

    objects._find = find_and_kill  # type: ignore[method-assign, assignment]
    assert await objects.get(reference) == body
    await starting[0]


class Forgetful(Connection):
    """Loses answers: those to the requests for which `loses` says so."""

    async def request(
        self, subject: str, payload: bytes, *, timeout_s: float, headers: Mapping[str, str] | None = None
    ) -> Message:
        answer = await super().request(subject, payload, timeout_s=timeout_s, headers=headers)
        identity = (headers or {}).get("Nats-Msg-Id", "")
        if identity and identity not in self.lost and self.loses(identity.partition(".")[2]):
            self.lost.add(identity)
            raise AckUnknown("lost")
        return answer

    lost: set[str]
    loses: Callable[[str], bool]


@pytest.mark.parametrize("what", ["0", "7", "19", "entry.0", "all"])
async def test_an_answer_that_was_lost_does_not_store_anything_twice(live: JetStreamBed, what: str) -> None:
    connection = await Forgetful.open(connect_options(live.connection.server.url))
    connection.lost = set()
    connection.loses = lambda piece: what in (piece, "all")
    async with connection:
        objects = Objects(connection, live.subjects)
        body = body_of(20 * CHUNK_BYTES)
        assert await objects.get(await objects.put(NAME, body)) == body
        assert len(connection.lost) == (21 if what == "all" else 1)
    entry = await entry_of(live)
    assert await counts(live) == {objects.bucket.entry(NAME): 1, objects.bucket.chunks(entry.nuid): 20}


async def test_a_piece_that_was_stored_twice_makes_the_object_start_over(live: JetStreamBed) -> None:
    connection = await Forgetful.open(connect_options(live.connection.server.url))
    connection.lost = set()
    doubled: list[str] = []

    def loses(piece: str) -> bool:
        return piece == "3" and not doubled

    connection.loses = loses
    async with connection:
        objects = Objects(connection, live.subjects)
        write = objects._chunks._check_order

        async def check(subject: str, stored: object) -> None:
            if not doubled:  # the window in which the server knows message ids was over
                doubled.append(subject)
                await publish(live, subject, b"again")
            await write(subject, stored)  # type: ignore[arg-type]

        objects._chunks._check_order = check  # type: ignore[method-assign]
        body = body_of(5 * CHUNK_BYTES)
        assert await objects.get(await objects.put(NAME, body)) == body
    entry = await entry_of(live)
    assert await counts(live) == {objects.bucket.entry(NAME): 1, objects.bucket.chunks(entry.nuid): 5}


async def test_a_put_that_is_cancelled_leaves_no_object_and_gives_its_room_back(live: JetStreamBed) -> None:
    objects = objects_of(live)
    for _ in range(3):
        putting = asyncio.create_task(objects.put(NAME, body_of(40 * CHUNK_BYTES)))
        while not await counts(live):
            pass
        putting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await putting
    with pytest.raises(ObjectMissing):
        await objects.get(Reference(NAME, 40 * CHUNK_BYTES, bytes(32)))
    async with asyncio.timeout(20):
        body = body_of(40 * CHUNK_BYTES)
        assert await objects.get(await objects.put(NAME, body)) == body


async def test_a_refused_put_cleans_up_only_when_nothing_of_it_is_under_way(live: JetStreamBed) -> None:
    """What still travels when the first piece is refused would be stored after the clean-up."""
    objects = objects_of(live)
    store, purge = objects._requests.store, objects._requests.purge
    begun, pending = itertools.count(), 0
    left_at_purge: list[int] = []

    async def refuse_the_second(subject: str, payload: bytes, **more: Any) -> Stored:
        nonlocal pending
        if next(begun) == 1:
            raise ObjectsFull("full")
        pending += 1
        try:
            await asyncio.sleep(0.05)
            return await store(subject, payload, **more)
        finally:
            pending -= 1

    async def look_and_purge(filter_subject: str, **more: Any) -> None:
        left_at_purge.append(pending)
        await purge(filter_subject, **more)

    objects._requests.store = refuse_the_second  # type: ignore[method-assign]
    objects._requests.purge = look_and_purge  # type: ignore[method-assign]
    with pytest.raises(ObjectsFull):
        await objects.put(NAME, body_of(8 * CHUNK_BYTES))
    assert left_at_purge == [0]
    assert not await counts(live)
