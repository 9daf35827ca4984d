"""What the tests of large bodies share."""

from __future__ import annotations

import os

from aegisipc.eventstore.object_layout import ObjectEntry, decode_entry
from aegisipc.eventstore.objects import Objects
from tests.eventstore.conftest import JetStreamBed

NAME = "orders.g1.01890000-0000-7000-8000-000000000000.args"


def body_of(size: int) -> bytes:
    """Bytes in which no two pieces are alike."""
    return os.urandom(size)


def objects_of(bed: JetStreamBed, **options: float) -> Objects:
    return Objects(bed.connection, bed.subjects, **options)  # type: ignore[arg-type]


async def entry_of(bed: JetStreamBed, name: str = NAME) -> ObjectEntry:
    found = await objects_of(bed)._requests.last(objects_of(bed).bucket.entry(name))
    assert found is not None
    return decode_entry(found.payload)


async def counts(bed: JetStreamBed) -> dict[str, int]:
    """How many messages there are on each subject of the bucket."""
    told = await bed.api(f"STREAM.INFO.{objects_of(bed).bucket.stream}", {"subjects_filter": ">"})
    return dict(told["state"].get("subjects") or {})


async def publish(bed: JetStreamBed, subject: str, payload: bytes) -> None:
    answer = await bed.connection.request(subject, payload, timeout_s=5.0)
    assert b"error" not in answer.payload
