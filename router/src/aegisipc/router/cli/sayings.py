"""What events and marks of the log say, as text for people.

Nothing here checks what an event means: facts of a version that is not known here are shown all the same, and
fields that older events do not have are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from aegisipc.eventstore.cli.output import printable, shorten

type Plain = Mapping[str, Any]

_MOST_TOLD: Final = 3
_DIGEST: Final = 16

TROUBLE: Final = frozenset(
    {
        "group.vacated",
        "instance.lost",
        "instance.refused",
        "instance.suspected",
        "instance.unhealthy",
        "group.handover_cancelled",
        "group.paused",
        "group.congested",
    }
)
"""Events that somebody on call looks for."""

TROUBLING_MARKS: Final = frozenset({"in_doubt", "dead_lettered", "attempted", "retry_scheduled"})


def of_event(event: str, data: Plain) -> str:
    """Say what an event tells; `event` is its type without the version."""
    say = _EVENTS.get(event)
    if say is not None:
        try:
            return printable(say(data))
        except (KeyError, TypeError, AttributeError, ValueError):
            pass  # not of the shape that is known here
    return printable(", ".join(f"{key} {value}" for key, value in data.items()))


def of_calls(entries: Sequence[Plain], client: str) -> str:
    """Say what a frame of calls holds."""
    methods = Counter(entry["method"] for entry in entries)
    shown = shorten([name if n == 1 else f"{name} ×{n}" for name, n in methods.most_common()])  # noqa: RUF001 - a times sign
    resources = list(dict.fromkeys(e["resource"] for e in entries if e["resource"] is not None))
    about = f" for {shorten(resources)}" if resources else ""
    calls = "call" if len(entries) == 1 else "calls"
    return f"{len(entries)} {calls}: {shown}{about} from {client}"


def of_marks(entries: Sequence[Plain], epoch: int) -> str:
    """Say what a pen frame holds: how often the usual marks, and each of the others with what it says."""
    usual = Counter(entry["mark"] for entry in entries if entry["mark"] not in _MARKS)
    told = [_of_mark(entry) for entry in entries if entry["mark"] in _MARKS]
    counted = ", ".join(f"{count} {mark}" for mark, count in usual.items())
    within = f"epoch {epoch}" if epoch else ""
    parts = told[:_MOST_TOLD] + ([f"{len(told) - _MOST_TOLD} more"] if len(told) > _MOST_TOLD else [])
    if counted:
        parts.insert(0, f"{counted} ({within})" if within else counted)
    elif within and parts:
        parts[0] = f"{within}: {parts[0]}"
    return printable("; ".join(parts)) or within


def of_evidence(entries: Sequence[Plain], writer: str) -> str:
    """Say what an instance that lost the pen tells of calls that it had begun."""
    parts, events = [], 0
    for entry in entries:
        if entry["mark"] == "emitted":
            events += 1
            continue
        parts.append(f"{entry['call_id']} ran to its end there: {entry['mark']}{_with(events)}")
        events = 0
    return printable(f"{writer} lost the pen, and says: {'; '.join(parts)}")


def of_snapshot(plain: Plain) -> str:
    """Say what a snapshot of a group's state holds."""
    size = plain["state_bytes"]
    state = "no shared state" if size is None else f"{size} bytes of state"
    calls = "call" if plain["open_calls"] == 1 else "calls"
    held = f"{state}, {plain['open_calls']} open {calls}"
    return f"up to sequence {plain['covers']}: {held} (epoch {plain['epoch']})"


def of_segment(plain: Plain) -> str:
    """Say what a segment of the index of keys holds."""
    keys = "key" if plain["keys"] == 1 else "keys"
    return f"{plain['keys']} idempotency {keys}, up to sequence {plain['covers']} (epoch {plain['epoch']})"


def of_part(plain: Plain) -> str:
    """Say what a part of a snapshot of the whole system is."""
    return f"part {plain['number'] + 1} of snapshot {plain['snapshot'][:8]}: {plain['piece_bytes']} bytes"


# -- marks ----------------------------------------------------------------------------------------------


def _of_mark(entry: Plain) -> str:
    text = _MARKS[entry["mark"]](entry.get("says"))
    return text if entry["call_id"] is None else f"{entry['call_id']} {text}"


def _in_doubt(says: Any) -> str:
    return f"is in doubt: {_message(says)}" if says is not None else "is in doubt"


def _dead_lettered(says: Any) -> str:
    return f"is a dead letter: {_message(says)}" if says is not None else "is a dead letter"


def _attempted(says: Any) -> str:
    return f"is begun again, alone: attempt {says}" if type(says) is int else "is begun again, alone"


def _checked(says: Any) -> str:
    return f"state checked: {str(says)[:_DIGEST]}"


def _resolved(what: str) -> Callable[[Any], str]:
    def say(says: Any) -> str:
        if not isinstance(says, dict):
            return what
        return f"{what}, says {says.get('source')} {says.get('author')}{_why(says)}"

    return say


def _decided_by(what: str) -> Callable[[Any], str]:
    def say(says: Any) -> str:
        return f"{what}, says {says.get('author')}{_why(says)}" if isinstance(says, dict) else what

    return say


def _duplicate(says: Any) -> str:
    return f"has the idempotency key of call {says}"


def _retry_scheduled(says: Any) -> str:
    match says:
        case {"attempt": attempt, "error": {"code": code, "message": message}}:
            return f"failed in attempt {attempt}, and is tried again ({code}: {message})"
    return "failed, and is tried again"


