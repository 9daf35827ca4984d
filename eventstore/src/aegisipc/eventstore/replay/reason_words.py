"""What events about instances and groups say, in the words of an explanation. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.lifecycles import SUSPECTED, InstanceState
from aegisipc.eventstore.views import InstanceView


def said_of(event: ev.Event, who: str = "") -> str:
    """Say what an event about an instance or a group tells; `who` is the last part of its subject."""
    say = _SAYINGS.get(type(event))
    return say(event, who) if say is not None else event.type


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""


def _wanted(author: str) -> str:
    return f", as {author} wants it" if author else ""


_SAYINGS: Final[Mapping[type[ev.Event], Callable[[Any, str], str]]] = {
    ev.InstanceRegistered: lambda event, who: f"{who} registers (pid {event.pid} on {event.host})",
    ev.InstanceAdmitted: lambda event, _: f"router {event.decided_by} admits {event.instance}",
    ev.InstanceRefused: lambda event, _: (
        f"router {event.decided_by} refuses {event.instance}: {event.error.message}"
    ),
    ev.InstanceReady: lambda _, who: f"{who} has read the log, and is ready",
    ev.InstanceSuspected: lambda event, _: (
        f"router {event.decided_by} suspects {event.instance}: {event.cause or event.source}"
    ),
    ev.InstanceRecovered: lambda event, _: f"router {event.decided_by} finds that {event.instance} lives",
    ev.InstanceLost: lambda event, _: (
        f"router {event.decided_by} takes {event.instance} for dead: {event.cause or event.source}"
    ),
    ev.InstanceUnhealthy: lambda event, who: f"the health check of {who} fails: {event.reason}",
    ev.InstanceHealthy: lambda _, who: f"the health check of {who} passes again",
    ev.InstanceDrainRequested: lambda event, _: (
        f"{event.author} wants {event.instance} to leave{_because(event.reason)}"
    ),
    ev.InstanceDraining: lambda event, who: (
        f"{who} finishes what it runs, and takes nothing new: {event.cause}"
    ),
    ev.InstanceYielded: lambda event, who: f"{who} has finished epoch {event.epoch}: {event.cause}",
    ev.InstanceLeft: lambda event, who: (
        f"{who} leaves{'' if event.finished else ', before it had finished what it ran'}: {event.cause}"
    ),
    ev.GroupPromoted: lambda event, _: (
        f"{event.holder} is active at epoch {event.epoch} ({event.kind}){_wanted(event.author)}: "
        f"{event.cause}"
    ),
    ev.GroupVacated: lambda event, _: f"nobody holds the pen any more: {event.cause}",
    ev.GroupHandoverStarted: lambda event, _: (
        f"{event.holder} is to finish and hand over to {event.to}{_wanted(event.author)}: {event.cause}"
    ),
    ev.GroupHandoverCancelled: lambda event, _: f"the handover is called off: {event.cause}",
    ev.GroupPaused: lambda event, _: f"{event.author} pauses the group{_because(event.reason)}",
    ev.GroupResumed: lambda event, _: f"{event.author} lets the group go on{_because(event.reason)}",
    ev.GroupCongested: lambda event, _: f"{event.open} open calls of {event.limit}: clients are to hold back",
    ev.GroupRelieved: lambda event, _: f"{event.open} open calls: clients may go on",
}


def why_not(other: InstanceView, heir: InstanceView | None) -> str:
    """In words, why `other` was not given the pen; the router's own ranking."""
    for applies, why in (
        (not other.admitted, "it was not admitted yet"),
        (other.state in SUSPECTED, "it was suspected itself"),
        (other.state is InstanceState.DRAINING, "it was draining"),
        (other.drain_requested, f"it was asked to leave by {other.drain_requested_by}"),
        (not other.is_ready, "it had not caught up with the log yet"),
        (other.unhealthy is not None, f"it was unhealthy: {other.unhealthy}"),
        (other.quarantined and heir is not None and not heir.quarantined, "it was in quarantine"),
    ):
        if applies:
            return why
    if heir is not None and other.registered_seq > heir.registered_seq:
        return f"it had joined after {heir.id}: first come, first served"
    return "the record does not say; it was ready"
