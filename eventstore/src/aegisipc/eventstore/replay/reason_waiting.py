"""What an open call waits for, in words."""

from __future__ import annotations

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.checkpoints import OnSkip
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.histories import CallHistory, Step
from aegisipc.eventstore.ids import format_call_id
from aegisipc.eventstore.lifecycles import CallState, InstanceState
from aegisipc.eventstore.open_calls import OpenCall
from aegisipc.eventstore.replay.points import Point
from aegisipc.eventstore.replay.reason_calls import group_state_at
from aegisipc.eventstore.replay.reason_steps import body_of, counted, error_in, moment
from aegisipc.eventstore.replay.sources import Source
from aegisipc.eventstore.views import GroupView


async def waits_for(source: Source, history: CallHistory, point: Point, on_skip: OnSkip | None) -> str:
    """Say, as the rest of a sentence about the call, what it waits for at a point."""
    call = history.call
    state = await group_state_at(source, call.service, call.group, point.seq, on_skip)
    group = state.topology.group(call.service, call.group) or GroupView(call.service, call.group)
    match history.state:
        case CallState.IN_DOUBT:
            return _in_doubt(history)
        case CallState.STARTED:
            return _started(history, group)
        case CallState.RETRY_WAIT:
            return _retrying(history, group)
    calls = state.calls_of(call.service, call.group)
    return _waiting(history, group, list(calls.open.values()))


def _in_doubt(history: CallHistory) -> str:
    claim, doubt = history.claim, history.doubt
    claimed = f"{claim.writer} had begun it at sequence {claim.seq}, and " if claim is not None else ""
    lost = next((step for step in history.steps if claim and _takes_pen(step, claim.seq)), None)
    how = f"lost the pen at sequence {lost.seq} ({_cause(lost)})" if lost is not None else "is gone"
    since = f" since {moment(doubt.at_ns)}" if doubt is not None else ""
    evidence = "; its own word of how it ended is in the log" if history.evidence is not None else ""
    resolve = f"aegis doubt resolve {format_call_id(history.call.call_id)}"
    return (
        f"is in doubt{since}: {claimed}{how} before it said how the call ended{evidence}. Nobody has "
        f"resolved it yet ({resolve})"
    )


def _takes_pen(step: Step, after_seq: int) -> bool:
    return step.seq > after_seq and isinstance(step.event, ev.GroupPromoted | ev.GroupVacated)


def _cause(step: Step) -> str:
    return str(getattr(step.event, "cause", ""))


def _started(history: CallHistory, group: GroupView) -> str:
    claim = history.claim
    if claim is None:  # a call that was started has one
        return "runs"
    since = f"since {moment(claim.at_ns)} (sequence {claim.seq})"
    if group.mode == "owned" and (group.holder, group.epoch) != (claim.writer, claim.epoch):
        now = f"{group.holder} holds it" if group.holder else "nobody holds it"
        return (
            f"was begun by {claim.writer} {since}, which has lost the pen since: {now}, and whoever does "
            "will declare it in doubt"
        )
    instance = group.instances.get(claim.writer)
    state = f", which is {instance.state}".replace("_", " ") if instance is not None else ""
    return f"runs at {claim.writer} {since}{state}, and has no outcome yet"


def _retrying(history: CallHistory, group: GroupView) -> str:
    step = next((each for each in reversed(history.steps) if each.what == "retry_scheduled"), None)
    said = body_of(step.body) if step is not None else {}
    error, due = said.get("error"), said.get("due_ns")
    why = f" ({error_in(error)})" if isinstance(error, dict) else ""
    then = f", due at {moment(due)}" if isinstance(due, int) else ""
    nobody = "" if group.holder or group.mode == "pool" else "; but nobody is active to run it"
    return f"waits for its next attempt{then}: attempt {said.get('attempt', '?')} failed{why}{nobody}"


def _waiting(history: CallHistory, group: GroupView, calls: list[OpenCall]) -> str:
    """Accepted, and not begun as far as the log can tell."""
    name, call = f"{group.service}/{group.name}", history.call
    if group.mode == "pool":
        ready = sum(1 for _ in group.ready())
        return f"waits in pool {name}, of which {counted(ready, 'worker')} can take calls"
    if group.holder is None:
        since = f" since {moment(group.since_ns)}" if group.since_ns else ""
        return f"waits: nobody is active in {name}{since}, because {group.cause}"
    where = f"{group.holder} (active at epoch {group.epoch})"
    held_up = _alone(history, group, where) or _held_up(group, where)
    if held_up:
        return held_up
    before = [each for each in calls if each.seq < call.seq]
    ahead = [each for each in before if call.resource is not None and each.resource == call.resource]
    if ahead:
        first = min(ahead, key=lambda each: each.seq)
        state = str(first.state).replace("_", " ")
        return (
            f"waits at {where} for its turn: {counted(len(ahead), 'call')} for {call.resource} came before "
            f"it, the first is {format_call_id(first.call_id)} ({first.method}, {state})"
        )
    contract = group.contract.get(call.method)
    behind = (
        f"behind {counted(len(before), 'open call')} of the group" if before else "as the first of the group"
    )
    if contract is not None and contract.effect is ev.Effect.ONCE:
        return f"waits at {where}, {behind}: it has not begun, else it would be claimed"
    return (
        f"waits or runs at {where}, {behind}; calls that may run twice are not claimed, so the log cannot "
        "tell whether it has begun"
    )


def _alone(history: CallHistory, group: GroupView, where: str) -> str:
    """That the present holder has begun it alone; empty if it has not."""
    last = next((step for step in reversed(history.steps) if step.counts and step.mark is not None), None)
    is_here = last is not None and (last.writer, last.epoch) == (group.holder, group.epoch)
    if last is None or not is_here or last.mark is not Mark.ATTEMPTED:
        return ""
    return (
        f"runs alone at {where} since {moment(last.at_ns)} (attempt {history.attempts}), because it may have "
        "taken instances down, and has no outcome yet"
    )


def _held_up(group: GroupView, where: str) -> str:
    """Why the holder starts nothing; empty if nothing speaks against it."""
    holder = group.instances.get(group.holder or "")
    if group.paused:
        return f"waits: {group.service}/{group.name} is paused by {group.paused_by}"
    if group.handover is not None:
        return f"waits: {where} starts nothing more, it is to hand over to {group.handover.to}"
    if holder is None:
        return ""
    if holder.quarantined:
        return f"waits: {where} is in quarantine, and runs nothing"
    if holder.unhealthy is not None:
        return f"waits: {where} is unhealthy: {holder.unhealthy}"
    state = str(holder.state).replace("_", " ")
    return f"waits at {where}, which is {state}" if holder.state is not InstanceState.ACTIVE else ""
