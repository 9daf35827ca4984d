"""What each state and event means to an operator, and how each lifecycle is drawn.

Only the documentation and tools that explain need this; folds do not import it. A test requires an
entry for every state and every event, and that the drawings show every transition exactly once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from aegisipc.eventstore.lifecycles.names import (
    CallEvent,
    CallState,
    GroupEvent,
    GroupState,
    InstanceEvent,
    InstanceState,
    RouterEvent,
    RouterState,
)
from aegisipc.eventstore.lifecycles.table import CALL, GROUP, INSTANCE, ROUTER, SUSPECTED, Lifecycle


@dataclass(frozen=True, slots=True)
class Recorded:
    """An event, explained: ``writer`` puts it into the log, ``meaning`` is what it says."""

    writer: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Drawing:
    """One diagram: the transitions by ``events`` out of ``sources``. Without a caption it stands alone.

    The ``anywhere`` events, which lead from every state to the same one, are drawn once, from a
    node "any state".
    """

    sources: frozenset[StrEnum]
    events: frozenset[StrEnum]
    caption: str = ""
    anywhere: frozenset[StrEnum] = frozenset()


@dataclass(frozen=True, slots=True)
class Explained:
    """A lifecycle with the words and drawings that explain it."""

    lifecycle: Lifecycle[Any, Any]
    about: str
    states: Mapping[Any, str]
    events: Mapping[Any, Recorded]
    drawings: tuple[Drawing, ...]


_NOBODY = "nobody yet"
"""Writer of what the charts and folds know, and no program writes today."""

_UNSUSPECTED = frozenset(InstanceState) - SUSPECTED
_SUSPICION = frozenset({InstanceEvent.SUSPECTED, InstanceEvent.RECOVERED, InstanceEvent.LOST})
_REBIRTH = frozenset({InstanceEvent.REGISTERED})
_FACTS = frozenset(InstanceEvent) - _SUSPICION - _REBIRTH

_INSTANCE = Explained(
    lifecycle=INSTANCE,
    about="""\
One instance of a service, under one instance id. The id outlives the process: a process that comes
back registers as a new *incarnation* of the same id, from whatever state the previous one had come to.
That is why no state is final here, and why a quick restart needs no detour through `lost`.

Suspicion is independent of everything else, so each live state has a suspected counterpart. While
an instance is suspected, everything else moves it exactly as it would otherwise, from one suspected state
to another; `recovered` then leads to the state that it would have had without the suspicion.

A member of an owned group becomes a standby by `ready`, and active by promotion. A pool has no
standbys: all its workers may take calls, so a worker becomes active at once, by `joined_pool`.

`promoted` and `demoted` follow from the group's records: the holder that a record names is promoted, the
former holder is demoted.""",
    states={
        InstanceState.JOINING: "Registered, but not ready: it waits to be admitted. It takes no calls "
        "and cannot be promoted.",
        InstanceState.STANDBY: "Warm: it follows the log and can be promoted at any moment.",
        InstanceState.ACTIVE: "It runs calls. In an owned group it holds the pen; in a pool it is one of "
        "several workers.",
        InstanceState.DRAINING: "It starts no more calls, finishes those that run, and leaves. A "
        "holder keeps the pen until it has left.",
        InstanceState.SUSPECTED_JOINING: "Silent while it was joining.",
        InstanceState.SUSPECTED_STANDBY: "Silent while it was a standby, or demoted while suspected. It is "
        "promoted only if no other is ready.",
        InstanceState.SUSPECTED_ACTIVE: "Silent while it was active. If it stays silent, it is lost and "
        "another is promoted. Until then its writes are still good.",
        InstanceState.SUSPECTED_DRAINING: "Silent while it was draining.",
        InstanceState.LEFT: "It left in good order. Nothing is owed to it.",
        InstanceState.REFUSED: "Its registration was not accepted; the record says why, for example a "
        "contract that contradicts the one in use.",
        InstanceState.LOST: "Given up. Should its process still live, it has to register anew; once "
        "another is promoted, its writes are refused.",
    },
    events={
        InstanceEvent.REGISTERED: Recorded("instance", "A new incarnation: its contract and resources."),
        InstanceEvent.READY: Recorded(
            "instance", "A member of an owned group was admitted, and has caught up with the log."
        ),
        InstanceEvent.JOINED_POOL: Recorded(
            "instance", "A worker of a pool was admitted, and is ready for calls."
        ),
        InstanceEvent.REFUSED: Recorded("router", "The registration is not accepted."),
        InstanceEvent.PROMOTED: Recorded("router", "It holds the pen from this epoch on."),
        InstanceEvent.DEMOTED: Recorded(
            "router", "Its epoch is over: another holds the pen, or nobody does."
        ),
        InstanceEvent.DRAINING: Recorded("instance", "It was asked to stop."),
        InstanceEvent.LEFT: Recorded("instance", "Its last record."),
        InstanceEvent.SUSPECTED: Recorded(
            "router",
            "No pulse for too long (1 s by default), or its connection ended, or it answers no probes.",
        ),
        InstanceEvent.RECOVERED: Recorded("router", "A sign of life that is newer than the suspicion."),
        InstanceEvent.LOST: Recorded(
            "router",
            "No pulse for so long that it is given up: 3 s by default, or 1 s after its connection ended.",
        ),
    },
    drawings=(
        Drawing(
            sources=_UNSUSPECTED,
            events=_FACTS,
            caption="The life of an instance:",
            anywhere=_REBIRTH,
        ),
        Drawing(sources=frozenset(InstanceState), events=_SUSPICION, caption="Suspicion:"),
        Drawing(sources=SUSPECTED, events=_FACTS, caption="What is recorded under suspicion:"),
    ),
)

_GROUP = Explained(
    lifecycle=GROUP,
    about="""\
