"""How a group stands where there is no change of its pen to explain: nobody ever held it, or it is a pool."""

from __future__ import annotations

from typing import Final

from aegisipc.eventstore.checkpoints import OnSkip
from aegisipc.eventstore.replay.points import Point
from aegisipc.eventstore.replay.reason_calls import group_state_at
from aegisipc.eventstore.replay.reason_holder import trouble_of
from aegisipc.eventstore.replay.reason_reading import GroupTale
from aegisipc.eventstore.replay.reason_steps import Reason, counted, moment, named
from aegisipc.eventstore.replay.reason_words import said_of
from aegisipc.eventstore.replay.sources import Source

_LATEST: Final = 30
"""So many of the latest events are told."""


def never_held(tale: GroupTale, reason: Reason) -> Reason:
    """Nobody ever held the pen, or since before the history begins."""
    view = tale.view
    name = f"{tale.service}/{tale.name}"
    for happening in list(tale.after)[-_LATEST:]:
        said = said_of(happening.event, happening.who)
        what = happening.event.type.rpartition(".v")[0]
        reason.add(what, said, seq=happening.seq, at_ns=happening.at_ns)
    tell_standing(reason, tale)
    reason.details = {"holder": view.holder, "epoch": view.epoch or None, "since_ns": view.since_ns or None}
    if view.holder is None:
        there = [f"{each.id} ({each.state})" for each in view.instances.values()]
        reason.answer = f"{name}: nobody has been active yet, {view.cause}. Instances: {named(there)}."
        return reason
    reason.answer = (
        f"{name}: {view.holder} is active at epoch {view.epoch} since {moment(view.since_ns)}, because "
        f"{view.cause}.{trouble_of(tale)}"
    )
    reason.notes.append("that was decided before this history begins: what led there is not in it")
    return reason


async def of_pool(
    source: Source, tale: GroupTale, reason: Reason, point: Point, on_skip: OnSkip | None
) -> Reason:
    """A pool has no pen: whoever is ready takes calls."""
    state = await group_state_at(source, tale.service, tale.name, point.seq, on_skip)
    view = tale.view
    counts = state.counts(tale.service, tale.name)
    ready = [each.id for each in view.ready()]
    for happening in list(tale.after)[-_LATEST:]:
        what = happening.event.type.rpartition(".v")[0]
        said = said_of(happening.event, happening.who)
        reason.add(what, said, seq=happening.seq, at_ns=happening.at_ns)
    reason.omitted += max(0, len(tale.after) - _LATEST)
    reason.answer = (
        f"{tale.service}/{tale.name} is a pool: nobody holds a pen, and whoever is ready takes calls. "
        f"{counted(len(ready), 'worker')} ready ({named(ready)}); {counted(counts.open, 'call')} open, "
        f"{counts.claimed} begun, {counts.doubts} in doubt."
    )
    reason.details = {"ready": ready, **counts._asdict()}
    tell_standing(reason, tale)
    return reason


def tell_standing(reason: Reason, tale: GroupTale) -> None:
    """What holds at the point, beside who is active."""
    view = tale.view
    lead = tale.state.topology.leadership
    if lead.router is None:
        why = f"that of term {lead.term} resigned" if lead.term else "none was ever elected"
        reason.notes.append(f"no router leads ({why}): nobody is admitted, promoted or taken for dead")
    if view.paused:
        reason.notes.append(f"the group is paused by {view.paused_by}: calls are queued, and none is started")
    if view.handover is not None:
        by = f", as {view.handover.author} wants it" if view.handover.author else ""
        reason.notes.append(
            f"a handover to {view.handover.to} is under way since {moment(view.handover.since_ns)}{by}: "
            f"{view.handover.cause}"
        )
    holder = view.instances.get(view.holder or "")
    if holder is not None and holder.quarantined:
        reason.notes.append(f"{holder.id} is in quarantine: it queues calls, and runs none")
    if holder is not None and holder.unhealthy is not None:
        reason.notes.append(f"{holder.id} is unhealthy: {holder.unhealthy}")
