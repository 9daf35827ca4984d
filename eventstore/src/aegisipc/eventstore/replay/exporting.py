"""Writing an incident bundle: a part of a log with all that is needed to replay it elsewhere."""

from __future__ import annotations

import os
import tempfile
import zlib
from collections.abc import Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, Self

from aegisipc.eventstore.checkpoints import OnSkip, newest
from aegisipc.eventstore.log import Bounds, Record, Start
from aegisipc.eventstore.replay.bundle_errors import BadRange, BundleExists, LogHasGap
from aegisipc.eventstore.replay.bundle_files import BundleWriter, Ending, Manifest
from aegisipc.eventstore.replay.bundle_log import BundleLog
from aegisipc.eventstore.replay.bundles import Summary
from aegisipc.eventstore.replay.folding import fold_on
from aegisipc.eventstore.replay.parameters import Parameters
from aegisipc.eventstore.replay.redaction import Redactor
from aegisipc.eventstore.replay.sources import Source
from aegisipc.eventstore.replay.timeline import first_from, timeline
from aegisipc.eventstore.snapshot_records import encode_parts, pack_snapshot
from aegisipc.eventstore.subjects import GROUP_WHO, HA, WATCH_WHO
from aegisipc.eventstore.system import SystemState
from aegisipc.eventstore.system_snapshots import FOLD_VERSION, digest_of, dump_state, pack_dump

PULSES_BEFORE_NS: Final = 10_000_000_000
"""How much earlier than the first record heartbeats begin: whoever is silent at that time was heard before.
"""

PIECE_BYTES: Final = 1 << 20
SMALLEST_PIECES: Final = 32 << 10
"""Room is left for a snapshot in pieces of this size, should the bundle be imported."""


class Prelude(NamedTuple):
    """What a bundle needs from before its first record: the state there, and the newest records on the
    subjects that compare-and-set looks at.
    """

    state: SystemState
    roots: list[Record]


@dataclass(frozen=True)
class _Plan:
    """What is to be written."""

    manifest: Manifest
    prelude: Prelude | None
    redactor: Redactor
    until_ns: int


async def export(  # noqa: PLR0913 - all but the first four are refinements
    source: Source,
    path: str | Path,
    *,
    from_seq: int,
    until_seq: int,
    until_ns: int | None = None,
    redact: Iterable[str] = (),
    force: bool = False,
    on_skip: OnSkip | None = None,
    told: Callable[[int], None] | None = None,
) -> Summary:
    """Write the records from `from_seq` up to and with `until_seq` into a file, with the state before them
    and the heartbeats of that time: from ten seconds before the first record to the last one, or to
    `until_ns` if that is later. `redact` names the fields to make unreadable, see
    :mod:`~aegisipc.eventstore.replay.redaction`. Near the beginning of a log the bundle begins with the
    log's first record instead, so that it can be imported.

    The file appears when it is whole. `force`: one of that name is replaced. `on_skip` hears of snapshots
    that could not be used; `told` of how many records were written, now and then.

    Raises:
        BadRange: the log does not have these records.
        BadField: one of `redact` can be no field's name.
        BundleExists: there is such a file, and it is not to be replaced.
        LogHasGap: a record is missing from the log.
        OSError: the file cannot be written.
        AegisError: the log cannot be read.
    """
    path, redactor = Path(path), Redactor(redact)
    _check_free(path, force=force)
    bounds = await source.log.bounds()
    _check_range(from_seq, until_seq, bounds)
    first_seq, prelude = await _prelude(source, from_seq, bounds, on_skip)
    if prelude is not None:
        redactor.state(prelude.state)
    plan = await _plan(source, first_seq, until_seq, prelude, redactor, until_ns)
    with _Unfinished(path) as unfinished:
        ending, fingerprint = await _write(source, plan, unfinished.file, told)
        size_bytes = unfinished.finish(force=force)
    return Summary(str(path), plan.manifest, ending, fingerprint, size_bytes, is_refolded=True)


