"""Snapshots of the whole system as records: parts, and the index record that says what they make up.

A snapshot is the dump of the state after the record of sequence ``covers``, packed and compressed, in parts
that fit into records. The index is written last and names each part by its sequence, so parts that a crash
left without one are never read, and those of two attempts never mix.

======================  ===================================================================================
subject                 payload (MessagePack)
======================  ===================================================================================
``…snapshot.part``      ``["system.snapshot_part.v1", id, number, bytes]``, numbers from 0
``…snapshot.index``     ``["system.snapshot.v1", {covers, covers_ns, fold_version, digest, parts, bytes,``
                        ``unpacked, sha256, router, taken_ns}]``
======================  ===================================================================================
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from typing import Annotated, Any, Final, NamedTuple

import msgpack  # type: ignore[import-untyped]
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aegisipc.eventstore import dump_forms as form
from aegisipc.eventstore.errors import LimitExceeded, MalformedPayload
from aegisipc.eventstore.subjects import Subjects
from aegisipc.eventstore.system import SystemState
from aegisipc.eventstore.system_snapshots import FOLD_VERSION, digest_of_dump, load_state, pack_dump

INDEX_TYPE: Final = "system.snapshot.v1"
PART_TYPE: Final = "system.snapshot_part.v1"

MAX_SNAPSHOT_BYTES: Final = 1 << 30
"""Of a packed dump before it is compressed: none larger is written, and more is taken for a bomb."""
MAX_PARTS: Final = 4096
_HEADROOM_BYTES: Final = 1024
"""Of a record, for what stands beside the bytes of a part."""
_LEAST_PART_BYTES: Final = 1024
_LEVEL: Final = 1


class SnapshotIndex(BaseModel):
    """What an index record says: the state after ``covers`` (whose time was ``covers_ns``) has the name
    ``digest``; its ``parts`` stand at these sequences, together ``bytes`` long with this ``sha256``, and
    ``unpacked`` bytes when they are unpacked. Written by ``router`` from a dump of ``taken_ns``.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    covers: int = Field(ge=0)
    covers_ns: int
    fold_version: int
    digest: str = Field(max_length=64)
    parts: list[Annotated[int, Field(gt=0)]] = Field(min_length=1, max_length=MAX_PARTS)
    bytes: int = Field(gt=0, le=MAX_SNAPSHOT_BYTES)
    unpacked: int = Field(gt=0, le=MAX_SNAPSHOT_BYTES)
    sha256: str = Field(max_length=64)
    router: str = Field(max_length=64)
    taken_ns: int


class PackedSnapshot(NamedTuple):
    """A dump, ready to be written. ``whole`` is compressed."""

    covers: int
    covers_ns: int
    digest: str
    unpacked: int
    whole: bytes

    @property
    def sha256(self) -> str:
        """Of the compressed whole, in hexadecimal digits."""
        return hashlib.sha256(self.whole).hexdigest()


class UnknownSnapshot(MalformedPayload):
    """A snapshot in a form that this version does not know, because a newer one wrote it."""

    code = "unknown_snapshot"


class SnapshotPart(NamedTuple):
    """What a part says: it is the piece of this number of the snapshot of that id."""

    snapshot_id: bytes
    number: int
    piece: bytes


def pack_snapshot(plain: list[Any]) -> PackedSnapshot:
    """Pack and compress a dump, as ``dump_state`` gave it. Takes long: give it a thread.

    Raises:
        LimitExceeded: it is over ``MAX_SNAPSHOT_BYTES``.
    """
    packed = pack_dump(plain)
    if len(packed) > MAX_SNAPSHOT_BYTES:
        raise LimitExceeded(
            f"cannot write a snapshot of the system: its state takes {len(packed)} bytes, and the limit is "
            f"{MAX_SNAPSHOT_BYTES}; routers read the whole log until it is smaller: conclude open calls",
            limit=MAX_SNAPSHOT_BYTES,
            size_bytes=len(packed),
        )
    _, covers, covers_ns, *_ = plain
    return PackedSnapshot(
        covers, covers_ns, digest_of_dump(packed), len(packed), zlib.compress(packed, level=_LEVEL)
    )


