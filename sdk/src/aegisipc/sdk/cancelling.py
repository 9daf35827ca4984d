"""Cancelling calls: a durable request in the log, of which the holder of the call makes what can be made."""

from __future__ import annotations

import asyncio
import secrets
from typing import Final, NamedTuple

from aegisipc.eventstore.calls import Outcome, state_after
from aegisipc.eventstore.errors import (
    AckUnknown,
    AegisError,
    LogFailed,
    NoResponders,
    NotConnected,
    Overloaded,
)
from aegisipc.eventstore.events import MAX_REASON, CancelRequested, encode_event
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.ids import CallId, format_call_id
from aegisipc.eventstore.jetstream_api import CheckInFlight
from aegisipc.eventstore.lifecycles import CallState
from aegisipc.eventstore.log import Log
from aegisipc.eventstore.subjects import Subjects
from aegisipc.sdk.core.links import first_in
from aegisipc.sdk.errors import CallFinished, CallTimeout, ServiceDefinitionError

CANCEL_TIMEOUT_S: Final = 30.0
"""How long the outcome of a cancellation is waited for, unless told otherwise."""

_ATTEMPT_S: Final = 2.0
_FIRST_PAUSE_S: Final = 0.02
_LONGEST_PAUSE_S: Final = 0.5
_PASSING: Final = (AckUnknown, CheckInFlight, LogFailed, NoResponders, NotConnected, Overloaded)
_UNCLEAR: Final = (AckUnknown, LogFailed)


class CallAddress(NamedTuple):
    """Where a call is: enough to say something about it in the log."""

    call_id: CallId
    service: str
    group: str
    target: str


def check_reason(reason: object) -> str:
    """Return `reason` if it can be one.

    Raises:
        ServiceDefinitionError: it is no text, or too long.
    """
    if isinstance(reason, str) and len(reason) <= MAX_REASON:
        return reason
    raise ServiceDefinitionError(
        f"cannot cancel for the reason {reason!r:.60}: give text of at most {MAX_REASON} characters"
    )


async def request_cancel(
    log: Log, subjects: Subjects, call: CallAddress, client: str, reason: str, timeout_s: float
) -> None:
    """Write down that `client` wants the call cancelled.

    Raises:
        CallTimeout: it is not known within `timeout_s` whether that is durable.
        NotConnected, NoResponders, …: it is certainly not.
    """
    event = CancelRequested(call_ids=(format_call_id(call.call_id),), author=client, reason=reason)
    record_id, payload = f"cancel.{secrets.token_hex(12)}", encode_event(event)
    loop = asyncio.get_running_loop()
    give_up_at, pause_s, maybe_stored = loop.time() + timeout_s, _FIRST_PAUSE_S, False
    while True:
        try:
            await log.append(
                subjects.cancel(call.service, call.group, client),
                payload,
                record_id=record_id,
                timeout_s=min(_ATTEMPT_S, max(0.05, give_up_at - loop.time())),
            )
        except _PASSING as error:
            maybe_stored = maybe_stored or isinstance(error, _UNCLEAR)
            if loop.time() + pause_s >= give_up_at:
                if maybe_stored:
                    raise _unacknowledged(call, timeout_s) from error
                raise
        else:
            return
        await asyncio.sleep(pause_s)
        pause_s = min(_LONGEST_PAUSE_S, pause_s * 2)


def judge(call: CallAddress, outcome: Outcome) -> None:
    """Return if the call was cancelled.

    Raises:
        CallFinished: it has another outcome.
    """
    is_own = outcome.call_id == call.call_id
    if is_own and outcome.mark is Mark.CANCELLED:
        return
    shown = format_call_id(call.call_id)
    first = outcome.call_id if not is_own else first_in(call.call_id, outcome.body)
    if not is_own or outcome.mark is Mark.DUPLICATE:
        raise repeats(call, first)
    state = state_after(outcome.mark)
    hint = ""
    if state is CallState.DEAD_LETTERED:
        hint = "; it does not run again unless an operator requeues it (aegis dlq)"
    raise CallFinished(
        f"cannot cancel {call.target}: call {shown} has {_in_words(state)} already{hint}",
        call_id=shown,
        state=str(state),
    )


def repeats(call: CallAddress, first: CallId | None) -> CallFinished:
    """Return the error for a call that repeats another, which is the one that runs."""
    shown = format_call_id(call.call_id)
    first_id = format_call_id(first) if first is not None else ""
    return CallFinished(
        f"cannot cancel {call.target}: call {shown} repeats call {first_id}, which has its idempotency key "
        f"and may have been made by somebody else; attach({first_id!r}).cancel() cancels that one",
        call_id=shown,
        state=str(CallState.DUPLICATE),
        first_call_id=first_id,
    )


def no_outcome(call: CallAddress, timeout_s: float) -> CallTimeout:
    """Return the error for a call that was to be cancelled and has no outcome yet."""
    shown = format_call_id(call.call_id)
    return CallTimeout(
        f"the request to cancel {call.target} is durable and stands, but call {shown} has no outcome after "
        f"{timeout_s:g} s; attach({shown!r}) waits for it",
        call_id=shown,
    )


def _unacknowledged(call: CallAddress, timeout_s: float) -> AegisError:
    shown = format_call_id(call.call_id)
    return CallTimeout(
        f"the request to cancel {call.target} (call {shown}) was sent, but not acknowledged within "
        f"{timeout_s:g} s: it may stand all the same; cancel again to be sure",
        call_id=shown,
    )


def _in_words(state: CallState) -> str:
    if state is CallState.DEAD_LETTERED:
        return "become a dead letter"
    return str(state)
