"""What a leading router decides, as a function of what it believes.

Every decision is one event for one subject, to be appended only if that subject has not moved since
(compare-and-set). So at most one of several routers can decide a thing, and a decision on stale belief is
refused by the server.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.pulses import PulseBoard
from aegisipc.eventstore.subjects import Subjects
from aegisipc.eventstore.system import SystemState
from aegisipc.eventstore.topology import GroupView, ServiceView
from aegisipc.router.domain.admission import awaits_admission, judge
from aegisipc.router.domain.flow import judge_flow
from aegisipc.router.domain.health import judge_health
from aegisipc.router.domain.pausing import catch_up_with_service
from aegisipc.router.domain.pen import Pen
from aegisipc.router.domain.terms import Decision, Policy, RouterIdentity

__all__ = ["Decision", "Policy", "RouterIdentity", "decide", "elect", "leads"]


def elect(
    state: SystemState, board: PulseBoard, me: RouterIdentity, policy: Policy, subjects: Subjects
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
    event = ev.RouterElected(
        term=lead.term + 1, router=me.id, incarnation=me.incarnation, cause=cause, policy=asdict(policy)
    )
    return Decision(subjects.term, event, lead.seq)


def leads(state: SystemState, me: RouterIdentity) -> bool:
    """Tell whether this router leads, as far as it has read."""
    lead = state.topology.leadership
    return lead.router == me.id and lead.incarnation == me.incarnation


def decide(
    state: SystemState, board: PulseBoard, me: RouterIdentity, policy: Policy, subjects: Subjects
) -> list[Decision]:
    """Return what a leader has to decide now: at most one event per subject.

    Promotions come first, so that no suspicion has to be durable before the standby may begin.
    """
    fences: list[Decision] = []
    watches: list[Decision] = []
    for service in state.topology.services.values():
        watches += _watches(state, board, service, me, policy, subjects)
        for group in service.groups.values():
            fence = Pen(group, state, board, me, policy).decide() if group.mode == "owned" else None
            if fence is not None:
                fences.append(Decision(subjects.fence(service.name, group.name), fence, group.fence_seq))
    return fences + watches


def _watches(
    state: SystemState,
    board: PulseBoard,
    service: ServiceView,
    me: RouterIdentity,
    policy: Policy,
    subjects: Subjects,
) -> Iterator[Decision]:
    """One admission per service at a time: the next one has to be judged by the contract and the resources of
    the first.
    """
    admitted_here = False
    for group in service.groups.values():
        event: ev.Event | None = catch_up_with_service(service, group, me)
        if event is None:
            event = _watch(state, board, service, group, me, policy, may_admit=not admitted_here)
        if event is None:
            event = _flow(state, board, group, me)
        if event is not None:
            admitted_here = admitted_here or isinstance(event, ev.InstanceAdmitted)
            yield Decision(subjects.watch(service.name, group.name), event, group.watch_seq)


def _watch(
    state: SystemState,
    board: PulseBoard,
    service: ServiceView,
    group: GroupView,
    me: RouterIdentity,
    policy: Policy,
    *,
    may_admit: bool,
) -> ev.Event | None:
    """The first thing to say about the group's instances."""
    for instance in sorted(group.instances.values(), key=lambda i: i.registered_seq):
        if not instance.is_live:
            continue
        if awaits_admission(instance):
            if may_admit:
                return judge(state, service, group, instance, me)
            continue
        event = judge_health(state, board, instance, me, policy)
        if event is not None:
            return event
    return None


def _flow(state: SystemState, board: PulseBoard, group: GroupView, me: RouterIdentity) -> ev.Event | None:
    open_calls = state.open_calls(group.service, group.name)
    if not open_calls and group.congestion is None:  # as it mostly is
        return None
    rate = state.rate(group.service, group.name, board.now_ns)
    return judge_flow(group, open_calls, rate, board.now_ns, me)
