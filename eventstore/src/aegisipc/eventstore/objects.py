"""Bodies too large for a message: kept in the namespace's object store, and referred to in their place.

Storing: the pieces first, several at a time, and the entry last, so what was cut off does not exist. The
acknowledgements say in what order the pieces are in the stream; if an answer was lost they are counted, too,
and in doubt the object is stored anew, elsewhere in the stream. Reading checks size and digest against the
reference, which is in the log: whoever can write to the bucket can lose a body, but not forge one.

It is NATS's own layout (:mod:`aegisipc.eventstore.object_layout`), but not nats-py's ``ObjectStore``: that
one needs a connection of nats-py, which stores later what it has reported as failed, sends piece after piece,
waits for ever for a piece that is missing, and does not look at the size. Unlike NATS's clients this one
replaces entries without a rollup, which is off in the bucket: with it, whoever may write could also remove.
"""

from __future__ import annotations

import asyncio
import secrets
from datetime import UTC, datetime
from typing import Final, NamedTuple

from aegisipc.eventstore.errors import (
    AckUnknown,
    AegisError,
    LogFailed,
    LogMissing,
    MalformedPayload,
    NoResponders,
    NotConnected,
    ObjectDamaged,
    ObjectMissing,
    ObjectsFull,
    PayloadTooLarge,
    PermissionDenied,
    WrongSequence,
)
from aegisipc.eventstore.log import Expect
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.object_chunks import Chunks, PiecesOutOfOrder
from aegisipc.eventstore.object_layout import (
    NUID_CHARS,
    NUID_SALT_LENGTH,
    ObjectEntry,
    bucket_of,
    decode_entry,
    encode_entry,
    is_nuid_of,
    nuid_for,
)
from aegisipc.eventstore.object_requests import DEFAULT_PATIENCE_S, StreamRequests
from aegisipc.eventstore.references import (
    Reference,
    check_object_name,
    check_reference,
    encode_reference,
    reference_in,
)
from aegisipc.eventstore.subjects import Subjects

DEFAULT_MAX_OBJECT_BYTES: Final = 64 << 20

_ATTEMPTS: Final = 5
"""So often an object is stored anew when its pieces, or its entry, did not come out as they should."""

_RETRY_S: Final = 0.1
_PASSING: Final = (AckUnknown, NotConnected, NoResponders, LogFailed)

__all__ = ["DEFAULT_MAX_OBJECT_BYTES", "Objects", "Reference", "encode_reference", "reference_in"]


class _Found(NamedTuple):
    """The entry of an object as it is now; ``seq`` 0 and ``None``: there is none. One that cannot be read has
    a ``seq`` only.
    """

    seq: int = 0
    entry: ObjectEntry | None = None


class _StartOver(Exception):
    """Whether the entry was stored cannot be known any more: store the object anew."""


