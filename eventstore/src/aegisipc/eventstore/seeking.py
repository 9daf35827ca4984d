"""Finding a call in the log by the time in its id, and reading its history from there."""

from __future__ import annotations

from typing import Final

from aegisipc.eventstore.errors import UnknownCall
from aegisipc.eventstore.histories import AcceptedCall, CallHistory, accepted_in
from aegisipc.eventstore.ids import CallId, format_call_id, time_of
from aegisipc.eventstore.log import Log, Start
from aegisipc.eventstore.memories import Sessions
from aegisipc.eventstore.subjects import CALL, Subjects

SEEK_MARGIN_S: Final = 10
"""How much earlier than the time in its id a call is looked for: ids carry an estimate of the server's clock.
"""

MAX_ACCEPT_DELAY_S: Final = 600
"""How much later than the time in its id a call may have been accepted and still be found by its id."""


async def find_call(log: Log, subjects: Subjects, call_id: CallId) -> AcceptedCall:
    """Find an accepted call: reads the call frames of all groups around the time in its id, header by header.

    Raises:
        UnknownCall: the log does not have it.
        AegisError: the log cannot be read now.
    """
    born_ns = time_of(call_id) * 1_000_000
    start = Start(time_ns=max(0, born_ns - SEEK_MARGIN_S * 1_000_000_000))
    give_up_ns = born_ns + MAX_ACCEPT_DELAY_S * 1_000_000_000
    sessions = Sessions()
    async for record in log.read([subjects.of_kind("*", "*", CALL)], start=start):
        if record.timestamp_ns > give_up_ns:
            break
        found = accepted_in(record, subjects, sessions, call_id)
        if found is not None:
            return found
    shown = format_call_id(call_id)
    raise UnknownCall(
        f"cannot find call {shown}: the log holds no such call; it was never accepted, it is older than the "
        "log, or it was made in another namespace",
        call_id=shown,
    )


async def read_history(
    log: Log, subjects: Subjects, call_id: CallId, *, until_final: bool = False
) -> CallHistory:
    """Read the history of a call to the end of the log as of now, or up to its final outcome: what comes
    after that changes nothing, but it may contradict it.

    Raises:
        UnknownCall: the log does not have it.
        AegisError: the log cannot be read now.
    """
    call = await find_call(log, subjects, call_id)
    history = CallHistory(subjects, call)
    async for record in log.read([history.fence]):  # who held the pen when the call came in
        if record.seq > call.seq:
            break
        history.apply(record)
    of_the_group = [history.fence, history.pen, history.evidence_subject]
    async for record in log.read(of_the_group, start=Start(call.seq + 1)):
        history.apply(record)
        if until_final and history.is_final:
            break
    return history
