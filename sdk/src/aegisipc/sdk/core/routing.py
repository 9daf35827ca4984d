"""Where a call goes: from service, method and resource to a group."""

from __future__ import annotations

from aegisipc.eventstore.names import POOL_GROUP
from aegisipc.eventstore.topology import ServiceView, Topology
from aegisipc.sdk.errors import NoRoute


def route(topology: Topology, service: str, method: str, resource: str | None) -> str:
    """Return the group that a call goes to.

    A group without a live instance is a good route: the call waits there, durably, for one to come.

    Raises:
        NoRoute: no such service, method or resource is known; says which there are.
    """
    view = topology.services.get(service)
    if view is None or not view.contract:
        known = sorted(name for name, s in topology.services.items() if s.contract)
        raise NoRoute(
            f"cannot call {service}.{method}: no service {service!r} has joined this namespace"
            + (f"; there is {_some(known)}" if known else "; start it, or check the namespace"),
            service=service,
        )
    if method not in view.contract:
        raise NoRoute(
            f"cannot call {service}.{method}: {service!r} has no such method; it has "
            f"{_some(sorted(view.contract))}",
            service=service,
            method=method,
        )
    return _by_resource(view, method, resource) if resource is not None else _without_resource(view, method)


def _by_resource(view: ServiceView, method: str, resource: str) -> str:
    group = view.resources.get(resource)
    if group is not None:
        return group
    if view.resources:
        raise NoRoute(
            f"cannot call {view.name}.{method} for resource {resource!r}: no group serves it; "
            f"served are {_some(sorted(view.resources))}",
            service=view.name,
            resource=resource,
        )
    raise NoRoute(
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
