"""Routers and snapshots of the system: who writes them, when, and that a start from one is like any other."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from structlog.testing import capture_logs

from aegisipc.eventstore import checkpoints
from aegisipc.eventstore.errors import LogFull
from aegisipc.eventstore.lifecycles import RouterState
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.streams import open_log
from aegisipc.eventstore.system import SystemState
from aegisipc.eventstore.system_snapshots import FOLD_VERSION, digest_of, dump_state
from aegisipc.router.application import digesting, snapshotting
from aegisipc.router.application.router import Router
from aegisipc.router.application.snapshotting import SnapshotOptions
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from aegisipc.sdk import Service
from tests.e2e.kit import Place
from tests.support.waiting import eventually

OFTEN = SnapshotOptions(every_entries=30)
NEVER = SnapshotOptions(every_entries=0)


@pytest.fixture
async def place(shared_server: EmbeddedServer) -> AsyncIterator[Place]:
    """A fresh namespace on the shared server, without a router."""
    async with AsyncExitStack() as stack:
        yield Place(shared_server, stack)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a dump may take long, and the rest after it."""
    monkeypatch.setattr(snapshotting, "_REST", 0)
    monkeypatch.setattr(snapshotting, "_LOOK_S", 0.02)


def echo() -> Service:
    service = Service("echo")

    @service.method(effect="pure")
    async def say(text: str) -> str:
        return text

    return service


async def calls(place: Place, count: int) -> None:
    """So many calls, each to its end."""
    client = await place.client()
    await asyncio.gather(*(client.call("echo.say", str(n)) for n in range(count)))


async def until_written(router: Router, count: int = 1) -> dict[str, Any]:
    """Return the latest snapshot that the router knows, once it wrote so many."""
    await eventually(
        lambda: router.snapshots.written >= count and router.status()["snapshot"]["latest"] is not None,
        within_s=20,
        what="a snapshot",
    )
    latest: dict[str, Any] = router.status()["snapshot"]["latest"]
    return latest


async def records_of(router: Router) -> list[Record]:
    assert router._log is not None
    return [record async for record in router._log.read([router.subjects.everything])]


async def agrees(router: Router) -> None:
    """What it believes is what the whole log gives."""
    records = await records_of(router)
    await eventually(lambda: router.state.position >= records[-1].seq, within_s=10)
    while records[-1].seq < router.state.position:
        records = await records_of(router)
    assert digest_of(router.state) == digest_of(SystemState(router.subjects).replay(records))


async def test_the_leader_writes_snapshots_and_another_router_starts_from_there(place: Place) -> None:
    first = await place.router(id="first", snapshots=OFTEN)
    await place.serve(echo())
    await calls(place, 40)
    latest = await until_written(first)
    await calls(place, 3)
    second = await place.router(id="second", snapshots=OFTEN)
    status = second.status()["snapshot"]
    assert status["began_at"] >= latest["covers"] > 0
    assert (latest["router"], status["written"]) == ("first", 0)
    await agrees(second)
    await agrees(first)


