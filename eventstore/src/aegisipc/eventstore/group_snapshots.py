"""Snapshots of one owned group: what a member needs to know of the log up to a point, so that it need not
read it.

A snapshot is a record of kind ``state``, written by the holder of the pen under its fence. It holds the fold
of the group's calls (the open ones with their arguments, and which frames were seen) and the shared state,
both exactly as they were after the record of sequence ``covers``. A member folds the routing records up to
there, takes the rest from the snapshot, and follows the log from the next record on.
"""

from __future__ import annotations

import zlib
from typing import Any, Final, NamedTuple

import msgpack  # type: ignore[import-untyped]

from aegisipc.eventstore.calls import Evidence, GroupCalls, OpenCall
from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.lifecycles import CallState

SNAPSHOT_TYPE: Final = "group.snapshot.v2"
MAX_SNAPSHOT_BYTES: Final = 256 << 20
"""What a snapshot may grow to when it is unpacked: more is taken for a bomb."""

_NOT_OURS = (
    ValueError,
    TypeError,
    KeyError,
    OverflowError,
    msgpack.UnpackException,
    RecursionError,
    zlib.error,
)


_BYTES, _TEXT, _INT, _NOTHING = (bytes,), (str,), (int,), type(None)
_SESSION: Final = (_TEXT, _INT, _INT)
_EVIDENCE: Final = (_INT, (bytes, _NOTHING), _TEXT, (list,))
_CALL: Final = (
    _BYTES,  # call id
    _TEXT,  # client
    _TEXT,  # method
    (str, _NOTHING),  # resource
    _INT,  # seq
    _INT,  # deadline
    _BYTES,  # body
    _INT,  # since
    _TEXT,  # state
    (str, _NOTHING),  # claimed by
    _INT,  # claimed epoch
    _INT,  # attempts
    (list, _NOTHING),  # evidence
    (str, _NOTHING),  # key
    _INT,  # priority
    _INT,  # tries
    _INT,  # next attempt
    (list, _NOTHING),  # who wants it cancelled, and why
    (bool,),  # whether it was a dead letter before
)
"""What a call in a snapshot is made of, as :func:`_dump_call` gives it."""


class GroupSnapshot(NamedTuple):
    """A snapshot: ``calls`` as :func:`dump_calls` gives it; ``state`` is ``None`` if the group has none."""

    covers: int
    epoch: int
    calls: list[Any]
    state: bytes | None


def encode_snapshot(snapshot: GroupSnapshot) -> bytes:
    """Return the record payload."""
    return zlib.compress(msgpack.packb([SNAPSHOT_TYPE, *snapshot]), level=1)


def decode_snapshot(payload: bytes) -> GroupSnapshot:
    """Read a snapshot.

    Raises:
        MalformedPayload: it is none, or of a version that is not known here.
    """
    try:
        unpacking = zlib.decompressobj()
        unpacked = unpacking.decompress(payload, MAX_SNAPSHOT_BYTES)
        if not unpacking.eof:
            raise ValueError("it is cut off, or too large")
        found, covers, epoch, calls, state = msgpack.unpackb(unpacked)
        if found != SNAPSHOT_TYPE:
            raise ValueError(f"its type is {found!r}")
        if type(covers) is not int or type(epoch) is not int or type(calls) is not list:
            raise TypeError("a part has the wrong type")
        if state is not None and type(state) is not bytes:
            raise TypeError("its state is not binary")
    except _NOT_OURS as error:
        raise MalformedPayload(f"cannot read a snapshot: {error}") from error
    return GroupSnapshot(covers, epoch, calls, state)


def dump_calls(calls: GroupCalls) -> list[Any]:
    """Return the fold as plain data. Outcomes and segments of keys are in the log, and not part of it."""
    return [
        calls.accepted,
        [(int(mark), count) for mark, count in sorted(calls.concluded.items())],
        dict(calls.anomalies),
        calls.sessions.dump(),
        [_dump_call(call) for call in calls.open.values()],
        calls.keys.dump() if calls.keys is not None else None,
    ]


def load_calls(plain: list[Any], calls: GroupCalls) -> None:
    """Fill an empty fold with what :func:`dump_calls` gave.

    Raises:
        MalformedPayload: it does not hold together. Then the fold is as it was.
    """
    try:
        accepted, concluded, anomalies, sessions, open_calls, keys = plain
        accepted = int(accepted)
        marks = {Mark(mark): int(count) for mark, count in concluded}
        named = {str(name): int(count) for name, count in dict(anomalies).items()}
        heard = [_typed(session, _SESSION) for session in sessions]
        loaded = [_load_call(call) for call in open_calls]
        if calls.keys is not None:
            calls.keys.load(keys)
    except _NOT_OURS as error:
        raise MalformedPayload(f"cannot read the calls in a snapshot: {error}") from error
    calls.accepted = accepted
    calls.concluded.update(marks)
    calls.anomalies.update(named)
    calls.sessions.load(heard)
    calls.open.update({call.call_id: call for call in loaded})


def _dump_call(call: OpenCall) -> list[Any]:
    evidence = call.evidence
    return [
        call.call_id,
        call.client,
        call.method,
        call.resource,
        call.seq,
        call.deadline_ns,
        call.body,
        call.since_ns,
        str(call.state),
        call.claimed_by,
        call.claimed_epoch,
        call.attempts,
        None if evidence is None else [int(evidence.mark), *evidence[1:]],
        call.key,
        call.priority,
        call.tries,
        call.retry_at_ns,
        None if call.cancel is None else list(call.cancel),
        call.is_requeued,
    ]


def _typed(plain: Any, kinds: tuple[tuple[type, ...], ...]) -> Any:
    """Return `plain`, if its items are of these kinds."""
    if type(plain) is not list or len(plain) != len(kinds):
        raise TypeError("a part has the wrong shape")
    for value, allowed in zip(plain, kinds, strict=True):
        if type(value) not in allowed:
            raise TypeError(f"a part is {type(value).__name__}")
    return plain


def _load_call(plain: list[Any]) -> OpenCall:
    parts = _typed(plain, _CALL)
    made_of, (state, claimed_by, claimed_epoch, attempts, evidence) = parts[:8], parts[8:13]
    key, priority, tries, due, cancel, is_requeued = parts[13:]
    call = OpenCall(*made_of)
    call.key, call.priority, call.is_requeued = key, priority, is_requeued
    call.state = CallState(state)
    call.tries, call.retry_at_ns = tries, due
    if cancel is not None:
        author, reason = _typed(cancel, (_TEXT, _TEXT))
        call.cancel = author, reason
    call.claimed_by, call.claimed_epoch, call.attempts = claimed_by, claimed_epoch, attempts
    if evidence is not None:
        mark, body, writer, emitted = _typed(evidence, _EVIDENCE)
        call.evidence = Evidence(Mark(mark), body, writer, tuple(_typed(emitted, (_BYTES,) * len(emitted))))
    return call
