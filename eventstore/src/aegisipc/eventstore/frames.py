"""Frames: many calls, or many outcomes, in one record.

A frame is two MessagePack values, one after the other. The *header* says all that a fold needs (who, which
calls, until when); the *bodies* carry arguments or results, already encoded. Whoever only supervises reads
the header and skips the rest. One frame costs one fsync and one trip, however many calls it holds: that is
what makes durable calls fast.

============  ==========================================================================================
``calls.v1``  header: ``[type, session, number, epoch, [[call id, method, timeout ms, resource], …]]``
              bodies: ``[arguments, …]``
``pen.v1``    header: ``[type, session, number, epoch, [[mark, call id], …]]``
              bodies: ``[result or error or nil, …]``
============  ==========================================================================================

``session`` (an integer of up to 42 bits) tells runs of one writer apart and ``number`` counts its frames on a
subject from 1: a reader that has folded (session, n) drops every later record with a number of n or less, so
a frame that was stored twice counts once. ``epoch`` is the epoch of the group as the writer knew it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any, Final, NamedTuple

import msgpack  # type: ignore[import-untyped]

from aegisipc.eventstore.errors import LimitExceeded, MalformedPayload, NotEncodable
from aegisipc.eventstore.ids import SESSION_BITS, CallId
from aegisipc.eventstore.names import MAX_RESOURCE_BYTES
from aegisipc.eventstore.tuples import new_tuple

CALLS_TYPE: Final = "calls.v1"
PEN_TYPE: Final = "pen.v1"

MAX_ENTRIES: Final = 4096
MAX_TIMEOUT_MS: Final = 30 * 24 * 3600 * 1000
_MAX_METHOD: Final = 64
_COUNTER_END: Final = 1 << 63


class Mark(IntEnum):
    """What a pen frame says of one call."""

    CLAIMED = 0
    SUCCEEDED = 1
    FAILED = 2
    EXPIRED = 3
    IN_DOUBT = 4
    """It was claimed by one who is gone; its body, if there is one, is an error that says how that came."""
    NOT_EXECUTED = 5
    """The doubt is over: it did not run, and may run now. Its body says who found that, and why."""
    EXECUTED = 6
    """The doubt is over: it did run. Its body says who found that, and why; the outcome follows at once."""
    EMITTED = 7
    """An event of the group's shared state, ``[name, data]``; the outcome of the call follows at once."""
    CHECKED = 8
    """No call's (its id is all zeros): the digest of the writer's shared state after what precedes it."""
    ATTEMPTED = 9
    """It may have taken an instance down with it, and is begun once more, alone."""
    DEAD_LETTERED = 10
    """It took down every instance that began it, too often; its body is the error."""


OUTCOMES: Final = frozenset({Mark.SUCCEEDED, Mark.FAILED, Mark.EXPIRED, Mark.IN_DOUBT, Mark.DEAD_LETTERED})
"""What a caller can be told."""

NO_CALL: Final[CallId] = bytes(16)
"""The id in entries that are about no call."""


class CallEntry(NamedTuple):
    """One call in a frame's header. ``resource`` is ``None`` for calls that keep no order."""

    call_id: CallId
    method: str
    timeout_ms: int
    resource: str | None


class CallFrame(NamedTuple):
    """Calls of one client to one group. ``bodies[i]`` belongs to ``entries[i]``; empty when only the header
    was read.
    """

    session: int
    number: int
    epoch: int
    entries: Sequence[CallEntry]
    bodies: Sequence[bytes]


class PenEntry(NamedTuple):
    """One fact about a call: it was claimed, or it has an outcome."""

    mark: Mark
    call_id: CallId


class PenFrame(NamedTuple):
    """Facts written by the holder of the pen. ``bodies[i]`` is the result or error of ``entries[i]``, or
    ``None``.
    """

    session: int
    number: int
    epoch: int
    entries: Sequence[PenEntry]
    bodies: Sequence[bytes | None]


def encode_calls(frame: CallFrame) -> bytes:
    """Return the record payload of a call frame.

    Raises:
        LimitExceeded: more than ``MAX_ENTRIES`` calls.
        NotEncodable: no reader would take it: a value of the wrong type or size. Nothing may be stored that
            nobody can read, since all calls of such a frame would be lost.
    """
    return _encode(CALLS_TYPE, frame, _check_calls, _BINARY)


def encode_pen(frame: PenFrame) -> bytes:
    """Return the record payload of a pen frame.

    Raises:
        LimitExceeded: more than ``MAX_ENTRIES`` entries.
        NotEncodable: no reader would take it; see :func:`encode_calls`.
    """
    return _encode(PEN_TYPE, frame, _check_facts, _BINARY_OR_NONE)


def decode_calls(payload: bytes, *, bodies: bool = True) -> CallFrame:
    """Read a call frame, or with ``bodies=False`` only its header.

    The bodies are checked either way, so that whoever skips them and whoever runs the calls agree on which
    frames count.

    Raises:
        MalformedPayload: when the payload is not a call frame.
    """
    session, number, epoch, raw, parts = _decode(payload, CALLS_TYPE, _check_calls, _BINARY)
    entries = [new_tuple(CallEntry, entry) for entry in raw]
    return CallFrame(session, number, epoch, entries, parts if bodies else ())


