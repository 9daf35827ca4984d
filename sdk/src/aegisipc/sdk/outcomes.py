"""From recorded outcomes to values and exceptions."""

from __future__ import annotations

from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, Final, NoReturn

from pydantic import ValidationError

from aegisipc.eventstore.calls import Outcome
from aegisipc.eventstore.codec import BODY_LIMITS, TypeCodec, decode, type_codec
from aegisipc.eventstore.errors import (
    AckUnknown,
    AegisError,
    MalformedPayload,
    NotConnected,
    Overloaded,
)
from aegisipc.eventstore.events import ErrorInfo
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.ids import format_call_id
from aegisipc.sdk.core.caller import Fate, PendingCall
from aegisipc.sdk.core.pen import CLAIMED_TOO_LATE_CODE
from aegisipc.sdk.errors import (
    CallCancelled,
    CallExpired,
    CallInDoubt,
    CallTimeout,
    DeadLettered,
    IdempotencyConflict,
    InvalidArguments,
    RemoteError,
    ServiceDefinitionError,
)

_NO_TYPES: Final = frozenset({str, FunctionType, MethodType, BuiltinFunctionType})
"""What Pydantic takes for types at first, and then reads no result as."""


def codec_of(returns: Any) -> TypeCodec[Any] | None:
    """Return the codec of the type that a caller expects (``None``: of none).

    Raises:
        ServiceDefinitionError: results cannot be read as that type.
    """
    if returns is None:
        return None
    if type(returns) in _NO_TYPES:
        raise _unreadable(returns, "that is no type")
    try:
        return type_codec(returns)
    except Exception as error:
        raise _unreadable(returns, f"{type(error).__name__}: {error}") from error


def _unreadable(returns: Any, why: str) -> ServiceDefinitionError:
    return ServiceDefinitionError(
        f"cannot read results as returns={returns!r}: {why}; give a type that Pydantic knows"
    )


def value_of(outcome: Outcome, target: str, codec: TypeCodec[Any] | None) -> Any:
    """Return the result that an outcome records, as `codec`'s type if there is one.

    Raises:
        CallError: the outcome is not a success; see :func:`raise_for_outcome`. RemoteError: with code
        ``unexpected_result``: the result does not fit the type that the caller expects.
    """
    if outcome.mark is not Mark.SUCCEEDED:
        raise_for_outcome(outcome, target)
    body = outcome.body or b""
    if codec is None:
        return decode(body, limits=BODY_LIMITS)
    try:
        return codec.decode(body, limits=BODY_LIMITS)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"])) or "result"
        raise RemoteError(
            f"{target} succeeded, but its result is not what this caller expects ({field}: {first['msg']}); "
            "compare the type given as returns with the service's",
            code="unexpected_result",
            call_id=format_call_id(outcome.call_id),
        ) from error


def raise_for_outcome(outcome: Outcome, target: str) -> NoReturn:
    """Raise what an unsuccessful outcome means."""
    call_id = format_call_id(outcome.call_id)
    match outcome.mark:
        case Mark.EXPIRED if outcome.body:
            raise CallExpired(
                f"{target} had no outcome by its deadline and is not run again; the instance that held it "
                "is gone and may have "
                "begun it, which is harmless by its effect ('idempotent' or 'pure'); call again with a "
                "longer timeout",
                call_id=call_id,
                may_have_started=True,
            )
        case Mark.EXPIRED:
            raise _never_started(target, call_id)
        case Mark.IN_DOUBT:
            raise _doubt(outcome, target, call_id)
        case Mark.DEAD_LETTERED:
            raise dead_letter(outcome, target)
        case Mark.CANCELLED:
            raise _cancelled(outcome, target, call_id)
        case Mark.DUPLICATE:
            raise MalformedPayload(
                f"{target} repeats an earlier call, but which one cannot be read, or they lead in circles; "
                "attach by its idempotency key finds the one that has it",
                call_id=call_id,
            )
        case _:
            raise _failure(outcome, target, call_id)


def _never_started(target: str, call_id: str) -> CallExpired:
    return CallExpired(
        f"{target} did not start before its deadline and never will; call again with a longer timeout",
        call_id=call_id,
        may_have_started=False,
    )


def _doubt(outcome: Outcome, target: str, call_id: str) -> CallInDoubt:
    info = _info_of(outcome)
    reason = info.message if info is not None else ""
    return CallInDoubt(
        f"{target} was started by an instance that is gone, so it may have run"
        + (f" ({reason})" if reason else "")
        + "; it is not run again because its effect is 'once' ('idempotent' or 'pure' would have let another "
        "instance run it). Find out what happened before you call again",
        call_id=call_id,
        reason=reason,
    )


def _cancelled(outcome: Outcome, target: str, call_id: str) -> CallCancelled:
    info = _info_of(outcome)
    given = info.details if info is not None else {}
    started, author, reason = given.get("started"), given.get("author"), given.get("reason")
    author, reason = author if isinstance(author, str) else "", reason if isinstance(reason, str) else ""
    what = "it certainly did not run" if started is False else "it had started, and may have done part of it"
    return CallCancelled(
        f"{target} was cancelled by {author or 'somebody'}{f' ({reason})' if reason else ''}; {what}",
        call_id=call_id,
        started=started is not False,
        author=author,
        reason=reason,
    )


_REASONS: Final = {
    "attempts": "was begun {times}, and failed each time",
    "deadline": "was begun {times}, and failed; its deadline left no time to try again",
    "poison": "was begun {times} and has no outcome: the instances that ran it are gone",
}