# -- what belongs to it -----------------------------------------------------------------------------------


def _check_range(from_seq: int, until_seq: int, bounds: Bounds) -> None:
    if bounds.first_seq <= from_seq <= until_seq <= bounds.last_seq:
        return
    is_empty = bounds.last_seq < bounds.first_seq
    holds = "is empty" if is_empty else f"holds sequences {bounds.first_seq} to {bounds.last_seq}"
    wanted = (
        f"the range begins at {from_seq}, behind its end at {until_seq}: swap them"
        if from_seq > until_seq
        else "choose a range within it"
    )
    raise BadRange(
        f"cannot export the records from {from_seq} to {until_seq}: the log {holds}; {wanted}",
        from_seq=from_seq,
        until_seq=until_seq,
        first_seq=bounds.first_seq,
        last_seq=bounds.last_seq,
    )


async def _prelude(
    source: Source, from_seq: int, bounds: Bounds, on_skip: OnSkip | None
) -> tuple[int, Prelude | None]:
    """Return where the bundle begins, and what it needs from before."""
    if from_seq == 1:
        return 1, None
    state = source.base() if source.base is not None else None
    if state is not None and from_seq <= state.position + 1:  # of a bundle, or of a log that was imported
        return state.position + 1, Prelude(state, await _roots(source, state))
    state = await newest(
        source.log, source.subjects, until_seq=from_seq - 1, base=source.base, on_skip=on_skip
    )
    state = await fold_on(source, state, from_seq - 1)
    roots = await _roots(source, state)
    if bounds.first_seq == 1 and from_seq - 1 < _room(state, roots):
        return 1, None
    return from_seq, Prelude(state, roots)


def _room(state: SystemState, roots: list[Record]) -> int:
    """How many records an import puts before the first one: the roots, and a snapshot of the state."""
    return len(roots) + len(pack_snapshot(dump_state(state)).whole) // SMALLEST_PIECES + 3


def parts_in(state: SystemState, max_record_bytes: int) -> int:
    """Return of how many parts a snapshot of the state may have to be: one more than it takes now, for it is
    to be changed a little.
    """
    return len(encode_parts(pack_snapshot(dump_state(state)), max_record_bytes)) + 1


def guards_of(state: SystemState) -> dict[int, str]:
    """Return where the newest record stands on each subject that compare-and-set looks at, and the subject,
    as that state knows it.
    """
    subjects, topology = state.subjects, state.topology
    guards = {topology.leadership.seq: subjects.term}
    for group in topology.groups():
        guards[group.fence_seq] = subjects.fence(group.service, group.name)
        guards[group.watch_seq] = subjects.watch(group.service, group.name)
    guards.pop(0, None)
    return guards


async def _roots(source: Source, state: SystemState) -> list[Record]:
    """Read them, in one go: there are few such records."""
    guards = guards_of(state)
    if not guards:
        return []
    subjects = source.subjects
    of_groups = [f"{subjects.log_root}.*.*.{HA}.{who}" for who in (GROUP_WHO, WATCH_WHO)]
    found = [root for root in _roots_of(source) if guards.get(root.seq) == root.subject]
    reading = source.log.read([subjects.term, *of_groups], start=Start(min(guards)))
    async with aclosing(reading) as records:
        async for record in records:
            if record.seq > max(guards):
                break
            if guards.get(record.seq) == record.subject:
                found.append(record)
    return found


def _roots_of(source: Source) -> list[Record]:
    """Those that a bundle brought along."""
    return list(source.log.roots) if isinstance(source.log, BundleLog) else []


async def _plan(
    source: Source,
    first_seq: int,
    last_seq: int,
    prelude: Prelude | None,
    redactor: Redactor,
    until_ns: int | None,
) -> _Plan:
    first, last = await _record_at(source, first_seq), await _record_at(source, last_seq)
    manifest = Manifest(
        namespace=source.subjects.namespace,
        about=source.about,
        product_version=product_version(),
        fold_version=FOLD_VERSION,
        made_at_ns=(await source.log.bounds()).now_ns,
        first_seq=first_seq,
        last_seq=last_seq,
        first_ns=first.timestamp_ns,
        last_ns=last.timestamp_ns,
        has_base=prelude is not None,
        redacted=redactor.fields,
    )
    return _Plan(manifest, prelude, redactor, max(last.timestamp_ns, until_ns or 0))


