"""Histories that were recorded once are read for ever, and come to what they came to then."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from aegisipc.eventstore import events as ev
from aegisipc.eventstore import replay
from aegisipc.eventstore.calls import GroupCalls
from aegisipc.eventstore.checkpoints import listed
from aegisipc.eventstore.frames import decode_calls, decode_pen
from aegisipc.eventstore.group_snapshots import decode_snapshot, load_calls
from aegisipc.eventstore.keys import decode_segment
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.pulses import PulseBoard
from aegisipc.eventstore.replay import Finding, Source
from aegisipc.eventstore.replay import bundles as bundle_files
from aegisipc.eventstore.snapshot_records import decode_index, decode_part
from aegisipc.eventstore.subjects import (
    CALL,
    CONCLUSIONS,
    EVIDENCE,
    KEYS,
    SNAPSHOT,
    STATE,
    Subjects,
)
from aegisipc.eventstore.system_snapshots import FOLD_VERSION, digest_of
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from tests.golden import record as recorder
from tests.golden.comparing import differences, missing_links
from tests.golden.reading import (
    EVERY,
    HERE,
    all_facts,
    bundles,
    chain,
    digests,
    expected_of,
    readable,
    records_of,
    view,
    words_in,
)
from tests.golden.scenes import SCENES
from tests.support.interpreters import environment, other_python

ROOT = HERE.parents[1]
ALL = pytest.mark.parametrize("path", readable(), ids=lambda path: f"{path.parent.name}/{path.stem}")


@pytest.fixture
def source(path: Path) -> Source:
    return replay.open_bundle(path)


def test_there_is_a_whole_set_for_each_version_that_has_one() -> None:
    sets = {path.parent for path in bundles()}
    assert sets
    for folder in sets:
        assert {path.stem for path in bundles() if path.parent == folder} >= SCENES.keys()


# -- what they come to -----------------------------------------------------------------------------------


@ALL
async def test_the_digests_are_what_they_were(path: Path, source: Source) -> None:
    expected = expected_of(path)["digests"]
    assert str(FOLD_VERSION) in expected, (
        "the fold has a new version, so its states have new digests: look well whether that is all that "
        "changed, then add them with python -m tests.golden.record --digests"
    )
    assert await digests(source) == expected[str(FOLD_VERSION)]


@ALL
async def test_the_views_are_what_they_were(path: Path, source: Source) -> None:
    for point, expected in expected_of(path)["views"].items():
        assert list(differences(expected, await view(source, point))) == [], point


@ALL
async def test_the_reasons_are_what_they_were(path: Path, source: Source) -> None:
    for asked in expected_of(path)["why"]:
        assert missing_links(asked["chain"], await chain(source, *asked["asked"])) == [], asked["asked"]


@ALL
async def test_snapshots_and_the_end_agree_with_the_fold(path: Path, source: Source) -> None:
    assert replay.verify(path).ending.digest
    report = await replay.check(source)
    assert report.ok
    assert [found.seq for found in report.checks if found.who == "the end of the bundle"] == [report.last_seq]
    sound = [found for found in report.checks if (found.kind, found.finding) == ("snapshot", Finding.AGREES)]
    of_today = [
        snapshot
        for snapshot in await listed(source.log, source.subjects)
        if snapshot.index is not None and snapshot.index.fold_version == FOLD_VERSION
    ]
    reachable = [snapshot for snapshot in of_today if snapshot.covers >= report.first_seq - 1]
    assert len(sound) == len(reachable)


async def test_a_part_of_a_history_comes_to_the_same_as_the_whole() -> None:
    tails = [path for path in readable() if path.stem.endswith("-tail")]
    for path in tails:
        whole = digests(replay.open_bundle(path.with_stem(path.stem.removesuffix("-tail"))))
        part = await digests(replay.open_bundle(path))
        assert part.items() <= (await whole).items()
        assert len(part) > 1


@ALL
async def test_a_redacted_part_of_it_agrees_with_itself(path: Path, source: Source, tmp_path: Path) -> None:
    bounds = await source.log.bounds()
    middle = (bounds.first_seq + bounds.last_seq) // 2 + EVERY
    part = tmp_path / "part.aegis"
    await replay.export(
        source, part, from_seq=middle, until_seq=bounds.last_seq, redact=["arguments", "reason"]
    )
    report = await replay.check(replay.open_bundle(part))
    assert report.ok
    assert report.count(Finding.AGREES) == 1


@ALL
async def test_it_can_be_imported_and_comes_to_the_same(
    path: Path, source: Source, shared_server: EmbeddedServer
) -> None:
    namespace = f"import-{path.parent.name.replace('.', '-')}-{path.stem}"
    async with await Connection.open(ConnectOptions(shared_server.url)) as connection:
        await replay.import_bundle(connection, path, namespace)
    async with replay.open_live(shared_server.url, namespace) as imported:
        assert (await replay.check(imported)).ok
        found, expected = await view(imported, "end"), await view(source, "end")
    for key, group in expected["groups"].items():
        told = found["groups"][key]
        assert {name: told[name] for name in PEN} == {name: group[name] for name in PEN}
    assert found["open"]["oldest_first"].keys() == expected["open"]["oldest_first"].keys()


PEN = ("active", "epoch", "incarnation", "state", "why")
"""What must be the same of a group in another namespace, at another time."""


def test_a_part_that_begins_with_a_state_of_another_fold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole history is read by every version of the fold."""
    monkeypatch.setattr(bundle_files, "FOLD_VERSION", FOLD_VERSION + 1)
    for path in bundles():
        if expected_of(path)["base_fold"] is None:
            replay.open_bundle(path)
        else:
            with pytest.raises(replay.BundleOutdated, match="export it again"):
                replay.open_bundle(path)


