"""Calls without a final outcome, as a fold knows them."""

from __future__ import annotations

from typing import Any, NamedTuple

from pydantic import ValidationError

from aegisipc.eventstore.bodies import Requeued, RetryScheduled
from aegisipc.eventstore.codec import decode
from aegisipc.eventstore.errors import CodecError
from aegisipc.eventstore.frames import NORMAL, Mark
from aegisipc.eventstore.ids import CallId, format_call_id
from aegisipc.eventstore.lifecycles import CallState
from aegisipc.eventstore.log import Record


class Evidence(NamedTuple):
    """What an instance that lost the pen says of a call that it had claimed: it ran, and with this outcome.
    ``emitted`` are the events of the shared state that belong to the outcome.
    """

    mark: Mark
    body: bytes | None
    writer: str
    emitted: tuple[bytes, ...]


class OpenCall:
    """A call without a final outcome. ``accepted_ns``, ``deadline_ns`` and ``since_ns`` (its latest change)
    are on the server's clock; ``body`` is ``b""`` in header-only folds. ``attempts`` counts how often it was
    begun again alone, because it may have taken an instance down; ``tries`` how many attempts failed by its
    retry policy, and ``retry_at_ns`` is when the next one is due. ``cancel`` says who wants it cancelled, and
    why. ``is_requeued``: it was a dead letter before, so it may have had effects already. ``said_seq`` is
    where its latest claim or doubt stands; ``dead_seq``, in a pool, the dead letter from which it came back
    (0: none).
    """

    __slots__ = (
        "accepted_ns",
        "attempts",
        "body",
        "call_id",
        "cancel",
        "claimed_by",
        "claimed_epoch",
        "client",
        "dead_seq",
        "deadline_ns",
        "evidence",
        "is_requeued",
        "key",
        "method",
        "priority",
        "resource",
        "retry_at_ns",
        "said_seq",
        "seq",
        "since_ns",
        "state",
        "tries",
    )

    def __init__(  # noqa: PLR0917 - made for every call: keywords would cost
        self,
        call_id: CallId,
        client: str,
        method: str,
        resource: str | None,
        seq: int,
        deadline_ns: int,
        body: bytes,
        since_ns: int = 0,
    ) -> None:
        self.call_id = call_id
        self.client = client
        self.method = method
        self.resource = resource
        self.seq = seq
        self.deadline_ns = deadline_ns
        self.body = body
        self.state = CallState.ACCEPTED
        self.claimed_by: str | None = None
        self.claimed_epoch = 0
        self.accepted_ns = self.since_ns = since_ns
        self.attempts = 0
        self.evidence: Evidence | None = None
        self.key: str | None = None
        self.priority = NORMAL
        self.tries = 0
        self.retry_at_ns = 0
        self.cancel: tuple[str, str] | None = None
        self.is_requeued = False
        self.said_seq = 0
        self.dead_seq = 0

    def __repr__(self) -> str:
        return f"OpenCall({format_call_id(self.call_id)} {self.method} {self.state} from {self.client})"


def open_plain(call: OpenCall) -> dict[str, Any]:
    """Return a call as plain data."""
    return {
        "call_id": format_call_id(call.call_id),
        "client": call.client,
        "method": call.method,
        "resource": call.resource,
        "seq": call.seq,
        "deadline_ns": call.deadline_ns,
        "state": str(call.state),
        "claimed_by": call.claimed_by,
        "claimed_epoch": call.claimed_epoch,
        "since_ns": call.since_ns,
        "attempts": call.attempts,
        "evidence_of": call.evidence.writer if call.evidence is not None else None,
        "key": call.key,
        "priority": call.priority,
        "tries": call.tries,
        "retry_at_ns": call.retry_at_ns,
        "cancel": list(call.cancel) if call.cancel is not None else None,
        "is_requeued": call.is_requeued,
    }


def next_attempt(body: bytes | None, call: OpenCall) -> tuple[int, int]:
    """Read the body of a ``RETRY_SCHEDULED`` fact: how many attempts failed, and when the next one is due."""
    try:
        said = RetryScheduled.model_validate(decode(body or b""))
    except (CodecError, ValidationError):
        return call.tries + 1, call.since_ns  # it cannot be read: due at once
    return said.attempt, said.due_ns


def call_requeued(body: bytes | None) -> Requeued | None:
    """Read the body of a ``REQUEUED`` fact of an owned group; ``None`` if it does not hold the call, so that
    nobody could run it.
    """
    try:
        said = Requeued.model_validate(decode(body or b""))
    except (CodecError, ValidationError):
        return None
    return None if said.call is None else said


def requeued(call_id: CallId, body: bytes | None, record: Record, *, keep_body: bool) -> OpenCall | None:
    """Return the call in the body of a ``REQUEUED`` fact, as the dead letter that it is; ``None`` if it holds
    none.
    """
    said = call_requeued(body)
    if said is None or said.call is None:
        return None
    was = said.call
    deadline_ns = record.timestamp_ns + said.timeout_ms * 1_000_000
    call = OpenCall(
        call_id,
        was.client,
        was.method,
        was.resource,
        record.seq,
        deadline_ns,
        was.body if keep_body else b"",
        record.timestamp_ns,
    )
    call.key, call.priority, call.is_requeued = was.key, was.priority, True
    call.state = CallState.DEAD_LETTERED
    return call
