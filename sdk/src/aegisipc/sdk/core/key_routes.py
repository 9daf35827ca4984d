"""Which group an idempotency key is looked for in: the scope of a key is one group of a service."""

from __future__ import annotations

from aegisipc.eventstore.names import POOL_GROUP
from aegisipc.eventstore.topology import Topology
from aegisipc.sdk.errors import NoRoute


def group_of_key(topology: Topology, service: str, resource: str | None) -> str:
    """Return the group that calls of a service about a resource (``None``: about none) go to.

    Raises:
        NoRoute: there is no such service or resource, or several groups come into question.
    """
    view = topology.services.get(service)
    if view is None or not view.groups:
        raise NoRoute(
            f"cannot look for an idempotency key of service {service!r}: it has not joined this namespace; "
            "check the service's name and the namespace",
            service=service,
        )
    if resource is not None:
        group = view.resources.get(resource)
        if group is None:
            raise NoRoute(
                f"cannot look for an idempotency key of {service!r} and resource {resource!r}: no group "
                "serves it",
                service=service,
                resource=resource,
            )
        return group
    owned = set(view.resources.values())
    if POOL_GROUP in view.groups and view.groups[POOL_GROUP].instances:
        return POOL_GROUP
    if len(owned) == 1:
        return owned.pop()
    raise NoRoute(
        f"cannot look for an idempotency key of {service!r} without resource_id: it has {len(owned)} groups, "
        "and each has keys of its own; name the resource that the call was about",
        service=service,
    )
