"""Frames: many calls, or many outcomes, in one record.

A frame is two MessagePack values, one after the other. The *header* says all that a fold needs (who, which
calls, until when); the *bodies* carry arguments or results, already encoded. Whoever only supervises reads
the header and skips the rest. One frame costs one fsync and one trip, however many calls it holds: that is
what makes durable calls fast.

============  ==========================================================================================
``calls.v2``  header: ``[type, session, number, epoch, [[call id, method, timeout ms, resource, options]]]``
              bodies: ``[arguments, …]``
``pen.v1``    header: ``[type, session, number, epoch, [[mark, call id], …]]``
              bodies: ``[result or error or nil, …]``
============  ==========================================================================================

``options`` is nil, or ``[idempotency key, priority, [sequence of a dead letter, client]]``, the first and the
last of which may be nil. ``calls.v1``, whose entries have no options, is still read.

``session`` (an integer of up to 42 bits) tells runs of one writer apart and ``number`` counts its frames on a
subject from 1: a reader that has folded (session, n) drops every later record with a number of n or less, so
a frame that was stored twice counts once. ``epoch`` is the epoch of the group as the writer knew it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from typing import Any, Final, NamedTuple

import msgpack  # type: ignore[import-untyped]

from aegisipc.eventstore.errors import LimitExceeded, MalformedPayload, NotEncodable
from aegisipc.eventstore.ids import SESSION_BITS, CallId
from aegisipc.eventstore.names import MAX_KEY_BYTES, MAX_NAME_LENGTH, MAX_RESOURCE_BYTES
from aegisipc.eventstore.tuples import new_tuple

CALLS_TYPE: Final = "calls.v2"
CALLS_TYPE_V1: Final = "calls.v1"
PEN_TYPE: Final = "pen.v1"

MAX_ENTRIES: Final = 4096
MAX_TIMEOUT_MS: Final = 30 * 24 * 3600 * 1000
_MAX_METHOD: Final = 72
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
    """It is given up: its last attempt failed, or it took down every instance that began it. Its body is the
    error. An operator may let it run again, or discard it.
    """
    KEYED = 11
    """Its idempotency key is its own from here on; body: the key's hash and the payload's digest."""
    RELEASED = 12
    """It had no effect, so its key, whose hash is the body, is free again."""
    DUPLICATE = 13
    """Its key belongs to the call whose id is the body, and its payload is the same: that call's outcome is
    its own.
    """
    RETRY_SCHEDULED = 14
    """An attempt failed, and another one is due later; its body says when, and which attempt it was."""
    REQUEUED = 15
    """A dead letter is to run again; its body says who wants that, and in an owned group holds the call."""
    DISCARDED = 16
    """A dead letter will never run again; its body says who decided that."""
    CANCELLED = 17
    """It was cancelled on request; its body says whether it had started."""


OUTCOMES: Final = frozenset(
    {
        Mark.SUCCEEDED,
        Mark.FAILED,
        Mark.EXPIRED,
        Mark.IN_DOUBT,
        Mark.DEAD_LETTERED,
        Mark.DUPLICATE,
        Mark.CANCELLED,
    }
)
"""What a caller can be told."""

FINAL: Final = OUTCOMES - {Mark.IN_DOUBT, Mark.DEAD_LETTERED}
"""Outcomes that nothing comes after."""

CLOSING: Final = OUTCOMES - {Mark.IN_DOUBT}
"""Outcomes after which a call is no longer open."""

DEAD_MARKS: Final = frozenset({Mark.DEAD_LETTERED, Mark.REQUEUED, Mark.DISCARDED})
"""A frame with one of these is stored under a subject of its own, so that dead letters can be listed."""

FOLDED_BODIES: Final = DEAD_MARKS | {
    Mark.IN_DOUBT,
    Mark.NOT_EXECUTED,
    Mark.KEYED,
    Mark.RELEASED,
    Mark.RETRY_SCHEDULED,
    Mark.CANCELLED,
}
"""Marks whose bodies say what a fold needs, even one that reads headers only."""

LOW, NORMAL, HIGH = range(3)
"""Priorities."""

NO_CALL: Final[CallId] = bytes(16)
"""The id in entries that are about no call."""


class CallOptions(NamedTuple):
    """What most calls do without. ``requeue`` (pools only) makes of the entry a dead letter that is to run
    again: where it stands in the log, and whose call it is.
    """

    key: str | None = None
    priority: int = NORMAL
    requeue: tuple[int, str] | None = None


class CallEntry(NamedTuple):
    """One call in a frame's header. ``resource`` is ``None`` for calls that keep no order."""

    call_id: CallId
    method: str
    timeout_ms: int
    resource: str | None
    options: CallOptions | None = None


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
    session, number, epoch, raw, parts = _decode(payload, _CALLS_READERS, _BINARY)
    entries = [new_tuple(CallEntry, entry) for entry in raw]
    return CallFrame(session, number, epoch, entries, parts if bodies else ())


