"""Damaged and forged bundles: whatever was changed is refused, by its place."""

from __future__ import annotations

import asyncio
import zlib
from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aegisipc.eventstore.replay import (
    BundleCutOff,
    BundleDamaged,
    BundleOutdated,
    BundleTooNew,
    NotABundle,
    open_bundle,
    verify,
)
from aegisipc.eventstore.replay import bundles as module
from aegisipc.eventstore.replay.bundle_files import BundleWriter
from aegisipc.eventstore.system_snapshots import FOLD_VERSION
from tests.eventstore.replay.bundle_kit import (
    Incident,
    all_of,
    content_of,
    entries_of,
    exported,
    write,
)
from tests.sdk.kit import NS

SETTINGS = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def incident() -> Incident:
    return Incident()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "incident.aegis"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with everything that there can be, which no test changes."""
    path = tmp_path_factory.mktemp("bundle") / "good.aegis"
    incident = Incident()
    asyncio.run(exported(incident.source, path, incident.before_seq))
    return path


def forged(path: Path, change: Callable[[list[list[Any]]], None]) -> None:
    """Write a bundle again, with other entries and sound chains."""
    entries = [[entry.kind, *entry.parts] for entry in entries_of(path)]
    change(entries)
    with path.open("wb") as file:
        writer = BundleWriter(file)
        for entry in entries:
            writer._add(entry)


# -- damage ----------------------------------------------------------------------------------------------


def expected_seq(good: Path, offset: int) -> int:
    """The sequence of the first record that cannot be trusted if the byte there is another."""
    entries = entries_of(good)
    number = bisect_right([entry.offset for entry in entries], offset) - 1
    kept = [entry.parts[0] for entry in entries[:number] if entry.kind == "record"]
    return int(kept[-1]) + 1 if kept else int(entries[0].parts[0]["first_seq"])


def refused(path: Path) -> Any:
    """The error by which opening and verifying refuse a file: both the same."""
    with pytest.raises((NotABundle, BundleTooNew, BundleDamaged)) as opening:
        open_bundle(path)
    with pytest.raises(type(opening.value)) as verifying:
        verify(path)
    assert verifying.value.to_plain() == opening.value.to_plain()
    assert str(path) in opening.value.message
    return opening.value


@SETTINGS
@given(data=st.data())
def test_any_changed_byte_is_refused_and_the_sequence_named(good: Path, tmp_path: Path, data: Any) -> None:
    content = bytearray(good.read_bytes())
    offset = data.draw(st.integers(0, len(content) - 1))
    content[offset] ^= data.draw(st.integers(1, 255))
    path = tmp_path / "changed.aegis"
    path.write_bytes(content)
    error = refused(path)
    entries = entries_of(good)
    if offset >= entries[1].offset:
        assert isinstance(error, BundleDamaged)
        assert error.seq == expected_seq(good, offset)
    elif offset >= entries[0].offset:
        assert error.seq is None
        assert "manifest" in error.message


@SETTINGS
@given(data=st.data())
def test_a_file_that_was_cut_off_anywhere_is_refused_and_the_sequence_named(
    good: Path, tmp_path: Path, data: Any
) -> None:
    content = good.read_bytes()
    length = data.draw(st.integers(1, len(content) - 1))
    path = tmp_path / "cut.aegis"
    path.write_bytes(content[:length])
    error = refused(path)
    assert isinstance(error, BundleCutOff)
    if length >= entries_of(good)[1].offset:
        assert error.seq == expected_seq(good, length)


def test_a_byte_in_a_certain_record_names_that_record(good: Path, tmp_path: Path) -> None:
    content = bytearray(good.read_bytes())
    records = [entry for entry in entries_of(good) if entry.kind == "record"]
    entry = next(entry for entry in records if entry.parts[1] == NS.fence("orders", "acc"))
    content[content.index(b"holder", entry.offset)] ^= 1
    path = tmp_path / "changed.aegis"
    path.write_bytes(content)
    with pytest.raises(BundleDamaged, match=rf"from record {entry.parts[0]} on") as caught:
        open_bundle(path)
    assert (caught.value.seq, caught.value.offset) == (entry.parts[0], entry.offset)


def test_bytes_behind_the_end_are_refused(good: Path, tmp_path: Path) -> None:
    path = tmp_path / "longer.aegis"
    path.write_bytes(good.read_bytes() + b"x")
    assert refused(path).why == "something follows its end"


@pytest.mark.parametrize(
    "content", [b"", b"hello\n", b"\x00" * 100, b"AEGIS-BUNDLE x\n", b"AEGIS-BUNDLE 0\n"]
)
def test_another_file_is_no_bundle(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    assert isinstance(refused(path), NotABundle)


def test_a_later_format_is_refused_by_its_number(good: Path, tmp_path: Path) -> None:
    path = tmp_path / "later.aegis"
    path.write_bytes(good.read_bytes().replace(b"AEGIS-BUNDLE 1\n", b"AEGIS-BUNDLE 12\n", 1))
    error = refused(path)
    assert isinstance(error, BundleTooNew)
    assert (error.found, error.known) == (12, 1)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_bundle(tmp_path / "nowhere.aegis")
    with pytest.raises(IsADirectoryError):
        open_bundle(tmp_path)


def test_an_entry_that_claims_to_be_huge_is_not_read(good: Path, tmp_path: Path) -> None:
    path = tmp_path / "huge.aegis"
    offset = entries_of(good)[3].offset
    path.write_bytes(good.read_bytes()[:offset] + b"\xff\xff\xff\xff" + good.read_bytes()[offset + 4 :])
    assert refused(path).why == "the length of an entry changed"


# -- whoever writes the chains anew ------------------------------------------------------------------------


def _index_of(entries: list[list[Any]], kind: str, number: int = 0) -> int:
    return [at for at, entry in enumerate(entries) if entry[0] == kind][number]


def _without(kind: str, number: int = 0) -> Callable[[list[list[Any]]], None]:
    def change(entries: list[list[Any]]) -> None:
        del entries[_index_of(entries, kind, number)]

    return change


def _with(kind: str, place: int, value: Any) -> Callable[[list[list[Any]]], None]:
    def change(entries: list[list[Any]]) -> None:
        entries[_index_of(entries, kind)][place] = value

    return change


def _with_manifest(**values: Any) -> Callable[[list[list[Any]]], None]:
    return lambda entries: entries[0][1].update(values)


def _swapped(entries: list[list[Any]]) -> None:
    one, other = _index_of(entries, "record", 3), _index_of(entries, "record", 4)
    entries[one], entries[other] = entries[other], entries[one]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (_without("manifest"), "manifest"),
        (_without("record", 2), "out of place"),
        (_without("record", -1), "last records are missing"),
        (_without("pulse"), "its end says something else"),
        (_without("root"), "its end says something else"),
        (_without("base"), "its base is missing"),
        (_with("base", 1, 5), "a piece of its base is missing"),
        (_with("record", 1, "x"), "no record"),
        (_with("record", 2, b"x"), "no record"),
        (_with("record", 3, "x"), "no record"),
        (_with("pulse", 4, None), "no record"),
        (_with("end", 1, 4711), "its end says something else"),
        (_with("record", 0, "else"), "'else' is out of place"),
        (lambda entries: entries.insert(3, entries[0]), "out of place"),
        (lambda entries: entries[_index_of(entries, "record")].pop(), "not what it should be"),
        (lambda entries: entries.insert(2, ["record"]), "no array"),
        (lambda entries: entries.insert(2, [3, 4]), "has no kind"),
        (_with_manifest(first_seq=0), "its range is none"),
        (_with_manifest(last_seq="9"), "last_seq"),
        (_with_manifest(redacted=[1]), "redacted"),
    ],
)
def test_entries_that_do_not_belong_together_are_refused(
    good: Path, tmp_path: Path, change: Callable[[list[list[Any]]], None], why: str
) -> None:
    path = tmp_path / "forged.aegis"
    path.write_bytes(good.read_bytes())
    forged(path, change)
    error = refused(path)
    assert isinstance(error, BundleDamaged)
    assert why in error.why, error.why


def test_records_that_change_places_are_refused(good: Path, tmp_path: Path) -> None:
    path = tmp_path / "forged.aegis"
    path.write_bytes(good.read_bytes())
    forged(path, _swapped)
    assert isinstance(refused(path), BundleDamaged)


def test_records_that_come_to_another_state_are_found_by_folding_them(good: Path, tmp_path: Path) -> None:
    path = tmp_path / "forged.aegis"
    path.write_bytes(good.read_bytes())
    at = next(
        n for n, entry in enumerate(entries_of(path)) if entry.kind == "record" and ".pen." in entry.parts[1]
    )

    def change(entries: list[list[Any]]) -> None:
        entries[at][3] = b"nothing"

    forged(path, change)
    open_bundle(path)
    with pytest.raises(BundleDamaged, match="do not come to the state"):
        verify(path)


@pytest.mark.parametrize("base", [b"no zlib", zlib.compress(b"\xc1"), zlib.compress(b"\x91\x01")])
def test_a_base_that_cannot_be_read_is_told_when_it_is_needed(
    good: Path, tmp_path: Path, base: bytes
) -> None:
    path = tmp_path / "forged.aegis"
    path.write_bytes(good.read_bytes())
    forged(path, _with("base", 2, base))
    source = open_bundle(path)
    assert source.base is not None
    with pytest.raises(BundleDamaged, match="the state that it begins with"):
        source.base()
    with pytest.raises(BundleDamaged, match="the state that it begins with"):
        verify(path)


def test_a_base_of_another_moment_is_refused(good: Path, tmp_path: Path) -> None:
    path = tmp_path / "forged.aegis"
    path.write_bytes(good.read_bytes())
    begun = _base_at(good, Incident().before_seq - 2)
    forged(path, _with("base", 2, begun))
    with pytest.raises(BundleDamaged, match="after record"):
        verify(path)


def _base_at(good: Path, seq: int) -> bytes:
    from aegisipc.eventstore.system_snapshots import dump_state, pack_dump

    return zlib.compress(pack_dump(dump_state(Incident().state(seq))))


@pytest.mark.parametrize(("version", "error"), [(FOLD_VERSION + 1, BundleTooNew), (0, BundleOutdated)])
def test_a_base_of_another_fold_is_refused_and_the_version_named(
    good: Path, tmp_path: Path, version: int, error: type[BundleTooNew]
) -> None:
    path = tmp_path / "forged.aegis"
    path.write_bytes(good.read_bytes())
    forged(path, _with_manifest(fold_version=version))
    with pytest.raises(error) as caught:
        open_bundle(path)
    assert (caught.value.found, caught.value.known) == (version, FOLD_VERSION)
    assert not verify(path).is_refolded


def test_no_control_sequence_of_a_manifest_is_told(good: Path, tmp_path: Path) -> None:
    path = tmp_path / "forged.aegis"
    path.write_bytes(good.read_bytes())
    forged(path, _with_manifest(about="\x1b]0;x\x07", product_version="\x1b[2J1.0"))
    assert open_bundle(path).about == "bundle forged.aegis (?]0;x?)"
    forged(path, _with_manifest(fold_version=FOLD_VERSION + 1))
    with pytest.raises(BundleTooNew, match=r"\(\?\[2J1.0\)"):
        open_bundle(path)


def test_a_namespace_that_is_none_is_refused(good: Path, tmp_path: Path) -> None:
    path = tmp_path / "forged.aegis"
    path.write_bytes(good.read_bytes())
    forged(path, _with_manifest(namespace="no.name"))
    assert "it is of no namespace" in refused(path).why


async def test_a_bundle_of_another_fold_that_begins_at_the_beginning_is_read(
    incident: Incident, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await exported(incident.source, path)
    monkeypatch.setattr(module, "FOLD_VERSION", FOLD_VERSION + 1)
    assert await all_of(open_bundle(path)) == incident.records
    assert not verify(path).is_refolded


async def test_a_file_that_changes_while_it_is_read_is_noticed(incident: Incident, path: Path) -> None:
    await exported(incident.source, path)
    source = open_bundle(path)
    content = bytearray(content_of(path))
    content[entries_of(path)[-1].offset - 50] ^= 1
    write(path, content)
    with pytest.raises(BundleDamaged, match="changed while it was read"):
        await all_of(source)
