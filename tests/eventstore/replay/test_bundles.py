"""Incident bundles: what is exported is what is read, and which part of a log that is."""

from __future__ import annotations

import os
import resource
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.errors import UnknownCall
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.jetstream_api import format_time
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.memory import MemoryLog
from aegisipc.eventstore.replay import (
    AmbiguousCall,
    BadPoint,
    BadRange,
    BundleExists,
    LogHasGap,
    PointOutsideLog,
    Source,
    around,
    between,
    open_bundle,
    resolve,
    state_at,
    verify,
)
from aegisipc.eventstore.system_snapshots import digest_of
from tests.eventstore.replay.bundle_kit import (
    HoledLog,
    Incident,
    all_of,
    content_of,
    entries_of,
    exported,
    pulses_of,
    write,
)
from tests.sdk.kit import EPOCH_NS, NS, ms


@pytest.fixture
def incident() -> Incident:
    return Incident()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "incident.aegis"


# -- what is exported is what is read --------------------------------------------------------------------


async def test_a_whole_log_is_read_back_as_it_was(incident: Incident, path: Path) -> None:
    summary = await exported(incident.source, path)
    source = open_bundle(path)
    assert await all_of(source) == incident.records
    assert await pulses_of(source) == incident.tale.pulses
    assert source.base is None
    manifest, ending = summary.manifest, summary.ending
    assert (manifest.first_seq, manifest.last_seq, manifest.has_base) == (1, incident.last_seq, False)
    assert (manifest.first_ns, manifest.last_ns) == (
        incident.records[0].timestamp_ns,
        incident.records[-1].timestamp_ns,
    )
    assert (ending.records, ending.pulses, ending.roots) == (incident.last_seq, len(incident.tale.pulses), 0)
    assert ending.digest == digest_of(incident.state())
    checked = verify(path)
    assert checked.is_refolded
    assert (checked.fingerprint, checked.size_bytes) == (summary.fingerprint, len(content_of(path)))