class Objects:
    """The objects of a namespace. No object is larger than ``limit_bytes``, stored or read.

    A request that is not answered is sent again for up to ``patience_s``.
    """

    def __init__(
        self,
        connection: Connection,
        subjects: Subjects,
        *,
        limit_bytes: int = DEFAULT_MAX_OBJECT_BYTES,
        patience_s: float = DEFAULT_PATIENCE_S,
    ) -> None:
        self.limit_bytes = limit_bytes
        self.bucket = bucket_of(subjects)
        self._patience_s = patience_s
        self._requests = StreamRequests(connection, self.bucket.stream, patience_s=patience_s)
        self._chunks = Chunks(connection, self.bucket, self._requests)
        self._may_purge = True

    # -- storing ----------------------------------------------------------------------------------------

    async def put(self, name: str, payload: bytes) -> Reference:
        """Store an object durably, in the place of one that has the name already.

        Raises:
            PayloadTooLarge: over ``limit_bytes``; nothing was sent. Fields ``size_bytes``, ``limit_bytes``.
            InvalidName: no object can have that name; nothing was sent.
            ObjectsFull: the store's own limit refuses it.
            LogMissing: no router has made the store.
            PermissionDenied: this user may not store objects.
            AckUnknown, NotConnected, NoResponders: no answer within ``patience_s``; it may be stored, but
                nothing refers to it: put it again, or leave it to be cleaned up.
        """
        check_object_name(name)
        if len(payload) > self.limit_bytes:
            raise self._too_large("store", name, len(payload))
        for _ in range(_ATTEMPTS):
            salt = "".join(secrets.choice(NUID_CHARS) for _ in range(NUID_SALT_LENGTH))
            nuid = nuid_for(name, salt)
            try:
                chunks, sha256 = await self._chunks.write(nuid, payload)
                entry = ObjectEntry(name, nuid, len(payload), chunks, sha256)
                seq, replaced = await self._enter(entry)
            except (PiecesOutOfOrder, _StartOver):
                await self._tidy(nuid)
                continue
            except ObjectsFull:
                await self._tidy(nuid)
                raise
            if replaced is not None and is_nuid_of(replaced.nuid, name):
                await self._tidy(replaced.nuid, entry_subject=self.bucket.entry(name), before_seq=seq)
            return Reference(name, len(payload), sha256)
        raise AckUnknown(
            f"cannot store {name!r}: the connection failed in each of {_ATTEMPTS} attempts; try again later"
        )

    async def _enter(self, entry: ObjectEntry) -> tuple[int, ObjectEntry | None]:
        """Make it exist. Returns where the entry is, and the one that it replaced."""
        payload = encode_entry(entry, self.bucket, datetime.now(UTC).isoformat().replace("+00:00", "Z"))
        subject = self.bucket.entry(entry.name)
        found = _Found()  # nearly always
        while True:
            try:
                stored = await self._requests.store(
                    subject, payload, message_id=f"{entry.nuid}.entry.{found.seq}", expect=Expect(found.seq)
                )
            except WrongSequence as refused:
                is_sure = bool(refused.details.get("is_sure"))
                found = await self._find(entry.name)
                if found.entry is not None and found.entry.nuid == entry.nuid:
                    return found.seq, None  # an earlier attempt; what it replaced is left to the clean-up
                if not is_sure:  # it may have been stored, and replaced since: then its pieces are gone
                    raise _StartOver from None
            else:
                return stored.seq, found.entry

    async def _find(self, name: str) -> _Found:
        last = await self._requests.last(self.bucket.entry(name))
        if last is None:
            return _Found()
        try:
            return _Found(last.seq, decode_entry(last.payload))
        except MalformedPayload:
            return _Found(last.seq)

    async def _tidy(self, nuid: str, *, entry_subject: str = "", before_seq: int = 0) -> None:
        """Remove pieces that nothing leads to any more. If that is not possible or not permitted (it is not
        needed to store anything), the router's clean-up does it.
        """
        if not self._may_purge:
            return
        try:
            await self._requests.purge(self.bucket.chunks(nuid))
            if entry_subject:
                await self._requests.purge(entry_subject, before_seq=before_seq)
        except PermissionDenied:
            self._may_purge = False
        except AegisError:
            return

    # -- reading ----------------------------------------------------------------------------------------

    async def get(self, reference: Reference) -> bytes:
        """Return the object that `reference` is about.

        Raises:
            MalformedPayload: there can be no such object; nothing was sent.
            PayloadTooLarge: over ``limit_bytes``; nothing was sent. Fields ``size_bytes``, ``limit_bytes``.
            ObjectMissing: it is not there, or not any more.
            ObjectDamaged: it is not what was stored.
            PermissionDenied: this user may not read objects.
            AckUnknown, NotConnected, NoResponders, LogFailed: it could not be read within ``patience_s``.
        """
        check_reference(reference)
        if reference.size_bytes > self.limit_bytes:
            raise self._too_large("read", reference.name, reference.size_bytes)
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._patience_s
        seen = ""
        while True:
            try:
                entry = await self._entry_of(reference)
                payload, sha256 = await self._chunks.read(entry.nuid, reference.size_bytes)
            except _PASSING:
                if loop.time() + _RETRY_S >= give_up_at:
                    raise
                await asyncio.sleep(_RETRY_S)
                continue
            except LogMissing as error:
                raise ObjectMissing(
                    f"cannot read {reference.name!r}: the namespace has no store of large bodies",
                    name=reference.name,
                ) from error
            if sha256 == reference.sha256 and len(payload) == reference.size_bytes:
                return payload
            if entry.nuid == seen:
                raise _damaged(reference, _what_is_wrong(reference, payload))
            seen = entry.nuid  # it may just have been replaced by an equal one: look again, once

    async def _entry_of(self, reference: Reference) -> ObjectEntry:
        found = await self._find(reference.name)
        if found.seq and found.entry is None:
            raise _damaged(reference, "its entry cannot be read")
        if found.entry is None or found.entry.is_deleted:
            raise ObjectMissing(
                f"cannot read {reference.name!r}: it is not in the store of large bodies; it was removed, or "
                "the store was made anew",
                name=reference.name,
            )
        if (found.entry.size_bytes, found.entry.sha256) != (reference.size_bytes, reference.sha256):
            raise _damaged(reference, "what is stored under that name is something else")
        return found.entry

    # -- removing ---------------------------------------------------------------------------------------

    async def delete(self, name: str, *, only_seq: int | None = None) -> bool:
        """Remove it. Idempotent; one that is stored at the same moment stays. With `only_seq` it is removed
        only if its entry still has that sequence, and the result says whether it had.

        Raises:
            InvalidName: no object can have that name; nothing was sent.
            PermissionDenied: this user may not remove objects.
            LogMissing, AckUnknown, NotConnected, NoResponders: as in :meth:`put`.
        """
        check_object_name(name)
        found = await self._find(name)
        if only_seq is not None and found.seq != only_seq:
            return False
        if found.seq:  # the entry first: if this is cut off, what is left are pieces that nothing leads to
            await self._requests.purge(self.bucket.entry(name), before_seq=found.seq + 1)
        if found.entry is not None and is_nuid_of(found.entry.nuid, name):  # else they are another's
            await self._requests.purge(self.bucket.chunks(found.entry.nuid))
        return True

    def _too_large(self, verb: str, name: str, size_bytes: int) -> PayloadTooLarge:
        return PayloadTooLarge(
            f"cannot {verb} {size_bytes} bytes as {name!r}: the limit is {self.limit_bytes}; send less, or "
            "raise the limit of large bodies (max_payload_bytes) on both sides",
            size_bytes=size_bytes,
            limit_bytes=self.limit_bytes,
        )


def _damaged(reference: Reference, why: str) -> ObjectDamaged:
    return ObjectDamaged(f"cannot use {reference.name!r}: {why}", name=reference.name)


def _what_is_wrong(reference: Reference, payload: bytes) -> str:
    if len(payload) > reference.size_bytes:
        return f"there is more of it than its {reference.size_bytes} bytes"
    if len(payload) < reference.size_bytes:
        return f"only {len(payload)} of its {reference.size_bytes} bytes are there"
    return "its digest is not the one that it was stored with"
