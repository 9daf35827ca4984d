"""What operators tell the holder of a pen (in a pool: the eldest worker), and how it answers: JSON."""

from __future__ import annotations

import json
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.errors import UnknownCall as UnknownCall  # noqa: PLC0414 - one of the answers
from aegisipc.eventstore.events import MAX_AUTHOR, MAX_REASON
from aegisipc.eventstore.frames import MAX_TIMEOUT_MS
from aegisipc.eventstore.ids import CallId, parse_call_id
from aegisipc.eventstore.names import check_key


class Resolve(BaseModel):
    """End a doubt: the call was executed, with this ``result``, or it was not."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: Literal["resolve"]
    call_id: str
    executed: bool
    result: Any = None
    author: str = Field(min_length=1, max_length=MAX_AUTHOR)
    reason: str = Field(default="", max_length=MAX_REASON)

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        parse_call_id(self.call_id)
        if not self.executed and self.result is not None:
            raise ValueError("a call that was not executed has no result")
        return self

    @property
    def raw_call_id(self) -> CallId:
        """The call's id in bytes."""
        return parse_call_id(self.call_id)


class Check(BaseModel):
    """Put a digest of the shared state into the log, for every member to compare with its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: Literal["check"]


class _AboutDeadLetter(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    call_id: str
    author: str = Field(min_length=1, max_length=MAX_AUTHOR)
    reason: str = Field(default="", max_length=MAX_REASON)

    @model_validator(mode="after")
    def _names_a_call(self) -> Self:
        parse_call_id(self.call_id)
        return self

    @property
    def raw_call_id(self) -> CallId:
        """The call's id in bytes."""
        return parse_call_id(self.call_id)


class Requeue(_AboutDeadLetter):
    """Let a dead letter run again, within ``timeout_s`` (``None``: as long as it had at first)."""

    command: Literal["requeue"]
    timeout_s: float | None = Field(default=None, gt=0, le=MAX_TIMEOUT_MS / 1000)


class Discard(_AboutDeadLetter):
    """Never run a dead letter again."""

    command: Literal["discard"]


class FindKey(BaseModel):
    """Which call has this idempotency key? The answer has its ``call_id``, and its ``state`` if that is known
    to the one who answers; the ``call_id`` is null if no call has it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: Literal["find_key"]
    key: str

    @model_validator(mode="after")
    def _is_a_key(self) -> Self:
        check_key(self.key)
        return self


type Tell = Resolve | Check | Requeue | Discard | FindKey

_TELL: TypeAdapter[Tell] = TypeAdapter(Tell)


class TellError(AegisError):
    """An operator's command that cannot be obeyed; nothing was changed."""

    code: ClassVar[str] = "invalid_request"


class NotInDoubt(TellError):
    """The call is in another state. Fields: ``call_id``, ``state``."""

    code = "not_in_doubt"


class NotDeadLettered(TellError):
    """The call is no dead letter. Fields: ``call_id``, ``state``."""

    code = "not_dead_lettered"


class TooLarge(TellError):
    """The call is too large to be requeued. Fields: ``size_bytes``, ``limit_bytes``."""

    code = "payload_too_large"


class NoSharedState(TellError):
    """The service keeps no state that its instances share."""

    code = "no_shared_state"


class Busy(TellError):
    """Too many commands wait for the log."""

    code = "overloaded"


class PenLost(TellError):
    """The pen went elsewhere before the answer was known."""

    code = "pen_lost"


def decode_tell(payload: bytes) -> Tell:
    """Read a command.

    Raises:
        TellError: it is none.
    """
    try:
        return _TELL.validate_json(payload)
    except (ValidationError, AegisError) as error:
        raise TellError(f"cannot obey: it is no command that is known here: {error}") from error


def asks_for_key(payload: bytes) -> bool:
    """Tell whether it is a question, which clients may ask, and no command."""
    try:
        return isinstance(decode_tell(payload), FindKey)
    except TellError:
        return False


def answer_ok(**fields: Any) -> bytes:
    """Return the answer to a command that was obeyed."""
    return json.dumps({"ok": True, **fields}).encode()


def answer_error(error: AegisError) -> bytes:
    """Return the answer to one that was not."""
    return json.dumps({"error": error.to_plain()}, default=str).encode()
