"""Importing: a bundle is a log again, in which every record stands where it stood, and a router can lead."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from aegisipc.eventstore import checkpoints
from aegisipc.eventstore.calls import GroupCalls
from aegisipc.eventstore.errors import InvalidName, PayloadTooLarge, WrongSequence
from aegisipc.eventstore.group_snapshots import GroupSnapshot, decode_snapshot, dump_calls, encode_snapshot
from aegisipc.eventstore.lifecycles import RouterState
from aegisipc.eventstore.log import Expect, Record, Start
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.replay import (
    BundleDamaged,
    CannotImport,
    NamespaceInUse,
    Source,
    Stepper,
    check,
    import_bundle,
    open_bundle,
    open_live,
    resolve,
    state_at,
    why,
)
from aegisipc.eventstore.replay import importing as module
from aegisipc.eventstore.snapshot_records import encode_index, encode_parts, pack_snapshot
from aegisipc.eventstore.sql.projector import state_at as projected_state_at
from aegisipc.eventstore.streams import create_log, open_log
from aegisipc.eventstore.subjects import subjects_of
from aegisipc.eventstore.system import SystemState
from aegisipc.eventstore.system_snapshots import dump_state
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from tests.e2e.kit import Place
from tests.eventstore.conftest import connect_options
from tests.eventstore.replay.bundle_kit import Incident, content_of, exported, source_of, write
from tests.sdk.kit import GROUP, NS, SERVICE
from tests.support.waiting import eventually

_names = (f"imported{number}" for number in itertools.count(1))
SNAPSHOTS: Final = "snapshot"


@pytest.fixture
async def connection(shared_server: EmbeddedServer) -> AsyncIterator[Connection]:
    async with await Connection.open(connect_options(shared_server.url)) as connection:
        yield connection


@pytest.fixture
def namespace() -> str:
    return next(_names)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "incident.aegis"


async def records_of(connection: Connection, namespace: str, first_seq: int = 1) -> list[Record]:
    subjects = subjects_of(namespace)
    log = await open_log(connection, subjects)
    return [record async for record in log.read([subjects.everything], start=Start(first_seq))]


def moved(record: Record, namespace: str) -> tuple[int, str, bytes]:
    """Where a record is to be, and what it says."""
    return record.seq, record.subject.replace(NS.log_root, subjects_of(namespace).log_root), record.payload


def what(records: list[Record]) -> list[tuple[int, str, bytes]]:
    return [record[:3] for record in records]


def believed(state: SystemState) -> dict[str, Any]:
    """Who holds what, since which epoch, and which calls are open: all that no time is part of."""
    groups = {
        (group.service, group.name): (group.epoch, group.holder, group.state, sorted(group.instances))
        for group in state.topology.groups()
    }
    calls = {
        (key, call.call_id): (call.state, call.claimed_by, call.claimed_epoch, call.seq, call.said_seq)
        for key, of_group in state.calls.items()
        for call in of_group.open.values()
    }
    lead = state.topology.leadership
    return {"groups": groups, "calls": calls, "leader": (lead.term, lead.router), "at": state.position}


async def at_the_end(source: Source) -> SystemState:
    return await state_at(source, await resolve(source, "end"))


async def is_absent(connection: Connection, namespace: str) -> bool:
    """There is no log, and an import would find none."""
    answer = await connection.request(f"$JS.API.STREAM.INFO.AEGIS_{namespace}", b"", timeout_s=5.0)
    return b"stream not found" in answer.payload


# -- what becomes of a bundle -----------------------------------------------------------------------------


async def test_a_whole_log_stands_where_it_stood(
    connection: Connection, shared_server: EmbeddedServer, namespace: str, path: Path
) -> None:
    incident = Incident()
    await exported(incident.source, path)
    imported = await import_bundle(connection, path, namespace)
    assert imported == (namespace, "t", incident.last_seq, 1, incident.last_seq, 0)
    records = await records_of(connection, namespace)
    assert what(records) == [moved(record, namespace) for record in incident.records]
    async with open_live(shared_server.url, namespace) as live:
        assert believed(await at_the_end(live)) == believed(await at_the_end(open_bundle(path)))


async def test_a_part_of_a_log_stands_where_it_stood_behind_what_stands_for_the_rest(
    connection: Connection, shared_server: EmbeddedServer, namespace: str, path: Path
) -> None:
    incident = Incident()
    first_seq = incident.before_seq
    await exported(incident.source, path, first_seq)
    imported = await import_bundle(connection, path, namespace)
    subjects = subjects_of(namespace)
    before, records = await _parted(connection, namespace, first_seq)
    assert what(records) == [moved(record, namespace) for record in incident.records[first_seq - 1 :]]
    assert (imported.first_seq, imported.before) == (first_seq, len(before))
    assert before[-1].seq == first_seq - 1
    newest = {record.subject: record for record in incident.records[: first_seq - 1]}
    guards = [NS.term, NS.fence(SERVICE, GROUP), NS.watch(SERVICE, GROUP)]
    roots = [record for record in before if SNAPSHOTS not in record.subject]
    assert {root.subject: root.payload for root in roots} == {
        subject: payload for _, subject, payload in (moved(newest[guard], namespace) for guard in guards)
    }
    log = await open_log(connection, subjects)
    state = await checkpoints.newest(log, subjects, until_seq=first_seq - 1, on_skip=_never)
    assert state.position == roots[-1].seq
    async with open_live(shared_server.url, namespace) as live:
        for seq in range(first_seq, incident.last_seq + 1):
            there = await state_at(live, await resolve(live, str(seq)))
            here = incident.state(seq)
            assert believed(there) == believed(here), seq


async def test_whoever_reads_an_imported_log_begins_with_what_came_before(
    connection: Connection, shared_server: EmbeddedServer, namespace: str, path: Path
) -> None:
    incident = Incident()
    await exported(incident.source, path, incident.before_seq)
    await import_bundle(connection, path, namespace)
    wanted = believed(incident.state())
    async with open_live(shared_server.url, namespace) as live:
        end = await resolve(live, "end")
        assert believed(await state_at(live, end, from_beginning=True)) == wanted
        stepper = await Stepper.open(live, end)
        assert believed(stepper.state) == wanted
        await stepper.back(2)
        await stepper.forward(2)
        assert believed(stepper.state) == wanted
        reason = await why(live, "group", f"{SERVICE}/{GROUP}", end)
        original = incident.source
        known = await why(original, "group", f"{SERVICE}/{GROUP}", await resolve(original, "end"))
        assert reason.answer.partition(" since ")[0] == known.answer.partition(" since ")[0]
        assert (await check(live)).ok
    log, subjects = await open_log(connection, subjects_of(namespace)), subjects_of(namespace)
    assert (
        believed(await projected_state_at(log, subjects, 0))["groups"]
        == believed(incident.state(incident.before_seq - 1))["groups"]
    )


def _never(skipped: checkpoints.SkippedSnapshot) -> None:
    pytest.fail(f"a snapshot was not used: {skipped}")


async def _parted(
    connection: Connection, namespace: str, first_seq: int
) -> tuple[list[Record], list[Record]]:
    records = await records_of(connection, namespace)
    number = next(n for n, record in enumerate(records) if record.seq == first_seq)
    return records[:number], records[number:]


@pytest.mark.parametrize("begins", ["at the beginning", "later", "behind the failover"])
async def test_compare_and_set_goes_on_where_the_records_stand_now(
    connection: Connection, shared_server: EmbeddedServer, namespace: str, path: Path, begins: str
) -> None:
    incident = Incident()
    later = {"later": incident.before_seq, "behind the failover": incident.promoted_seq + 1}
    await exported(incident.source, path, later.get(begins, 1))
    await import_bundle(connection, path, namespace)
    subjects = subjects_of(namespace)
    log = await open_log(connection, subjects)
    async with open_live(shared_server.url, namespace) as live:
        topology = (await at_the_end(live)).topology
    group = topology.group(SERVICE, GROUP)
    assert group is not None
    expected = {
        subjects.term: topology.leadership.seq,
        subjects.fence(SERVICE, GROUP): group.fence_seq,
        subjects.watch(SERVICE, GROUP): group.watch_seq,
    }
    for subject, seq in expected.items():
        last = await log.last(subject)
        assert last is not None
        assert last.seq == seq, subject
        with pytest.raises(WrongSequence):
            await log.append(subject, b"x", expect=Expect(seq - 1))
        await log.append(subject, b"x", expect=Expect(seq))


@pytest.mark.parametrize("begins", ["at the beginning", "later"])
async def test_a_router_leads_an_imported_log_and_decides_about_who_is_not_there(
    shared_server: EmbeddedServer, connection: Connection, path: Path, begins: str
) -> None:
    incident = Incident()
    long_ago = [record._replace(timestamp_ns=record.timestamp_ns // 2) for record in incident.records]
    source = source_of(long_ago, incident.source)
    await exported(source, path, 1 if begins == "at the beginning" else incident.before_seq)
    bundle_state = await at_the_end(open_bundle(path))
    async with AsyncExitStack() as stack:
        place = Place(shared_server, stack)
        await import_bundle(connection, path, place.namespace)
        router = await place.router()
        await eventually(lambda: router.phase is RouterState.LEADING, within_s=20, what="it leads")
        assert router.state.topology.leadership.term == bundle_state.topology.leadership.term + 1

        def holder() -> str | None:
            group = router.state.topology.group(SERVICE, GROUP)
            return group.holder if group is not None else "?"

        await eventually(lambda: holder() is None, within_s=20, what="who does not live lost the pen")
        assert set(router.state.calls[SERVICE, GROUP].open) == {incident.doubtful, incident.waiting}
        group = router.state.topology.group(SERVICE, GROUP)
        assert group is not None
        assert group.epoch == 2


async def test_what_was_imported_can_be_exported_and_imported_again(
    connection: Connection, shared_server: EmbeddedServer, namespace: str, path: Path, tmp_path: Path
) -> None:
    incident = Incident()
    await exported(incident.source, path, incident.before_seq)
    await import_bundle(connection, path, namespace)
    again = tmp_path / "again.aegis"
    async with open_live(shared_server.url, namespace) as live:
        await exported(live, again, incident.promoted_seq)
        whole = tmp_path / "whole.aegis"
        await exported(live, whole, (await live.log.bounds()).first_seq)
    other = next(_names)
    await import_bundle(connection, again, other)
    async with open_live(shared_server.url, other) as live:
        assert believed(await at_the_end(live)) == believed(incident.state())
    assert believed(await at_the_end(open_bundle(whole))) == believed(incident.state())
    third = next(_names)
    await import_bundle(connection, whole, third)
    async with open_live(shared_server.url, third) as live:
        assert believed(await at_the_end(live)) == believed(incident.state())


async def test_snapshots_in_a_bundle_are_kept_but_not_used(
    connection: Connection, namespace: str, path: Path
) -> None:
    incident = Incident()
    snapshot = pack_snapshot(dump_state(incident.state()))
    (part,) = encode_parts(snapshot, 1 << 20)
    part_seq = incident.tale.log.append(NS.snapshot_part, part)
    index = encode_index(snapshot, [part_seq], router="r1", taken_ns=5)
    incident.tale.log.append(NS.snapshot_index, index)
    incident.tale.call()
    await exported(incident.source, path)
    await import_bundle(connection, path, namespace)
    subjects = subjects_of(namespace)
    log = await open_log(connection, subjects)
    assert await log.last(subjects.snapshot_index) is None
    records = await records_of(connection, namespace, part_seq)
    assert [record.subject for record in records[:2]] == [subjects.snapshot_part] * 2
    assert [record.payload for record in records[:2]] == [part, index]


async def test_a_snapshot_of_a_group_names_the_frames_of_its_new_namespace(
    connection: Connection, namespace: str, path: Path
) -> None:
    incident = Incident()
    calls = GroupCalls(keep_bodies=True)
    for record in incident.records:
        place = NS.parse(record.subject)
        if place.group == GROUP:
            calls.apply(record, place)
    payload = encode_snapshot(GroupSnapshot(incident.last_seq, 2, dump_calls(calls), b"state"))
    seq = incident.tale.log.append(NS.state(SERVICE, GROUP, "b"), payload)
    broken_seq = incident.tale.log.append(NS.state(SERVICE, GROUP, "b"), b"broken")
    await exported(incident.source, path)
    await import_bundle(connection, path, namespace)
    good, broken = await records_of(connection, namespace, seq)
    assert (good.seq, broken.seq, broken.payload) == (seq, broken_seq, b"broken")
    found, was = decode_snapshot(good.payload), decode_snapshot(payload)
    assert (found.covers, found.epoch, found.state) == (was.covers, was.epoch, was.state)
    root = subjects_of(namespace).log_root
    assert [[s.replace(root, NS.log_root), *rest] for s, *rest in found.calls[3]] == was.calls[3]
    assert found.calls[3] != was.calls[3]
    assert found.calls[:3] + found.calls[4:] == was.calls[:3] + was.calls[4:]


async def test_many_records_keep_their_order(connection: Connection, namespace: str, path: Path) -> None:
    incident = Incident()
    for number in range(3 * module.WINDOW_RECORDS):
        incident.tale.log.append(NS.contract(SERVICE, GROUP, "a"), b"%d" % number)
    told: list[int] = []
    await exported(incident.source, path)
    await import_bundle(connection, path, namespace, told=told.append)
    records = await records_of(connection, namespace)
    assert what(records) == [moved(record, namespace) for record in incident.records]
    assert told == [module.WINDOW_RECORDS * n for n in (1, 2, 3)]


# -- what cannot be imported --------------------------------------------------------------------------------


async def test_a_namespace_that_has_a_log_is_left_alone(
    connection: Connection, namespace: str, path: Path
) -> None:
    log = await create_log(connection, subjects_of(namespace))
    await exported(Incident().source, path)
    with pytest.raises(NamespaceInUse, match="choose a namespace that has none") as caught:
        await import_bundle(connection, path, namespace)
    assert caught.value.namespace == namespace
    assert (await log.bounds()).last_seq == 0


async def test_of_two_imports_at_once_one_succeeds(
    connection: Connection, namespace: str, path: Path
) -> None:
    incident = Incident()
    await exported(incident.source, path)
    results = await asyncio.gather(
        *(import_bundle(connection, path, namespace) for _ in range(3)), return_exceptions=True
    )
    assert sum(isinstance(result, module.Imported) for result in results) == 1, results
    assert sum(isinstance(result, NamespaceInUse) for result in results) == 2, results
    assert len(await records_of(connection, namespace)) == incident.last_seq


@pytest.mark.parametrize("begins", [1, 0])
async def test_whoever_writes_in_between_makes_it_fail_and_nothing_is_left(
    connection: Connection, namespace: str, path: Path, monkeypatch: pytest.MonkeyPatch, begins: int
) -> None:
    incident = Incident()
    await exported(incident.source, path, begins or incident.before_seq)
    sound = module._write_records

    async def write_records(writer: Any, *rest: Any) -> None:
        await writer.log.append(writer.subjects.term, b"somebody else")
        await sound(writer, *rest)

    monkeypatch.setattr(module, "_write_records", write_records)
    with pytest.raises(CannotImport, match="something else writes there"):
        await import_bundle(connection, path, namespace)
    assert await is_absent(connection, namespace)
    monkeypatch.undo()
    await import_bundle(connection, path, namespace)


async def test_a_record_that_is_too_large_for_the_server_makes_it_fail_and_nothing_is_left(
    connection: Connection, namespace: str, path: Path
) -> None:
    incident = Incident()
    incident.tale.log.append(NS.contract(SERVICE, GROUP, "a"), bytes(2 << 20))
    await exported(incident.source, path)
    with pytest.raises(PayloadTooLarge, match="max_payload"):
        await import_bundle(connection, path, namespace)
    assert await is_absent(connection, namespace)


async def test_an_import_that_is_interrupted_leaves_nothing(
    connection: Connection, namespace: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await exported(Incident().source, path)
    is_there = asyncio.Event()

    async def write_records(*_: Any) -> None:
        is_there.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(module, "_write_records", write_records)
    importing = asyncio.create_task(import_bundle(connection, path, namespace))
    async with asyncio.timeout(10):
        await is_there.wait()
    assert not await is_absent(connection, namespace)
    importing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await importing
    assert await is_absent(connection, namespace)


async def test_a_damaged_bundle_makes_nothing(connection: Connection, namespace: str, path: Path) -> None:
    await exported(Incident().source, path)
    content = bytearray(content_of(path))
    content[-60] ^= 1
    write(path, content)
    with pytest.raises(BundleDamaged):
        await import_bundle(connection, path, namespace)
    assert await is_absent(connection, namespace)


async def test_a_name_that_is_none_makes_nothing(connection: Connection, path: Path) -> None:
    with pytest.raises(InvalidName):
        await import_bundle(connection, path, "no.name")


async def test_without_room_for_what_was_before_it_is_refused(
    connection: Connection, namespace: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await exported(Incident().source, path, Incident().before_seq)
    monkeypatch.setattr(module, "parts_in", lambda *_: 50)
    with pytest.raises(CannotImport, match="there is room for"):
        await import_bundle(connection, path, namespace)
    assert await is_absent(connection, namespace)