def decode_pen(payload: bytes, *, bodies: bool = True) -> PenFrame:
    """Read a pen frame, or with ``bodies=False`` only its header; the bodies are checked either way, and kept
    if a fold needs one of them.

    Raises:
        MalformedPayload: when the payload is not a pen frame.
    """
    session, number, epoch, raw, parts = _decode(payload, _PEN_READERS, _BINARY_OR_NONE)
    entries = [new_tuple(PenEntry, (_MARKS[mark], call_id)) for mark, call_id in raw]
    if not bodies and not any(mark in FOLDED_BODIES for mark, _ in raw):
        parts = []
    return PenFrame(session, number, epoch, entries, parts)


_NOT_OURS = (ValueError, TypeError, OverflowError, msgpack.UnpackException, RecursionError)
_MARKS: Final = {int(mark): mark for mark in Mark}
_BINARY: Final[frozenset[type]] = frozenset({bytes})
_BINARY_OR_NONE: Final[frozenset[type]] = frozenset({bytes, type(None)})

type _CheckEntries = Callable[[Sequence[Any]], None]
type _Readers = Mapping[str, Callable[[list[Any]], None]]
"""Per type: checks the raw entries, and brings them into today's shape, in place."""


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
    payload: bytes, readers: _Readers, body_kinds: frozenset[type]
) -> tuple[int, int, int, list[Any], list[Any]]:
    type_name = next(iter(readers))
    unpacker = msgpack.Unpacker(
        max_buffer_size=max(len(payload), 1),
        max_array_len=MAX_ENTRIES,
        max_map_len=0,
        max_ext_len=0,
    )
    unpacker.feed(payload)
    try:
        found, session, number, epoch, raw = unpacker.unpack()
        read = readers.get(found) if type(found) is str else None
        if read is None:
            raise ValueError("its type is another")
        _check_frame(session, number, epoch)
        _require(type(raw) is list, "its entries are not an array")
        read(raw)
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
    for call_id, method, timeout_ms, resource, options in entries:
        if (
            type(call_id) is not bytes
            or len(call_id) != 16
            or type(method) is not str
            or not 0 < len(method) <= _MAX_METHOD
            or type(timeout_ms) is not int
            or not 0 < timeout_ms <= MAX_TIMEOUT_MS
            or (resource is not None and not _is_resource(resource))
        ):
            raise ValueError("an entry is not [call id, method, timeout ms, resource, options]")
        if options is not None:
            _check_options(*options)


def _check_options(key: Any, priority: Any, requeue: Any) -> None:
    if key is not None and not _is_text(key, MAX_KEY_BYTES):
        raise ValueError("an idempotency key is not text of a legal length")
    if type(priority) is not int or not LOW <= priority <= HIGH:
        raise ValueError("a priority is none")
    if requeue is not None:
        seq, client = requeue
        if type(seq) is not int or not 0 < seq < _COUNTER_END or not _is_text(client, MAX_NAME_LENGTH):
            raise ValueError("a requeued call does not say which dead letter it is")


def _read_calls(entries: list[Any]) -> None:
    _check_calls(entries)
    for entry in entries:
        if entry[4] is not None:
            key, priority, requeue = entry[4]
            entry[4] = CallOptions(key, priority, None if requeue is None else tuple(requeue))


def _read_calls_v1(entries: list[Any]) -> None:
    for entry in entries:
        _require(type(entry) is list, "an entry is not an array")
        entry.append(None)
    _check_calls(entries)


def _is_resource(resource: Any) -> bool:
    return _is_text(resource, MAX_RESOURCE_BYTES)


def _is_text(text: Any, most: int) -> bool:
    if type(text) is not str or not text:
        return False
    # A character takes four bytes at most.
    return len(text) <= most // 4 or len(text.encode()) <= most


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


_CALLS_READERS: Final[_Readers] = {CALLS_TYPE: _read_calls, CALLS_TYPE_V1: _read_calls_v1}
_PEN_READERS: Final[_Readers] = {PEN_TYPE: _check_facts}
