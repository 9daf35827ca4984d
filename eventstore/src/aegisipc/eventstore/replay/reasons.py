"""Why a group, an instance or a call is as it is at a point: the causal chain, from log and heartbeats.

::

    reason = await why(source, "group", "orders/g1", await resolve(source, "end"))
    print(reason.answer)
    for link in reason.links:
        print(link.number, link.said, "because of", link.follows)
"""

from __future__ import annotations

from typing import Final

from aegisipc.eventstore.checkpoints import OnSkip
from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.replay.points import Point
from aegisipc.eventstore.replay.reason_groups import why_group
from aegisipc.eventstore.replay.reason_instances import why_instance
from aegisipc.eventstore.replay.reason_of_call import BadCallId, why_call
from aegisipc.eventstore.replay.reason_reading import topology_of
from aegisipc.eventstore.replay.reason_steps import (
    AmbiguousInstance,
    CallAfterPoint,
    Link,
    Reason,
    UnknownGroup,
    UnknownInstance,
    cut,
    named,
)
from aegisipc.eventstore.replay.sources import Source

__all__ = [
    "KINDS",
    "AmbiguousInstance",
    "BadCallId",
    "BadQuestion",
    "CallAfterPoint",
    "Link",
    "Reason",
    "UnknownGroup",
    "UnknownInstance",
    "why",
    "why_call",
    "why_group",
    "why_instance",
]

KINDS: Final = ("group", "instance", "call")


class BadQuestion(AegisError):
    """Nothing of that kind can be explained. Field: ``kind``."""

    code = "bad_question"


async def why(source: Source, kind: str, text: str, point: Point, *, on_skip: OnSkip | None = None) -> Reason:
    """Explain a group (``service/group``, or the service's name if it has one group), an instance (its id, or
    ``service/group/id``) or a call (its id, or at least the first 8 digits of it) as it is at a point.
    `on_skip` hears of snapshots that cannot be used, which cost time and nothing else.

    Raises:
        BadQuestion: `kind` is none of ``KINDS``.
        UnknownGroup, UnknownInstance, AmbiguousInstance, BadCallId, UnknownCall, AmbiguousCall,
            CallAfterPoint: it is not there, or it is not clear which one is meant.
        AegisError: the history cannot be read now.
    """
    match kind:
        case "group":
            service, group = await _group_in(source, text, point.seq)
            return await why_group(source, service, group, point, on_skip=on_skip)
        case "instance":
            return await why_instance(source, text, point)
        case "call":
            return await why_call(source, text, point, on_skip=on_skip)
    raise BadQuestion(
        f"cannot explain a {cut(kind, 40)!r}: give one of {', '.join(KINDS)}", kind=cut(kind, 40)
    )


async def _group_in(source: Source, text: str, until_seq: int) -> tuple[str, str]:
    service, slash, group = text.partition("/")
    state = await topology_of(source, until_seq)
    groups = sorted(f"{each.service}/{each.name}" for each in state.topology.groups())
    if slash and text in groups:
        return service, group
    of_service = [each for each in groups if each.partition("/")[0] == service and not slash]
    if len(of_service) == 1:
        return service, of_service[0].partition("/")[2]
    several = f"service {cut(text, 80)!r} has several" if of_service else "there is none of that name"
    raise UnknownGroup(
        f"cannot explain group {cut(text, 80)!r}: {several} up to sequence {until_seq}; give one of these: "
        f"{named(of_service or groups)}",
        group=cut(text, 80),
        groups=(of_service or groups)[:100],
    )
