"""How JetStream's object store lays objects out: names of streams and subjects, and the entry of an object.

Pure. It is the layout of the NATS client libraries, so ``nats object ls`` and ``nats object get`` read it:
a bucket is the stream ``OBJ_<bucket>``, the pieces of an object are messages on ``$O.<bucket>.C.<nuid>`` in
their order, and its entry (JSON: name, size, digest, nuid) is the last message on
``$O.<bucket>.M.<name in base64>``.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import string
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.eventstore.references import DIGEST_BYTES, MAX_OBJECT_SIZE
from aegisipc.eventstore.subjects import Subjects

CHUNK_BYTES: Final = 128 * 1024
NUID_CHARS: Final = string.ascii_letters + string.digits
NUID_SALT_LENGTH: Final = 11

_DIGEST_PREFIX: Final = "SHA-256="
_NUID: Final = re.compile(r"[A-Za-z0-9]{1,64}")
_MAX_ENTRY_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Bucket:
    """The subjects of a bucket."""

    name: str

    @property
    def stream(self) -> str:
        """Name of its stream."""
        return f"OBJ_{self.name}"

    @property
    def all_chunks(self) -> str:
        """Filter: the pieces of all objects."""
        return f"$O.{self.name}.C.>"

    @property
    def all_entries(self) -> str:
        """Filter: the entries of all objects."""
        return f"$O.{self.name}.M.>"

    def chunks(self, nuid: str) -> str:
        """Return where the pieces are."""
        return f"$O.{self.name}.C.{nuid}"

    def entry(self, object_name: str) -> str:
        """Return where the entry is."""
        return f"$O.{self.name}.M.{base64.urlsafe_b64encode(object_name.encode()).decode()}"

    def nuid_of(self, chunks_subject: str) -> str:
        """Return whose pieces are on that subject, or ``""`` if it is none that we or NATS would make."""
        nuid = chunks_subject.removeprefix(f"$O.{self.name}.C.")
        return nuid if nuid != chunks_subject and _NUID.fullmatch(nuid) else ""


def bucket_of(subjects: Subjects) -> Bucket:
    """Return the bucket of a namespace."""
    return Bucket(f"AEGIS_{subjects.namespace}_OBJECTS")


def nuid_for(name: str, salt: str) -> str:
    """Return a nuid for the pieces of an object of that name; `salt` is 11 random letters and digits.

    It is bound to the name: an entry that leads to the pieces of another object is found out, so that nobody
    has those removed by storing such an entry.
    """
    number = int.from_bytes(hashlib.blake2b(f"{salt}.{name}".encode(), digest_size=16).digest())
    digits = []
    for _ in range(NUID_SALT_LENGTH):
        number, digit = divmod(number, len(NUID_CHARS))
        digits.append(NUID_CHARS[digit])
    return salt + "".join(digits)


def is_nuid_of(nuid: str, name: str) -> bool:
    """Tell whether `nuid` was made for that name, by :func:`nuid_for`."""
    return nuid == nuid_for(name, nuid[:NUID_SALT_LENGTH])


class ObjectEntry(NamedTuple):
    """What is known of an object: where its pieces are, and what they come to. An object without an entry
    does not exist, whatever pieces there are.
    """

    name: str
    nuid: str
    size_bytes: int
    chunks: int
    sha256: bytes
    is_deleted: bool = False


def encode_entry(entry: ObjectEntry, bucket: Bucket, modified: str) -> bytes:
    """Return the entry as NATS stores it. `modified` is a time in RFC 3339."""
    document = {
        "name": entry.name,
        "options": {"max_chunk_size": CHUNK_BYTES},
        "bucket": bucket.name,
        "nuid": entry.nuid,
        "size": entry.size_bytes,
        "mtime": modified,
        "chunks": entry.chunks,
        "digest": _DIGEST_PREFIX + base64.urlsafe_b64encode(entry.sha256).decode(),
    }
    return json.dumps(document, separators=(",", ":")).encode()


def decode_entry(payload: bytes) -> ObjectEntry:
    """Read an entry, whoever wrote it.

    Raises:
        MalformedPayload: when it is none.
    """
    if len(payload) > _MAX_ENTRY_BYTES:
        raise MalformedPayload(f"cannot read the entry of an object: it has {len(payload)} bytes")
    try:
        document = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise MalformedPayload(f"cannot read the entry of an object: {error}") from error
    if not isinstance(document, dict):
        raise MalformedPayload("cannot read the entry of an object: it is not a JSON object")
    is_deleted = document.get("deleted") is True
    nuid = _field(document, "nuid", str)
    if not _NUID.fullmatch(nuid):  # it becomes part of a subject, which could be a pattern otherwise
        raise MalformedPayload(f"cannot read the entry of an object: its nuid is {nuid!r:.80}")
    return ObjectEntry(
        _field(document, "name", str),
        nuid,
        _count(document, "size"),
        _count(document, "chunks"),
        b"" if is_deleted else _digest(_field(document, "digest", str)),
        is_deleted,
    )


def _field(document: dict[str, Any], key: str, kind: type[str]) -> str:
    value = document.get(key)
    if not isinstance(value, kind):
        raise MalformedPayload(f"cannot read the entry of an object: it has no {key}")
    return value


def _count(document: dict[str, Any], key: str) -> int:
    value = document.get(key, 0)
    if type(value) is not int or not 0 <= value <= MAX_OBJECT_SIZE:
        raise MalformedPayload(f"cannot read the entry of an object: its {key} is {value!r:.80}")
    return value


def _digest(text: str) -> bytes:
    kind, encoded = text[: len(_DIGEST_PREFIX)], text[len(_DIGEST_PREFIX) :]
    try:
        digest = base64.urlsafe_b64decode(encoded)
    except (binascii.Error, ValueError):
        digest = b""
    if kind.upper() != _DIGEST_PREFIX or len(digest) != DIGEST_BYTES:
        raise MalformedPayload(f"cannot read the entry of an object: {text!r:.80} is no SHA-256 digest")
    return digest
