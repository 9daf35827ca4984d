"""Pausing of whole services: each group is told on its own subject, and none must be left out.

A command writes one event per group. It may be cut off half way, and a group may be made after it. So whoever
leads lets each group catch up with what was last said of its service.
"""

from __future__ import annotations

from typing import Final

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.topology import GroupView, ServiceView
from aegisipc.router.domain.terms import RouterIdentity

_FROM_SERVICE: Final = "the whole service"


def catch_up_with_service(
    service: ServiceView, group: GroupView, me: RouterIdentity
) -> ev.GroupPaused | ev.GroupResumed | None:
    """Pause or resume a group that has not been told since its service was paused or resumed.

    A word to the group alone that came later than that to the service stands.
    """
    if group.pause_seq >= service.pause_seq or group.paused is service.paused:
        return None
    if service.paused:
        author, reason = _said_by(service, me)
        return ev.GroupPaused(scope="service", author=author, reason=reason, decided_by=me.id)
    return ev.GroupResumed(
        scope="service", author=me.id, reason=f"{_FROM_SERVICE} was resumed", decided_by=me.id
    )


def _said_by(service: ServiceView, me: RouterIdentity) -> tuple[str, str]:
    """Who paused the service, and why, as far as the group that was told first still knows."""
    first = next((g for g in service.groups.values() if g.pause_seq == service.pause_seq), None)
    if first is None:
        return me.id, f"{_FROM_SERVICE} is paused"
    author, _, reason = first.paused_by.partition(": ")
    return author[: ev.MAX_AUTHOR], reason[: ev.MAX_REASON]