async def test_a_router_that_starts_again_reads_only_the_tail(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await place.router(id="first", snapshots=OFTEN)
    await place.serve(echo())
    await calls(place, 40)
    await until_written(first)
    await first.stop()
    folded: list[int] = []
    fold = SystemState.fold

    def noted(state: SystemState, record: Record) -> Any:
        folded.append(record.seq)
        return fold(state, record)

    monkeypatch.setattr(SystemState, "fold", noted)
    again = await place.router(id="first", snapshots=OFTEN)
    assert folded[0] == again.snapshots.began_at + 1 > 1
    await eventually(lambda: again.phase is RouterState.LEADING, within_s=10)
    await calls(place, 3)
    await agrees(again)


async def test_after_some_time_a_snapshot_is_written_if_there_was_a_word(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = await place.router(snapshots=SnapshotOptions(every_s=0.1))
    first = await until_written(router)  # its election was a word
    before = router.snapshots.written
    assert not router.snapshots._is_due()
    looks = 0

    def is_leading() -> bool:
        nonlocal looks
        looks += 1
        return True

    monkeypatch.setattr(router.snapshots, "_is_leading", is_leading)
    await eventually(lambda: looks > 10, within_s=10, what="it looks")
    assert router.snapshots.written == before  # nothing was said since
    await place.serve(echo())
    await calls(place, 40)
    latest = await until_written(router, before + 1)
    assert latest["covers"] > first["covers"]


async def test_a_router_that_is_told_so_writes_none(place: Place) -> None:
    router = await place.router(snapshots=NEVER)
    await place.serve(echo())
    await calls(place, 20)
    assert router.snapshots._task is None
    assert router._log is not None
    assert await checkpoints.listed(router._log, router.subjects) == []


async def test_who_does_not_lead_writes_none_until_it_leads(place: Place) -> None:
    first = await place.router(id="first", snapshots=NEVER)
    await eventually(lambda: first.phase is RouterState.LEADING, within_s=10)
    second = await place.router(id="second", snapshots=OFTEN)
    await place.serve(echo())
    await calls(place, 40)
    await eventually(second.snapshots._is_due, within_s=10, what="one is due")
    assert second.snapshots.written == 0
    await first.stop()
    assert (await until_written(second))["router"] == "second"
    await agrees(second)


async def test_two_who_believe_that_they_lead_do_no_harm(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await place.router(id="first", snapshots=OFTEN)
    second = await place.router(id="second", snapshots=OFTEN)
    monkeypatch.setattr(second.snapshots, "_is_leading", lambda: True)
    await place.serve(echo())
    for _ in range(4):
        await calls(place, 30)
    await eventually(lambda: first.snapshots.written + second.snapshots.written >= 2, within_s=20)
    third = await place.router(id="third", snapshots=NEVER)
    assert third.snapshots.began_at > 0
    assert (third.status()["snapshot"]["skipped"], first.failure, second.failure) == (0, None, None)
    for router in (first, second, third):
        await agrees(router)


async def test_that_snapshots_cannot_be_written_hurts_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object, **__: object) -> None:
        raise LogFull("cannot append: the log is full")

    monkeypatch.setattr(snapshotting, "_RETRY_S", 0.05)
    monkeypatch.setattr(checkpoints, "write", full)
    with capture_logs() as logs:
        router = await place.router(snapshots=OFTEN)
        await place.serve(echo())
        await calls(place, 40)
        await eventually(lambda: router.snapshots.failures >= 2, within_s=20, what="failures")
    told = [entry for entry in logs if entry["event"] == "cannot_write_snapshot"]
    assert [entry["error"] for entry in told] == ["cannot append: the log is full"]  # once, not every time
    await calls(place, 5)
    assert (router.failure, router.snapshots.written) == (None, 0)
    monkeypatch.undo()
    await until_written(router)


async def test_a_damaged_snapshot_is_skipped_and_another_is_written(place: Place) -> None:
    first = await place.router(id="first", snapshots=OFTEN)
    await place.serve(echo())
    await calls(place, 40)
    latest = await until_written(first)
    await first.stop()
    async with await Connection.open(ConnectOptions(place.url)) as connection:
        log = await open_log(connection, first.subjects)
        bad = await log.append(first.subjects.snapshot_index, b"noise")
    with capture_logs() as logs:
        again = await place.router(id="again", snapshots=OFTEN)
    (skipped,) = [entry for entry in logs if entry["event"] == "snapshot_skipped"]
    assert (skipped["seq"], skipped["reason"]) == (bad.seq, "damaged")
    assert again.snapshots.began_at >= latest["covers"]
    await calls(place, 40)
    assert (await until_written(again))["seq"] > bad.seq
    await agrees(again)


# -- digests ------------------------------------------------------------------------------------------------


async def asked(router: Router) -> dict[str, Any]:
    connection = router._connection
    assert connection is not None
    answer = await connection.request(router.subjects.api("digest"), b"", timeout_s=10)
    told: dict[str, Any] = json.loads(answer.payload)
    return told


async def test_every_router_tells_the_digest_of_its_state(place: Place) -> None:
    routers = [await place.router(id=name, snapshots=NEVER) for name in ("first", "second")]
    connection = routers[0]._connection
    assert connection is not None
    answers: list[dict[str, Any]] = []
    inbox = "_INBOX.digests"
    await connection.subscribe(inbox, lambda message: answers.append(json.loads(message.payload)))
    await connection.publish(routers[0].subjects.api("digest"), b"", reply=inbox)
    await eventually(lambda: len(answers) == 2, within_s=10, what="both answer")
    assert {answer["router"] for answer in answers} == {"first", "second"}
    records = await records_of(routers[0])
    for answer in answers:
        state = SystemState(routers[0].subjects).replay(records[: answer["position"]])
        assert (answer["ok"], answer["digest"]) == (True, digest_of(state))
        assert answer["fold_version"] == FOLD_VERSION
        assert answer["incarnation"]


async def test_many_questions_are_answered_with_one_digest(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = await place.router(snapshots=NEVER)
    await eventually(lambda: router.phase is RouterState.LEADING, within_s=10)
    dumps = 0

    def counted(state: SystemState) -> Any:
        nonlocal dumps
        dumps += 1
        return dump_state(state)

    monkeypatch.setattr(digesting, "dump_state", counted)
    monkeypatch.setattr(digesting, "_REST", 1_000_000)
    told = await asyncio.gather(*(asked(router) for _ in range(20)))
    assert dumps == 1
    assert all(answer == told[0] for answer in told)


async def test_a_router_that_failed_tells_no_digest(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    router = await place.router(snapshots=NEVER)
    monkeypatch.setattr(router, "failure", ZeroDivisionError("a defect"))
    answer = await asked(router)
    assert (answer["ok"], answer["error"]["code"]) == (False, "router_failed")
    assert "digest" not in answer
    monkeypatch.undo()


async def test_a_digest_that_cannot_be_made_is_an_answer_too(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = await place.router(snapshots=NEVER)

    def broken(state: SystemState) -> Any:
        raise OverflowError("a defect")

    monkeypatch.setattr(digesting, "dump_state", broken)
    answer = await asked(router)
    assert (answer["ok"], answer["error"]["code"]) == (False, "no_digest")
    monkeypatch.setattr(digesting, "dump_state", dump_state)
    assert (await asked(router))["ok"] is True
    assert router.failure is None