One owned group of a service: who may conclude its calls. Only the leading router records anything
about it, by compare-and-set on the group's fence subject. So each record also moves the fence, and each
`promoted` carries a new epoch.

A holder that is lost is replaced by one record, `promoted`, and that it is lost is said of the instance. A
planned change takes two: `handover_started`, on which the holder finishes what it runs and yields, and
`promoted`.""",
    states={
        GroupState.VACANT: "No instance holds the pen, and none can be promoted. Calls are still accepted "
        "and wait for an instance; those that expire meanwhile are concluded when one comes.",
        GroupState.HELD: "One instance holds the pen, for one epoch. The normal state.",
        GroupState.FAILING_OVER: "The holder hands over: it starts no more calls, and concludes those that "
        "run. Calls that arrive wait for the next holder.",
    },
    events={
        GroupEvent.PROMOTED: Recorded("router", "A holder and a new epoch; says why, and on what evidence."),
        GroupEvent.REAFFIRMED: Recorded(
            _NOBODY, "The latest record again: the same holder at the same epoch. Not written yet."
        ),
        GroupEvent.VACATED: Recorded("router", "The holder is gone and nobody is ready to follow."),
        GroupEvent.HANDOVER_STARTED: Recorded(
            "router", "The holder is to hand over: an operator wants it, or its health check failed."
        ),
        GroupEvent.HANDOVER_CANCELLED: Recorded(
            "router", "The handover is off, as nobody can follow any more; the holder goes on."
        ),
    },
    drawings=(Drawing(sources=frozenset(GroupState), events=frozenset(GroupEvent)),),
)

_CALL = Explained(
    lifecycle=CALL,
    about="""\
One call, from the moment its frame is in the log. The first record that leads to a final state is the
call's outcome, for every reader and for ever: nothing leads out of a final state, and a later conclusion
(pools can produce one) changes nothing.

Only `once` methods are claimed before they run. The start of an `idempotent` or `pure` call is not
recorded, so such a call goes from `accepted` or `retry_wait` straight to what came of the attempt.

A call with an idempotency key that is another call's already, with the same payload, ends as a duplicate:
the other call's outcome is its own.

