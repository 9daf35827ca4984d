"""References: what travels in the place of a body that is too large for a message, and the names of objects.

Pure. The bytes themselves are in the namespace's object store; see :mod:`aegisipc.eventstore.objects`.

A reference is a whole body: one MessagePack extension value, of a code that no value of the codec has. It is
always written with the extension's 16-bit length, so the first four bytes tell it from everything else::

    c8 <length: uint16> 20 | size: uint64 | SHA-256: 32 bytes | name: ASCII

An object's name says what it holds::

    <service>.<group>.<call id>.args                          arguments of a call
    <service>.<group>.<call id>.result.<instance>.<epoch>     what that instance had to say of it
"""

from __future__ import annotations

import re
import struct
from typing import Final, NamedTuple

from aegisipc.eventstore.errors import InvalidName, MalformedPayload
from aegisipc.eventstore.ids import CallId, format_call_id, parse_call_id

REFERENCE_CODE: Final = 32
"""The extension code. Those of the codec are in ``codec/wire.py``."""

DIGEST_BYTES: Final = 32
MAX_OBJECT_NAME_BYTES: Final = 300
MAX_OBJECT_SIZE: Final = (1 << 63) - 1

_EXT16: Final = 0xC8
_HEAD: Final = struct.Struct(">BHBQ32s")
_HEAD_OF_EXT_BYTES: Final = 4
_NAME: Final = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
_EPOCH: Final = re.compile(r"0|[1-9][0-9]{0,18}")

ARGUMENTS: Final = "args"
RESULT: Final = "result"


class Reference(NamedTuple):
    """Where a body is, and what it must be: ``sha256`` is its digest, 32 bytes."""

    name: str
    size_bytes: int
    sha256: bytes


class ObjectName(NamedTuple):
    """What the name of an object says. ``instance`` and ``epoch`` are those of a result."""

    service: str
    group: str
    call_id: CallId
    is_result: bool
    instance: str = ""
    epoch: int = 0


def arguments_name(service: str, group: str, call_id: CallId) -> str:
    """Name the arguments of a call."""
    return f"{service}.{group}.{format_call_id(call_id)}.{ARGUMENTS}"


def result_name(service: str, group: str, call_id: CallId, instance: str, epoch: int) -> str:
    """Name the result that `instance` has for a call, in that epoch of the group."""
    return f"{service}.{group}.{format_call_id(call_id)}.{RESULT}.{instance}.{epoch}"


def parse_object_name(name: str) -> ObjectName:
    """Read what a name says.

    Raises:
        MalformedPayload: when it is none of ours.
    """
    match check_object_name(name).split("."):
        case [service, group, call_id, "args"]:
            return ObjectName(service, group, parse_call_id(call_id), is_result=False)
        case [service, group, call_id, "result", instance, epoch] if _EPOCH.fullmatch(epoch):
            return ObjectName(service, group, parse_call_id(call_id), True, instance, int(epoch))
        case _:
            raise MalformedPayload(f"cannot read {name!r} as the name of arguments or of a result")


def check_object_name(name: object) -> str:
    """Return `name` if an object can have it: letters, digits, ``-`` and ``_`` in parts joined by dots.

    Raises:
        InvalidName: with field ``name``.
    """
    if isinstance(name, str) and len(name) <= MAX_OBJECT_NAME_BYTES and _NAME.fullmatch(name):
        return name
    raise InvalidName(
        f"cannot use {name!r:.80} as the name of an object: use letters, digits, '-' and '_' in parts joined "
        f"by dots, {MAX_OBJECT_NAME_BYTES} characters at most",
        name=name,
        what="object",
    )


def check_reference(reference: Reference) -> Reference:
    """Return `reference` if there can be such an object.

    Raises:
        MalformedPayload: its name, size or digest is none.
    """
    try:
        check_object_name(reference.name)
    except InvalidName as error:
        raise MalformedPayload(f"cannot follow a reference: {error.message}") from error
    if not 0 <= reference.size_bytes <= MAX_OBJECT_SIZE:
        raise MalformedPayload(
            f"cannot follow a reference to {reference.size_bytes} bytes: no object is that"
        )
    if len(reference.sha256) != DIGEST_BYTES:
        raise MalformedPayload(
            f"cannot follow a reference: its digest has {len(reference.sha256)} bytes, not {DIGEST_BYTES}"
        )
    return reference


def encode_reference(reference: Reference) -> bytes:
    """Return the body that stands for the object.

    Raises:
        MalformedPayload: there can be no such object.
    """
    name = check_reference(reference).name.encode("ascii")
    length = _HEAD.size - _HEAD_OF_EXT_BYTES + len(name)
    return _HEAD.pack(_EXT16, length, REFERENCE_CODE, reference.size_bytes, reference.sha256) + name


def reference_in(body: bytes) -> Reference | None:
    """Return the reference that `body` is, or ``None`` for an ordinary body. Looks at four bytes of those.

    Raises:
        MalformedPayload: it is a reference, but a broken one.
    """
    if not body or body[0] != _EXT16 or body[3:4] != _CODE:
        return None
    return _read(body)


_CODE: Final = bytes([REFERENCE_CODE])


def _read(body: bytes) -> Reference:
    if not _HEAD.size < len(body) <= _HEAD.size + MAX_OBJECT_NAME_BYTES:
        raise MalformedPayload(f"cannot read a reference of {len(body)} bytes")
    _, length, _, size_bytes, sha256 = _HEAD.unpack_from(body)
    if length != len(body) - _HEAD_OF_EXT_BYTES:
        raise MalformedPayload("cannot read a reference: its length is not what it says")
    name = body[_HEAD.size :].decode("ascii", "replace")
    return check_reference(Reference(name, size_bytes, sha256))
