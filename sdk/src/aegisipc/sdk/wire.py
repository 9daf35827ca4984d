"""Messages beside the log: replies and questions. All of them are hints; the log is the truth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgpack  # type: ignore[import-untyped]

from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.eventstore.frames import MAX_ENTRIES, OUTCOMES
from aegisipc.eventstore.ids import CallId

type WireOutcome = tuple[CallId, int, bytes | None]

MAX_ASKED: Final = 1000
"""Most calls that one question is about."""

_ID_BYTES: Final = 16
_OUTCOMES: Final = frozenset(map(int, OUTCOMES))
_BAD: Final = (ValueError, TypeError, msgpack.UnpackException, RecursionError)


def encode_outcomes(outcomes: Sequence[WireOutcome], limit_bytes: int) -> bytes:
    """Pack the outcomes that fit in `limit_bytes`, in their order; who misses some asks again.

    One that does not fit keeps none behind it from being told.
    """
    size, fitting = 64, []
    for outcome in outcomes[:MAX_ENTRIES]:
        needed = 32 + len(outcome[2] or b"")
        if size + needed <= limit_bytes:
            size += needed
            fitting.append(outcome)
    packed: bytes = msgpack.packb(fitting)
    return packed


def decode_outcomes(payload: bytes) -> list[WireOutcome]:
    """Read a reply.

    Raises:
        MalformedPayload: it is not one.
    """
    try:
        outcomes: list[WireOutcome] = msgpack.unpackb(
            payload, max_array_len=MAX_ENTRIES, max_map_len=0, max_ext_len=0
        )
        if type(outcomes) is not list:
            raise TypeError("not an array")
        for call_id, mark, body in outcomes:
            if (
                type(call_id) is not bytes
                or len(call_id) != _ID_BYTES
                or type(mark) is not int
                or mark not in _OUTCOMES
                or not (body is None or type(body) is bytes)
            ):
                raise TypeError("not [call id, mark, body]")
    except _BAD as error:
        raise MalformedPayload(f"cannot read a reply: {error}") from error
    return outcomes


def encode_ask(call_ids: Sequence[CallId]) -> bytes:
    """Pack a question about at most ``MAX_ASKED`` calls.

    Raises:
        ValueError: they are more; a question that left some out would never be answered.
    """
    if len(call_ids) > MAX_ASKED:
        raise ValueError(f"cannot ask about {len(call_ids)} calls at once: ask in parts of {MAX_ASKED}")
    packed: bytes = msgpack.packb(list(call_ids))
    return packed


def decode_ask(payload: bytes) -> list[CallId]:
    """Read a question about calls.

    Raises:
        MalformedPayload: it is not one.
    """
    try:
        call_ids: list[CallId] = msgpack.unpackb(
            payload, max_array_len=MAX_ASKED, max_map_len=0, max_ext_len=0
        )
        if type(call_ids) is not list or not all(type(i) is bytes and len(i) == _ID_BYTES for i in call_ids):
            raise TypeError("not an array of call ids")
    except _BAD as error:
        raise MalformedPayload(f"cannot read a question: {error}") from error
    return call_ids
