"""The format of incident bundles: writing it, and reading it so that no changed byte goes unseen.

A bundle is a line of ASCII, ``AEGIS-BUNDLE 1``, which says the version of the format, and then entries::

    length: uint32, big-endian | body | chain: 32 bytes

``chain`` is the SHA-256 of the chain before it (of the first line, for the first entry), the length and the
body. So whoever changes a byte has to change every chain after it, too, and the last one, the bundle's
*fingerprint*, becomes another: compare it with what the sender tells. Bodies are MessagePack arrays that
begin with their kind, in this order:

============  ============================================================================================
``manifest``  once: what this is; see :class:`Manifest`
``root``      sequence, subject, payload, time: records before the first one that compare-and-set needs
``base``      number, piece: the state just before the first record, if there are records before it: a dump
              of the fold, MessagePack, compressed with zlib, in pieces
``record``    sequence, subject, payload, time: the records, without a gap
``pulse``     the same of heartbeats, among the records in the order of time; sequences are of their stream
``end``       once: see :class:`Ending`
============  ============================================================================================
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, Self

import msgpack  # type: ignore[import-untyped]

from aegisipc.eventstore.log import Record
from aegisipc.eventstore.replay.bundle_errors import BundleCutOff, BundleDamaged, BundleTooNew, NotABundle

FORMAT: Final = 1
SUFFIX: Final = ".aegis"

MANIFEST, ROOT, BASE, RECORD, PULSE, END = "manifest", "root", "base", "record", "pulse", "end"

MAX_ENTRY_BYTES: Final = 128 << 20
"""No record is that large: a server takes 64 MiB at most."""

_MAGIC: Final = b"AEGIS-BUNDLE "
_FIRST_LINE: Final = re.compile(rb"AEGIS-BUNDLE ([1-9][0-9]{0,8})\n")
_LONGEST_LINE: Final = len(_MAGIC) + 10
_LENGTH: Final = struct.Struct(">I")
_CHAIN_BYTES: Final = 32
_NOT_OURS: Final = (ValueError, TypeError, KeyError, OverflowError, msgpack.UnpackException, RecursionError)
_NO_BASE: Final = "its base is missing, or there should be none"
_ORDER: Final = {MANIFEST: 0, ROOT: 1, BASE: 2, RECORD: 3, PULSE: 3, END: 4}


@dataclass(frozen=True)
class Manifest:
    """What a bundle is. Times are Unix nanoseconds; those of the range are of its first and last record.

    ``redacted`` names the fields that were made unreadable. ``has_base``: there were records before the
    first one, and the state that they came to is in the bundle.
    """

    namespace: str
    about: str
    product_version: str
    fold_version: int
    made_at_ns: int
    first_seq: int
    last_seq: int
    first_ns: int
    last_ns: int
    has_base: bool
    redacted: tuple[str, ...] = ()
    format: int = FORMAT

    @classmethod
    def from_plain(cls, plain: Any) -> Self:
        """Read what ``asdict`` gave.

        Raises:
            ValueError, TypeError: it is none.
        """
        _require(type(plain) is dict, "the manifest is no map")
        known = {field.name: plain[field.name] for field in fields(cls)}
        for name, value in known.items():
            _require(type(value) is _MANIFEST_TYPES[name], f"{name} is not what it should be")
        known["redacted"] = tuple(known["redacted"])
        _require(all(type(name) is str for name in known["redacted"]), "redacted is not what it should be")
        manifest = cls(**known)
        _require(0 < manifest.first_seq <= manifest.last_seq, "its range is none")
        return manifest


_MANIFEST_TYPES: Final[dict[str, type]] = {
    "namespace": str,
    "about": str,
    "product_version": str,
    "fold_version": int,
    "made_at_ns": int,
    "first_seq": int,
    "last_seq": int,
    "first_ns": int,
    "last_ns": int,
    "has_base": bool,
    "redacted": list,
    "format": int,
}


class Ending(NamedTuple):
    """How much there was, and the digest of the state after the last record."""

    records: int
    pulses: int
    roots: int
    digest: str


class Entry(NamedTuple):
    """One entry, and where it begins in the file."""

    kind: str
    parts: list[Any]
    offset: int


class BundleWriter:
    """Writes a bundle, entry by entry."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        line = b"%s%d\n" % (_MAGIC, FORMAT)
        file.write(line)
        self._chain = hashlib.sha256(line).digest()

    @property
    def fingerprint(self) -> str:
        """The chain as of now, in hexadecimal."""
        return self._chain.hex()

    def manifest(self, manifest: Manifest) -> None:
        """Say what this is."""
        self._add([MANIFEST, asdict(manifest)])

    def root(self, record: Record) -> None:
        """Add a record from before the first one."""
        self._add([ROOT, *record])

    def base(self, number: int, piece: bytes) -> None:
        """Add a piece of the state before the first record."""
        self._add([BASE, number, piece])

    def record(self, record: Record) -> None:
        """Add a record."""
        self._add([RECORD, *record])

    def pulse(self, record: Record) -> None:
        """Add a heartbeat."""
        self._add([PULSE, *record])

    def end(self, ending: Ending) -> None:
        """Say how much there was."""
        self._add([END, *ending])

    def _add(self, entry: list[Any]) -> None:
        body = msgpack.packb(entry)
        length = _LENGTH.pack(len(body))
        self._chain = _next_chain(self._chain, length, body)
        self._file.write(length)
        self._file.write(body)
        self._file.write(self._chain)


