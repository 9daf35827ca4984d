"""Routers are asked what they believe, and compared with the log."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from aegisipc.eventstore import checkpoints, replay
from aegisipc.eventstore.checkpoints import Snapshot, listed
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.message import Message
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.replay import Claim, Finding, Source
from aegisipc.eventstore.subjects import subjects_of
from aegisipc.eventstore.system_snapshots import FOLD_VERSION, dump_state
from aegisipc.router.application.router import Router
from aegisipc.router.application.snapshotting import SnapshotOptions
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from aegisipc.sdk import Service
from tests.e2e.kit import Place
from tests.support.waiting import eventually


@pytest.fixture
async def place(shared_server: EmbeddedServer) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        found = Place(shared_server, stack)
        found.namespace = f"claims-{found.namespace}"
        await found.router(id="one", snapshots=SnapshotOptions(every_entries=10))
        yield found


@pytest.fixture
async def source(place: Place) -> AsyncIterator[Source]:
    async with replay.open_live(place.url, place.namespace) as found:
        yield found


def echo() -> Service:
    service = Service("echo")

    @service.method(effect="once")
    async def say(number: int) -> int:
        return number

    return service


async def traffic(place: Place, calls: int) -> None:
    await place.serve(echo(), "x", instance="a")
    client = await place.client()
    for number in range(calls):
        assert await client.call("echo.say", number, resource_id="x") == number


async def all_read(source: Source, *routers: Router) -> None:
    """Wait until the routers have read all that there is."""
    last_seq = (await source.log.bounds()).last_seq
    for router in routers:
        await eventually(lambda: router.state.position >= last_seq, within_s=10, what="read on")  # noqa: B023


async def a_snapshot(source: Source) -> Snapshot:
    """Wait until the leader has written one."""
    async with asyncio.timeout(20):
        while not (found := await listed(source.log, source.subjects)):  # noqa: ASYNC110 - what others write
            await asyncio.sleep(0.02)
    return found[0]


async def test_every_router_agrees_with_the_log_and_so_do_snapshots(place: Place, source: Source) -> None:
    other = await place.router(id="two", snapshots=SnapshotOptions(every_entries=10))
    await traffic(place, 30)
    snapshot = await a_snapshot(source)
    await all_read(source, *place.routers)
    claims = await replay.router_claims(source)
    assert [claim.who for claim in claims] == ["router one", "router two"]
    assert {claim.why_not for claim in claims} == {""}
    assert 0 < claims[1].seq <= other.state.position
    report = await replay.check(source, claims)
    assert report.ok
    assert report.count(Finding.AGREES) == len(report.checks)
    kinds = Counter((found.kind, found.who) for found in report.checks)
    name = f"snapshot in record {snapshot.seq}"
    assert kinds["snapshot", name] == kinds["tail", name] == 1
    assert kinds["claim", "router one"] == kinds["claim", "router two"] == 1


async def test_a_forged_snapshot_in_a_log_on_a_server_is_found(place: Place, source: Source) -> None:
    await traffic(place, 30)
    await a_snapshot(source)
    await place.routers[0].stop()  # or it would go on from there
    point = await replay.resolve(source, "end")
    forged = await replay.state_at(source, point)
    (group,) = forged.topology.groups()
    group.holder = "mallory"
    written = await checkpoints.write(
        source.log, source.subjects, dump_state(forged), router="liar", taken_ns=point.at_ns
    )
    report = await replay.check(source)
    (bad,) = [found for found in report.checks if found.failed]
    assert (bad.who, bad.seq) == (f"snapshot in record {written.seq}", point.seq)
    assert any("mallory" in change for change in bad.changes)
    assert 0 < report.agreed_until < point.seq


async def test_a_router_whose_state_was_tampered_with_is_found(place: Place, source: Source) -> None:
    liar = await place.router(id="liar")
    await traffic(place, 5)
    (group,) = liar.state.topology.groups()
    group.epoch += 1
    await all_read(source, *place.routers)
    report = await replay.check(source, await replay.router_claims(source))
    assert {found.who: found.finding for found in report.checks if found.kind == "claim"} == {
        "router liar": Finding.DIFFERS,
        "router one": Finding.AGREES,
    }
    assert not report.ok
    assert report.first_difference is not None
    assert report.first_difference.who == "router liar"


async def test_a_router_that_pulses_and_does_not_answer_is_named(place: Place, source: Source) -> None:
    (router,) = place.routers
    await traffic(place, 1)  # it has pulsed since
    for subscription in router._subscriptions:
        if subscription.subject.endswith(".digest"):
            await subscription.unsubscribe()
    inbox = subjects_of(place.namespace).api("digest")
    async with await Connection.open(ConnectOptions(place.url, name="deaf")) as connection:
        await connection.subscribe(inbox, lambda _: None)
        claims = await replay.router_claims(source, wait_s=0.2)
    assert claims == [Claim("router one", 0, "", "it has not answered within 0.2 s")]
    assert (await replay.check(source, claims)).ok


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (
            {"ok": True, "router": "x", "position": 1, "digest": "d", "fold_version": FOLD_VERSION + 1},
            Claim(
                "router x",
                1,
                "d",
                f"version {FOLD_VERSION + 1} of the fold made it, and this is version {FOLD_VERSION}",
            ),
        ),
        (
            {"ok": False, "router": "x", "error": {"code": "router_failed"}},
            Claim("router x", 0, "", "it says: {'code': 'router_failed'}"),
        ),
        ({"ok": True, "router": "x", "position": True}, "its fold_version is None"),
        (
            {"ok": True, "router": "x", "fold_version": 1, "position": "1", "digest": "d"},
            "its position is '1'",
        ),
        ({"router": 1}, "its router is 1"),
        ([], "has no attribute"),
        (None, "has no attribute"),
        ("[" * 100_000, "recursion"),
    ],
    ids=["other fold", "error", "no fold", "no number", "no name", "list", "null", "deep"],
)
async def test_an_answer_that_cannot_be_judged_is_named_and_nothing_fails(
    place: Place, source: Source, answer: Any, expected: Claim | str
) -> None:
    await place.routers[0].stop()
    payload = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
    async with await Connection.open(ConnectOptions(place.url, name="odd")) as connection:

        def reply(message: Message) -> None:
            connection.publish_nowait(message.reply, payload)

        await connection.subscribe(subjects_of(place.namespace).api("digest"), reply)
        claims = await replay.router_claims(source, wait_s=0.3)
    odd = [claim for claim in claims if claim.who != "router one"]
    if isinstance(expected, Claim):
        assert odd == [expected]
    else:
        assert [(claim.who, claim.seq, claim.digest) for claim in odd] == [("a router", 0, "")]
        assert expected in odd[0].why_not
    assert (await replay.check(source, claims)).ok


async def test_where_no_router_runs_nobody_is_waited_for(shared_server: EmbeddedServer) -> None:
    async with AsyncExitStack() as stack:
        place = Place(shared_server, stack)
        place.namespace = f"claims-{place.namespace}"
        router = await place.router()
        source = await stack.enter_async_context(replay.open_live(place.url, place.namespace))
        await router.stop()
        claims = await replay.router_claims(source, wait_s=0.1)
        assert [claim.digest for claim in claims if claim.digest] == []
        report = await replay.check(source, claims)
        assert report.ok
        assert report.count(Finding.AGREES) == 0


async def test_of_what_is_on_no_server_nobody_is_asked(source: Source) -> None:
    offline = Source(source.log, source.subjects, "a bundle")
    assert await replay.router_claims(offline) == []
