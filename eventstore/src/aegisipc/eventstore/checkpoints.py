"""Snapshots of the whole system in the log: writing one, and finding the state to begin a fold with.

A snapshot only saves time: whatever is wrong with one, an earlier one or the whole log gives the same state.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from aegisipc.eventstore.errors import AegisError, MalformedPayload, WrongSequence
from aegisipc.eventstore.log import Bounds, Expect, Log, Record, Start
from aegisipc.eventstore.snapshot_records import (
    SnapshotIndex,
    UnknownSnapshot,
    decode_index,
    encode_index,
    encode_parts,
    load_snapshot,
    max_part_bytes,
    pack_snapshot,
)
from aegisipc.eventstore.subjects import Subjects
from aegisipc.eventstore.system import SystemState
from aegisipc.eventstore.system_snapshots import FOLD_VERSION

_APPEND_TIMEOUT_S: Final = 10.0
_FIRST_WINDOW: Final = 100_000
"""Records of the log in which index records are looked for first; each further step back is four times as
long.
"""
_WIDER: Final = 4


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot that the log has: its index record stands at ``seq`` and was stored at ``at_ns``.

    ``index`` is ``None`` if that record cannot be read; ``why`` says why not.
    """

    seq: int
    at_ns: int
    index: SnapshotIndex | None
    why: str = ""
    is_newer: bool = False
    """It cannot be read because it has a form that this version does not know."""

    @property
    def covers(self) -> int:
        """Sequence of the record after which the state is as the snapshot has it; 0: nobody knows."""
        return self.index.covers if self.index is not None else 0


class SnapshotUnusable(MalformedPayload):
    """A snapshot that one cannot begin with. Fields: ``seq``, where its index stands; ``covers``; ``reason``:
    ``damaged``, ``other_version`` (of the fold, or of the snapshot: it may be sound), or ``out_of_reach``
    (records that follow it are gone).
    """

    code = "snapshot_unusable"


class NoBeginning(AegisError):
    """The log has lost its first records, and no snapshot stands for them. Field: ``first_seq``."""

    code = "no_beginning"


class SkippedSnapshot(NamedTuple):
    """A snapshot that was not used: where its index stands, what it covers (0: nobody knows), and why, as a
    sentence and as :class:`SnapshotUnusable` names it.
    """

    seq: int
    covers: int
    why: str
    reason: str


type OnSkip = Callable[[SkippedSnapshot], None]


# -- writing ----------------------------------------------------------------------------------------------


async def write(log: Log, subjects: Subjects, plain: list[Any], *, router: str, taken_ns: int) -> Snapshot:
    """Write a snapshot of what ``dump_state`` gave, which is of the server's time `taken_ns`; parts first,
    the index last. Returns when it can be used.

    Raises:
        WrongSequence: another snapshot was written meanwhile, or covers as much. If there are parts of this
            one, they are never read.
        LimitExceeded: the state is too large for a snapshot.
        LogFull, NotConnected, AckUnknown, LogFailed, LogMissing: as the log says; the same holds.
    """
    snapshot = await asyncio.to_thread(pack_snapshot, plain)
    payloads = await asyncio.to_thread(encode_parts, snapshot, log.max_record_bytes)
    former = await log.last(subjects.snapshot_index)
    expect = Expect(former.seq if former is not None else 0)
    _check_is_news(snapshot.covers, former, expect)
    parts = []
    for payload in payloads:
        appended = await log.append(subjects.snapshot_part, payload, timeout_s=_APPEND_TIMEOUT_S)
        parts.append(appended.seq)
    payload = encode_index(snapshot, parts, router=router, taken_ns=taken_ns)
    appended = await log.append(subjects.snapshot_index, payload, expect=expect, timeout_s=_APPEND_TIMEOUT_S)
    return Snapshot(appended.seq, taken_ns, decode_index(payload))


