"""Snapshots that are not sound: each is skipped for a reason, and the state is the same in the end."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest

from aegisipc.eventstore import snapshot_records
from aegisipc.eventstore.checkpoints import Snapshot, SnapshotUnusable, listed, load, newest
from aegisipc.eventstore.memory import MemoryLog
from aegisipc.eventstore.snapshot_records import decode_index
from aegisipc.eventstore.system_snapshots import FOLD_VERSION, digest_of_dump
from tests.eventstore.snapshot_kit import change, taken, three_snapshots, with_index
from tests.eventstore.system_histories import S

type Damage = Callable[[MemoryLog, Snapshot], None]


def _part(log: MemoryLog, entry: Snapshot, at: int = 0) -> tuple[int, list[Any]]:
    assert entry.index is not None
    seq = entry.index.parts[at]
    return seq, msgpack.unpackb(log.records_from(seq)[0].payload)


def _piece(log: MemoryLog, entry: Snapshot, edit: Callable[[bytes], bytes]) -> None:
    seq, part = _part(log, entry)
    part[3] = edit(part[3])
    change(log, seq, msgpack.packb(part))


def _renumber(log: MemoryLog, entry: Snapshot) -> None:
    seq, part = _part(log, entry)
    part[2] = 7
    change(log, seq, msgpack.packb(part))


def _newer_part(log: MemoryLog, entry: Snapshot) -> None:
    seq, part = _part(log, entry)
    change(log, seq, msgpack.packb(["system.snapshot_part.v2", *part[1:]]))


def _lose(log: MemoryLog, entry: Snapshot) -> None:
    seq, _ = _part(log, entry)
    log._records[seq - 1] = log._records[seq - 1]._replace(subject="aegis.test.log.gone.g.call.x")


def _of_another(log: MemoryLog, entry: Snapshot) -> None:
    assert entry.index is not None
    former = decode_index(next(r for r in log.records_from(1) if r.subject == S.snapshot_index).payload)
    with_index(log, entry, parts=former.parts)


def _rewrite(log: MemoryLog, entry: Snapshot, edit: Callable[[bytes], bytes], **changes: Any) -> None:
    """The dump itself is another one; all checksums but that of the state are right."""
    assert entry.index is not None
    pieces = [_part(log, entry, at)[1][3] for at in range(len(entry.index.parts))]
    whole = zlib.compress(edit(zlib.decompress(b"".join(pieces))))
    packed = snapshot_records.PackedSnapshot(0, 0, "", 0, whole)
    (payload,) = snapshot_records.encode_parts(packed, 1 << 20)
    change(log, entry.index.parts[0], payload)
    index = {"parts": entry.index.parts[:1], "bytes": len(whole), "sha256": packed.sha256}
    with_index(log, entry, **index | changes)


def _bomb(log: MemoryLog, entry: Snapshot) -> None:
    _rewrite(log, entry, lambda dump: dump + bytes(50_000_000))


def _another_dump(log: MemoryLog, entry: Snapshot) -> None:
    assert entry.index is not None
    _rewrite(log, entry, lambda _: b"\xc0" * 9, unpacked=9)


def _broken_dump(log: MemoryLog, entry: Snapshot) -> None:
    digest = digest_of_dump(b"\x93" * 9)
    _rewrite(log, entry, lambda _: b"\x93" * 9, unpacked=9, digest=digest)


def _no_state(log: MemoryLog, entry: Snapshot) -> None:
    packed = msgpack.packb([FOLD_VERSION, "x"])
    digest = digest_of_dump(packed)
    _rewrite(log, entry, lambda _: packed, unpacked=len(packed), digest=digest)


DAMAGES: dict[str, tuple[Damage, str, str]] = {
    "an index that is noise": (lambda log, e: change(log, e.seq, b"\xff?"), "damaged", "the index"),
    "an index that is empty": (lambda log, e: change(log, e.seq, b""), "damaged", "the index"),
    "an index of a newer version": (
        lambda log, e: change(log, e.seq, msgpack.packb(["system.snapshot.v2", {}])),
        "other_version",
        "system.snapshot.v2",
    ),
    "an index without parts": (lambda log, e: with_index(log, e, parts=[]), "damaged", "parts: "),
    "an index with too many parts": (
        lambda log, e: with_index(log, e, parts=list(range(1, 5000))),
        "damaged",
        "parts: ",
    ),
    "an index of the wrong type": (lambda log, e: with_index(log, e, covers="1"), "damaged", "covers: "),
    "an index that promises too much": (
        lambda log, e: with_index(log, e, unpacked=1 << 40),
        "damaged",
        "unpacked: ",
    ),
    "another version of the fold": (
        lambda log, e: with_index(log, e, fold_version=FOLD_VERSION + 1),
        "other_version",
        "of the fold",
    ),
    "another time of the last record": (
        lambda log, e: with_index(log, e, covers_ns=4),
        "damaged",
        "covers something else",
    ),
    "another sequence of the last record": (
        lambda log, e: with_index(log, e, covers=e.covers - 1),
        "damaged",
        "covers something else",
    ),
    "a part that is gone": (_lose, "damaged", "is not there"),
    "a part that is noise": (
        lambda log, e: change(log, _part(log, e)[0], b"\xc1"),
        "damaged",
        "a part of a snapshot",
    ),
    "a part of a newer version": (_newer_part, "damaged", "system.snapshot_part.v2"),
    "a part with another number": (_renumber, "damaged", "belongs to another one"),
    "the parts of another snapshot": (_of_another, "damaged", "belongs to another one"),
    "a flipped bit": (
        lambda log, e: _piece(log, e, lambda piece: bytes([piece[0] ^ 1]) + piece[1:]),
        "damaged",
        "checksum",
    ),
    "a part cut off": (lambda log, e: _piece(log, e, lambda piece: piece[:-1]), "damaged", "checksum"),
    "a part that grew": (
        lambda log, e: _piece(log, e, lambda piece: piece + bytes(1 << 20)),
        "damaged",
        "larger than its index says",
    ),
    "a bomb": (_bomb, "damaged", "not as long as it was"),
    "a dump that is another": (_another_dump, "damaged", "digest"),
    "a dump that is cut off": (_broken_dump, "damaged", "cannot read a snapshot"),
    "a dump that is none": (_no_state, "damaged", "dump of the system's state"),
}


@pytest.mark.parametrize("name", DAMAGES)
async def test_a_snapshot_that_is_not_sound_is_skipped_for_a_reason_and_an_earlier_one_is_used(
    name: str,
) -> None:
    damage, reason, why = DAMAGES[name]
    log = await three_snapshots()
    entries = await listed(log, S)
    damage(log, entries[-1])
    state, (skipped,) = await taken(log)
    assert state.position == entries[-2].covers
    assert (skipped.seq, skipped.reason) == (entries[-1].seq, reason)
    assert why in skipped.why
    assert "an earlier one, or the whole log, gives the same state" in skipped.why
    with pytest.raises(SnapshotUnusable) as caught:
        await load(log, S, (await listed(log, S))[-1])
    assert (caught.value.seq, caught.value.reason) == (entries[-1].seq, reason)


async def test_if_none_is_sound_the_whole_log_is_read() -> None:
    log = await three_snapshots()
    for entry in await listed(log, S):
        _lose(log, entry)
    state, skipped = await taken(log)
    assert (state.position, len(skipped)) == (0, 3)


async def test_a_snapshot_that_reaches_beyond_the_log_is_not_used() -> None:
    log = await three_snapshots()
    (*_, second, third) = await listed(log, S)
    with_index(log, third, covers=10_000)
    (*_, third) = await listed(log, S)
    assert (await newest(log, S)).position == second.covers
    with pytest.raises(SnapshotUnusable, match="it covers 10000, and the log has 1 to"):
        await load(log, S, third)
