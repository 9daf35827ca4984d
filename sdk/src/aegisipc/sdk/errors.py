"""What a caller can be told, and what a handler can say.

::

    AegisError                      (see also aegisipc.eventstore.errors)
    ├── NoRoute                     no such service, method or resource; nothing was accepted
    ├── NotConnected                no server; the call was certainly not accepted
    ├── NoResponders                a server, but nobody keeps the log now; certainly not accepted
    ├── Overloaded                  a bound was reached; the call was certainly not accepted
    ├── PayloadTooLarge             the arguments are over the limit; nothing was sent
    ├── ResourceConflict            an instance names a resource that another group holds
    ├── ContractConflict            an instance offers other methods than its service has
    ├── ContractMismatch            a stub does not fit what the service offers; nothing was submitted
    ├── InstanceRefused             the router refused an instance for a reason unknown here
    ├── InstanceReplaced            another process took the instance's id
    ├── ServiceDefinitionError      a service or stub that cannot be used as written
    │   └── EmitRefused             a handler emitted what the shared state cannot take
    ├── EmitLimitExceeded           a handler emitted too much (a LimitExceeded)
    ├── InvalidResult               a result, given by an operator, does not fit the method
    ├── StateUnreadable             the shared state and what is written of it do not fit together
    └── CallError                   about one call; ``call_id`` says which
        ├── CallTimeout             no outcome in time; it may still come: attach(call_id)
        ├── CallExpired             its deadline passed before it started: it certainly never ran
        ├── CallCancelled           it was cancelled; ``started`` says whether it had begun
        ├── CallFinished            it cannot be cancelled any more: it has another outcome
        ├── CallInDoubt             it may have run, and nobody can know yet
        ├── CallUnknown             the log does not know this call
        └── CallFailed              it has an outcome, and that is an error
            ├── DeadLettered        it is given up, unless an operator lets it run again
            ├── IdempotencyConflict its key belongs to a call with other arguments
            ├── InvalidArguments    the arguments do not fit the method; ``errors`` names the fields
            └── RemoteError         the handler raised, or its result does not fit; ``code`` says what
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from aegisipc.eventstore.errors import (
    AckUnknown,
    AegisError,
    BadCredentials,
    InvalidName,
    LimitExceeded,
    LogFull,
    LogMissing,
    NoResponders,
    NotConnected,
    NotEncodable,
    Overloaded,
    PayloadTooLarge,
    ServerUnsuitable,
)

__all__ = [
    "AckUnknown",
    "AegisError",
    "BadCredentials",
    "CallCancelled",
    "CallError",
    "CallExpired",
    "CallFailed",
    "CallFinished",
    "CallInDoubt",
    "CallTimeout",
    "CallUnknown",
    "ContractConflict",
    "ContractMismatch",
    "DeadLettered",
    "EmitLimitExceeded",
    "EmitRefused",
    "IdempotencyConflict",
    "InstanceRefused",
    "InstanceReplaced",
    "InvalidArguments",
    "InvalidName",
    "InvalidResult",
    "LimitExceeded",
    "LogFull",
    "LogMissing",
    "NoResponders",
    "NoRoute",
    "NotConnected",
    "NotEncodable",
    "Overloaded",
    "PayloadTooLarge",
    "RemoteError",
    "ResourceConflict",
    "ServerUnsuitable",
    "ServiceDefinitionError",
    "ServiceError",
    "StateUnreadable",
]


class NoRoute(AegisError):
    """The call cannot be routed. Fields as known: ``service``, ``method``, ``resource``."""

    code = "no_route"


class ResourceConflict(AegisError):
    """A resource belongs to another group. Fields: ``resource``, ``group`` (its holder), ``requested_by``."""

    code = "resource_conflict"


class ContractConflict(AegisError):
    """The methods differ from those the service's live instances offer. Field: ``differences``."""

    code = "contract_conflict"


class InstanceRefused(AegisError):
    """The router refused an instance for a reason this version has no class for."""

    code = "instance_refused"


class InstanceReplaced(AegisError):
    """Another process registered under the same instance id. Field: ``instance``."""

    code = "instance_replaced"


class ServiceDefinitionError(AegisError):
    """A service, method or stub cannot be used as written; raised where it is defined."""

    code = "service_definition"


class EmitRefused(ServiceDefinitionError):
    """A handler emitted an event that the shared state cannot take: nothing applies its type, it is not
    valid, the instances share no state, or the handler has ended. Field, if known: ``event``.
    """

    code = "emit_refused"


class EmitLimitExceeded(LimitExceeded):
    """A handler emitted too many events, or too large ones. Fields: ``limit_events``, ``limit_bytes``."""

    code = "emit_limit_exceeded"


class InvalidResult(AegisError):
    """A result that somebody gave for a call does not fit its method. Fields: ``method``, ``signature``,
    ``errors``, a list of ``{"field", "message", "type"}``.
    """

    code = "invalid_result"