def _check_is_news(covers: int, former: Record | None, expect: Expect) -> None:
    known = _read_index(former) if former is not None else None
    if known is None or known.index is None or known.index.fold_version != FOLD_VERSION:
        return
    if known.covers >= covers:
        raise WrongSequence(
            f"cannot write a snapshot up to sequence {covers}: the one at {known.seq} reaches "
            f"{known.covers} already; there is no need for another",
            subject=expect.subject,
            expected=expect.seq,
        )


# -- reading ----------------------------------------------------------------------------------------------


async def newest(
    log: Log,
    subjects: Subjects,
    *,
    until_seq: int | None = None,
    base: Callable[[], SystemState] | None = None,
    on_skip: OnSkip | None = None,
) -> SystemState:
    """Return the latest state not after the record `until_seq` (default: the end of the log) from which one
    can fold on: that of the newest snapshot that is sound, else that of `base` (the state just before the
    log's first record), else an empty one. Of snapshots that are not used `on_skip` hears, newest first.

    Raises:
        NoBeginning: the log does not begin at its beginning, and nothing says what was before.
        NotConnected, AckUnknown, LogFailed, LogMissing: as the log says.
    """
    bounds = await log.bounds()
    until = bounds.last_seq if until_seq is None else min(until_seq, bounds.last_seq)
    async with aclosing(_backwards(log, subjects, bounds, until)) as snapshots:
        async for entry in snapshots:
            try:
                return await _load(log, subjects, entry, bounds)
            except SnapshotUnusable as error:
                if on_skip is not None:
                    on_skip(SkippedSnapshot(entry.seq, entry.covers, error.message, error.reason))
    begun = base() if base is not None else None
    if begun is not None and (until_seq is None or begun.position <= until_seq):
        return begun
    return _empty(subjects, bounds)


async def beginning(
    log: Log, subjects: Subjects, *, base: Callable[[], SystemState] | None = None
) -> SystemState:
    """Return the earliest state from which one can fold on: that of `base`, which is just before the log's
    first record, else an empty one. An imported log begins in the middle, with a snapshot of what came
    before: then it is that of its first snapshot that is sound.

    Raises:
        NoBeginning: there is no `base`, the log does not begin at its beginning, and has no such snapshot.
        NotConnected, AckUnknown, LogFailed, LogMissing: as the log says.
    """
    if base is not None:
        return base()
    bounds = await log.bounds()
    for entry in await listed(log, subjects) if bounds.first_seq > 1 else ():
        with suppress(SnapshotUnusable):
            return await _load(log, subjects, entry, bounds)
    return _empty(subjects, bounds)


def _empty(subjects: Subjects, bounds: Bounds) -> SystemState:
    """An imported log begins in the middle: folded from nothing, it would give a state that never was."""
    if bounds.first_seq > 1:
        raise NoBeginning(
            f"cannot fold this log: it begins with record {bounds.first_seq}, and has no snapshot that could "
            "be used of what came before; choose a later point, without --from-beginning, or use the version "
            "of aegisipc that it was imported with",
            first_seq=bounds.first_seq,
        )
    return SystemState(subjects)


async def load(log: Log, subjects: Subjects, entry: Snapshot) -> SystemState:
    """Return the state that a snapshot holds.

    Raises:
        SnapshotUnusable: there is none in it, or one cannot fold on from it.
        NotConnected, AckUnknown, LogFailed, LogMissing: as the log says.
    """
    return await _load(log, subjects, entry, await log.bounds())


async def listed(log: Log, subjects: Subjects, *, from_seq: int = 1) -> list[Snapshot]:
    """Return all snapshots that the log has from `from_seq` on, oldest first, also those that cannot be used.

    Raises:
        NotConnected, AckUnknown, LogFailed, LogMissing: as the log says.
    """
    last = await log.last(subjects.snapshot_index)
    found: list[Snapshot] = []
    if last is not None and last.seq >= from_seq:
        async with aclosing(_indices(log, subjects, from_seq)) as snapshots:
            async for entry in snapshots:
                found.append(entry)
                if entry.seq >= last.seq:
                    break  # rather than to wait until the server says that there are no more
    return found


