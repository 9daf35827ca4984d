"""Why a call is where it is: its history, who held the pen meanwhile and why, and what it waits for."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.checkpoints import OnSkip
from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.frames import OUTCOMES, Mark
from aegisipc.eventstore.histories import (
    ACCEPTED,
    CANCEL_REQUESTED,
    EVIDENCED,
    AcceptedCall,
    CallHistory,
    Step,
)
from aegisipc.eventstore.ids import format_call_id
from aegisipc.eventstore.lifecycles import CallState
from aegisipc.eventstore.replay.finding import calls_beginning_with
from aegisipc.eventstore.replay.points import Point
from aegisipc.eventstore.replay.reason_reading import Happening, base_of, bounded
from aegisipc.eventstore.replay.reason_steps import (
    CallAfterPoint,
    Reason,
    body_of,
    by_whom,
    cut,
    ended,
    error_in,
    lasted,
    moment,
)
from aegisipc.eventstore.replay.reason_waiting import waits_for
from aegisipc.eventstore.replay.reason_words import said_of
from aegisipc.eventstore.replay.sources import Source

_ID: Final = re.compile(r"[0-9a-f]{8}[0-9a-f-]{0,28}")


class BadCallId(AegisError):
    """A text that cannot be the beginning of a call id. Field: ``text``."""

    code = "bad_call_id"


async def why_call(source: Source, text: str, point: Point, *, on_skip: OnSkip | None = None) -> Reason:
    """Explain where a call is up to a point. `text` is its id, or at least the first 8 digits of it.

    Raises:
        BadCallId: it is neither.
        UnknownCall, AmbiguousCall: no call's id begins so, or several do.
        CallAfterPoint: it was accepted later than that.
        AegisError: the history cannot be read now.
    """
    digits = text.strip().lower()
    if not _ID.fullmatch(digits) or len(digits.replace("-", "")) > 32:
        raise BadCallId(
            f"cannot explain call {cut(text, 80)!r}: give its id, as submit() returned it, or at least the "
            "first 8 digits of it",
            text=cut(text, 80),
        )
    call = await calls_beginning_with(source.log, source.subjects, digits.replace("-", ""))
    shown = format_call_id(call.call_id)
    if call.seq > point.seq:
        raise CallAfterPoint(
            f"cannot explain call {shown} up to sequence {point.seq}: it was accepted later, at {call.seq} "
            f"({moment(call.at_ns)}); give a later point",
            call_id=shown,
            seq=call.seq,
            until_seq=point.seq,
        )
    history, pen, given = await _read(source, call, point.seq)
    reason = Reason("call", {"call_id": shown, "service": call.service, "group": call.group})
    _tell(reason, history, pen)
    if pen is None and given:
        reason.notes.append(f"{given} when it was accepted; that was decided before this history begins")
    waiting = ""
    if history.state in _OPEN:
        waiting = await waits_for(source, history, point, on_skip)
    reason.answer = _answer(history, waiting, point)
    reason.details = {
        "method": call.method,
        "resource": call.resource,
        "client": call.client,
        "state": str(history.state),
        "deadline_ns": history.call.deadline_ns,
        "attempts": history.attempts,
        "tries": history.tries,
    }
    reason.omitted += history.omitted
    return reason


async def _read(
    source: Source, call: AcceptedCall, until_seq: int
) -> tuple[CallHistory, Happening | None, str]:
    """Read the history of a call up to a point; who had been given the pen when it was accepted, and that in
    words.
    """
    history = CallHistory(source.subjects, call, base_of(source).topology)
    pen: Happening | None = None
    if not history.is_pool:
        async for record in bounded(source, [history.fence], 1, call.seq):
            before = history.holder
            history.apply(record)
            if history.holder != before:
                event = ev.decode_event(record.payload)
                if isinstance(event, ev.Event):
                    pen = Happening(record.seq, record.timestamp_ns, "", event)
    holder, epoch = history.holder
    given = f"{holder} held the pen as epoch {epoch}" if holder is not None else ""
    async for record in bounded(source, history.subjects, call.seq + 1, until_seq):
        history.apply(record)
    return history, pen, given


# -- the chain ------------------------------------------------------------------------------------------


def _tell(reason: Reason, history: CallHistory, pen: Happening | None) -> None:
    moved: list[int] = []
    if pen is not None:
        said = said_of(pen.event)
        moved = [reason.add("pen", said, seq=pen.seq, at_ns=pen.at_ns, holder=history.holder[0])]
    latest: list[int] = []
    for step in history.steps:
        is_of_pen = step.event is not None and step.what != CANCEL_REQUESTED
        follows = [] if is_of_pen else [*latest, *moved]
        number = reason.add(
            step.what,
            _said(step, history),
            seq=step.seq,
            at_ns=step.at_ns,
            follows=follows,
            writer=step.writer,
            epoch=step.epoch or None,
            counts=step.counts,
            **_data(step),
        )
        if is_of_pen:
            moved = [number]
        elif step.what in (EVIDENCED, CANCEL_REQUESTED):
            latest = [*latest, number] if step.counts else latest
        elif step.counts:
            latest, moved = [number], []


def _data(step: Step) -> dict[str, Any]:
    if step.event is not None:
        return {"event": step.event.model_dump(mode="json")}
    if step.mark in _TELLING:
        return {"says": {key: value for key, value in body_of(step.body).items() if key in _SHOWN}}
    return {}


_SHOWN: Final = frozenset(
    {"code", "message", "author", "source", "reason", "attempt", "due_ns", "timeout_ms"}
)
_TELLING: Final = frozenset(Mark) - {Mark.SUCCEEDED, Mark.EMITTED, Mark.KEYED, Mark.RELEASED, Mark.CHECKED}


def _said(step: Step, history: CallHistory) -> str:
    text = _said_of_step(step, history)
    return text if step.counts else f"{text} (it came too late, and does not count)"


def _said_of_step(step: Step, history: CallHistory) -> str:
    call, said = history.call, body_of(step.body)
    if step.what == ACCEPTED:
        about = f" for {call.resource}" if call.resource is not None else ""
        return f"{call.client} calls {call.service}.{call.method}{about}: accepted by group {call.group}"
    if isinstance(step.event, ev.CancelRequested):
        why = f": {step.event.reason}" if step.event.reason else ""
        return f"{step.event.author} wants it cancelled{why}"
    if step.event is not None:
        return said_of(step.event)
    if step.what == EVIDENCED and step.mark is not None:
        return f"{step.writer}, which lost the pen, says that it ran there, and {ended(step.mark)}"
    say = _SAYINGS.get(step.mark) if step.mark is not None else None
    if say is not None:
        return say(step, said)
    return f"{step.writer} says: {step.what.replace('_', ' ')}"


def _outcome(step: Step, said: Mapping[str, Any]) -> str:
    mark = step.mark or Mark.SUCCEEDED
    why = f": {error_in(dict(said))}" if mark not in (Mark.SUCCEEDED, Mark.DUPLICATE) and said else ""
    return f"it {ended(mark)}, says {step.writer}{why}"


def _retry(step: Step, said: Mapping[str, Any]) -> str:
    due = said.get("due_ns")
    error = said.get("error")
    why = f" ({error_in(error)})" if isinstance(error, dict) else ""
    then = f"; the next is due at {moment(due)}" if isinstance(due, int) else ""
    return f"attempt {said.get('attempt', '?')} failed at {step.writer}{why}{then}"


_SAYINGS: Final[Mapping[Mark, Callable[[Step, Mapping[str, Any]], str]]] = {
    Mark.CLAIMED: lambda step, _: f"{step.writer} begins it: claimed, so it may have run from here on",
    Mark.ATTEMPTED: lambda step, _: f"{step.writer} begins it again, alone: it may have taken instances down",
    Mark.IN_DOUBT: lambda step, said: (
        f"it is in doubt, says {step.writer}" + (f": {error_in(dict(said))}" if said else "")
    ),
    Mark.EXECUTED: lambda _, said: f"the doubt is over: it ran, says {by_whom(dict(said))}",
    Mark.NOT_EXECUTED: lambda _, said: f"the doubt is over: it did not run, says {by_whom(dict(said))}",
    Mark.KEYED: lambda _, __: "its idempotency key is its own",
    Mark.RELEASED: lambda _, __: "its idempotency key is free again",
    Mark.RETRY_SCHEDULED: _retry,
    Mark.REQUEUED: lambda _, said: f"the dead letter is to run again, says {by_whom(dict(said))}",
    Mark.DISCARDED: lambda _, said: f"the dead letter will never run again, says {by_whom(dict(said))}",
    **dict.fromkeys(OUTCOMES - {Mark.IN_DOUBT}, _outcome),
}


# -- the answer -----------------------------------------------------------------------------------------

_OPEN: Final = frozenset({CallState.ACCEPTED, CallState.STARTED, CallState.IN_DOUBT, CallState.RETRY_WAIT})


def _answer(history: CallHistory, waiting: str, point: Point) -> str:
    call = history.call
    about = f" for {call.resource}" if call.resource is not None else ""
    name = f"call {format_call_id(call.call_id)} ({call.service}.{call.method}{about})"
    last = next((step for step in reversed(history.steps) if step.counts and _moves(step)), history.steps[0])
    if waiting:
        age = lasted(point.at_ns - call.at_ns)
        late = " Its deadline has passed." if point.at_ns > call.deadline_ns else ""
        return f"{name} {waiting}. It was accepted {age} before.{late}"
    text = _said_of_step(last, history)
    took = lasted(last.at_ns - call.at_ns)
    said = f"{name}: {text} (epoch {last.epoch})" if last.epoch else f"{name}: {text}"
    story = _doubted(history)
    return f"{said} at {moment(last.at_ns)}, {took} after it was accepted.{story}"


def _moves(step: Step) -> bool:
    """A word about the call, and not about the pen, its key, or what somebody wants."""
    return step.mark is not None and step.what != EVIDENCED and step.mark not in (Mark.KEYED, Mark.RELEASED)


def _doubted(history: CallHistory) -> str:
    if history.doubt is None:
        return ""
    if history.resolution is None:
        return f" It had been in doubt since {moment(history.doubt.at_ns)}."
    took = lasted(history.resolution.at_ns - history.doubt.at_ns)
    how = "it had run" if history.resolution.mark is Mark.EXECUTED else "it had not run"
    return f" It was in doubt for {took}: {how}, says {by_whom(body_of(history.resolution.body))}."