def _next_chain(chain: bytes, length: bytes, body: bytes) -> bytes:
    digest = hashlib.sha256(chain)
    digest.update(length)
    digest.update(body)
    return digest.digest()


class BundleReader:
    """Reads a bundle from its beginning, and refuses the first entry that is not what was written.

    It keeps nothing of what it read but what says where damage is.
    """

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._path = path
        self._manifest: Manifest | None = None
        self._last_seq: int | None = None
        self._base = self._roots = self._records = self._pulses = 0
        self._stage = -1
        self._offset = 0
        self.fingerprint = ""

    def __iter__(self) -> Iterator[Entry]:
        """Iterate over the entries up to and with the end.

        Raises:
            NotABundle: the file is something else.
            BundleTooNew: a later version made it.
            BundleDamaged, BundleCutOff: some byte of it changed, or it ends too early.
        """
        chain = self._first_line()
        while self._stage < _ORDER[END]:
            body, chain = self._next_body(chain)
            try:
                entry = _parsed(body, self._offset)
                self._check(entry)
            except _Misplaced as error:
                raise self.damaged(str(error)) from error
            except _NOT_OURS as error:
                raise self.damaged("an entry is not what it should be") from error
            self._offset += _LENGTH.size + len(body) + _CHAIN_BYTES
            yield entry
        if self._file.read(1):
            raise self.damaged("something follows its end")
        self.fingerprint = chain.hex()

    def _first_line(self) -> bytes:
        line = self._file.readline(_LONGEST_LINE)
        self._offset = len(line)
        found = _FIRST_LINE.fullmatch(line)
        if found is None:
            if line and (_MAGIC.startswith(line) or re.fullmatch(rb"AEGIS-BUNDLE [1-9][0-9]*", line)):
                raise self._cut_off()
            raise NotABundle(
                f"cannot read {str(self._path)!r}: it is not an incident bundle; give a file that aegis log "
                "export made",
                path=str(self._path),
            )
        if int(found[1]) > FORMAT:
            raise BundleTooNew(
                f"cannot read {str(self._path)!r}: it has format {int(found[1])}, and this version knows "
                f"{FORMAT}; use the version of aegisipc that made it, or a later one",
                path=str(self._path),
                found=int(found[1]),
                known=FORMAT,
            )
        return hashlib.sha256(line).digest()

    def _next_body(self, chain: bytes) -> tuple[bytes, bytes]:
        head = self._file.read(_LENGTH.size)
        if len(head) < _LENGTH.size:
            raise self._cut_off()
        (length,) = _LENGTH.unpack(head)
        if length > MAX_ENTRY_BYTES:
            raise self.damaged("the length of an entry changed")
        body = self._file.read(length)
        said = self._file.read(_CHAIN_BYTES)
        if len(body) < length or len(said) < _CHAIN_BYTES:
            raise self._cut_off()
        expected = _next_chain(chain, head, body)
        if said != expected:
            raise self.damaged("what is written there is not what was exported")
        return body, expected

    def _check(self, entry: Entry) -> None:
        """Raise ValueError or the like if the entry does not belong there."""
        kind, parts = entry.kind, entry.parts
        stage = _ORDER.get(kind)
        _require(stage is not None and stage >= self._stage, f"an entry {kind!r} is out of place")
        _require((kind == MANIFEST) == (self._manifest is None), "it has not one manifest, at its beginning")
        self._stage = stage or 0
        if kind == MANIFEST:
            self._manifest = Manifest.from_plain(*parts)
        elif kind == BASE:
            number, piece = parts
            _require(number == self._base and type(piece) is bytes, "a piece of its base is missing")
            self._base += 1
        elif kind == END:
            self._check_end(Ending(*parts))
        else:
            self._check_record(kind, record_of(parts))

    def _check_record(self, kind: str, record: Record) -> None:
        _require(
            type(record.seq) is type(record.timestamp_ns) is int
            and type(record.subject) is str
            and type(record.payload) is bytes,
            "an entry is no record",
        )
        if kind == RECORD:
            _require(self._manifest is not None and self._manifest.has_base == (self._base > 0), _NO_BASE)
            _require(record.seq == self._expected, f"record {record.seq} is out of place")
            self._last_seq = record.seq
            self._records += 1
        elif kind == PULSE:
            self._pulses += 1
        else:
            self._roots += 1

    def _check_end(self, ending: Ending) -> None:
        manifest = self._manifest
        _require(manifest is not None and self._last_seq == manifest.last_seq, "its last records are missing")
        found = self._records, self._pulses, self._roots
        _require(ending[:3] == found and type(ending.digest) is str, "its end says something else")

    @property
    def _expected(self) -> int | None:
        if self._manifest is None:
            return None
        return self._manifest.first_seq if self._last_seq is None else self._last_seq + 1

    def damaged(self, why: str) -> BundleDamaged:
        """Make the error that says where it is damaged: behind all that was read so far."""
        return BundleDamaged(
            f"cannot trust {str(self._path)!r} from {self._where()} on: {why}; get the file again from "
            "whoever exported it",
            path=str(self._path),
            seq=self._expected,
            offset=self._offset,
            why=why,
        )

    def _cut_off(self) -> BundleCutOff:
        why = "the file is cut off"
        return BundleCutOff(
            f"cannot read {str(self._path)!r} from {self._where()} on: {why}; get the whole file from "
            "whoever exported it",
            path=str(self._path),
            seq=self._expected,
            offset=self._offset,
            why=why,
        )

    def _where(self) -> str:
        if self._manifest is None:
            return "its manifest"
        if self._last_seq == self._manifest.last_seq:
            return f"what follows its last record, {self._last_seq},"
        return f"record {self._expected}"