The pen holder is the active instance, or in a pool the worker that took the call.""",
    states={
        CallState.ACCEPTED: "In the log, without an outcome, and no claim is open on it.",
        CallState.STARTED: "Claimed: from here on its `once` method may have run.",
        CallState.RETRY_WAIT: "An attempt failed in a way that allows another, which is due later; when, is "
        "in the log. It keeps the turn of its resource.",
        CallState.IN_DOUBT: "Nobody can know whether its `once` method ran. It is not run again until the "
        "service's `reconcile` hook, the late word of the instance that claimed it, or an operator resolves "
        "the doubt.",
        CallState.SUCCEEDED: "Final: the method returned; the result is in the log.",
        CallState.FAILED: "Final: the method raised, could not be called, or gave a result that cannot be "
        "recorded; the error is in the log. A `once` call whose claim was durable only after its deadline is "
        "not started and ends so too; its caller is told that it expired.",
        CallState.EXPIRED: "Final: its deadline passed before it started. An `idempotent` or `pure` call "
        "that an earlier holder may have begun ends so too, and its record says that.",
        CallState.CANCELLED: "Final: cancelled on request. Its record says whether it had started; if so, it "
        "may have done a part of its work.",
        CallState.DUPLICATE: "Final: its idempotency key belongs to an earlier call with the same payload, "
        "whose outcome is its own.",
        CallState.DEAD_LETTERED: "Given up: its last attempt failed, or every instance that began it went "
        "down; the reason is in the log. Callers are told so. An operator may let it run again.",
        CallState.DISCARDED: "Final: a dead letter that an operator has put away.",
    },
    events={
        CallEvent.CLAIMED: Recorded("pen holder", "A `once` call is about to start."),
        CallEvent.RETRY_SCHEDULED: Recorded(
            "pen holder", "An attempt failed; which one, how, and when the next is due."
        ),
        CallEvent.DOUBTED: Recorded(
            "pen holder",
            "It was claimed in an earlier epoch, or by a worker that is gone, and has no outcome.",
        ),
        CallEvent.RESOLVED_NOT_EXECUTED: Recorded(
            "pen holder",
            "The doubt is resolved: it did not run, so it may run now. Says who found that, and why.",
        ),
        CallEvent.RESOLVED_EXECUTED: Recorded(
            "pen holder",
            "The doubt is resolved: it did run. Says who found that, and why; the outcome follows in the "
            "same frame.",
        ),
        CallEvent.SUCCEEDED: Recorded("pen holder", "The method's result."),
        CallEvent.FAILED: Recorded("pen holder", "The method's error."),
        CallEvent.EXPIRED: Recorded("pen holder", "The deadline has passed."),
        CallEvent.CANCELLED: Recorded(
            "pen holder",
            "A client or an operator asked for it in time. Says who, and whether it had started.",
        ),
        CallEvent.DUPLICATED: Recorded(
            "pen holder", "Its idempotency key is that of an earlier call; which one."
        ),
        CallEvent.DEAD_LETTERED: Recorded(
            "pen holder",
            "Its last attempt failed, or it took down every instance that began it alone, three times.",
        ),
        CallEvent.REQUEUED: Recorded(
            "pen holder", "An operator wants the dead letter to run again. Says who, and why."
        ),
        CallEvent.DISCARDED: Recorded("pen holder", "An operator has put the dead letter away."),
    },
    drawings=(
        Drawing(
            sources=frozenset(CallState),
            events=frozenset(
                {
                    CallEvent.CLAIMED,
                    CallEvent.RETRY_SCHEDULED,
                    CallEvent.DOUBTED,
                    CallEvent.RESOLVED_NOT_EXECUTED,
                    CallEvent.RESOLVED_EXECUTED,
                    CallEvent.SUCCEEDED,
                    CallEvent.FAILED,
                }
            ),
            caption="To an answer:",
        ),
        Drawing(
            sources=frozenset(CallState),
            events=frozenset(
                {
                    CallEvent.EXPIRED,
                    CallEvent.CANCELLED,
                    CallEvent.DUPLICATED,
                    CallEvent.DEAD_LETTERED,
                    CallEvent.REQUEUED,
                    CallEvent.DISCARDED,
                }
            ),
            caption="To an end without one:",
        ),
    ),
)

_ROUTER = Explained(
    lifecycle=ROUTER,
    about="""\
One router process. Any number may run; at most one leads, by a compare-and-set append of its term. Calls
go on while none does, only supervision and failover wait. A router that cannot trust its fold (it lost
its place in the log) ends with an error, to be started again; if it was leading, another takes over.""",
    states={
        RouterState.REPLAYING: "It builds its fold by reading the log. It decides nothing.",
        RouterState.FOLLOWING: "Its fold is current. It can take the lead at any moment.",
        RouterState.LEADING: "It decides: admissions, suspicions, promotions.",
        RouterState.STOPPED: "Final: the process is over.",
    },
    events={
        RouterEvent.CAUGHT_UP: Recorded("no record", "Its fold has reached the end of the log."),
        RouterEvent.TOOK_LEAD: Recorded("router", "Its append of the next term was the first."),
        RouterEvent.LOST_LEAD: Recorded("next leader", "Another router's term is in the log."),
        RouterEvent.LOST_PLACE: Recorded(
            "no record", "Its fold cannot be continued. Not caused yet: the process ends instead."
        ),
        RouterEvent.STOPPED: Recorded(
            "no record", "It ends. A leader that was asked to stop resigns in the log before."
        ),
    },
    drawings=(Drawing(sources=frozenset(RouterState), events=frozenset(RouterEvent)),),
)

GLOSSARY: tuple[Explained, ...] = (_INSTANCE, _GROUP, _CALL, _ROUTER)
"""All lifecycles, explained, in the order of the documentation."""
