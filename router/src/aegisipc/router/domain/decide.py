"""What a leading router decides, as a function of what it believes.

Every decision is one event for one subject, to be appended only if that subject has not moved since
(compare-and-set). So at most one of several routers can decide a thing, and a decision on stale belief is
refused by the server.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.lifecycles import SUSPECTED, InstanceState
from aegisipc.eventstore.subjects import Subjects
from aegisipc.eventstore.topology import GroupView, InstanceView, ServiceView
from aegisipc.router.domain.pulses import PulseBoard
from aegisipc.router.domain.state import RouterState

MAX_TOLD: Final = 8
"""How many differences, members or heirs an event names; of the rest it tells the number."""

MAX_TOLD_CHARS: Final = 200
"""Length of each. What instances say of themselves has no bound of its own, and an event has."""

_SIGNATURE_CHARS: Final = 90

_JOINING = frozenset({InstanceState.JOINING, InstanceState.SUSPECTED_JOINING})


@dataclass(frozen=True, slots=True)
class Policy:
    """When silence means something. All in milliseconds of the pulse stream's own time."""

    suspect_after_ms: int = 1000
    lost_after_ms: int = 3000
    leader_after_ms: int = 1000


@dataclass(frozen=True, slots=True)
class RouterIdentity:
    """Which router decides. ``incarnation`` tells this run from earlier ones of the same id."""

    id: str
    incarnation: str


class Decision(NamedTuple):
    """Append `event` to `subject` if its last record is still `expected_seq`."""

    subject: str
    event: ev.Event
    expected_seq: int


def elect(
    state: RouterState, board: PulseBoard, me: RouterIdentity, policy: Policy, subjects: Subjects
) -> Decision | None:
    """Decide whether to take the lead: when nobody has it, or whoever has it is silent."""
    lead = state.topology.leadership
    if lead.router == me.id and lead.incarnation == me.incarnation:
        return None
    if lead.router is None:
        cause = "nobody leads" if lead.term == 0 else f"the leader of term {lead.term} resigned"
    elif lead.router == me.id:
        cause = f"router {me.id!r} was restarted"
    else:
        silence_ms = board.silence_ms(board.routers.get(lead.router), lead.incarnation or "", lead.since_ns)
        if silence_ms <= policy.leader_after_ms:
            return None
        cause = f"leader {lead.router!r} has been silent for {silence_ms} ms"
    event = ev.RouterElected(term=lead.term + 1, router=me.id, incarnation=me.incarnation, cause=cause)
    return Decision(subjects.term, event, lead.seq)


def leads(state: RouterState, me: RouterIdentity) -> bool:
    """Tell whether this router leads, as far as it has read."""
    lead = state.topology.leadership
    return lead.router == me.id and lead.incarnation == me.incarnation


def decide(
    state: RouterState, board: PulseBoard, me: RouterIdentity, policy: Policy, subjects: Subjects
) -> list[Decision]:
    """Return what a leader has to decide now: at most one event per subject."""
    decisions: list[Decision] = []
    for service in state.topology.services.values():
        admitted_here = False
        for group in service.groups.values():
            watch = _watch(state, board, service, group, me, policy, may_admit=not admitted_here)
            if watch is not None:
                admitted_here = admitted_here or isinstance(watch, ev.InstanceAdmitted)
                decisions.append(Decision(subjects.watch(service.name, group.name), watch, group.watch_seq))
            fence = _fence(group, me) if group.mode == "owned" else None
            if fence is not None:
                decisions.append(Decision(subjects.fence(service.name, group.name), fence, group.fence_seq))
    return decisions


# -- instances ------------------------------------------------------------------------------------------


