"""Why a router gave the pen of a call's group to whom: the decisions that bear on one call, with what the
router saw, and what each of them meant for writes of the call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.cli.output import Paint, printable
from aegisipc.eventstore.histories import PEN_MOVES, CallHistory, Step
from aegisipc.router.cli.times import shown_time

_MOST: Final = 20
"""Decisions that are told, the latest ones."""

_LONGEST: Final = 300
_TOLD_APART: Final = frozenset(
    {"former_holder", "former_epoch", "former_state", "last_pulse_ns", "silence_ms", "source", "now_ns"}
)
_TIMES: Final = "_ns"


def reasons(history: CallHistory, paint: Paint) -> list[str]:
    """Tell the decisions about the pen from the one that was in force when the call was accepted; no line for
    a pool, which has no pen.
    """
    if history.is_pool:
        return []
    names = set(PEN_MOVES.values())
    decided = [step for step in history.steps if step.what in names and step.counts]
    if history.promotion is not None:
        decided.insert(0, history.promotion)
    if not decided:
        return []
    lines = ["", "why the router gave the pen to whom"]
    if len(decided) > _MOST:
        lines.append(paint("dim", f"{len(decided) - _MOST} earlier decisions are left out"))
    for step in decided[-_MOST:]:
        lines.append(f"{shown_time(step.at_ns)}  sequence {step.seq}: {_shortened(_decision(step))}")
        lines += [f"  {_shortened(reason)}" for reason in _why(step, history)]
    return lines


def _decision(step: Step) -> str:
    match step.event:
        case ev.GroupPromoted(epoch=epoch, holder=holder, kind=kind, cause=cause):
            return f"{holder} gets the pen as epoch {epoch} ({kind}), because: {cause}"
        case ev.GroupVacated(epoch=epoch, cause=cause):
            return f"nobody holds the pen after epoch {epoch}, because: {cause}"
        case ev.GroupHandoverStarted(holder=holder, to=to, cause=cause):
            return f"{holder} is to hand over to {to}, because: {cause}"
        case ev.GroupHandoverCancelled(epoch=epoch, cause=cause):
            return f"the handover is off and epoch {epoch} goes on, because: {cause}"
    return step.what.replace("_", " ")


def _why(step: Step, history: CallHistory) -> Iterator[str]:
    author = getattr(step.event, "author", "")
    yield f"decided by router {step.writer}" + (f", asked for by {author}" if author else "")
    evidence: Mapping[str, Any] = getattr(step.event, "evidence", {})
    yield from _seen(evidence)
    rest = [_detail(name, value) for name, value in evidence.items() if name not in _TOLD_APART]
    if rest:
        yield f"it knew: {', '.join(rest)}"
    match step.event:
        case ev.GroupPromoted(epoch=epoch) if epoch > 1:
            yield _fence(step, epoch - 1, history)
        case ev.GroupVacated(epoch=epoch):
            yield _fence(step, epoch, history)


def _seen(evidence: Mapping[str, Any]) -> Iterator[str]:
    """What it saw of the former holder."""
    holder = evidence.get("former_holder")
    if holder is None:
        return
    text = f"former holder: {holder}, epoch {evidence.get('former_epoch')}, {evidence.get('former_state')}"
    last_ns, silence_ms = evidence.get("last_pulse_ns"), evidence.get("silence_ms")
    if isinstance(last_ns, int) and 0 < last_ns < 1 << 63:
        text += f"; last heard of at {shown_time(last_ns)}, {silence_ms} ms before"
    if evidence.get("source"):
        text += f" (source: {evidence['source']})"
    yield text


def _detail(name: str, value: Any) -> str:
    if name.endswith(_TIMES) and isinstance(value, int) and 0 < value < 1 << 63:
        return f"{name.removesuffix(_TIMES).replace('_', ' ')} {shown_time(value)}"
    shown = (", ".join(map(str, value)) or "none") if isinstance(value, list) else value
    return f"{name.replace('_', ' ')}: {shown}"


def _fence(step: Step, former: int, history: CallHistory) -> str:
    late = [s for s in history.steps if not s.counts and s.seq > step.seq and 0 < s.epoch <= former]
    text = f"the fence: from sequence {step.seq} on, nothing counts that is written in epoch {former}"
    if not late:
        return text
    return f"{text}; of this call {len(late)} such {'word' if len(late) == 1 else 'words'} came too late"


def _shortened(text: str) -> str:
    text = printable(text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