def encode_parts(snapshot: PackedSnapshot, max_record_bytes: int) -> list[bytes]:
    """Return the payloads of a snapshot's parts, each of at most `max_record_bytes`.

    Raises:
        LimitExceeded: there would be more than ``MAX_PARTS``.
    """
    piece_bytes = max(_LEAST_PART_BYTES, max_record_bytes - _HEADROOM_BYTES)
    whole, name = snapshot.whole, bytes.fromhex(snapshot.sha256)
    pieces = [whole[at : at + piece_bytes] for at in range(0, len(whole), piece_bytes)]
    if len(pieces) > MAX_PARTS:
        raise LimitExceeded(
            f"cannot write a snapshot of the system in {len(pieces)} parts: the limit is {MAX_PARTS}; raise "
            "the server's max_payload",
            limit=MAX_PARTS,
            size_bytes=len(whole),
        )
    return [msgpack.packb([PART_TYPE, name, number, piece]) for number, piece in enumerate(pieces)]


def encode_index(snapshot: PackedSnapshot, parts: Sequence[int], *, router: str, taken_ns: int) -> bytes:
    """Return the payload of the index record, when its parts stand at these sequences."""
    index = SnapshotIndex(
        covers=snapshot.covers,
        covers_ns=snapshot.covers_ns,
        fold_version=FOLD_VERSION,
        digest=snapshot.digest,
        parts=list(parts),
        bytes=len(snapshot.whole),
        unpacked=snapshot.unpacked,
        sha256=snapshot.sha256,
        router=router,
        taken_ns=taken_ns,
    )
    packed: bytes = msgpack.packb([INDEX_TYPE, index.model_dump()])
    return packed


def decode_index(payload: bytes) -> SnapshotIndex:
    """Read an index record.

    Raises:
        UnknownSnapshot: it has a form that this version does not know.
        MalformedPayload: it is none.
    """
    try:
        found, data = form.typed(msgpack.unpackb(payload), (form.TEXT, (dict,)))
        if found != INDEX_TYPE:
            raise UnknownSnapshot(
                f"cannot read the index of a snapshot: its type is {found!r:.80}, which this version does "
                "not know"
            )
        return SnapshotIndex.model_validate(data)
    except form.UNREADABLE as error:
        raise MalformedPayload(f"cannot read the index of a snapshot: {_said(error)}") from error


def decode_part(payload: bytes) -> SnapshotPart:
    """Read a part.

    Raises:
        MalformedPayload: it is none, or of a newer version.
    """
    try:
        found, name, number, piece = form.typed(
            msgpack.unpackb(payload), (form.TEXT, form.BINARY, form.INT, form.BINARY)
        )
        if found != PART_TYPE:
            raise ValueError(f"its type is {found!r:.80}, which this version does not know")
    except form.UNREADABLE as error:
        raise MalformedPayload(f"cannot read a part of a snapshot: {_said(error)}") from error
    return SnapshotPart(name, number, piece)


def _said(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error) or type(error).__name__


def max_part_bytes(index: SnapshotIndex) -> int:
    """Return how much the payloads of a snapshot's parts may take together."""
    return index.bytes + len(index.parts) * _HEADROOM_BYTES


def load_snapshot(index: SnapshotIndex, parts: Sequence[bytes], subjects: Subjects) -> SystemState:
    """Return the state that a snapshot holds, given the payloads of its parts in order. Takes long: give it a
    thread.

    Raises:
        MalformedPayload: the parts are not what the index says.
    """
    read = [decode_part(part) for part in parts]
    name = index.sha256
    if any((part.snapshot_id.hex(), part.number) != (name, at) for at, part in enumerate(read)):
        raise MalformedPayload("cannot read a snapshot: a part belongs to another one, or stands elsewhere")
    whole = b"".join(part.piece for part in read)
    if len(whole) != index.bytes or hashlib.sha256(whole).hexdigest() != name:
        raise MalformedPayload("cannot read a snapshot: its parts do not have the checksum that they had")
    packed = _unpacked(whole, index.unpacked)
    if digest_of_dump(packed) != index.digest:
        raise MalformedPayload("cannot read a snapshot: the state in it does not have the digest that it had")
    try:
        plain = msgpack.unpackb(packed)
    except form.UNREADABLE as error:
        raise MalformedPayload(f"cannot read a snapshot: {_said(error)}") from error
    state = load_state(plain, subjects)
    if (state.position, state.position_ns) != (index.covers, index.covers_ns):
        raise MalformedPayload("cannot read a snapshot: it covers something else than its index says")
    return state


def _unpacked(whole: bytes, size_bytes: int) -> bytes:
    try:
        unpacking = zlib.decompressobj()
        packed = unpacking.decompress(whole, size_bytes)
        if not packed or len(packed) != size_bytes or unpacking.decompress(unpacking.unconsumed_tail, 1):
            raise ValueError("it is not as long as it was")
        if not unpacking.eof:
            raise ValueError("it is cut off")
    except form.UNREADABLE as error:
        raise MalformedPayload(f"cannot unpack a snapshot: {_said(error)}") from error
    return packed
