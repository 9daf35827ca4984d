"""What letting a dead letter run again takes, in a group as in a pool: the call as its history tells it."""

from __future__ import annotations

from aegisipc.eventstore.bodies import Requeued, RequeuedCall
from aegisipc.eventstore.frames import CallOptions, Mark
from aegisipc.eventstore.histories import CallHistory
from aegisipc.eventstore.open_calls import OpenCall
from aegisipc.eventstore.seeking import find_call
from aegisipc.sdk.hosts.base import Site
from aegisipc.sdk.hosts.telling import Requeue, TooLarge


def letter_of(history: CallHistory) -> OpenCall:
    """Return the call."""
    call = history.call
    return OpenCall(
        call.call_id, call.client, call.method, call.resource, call.seq, call.deadline_ns, call.body
    )


async def timeout_ms_of(site: Site, command: Requeue, history: CallHistory) -> int:
    """Return how long it may wait for its start: what the operator says, else as long as at first.

    Raises:
        AegisError: the log cannot be read now.
    """
    if command.timeout_s is not None:
        return max(1, int(command.timeout_s * 1000))
    first = history.call
    if any(step.mark is Mark.REQUEUED for step in history.steps):  # its deadline is another one by now
        first = await find_call(site.log, site.subjects, first.call_id)
    return max(1, (first.deadline_ns - first.at_ns) // 1_000_000)


def requeued_of(command: Requeue, history: CallHistory, dead_seq: int, timeout_ms: int) -> Requeued:
    """Return what is written of it, with the whole call."""
    call = history.call
    options = call.options or CallOptions()
    was = RequeuedCall(
        client=call.client,
        method=call.method,
        resource=call.resource,
        key=options.key,
        priority=options.priority,
        body=call.body,
    )
    return Requeued(
        author=command.author, reason=command.reason, dead_seq=dead_seq, timeout_ms=timeout_ms, call=was
    )


def check_size(size_bytes: int, limit_bytes: int) -> None:
    """Check that it can be written.

    Raises:
        TooLarge: it cannot.
    """
    if size_bytes > limit_bytes:
        raise TooLarge(
            f"cannot requeue a call that takes {size_bytes} bytes in the log: a record takes {limit_bytes}; "
            "call again with smaller arguments",
            size_bytes=size_bytes,
            limit_bytes=limit_bytes,
        )