def dead_letter(outcome: Outcome, target: str) -> DeadLettered:
    """Return the error for a call that is given up."""
    info = _info_of(outcome)
    given = info.details if info is not None else {}
    attempts = given.get("attempts") if type(given.get("attempts")) is int else None
    reason = given.get("reason", "poison" if info is not None else "")  # once there was no other reason
    reason = reason if reason in tuple(_REASONS) else ""
    last, stack = _error_in(given.get("error")), given.get("stack")
    times = "several times" if attempts is None else "once" if attempts == 1 else f"{attempts} times"
    story = _REASONS.get(reason or "", "was begun {times} and has no outcome").format(times=times)
    why = f"{last['code']}: {last['message']}" if last is not None else info.message if info else ""
    return DeadLettered(
        f"{target} {story}{f' ({why})' if why else ''}; it is a dead letter now, and runs again only if an "
        "operator requeues it (aegis dlq). Find out in the logs what it does before you call again",
        call_id=format_call_id(outcome.call_id),
        attempts=attempts,
        reason=reason,
        error=last,
        stack=[line for line in stack if isinstance(line, str)] if isinstance(stack, list) else [],
        recorded=given,
    )


def _error_in(plain: Any) -> dict[str, Any] | None:
    try:
        return ErrorInfo.model_validate(plain).model_dump()
    except ValidationError:
        return None


def _info_of(outcome: Outcome) -> ErrorInfo | None:
    try:
        return ErrorInfo.model_validate(decode(outcome.body or b""))
    except (ValidationError, AegisError):
        return None


def _failure(outcome: Outcome, target: str, call_id: str) -> AegisError:
    try:
        info = ErrorInfo.model_validate(decode(outcome.body or b""))
    except (ValidationError, AegisError) as error:
        return MalformedPayload(f"{target} failed, but its error cannot be read: {error}", call_id=call_id)
    if info.code == CLAIMED_TOO_LATE_CODE:
        return _never_started(target, call_id)
    errors = info.details.get("errors") if info.code == InvalidArguments.code else None
    if isinstance(errors, list):
        return InvalidArguments(info.message, call_id=call_id, errors=errors)
    if info.code == IdempotencyConflict.code and isinstance(first := info.details.get("first"), str):
        return _conflict(target, call_id, first, info.details.get("key"))
    if info.code == Overloaded.code and type(pause_ms := info.details.get("retry_after_ms")) is int:
        return Overloaded(
            f"{target} was not begun: its group has too many calls waiting; try again in "
            f"{pause_ms / 1000:g} s",
            call_id=call_id,
            retry_after_s=pause_ms / 1000,
        )
    return RemoteError(info.message, code=info.code, call_id=call_id, details=info.details)


def _conflict(target: str, call_id: str, first: str, key: Any) -> IdempotencyConflict:
    return IdempotencyConflict(
        f"{target} did not run: its idempotency key {key!r} belongs to call {first}, whose method, resource "
        f"or arguments are others; use a new key for a new call, or attach({first!r}) for the outcome of "
        "that one",
        call_id=call_id,
        key=key,
        first_call_id=first,
    )


def _error_of_closing(call: PendingCall, target: str, call_id: str) -> AegisError:
    if call.seq:
        return CallTimeout(
            f"{target} is durable, but this client was closed before its outcome came: it may run or have "
            f"run; attach({call_id!r}) from another client waits for its outcome",
            call_id=call_id,
        )
    if call.sent:
        return CallTimeout(
            f"{target} was sent, but this client was closed before the server acknowledged it: it may be "
            f"accepted all the same; attach({call_id!r}) from another client tells",
            call_id=call_id,
        )
    return NotConnected(
        f"{target} was not accepted: this client was closed before it was sent; it certainly did not run",
        call_id=call_id,
    )


def error_of_fate(call: PendingCall) -> AegisError:
    """Return the error for a call that ended here without an outcome."""
    call_id, target, seconds = format_call_id(call.call_id), call.target, call.timeout_ms / 1000
    if call.fate in (Fate.REFUSED, Fate.LOST):
        told = call.error
        if isinstance(told, AegisError) and not isinstance(told, AckUnknown):
            return told
    match call.fate:
        case Fate.DROPPED:
            error: AegisError = _dropped(target, call_id)
        case Fate.CLOSED:
            error = _error_of_closing(call, target, call_id)
        case Fate.UNKNOWN:
            error = CallTimeout(
                f"{target} was sent, but the server did not acknowledge it within {seconds:g} s: it may be "
                f"accepted all the same; attach({call_id!r}) tells",
                call_id=call_id,
            )
        case Fate.NOT_SENT | Fate.REFUSED:
            error = NotConnected(
                f"{target} was not accepted: it could not be sent within {seconds:g} s, for no server could "
                "be reached, or too many calls were ahead of it; it certainly did not run",
                call_id=call_id,
            )
        case _ if call.first is not None:
            error = _first_is_open(call, target, format_call_id(call.first), seconds)
        case _:
            error = CallTimeout(
                f"{target} is durable, but has no outcome after {seconds:g} s: it may run or have run; "
                f"attach({call_id!r}) waits for its outcome",
                call_id=call_id,
            )
    return error


def _dropped(target: str, call_id: str) -> CallCancelled:
    return CallCancelled(
        f"{target} was cancelled before it was sent; it certainly did not run",
        call_id=call_id,
        started=False,
        author="",
        reason="",
    )


def _first_is_open(call: PendingCall, target: str, first: str, seconds: float) -> CallTimeout:
    return CallTimeout(
        f"{target} repeats call {first}, which has its idempotency key and no outcome after {seconds:g} s: "
        f"it may run or have run; attach({first!r}) waits for its outcome",
        call_id=first,
        duplicate_call_id=format_call_id(call.call_id),
    )
