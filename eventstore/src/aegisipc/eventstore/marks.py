"""What marks mean for the lifecycle of a call."""

from __future__ import annotations

from typing import Final

from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.lifecycles import CALL, CallEvent, CallState

EVENT_OF: Final = {
    Mark.CLAIMED: CallEvent.CLAIMED,
    Mark.SUCCEEDED: CallEvent.SUCCEEDED,
    Mark.FAILED: CallEvent.FAILED,
    Mark.EXPIRED: CallEvent.EXPIRED,
    Mark.IN_DOUBT: CallEvent.DOUBTED,
    Mark.NOT_EXECUTED: CallEvent.RESOLVED_NOT_EXECUTED,
    Mark.EXECUTED: CallEvent.RESOLVED_EXECUTED,
    Mark.DEAD_LETTERED: CallEvent.DEAD_LETTERED,
    Mark.DUPLICATE: CallEvent.DUPLICATED,
    Mark.RETRY_SCHEDULED: CallEvent.RETRY_SCHEDULED,
    Mark.REQUEUED: CallEvent.REQUEUED,
    Mark.DISCARDED: CallEvent.DISCARDED,
    Mark.CANCELLED: CallEvent.CANCELLED,
}
"""What the marks that move a call mean for it. The others say something beside its lifecycle."""

_NEXT: Final = CALL.table

_STATE_OF: Final = {
    None: CallState.ACCEPTED,
    Mark.CLAIMED: CallState.STARTED,
    Mark.SUCCEEDED: CallState.SUCCEEDED,
    Mark.FAILED: CallState.FAILED,
    Mark.EXPIRED: CallState.EXPIRED,
    Mark.IN_DOUBT: CallState.IN_DOUBT,
    Mark.NOT_EXECUTED: CallState.ACCEPTED,
    Mark.EXECUTED: CallState.IN_DOUBT,
    Mark.DEAD_LETTERED: CallState.DEAD_LETTERED,
    Mark.DUPLICATE: CallState.DUPLICATE,
    Mark.RETRY_SCHEDULED: CallState.RETRY_WAIT,
    Mark.REQUEUED: CallState.ACCEPTED,
    Mark.DISCARDED: CallState.DISCARDED,
    Mark.CANCELLED: CallState.CANCELLED,
}


def state_after(mark: Mark | None) -> CallState:
    """Return the state of a call of which `mark` is the latest one that counted (``None``: none yet)."""
    return _STATE_OF[mark]


def counts(before: Mark | None, mark: Mark) -> bool:
    """Tell whether `mark` changes a call of which `before` is the latest mark that counted (``None``: none
    yet).

    This is the rule of :class:`~aegisipc.eventstore.calls.GroupCalls` for readers that look at single calls:
    a claim after a claim does not count, nor a word that the call expired after it was claimed, nor anything
    after a final outcome, nor what says something beside its lifecycle.
    """
    event = EVENT_OF.get(mark)
    return event is not None and (_STATE_OF[before], event) in _NEXT