def _watch(
    state: RouterState,
    board: PulseBoard,
    service: ServiceView,
    group: GroupView,
    me: RouterIdentity,
    policy: Policy,
    *,
    may_admit: bool,
) -> ev.Event | None:
    """The first thing to say about the group's instances.

    One admission per service at a time (`may_admit`): the next one has to be judged by the contract and the
    resources of the first.
    """
    for instance in sorted(group.instances.values(), key=lambda i: i.registered_seq):
        if not instance.is_live:
            continue
        if not instance.admitted and instance.state in _JOINING:
            if may_admit:
                return _judge(state, service, group, instance, me)
            continue
        event = _judge_silence(board, group, instance, me, policy)
        if event is not None:
            return event
    return None


def _judge(
    state: RouterState, service: ServiceView, group: GroupView, instance: InstanceView, me: RouterIdentity
) -> ev.Event:
    error = (
        _mode_conflict(group, instance)
        or _contract_conflict(service, instance)
        or _resource_conflict(state, service, group, instance)
    )
    if error is None:
        return ev.InstanceAdmitted(instance=instance.id, incarnation=instance.incarnation, decided_by=me.id)
    return ev.InstanceRefused(
        instance=instance.id, incarnation=instance.incarnation, error=error, decided_by=me.id
    )


def _mode_conflict(group: GroupView, instance: InstanceView) -> ev.ErrorInfo | None:
    mode = instance.registration.mode
    if mode == group.mode and bool(instance.registration.resources) == (mode == "owned"):
        return None
    return ev.ErrorInfo(
        code="invalid_registration",
        message=f"cannot admit {instance.id!r} to {group.service}/{group.name}: it registered as {mode!r} "
        f"with {len(instance.registration.resources)} resources; owned groups have some, pools have none",
    )


def _contract_conflict(service: ServiceView, instance: InstanceView) -> ev.ErrorInfo | None:
    live = [other.id for other in service.live() if other is not instance]
    if not live:
        return None
    differences = contract_differences(service.contract, instance.registration.contract)
    if not differences:
        return None
    return ev.ErrorInfo(
        code="contract_conflict",
        message=f"cannot admit {instance.id!r}: its methods differ from those that service {service.name!r} "
        f"offers ({_listed(differences, '; ')}); stop {_listed(sorted(live))} first, or give the service "
        "another name",
        details={
            "service": service.name,
            "differences": [_shortened(difference) for difference in differences[:MAX_TOLD]],
            "more": max(0, len(differences) - MAX_TOLD),
        },
    )


def _listed(texts: Sequence[str], separator: str = ", ") -> str:
    told = [_shortened(text) for text in texts[:MAX_TOLD]]
    if len(texts) > MAX_TOLD:
        told.append(f"and {len(texts) - MAX_TOLD} more")
    return separator.join(told)


def _shortened(text: str, limit: int = MAX_TOLD_CHARS) -> str:
    """Keep both ends: signatures that differ often begin alike."""
    if len(text) <= limit:
        return text
    head = limit // 2
    return f"{text[:head]} … {text[len(text) - (limit - head - 3) :]}"


def contract_differences(has: ev.Contract, offers: ev.Contract) -> list[str]:
    """Say, for people, how two contracts differ; empty when they are the same."""
    differences = [f"{name}() is missing" for name in sorted(has.keys() - offers.keys())]
    differences += [f"{name}() is new" for name in sorted(offers.keys() - has.keys())]
    for name in sorted(has.keys() & offers.keys()):
        old, new = has[name], offers[name]
        if (old.arguments, old.returns) != (new.arguments, new.returns):
            before, after = (_shortened(m.signature, _SIGNATURE_CHARS) for m in (old, new))
            differences.append(
                f"{before} became {after}" if before != after else f"the types in {before} changed"
            )
        elif old.effect is not new.effect:
            differences.append(f"{name}() is {new.effect}, not {old.effect}")
    return differences