class Cursor:
    """Reads entries of a bundle that was checked as a whole before, from any of them on: what changed since
    is refused all the same.
    """

    def __init__(self, file: BinaryIO, path: Path, offset: int) -> None:
        """`offset` is where an entry begins, not the first one of the file."""
        self._file = file
        self._path = path
        self._offset = offset
        file.seek(offset - _CHAIN_BYTES)
        self._chain = file.read(_CHAIN_BYTES)

    def next(self) -> Entry:
        """Return the next entry.

        Raises:
            BundleDamaged: the file was changed since.
        """
        head = self._file.read(_LENGTH.size)
        length = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else MAX_ENTRY_BYTES + 1
        if length <= MAX_ENTRY_BYTES:
            body, said = self._file.read(length), self._file.read(_CHAIN_BYTES)
            self._chain = _next_chain(self._chain, head, body)
            if said == self._chain:
                entry = _parsed(body, self._offset)
                self._offset += _LENGTH.size + length + _CHAIN_BYTES
                return entry
        why = "it was changed while it was read"
        raise BundleDamaged(
            f"cannot go on with {str(self._path)!r}: {why}; open it again",
            path=str(self._path),
            seq=None,
            offset=self._offset,
            why=why,
        )


def record_of(parts: list[Any]) -> Record:
    """Return the record that the parts of an entry are."""
    return Record(*parts)


def _parsed(body: bytes, offset: int) -> Entry:
    unpacked = msgpack.unpackb(body)
    _require(type(unpacked) is list and len(unpacked) > 1, "an entry is no array")
    kind, *parts = unpacked
    _require(type(kind) is str, "an entry has no kind")
    return Entry(kind, parts, offset)


class _Misplaced(ValueError):
    """An entry of which it can be said what is wrong with it."""


def _require(true: bool, what: str) -> None:  # noqa: FBT001 - reads as an assertion
    if not true:
        raise _Misplaced(what)
