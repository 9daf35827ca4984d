"""Transactional effects, as far as they need no database: what is stored of a call, and what can go wrong.

The outcome of a call is stored in the service's own database, in the transaction that makes its effects: so
both are there, or neither. Whoever runs the call again finds the outcome, and runs nothing. The part that
talks to databases is :mod:`aegisipc.sdk.transactions`; this one is imported always, and needs no SQLAlchemy.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple, Protocol

from aegisipc.eventstore.codec import Limits, decode, encode
from aegisipc.eventstore.errors import AegisError, CodecError
from aegisipc.eventstore.frames import Mark

_VERSION: Final = 1
_LIMITS: Final = Limits(max_bytes=1 << 30)
"""What is read is what the service itself stored."""


class TransactionError(AegisError):
    """Root of the errors of ``ctx.transaction``."""

    code = "transaction_error"


class TransactionUnsupported(TransactionError):
    """The database, the driver, or what was given for it cannot be used; nothing ran."""

    code = "transaction_unsupported"


class TransactionMisused(TransactionError):
    """The handler did with the transaction what only AegisIPC may do, or used it at the wrong time. Nothing
    is committed.
    """

    code = "transaction_misused"


class TransactionUnknown(TransactionError):
    """The commit failed, and the database did not answer any more: nobody knows whether it took place. The
    next run of the same call will.
    """

    code = "transaction_unknown"


class OutcomeUnreadable(TransactionError):
    """The call took effect, and its outcome is stored in a form that this version cannot read."""

    code = "outcome_unreadable"


class Outcome(NamedTuple):
    """How a call ended: as it is stored, and as the pen will say it."""

    mark: Mark
    body: bytes | None
    emitted: tuple[bytes, ...]


class OutcomeFound(BaseException):
    """Unwinds a handler whose call took effect before. No error: handlers are not to catch it."""


class Transaction(Protocol):
    """A transaction in the handler's own thread: plain functions."""

    def conclude(self, outcome: Outcome) -> Outcome:
        """Store the outcome and commit; return the outcome that counts.

        Raises:
            TransactionMisused, TransactionUnknown, or the database's own error: then it is not committed.
        """
        ...

    def discard(self) -> None:
        """Roll back, if it has not ended yet. Never raises."""
        ...


class AsyncTransaction(Protocol):
    """A transaction of an ``async`` handler; see :class:`Transaction`."""

    async def conclude(self, outcome: Outcome) -> Outcome:
        """Store the outcome and commit."""
        ...

    async def discard(self) -> None:
        """Roll back."""
        ...


def encode_outcome(outcome: Outcome) -> bytes:
    """Return the outcome as it is stored: ``[version, mark, body, [event, …]]``."""
    return encode([_VERSION, int(outcome.mark), outcome.body, list(outcome.emitted)])


def decode_outcome(blob: bytes, call_id: str) -> Outcome:
    """Read a stored outcome. What a later version adds at the end is passed over.

    Raises:
        OutcomeUnreadable: it is of another version, or damaged.
    """
    try:
        version, *rest = decode(blob, limits=_LIMITS)
        if version != _VERSION:
            why = f"its version is {version!r}, and this is for version {_VERSION}; run a later version"
            raise _unreadable(call_id, why)
        mark, body, emitted = rest[:3]
        return _checked(mark, body, emitted)
    except (CodecError, TypeError, ValueError) as error:
        raise _unreadable(call_id, f"it is damaged: {error}") from error


def _checked(mark: Any, body: Any, emitted: Any) -> Outcome:
    if not isinstance(body, bytes | None) or not isinstance(emitted, list):
        raise TypeError("not [version, mark, body, events]")
    if not all(isinstance(event, bytes) for event in emitted):
        raise TypeError("an event is not binary")
    return Outcome(Mark(mark), body, tuple(emitted))


def _unreadable(call_id: str, why: str) -> OutcomeUnreadable:
    return OutcomeUnreadable(
        f"cannot read the outcome of call {call_id} in aegis_effects: {why}. The call took effect before, "
        "and does not run again",
        call_id=call_id,
    )
