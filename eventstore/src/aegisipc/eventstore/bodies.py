"""What the bodies of marks hold: errors, and who decided what about a call."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_REASON = 500
"""Characters of a reason, as an operator or a health check gives it."""
MAX_AUTHOR = 128


class ErrorInfo(BaseModel):
    """The uniform form of an error on the wire: a stable code, a message for people, details for programs."""

    model_config = ConfigDict(frozen=True)

    code: str
    message: str
    details: dict[str, Any] = Field(default_factory=dict)


class Resolution(BaseModel):
    """How a doubt ended, and who says so; the body of the marks ``EXECUTED`` and ``NOT_EXECUTED``."""

    model_config = ConfigDict(frozen=True)

    source: Literal["operator", "reconcile", "evidence"]
    author: str = Field(max_length=MAX_AUTHOR)
    reason: str = Field(default="", max_length=MAX_REASON)
    doubt_seq: int = 0
    """Where the doubt stands in the log, in a pool: a resolution that comes late, after another doubt, does
    not count there. (In an owned group only the holder writes.)
    """


class RetryScheduled(BaseModel):
    """Attempt number ``attempt`` failed with ``error``; the next one is due at ``due_ns``, in nanoseconds of
    the server's Unix time. The body of the mark ``RETRY_SCHEDULED``.
    """

    model_config = ConfigDict(frozen=True)

    attempt: int
    due_ns: int
    error: ErrorInfo
    claimed_seq: int = 0
    """Where the claim stands in the log under which it ran, in a pool, if it was claimed."""


class RequeuedCall(BaseModel):
    """A call as it was accepted, to be opened again: ``body`` holds its encoded arguments."""

    model_config = ConfigDict(frozen=True)

    client: str
    method: str
    resource: str | None
    key: str | None
    priority: int
    body: bytes


class Requeued(BaseModel):
    """A dead letter, which stands at ``dead_seq`` in the log, is to run again within ``timeout_ms``; who
    wants that, and why. The body of the mark ``REQUEUED``. In a pool its call comes in a frame of its own.
    """

    model_config = ConfigDict(frozen=True)

    author: str = Field(max_length=MAX_AUTHOR)
    reason: str = Field(default="", max_length=MAX_REASON)
    dead_seq: int
    timeout_ms: int
    call: RequeuedCall | None = None
