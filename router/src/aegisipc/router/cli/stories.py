"""How the history of a call is shown: as a timeline for people, as plain data for programs."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any, Final

from pydantic_core import PydanticSerializationError, to_json

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.cli.output import Cell, Paint, pretty_json, printable, table
from aegisipc.eventstore.codec import decode
from aegisipc.eventstore.errors import CodecError, MalformedPayload
from aegisipc.eventstore.frames import NO_CALL, OUTCOMES, Mark
from aegisipc.eventstore.histories import ACCEPTED, EVIDENCED, AcceptedCall, CallHistory, Step
from aegisipc.eventstore.ids import format_call_id
from aegisipc.eventstore.jetstream_api import format_time
from aegisipc.eventstore.lifecycles import CallState
from aegisipc.eventstore.memories import Outcome
from aegisipc.eventstore.references import reference_in
from aegisipc.router.cli.story_reasons import reasons
from aegisipc.router.cli.times import shown_time

_LONGEST: Final = 300
_STYLE: Final = {
    CallState.IN_DOUBT: "yellow",
    CallState.SUCCEEDED: "green",
    CallState.FAILED: "red",
    CallState.DEAD_LETTERED: "red",
    CallState.RETRY_WAIT: "yellow",
    CallState.DISCARDED: "dim",
}

_OF_KEYS: Final = frozenset({Mark.KEYED, Mark.RELEASED, Mark.DUPLICATE})
_DECIDED: Final = frozenset({Mark.EXECUTED, Mark.NOT_EXECUTED, Mark.REQUEUED, Mark.DISCARDED})

type Plain = dict[str, Any]


def said_in(body: bytes | None) -> Any:
    """Return what a body says, as JSON can say it; ``None`` for no body. Of one that cannot be read, its
    size; of one that lies in the object store, where.
    """
    if body is None:
        return None
    with suppress(MalformedPayload):
        reference = reference_in(body)
        if reference is not None:
            return f"(object {reference.name}, {reference.size_bytes} bytes)"
    try:
        return json.loads(to_json(decode(body), fallback=repr, bytes_mode="base64", inf_nan_mode="strings"))
    except (CodecError, PydanticSerializationError, ValueError, RecursionError):
        return f"(unreadable, {len(body)} bytes)"


def arguments_of(call: AcceptedCall) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments of a call, by position and by name, as JSON can say them."""
    match said_in(call.body):
        case [list(positional), dict(named)]:
            return positional, named
        case other:
            return [other], {}


# -- for programs ---------------------------------------------------------------------------------------


def as_plain(history: CallHistory) -> Plain:
    """Return everything about a call as plain data: arguments, results and errors are decoded."""
    call = history.call
    positional, named = arguments_of(call)
    holder, epoch = history.holder
    return {
        "call_id": format_call_id(call.call_id),
        "service": call.service,
        "group": call.group,
        "method": call.method,
        "resource": call.resource,
        "client": call.client,
        "arguments": {"positional": positional, "named": named},
        "idempotency_key": call.options.key if call.options is not None else None,
        "accepted_seq": call.seq,
        "accepted": format_time(call.at_ns),
        "deadline": format_time(call.deadline_ns),
        "state": str(history.state),
        "outcome": None if history.outcome is None else outcome_plain(history.outcome),
        "claimed_by": history.claim.writer if history.claim else None,
        "claimed_epoch": history.claim.epoch if history.claim else None,
        "attempts": history.attempts,
        "holder": holder,
        "epoch": epoch,
        "promotion": None if history.promotion is None else _step_plain(history.promotion),
        "steps": [_step_plain(step) for step in history.steps],
        "omitted": history.omitted,
    }


def outcome_plain(outcome: Outcome) -> Plain:
    """Return an outcome as plain data."""
    return {"mark": outcome.mark.name.lower(), "says": _said_plain(outcome.mark, outcome.body)}


def _said_plain(mark: Mark, body: bytes | None) -> Any:
    """Bodies that tell of keys are bytes of a fixed form."""
    if mark in (Mark.KEYED, Mark.RELEASED):
        return (body or b"").hex()
    if mark is Mark.DUPLICATE and body is not None and len(body) == len(NO_CALL):
        return {"first": format_call_id(body)}
    return said_in(body)


def _step_plain(step: Step) -> Plain:
    plain: Plain = {
        "seq": step.seq,
        "time": format_time(step.at_ns),
        "writer": step.writer,
        "epoch": step.epoch,
        "what": step.what,
        "counts": step.counts,
    }
    if step.event is not None:
        return plain | {"event": step.event.type, "data": step.event.model_dump(mode="json")}
    if step.mark is None:
        return plain
    said = {"mark": step.mark.name.lower(), "says": _said_plain(step.mark, step.body)}
    return plain | said | {"emitted": [said_in(event) for event in step.emitted]}


# -- for people -----------------------------------------------------------------------------------------


def as_text(history: CallHistory, paint: Paint) -> str:
    """Tell the history of a call: what it is, a timeline, and why the router decided as it did."""
    rows = [_row(step, history) for step in history.steps]
    lines = [*_head(history, paint), "", table(("TIME", "SEQ", "WRITER", "EPOCH", "WHAT"), rows, paint)]
    if history.omitted:
        lines.append(paint("dim", f"{history.omitted} steps before the last one are left out"))
    return "\n".join([*lines, *reasons(history, paint)])