async def _record_at(source: Source, seq: int) -> Record:
    record = await first_from(source.log, [source.subjects.everything], Start(seq))
    if record is None or record.seq != seq:
        raise _gap(seq)
    return record


def _gap(seq: int) -> LogHasGap:
    return LogHasGap(
        f"cannot export record {seq}: it is missing from the log; export a range that begins behind it",
        seq=seq,
    )


def product_version() -> str:
    """Return the version of aegisipc that runs here."""
    try:
        return version("aegisipc-eventstore")
    except PackageNotFoundError:  # it runs from a tree of sources
        return "unknown"


# -- writing it -------------------------------------------------------------------------------------------


async def _write(
    source: Source, plan: _Plan, file: BinaryIO, told: Callable[[int], None] | None
) -> tuple[Ending, str]:
    writer = BundleWriter(file)
    manifest, redactor = plan.manifest, plan.redactor
    writer.manifest(manifest)
    state, roots = _begin(writer, plan, source)
    parameters = Parameters(state.topology)
    expected, pulses = manifest.first_seq, 0
    moments = timeline(
        source,
        from_seq=manifest.first_seq,
        until_seq=manifest.last_seq,
        pulses_from_ns=max(0, manifest.first_ns - PULSES_BEFORE_NS),
        pulses_until_ns=plan.until_ns,
    )
    async with aclosing(moments) as reading:
        async for record, is_pulse in reading:
            if is_pulse:
                writer.pulse(record)
                pulses += 1
                continue
            if record.seq != expected:
                raise _gap(expected)
            kept = redactor.record(record, source.subjects, parameters)
            state.apply(kept)
            writer.record(kept)
            expected += 1
            if told is not None:
                told(expected - manifest.first_seq)
    if expected <= manifest.last_seq:
        raise _gap(expected)
    ending = Ending(expected - manifest.first_seq, pulses, roots, digest_of(state))
    writer.end(ending)
    return ending, writer.fingerprint


def _begin(writer: BundleWriter, plan: _Plan, source: Source) -> tuple[SystemState, int]:
    """Write what is from before the first record; returns the state there, and how many roots there are."""
    if plan.prelude is None:
        return SystemState(source.subjects), 0
    state, roots = plan.prelude
    for root in roots:
        writer.root(root)
    packed = zlib.compress(pack_dump(dump_state(state)), level=6)
    for number, at in enumerate(range(0, len(packed), PIECE_BYTES)):
        writer.base(number, packed[at : at + PIECE_BYTES])
    return state, len(roots)


def _check_free(path: Path, *, force: bool) -> None:
    if path.exists() and not path.is_file():
        raise BundleExists(
            f"cannot write {str(path)!r}: that is no ordinary file, and it is not replaced by one; choose "
            "another name",
            path=str(path),
        )
    if path.exists() and not force:
        raise BundleExists(
            f"cannot write {str(path)!r}: there is such a file; choose another name, or replace it with "
            "--force",
            path=str(path),
        )


class _Unfinished:
    """A file beside the one that is wanted, which takes its name when it is whole, and is removed if it never
    is.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        number, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        self._part = Path(name)
        self.file: BinaryIO = os.fdopen(number, "wb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.file.close()  # writes what is left, which a full disk does not take
        finally:
            self._part.unlink(missing_ok=True)

    def finish(self, *, force: bool) -> int:
        """Give it its name; returns its size in bytes."""
        self.file.flush()
        os.fsync(self.file.fileno())
        size_bytes = self.file.tell()
        self.file.close()
        _check_free(self._path, force=force)  # somebody may have made one meanwhile
        self._part.replace(self._path)
        return size_bytes