def _resource_conflict(
    state: RouterState, service: ServiceView, group: GroupView, instance: InstanceView
) -> ev.ErrorInfo | None:
    for resource in instance.registration.resources:
        holder = service.resources.get(resource)
        if holder is None or holder == group.name:
            continue
        members = [other.id for other in service.groups[holder].live()]
        open_calls = state.open_calls(service.name, holder)
        if not members and not open_calls:
            continue  # nobody serves it there and nothing waits for it: it may move
        why = f"its instances are {_listed(members)}" if members else f"{open_calls} calls wait for it there"
        return ev.ErrorInfo(
            code="resource_conflict",
            message=f"cannot admit {instance.id!r} to {service.name}/{group.name}: resource "
            f"{_shortened(resource)!r} belongs to group {holder!r} ({why}); join that group, or leave the "
            "resource out",
            details={"resource": _shortened(resource), "group": holder, "requested_by": group.name},
        )
    return None


def _judge_silence(
    board: PulseBoard, group: GroupView, instance: InstanceView, me: RouterIdentity, policy: Policy
) -> ev.Event | None:
    pulse = board.instances.get((group.service, group.name, instance.id))
    suspected = instance.state in SUSPECTED
    heard = pulse is not None and pulse.incarnation == instance.incarnation
    # Who was never heard of is given time from its latest record on; but being suspected is such a record,
    # and no sign of life.
    known_since_ns = 0 if heard or suspected else instance.since_ns
    silence_ms = board.silence_ms(pulse, instance.incarnation, known_since_ns)
    about: dict[str, Any] = {
        "instance": instance.id,
        "incarnation": instance.incarnation,
        "decided_by": me.id,
    }
    last_pulse_ns = pulse.at_ns if pulse is not None and heard else 0
    if silence_ms <= policy.suspect_after_ms:
        return ev.InstanceRecovered(**about) if suspected else None
    if not suspected:
        return ev.InstanceSuspected(**about, last_pulse_ns=last_pulse_ns, silence_ms=silence_ms)
    doubted_ms = (board.now_ns - instance.since_ns) // 1_000_000
    if silence_ms > policy.lost_after_ms and (
        heard or doubted_ms > policy.lost_after_ms - policy.suspect_after_ms
    ):
        return ev.InstanceLost(**about, last_pulse_ns=last_pulse_ns, silence_ms=silence_ms)
    return None


# -- the pen --------------------------------------------------------------------------------------------


def _fence(group: GroupView, me: RouterIdentity) -> ev.Event | None:
    cause = _vacancy(group)
    if cause is None:
        return None
    heir = _heir(group)
    if heir is not None:
        return ev.GroupPromoted(
            epoch=group.epoch + 1,
            holder=heir.id,
            incarnation=heir.incarnation,
            cause=cause,
            evidence=_evidence(group),
            decided_by=me.id,
        )
    if group.holder is not None:
        return ev.GroupVacated(epoch=group.epoch, cause=cause, evidence=_evidence(group), decided_by=me.id)
    return None


def _vacancy(group: GroupView) -> str | None:
    """Why the group needs a holder, or ``None`` if it has a live one."""
    if group.holder is None:
        return "first instance of the group" if group.epoch == 0 else f"vacant: {group.cause}"
    holder = group.instances.get(group.holder)
    if holder is None:
        return f"holder {group.holder!r} is unknown"
    if holder.incarnation != group.holder_incarnation:
        return f"holder {group.holder!r} was restarted"
    if not holder.is_live:
        return f"holder {group.holder!r} {'left' if holder.state is InstanceState.LEFT else 'was lost'}"
    return None


def _heir(group: GroupView) -> InstanceView | None:
    """First come, first served; a suspected one only if there is no other."""
    ready: Iterator[InstanceView] = group.ready()
    return min(ready, key=lambda i: (i.state in SUSPECTED, i.registered_seq), default=None)


def _evidence(group: GroupView) -> dict[str, Any]:
    holder = group.instances.get(group.holder or "")
    ready = [instance.id for instance in group.ready()]
    evidence: dict[str, Any] = {
        "former_holder": group.holder,
        "former_epoch": group.epoch,
        "former_state": str(holder.state) if holder else None,
        "ready": ready[:MAX_TOLD],
    }
    if len(ready) > MAX_TOLD:
        evidence["more_ready"] = len(ready) - MAX_TOLD
    return evidence
