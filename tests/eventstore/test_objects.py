"""Large bodies on a real server: they come back whole, or the reader is told that they do not."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from pathlib import Path

import nats
import pytest

from aegisipc.eventstore.errors import (
    InvalidName,
    LogMissing,
    MalformedPayload,
    NotConnected,
    ObjectDamaged,
    ObjectMissing,
    ObjectsFull,
    PayloadTooLarge,
    PermissionDenied,
)
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.message import Message
from aegisipc.eventstore.object_layout import CHUNK_BYTES, ObjectEntry, encode_entry
from aegisipc.eventstore.objects import DEFAULT_MAX_OBJECT_BYTES, Objects
from aegisipc.eventstore.references import Reference
from aegisipc.eventstore.streams import LogOptions, create_log, objects_config
from aegisipc.eventstore.subjects import subjects_of
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from aegisipc.router.infrastructure.server_config import ServerTuning
from tests.eventstore.conftest import JetStreamBed, connect_options
from tests.eventstore.object_kit import NAME, body_of, counts, entry_of, objects_of, publish

# -- round trips ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, 10 << 20]
)
async def test_what_was_put_can_be_got(live: JetStreamBed, size: int) -> None:
    body = body_of(size)
    objects = objects_of(live)
    reference = await objects.put(NAME, body)
    assert reference == Reference(NAME, size, hashlib.sha256(body).digest())
    assert await objects.get(reference) == body
    entry = await entry_of(live)
    assert (entry.size_bytes, entry.chunks) == (size, -(-size // CHUNK_BYTES))


async def test_pieces_are_no_larger_than_the_server_takes(tmp_path: Path) -> None:
    tuning = ServerTuning(max_payload_bytes=65536)
    async with (
        EmbeddedServer(tmp_path / "small", fsync=False, tuning=tuning) as server,
        await Connection.open(connect_options(server.url)) as connection,
    ):
        subjects = subjects_of("small")
        await create_log(connection, subjects)
        objects = Objects(connection, subjects)
        body = body_of(300_000)
        assert await objects.get(await objects.put(NAME, body)) == body


async def test_many_at_a_time_do_not_mix(live: JetStreamBed) -> None:
    objects = objects_of(live)
    bodies = [body_of(CHUNK_BYTES * 3 + number) for number in range(12)]
    names = [f"orders.g1.{number}.args" for number in range(12)]
    references = await asyncio.gather(*map(objects.put, names, bodies))
    assert await asyncio.gather(*map(objects.get, references)) == bodies


async def test_the_bucket_is_as_designed(live: JetStreamBed) -> None:
    wanted = objects_config(live.subjects, LogOptions())
    found = (await live.api(f"STREAM.INFO.{wanted['name']}"))["config"]
    assert {key: found.get(key, 0) for key in wanted} == wanted
    assert not found.get("allow_rollup_hdrs", False)


async def test_the_object_store_of_nats_reads_ours(live: JetStreamBed) -> None:
    body = body_of(CHUNK_BYTES * 2 + 5)
    objects = objects_of(live)
    await objects.put(NAME, body)
    theirs = await nats.connect(live.connection.server.url)
    try:
        store = await theirs.jetstream().object_store(objects.bucket.name)
        assert [info.name for info in await store.list()] == [NAME]
        assert (await store.get(NAME)).data == body
    finally:
        await theirs.close()


# -- limits and names -----------------------------------------------------------------------------------


class Silent(Connection):
    """A connection on which nothing may be sent."""

    async def request(
        self, subject: str, payload: bytes, *, timeout_s: float, headers: Mapping[str, str] | None = None
    ) -> Message:
        raise AssertionError(f"sent on {subject}")


def silent_objects(limit_bytes: int = DEFAULT_MAX_OBJECT_BYTES) -> Objects:
    return Objects(Silent(connect_options("nats://127.0.0.1:1")), subjects_of("t"), limit_bytes=limit_bytes)


async def test_over_the_limit_nothing_is_sent() -> None:
    objects = silent_objects(1000)
    with pytest.raises(PayloadTooLarge, match="max_payload_bytes") as refused:
        await objects.put(NAME, bytes(1001))
    assert (refused.value.size_bytes, refused.value.limit_bytes) == (1001, 1000)
    with pytest.raises(PayloadTooLarge) as refused:
        await objects.get(Reference(NAME, 1001, bytes(32)))
    assert (refused.value.size_bytes, refused.value.limit_bytes) == (1001, 1000)


async def test_exactly_the_limit_is_taken(live: JetStreamBed) -> None:
    objects = objects_of(live, limit_bytes=1000)
    assert await objects.get(await objects.put(NAME, bytes(1000))) == bytes(1000)


@pytest.mark.parametrize("name", ["", "a b", "a.*", ">", "a\r\nPUB x 0", "ä", "x" * 301])
async def test_odd_names_are_refused_before_anything_is_sent(name: str) -> None:
    objects = silent_objects()
    for refused in (objects.put(name, b"x"), objects.delete(name)):
        with pytest.raises(InvalidName):
            await refused
    with pytest.raises(MalformedPayload):
        await objects.get(Reference(name, 1, bytes(32)))


@pytest.mark.parametrize(
    ("reference", "error"),
    [
        (Reference(NAME, 1 << 62, bytes(32)), PayloadTooLarge),
        (Reference(NAME, 1 << 63, bytes(32)), MalformedPayload),
        (Reference(NAME, -1, bytes(32)), MalformedPayload),
        (Reference(NAME, 1, bytes(31)), MalformedPayload),
        (Reference(NAME, 1, b""), MalformedPayload),
    ],
)
async def test_a_hostile_reference_is_refused_before_anything_is_sent(
    reference: Reference, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await silent_objects().get(reference)


async def test_a_full_store_refuses_and_keeps_what_it_has(live: JetStreamBed) -> None:
    subjects = subjects_of(f"{live.subjects.namespace}-full")
    await create_log(live.connection, subjects, LogOptions(objects_max_bytes=1 << 20))
    bed = JetStreamBed(live.log, subjects, live.connection)
    objects = objects_of(bed)
    kept = await objects.put("kept", body_of(CHUNK_BYTES))
    with pytest.raises(ObjectsFull, match="objects_max_bytes"):
        await objects.put(NAME, body_of(2 << 20))
    assert len(await objects.get(kept)) == CHUNK_BYTES
    with pytest.raises(ObjectMissing):
        await objects.get(Reference(NAME, 2 << 20, bytes(32)))
    assert len(await counts(bed)) == 2  # nothing of the refused one is left
    again = body_of(CHUNK_BYTES)
    assert await objects.get(await objects.put(NAME, again)) == again


async def test_without_a_store_the_error_says_what_to_do(live: JetStreamBed) -> None:
    objects = Objects(live.connection, subjects_of(f"{live.subjects.namespace}-nobody"))
    with pytest.raises(LogMissing, match="start a router"):
        await objects.put(NAME, b"x")
    with pytest.raises(LogMissing):
        await objects.delete(NAME)
    with pytest.raises(ObjectMissing):
        await objects.get(Reference(NAME, 1, bytes(32)))


# -- what went wrong in the store -----------------------------------------------------------------------


async def test_an_object_that_is_not_there_is_missing(live: JetStreamBed) -> None:
    with pytest.raises(ObjectMissing) as missing:
        await objects_of(live).get(Reference(NAME, 1, bytes(32)))
    assert missing.value.name == NAME


async def forge(bed: JetStreamBed, pieces: list[bytes], honest: bytes) -> Reference:
    """An entry that tells of `honest`, and other pieces."""
    objects = objects_of(bed)
    digest = hashlib.sha256(honest).digest()
    for piece in pieces:
        await publish(bed, objects.bucket.chunks("forged"), piece)
    entry = ObjectEntry(NAME, "forged", len(honest), len(pieces), digest)
    await publish(bed, objects.bucket.entry(NAME), encode_entry(entry, objects.bucket, ""))
    return Reference(NAME, len(honest), digest)


FIRST, SECOND = b"a" * 1000, b"b" * 1000


@pytest.mark.parametrize(
    ("pieces", "why"),
    [
        ([FIRST, b"b" * 999 + b"c"], "digest"),
        ([SECOND, FIRST], "digest"),
        ([FIRST], "only 1000 of its 2000"),
        ([SECOND], "only 1000 of its 2000"),
        ([FIRST, SECOND[:-1]], "only 1999 of its 2000"),
        ([], "only 0 of its 2000"),
        ([FIRST, SECOND, b"x"], "more of it"),
        ([FIRST, FIRST, SECOND], "more of it"),
    ],
)
async def test_pieces_that_are_not_what_was_stored_are_noticed(
    live: JetStreamBed, pieces: list[bytes], why: str
) -> None:
    reference = await forge(live, pieces, FIRST + SECOND)
    with pytest.raises(ObjectDamaged, match=why) as damaged:
        await objects_of(live).get(reference)
    assert damaged.value.name == NAME


async def test_the_same_pieces_undamaged_are_read(live: JetStreamBed) -> None:
    assert await objects_of(live).get(await forge(live, [FIRST, SECOND], FIRST + SECOND)) == FIRST + SECOND


async def test_another_object_under_the_name_is_noticed(live: JetStreamBed) -> None:
    objects = objects_of(live)
    first = await objects.put(NAME, b"first")
    await objects.put(NAME, b"other")
    with pytest.raises(ObjectDamaged, match="something else"):
        await objects.get(first)


async def test_an_entry_that_cannot_be_read_is_noticed_and_can_be_replaced_and_removed(
    live: JetStreamBed,
) -> None:
    objects = objects_of(live)
    reference = await objects.put(NAME, b"first")
    await publish(live, objects.bucket.entry(NAME), b'{"nuid": ">"}')
    with pytest.raises(ObjectDamaged, match="entry"):
        await objects.get(reference)
    assert await objects.get(await objects.put(NAME, b"second")) == b"second"
    await publish(live, objects.bucket.entry(NAME), b"noise")
    await objects.delete(NAME)
    with pytest.raises(ObjectMissing):
        await objects.get(reference)


async def test_an_object_that_the_tools_of_nats_removed_is_missing(live: JetStreamBed) -> None:
    objects = objects_of(live)
    reference = await objects.put(NAME, b"first")
    entry = await entry_of(live)
    tombstone = encode_entry(entry, objects.bucket, "").replace(b'{"name"', b'{"deleted":true,"name"')
    await publish(live, objects.bucket.entry(NAME), tombstone)
    with pytest.raises(ObjectMissing):
        await objects.get(reference)


# -- replacing and removing -----------------------------------------------------------------------------


async def test_what_is_replaced_is_removed(live: JetStreamBed) -> None:
    objects = objects_of(live)
    await objects.put(NAME, body_of(3 * CHUNK_BYTES))
    body = body_of(2 * CHUNK_BYTES)
    reference = await objects.put(NAME, body)
    entry = await entry_of(live)
    assert await counts(live) == {objects.bucket.entry(NAME): 1, objects.bucket.chunks(entry.nuid): 2}
    assert await objects.get(reference) == body


async def test_old_pieces_are_removed_only_when_the_new_entry_is_stored(live: JetStreamBed) -> None:
    objects = objects_of(live)
    body = body_of(CHUNK_BYTES)
    reference = await objects.put(NAME, body)
    store = objects._requests.store

    async def failing(subject: str, payload: bytes, **more: object) -> object:
        if subject.startswith("$O.") and ".M." in subject:
            raise NotConnected("no")
        return await store(subject, payload, **more)  # type: ignore[arg-type]

    objects._requests.store = failing  # type: ignore[method-assign, assignment]
    with pytest.raises(NotConnected):
        await objects.put(NAME, body_of(CHUNK_BYTES))
    assert await objects_of(live).get(reference) == body


async def test_of_concurrent_puts_of_one_name_one_wins_and_is_whole(live: JetStreamBed) -> None:
    objects = objects_of(live)
    bodies = [body_of(2 * CHUNK_BYTES + number) for number in range(6)]
    references = await asyncio.gather(*(objects.put(NAME, body) for body in bodies))
    entry = await entry_of(live)
    (winner,) = [each for each in references if each.sha256 == entry.sha256]
    assert await objects.get(winner) == bodies[references.index(winner)]
    assert await counts(live) == {objects.bucket.entry(NAME): 1, objects.bucket.chunks(entry.nuid): 3}


async def test_deleting_leaves_nothing_and_can_be_done_again(live: JetStreamBed) -> None:
    objects = objects_of(live)
    other = await objects.put("other", b"stays")
    reference = await objects.put(NAME, body_of(2 * CHUNK_BYTES))
    for _ in range(2):
        await objects.delete(NAME)
        with pytest.raises(ObjectMissing):
            await objects.get(reference)
    assert len(await counts(live)) == 2
    assert await objects.get(other) == b"stays"
    body = body_of(CHUNK_BYTES)
    assert await objects.get(await objects.put(NAME, body)) == body


@pytest.mark.parametrize("how", ["delete", "replace"])
async def test_an_entry_that_leads_to_the_pieces_of_another_object_does_not_get_them_removed(
    live: JetStreamBed, how: str
) -> None:
    objects = objects_of(live)
    victim = await objects.put("victim", b"precious")
    entry = (await entry_of(live, "victim"))._replace(name=NAME)
    await publish(live, objects.bucket.entry(NAME), encode_entry(entry, objects.bucket, ""))
    if how == "delete":
        await objects.delete(NAME)
    else:
        await objects.put(NAME, b"mine")
    assert await objects.get(victim) == b"precious"


async def test_whoever_may_only_store_needs_nothing_else(live: JetStreamBed) -> None:
    objects = objects_of(live)

    asked: list[str] = []

    async def refused(filter_subject: str, *, before_seq: int = 0) -> None:
        asked.append(f"{filter_subject} {before_seq}")
        raise PermissionDenied("no")

    objects._requests.purge = refused  # type: ignore[method-assign]
    for body in (b"first", b"second", b"third"):
        assert await objects.get(await objects.put(NAME, body)) == body
    assert len(asked) == 1  # a refusal is remembered: each is a line in the server's log
