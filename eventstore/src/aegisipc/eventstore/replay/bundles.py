"""Incident bundles: one file with all that is needed to look into what happened, without a server.

::

    source = replay.open_bundle("orders.aegis")
    state = await replay.state_at(source, await replay.resolve(source, "before:group.promoted"))

:func:`open_bundle` checks the whole file before it gives anything of it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]

from aegisipc.eventstore.errors import InvalidName, MalformedPayload
from aegisipc.eventstore.jetstream_api import format_time
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.replay.bundle_errors import (
    BundleDamaged,
    BundleOutdated,
    BundleTooNew,
)
from aegisipc.eventstore.replay.bundle_files import (
    BASE,
    MANIFEST,
    PULSE,
    RECORD,
    BundleReader,
    Cursor,
    Ending,
    Entry,
    Manifest,
    record_of,
)
from aegisipc.eventstore.replay.bundle_log import BlockIndex, BundleLog
from aegisipc.eventstore.replay.sources import Claim, Source
from aegisipc.eventstore.snapshot_records import MAX_SNAPSHOT_BYTES
from aegisipc.eventstore.subjects import Subjects, subjects_of
from aegisipc.eventstore.system import SystemState
from aegisipc.eventstore.system_snapshots import FOLD_VERSION, digest_of, load_state


@dataclass(frozen=True)
class Summary:
    """What a bundle holds. ``fingerprint`` is its last chain: two files with the same one are the same.

    ``is_refolded``: its records were folded here, and came to the state that the exporter had. That is not
    done if this version folds otherwise.
    """

    path: str
    manifest: Manifest
    ending: Ending
    fingerprint: str
    size_bytes: int
    is_refolded: bool = False

    def to_plain(self) -> dict[str, Any]:
        """Return it for programs."""
        manifest = asdict(self.manifest)
        times = {name.replace("_ns", ""): format_time(manifest[name]) for name in _TIMES}
        return {
            "path": self.path,
            **manifest,
            **times,
            **self.ending._asdict(),
            "fingerprint": self.fingerprint,
            "bytes": self.size_bytes,
            "refolded": self.is_refolded,
        }


_TIMES: Final = ("made_at_ns", "first_ns", "last_ns")


@dataclass
class _Scanned:
    """What one pass over a file found."""

    manifest: Manifest
    ending: Ending
    fingerprint: str
    records: BlockIndex = field(default_factory=lambda: BlockIndex(RECORD))
    pulses: BlockIndex = field(default_factory=lambda: BlockIndex(PULSE))
    roots: list[Record] = field(default_factory=list)
    base_offset: int = 0
    base_pieces: int = 0


def _scan(path: Path, watch: Callable[[Entry], None] | None = None) -> _Scanned:
    """Read the whole file, checking everything; `watch` is told of each entry."""
    manifest: Manifest | None = None
    ending: Ending | None = None
    records, pulses, roots = BlockIndex(RECORD), BlockIndex(PULSE), list[Record]()
    base_offset = base_pieces = 0
    with path.open("rb") as file:
        reader = BundleReader(file, path)
        for entry in reader:
            match entry.kind:
                case "record":
                    records.note(record_of(entry.parts), entry.offset)
                case "pulse":
                    pulses.note(record_of(entry.parts), entry.offset)
                case "root":
                    roots.append(record_of(entry.parts))
                case "base":
                    base_offset = base_offset or entry.offset
                    base_pieces += 1
                case "manifest":
                    manifest = Manifest.from_plain(*entry.parts)
                case _:
                    ending = Ending(*entry.parts)
            if watch is not None:
                watch(entry)
        if manifest is None or ending is None:
            raise reader.damaged("it has no manifest or no end")
    records.seal()
    pulses.seal()
    return _Scanned(manifest, ending, reader.fingerprint, records, pulses, roots, base_offset, base_pieces)


def open_bundle(path: str | Path) -> Source:
    """Open an incident bundle for replay. It is checked to its last byte first; then records are read from
    the file as they are needed.

    Raises:
        NotABundle: the file is something else.
        BundleTooNew, BundleOutdated: another version of aegisipc made it, and this one cannot read it.
        BundleDamaged, BundleCutOff: it is not what was exported; the error says from which record on.
        OSError: there is no such file, or it cannot be read.
    """
    path = Path(path)
    scanned = _scan(path)
    manifest = scanned.manifest
    _check_fold(path, manifest)
    subjects = _subjects_in(path, manifest)
    records, pulses = scanned.records, scanned.pulses
    now_ns = max(records.last_ns, pulses.last_ns)
    log = BundleLog(path, records, first_seq=manifest.first_seq, now_ns=now_ns, roots=scanned.roots)
    first_pulse = pulses.blocks[0].first_seq if pulses.blocks else 1
    base = None
    if manifest.has_base:
        base = _Base(path, subjects, manifest, scanned.base_offset, scanned.base_pieces)
    return Source(
        log,
        subjects,
        about=f"bundle {_printable(path.name)} ({_printable(manifest.about)})",
        pulses=BundleLog(path, pulses, first_seq=first_pulse, now_ns=now_ns),
        base=base,
        claims=(_claim(manifest, scanned.ending),),
    )


def _printable(text: str) -> str:
    """Whoever made the file wrote it: no control sequence of it is to reach a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _claim(manifest: Manifest, ending: Ending) -> Claim:
    found = manifest.fold_version
    why_not = f"version {found} of the fold made it, and this is version {FOLD_VERSION}"
    return Claim(
        "the end of the bundle", manifest.last_seq, ending.digest, why_not if found != FOLD_VERSION else ""
    )


