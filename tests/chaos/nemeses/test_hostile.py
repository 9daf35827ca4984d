"""Hostile messages to a real group: it goes on as if nothing had been."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from aegisipc.chaos.nemeses.errors import NemesisFailed
from aegisipc.chaos.nemeses.hostile import Kind, Reach, Shot, Target, shots
from aegisipc.chaos.nemeses.raw_client import send
from aegisipc.eventstore.subjects import subjects_of
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from aegisipc.sdk import Service
from tests.e2e.kit import Place

TARGET = Target(subjects_of("h"), "orders", "g1", "c1", "i1")


def test_the_same_seed_makes_the_same_messages() -> None:
    first = list(shots(TARGET, random.Random(7), 500))
    assert first == list(shots(TARGET, random.Random(7), 500))
    assert first != list(shots(TARGET, random.Random(8), 500))
    assert {shot.kind for shot in first} == set(Kind) - {Kind.FORBIDDEN}


def test_what_only_trusted_writers_may_send_is_not_sent_by_default() -> None:
    reserved = {subject.encode() for subject in TARGET.forbidden()}
    assert not reserved & {shot.subject for shot in shots(TARGET, random.Random(1), 3000)}
    everywhere = list(shots(TARGET, random.Random(1), 3000, reach=Reach.EVERYWHERE))
    assert reserved == {shot.subject for shot in everywhere if shot.kind is Kind.FORBIDDEN}


@pytest.fixture
async def place(nats_server: EmbeddedServer) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        found = Place(nats_server, stack)
        await found.router()
        yield found


@pytest.mark.parametrize("resource", ["r1", None])
async def test_a_service_goes_on_and_newcomers_can_read_the_log(place: Place, resource: str | None) -> None:
    orders = Service("orders")

    @orders.method(effect="once")
    async def double(n: int) -> int:
        return 2 * n

    place_of: dict[str, Any] = {} if resource is None else {"group": "g1"}
    resources = [] if resource is None else [resource]
    running = await place.serve(orders, *resources, **place_of)
    client = await place.client(name="c1")
    assert await client.call("orders.double", 1, resource_id=resource, timeout=10) == 2
    target = Target(subjects_of(place.namespace), "orders", place_of.get("group", "_pool"), "c1", running.id)

    sent = await send(place.url, shots(target, random.Random(7), 1200))
    assert sent.total == 1200
    assert (sent.refused, sent.closed, dict(sent.errors)) == (0, 0, {})
    assert set(sent.by_kind) == set(Kind) - {Kind.FORBIDDEN}

    assert await client.call("orders.double", 2, resource_id=resource, timeout=10) == 4
    assert not running.task.done()
    await place.router()  # folds it all from the start
    await place.serve(orders, *resources, **place_of)
    await running.leave()
    fresh = await place.client(name="c2")
    assert await fresh.call("orders.double", 3, resource_id=resource, timeout=10) == 6


async def test_what_permissions_forbid_is_refused_and_counted(tmp_path: Path) -> None:
    shot = Shot(Kind.FORBIDDEN, b"$SYS.REQ.SERVER.PING", b"")
    async with EmbeddedServer(tmp_path / "nats", fsync=False, credentials=("u", "p w")) as server:
        sent = await send(server.url, [shot] * 3, per_s=1e6)
        assert (sent.total, sent.closed) == (3, 0)
        wrong = server.url.replace("u:", "x:")
        refused = await send(wrong, [shot])
        assert refused.closed == 1 or refused.errors
        too_long = Shot(Kind.NOISE, b"a", b"x" * (2 << 20))
        assert (await send(server.url, [too_long])).closed == 1
    with pytest.raises(NemesisFailed, match="start one"):
        await send(server.url, [shot])
