"""Who may join: whether a registration stands beside those that stand already."""

from __future__ import annotations

from collections.abc import Mapping

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.contracts import Difference, Offer, changes_of, offers_of
from aegisipc.eventstore.lifecycles import InstanceState
from aegisipc.eventstore.system import SystemState
from aegisipc.eventstore.topology import GroupView, InstanceView, ServiceView
from aegisipc.router.domain.terms import MAX_TOLD, RouterIdentity, listed, shortened

_JOINING = frozenset({InstanceState.JOINING, InstanceState.SUSPECTED_JOINING})


def awaits_admission(instance: InstanceView) -> bool:
    """It registered, and nobody has said yet whether that stands."""
    return not instance.admitted and instance.state in _JOINING


def judge(
    state: SystemState, service: ServiceView, group: GroupView, instance: InstanceView, me: RouterIdentity
) -> ev.InstanceAdmitted | ev.InstanceRefused:
    """Accept a registration, or say why not. First come, first served: by what stands when it is its turn."""
    error = (
        _mode_conflict(group, instance)
        or _contract_conflict(state, service, group, instance)
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


def _contract_conflict(
    state: SystemState, service: ServiceView, group: GroupView, instance: InstanceView
) -> ev.ErrorInfo | None:
    """Whoever can call the group now must be able to go on: so the instance has to take what the active one
    takes, or, of a pool, what some worker takes that any call may go to already. Beside every other instance
    of the service it must be a step of one evolution, in either direction.
    """
    offers = _offers(state, instance)
    broken: list[Difference] = []
    references = _references(group, instance)
    for reference in references:
        broken = _breaking(service, _offers(state, reference), offers)
        if not broken:
            break
    if broken:
        return _conflict(service, instance, broken, references)
    for other in _distinct([each for each in service.live() if each is not instance]):
        broken = _breaking(service, _offers(state, other), offers)
        if broken and _breaking(service, offers, _offers(state, other)):
            return _conflict(service, instance, broken, [other])
    return None


def _references(group: GroupView, instance: InstanceView) -> list[InstanceView]:
    """Those of the group of which one is enough."""
    live = [other for other in group.live() if other is not instance]
    holder = (group.holder, group.holder_incarnation)
    return [other for other in live if (other.id, other.incarnation) == holder] or _distinct(live)


def _distinct(instances: list[InstanceView]) -> list[InstanceView]:
    """Of those that offer the same, one is enough."""
    found: list[InstanceView] = []
    for instance in instances:
        contract = instance.registration.contract
        if all(contract != other.registration.contract for other in found):
            found.append(instance)
    return found


def _offers(state: SystemState, instance: InstanceView) -> dict[str, Offer]:
    return offers_of(instance.registration.contract, state.schemas)


def _breaking(service: ServiceView, old: Mapping[str, Offer], new: Mapping[str, Offer]) -> list[Difference]:
    return [difference for difference in changes_of(service.name, old, new) if difference.breaking]


def _conflict(
    service: ServiceView, instance: InstanceView, broken: list[Difference], against: list[InstanceView]
) -> ev.ErrorInfo:
    differences = [str(difference) for difference in broken]
    return ev.ErrorInfo(
        code="contract_conflict",
        message=f"cannot admit {instance.id!r}: whoever calls service {service.name!r} as "
        f"{listed(sorted(other.id for other in against))} offers it would break "
        f"({listed(differences, '; ')}); offer what changed as a later version beside the old one, or stop "
        "those instances first",
        details={
            "service": service.name,
            "differences": [shortened(difference) for difference in differences[:MAX_TOLD]],
            "more": max(0, len(differences) - MAX_TOLD),
        },
    )


def _resource_conflict(
    state: SystemState, service: ServiceView, group: GroupView, instance: InstanceView
) -> ev.ErrorInfo | None:
    for resource in instance.registration.resources:
        holder = service.resources.get(resource)
        if holder is None or holder == group.name:
            continue
        members = [other.id for other in service.groups[holder].live()]
        open_calls = state.open_calls(service.name, holder)
        if not members and not open_calls:
            continue  # nobody serves it there and nothing waits for it: it may move
        why = f"its instances are {listed(members)}" if members else f"{open_calls} calls wait for it there"
        return ev.ErrorInfo(
            code="resource_conflict",
            message=f"cannot admit {instance.id!r} to {service.name}/{group.name}: resource "
            f"{shortened(resource)!r} belongs to group {holder!r} ({why}); join that group, or leave the "
            "resource out",
            details={"resource": shortened(resource), "group": holder, "requested_by": group.name},
        )
    return None
