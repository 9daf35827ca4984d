"""From whatever a handler raised to the bytes of a failed outcome: bounded, and without fail.

A call must get an outcome even if the error that it failed with cannot be shown: its text may raise, its
details may hold anything and be of any size. So every part is cut to a limit, and what cannot travel is
replaced.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, Final

from aegisipc.eventstore.bodies import MAX_AUTHOR, MAX_REASON, ErrorInfo
from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.errors import AegisError
from aegisipc.sdk.errors import EmitLimitExceeded, EmitRefused, ServiceError
from aegisipc.sdk.method import FieldError
from aegisipc.sdk.transacting import TransactionError

MAX_CODE: Final = 64
MAX_MESSAGE: Final = 4000
MAX_FIELD_ERRORS: Final = 20
MAX_ERROR_BYTES: Final = 64 * 1024
MAX_STACK_LINES: Final = 10
MAX_STACK_LINE: Final = 200
_MAX_PART: Final = 500
_CALLER: Final = "aegisipc/sdk/executor.py"

OWN_ERRORS: Final = (EmitRefused, EmitLimitExceeded, TransactionError)
"""Errors of AegisIPC that are about the call itself, not about something that its handler called."""


def failure(code: object, message: object, details: Mapping[str, Any] | None = None) -> bytes:
    """Return the body of a failed outcome. Details that cannot travel go as text; details too large are
    dropped.
    """
    info = ErrorInfo(code=shown(code, MAX_CODE) or "internal_error", message=shown(message, MAX_MESSAGE))
    for candidate in (_as_given, _as_text, _dropped):
        try:
            body = encode(info.model_copy(update={"details": candidate(details)}))
        except Exception:  # noqa: BLE001, S112 - details may hold anything; the next form is plainer
            continue
        if len(body) <= MAX_ERROR_BYTES:
            return body
    return encode(info)


def of_handler(target: str, error: BaseException) -> bytes:
    """Return the body for an error that a handler raised."""
    if isinstance(error, ServiceError):
        return failure(error.code, error.message, error.details)
    if isinstance(error, OWN_ERRORS):
        return failure(error.code, f"{target} failed: {shown(error.message, MAX_MESSAGE)}", error.details)
    if isinstance(error, AegisError):  # about something that the handler called: not about this call
        message = f"{target} failed on something it called: {shown(error.message, MAX_MESSAGE)}"
        return failure("downstream_error", message, error.to_plain())
    return failure("internal_error", f"{target} failed: {type(error).__name__}: {shown(error, MAX_MESSAGE)}")


def of_arguments(target: str, errors: Sequence[FieldError]) -> bytes:
    """Return the body for arguments that do not fit: the first faults, and how many more there are."""
    first = [FieldError(*(shown(part, _MAX_PART) for part in error)) for error in errors[:MAX_FIELD_ERRORS]]
    more = len(errors) - len(first)
    text = "; ".join(f"{error.field}: {error.message}" for error in first)
    message = f"cannot call {target}: {text}" + (f"; and {more} more" if more else "")
    return failure(
        "invalid_arguments", message, {"errors": [error._asdict() for error in first], "more": more}
    )


def shown(value: object, limit: int) -> str:
    """Return `value` as text that can travel, cut to `limit` characters, whatever its ``__str__`` does."""
    try:
        text = str(value)
    except Exception as error:  # noqa: BLE001 - somebody else's __str__
        text = f"<{type(value).__name__} that cannot be shown: {type(error).__name__}>"
    text = text.encode("utf-8", "replace").decode("utf-8")
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def of_result(target: str, signature: str, error: BaseException) -> bytes:
    """Return the body for a result that is not of the declared type, or cannot travel."""
    return failure(
        "invalid_result",
        f"{target} ran, but its result does not fit {signature!r}: {shown(error, 1000)}",
    )


def too_large(target: str, size_bytes: int, events: int, limit_bytes: int) -> bytes:
    """Return the body for a result that is over a limit, alone or together with its events."""
    what = f"its result and its {events} events of together" if events else "its result of"
    return failure(
        "result_too_large",
        f"{target} ran, but {what} {size_bytes} bytes is over the limit of {limit_bytes}",
        {"size_bytes": size_bytes, "limit_bytes": limit_bytes},
    )


def cancelled(target: str, author: str, reason: str, *, started: bool) -> bytes:
    """Return the body of the mark ``CANCELLED``."""
    why = f": {shown(reason, MAX_REASON)}" if reason else ""
    return failure(
        "cancelled",
        f"{target} was cancelled by {shown(author, MAX_AUTHOR)}{why}",
        {"started": started, "author": shown(author, MAX_AUTHOR), "reason": shown(reason, MAX_REASON)},
    )


def stack_of(error: BaseException) -> tuple[str, ...]:
    """Return where an error was raised, the innermost place last, and below it what it says: a few short
    lines, for people who look at it later. Our own frames, down to the call of the handler, are left out.
    """
    try:
        frames = list(traceback.extract_tb(error.__traceback__))
        ours = [at for at, frame in enumerate(frames) if frame.filename.endswith(_CALLER)]
        frames = frames[ours[-1] + 1 :] if ours and ours[-1] + 1 < len(frames) else frames
        lines = [
            f"{'/'.join(PurePath(frame.filename).parts[-2:])}:{frame.lineno} in {frame.name}: {frame.line}"
            for frame in frames[1 - MAX_STACK_LINES :]
        ]
    except Exception:  # noqa: BLE001 - a stack that cannot be read must not cost the outcome
        lines = []
    lines.append(f"{type(error).__name__}: {shown(error, MAX_STACK_LINE)}".replace("\n", " "))
    return tuple(shown(line, MAX_STACK_LINE) for line in lines)


def _as_given(details: Mapping[str, Any] | None) -> dict[str, Any]:
    return {shown(key, _MAX_PART): value for key, value in (details or {}).items()}


def _as_text(details: Mapping[str, Any] | None) -> dict[str, Any]:
    return {shown(key, _MAX_PART): _repr(value) for key, value in (details or {}).items()}


def _repr(value: object) -> str:
    try:
        return shown(repr(value), _MAX_PART)
    except Exception as error:  # noqa: BLE001 - somebody else's __repr__
        return f"<{type(value).__name__} that cannot be shown: {type(error).__name__}>"


def _dropped(details: Mapping[str, Any] | None) -> dict[str, Any]:
    return {"dropped": f"{len(details or {})} details, together over {MAX_ERROR_BYTES} bytes"}