# -- every record can be read ----------------------------------------------------------------------------


@ALL
async def test_every_record_and_every_pulse_can_be_read(path: Path, source: Source) -> None:
    count = 0
    async for record in records_of(source):
        read(record, source.subjects)
        count += 1
    assert count >= EVERY
    assert source.pulses is not None
    board = PulseBoard(source.subjects, gap_ms=500)
    async for pulse in source.pulses.read([f"{source.subjects.pulse_root}.>"]):
        board.apply(pulse)
    assert board.routers
    assert board.unreadable == 0


def read(record: Record, subjects: Subjects) -> None:
    """Read a record as whoever folds it does; raises if that cannot be."""
    kind = subjects.parse(record.subject).kind
    if kind == CALL:
        decode_calls(record.payload)
    elif kind in CONCLUSIONS or kind == EVIDENCE:
        decode_pen(record.payload)
    elif kind == STATE:
        load_calls(decode_snapshot(record.payload).calls, GroupCalls(keep_bodies=True))
    elif kind == KEYS:
        decode_segment(record.payload)
    elif kind == SNAPSHOT:
        (decode_index if record.subject == subjects.snapshot_index else decode_part)(record.payload)
    else:
        assert isinstance(ev.decode_event(record.payload), ev.Event)


@ALL
async def test_the_fold_knows_every_event(path: Path, source: Source) -> None:
    found = await view(source, "end")
    assert found["anomalies"]["unknown_types"] == {}
    assert found["anomalies"]["unreadable"] == 0


@ALL
async def test_the_words_are_those_that_were_written_down(path: Path, source: Source) -> None:
    assert dict(await words_in(source)) == expected_of(path)["words"]


# -- in whichever process --------------------------------------------------------------------------------


