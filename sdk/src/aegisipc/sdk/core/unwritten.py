"""Outcomes of ``once`` calls that came to their end here and were not written before the pen went elsewhere.

Whoever holds it now finds these calls in doubt, and the one who ran them knows better: that is evidence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from pydantic import ValidationError

from aegisipc.eventstore.bodies import ErrorInfo, RetryScheduled
from aegisipc.eventstore.calls import OpenCall
from aegisipc.eventstore.codec import decode, encode
from aegisipc.eventstore.errors import CodecError
from aegisipc.eventstore.events import Effect
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.ids import CallId
from aegisipc.sdk.core.dead_letters import error_in, last_error_in
from aegisipc.sdk.core.holding import OVERLOADED_CODE
from aegisipc.sdk.core.keyed import CONFLICT_CODE
from aegisipc.sdk.core.pen import Fact

_ENDS: Final = frozenset(
    {Mark.SUCCEEDED, Mark.FAILED, Mark.RETRY_SCHEDULED, Mark.DEAD_LETTERED, Mark.CANCELLED}
)
_REFUSALS: Final = frozenset({OVERLOADED_CODE, CONFLICT_CODE})


class Unwritten(NamedTuple):
    """How a call ended that ran here, and the events of the shared state that belong to that."""

    call: OpenCall
    mark: Mark
    body: bytes | None
    emitted: tuple[bytes, ...]


def unwritten(lost: Iterable[Fact], effects: Mapping[str, Effect]) -> list[Unwritten]:
    """Return what `lost`, the facts that will never be in the log, tell of ``once`` calls that ran here. What
    others said of a call in doubt is no evidence of ours.
    """
    found: list[Unwritten] = []
    told_by_others: set[CallId] = set()
    emitted: list[bytes] = []
    for mark, call, body in lost:
        if mark is Mark.EMITTED:
            emitted.append(body or b"")
            continue
        if mark is Mark.EXECUTED:
            told_by_others.add(call.call_id)
        elif (
            mark in _ENDS
            and effects.get(call.method) is Effect.ONCE
            and call.call_id not in told_by_others
            and not _was_refused(mark, call, body)
        ):
            found.append(Unwritten(call, *as_evidence(mark, body), tuple(emitted)))
        emitted.clear()
    return found


def _was_refused(mark: Mark, call: OpenCall, body: bytes | None) -> bool:
    """It did not run here. Should it run later, a word about this must not be taken for one about that."""
    return mark is Mark.FAILED and call.claimed_by is None and error_in(body).code in _REFUSALS


def as_evidence(mark: Mark, body: bytes | None) -> tuple[Mark, bytes | None]:
    """Return what an end comes to as evidence: it says that a call ran and how, and not what is to become of
    it.
    """
    if mark is Mark.SUCCEEDED:
        return mark, body
    if mark is Mark.RETRY_SCHEDULED:
        return Mark.FAILED, encode(_error_of_attempt(body))
    if mark is Mark.DEAD_LETTERED:
        return Mark.FAILED, encode(last_error_in(body))
    return Mark.FAILED, body


def _error_of_attempt(body: bytes | None) -> ErrorInfo:
    try:
        return RetryScheduled.model_validate(decode(body or b"")).error
    except (CodecError, ValidationError):
        return error_in(body)