def _message(says: Any) -> str:
    return str(says.get("message")) if isinstance(says, dict) else str(says)


_MARKS: Final[Mapping[str, Callable[[Any], str]]] = {
    "in_doubt": _in_doubt,
    "executed": _resolved("was executed"),
    "not_executed": _resolved("was not executed"),
    "attempted": _attempted,
    "checked": _checked,
    "dead_lettered": _dead_lettered,
    "duplicate": _duplicate,
    "retry_scheduled": _retry_scheduled,
    "requeued": _decided_by("is requeued"),
    "discarded": _decided_by("is discarded"),
    "cancelled": lambda says: f"is cancelled: {_message(says)}",
}
"""Marks that are rare, and say more than that they are there."""


def says_more(mark: str) -> bool:
    """Tell whether the body of such a mark is for people, and not the result of a call."""
    return mark in _MARKS


def _with(events: int) -> str:
    return "" if not events else f" (with {events} {'event' if events == 1 else 'events'})"


# -- events ---------------------------------------------------------------------------------------------


def _why(data: Plain, key: str = "reason") -> str:
    return f": {data[key]}" if data.get(key) else ""


def _decided(data: Plain) -> str:
    return f" (by {data['decided_by']})"


def _registered(data: Plain) -> str:
    methods, resources = shorten(sorted(data["contract"])), shorten(data["resources"])
    quarantine = ", in quarantine" if data.get("quarantined") else ""
    return (
        f"{data['mode']}, resources {resources}, methods {methods}, pid {data['pid']} on {data['host']}"
        f"{quarantine}"
    )


def _silent(data: Plain) -> str:
    cause = data.get("cause") or f"silent for {data['silence_ms']} ms"
    return f"{data['instance']}: {cause}{_decided(data)}"


def _drain_requested(data: Plain) -> str:
    return f"{data['instance']} is to leave, asks {data['author']}{_why(data)}{_decided(data)}"


def _pausing(what: str) -> Callable[[Plain], str]:
    def say(data: Plain) -> str:
        scope = " with the whole service" if data["scope"] == "service" else ""
        return f"{what}{scope}, asks {data['author']}{_why(data)}{_decided(data)}"

    return say


def _promoted(data: Plain) -> str:
    kind = data.get("kind", "first")
    how = "" if kind == "first" else f" ({kind})"
    return f"epoch {data['epoch']} to {data['holder']}{how}: {data['cause']}"


def _vacated(data: Plain) -> str:
    return f"nobody holds epoch {data['epoch']} any more: {data['cause']}"


def _handover_started(data: Plain) -> str:
    holder, to = data["holder"], data["to"]
    return f"{holder} is to finish epoch {data['epoch']} and hand over to {to}: {data['cause']}"


def _handover_cancelled(data: Plain) -> str:
    return f"the handover is off, epoch {data['epoch']} goes on: {data['cause']}"


def _elected(data: Plain) -> str:
    return f"{data['router']} leads term {data['term']}: {data['cause']}"


def _system_snapshot(data: Plain) -> str:
    parts = len(data["parts"])
    size = f"{data['bytes']} bytes in {parts} part{'' if parts == 1 else 's'}"
    snapshot = f"snapshot {data['sha256'][:8]}"
    return f"{data['router']} wrote {snapshot}, the state up to sequence {data['covers']}: {size}"


def _congested(data: Plain) -> str:
    wait_s = data["retry_after_ms"] / 1000
    return f"{data['open']} open calls of {data['limit']}: clients hold back, {wait_s:g} s{_decided(data)}"


def _cancel_requested(data: Plain) -> str:
    return f"{shorten(list(data['call_ids']))} not to run, or to stop, asks {data['author']}{_why(data)}"


_EVENTS: Final[Mapping[str, Callable[[Plain], str]]] = {
    "call.cancel_requested": _cancel_requested,
    "group.congested": _congested,
    "group.relieved": lambda data: f"{data['open']} open calls: clients may go on{_decided(data)}",
    "group.handover_cancelled": _handover_cancelled,
    "group.handover_started": _handover_started,
    "group.paused": _pausing("paused"),
    "group.promoted": _promoted,
    "group.resumed": _pausing("resumed"),
    "group.vacated": _vacated,
    "instance.admitted": lambda data: f"{data['instance']}{_decided(data)}",
    "instance.drain_requested": _drain_requested,
    "instance.draining": lambda data: str(data["cause"]),
    "instance.healthy": lambda _: "its health check passes again",
    "instance.left": lambda data: str(data["cause"]),
    "instance.lost": _silent,
    "instance.ready": lambda data: f"incarnation {data['incarnation']}",
    "instance.recovered": lambda data: f"{data['instance']} lives{_decided(data)}",
    "instance.refused": lambda data: f"{data['instance']}: {data['error']['message']}",
    "instance.registered": _registered,
    "service.contract": lambda data: (
        f"schemas {data['digest'][:_DIGEST]} of what it offers ({len(data['schemas'])} bytes)"
    ),
    "instance.suspected": _silent,
    "instance.unhealthy": lambda data: f"its health check fails: {data['reason']}",
    "instance.yielded": lambda data: f"has finished epoch {data['epoch']}: {data['cause']}",
    "router.elected": _elected,
    "router.resigned": lambda data: f"{data['router']} leads term {data['term']} no more",
    "system.snapshot": _system_snapshot,
}
