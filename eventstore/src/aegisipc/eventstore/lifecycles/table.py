"""The transition tables that folds use, derived from the charts when this module is imported.

A table cannot say everything that a chart can. ``derive`` therefore refuses a chart that uses more
than states, events and plain transitions, instead of deriving a table that behaves otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from statemachine import StateMachine

from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.lifecycles.charts import CallChart, GroupChart, InstanceChart, RouterChart
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


class IllegalTransition(AegisError):
    """An event that its lifecycle does not know in that state; nothing was changed.

    Fields: ``lifecycle``, ``state``, ``event``, ``allowed`` (the events that are possible there, in the order
    of their declaration).
    """

    code = "illegal_transition"


@dataclass(frozen=True, slots=True, eq=False)
class Lifecycle[S: StrEnum, E: StrEnum]:
    """One lifecycle: its chart, and the table that holds the same transitions.

    Attributes:
        name: what has this lifecycle, one word.
        chart: the class the table was derived from.
        states: all states, in the order of their declaration.
        events: all events, in the order of their declaration.
        initial: the state at birth.
        final: the states that nothing leads out of.
        table: ``(state, event) -> state``. A pair that is missing is no transition. Do not change it.

    Example::

        >>> GROUP.next(GroupState.VACANT, GroupEvent.PROMOTED)
        <GroupState.HELD: 'held'>
    """

    name: str
    chart: type[StateMachine]
    states: tuple[S, ...]
    events: tuple[E, ...]
    initial: S
    final: frozenset[S]
    table: Mapping[tuple[S, E], S]

    def next(self, state: S, event: E) -> S | None:
        """Return the state that ``event`` leads to, or None if it leads nowhere from ``state``.

        For folds: an event is a fact and cannot be refused, so None leaves the state as it is and
        is counted as an anomaly.
        """
        return self.table.get((state, event))

    def require(self, state: S, event: E) -> S:
        """Return the state that ``event`` leads to; for those who are about to cause the event.

        Raises:
            IllegalTransition: ``event`` cannot happen in ``state``.
        """
        target = self.table.get((state, event))
        if target is None:
            raise self._illegal(state, event)
        return target

    def allowed(self, state: S) -> frozenset[E]:
        """Return the events that can happen in ``state``; none if it is final."""
        return frozenset(event for event in self.events if (state, event) in self.table)

    def _illegal(self, state: S, event: E) -> IllegalTransition:
        allowed = tuple(str(known) for known in self.events if (state, known) in self.table)
        possible = f"possible there: {', '.join(allowed)}" if allowed else "that state is final"
        return IllegalTransition(
            f"cannot apply {str(event)!r} to a {self.name} that is {str(state)!r}; {possible}",
            lifecycle=self.name,
            state=str(state),
            event=str(event),
            allowed=allowed,
        )


def derive[S: StrEnum, E: StrEnum](
    name: str, chart: type[StateMachine], states: type[S], events: type[E]
) -> Lifecycle[S, E]:
    """Derive a lifecycle from ``chart``, whose states and events must be those of the enums.

    Raises:
        TypeError: the chart says something that a table of transitions cannot express, or its
            states or events are not those of the enums. A programming error, found at import.
    """
    table: dict[tuple[S, E], S] = {}
    for source, event, target in _transitions(chart):
        key = (states(source), events(event))
        if key in table:
            raise TypeError(f"{chart.__name__}: {event!r} leads from {source!r} to more than one state")
        table[key] = states(target)
    _require_same(chart, "states", {state.value for state in chart.states}, set(states))
    _require_same(chart, "events", {event for _, event in table}, set(events))
    return Lifecycle(
        name=name,
        chart=chart,
        states=tuple(states),
        events=tuple(events),
        initial=next(states(state.value) for state in chart.states if state.initial),
        final=frozenset(states(state.value) for state in chart.final_states),
        table=table,
    )


def _transitions(chart: type[StateMachine]) -> Iterator[tuple[Any, str, Any]]:
    """Yield each (state, event, state) of a flat chart without guards; raise TypeError for any other."""
    for state in chart.states:
        if state.states or state.history:
            raise TypeError(f"{chart.__name__}: {state.value!r} has states inside; a table is flat")
        for transition in state.transitions:
            if transition.is_eventless or len(transition.targets) != 1:
                raise TypeError(f"{chart.__name__}: {transition} needs an event and one target")
            if list(transition.cond) or list(transition.validators):
                raise TypeError(f"{chart.__name__}: {transition} has a guard; a table has none")
            for event in transition.events:
                yield state.value, event.id, transition.targets[0].value


def _require_same(chart: type[StateMachine], what: str, found: set[Any], named: set[Any]) -> None:
    if found != named:
        difference = ", ".join(sorted(str(name) for name in found ^ named))
        raise TypeError(f"{chart.__name__}: {what} differ from the enum's: {difference}")


INSTANCE = derive("instance", InstanceChart, InstanceState, InstanceEvent)
GROUP = derive("group", GroupChart, GroupState, GroupEvent)
CALL = derive("call", CallChart, CallState, CallEvent)
ROUTER = derive("router", RouterChart, RouterState, RouterEvent)

SUSPECTED: frozenset[InstanceState] = frozenset(
    state for state in InstanceState if INSTANCE.next(state, InstanceEvent.RECOVERED)
)
"""The states of an instance under suspicion; ``recovered`` leads out of each to its counterpart."""

GONE: frozenset[InstanceState] = frozenset(
    state for state in InstanceState if INSTANCE.allowed(state) == {InstanceEvent.REGISTERED}
)
"""The states of an instance whose incarnation is over: only a new one can follow."""
