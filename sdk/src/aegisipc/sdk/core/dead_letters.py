"""Dead letters: calls that are given up, with all that an operator needs to judge what to do about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

from pydantic import ValidationError

from aegisipc.eventstore.bodies import ErrorInfo
from aegisipc.eventstore.codec import decode, encode
from aegisipc.eventstore.errors import CodecError
from aegisipc.eventstore.open_calls import OpenCall

DEAD_LETTERED_CODE: Final = "dead_lettered"

type Reason = Literal["attempts", "deadline", "poison"]

_WHY: Final[dict[Reason, str]] = {
    "attempts": "its last attempt failed, number {attempts}",
    "deadline": "its deadline passed before another attempt could begin, after {attempts} that failed",
    "poison": "every instance that ran it alone went down, {attempts} times: find out what it does to its "
    "service before it is called again",
}


def dead_letter_body(
    call: OpenCall,
    reason: Reason,
    attempts: int,
    *,
    error: ErrorInfo | None = None,
    stack: Sequence[str] = (),
    **more: Any,
) -> bytes:
    """Return the body of a ``DEAD_LETTERED`` fact. `error` is what the last attempt failed with, if that is
    known, and `stack` where that was raised; `more` goes into the details.
    """
    said = f": {error.message}" if error is not None else ""
    return encode(
        ErrorInfo(
            code=DEAD_LETTERED_CODE,
            message=f"it is given up: {_WHY[reason].format(attempts=attempts)}{said}",
            details={
                "attempts": attempts,
                "reason": reason,
                "method": call.method,
                "client": call.client,
                "resource": call.resource,
                "error": None if error is None else error.model_dump(),
                "stack": list(stack),
                **more,
            },
        )
    )


def error_in(body: bytes | None) -> ErrorInfo:
    """Return the error that is the body of a ``FAILED`` fact."""
    try:
        return ErrorInfo.model_validate(decode(body or b""))
    except (CodecError, ValidationError):
        return ErrorInfo(code="unreadable_error", message="it failed, with an error that cannot be read")


def last_error_in(body: bytes | None) -> ErrorInfo:
    """Return what the last attempt of a dead letter failed with; if that is not known, why it is given up."""
    letter = error_in(body)
    try:
        return ErrorInfo.model_validate(letter.details.get("error"))
    except ValidationError:
        return letter
