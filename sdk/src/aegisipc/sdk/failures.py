"""From whatever a handler raised to the bytes of a failed outcome: bounded, and without fail.

A call must get an outcome even if the error that it failed with cannot be shown: its text may raise, its
details may hold anything and be of any size. So every part is cut to a limit, and what cannot travel is
replaced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.events import ErrorInfo
from aegisipc.sdk.errors import EmitLimitExceeded, EmitRefused, ServiceError
from aegisipc.sdk.method import FieldError

MAX_CODE: Final = 64
MAX_MESSAGE: Final = 4000
MAX_FIELD_ERRORS: Final = 20
MAX_ERROR_BYTES: Final = 64 * 1024
_MAX_PART: Final = 500

OWN_ERRORS: Final = (EmitRefused, EmitLimitExceeded)
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
