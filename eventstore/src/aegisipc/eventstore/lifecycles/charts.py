"""The four lifecycles as state charts: the one place where their transitions are written down.

The charts declare; they do not run. A machine costs 160 µs to build and 105 µs per transition
(measured), so folds use the tables that ``table.py`` derives from these classes, and the
tests drive the machines beside the tables. Hence a chart has no guards and no actions: whatever
decides *whether* an event happens lives in ``decide``.

The base class is ``StateMachine`` and not ``StateChart``, which ignores an event that has no
transition instead of raising ``TransitionNotAllowed``.

States come from the enums in ``names.py``; the name of an attribute that holds transitions is the
name of the event. In a chart, ``at.ACTIVE`` reads "when it is active".
"""

from __future__ import annotations

from statemachine import StateMachine
from statemachine.states import States

from aegisipc.eventstore.lifecycles.names import CallState, GroupState, InstanceState, RouterState


class InstanceChart(StateMachine):
    """One instance of a service, under one instance id.

    No state is final: ``registered`` is the first record of a new incarnation, and takes the id over
    from whatever the previous one had come to (a restart can be quicker than any suspicion).

    Suspicion is independent of everything else: a suspected instance is promoted, demoted, drained
    and so on as if it were not suspected, and only ``recovered`` clears it. Role records and
    suspicions have different writers, so they do cross on their way into the log.

    ``draining`` also crosses promotions: an instance that is promoted or demoted while it drains
    goes on draining.
    """

    at = States.from_enum(InstanceState, initial=InstanceState.JOINING)

    registered = at.JOINING.from_.any()
    ready = at.JOINING.to(at.STANDBY) | at.SUSPECTED_JOINING.to(at.SUSPECTED_STANDBY)
    joined_pool = at.JOINING.to(at.ACTIVE) | at.SUSPECTED_JOINING.to(at.SUSPECTED_ACTIVE)
    refused = at.REFUSED.from_(at.JOINING, at.SUSPECTED_JOINING)

    promoted = (
        at.ACTIVE.from_(at.STANDBY, at.ACTIVE)
        | at.DRAINING.to.itself()
        | at.SUSPECTED_ACTIVE.from_(at.SUSPECTED_STANDBY, at.SUSPECTED_ACTIVE)
        | at.SUSPECTED_DRAINING.to.itself()
    )
    demoted = (
        at.ACTIVE.to(at.STANDBY)
        | at.DRAINING.to.itself()
        | at.SUSPECTED_ACTIVE.to(at.SUSPECTED_STANDBY)
        | at.SUSPECTED_DRAINING.to.itself()
    )

    draining = at.DRAINING.from_(at.JOINING, at.STANDBY, at.ACTIVE) | at.SUSPECTED_DRAINING.from_(
        at.SUSPECTED_JOINING, at.SUSPECTED_STANDBY, at.SUSPECTED_ACTIVE
    )
    left = at.LEFT.from_(
        at.JOINING,
        at.STANDBY,
        at.ACTIVE,
        at.DRAINING,
        at.SUSPECTED_JOINING,
        at.SUSPECTED_STANDBY,
        at.SUSPECTED_ACTIVE,
        at.SUSPECTED_DRAINING,
    )

    suspected = (
        at.JOINING.to(at.SUSPECTED_JOINING)
        | at.STANDBY.to(at.SUSPECTED_STANDBY)
        | at.ACTIVE.to(at.SUSPECTED_ACTIVE)
        | at.DRAINING.to(at.SUSPECTED_DRAINING)
    )
    recovered = (
        at.SUSPECTED_JOINING.to(at.JOINING)
        | at.SUSPECTED_STANDBY.to(at.STANDBY)
        | at.SUSPECTED_ACTIVE.to(at.ACTIVE)
        | at.SUSPECTED_DRAINING.to(at.DRAINING)
    )
    lost = at.LOST.from_(
        at.SUSPECTED_JOINING, at.SUSPECTED_STANDBY, at.SUSPECTED_ACTIVE, at.SUSPECTED_DRAINING
    )


class GroupChart(StateMachine):
    """One owned group of a service. Only the leading router writes what moves it.

    A holder that turns out to be alive after it was lost needs no event of its own: it is ``promoted``
    again, with a new epoch. A handover that is called off leaves the epoch as it is.
    """

    at = States.from_enum(GroupState, initial=GroupState.VACANT)

    promoted = at.HELD.from_.any()
    # Re-appended so that the fence never ages out of the log, whatever the state is.
    reaffirmed = at.VACANT.to.itself() | at.HELD.to.itself() | at.FAILING_OVER.to.itself()
    # From vacant too: the first time a router takes the pen, and when another router takes it over.
    vacated = at.VACANT.from_.any()
    handover_started = at.HELD.to(at.FAILING_OVER)
    handover_cancelled = at.FAILING_OVER.to(at.HELD)


class CallChart(StateMachine):
    """One accepted call.

    Only methods with ``effect="once"`` are claimed. The start of a ``pure`` or ``idempotent`` call is
    not in the log, so these go from accepted, or from waiting for a retry, straight to what came of
    the attempt. A started call cannot expire, since it has started.
    """

    at = States.from_enum(
        CallState,
        initial=CallState.ACCEPTED,
        final={
            CallState.SUCCEEDED,
            CallState.FAILED,
            CallState.EXPIRED,
            CallState.CANCELLED,
            CallState.DUPLICATE,
            CallState.DISCARDED,
        },
    )

    claimed = at.STARTED.from_(at.ACCEPTED, at.RETRY_WAIT)
    retry_scheduled = at.RETRY_WAIT.from_(at.ACCEPTED, at.STARTED, at.RETRY_WAIT)
    doubted = at.STARTED.to(at.IN_DOUBT)
    resolved_not_executed = at.IN_DOUBT.to(at.ACCEPTED)
    # Said with the outcome that follows it in the same frame.
    resolved_executed = at.IN_DOUBT.to.itself()

    succeeded = at.SUCCEEDED.from_(at.ACCEPTED, at.STARTED, at.RETRY_WAIT, at.IN_DOUBT)
    failed = at.FAILED.from_(at.ACCEPTED, at.STARTED, at.RETRY_WAIT, at.IN_DOUBT)
    duplicated = at.ACCEPTED.to(at.DUPLICATE)
    expired = at.EXPIRED.from_(at.ACCEPTED, at.RETRY_WAIT)
    cancelled = at.CANCELLED.from_(at.ACCEPTED, at.STARTED, at.RETRY_WAIT)

    dead_lettered = at.DEAD_LETTERED.from_(at.ACCEPTED, at.STARTED, at.RETRY_WAIT)
    requeued = at.DEAD_LETTERED.to(at.ACCEPTED)
    discarded = at.DEAD_LETTERED.to(at.DISCARDED)


class RouterChart(StateMachine):
    """One router process. It takes part in leadership only with a complete, current fold."""

    at = States.from_enum(RouterState, initial=RouterState.REPLAYING, final=RouterState.STOPPED)

    caught_up = at.REPLAYING.to(at.FOLLOWING)
    took_lead = at.FOLLOWING.to(at.LEADING)
    lost_lead = at.LEADING.to(at.FOLLOWING)
    lost_place = at.REPLAYING.from_(at.FOLLOWING, at.LEADING)
    stopped = at.STOPPED.from_.any()
