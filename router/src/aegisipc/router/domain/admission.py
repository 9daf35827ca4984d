"""Who may join: whether a registration stands beside those that stand already."""

from __future__ import annotations

from typing import Final

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.lifecycles import InstanceState
from aegisipc.eventstore.topology import GroupView, InstanceView, ServiceView
from aegisipc.router.domain.state import RouterState
from aegisipc.router.domain.terms import MAX_TOLD, RouterIdentity, listed, shortened

_SIGNATURE_CHARS: Final = 90

_JOINING = frozenset({InstanceState.JOINING, InstanceState.SUSPECTED_JOINING})


def awaits_admission(instance: InstanceView) -> bool:
    """It registered, and nobody has said yet whether that stands."""
    return not instance.admitted and instance.state in _JOINING


def judge(
    state: RouterState, service: ServiceView, group: GroupView, instance: InstanceView, me: RouterIdentity
) -> ev.InstanceAdmitted | ev.InstanceRefused:
    """Accept a registration, or say why not. First come, first served: by what stands when it is its turn."""
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
        f"offers ({listed(differences, '; ')}); stop {listed(sorted(live))} first, or give the service "
        "another name",
        details={
            "service": service.name,
            "differences": [shortened(difference) for difference in differences[:MAX_TOLD]],
            "more": max(0, len(differences) - MAX_TOLD),
        },
    )


def contract_differences(has: ev.Contract, offers: ev.Contract) -> list[str]:
    """Say, for people, how two contracts differ; empty when they are the same."""
    differences = [f"{name}() is missing" for name in sorted(has.keys() - offers.keys())]
    differences += [f"{name}() is new" for name in sorted(offers.keys() - has.keys())]
    for name in sorted(has.keys() & offers.keys()):
        old, new = has[name], offers[name]
        if (old.arguments, old.returns) != (new.arguments, new.returns):
            before, after = (shortened(m.signature, _SIGNATURE_CHARS) for m in (old, new))
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
        why = f"its instances are {listed(members)}" if members else f"{open_calls} calls wait for it there"
        return ev.ErrorInfo(
            code="resource_conflict",
            message=f"cannot admit {instance.id!r} to {service.name}/{group.name}: resource "
            f"{shortened(resource)!r} belongs to group {holder!r} ({why}); join that group, or leave the "
            "resource out",
            details={"resource": shortened(resource), "group": holder, "requested_by": group.name},
        )
    return None