async def test_the_same_export_gives_the_same_bytes(incident: Incident, path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.aegis"
    await exported(incident.source, path, incident.before_seq)
    await exported(incident.source, other, incident.before_seq)
    assert content_of(path) == content_of(other)


async def test_every_state_in_a_bundle_is_that_of_the_log(incident: Incident, path: Path) -> None:
    first_seq = incident.before_seq
    summary = await exported(incident.source, path, first_seq)
    source = open_bundle(path)
    assert (summary.manifest.first_seq, summary.manifest.has_base) == (first_seq, True)
    assert source.base is not None
    assert digest_of(source.base()) == digest_of(incident.state(first_seq - 1))
    for seq in range(first_seq, incident.last_seq + 1):
        state = await state_at(source, await resolve(source, str(seq)))
        assert digest_of(state) == digest_of(incident.state(seq)), seq
    assert digest_of(source.base()) == digest_of(incident.state(first_seq - 1))


async def test_roots_are_the_newest_records_that_compare_and_set_looks_at(
    incident: Incident, path: Path
) -> None:
    await exported(incident.source, path, incident.before_seq)
    earlier = incident.records[: incident.before_seq - 1]
    newest = {record.subject: record for record in earlier}
    guards = [NS.term, NS.fence("orders", "acc"), NS.watch("orders", "acc")]
    roots = [Record(*entry.parts) for entry in entries_of(path) if entry.kind == "root"]
    assert sorted(roots) == sorted(newest[subject] for subject in guards)


async def test_near_the_beginning_a_bundle_begins_with_the_first_record(
    incident: Incident, path: Path
) -> None:
    summary = await exported(incident.source, path, 4)
    assert (summary.manifest.first_seq, summary.manifest.has_base) == (1, False)


async def test_heartbeats_begin_ten_seconds_before_and_end_with_the_last_record(path: Path) -> None:
    incident = Incident()
    tale = incident.tale
    for _ in range(60):
        tale.pulse("b", after_ms=250)
    begin = len(tale.log.records) + 1
    tale.call()
    tale.pulse("b", after_ms=250)
    tale.call()
    tale.pulse("b", after_ms=250)
    await exported(incident.source, path, begin)
    at_ns = [pulse.timestamp_ns for pulse in await pulses_of(open_bundle(path))]
    first, last = tale.log.records[begin - 1], tale.log.records[-1]
    assert at_ns == [
        pulse.timestamp_ns
        for pulse in tale.pulses
        if first.timestamp_ns - ms(10_000) <= pulse.timestamp_ns <= last.timestamp_ns
    ]
    assert len(at_ns) < len(tale.pulses)


async def test_a_part_of_a_bundle_can_be_exported_from_it(
    incident: Incident, path: Path, tmp_path: Path
) -> None:
    await exported(incident.source, path, incident.before_seq)
    part = tmp_path / "part.aegis"
    bundle = open_bundle(path)
    summary = await exported(bundle, part, incident.promoted_seq)
    assert summary.manifest.first_seq == incident.promoted_seq
    source = open_bundle(part)
    assert await all_of(source) == incident.records[incident.promoted_seq - 1 :]
    assert digest_of(await state_at(source, await resolve(source, "end"))) == digest_of(incident.state())
    newest = {record.subject: record for record in incident.records[: incident.promoted_seq - 1]}
    roots = {Record(*entry.parts) for entry in entries_of(part) if entry.kind == "root"}
    assert roots == {
        newest[subject] for subject in (NS.term, NS.fence("orders", "acc"), NS.watch("orders", "acc"))
    }
    whole = tmp_path / "whole.aegis"
    assert (await exported(bundle, whole, incident.before_seq)).ending == verify(path).ending


# -- what cannot be exported -----------------------------------------------------------------------------


@pytest.mark.parametrize(("from_seq", "until_seq"), [(0, 5), (3, 2), (1, 10_000), (9_000, 10_000)])
async def test_a_range_that_the_log_does_not_have_is_refused(
    incident: Incident, path: Path, from_seq: int, until_seq: int
) -> None:
    with pytest.raises(BadRange, match=f"holds sequences 1 to {incident.last_seq}") as caught:
        await exported(incident.source, path, from_seq, until_seq)
    assert (caught.value.from_seq, caught.value.until_seq) == (from_seq, until_seq)
    assert list(path.parent.iterdir()) == []


async def test_an_empty_log_cannot_be_exported(path: Path) -> None:
    source = Source(MemoryLog(lambda: EPOCH_NS), NS, "nothing")
    with pytest.raises(BadRange, match="is empty"):
        await exported(source, path, 1, 1)


async def test_a_file_is_replaced_only_by_force(incident: Incident, path: Path) -> None:
    write(path, b"mine")
    with pytest.raises(BundleExists, match="--force"):
        await exported(incident.source, path)
    assert content_of(path) == b"mine"
    await exported(incident.source, path, force=True)
    assert verify(path).ending.records == incident.last_seq
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("place", ["first", "between", "last"])
async def test_a_log_with_a_gap_is_not_exported_and_nothing_is_left(
    incident: Incident, path: Path, place: str
) -> None:
    seq = {"first": 1, "between": incident.promoted_seq, "last": incident.last_seq}[place]
    source = replace(incident.source, log=HoledLog(incident.records, seq))
    with pytest.raises(LogHasGap) as caught:
        await exported(source, path)
    assert caught.value.seq == seq
    assert list(path.parent.iterdir()) == []


async def test_a_full_disk_leaves_nothing_behind(incident: Incident, path: Path) -> None:
    """Neither the file that was wanted, nor a part of it under another name; what was there stays."""
    before = b"what was there"
    write(path, before)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            await exported(incident.source, path, force=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    assert content_of(path) == before


async def test_what_is_no_file_is_not_replaced_by_one(incident: Incident, tmp_path: Path) -> None:
    """Least of all a device, such as /dev/null."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(BundleExists, match="no ordinary file"):
        await exported(incident.source, pipe, force=True)
    with pytest.raises(BundleExists, match="no ordinary file"):
        await exported(incident.source, tmp_path, force=True)
    assert pipe.is_fifo()


async def test_a_folder_that_is_not_there_is_told(incident: Incident, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        await exported(incident.source, tmp_path / "nowhere" / "x.aegis")


# -- which part ------------------------------------------------------------------------------------------


def _id(call_id: bytes) -> str:
    return str(UUID(bytes=call_id))


async def test_around_a_call_is_half_a_minute_before_it_and_after_its_outcome() -> None:
    incident = Incident()
    tale = incident.tale
    tale.later(40_000)
    before_seq = incident.last_seq + 1
    tale.call()
    tale.later(29_000)
    call_id = tale.call()
    tale.later(5_000)
    tale.pen("b", (Mark.CLAIMED, call_id, None))
    concluded = tale.pen("b", (Mark.SUCCEEDED, call_id, encode(1)))
    tale.later(30_000)
    tale.call()
    tale.later(1)
    tale.call()
    found = await around(incident.source, _id(call_id))
    until_ns = incident.records[concluded - 1].timestamp_ns + ms(30_000)
    assert found == (before_seq, concluded + 1, until_ns)
    assert await around(incident.source, call_id.hex()[:14].upper()) == found


async def test_around_a_call_without_an_outcome_is_everything_since() -> None:
    incident = Incident()
    found = await around(incident.source, _id(incident.waiting))
    assert found[:2] == (1, incident.last_seq)


async def test_around_a_dead_letter_ends_half_a_minute_after_it_was_given_up() -> None:
    incident = Incident()
    given_up = incident.tale.pen("b", (Mark.DEAD_LETTERED, incident.waiting, None), kind="dead")
    incident.tale.later(31_000)
    incident.tale.call()
    found = await around(incident.source, _id(incident.waiting))
    assert found[:2] == (1, given_up)


async def test_a_call_that_is_not_there_or_not_one_has_nothing_around_it() -> None:
    incident = Incident()
    for text in ("5", "start", "-5m", "before:" + _id(incident.done), "first:group.promoted"):
        with pytest.raises(BadPoint):
            await around(incident.source, text)
    with pytest.raises(UnknownCall):
        await around(incident.source, "019a9e6e-8d5b-7000-8000-3b9aca000001")
    with pytest.raises(AmbiguousCall):
        await around(incident.source, incident.done.hex()[:8])


async def test_between_two_points_both_belong_to_it() -> None:
    incident = Incident()
    source = incident.source
    promoted, last = incident.promoted_seq, incident.last_seq
    assert (await between(source, "group.promoted", "end"))[:2] == (promoted, last)
    assert (await between(source, "start", str(promoted)))[:2] == (1, promoted)
    assert (await between(source, _id(incident.done), "before:group.promoted"))[:2] == (
        (await resolve(source, _id(incident.done))).seq,
        promoted - 1,
    )
    at_ns = incident.records[promoted - 1].timestamp_ns
    first_of_time = next(record.seq for record in incident.records if record.timestamp_ns >= at_ns)
    assert (await between(source, format_time(at_ns), "end"))[:2] == (first_of_time, last)
    assert (await between(source, format_time(at_ns - 1), "end"))[:2] == (first_of_time, last)


async def test_a_range_that_is_none_says_why() -> None:
    incident = Incident()
    with pytest.raises(BadRange, match="swap them"):
        await between(incident.source, "end", "start")
    at_ns = incident.records[incident.promoted_seq - 1].timestamp_ns
    with pytest.raises(BadRange, match="choose a wider range"):
        await between(incident.source, format_time(at_ns - 2), format_time(at_ns - 1))
    with pytest.raises(PointOutsideLog):
        await between(incident.source, "1", "9999")
