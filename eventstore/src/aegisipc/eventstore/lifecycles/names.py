"""The names of states and events, as they appear in records, JSON, tables and diagrams.

Every member equals its text (``CallState.IN_DOUBT == "in_doubt"``), so a name read from a record
needs no conversion to be looked up. Events are facts: their names say what happened.
"""

from __future__ import annotations

from enum import StrEnum


class InstanceState(StrEnum):
    """Where one instance of a service is.

    Suspicion says nothing about an instance's role, so it has a state beside each live one: this
    keeps the table a plain ``(state, event) -> state`` mapping and yet ``recovered`` leads back to
    exactly the state that the instance would have had without the suspicion.
    """

    JOINING = "joining"
    STANDBY = "standby"
    ACTIVE = "active"
    DRAINING = "draining"
    SUSPECTED_JOINING = "suspected_joining"
    SUSPECTED_STANDBY = "suspected_standby"
    SUSPECTED_ACTIVE = "suspected_active"
    SUSPECTED_DRAINING = "suspected_draining"
    LEFT = "left"
    REFUSED = "refused"
    LOST = "lost"


class InstanceEvent(StrEnum):
    """What can happen to an instance."""

    REGISTERED = "registered"
    READY = "ready"
    JOINED_POOL = "joined_pool"
    REFUSED = "refused"
    PROMOTED = "promoted"
    DEMOTED = "demoted"
    DRAINING = "draining"
    LEFT = "left"
    SUSPECTED = "suspected"
    RECOVERED = "recovered"
    LOST = "lost"


class GroupState(StrEnum):
    """Whether an owned group has an instance that holds its pen."""

    VACANT = "vacant"
    HELD = "held"
    FAILING_OVER = "failing_over"


class GroupEvent(StrEnum):
    """What can happen to a group."""

    PROMOTED = "promoted"
    REAFFIRMED = "reaffirmed"
    VACATED = "vacated"
    HANDOVER_STARTED = "handover_started"
    HANDOVER_CANCELLED = "handover_cancelled"


class CallState(StrEnum):
    """How far a call has come."""

    ACCEPTED = "accepted"
    STARTED = "started"
    RETRY_WAIT = "retry_wait"
    IN_DOUBT = "in_doubt"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    DUPLICATE = "duplicate"
    DEAD_LETTERED = "dead_lettered"
    DISCARDED = "discarded"


class CallEvent(StrEnum):
    """What can happen to an accepted call."""

    CLAIMED = "claimed"
    RETRY_SCHEDULED = "retry_scheduled"
    DOUBTED = "doubted"
    RESOLVED_NOT_EXECUTED = "resolved_not_executed"
    RESOLVED_EXECUTED = "resolved_executed"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    DUPLICATED = "duplicated"
    DEAD_LETTERED = "dead_lettered"
    REQUEUED = "requeued"
    DISCARDED = "discarded"


class RouterState(StrEnum):
    """What one router process is doing."""

    REPLAYING = "replaying"
    FOLLOWING = "following"
    LEADING = "leading"
    STOPPED = "stopped"


class RouterEvent(StrEnum):
    """What can happen to a router."""

    CAUGHT_UP = "caught_up"
    TOOK_LEAD = "took_lead"
    LOST_LEAD = "lost_lead"
    LOST_PLACE = "lost_place"
    STOPPED = "stopped"
