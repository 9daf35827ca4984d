"""What the system looked like at a point, as plain data: the answer first, then what it rests on.

Pure. Everything is by name (``groups["orders/g1"]``), so that two views can be compared; times are absolute,
in ISO form and as Unix nanoseconds (``…_ns``), so that two moments differ in what happened only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from aegisipc.eventstore.calls import GroupCalls, OpenCall
from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.ids import format_call_id, time_of
from aegisipc.eventstore.lifecycles import CallState
from aegisipc.eventstore.pulses import Pulse, PulseBoard
from aegisipc.eventstore.replay.extents import Point
from aegisipc.eventstore.replay.filters import ALL, Filters
from aegisipc.eventstore.replay.moments import iso
from aegisipc.eventstore.system import GroupKey, SystemState
from aegisipc.eventstore.topology import GroupView, InstanceView
from aegisipc.eventstore.views import role_of

type Plain = dict[str, Any]

MAX_LISTED: Final = 100
"""So many open calls, and so many that wait for another attempt, are listed by default; all are counted."""

SKIPPED: Final = (
    "skipped: this version does not know it; the state shown is without it (a newer version may show more)"
)
"""What becomes of an event of a type or version that is not known."""

_UNKNOWN: Final = "unknown type "


class NothingMatches(AegisError):
    """A filter names what is not there at that point. Fields: ``what``, ``name``, ``known``."""

    code = "nothing_matches"


def view_of(
    state: SystemState,
    board: PulseBoard,
    point: Point,
    filters: Filters = ALL,
    *,
    max_listed: int = MAX_LISTED,
) -> Plain:
    """Return what there is at a point. Calls in doubt are all listed; of the other open ones, the oldest
    `max_listed`.
    """
    keys = [key for key in _all_groups(state) if _is_wanted(state, key, filters)]
    calls = [(key, call) for key in keys if key in state.calls for call in _calls(state.calls[key], filters)]
    calls.sort(key=lambda found: (found[1].seq, found[1].call_id))
    doubts = [found for found in calls if found[1].state is CallState.IN_DOUBT]
    retrying = [found for found in calls if found[1].state is CallState.RETRY_WAIT]
    return {
        "point": _point(point),
        "position": state.position,
        "position_time": iso(state.position_ns) if state.position else None,
        "leader": _leader(state),
        "groups": {"/".join(key): _group(state, key, filters) for key in keys},
        "in_doubt": {format_call_id(call.call_id): _call(key, call) for key, call in doubts},
        "open": _listed(calls, max_listed),
        "retrying": _listed(retrying, max_listed),
        "anomalies": _anomalies(state, keys),
        "heartbeats": _heartbeats(state, board, keys),
    }


type Names = dict[GroupKey, set[str]]
"""Groups, and the resources of each."""


def names_in(state: SystemState) -> Names:
    """Return what filters may name at a point."""
    return {key: _resources(state, key) for key in _all_groups(state)}


def check_filters(filters: Filters, *names: Names) -> None:
    """See that there is what the filters name, in at least one of these.

    Raises:
        NothingMatches: there is not; the message names what there is.
    """
    found = [(key, resources) for each in names for key, resources in each.items()]
    _check("service", filters.service, {service for (service, _), _ in found})
    of_service = {group for (service, group), _ in found if filters.service in (None, service)}
    _check("group", filters.group, of_service)
    owned = (resources for key, resources in found if filters.holds(*key))
    _check("resource", filters.resource, set().union(*owned))


def _check(what: str, name: str | None, known: set[str]) -> None:
    if name is None or name in known:
        return
    some = ", ".join(sorted(known)[:8])
    there_is = f"there is {some}{' and more' if len(known) > 8 else ''}" if known else "there is none"
    raise NothingMatches(
        f"cannot show {what} {name!r}: at this point {there_is}; leave --{what} out to see everything",
        what=what,
        name=name,
        known=sorted(known)[:100],
    )


# -- which groups and calls -----------------------------------------------------------------------------


def _all_groups(state: SystemState) -> list[GroupKey]:
    """Those that somebody joined, and those that were only ever called."""
    joined = {(group.service, group.name) for group in state.topology.groups()}
    return sorted(joined | state.calls.keys())


def _is_wanted(state: SystemState, key: GroupKey, filters: Filters) -> bool:
    if not filters.holds(*key):
        return False
    return filters.resource is None or filters.resource in _resources(state, key)


def _resources(state: SystemState, key: GroupKey) -> set[str]:
    """What belongs to a group, and what its open calls are for."""
    group = state.topology.group(*key)
    calls = state.calls.get(key)
    called = {call.resource for call in calls.open.values() if call.resource} if calls is not None else set()
    return (group.resources if group is not None else set()) | called


def _calls(calls: GroupCalls, filters: Filters) -> Iterator[OpenCall]:
    wanted = filters.resource
    return (call for call in calls.open.values() if wanted is None or call.resource == wanted)


# -- groups and instances -------------------------------------------------------------------------------


def _group(state: SystemState, key: GroupKey, filters: Filters) -> Plain:
    group = state.topology.group(*key) or GroupView(*key)
    handover = group.handover
    return {
        "mode": group.mode,
        "active": group.holder,
        "incarnation": group.holder_incarnation,
        "epoch": group.epoch,
        "state": str(group.state),
        "since": iso(group.since_ns),
        "since_ns": group.since_ns,
        "why": group.cause,
        "fence_seq": group.fence_seq,
        "paused_by": group.paused_by if group.paused else None,
        "handover": None if handover is None else {**handover._asdict(), "since": iso(handover.since_ns)},
        "yielded_epoch": group.yielded_epoch,
        "congestion": group.congestion._asdict() if group.congestion is not None else None,
        "resources": sorted(group.resources),
        "calls": _counts(state.calls.get(key), filters),
        "instances": {
            each.id: _instance(group, each) for each in sorted(group.instances.values(), key=_joined_first)
        },
    }


def _joined_first(instance: InstanceView) -> tuple[int, str]:
    return instance.registered_seq, instance.id


def _instance(group: GroupView, instance: InstanceView) -> Plain:
    return {
        "role": role_of(group, instance),
        "state": str(instance.state),
        "since": iso(instance.since_ns),
        "since_ns": instance.since_ns,
        "admitted": instance.admitted,
        "eligible": instance.is_eligible,
        "incarnation": instance.incarnation,
        "registered_seq": instance.registered_seq,
        "unhealthy": instance.unhealthy,
        "quarantined": instance.quarantined,
        "drain_requested_by": instance.drain_requested_by,
        "refusal": instance.refusal.message if instance.refusal is not None else None,
        "host": instance.registration.host,
        "pid": instance.registration.pid,
        "version": instance.registration.version,
    }


# -- calls ----------------------------------------------------------------------------------------------


def _counts(calls: GroupCalls | None, filters: Filters) -> Plain:
    found = list(_calls(calls, filters)) if calls is not None else []
    states = [call.state for call in found]
    oldest = min(found, key=lambda call: (call.seq, call.call_id), default=None)
    concluded = sorted(calls.concluded.items()) if calls is not None else []
    return {
        "open": len(found),
        "claimed": states.count(CallState.STARTED),
        "in_doubt": states.count(CallState.IN_DOUBT),
        "retrying": states.count(CallState.RETRY_WAIT),
        "oldest": None if oldest is None else {"call": format_call_id(oldest.call_id), **_made(oldest)},
        "accepted": calls.accepted if calls is not None else 0,
        "concluded": {mark.name.lower(): count for mark, count in concluded if count},
    }


def _made(call: OpenCall) -> Plain:
    """When it was made, as its id says: its client's estimate of the server's clock, to the millisecond."""
    made_ns = time_of(call.call_id) * 1_000_000
    return {"made": iso(made_ns), "made_ns": made_ns}


def _listed(calls: list[tuple[GroupKey, OpenCall]], limit: int) -> Plain:
    shown = {format_call_id(call.call_id): _call(key, call) for key, call in calls[:limit]}
    return {"count": len(calls), "left_out": len(calls) - len(shown), "oldest_first": shown}


def _call(key: GroupKey, call: OpenCall) -> Plain:
    return {
        "group": "/".join(key),
        "method": call.method,
        "resource": call.resource,
        "client": call.client,
        "state": str(call.state),
        **_made(call),
        "since": iso(call.since_ns),
        "since_ns": call.since_ns,
        "deadline": iso(call.deadline_ns),
        "deadline_ns": call.deadline_ns,
        "claimed_by": call.claimed_by,
        "claimed_epoch": call.claimed_epoch,
        "seq": call.seq,
        "said_seq": call.said_seq,
        "tries": call.tries,
        "retry_at": iso(call.retry_at_ns) if call.retry_at_ns else None,
        "attempts": call.attempts,
        "cancel": ": ".join(filter(None, call.cancel)) if call.cancel is not None else None,
        "evidence_of": call.evidence.writer if call.evidence is not None else None,
        "is_requeued": call.is_requeued,
    }


# -- the rest -------------------------------------------------------------------------------------------


def _point(point: Point) -> Plain:
    extent = point.extent
    return {
        "asked": point.said,
        "seq": point.seq,
        "at": iso(point.at_ns),
        "at_ns": point.at_ns,
        "log": {
            "first_seq": extent.first_seq,
            "last_seq": extent.last_seq,
            "first": iso(extent.first_ns),
            "last": iso(extent.last_ns),
        },
    }


def _leader(state: SystemState) -> Plain:
    lead = state.topology.leadership
    return {
        "router": lead.router,
        "incarnation": lead.incarnation,
        "term": lead.term,
        "seq": lead.seq,
        "since": iso(lead.since_ns) if lead.seq else None,
        "since_ns": lead.since_ns,
        "policy": lead.policy,
    }


def _anomalies(state: SystemState, keys: Iterable[GroupKey]) -> Plain:
    """What did not fit. Counted since the log began, for all services: what cannot be read is nobody's."""
    found = state.topology.anomalies
    unknown = {
        name.removeprefix(_UNKNOWN): found[name] for name in sorted(found) if name.startswith(_UNKNOWN)
    }
    told: Plain = {
        "unknown_types": unknown,
        "topology": {name: found[name] for name in sorted(found) if not name.startswith(_UNKNOWN)},
        "calls": {
            "/".join(key): dict(sorted(state.calls[key].anomalies.items()))
            for key in keys
            if key in state.calls and state.calls[key].anomalies
        },
        "unreadable": state.unreadable,
    }
    return told | {"policy": SKIPPED} if unknown else told


def _heartbeats(state: SystemState, board: PulseBoard, keys: Iterable[GroupKey]) -> Plain:
    """The latest heartbeat of each live instance that is shown, and of the routers."""
    instances: dict[str, Plain | None] = {}
    for key in keys:
        group = state.topology.group(*key)
        for each in group.instances.values() if group is not None else ():
            if each.is_live:
                pulse = board.instances.get((*key, each.id))
                of_this_run = pulse is not None and pulse.incarnation == each.incarnation
                instances["/".join((*key, each.id))] = _pulse(pulse) if pulse and of_this_run else None
    return {
        "newest": iso(board.now_ns) if board.now_ns else None,
        "newest_ns": board.now_ns,
        "instances": instances,
        "routers": {name: _pulse(pulse) for name, pulse in sorted(board.routers.items())},
    }


def _pulse(pulse: Pulse) -> Plain:
    report: Mapping[str, Any] = pulse.report
    return {"at": iso(pulse.at_ns), "at_ns": pulse.at_ns, "report": dict(sorted(report.items()))}