def verify(path: str | Path) -> Summary:
    """Read a bundle to its end: no byte has changed since the export, and its records come to the state that
    the exporter had.

    Raises:
        NotABundle, BundleTooNew, BundleDamaged, BundleCutOff, OSError: as :func:`open_bundle`.
    """
    path = Path(path)
    folding = _Folding(path)
    scanned = _scan(path, folding)
    is_refolded = folding.state is not None
    if folding.state is not None and digest_of(folding.state) != scanned.ending.digest:
        raise _not_its_own(path, scanned.manifest, "its records do not come to the state that it says")
    return Summary(
        str(path),
        scanned.manifest,
        scanned.ending,
        scanned.fingerprint,
        path.stat().st_size,
        is_refolded,
    )


class _Folding:
    """Folds the records of a bundle as they are read, if this version folds as the exporter did."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._manifest: Manifest | None = None
        self._pieces: list[bytes] = []
        self.state: SystemState | None = None

    def __call__(self, entry: Entry) -> None:
        if entry.kind == MANIFEST:
            self._manifest = Manifest.from_plain(*entry.parts)
        elif entry.kind == BASE:
            self._pieces.append(entry.parts[1])
        elif entry.kind == RECORD and self._manifest is not None:
            if self._manifest.fold_version != FOLD_VERSION:
                return
            if self.state is None:
                self.state = self._begun(self._manifest)
            self.state.apply(record_of(entry.parts))

    def _begun(self, manifest: Manifest) -> SystemState:
        subjects = _subjects_in(self._path, manifest)
        if not manifest.has_base:
            return SystemState(subjects)
        pieces, self._pieces = self._pieces, []
        return _loaded(self._path, manifest, subjects, pieces)


class _Base:
    """Makes the state before the first record, each time anew, from the file."""

    def __init__(self, path: Path, subjects: Subjects, manifest: Manifest, offset: int, pieces: int) -> None:
        self._path = path
        self._subjects = subjects
        self._manifest = manifest
        self._offset = offset
        self._pieces = pieces

    def __call__(self) -> SystemState:
        """Read it.

        Raises:
            BundleDamaged: it cannot be, or the file was changed since it was opened.
        """
        with self._path.open("rb") as file:
            cursor = Cursor(file, self._path, self._offset)
            pieces = [cursor.next().parts[1] for _ in range(self._pieces)]
        return _loaded(self._path, self._manifest, self._subjects, pieces)


def _loaded(path: Path, manifest: Manifest, subjects: Subjects, pieces: list[bytes]) -> SystemState:
    try:
        state = load_state(_unpacked(pieces), subjects)
    except (zlib.error, ValueError, msgpack.UnpackException, RecursionError, MalformedPayload) as error:
        why = f"the state that it begins with cannot be read ({error})"
        raise _not_its_own(path, manifest, why) from error
    if state.position != manifest.first_seq - 1:
        raise _not_its_own(path, manifest, f"it begins with the state after record {state.position}")
    return state


def _unpacked(pieces: list[bytes]) -> Any:
    unpacking = zlib.decompressobj()
    packed = unpacking.decompress(b"".join(pieces), MAX_SNAPSHOT_BYTES)
    if not unpacking.eof:
        raise ValueError("it is cut off, or too large")
    return msgpack.unpackb(packed)


def _not_its_own(path: Path, manifest: Manifest, why: str) -> BundleDamaged:
    """Make the error for a file that no export made, though each byte is what its chain says."""
    return BundleDamaged(
        f"cannot trust {str(path)!r}: {why}; export it again",
        path=str(path),
        seq=manifest.first_seq,
        offset=0,
        why=why,
    )


def _subjects_in(path: Path, manifest: Manifest) -> Subjects:
    try:
        return subjects_of(manifest.namespace)
    except InvalidName as error:
        raise _not_its_own(path, manifest, f"it is of no namespace ({error})") from error


def _check_fold(path: Path, manifest: Manifest) -> None:
    """A state that was folded otherwise is of no use; but records from the first one on are."""
    found = manifest.fold_version
    if not manifest.has_base or found == FOLD_VERSION:
        return
    kind = BundleTooNew if found > FOLD_VERSION else BundleOutdated
    raise kind(
        f"cannot read {str(path)!r}: the state that it begins with is of version {found} of the fold, and "
        f"this is version {FOLD_VERSION}; use the version of aegisipc that made it "
        f"({_printable(manifest.product_version)}), or export it again with this one",
        path=str(path),
        found=found,
        known=FOLD_VERSION,
    )
