"""When clients are to hold back: a group that has as many open calls as it may is congested, until it has
clearly fewer.

Calls are durable before anybody knows whether they can be served in time. What bounds them is this word,
which every client reads from the log, and refuses calls by. It comes after the fact: a group can go over its
limit by what clients send until they have read it.

A congested group is told so once. To tell every new estimate would fill the log, and clients that come back
too early are refused by themselves, not by the group.
"""

from __future__ import annotations

from typing import Final

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.topology import GroupView
from aegisipc.router.domain.terms import RouterIdentity

MIN_RETRY_MS: Final = 50
MAX_RETRY_MS: Final = 60_000
UNKNOWN_RETRY_MS: Final = 1000
"""When nothing was concluded lately, there is nothing to estimate from."""

RELIEVED_PERCENT: Final = 80
MIN_CONGESTED_MS: Final = 250
"""A group stays congested for so long, so that a small limit does not fill the log with changes."""


def limit_of(group: GroupView) -> int:
    """How many open calls the group may have: what the most careful of its live instances said."""
    said = (instance.registration.max_backlog for instance in group.live())
    return max(1, min(said, default=ev.DEFAULT_MAX_BACKLOG))


def judge_flow(
    group: GroupView, open_calls: int, rate: float, now_ns: int, me: RouterIdentity
) -> ev.GroupCongested | ev.GroupRelieved | None:
    """Say that the group is congested, or that it is relieved; ``None`` if nothing has changed.

    `rate` is how many calls it concludes a second.
    """
    limit = limit_of(group)
    if group.congestion is None:
        if open_calls < limit:
            return None
        retry_after_ms = estimate_retry_ms(group, open_calls, limit, rate)
        return ev.GroupCongested(
            open=open_calls, limit=limit, retry_after_ms=retry_after_ms, decided_by=me.id
        )
    since_ms = (now_ns - group.congestion.since_ns) // 1_000_000
    if is_relieved(open_calls, limit) and since_ms >= MIN_CONGESTED_MS:
        return ev.GroupRelieved(open=open_calls, decided_by=me.id)
    return None


def is_relieved(open_calls: int, limit: int) -> bool:
    """Whether so few calls are open that there is room for a while."""
    return open_calls * 100 < limit * RELIEVED_PERCENT


def estimate_retry_ms(group: GroupView, open_calls: int, limit: int, rate: float) -> int:
    """After how long it may be relieved, as it concludes now."""
    if rate <= 0 or not any(True for _ in group.ready()):
        return UNKNOWN_RETRY_MS
    too_many = open_calls - limit * RELIEVED_PERCENT / 100
    return max(MIN_RETRY_MS, min(MAX_RETRY_MS, round(too_many * 1000 / rate)))