def decode_pen(payload: bytes, *, bodies: bool = True) -> PenFrame:
    """Read a pen frame, or with ``bodies=False`` only its header; the bodies are checked either way.

    Raises:
        MalformedPayload: when the payload is not a pen frame.
    """
    session, number, epoch, raw, parts = _decode(payload, PEN_TYPE, _check_facts, _BINARY_OR_NONE)
    entries = [new_tuple(PenEntry, (_MARKS[mark], call_id)) for mark, call_id in raw]
    return PenFrame(session, number, epoch, entries, parts if bodies else ())


_NOT_OURS = (ValueError, TypeError, OverflowError, msgpack.UnpackException, RecursionError)
_MARKS: Final = {int(mark): mark for mark in Mark}
_BINARY: Final[frozenset[type]] = frozenset({bytes})
_BINARY_OR_NONE: Final[frozenset[type]] = frozenset({bytes, type(None)})

type _CheckEntries = Callable[[Sequence[Any]], None]


def _encode(
    type_name: str, frame: CallFrame | PenFrame, check: _CheckEntries, body_kinds: frozenset[type]
) -> bytes:
    session, number, epoch, entries, bodies = frame
    if len(entries) > MAX_ENTRIES:
        raise LimitExceeded(
            f"cannot encode a {type_name} frame of {len(entries)} entries: the limit is {MAX_ENTRIES}",
            limit=MAX_ENTRIES,
        )
    try:
        _check_frame(session, number, epoch)
        check(entries)
        _check_bodies(entries, bodies, body_kinds)
        header: bytes = msgpack.packb([type_name, session, number, epoch, entries])
        packed: bytes = header + msgpack.packb(bodies)
    except (ValueError, TypeError) as error:
        raise NotEncodable(f"cannot encode a {type_name} frame: {error}", type_name=type_name) from error
    return packed


def _decode(
    payload: bytes, type_name: str, check: _CheckEntries, body_kinds: frozenset[type]
) -> tuple[int, int, int, list[Any], list[Any]]:
    unpacker = msgpack.Unpacker(
        max_buffer_size=max(len(payload), 1),
        max_array_len=MAX_ENTRIES,
        max_map_len=0,
        max_ext_len=0,
    )
    unpacker.feed(payload)
    try:
        found, session, number, epoch, raw = unpacker.unpack()
        _require(found == type_name, "its type is another")
        _check_frame(session, number, epoch)
        _require(type(raw) is list, "its entries are not an array")
        check(raw)
        bodies = unpacker.unpack()
        _check_bodies(raw, bodies, body_kinds)
        _require(unpacker.tell() == len(payload), "something follows it")
    except _NOT_OURS as error:
        raise MalformedPayload(
            f"cannot read a {type_name} frame: {str(error) or type(error).__name__}"
        ) from error
    return session, number, epoch, raw, bodies


# These raise ValueError, which means malformed in one direction and not encodable in the other.


def _check_calls(entries: Sequence[Any]) -> None:
    for call_id, method, timeout_ms, resource in entries:
        if (
            type(call_id) is not bytes
            or len(call_id) != 16
            or type(method) is not str
            or not 0 < len(method) <= _MAX_METHOD
            or type(timeout_ms) is not int
            or not 0 < timeout_ms <= MAX_TIMEOUT_MS
            or (resource is not None and not _is_resource(resource))
        ):
            raise ValueError("an entry is not [call id, method, timeout ms, resource]")


def _is_resource(resource: Any) -> bool:
    if type(resource) is not str or not resource:
        return False
    most = MAX_RESOURCE_BYTES
    # A character takes four bytes at most.
    return len(resource) <= most // 4 or len(resource.encode()) <= most


def _check_facts(entries: Sequence[Any]) -> None:
    for mark, call_id in entries:
        if (
            (type(mark) is not int and type(mark) is not Mark)
            or mark not in _MARKS
            or type(call_id) is not bytes
            or len(call_id) != 16
        ):
            raise ValueError("an entry is not [mark, call id]")


def _check_bodies(entries: Sequence[Any], bodies: Any, kinds: frozenset[type]) -> None:
    _require(type(bodies) in (list, tuple), "its bodies are not an array")
    _require(len(bodies) == len(entries), "it has not one body for each entry")
    _require(kinds.issuperset(map(type, bodies)), "a body is not binary")


def _check_frame(session: Any, number: Any, epoch: Any) -> None:
    _require(
        type(session) is type(number) is type(epoch) is int, "session, number or epoch is not an integer"
    )
    _require(0 <= session < 1 << SESSION_BITS, "the session is out of range")
    _require(0 < number < _COUNTER_END and 0 <= epoch < _COUNTER_END, "number or epoch is out of range")


def _require(true: bool, what: str) -> None:  # noqa: FBT001 - reads as an assertion
    if not true:
        raise ValueError(what)