async def _indices(log: Log, subjects: Subjects, from_seq: int) -> AsyncGenerator[Snapshot]:
    reading = log.read([subjects.snapshot_index], start=Start(max(1, from_seq)))
    async with aclosing(reading) as records:
        async for record in records:
            yield _read_index(record)


def _read_index(record: Record) -> Snapshot:
    try:
        return Snapshot(record.seq, record.timestamp_ns, decode_index(record.payload))
    except UnknownSnapshot as error:
        return Snapshot(record.seq, record.timestamp_ns, None, error.message, is_newer=True)
    except MalformedPayload as error:
        return Snapshot(record.seq, record.timestamp_ns, None, error.message)


async def _backwards(log: Log, subjects: Subjects, bounds: Bounds, until: int) -> AsyncGenerator[Snapshot]:
    """Iterate over the snapshots that may cover no more than `until`, newest first. A snapshot stands behind
    what it covers, so those behind `until` may, too.
    """
    last = await log.last(subjects.snapshot_index)
    if last is None:
        return
    latest = _read_index(last)
    end = last.seq
    if latest.covers <= until:
        yield latest
        end = last.seq - 1
    begin, width = end + 1, _FIRST_WINDOW
    start = min(until, end)
    while begin > bounds.first_seq:
        start, before = max(bounds.first_seq, start - width), begin
        begin, width = start, width * _WIDER
        found = []
        async with aclosing(_indices(log, subjects, start)) as snapshots:
            async for entry in snapshots:
                if entry.seq >= before or entry.covers > until:
                    break  # what stands behind one that covers more covers more, too
                found.append(entry)
        for entry in reversed(found):
            yield entry


async def _load(log: Log, subjects: Subjects, entry: Snapshot, bounds: Bounds) -> SystemState:
    index = entry.index
    if index is None:
        raise _unusable(entry, entry.why, "other_version" if entry.is_newer else "damaged")
    if index.fold_version != FOLD_VERSION:
        why = f"it is of version {index.fold_version} of the fold, and this is version {FOLD_VERSION}"
        raise _unusable(entry, why, "other_version")
    if not bounds.first_seq - 1 <= index.covers <= bounds.last_seq:
        why = f"it covers {index.covers}, and the log has {bounds.first_seq} to {bounds.last_seq}"
        raise _unusable(entry, why, "out_of_reach")
    if index.covers >= entry.seq:  # acknowledged records were lost, and others came in their place
        why = f"it covers {index.covers}, which was not there yet when it was written"
        raise _unusable(entry, why, "damaged")
    try:
        parts = await _parts(log, subjects, index)
        return await asyncio.to_thread(load_snapshot, index, parts, subjects)
    except MalformedPayload as error:
        raise _unusable(entry, error.message, "damaged") from error


def _unusable(entry: Snapshot, why: str, reason: str) -> SnapshotUnusable:
    return SnapshotUnusable(
        f"cannot begin with the snapshot at sequence {entry.seq}: {why}; an earlier one, or the whole log, "
        "gives the same state",
        seq=entry.seq,
        covers=entry.covers,
        reason=reason,
    )


async def _parts(log: Log, subjects: Subjects, index: SnapshotIndex) -> list[bytes]:
    """Read the parts in one go: those of other attempts may stand between them."""
    missing = deque(index.parts)
    parts: list[bytes] = []
    room = max_part_bytes(index)
    reading = log.read([subjects.snapshot_part], start=Start(index.parts[0]))
    async with aclosing(reading) as records:
        async for record in records:
            if record.seq > missing[0]:
                break
            if record.seq < missing[0]:
                continue
            missing.popleft()
            parts.append(record.payload)
            room -= len(record.payload)
            if room < 0:
                raise MalformedPayload("cannot read a snapshot: its parts are larger than its index says")
            if not missing:
                return parts
    raise MalformedPayload(f"cannot read a snapshot: its part at sequence {missing[0]} is not there")
