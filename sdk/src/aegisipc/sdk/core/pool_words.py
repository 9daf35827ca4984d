"""What workers of a pool write beside the marks: the bodies that say what a fact is about, and how to read
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError

from aegisipc.eventstore.bodies import ErrorInfo, Requeued, Resolution, RetryScheduled
from aegisipc.eventstore.codec import decode, encode
from aegisipc.eventstore.errors import CodecError
from aegisipc.eventstore.ids import CallId, format_call_id
from aegisipc.eventstore.open_calls import OpenCall
from aegisipc.sdk.core.cancelling import CANCELLED_CODE
from aegisipc.sdk.core.dead_letters import Reason, dead_letter_body
from aegisipc.sdk.core.keyed import CONFLICT_CODE


class About(NamedTuple):
    """What a word is about: the claim that it ends (where that stands, 0 for none), and the dead letter from
    which the call came back (0 for none). Said in ``details``.
    """

    claimed_seq: int
    dead_seq: int

    def details(self) -> dict[str, Any]:
        """Return it as details of an error: nothing for what is not there."""
        return {name: seq for name, seq in self._asdict().items() if seq}


# -- writing ----------------------------------------------------------------------------------------------


def attempt_body(number: int) -> bytes:
    """Return the body of an ``ATTEMPTED`` fact: it counts if it is the next one."""
    return encode(number)


def doubt_body(claimed_by: str, claimed_seq: int, fate: str) -> bytes:
    """Return the body of an ``IN_DOUBT`` fact: whose claim it is about, and what became of that one."""
    return encode(
        ErrorInfo(
            code="in_doubt",
            message=f"{claimed_by} claimed it and {fate}; whether it ran cannot be told from the log",
            details={"claimed_by": claimed_by, "claimed_seq": claimed_seq, "fate": fate},
        )
    )


def poison_body(call: OpenCall, attempts: Sequence[str], about: About) -> bytes:
    """Return the body of a ``DEAD_LETTERED`` fact of a call that took down those who began it."""
    return dead_letter_body(call, "poison", len(attempts), instances=list(attempts), **about.details())


def given_up_body(
    call: OpenCall, reason: Reason, attempts: int, about: About, error: ErrorInfo | None, stack: Sequence[str]
) -> bytes:
    """Return the body of a ``DEAD_LETTERED`` fact of a call whose attempts failed."""
    return dead_letter_body(call, reason, attempts, error=error, stack=stack, **about.details())


def resolution_body(resolution: Resolution, seq: int) -> bytes:
    """Return the body of a fact that ends the doubt, or discards the dead letter, at `seq`."""
    return encode(resolution.model_copy(update={"doubt_seq": seq}))


def evidence_body(instance: str, doubt_seq: int) -> bytes:
    """Return the body of an ``EXECUTED`` fact of the worker that ran the call itself, and is late."""
    reason = "it had claimed the call, was taken for gone, and ran it to its end"
    return resolution_body(Resolution(source="evidence", author=instance, reason=reason), doubt_seq)


def retry_body(attempt: int, due_ns: int, error: ErrorInfo, claimed_seq: int) -> bytes:
    """Return the body of a ``RETRY_SCHEDULED`` fact: it counts if it is about the next attempt."""
    return encode(RetryScheduled(attempt=attempt, due_ns=due_ns, error=error, claimed_seq=claimed_seq))


def cancelled_body(call: OpenCall, author: str, reason: str, about: About, *, started: bool) -> bytes:
    """Return the body of a ``CANCELLED`` fact."""
    why = f": {reason}" if reason else ""
    what = "it may have run" if started else "it was not started"
    return encode(
        ErrorInfo(
            code=CANCELLED_CODE,
            message=f"{call.method} was cancelled by {author}{why}; {what}",
            details={"started": started, "author": author, "reason": reason, **about.details()},
        )
    )


def requeued_body(said: Requeued) -> bytes:
    """Return the body of a ``REQUEUED`` fact: the call itself came in a frame."""
    return encode(said.model_copy(update={"call": None}))


def conflict_body(key: str, first: CallId) -> bytes:
    """Return the body of the ``FAILED`` fact of a call whose key belongs to another one."""
    shown = format_call_id(first)
    return encode(
        ErrorInfo(
            code=CONFLICT_CODE,
            message=f"its idempotency key {key!r} belongs to call {shown}, which asks for something else: "
            "use a new key for another request",
            details={"first": shown, "key": key},
        )
    )


# -- reading ----------------------------------------------------------------------------------------------


def requeue_in(body: bytes) -> Requeued | None:
    """Read the body of an entry that lets a dead letter run again; ``None`` if it cannot be read."""
    try:
        return Requeued.model_validate(decode(body))
    except (CodecError, ValidationError):
        return None
