"""Where a call goes: from service, method and resource to a group."""

from __future__ import annotations

from collections.abc import Iterable

from aegisipc.eventstore.names import POOL_GROUP, split_method
from aegisipc.eventstore.topology import ServiceView, Topology
from aegisipc.sdk.errors import NoRoute


def route(topology: Topology, service: str, method: str, resource: str | None) -> str:
    """Return the group that a call goes to.

    A group without a live instance is a good route: the call waits there, durably, for one to come.

    Raises:
        NoRoute: no such service, method or resource is known; says which there are.
    """
    view = topology.services.get(service)
    if view is None or not any(group.contract for group in view.groups.values()):
        known = sorted(name for name, s in topology.services.items() if s.contract)
        raise NoRoute(
            f"cannot call {service}.{method}: no service {service!r} has joined this namespace"
            + (f"; there is {_some(known)}" if known else "; start it, or check the namespace"),
            service=service,
        )
    group = view.resources.get(resource) if resource is not None else None
    if group is None:
        if method not in view.contract:
            raise _no_method(view, method, view.contract, repr(service))
        if resource is not None:
            raise _nobody_serves(view, method, resource)
        group = _without_resource(view, method)
    offered = view.groups[group].contract
    if method not in offered:
        whose = f"group {group!r} of {service!r}" if method in view.contract else repr(service)
        raise _no_method(view, method, offered, whose)
    return group


def _no_method(view: ServiceView, method: str, offered: Iterable[str], whose: str) -> NoRoute:
    """Of a group in which an older instance is active, a method may be missing that others offer already."""
    has = sorted(offered)
    base, version = split_method(method)
    versions = [name for name in has if split_method(name)[0] == base]
    if versions:
        why = f"{whose} has no version {version} of {base!r}; it has {_some(versions)}"
    else:
        why = f"{whose} has no such method; it has {_some(has)}"
    return NoRoute(f"cannot call {view.name}.{method}: {why}", service=view.name, method=method)


def _nobody_serves(view: ServiceView, method: str, resource: str) -> NoRoute:
    if view.resources:
        return NoRoute(
            f"cannot call {view.name}.{method} for resource {resource!r}: no group serves it; "
            f"served are {_some(sorted(view.resources))}",
            service=view.name,
            resource=resource,
        )
    return NoRoute(
        f"cannot call {view.name}.{method} for resource {resource!r}: {view.name!r} is a pool and keeps no "
        "order; "
        "call it without resource_id",
        service=view.name,
        resource=resource,
    )


def _without_resource(view: ServiceView, method: str) -> str:
    pool = view.groups.get(POOL_GROUP)
    if pool is not None and any(i.admitted for i in pool.instances.values()):
        return POOL_GROUP
    owned = set(view.resources.values())
    if len(owned) == 1:
        return owned.pop()
    raise NoRoute(
        f"cannot call {view.name}.{method} without resource_id: {view.name!r} has {len(owned)} groups; "
        f"name a resource, one of {_some(sorted(view.resources))}",
        service=view.name,
    )


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:8])
    return f"{shown} and {len(names) - 8} more" if len(names) > 8 else shown