def _head(history: CallHistory, paint: Paint) -> list[str]:
    call, state = history.call, history.state
    shown = str(state).replace("_", " ")
    resource = "none" if call.resource is None else printable(call.resource)
    return [
        f"call       {format_call_id(call.call_id)}",
        f"method     {printable(f'{call.service}.{call.method}')} (group {call.group}, resource {resource})",
        *_arguments(call),
        *_key(call),
        f"client     {printable(call.client)}",
        f"deadline   {shown_time(call.deadline_ns)}",
        f"state      {paint(_STYLE[state], shown) if state in _STYLE else shown}",
    ]


def _key(call: AcceptedCall) -> list[str]:
    key = call.options.key if call.options is not None else None
    return [] if key is None else [f"key        {printable(key)}"]


def _arguments(call: AcceptedCall) -> list[str]:
    positional, named = arguments_of(call)
    shown = [pretty_json(value) for value in positional]
    shown += [f"{name}={pretty_json(value)}" for name, value in named.items()]
    lines = [printable(line) for each in shown for line in each.splitlines()] or ["none"]
    return [f"{'' if number else 'arguments':<10} {line}" for number, line in enumerate(lines)]


def _row(step: Step, history: CallHistory) -> list[object]:
    what = said_of(step) if step.counts else f"({said_of(step)}: did not count)"
    style = "yellow" if step.mark is Mark.IN_DOUBT else ""
    epoch = None if history.is_pool or step.what == EVIDENCED else step.epoch
    return [
        shown_time(step.at_ns),
        step.seq,
        printable(step.writer),
        epoch,
        Cell(what, style if step.counts else "dim"),
    ]


def said_of(step: Step) -> str:
    """Say in a line what a step tells."""
    text = printable(_said_of(step))
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _said_of(step: Step) -> str:
    if step.event is not None:
        return _event(step.event)
    if step.mark is None:
        return ACCEPTED
    if step.mark in _OF_KEYS:
        return _of_key(step)
    said = said_in(step.body)
    if step.what == EVIDENCED:
        return f"evidence: it ran and {_outcome(step, said)}"
    if step.mark in OUTCOMES:
        return _outcome(step, said)
    return _word(step, said)


def _word(step: Step, said: Any) -> str:
    """Say how a call goes on, and who decided that."""
    if step.mark is Mark.RETRY_SCHEDULED:
        return _retry(said)
    if step.mark is Mark.ATTEMPTED:
        return "begun again, alone"
    what = step.what.replace("_", " ")
    return f"{what}, says {_resolution(said)}" if step.mark in _DECIDED else what


def _of_key(step: Step) -> str:
    """Say what a step tells of idempotency keys, whose bodies are bytes of a fixed form."""
    if step.mark is Mark.DUPLICATE:
        first = step.body or b""
        shown = format_call_id(first) if len(first) == len(NO_CALL) else "another call"
        return f"duplicate: its idempotency key belongs to call {shown}"
    if step.mark is Mark.KEYED:
        return "its idempotency key is its own"
    return "its idempotency key is free again"


def _retry(said: Any) -> str:
    match said:
        case {"attempt": attempt, "due_ns": int(due_ns), "error": error}:
            return f"attempt {attempt} failed ({_error(error)}); the next is due at {shown_time(due_ns)}"
    return "an attempt failed, and another one follows"


def _event(event: ev.Event) -> str:
    match event:
        case ev.CancelRequested():
            why = f": {event.reason}" if event.reason else ""
            return f"{event.author} wants it cancelled{why}"
        case ev.GroupPromoted():
            return f"{event.holder} holds the pen as epoch {event.epoch} ({event.kind}): {event.cause}"
        case ev.GroupVacated():
            return f"nobody holds the pen any more: {event.cause}"
        case ev.GroupHandoverStarted():
            return f"{event.holder} is to hand the pen over to {event.to}: {event.cause}"
        case ev.GroupHandoverCancelled():
            return f"the handover is off: {event.cause}"
    return event.type


def _outcome(step: Step, said: Any) -> str:
    name = (step.mark.name if step.mark is not None else step.what).lower().replace("_", " ")
    if step.mark is Mark.SUCCEEDED:
        text = f"{name}: {_compact(said)}"
    else:
        text = name if said is None else f"{name}: {_error(said)}"
    if not step.emitted:
        return text
    return f"{text} (and {len(step.emitted)} {'event' if len(step.emitted) == 1 else 'events'})"


def _resolution(said: Any) -> str:
    if not isinstance(said, dict):
        return "nobody"
    text = f"{said.get('author')} ({said.get('source', 'operator')})"
    return f"{text}: {said['reason']}" if said.get("reason") else text


def _error(said: Any) -> str:
    match said:
        case {"code": "in_doubt" | "cancelled" | "dead_lettered", "message": str(message)}:
            return message
        case {"code": code, "message": message}:
            return f"{code}: {message}"
    return _compact(said)


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
