"""What has come of the holder of a pen since it has it: who asks why during an outage asks about that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.lifecycles import SUSPECTED
from aegisipc.eventstore.pulses import Pulse, PulseBoard
from aegisipc.eventstore.replay.folding import WINDOW_S
from aegisipc.eventstore.replay.points import Point
from aegisipc.eventstore.replay.reason_reading import GroupTale, Happening, Heard, Turn
from aegisipc.eventstore.replay.reason_signs import tell_signs
from aegisipc.eventstore.replay.reason_steps import Reason, lasted, moment
from aegisipc.eventstore.replay.reason_words import said_of
from aegisipc.eventstore.subjects import GROUP_WHO, WATCH_WHO
from aegisipc.eventstore.views import GroupView, InstanceView

_LATEST: Final = 30
"""So many of the latest events are told."""

_SILENT_NS: Final = 500_000_000
"""Twice the usual time between two heartbeats."""

_FOLLOWS: Final[Mapping[type[ev.Event], type[ev.Event] | None]] = {
    ev.InstanceSuspected: None,
    ev.InstanceRecovered: ev.InstanceSuspected,
    ev.InstanceLost: ev.InstanceSuspected,
    ev.InstanceUnhealthy: None,
    ev.InstanceHealthy: ev.InstanceUnhealthy,
    ev.InstanceDrainRequested: None,
    ev.InstanceDraining: ev.InstanceDrainRequested,
    ev.InstanceLeft: ev.InstanceDraining,
    ev.InstanceRegistered: None,
    ev.InstanceYielded: ev.GroupHandoverStarted,
    ev.GroupHandoverStarted: None,
    ev.GroupHandoverCancelled: ev.GroupHandoverStarted,
    ev.GroupPaused: None,
    ev.GroupResumed: ev.GroupPaused,
}
"""What is told of a holder and of its group, and what each of it follows from."""


def tell_holder(reason: Reason, tale: GroupTale, fence: int) -> None:
    """Add what happened to the holder, and what was wanted of its group, since the pen is there."""
    told = [each for each in tale.after if type(each.event) in _FOLLOWS and _is_about(each, tale.view)]
    latest: dict[type[ev.Event], int] = {}
    reason.omitted += max(0, len(told) - _LATEST)
    for happening in told[-_LATEST:]:
        event = happening.event
        earlier = _FOLLOWS[type(event)]
        follows = [latest.get(earlier, fence) if earlier is not None else fence]
        if isinstance(event, ev.InstanceSuspected):
            follows = _signs(reason, event, happening.at_ns) or follows
        latest[type(event)] = reason.add(
            event.type.split(".")[1],
            said_of(event, happening.who),
            seq=happening.seq,
            at_ns=happening.at_ns,
            follows=follows,
            event=event.model_dump(mode="json", exclude={"contract"}),
        )


def _signs(reason: Reason, event: ev.InstanceSuspected, at_ns: int) -> list[int]:
    seen = {"source": event.source, "silence_ms": event.silence_ms, **event.evidence}
    return tell_signs(reason, event.instance, {**seen, "last_pulse_ns": event.last_pulse_ns}, Heard(), at_ns)


def _is_about(happening: Happening, view: GroupView) -> bool:
    if happening.who == GROUP_WHO or isinstance(happening.event, ev.GroupPaused | ev.GroupResumed):
        return True
    who = getattr(happening.event, "instance", "") if happening.who == WATCH_WHO else happening.who
    if who != view.holder:
        return False
    is_new_run = isinstance(happening.event, ev.InstanceRegistered)
    return is_new_run != (getattr(happening.event, "incarnation", "") == view.holder_incarnation)


def trouble_of(tale: GroupTale) -> str:
    """Say what speaks against the holder at the point, as a sentence after the answer; empty if nothing."""
    view = tale.view
    if view.holder is None:
        return ""
    holder = view.instances.get(view.holder)
    if holder is None or holder.incarnation != view.holder_incarnation:
        return f" But that run of {view.holder} is over, and nobody has been promoted yet."
    since = moment(holder.since_ns)
    if not holder.is_live:
        return (
            f" But it is {holder.state} since {since}{_because(tale, holder)}; nobody has been promoted yet."
        )
    if holder.state in SUSPECTED:
        return (
            f" But it is suspected since {since}{_because(tale, holder)}, and nobody can take over from it."
        )
    return _hindrance(view, holder)


def _hindrance(view: GroupView, holder: InstanceView) -> str:
    """Why a holder that is well starts no calls, or will not for long."""
    if holder.unhealthy is not None:
        return f" But it is unhealthy: {holder.unhealthy}."
    if view.handover is not None:
        return f" But it is to hand over to {view.handover.to}, since {moment(view.handover.since_ns)}."
    if view.paused:
        return f" But the group is paused by {view.paused_by}: no call is started."
    if holder.quarantined:
        return " But it is in quarantine: no call is started."
    return ""


def _because(tale: GroupTale, holder: InstanceView) -> str:
    """Why it was suspected, taken for dead, or left."""
    wanted = ev.InstanceSuspected | ev.InstanceLost | ev.InstanceLeft
    for happening in reversed(tale.after):
        event = happening.event
        if isinstance(event, wanted) and event.incarnation == holder.incarnation:
            return f" ({event.cause})" if event.cause else ""
    return ""


def tell_vacancy(reason: Reason, turn: Turn) -> int:
    """Add that nobody held the pen any more, and why; returns the link."""
    former, incarnation = turn.before.holder, turn.before.incarnation
    follows: list[int] = []
    for happening in turn.since:
        event = happening.event
        who = getattr(event, "instance", happening.who)
        if who != former or getattr(event, "incarnation", "") != incarnation:
            continue
        if isinstance(event, ev.InstanceRecovered):
            follows = []
        elif isinstance(event, ev.InstanceSuspected | ev.InstanceLost | ev.InstanceLeft):
            follows = follows or (
                _signs(reason, event, happening.at_ns) if isinstance(event, ev.InstanceSuspected) else []
            )
            what, said = event.type.split(".")[1], said_of(event, happening.who)
            follows = [reason.add(what, said, seq=happening.seq, at_ns=happening.at_ns, follows=follows)]
    vacated = turn.happening
    said = said_of(vacated.event, vacated.who)
    return reason.add("vacated", said, seq=vacated.seq, at_ns=vacated.at_ns, follows=follows)


def tell_silences(reason: Reason, tale: GroupTale, board: PulseBoard, point: Point) -> None:
    """Note that the holder, or the router that leads, was not heard just before the point, though the log
    says nothing of that yet: who is to say so may be gone, too.
    """
    view, lead = tale.view, tale.state.topology.leadership
    if not board.now_ns:  # no heartbeats are kept of that time
        return
    holder = view.instances.get(view.holder or "")
    if holder is not None and holder.is_live:
        pulse = board.instances.get((tale.service, tale.name, holder.id))
        if silence := _silence(pulse, holder.incarnation, holder.since_ns, point):
            reason.notes.append(f"{holder.id}, which holds the pen, had not been heard for {silence}")
    if lead.router is not None:
        pulse = board.routers.get(lead.router)
        if silence := _silence(pulse, lead.incarnation or "", lead.since_ns, point):
            reason.notes.append(
                f"router {lead.router}, which leads, had not been heard for {silence}: if it is gone, "
                "nothing is decided before another one leads"
            )


def _silence(pulse: Pulse | None, incarnation: str, since_ns: int, point: Point) -> str:
    """How long nothing was heard of it before the point; empty if that is not worth a word."""
    heard_ns = pulse.at_ns if pulse is not None and pulse.incarnation == incarnation else since_ns
    silent_ns = point.at_ns - heard_ns
    if silent_ns < _SILENT_NS:
        return ""
    window_ns = int(WINDOW_S * 1e9)
    return f"{lasted(silent_ns)} at this point" if silent_ns < window_ns else f"{WINDOW_S:.0f} s at least"