class StateUnreadable(AegisError):
    """An event or snapshot of the shared state cannot be taken in, or the state cannot be saved: the service
    and what is written do not fit together. Fields: ``service``; ``event``, the name of the event, if any.
    """

    code = "state_unreadable"


class CallError(AegisError):
    """Root of the errors about one call. Field: ``call_id``, in its text form."""

    code = "call_error"


class CallTimeout(CallError):
    """No outcome in time, or before the client was closed. The call may have run or may run yet;
    ``client.attach(call_id)`` waits for its outcome.
    """

    code = "call_timeout"


class CallExpired(CallError):
    """The deadline passed before the call could start: it certainly never ran, and never will.

    Field ``may_have_started``: true only for an idempotent or pure call whose former holder died, since
    starts of such calls are not in the log; a ``once`` call that expired certainly never started.
    """

    code = "call_expired"


class CallCancelled(CallError):
    """The call was cancelled on request. Fields: ``started`` (false: it certainly never ran; true: it had
    begun, and its handler ended by the cancellation), ``author`` and ``reason`` of the request.
    """

    code = "call_cancelled"


class CallFinished(CallError):
    """The call cannot be cancelled: it has another outcome. Field ``state``: which, as in
    ``aegis lifecycles`` (``succeeded``, ``failed``, ``expired``, ``duplicate``, ``dead_lettered``, …). For
    ``duplicate``, ``first_call_id`` is the call that runs.
    """

    code = "call_finished"


class CallInDoubt(CallError):
    """The call was started by an instance that is gone: nobody can know yet whether it ran.

    Field ``reason``: how that came, or ``""``.
    """

    code = "call_in_doubt"


class CallUnknown(CallError):
    """The log holds no call of that id: it was never accepted, or the log no longer reaches back that far."""

    code = "call_unknown"


class CallFailed(CallError):
    """The call has an outcome: an error."""

    code = "call_failed"


class DeadLettered(CallFailed):
    """The call is given up. That is not final: an operator may let it run again, and ``settled`` or
    ``attach`` then wait for what comes of it.

    Fields: ``attempts`` (how often it was begun, ``None`` if unknown); ``reason``: ``"attempts"`` (each one
    that its method's retries allow failed), ``"deadline"`` (there was no time for another), ``"poison"`` (it
    took down every instance that began it) or ``""``; ``error``, the last one, as ``{"code", "message",
    "details"}``, or ``None``; ``stack``, lines that say where it was raised; ``recorded``, all details in the
    log.
    """

    code = "dead_lettered"


class IdempotencyConflict(CallFailed):
    """The idempotency key belongs to a call of another method, resource or arguments. Fields: ``key``,
    ``first_call_id`` (the call that has it).
    """

    code = "idempotency_conflict"


class InvalidArguments(CallFailed):
    """The arguments do not fit the method. Field: ``errors``, a list of ``{"field", "message", "type"}``."""

    code = "invalid_arguments"


class RemoteError(CallFailed):
    """The handler raised. Fields: ``code``, ``call_id``, and whatever ``details`` it gave."""

    is_remote = True

    def __init__(
        self, message: str, *, code: str, call_id: str, details: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.details = dict(details or {})  # the handler's: any text may be a key, so never keyword arguments
        self.code = code  # type: ignore[misc]  # the class's code is the default; here it is the handler's own
        self.call_id = call_id

    def to_plain(self) -> dict[str, Any]:
        """Return the error as data, with the call's id beside what the handler gave."""
        return {**super().to_plain(), "call_id": self.call_id}

    def __reduce__(self) -> tuple[Any, ...]:
        """Keep everything when pickled."""
        return (_rebuild_remote, (self.message, self.code, self.call_id, self.details))


def _rebuild_remote(message: str, code: str, call_id: str, details: dict[str, Any]) -> RemoteError:
    return RemoteError(message, code=code, call_id=call_id, details=details)


class ServiceError(Exception):
    """Raise this in a handler to refuse a call for a reason of the business: the caller gets it as a
    ``RemoteError``.

    ``code`` is a stable name for programs, ``message`` is for people, keyword arguments become the details::

        raise ServiceError("insufficient_funds", "the order needs 1000.00", missing=Decimal("12.50"))

    Subclasses may fix ``code`` as a class attribute and take the message alone.
    """

    code: ClassVar[str] = "service_error"

    def __init__(self, code: str, message: str | None = None, **details: Any) -> None:
        if message is None:
            code, message = type(self).code, code
        super().__init__(message)
        self.code = code  # type: ignore[misc]  # an instance may carry a code of its own
        self.message = message
        self.details = details


class ContractMismatch(AegisError):
    """A method of a stub does not fit what the service offers, so nothing was submitted. Fields: ``service``,
    ``method``, and ``differences``, a list of sentences.
    """

    code = "contract_mismatch"