def asked(python: Sequence[str], **more: str) -> dict[str, Any]:
    """What another process finds."""
    sources = [ROOT, *(ROOT / member / "src" for member in ("eventstore", "sdk", "router"))]
    done = subprocess.run(
        [*python, "-m", "tests.golden.reading"],
        cwd=ROOT,
        env=environment(PYTHONPATH=os.pathsep.join(map(str, sources)), **more),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.slow
async def test_a_process_with_another_hash_seed_finds_the_same() -> None:
    expected = await all_facts()
    for seed in ("0", "1", "random"):
        assert asked([sys.executable], PYTHONHASHSEED=seed) == expected


@pytest.mark.slow
async def test_another_version_of_python_finds_the_same() -> None:
    python = other_python("3.12" if sys.version_info[:2] != (3, 12) else "3.13")
    if isinstance(python, str):
        pytest.skip(python)
    assert asked(python) == await all_facts()


# -- the files -------------------------------------------------------------------------------------------


def bytes_of(path: Path) -> bytes:
    return path.read_bytes()


@ALL
async def test_no_file_names_the_machine_that_it_was_made_on(path: Path, source: Source) -> None:
    content = bytes_of(path)
    hosts = set()
    async for record in records_of(source):
        if b"instance.registered" in record.payload:
            event = ev.decode_event(record.payload)
            assert isinstance(event, ev.InstanceRegistered)
            hosts.add(event.host)
        if source.subjects.parse(record.subject).kind == STATE:
            content += zlib.decompress(record.payload)
    assert hosts == {recorder.HOST}
    assert str(Path.home()).encode() not in content
    assert str(ROOT).encode() not in content


def test_bundles_are_binary_to_git() -> None:
    lines = (ROOT / ".gitattributes").read_text(encoding="utf-8").splitlines()
    assert "*.aegis binary" in lines


def test_a_set_that_is_there_is_never_recorded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: hashlib.sha256(path.read_bytes()).digest() for path in bundles()}
    monkeypatch.setattr(recorder, "version", lambda _: bundles()[0].parent.name)
    with pytest.raises(SystemExit, match="what was recorded never changes"):
        recorder.main([])
    with pytest.raises(SystemExit, match="usage"):
        recorder.main(["--force"])
    assert {path: hashlib.sha256(path.read_bytes()).digest() for path in bundles()} == before


async def test_digests_of_a_new_fold_are_added_and_those_of_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = [path for path in bundles() if path.stem == "failover"][:1]
    copy = tmp_path / path.name
    copy.write_bytes(path.read_bytes())
    expected = expected_of(path)
    today = expected["digests"].pop(str(FOLD_VERSION))
    expected["digests"]["0"] = {"10": "as it was"}
    copy.with_suffix(".json").write_text(json.dumps(expected), encoding="utf-8")
    monkeypatch.setattr(recorder, "readable", lambda: [copy])
    for _ in range(2):
        await recorder.add_digests()
        assert expected_of(copy) == {
            **expected,
            "digests": {"0": {"10": "as it was"}, str(FOLD_VERSION): today},
        }


@pytest.mark.slow
async def test_a_scene_can_still_be_played_and_recorded(
    shared_server: EmbeddedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: recorder.HOST)
    await recorder.recorded("rolling-restart", shared_server, tmp_path)
    path = tmp_path / "rolling-restart.aegis"
    source = replay.open_bundle(path)
    expected = expected_of(path)
    assert await digests(source) == expected["digests"][str(FOLD_VERSION)]
    released = expected_of(next(path for path in bundles() if path.stem == "rolling-restart"))
    assert expected["words"].keys() >= released["words"].keys() - {"keys.v1"}
    state = await replay.state_at(source, await replay.resolve(source, "end"))
    assert digest_of(state) == replay.verify(path).ending.digest


# -- how they are compared -------------------------------------------------------------------------------


def test_what_is_told_beside_is_no_difference_but_what_is_gone_or_other_is() -> None:
    then = {"groups": {"a": {"epoch": 1, "list": [1, 2]}}, "at": 1}
    assert list(differences(then, {**then, "more": 1})) == []
    for now in (
        {"groups": {"a": {"epoch": 2, "list": [1, 2]}}, "at": 1},
        {"groups": {"a": {"epoch": 1, "list": [1]}}, "at": 1},
        {"groups": {"a": {"epoch": True, "list": [1, 2]}}, "at": 1},
        {"groups": {"a": then["groups"]["a"], "b": {}}, "at": 1},  # type: ignore[index]
        {"groups": {}, "at": 1},
        {"groups": then["groups"]},
    ):
        assert len(list(differences(then, now))) == 1
    assert missing_links([1, 3], [1, 2, 3]) == []
    assert missing_links([1, 3], [3, 1]) == [3]
