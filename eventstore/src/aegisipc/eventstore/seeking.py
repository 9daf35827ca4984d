"""Finding a call in the log by the time in its id, and reading its history from there.

What this costs does not depend on how long the log is. Finding the call reads the call frames of all groups
around the time in its id: a second before and after it, and only if the call is not there (its client's idea
of the server's clock was wrong, or it took long to be accepted) from ten seconds before it on. What became of
it is in its group's conclusions, from the call to its outcome. Before that the promotions of the group are
read, which are few.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
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

_FAR_AHEAD_NS: Final = 86_400 * 1_000_000_000
"""How far ahead of this host's clock the time in an id may be before the server's is asked for."""

NEAR_S: Final = 1
"""How far from the time in its id nearly every call is found."""


async def find_call(log: Log, subjects: Subjects, call_id: CallId) -> AcceptedCall:
    """Find an accepted call: reads the call frames of all groups around the time in its id, header by header.

    Raises:
        UnknownCall: the log does not have it. Field ``why``: what is known about that.
        AegisError: the log cannot be read now.
    """
    await _refuse_the_future(log, call_id)
    for before_s, after_s in ((NEAR_S, NEAR_S), (SEEK_MARGIN_S, MAX_ACCEPT_DELAY_S)):
        found = await _find_around(log, subjects, call_id, before_s, after_s)
        if found is not None:
            return found
    shown = format_call_id(call_id)
    why = await _why_unknown(log, subjects, time_of(call_id) * 1_000_000)
    raise UnknownCall(f"cannot find call {shown}: {why}", call_id=shown, why=why)


async def _refuse_the_future(log: Log, call_id: CallId) -> None:
    """An id that nobody made names any time, most likely one that is far off: to look for each would keep the
    server busy with nothing, and it cannot be asked about a time after the year 9999.
    """
    born_ns = time_of(call_id) * 1_000_000
    if born_ns <= time.time_ns() + _FAR_AHEAD_NS:
        return
    now_ns = (await log.bounds()).now_ns  # this host's clock may be wrong
    if born_ns > now_ns + SEEK_MARGIN_S * 1_000_000_000:
        shown = format_call_id(call_id)
        why = f"the log holds no such call; its id names {_shown(born_ns)}, and it is {_shown(now_ns)} now"
        raise UnknownCall(f"cannot find call {shown}: {why}", call_id=shown, why=why)


async def _find_around(
    log: Log, subjects: Subjects, call_id: CallId, before_s: int, after_s: int
) -> AcceptedCall | None:
    born_ns = time_of(call_id) * 1_000_000
    start = Start(time_ns=max(0, born_ns - before_s * 1_000_000_000))
    give_up_ns = born_ns + after_s * 1_000_000_000
    sessions = Sessions()
    async for record in log.read([subjects.of_kind("*", "*", CALL)], start=start):
        if record.timestamp_ns > give_up_ns:
            break
        found = accepted_in(record, subjects, sessions, call_id)
        if found is not None:
            return found
    return None


async def _why_unknown(log: Log, subjects: Subjects, born_ns: int) -> str:
    first_ns = 0
    async for record in log.read([subjects.everything]):
        first_ns = record.timestamp_ns
        break
    if first_ns and born_ns < first_ns:
        return (
            f"the log holds no such call; it was made at {_shown(born_ns)}, and the log begins at "
            f"{_shown(first_ns)}: it is older than the log, or it was made in another namespace"
        )
    begins = f"begins at {_shown(first_ns)}" if first_ns else "is empty"
    return (
        f"the log holds no such call; it was never accepted, or it was made in another namespace (this log "
        f"{begins})"
    )


def _shown(unix_ns: int) -> str:
    try:
        return datetime.fromtimestamp(unix_ns // 1_000_000_000, UTC).isoformat().replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):  # the time in an id that nobody made
        return f"{unix_ns // 1_000_000_000} s of Unix time"


async def read_conclusions(log: Log, history: CallHistory) -> int:
    """Read what decides about the outcome of a call, up to its final outcome, else to the end of the log as
    of now. Returns the sequence up to which that was read.

    Raises:
        AegisError: the log cannot be read now.
    """
    position = history.call.seq
    if not history.is_pool:
        await _read_fence(log, history)
    async for record in log.read(history.conclusions, start=Start(position + 1)):
        history.apply(record)
        position = record.seq
        if history.is_final:
            break
    return position


async def _read_fence(log: Log, history: CallHistory) -> None:
    """Read who held the pen when the call came in."""
    async for record in log.read([history.fence]):
        if record.seq > history.call.seq:
            break
        history.apply(record)


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
    await _read_fence(log, history)
    async for record in log.read(history.subjects, start=Start(call.seq + 1)):
        history.apply(record)
        if until_final and history.is_final:
            break
    return history
