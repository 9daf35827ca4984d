"""The tables that folds use behave as the charts do."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statemachine import State, StateMachine
from statemachine.exceptions import TransitionNotAllowed

from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.lifecycles import (
    CALL,
    GROUP,
    INSTANCE,
    ROUTER,
    CallEvent,
    CallState,
    IllegalTransition,
    Lifecycle,
)
from aegisipc.eventstore.lifecycles.table import derive

LIFECYCLES: tuple[Lifecycle[Any, Any], ...] = (INSTANCE, GROUP, CALL, ROUTER)
every_lifecycle = pytest.mark.parametrize("lifecycle", LIFECYCLES, ids=lambda lifecycle: lifecycle.name)


def machine_says(machine: StateMachine, event: StrEnum) -> Any:
    """Send the event to a running machine: its new state, or None if it refuses."""
    try:
        machine.send(str(event))
    except TransitionNotAllowed:
        return None
    return machine.current_state_value


@every_lifecycle
def test_chart_and_table_agree_on_every_state_and_event(lifecycle: Lifecycle[Any, Any]) -> None:
    for state in lifecycle.states:
        for event in lifecycle.events:
            machine = lifecycle.chart(start_value=state)
            assert machine_says(machine, event) == lifecycle.next(state, event), (state, event)


@st.composite
def histories(draw: st.DrawFn) -> tuple[Lifecycle[Any, Any], list[StrEnum]]:
    lifecycle = draw(st.sampled_from(LIFECYCLES))
    return lifecycle, draw(st.lists(st.sampled_from(lifecycle.events), max_size=40))


@settings(max_examples=400, deadline=None)
@given(histories())
def test_chart_and_table_agree_all_along_any_history(
    history: tuple[Lifecycle[Any, Any], list[StrEnum]],
) -> None:
    lifecycle, events = history
    machine = lifecycle.chart()
    state = lifecycle.initial
    assert machine.current_state_value == state
    for event in events:
        target = lifecycle.next(state, event)
        assert machine_says(machine, event) == target
        state = state if target is None else target
        assert machine.current_state_value == state


@every_lifecycle
def test_every_state_can_be_reached(lifecycle: Lifecycle[Any, Any]) -> None:
    reached = {lifecycle.initial}
    while more := {to for (state, _), to in lifecycle.table.items() if state in reached} - reached:
        reached |= more
    assert reached == set(lifecycle.states)


@every_lifecycle
def test_exactly_the_final_states_have_no_way_out(lifecycle: Lifecycle[Any, Any]) -> None:
    assert {state for state in lifecycle.states if not lifecycle.allowed(state)} == lifecycle.final


@every_lifecycle
def test_from_every_state_that_is_not_final_an_end_or_the_start_can_be_reached(
    lifecycle: Lifecycle[Any, Any],
) -> None:
    goals = set(lifecycle.final or {lifecycle.initial})
    while more := {state for (state, _), to in lifecycle.table.items() if to in goals} - goals:
        goals |= more
    assert goals == set(lifecycle.states)


@every_lifecycle
def test_the_table_speaks_in_members_of_the_enums_and_plain_text_finds_them(
    lifecycle: Lifecycle[Any, Any],
) -> None:
    for (state, event), target in lifecycle.table.items():
        assert type(state) is type(target) is type(lifecycle.initial)
        assert type(event) is type(lifecycle.events[0])
        assert lifecycle.table[str(state), str(event)] is target


@every_lifecycle
def test_require_agrees_with_next_and_refuses_what_leads_nowhere(lifecycle: Lifecycle[Any, Any]) -> None:
    for state in lifecycle.states:
        for event in lifecycle.events:
            if event in lifecycle.allowed(state):
                assert lifecycle.require(state, event) is lifecycle.next(state, event)
            else:
                assert lifecycle.next(state, event) is None
                with pytest.raises(IllegalTransition):
                    lifecycle.require(state, event)


def test_the_refusal_names_the_state_the_event_and_what_is_possible() -> None:
    with pytest.raises(IllegalTransition) as caught:
        CALL.require(CallState.STARTED, CallEvent.EXPIRED)
    error = caught.value
    assert isinstance(error, AegisError)
    assert (error.code, error.lifecycle, error.state, error.event) == (
        "illegal_transition",
        "call",
        "started",
        "expired",
    )
    assert set(error.allowed) == CALL.allowed(CallState.STARTED)
    assert str(error) == (
        "cannot apply 'expired' to a call that is 'started'; possible there: "
        "retry_scheduled, doubted, succeeded, failed, cancelled, dead_lettered"
    )


def test_the_refusal_says_when_a_state_is_final() -> None:
    with pytest.raises(IllegalTransition, match="'succeeded'; that state is final") as caught:
        CALL.require(CallState.SUCCEEDED, CallEvent.FAILED)
    assert caught.value.allowed == ()


class Light(StrEnum):
    RED = "red"
    GREEN = "green"


class Change(StrEnum):
    SWITCHED = "switched"


def test_a_chart_of_plain_transitions_is_derived() -> None:
    class Plain(StateMachine):
        r = State(value=Light.RED, initial=True)
        g = State(value=Light.GREEN, final=True)
        switched = r.to(g)

    light = derive("light", Plain, Light, Change)
    assert light.table == {(Light.RED, Change.SWITCHED): Light.GREEN}
    assert (light.initial, light.final) == (Light.RED, frozenset({Light.GREEN}))


def test_a_chart_with_a_guard_is_not_derived() -> None:
    class Guarded(StateMachine):
        r = State(value=Light.RED, initial=True)
        g = State(value=Light.GREEN, final=True)
        switched = r.to(g, cond="is_dark")

        def is_dark(self) -> bool:
            return True

    with pytest.raises(TypeError, match="guard"):
        derive("light", Guarded, Light, Change)


def test_a_chart_where_one_event_leads_to_two_states_is_not_derived() -> None:
    class Ambiguous(StateMachine):
        r = State(value=Light.RED, initial=True)
        g = State(value=Light.GREEN)
        switched = r.to(g) | r.to(r) | g.to(r)

    with pytest.raises(TypeError, match="more than one state"):
        derive("light", Ambiguous, Light, Change)


def test_a_chart_with_states_inside_a_state_is_not_derived() -> None:
    class Nested(StateMachine):
        class r(State.Compound, name="r"):  # noqa: N801 - the library takes the state's name from the class
            inner = State(initial=True)

        g = State(value=Light.GREEN, final=True)
        switched = r.to(g)

    with pytest.raises(TypeError, match="flat"):
        derive("light", Nested, Light, Change)


def test_a_chart_with_a_transition_without_event_is_not_derived() -> None:
    class Eventless(StateMachine):
        r = State(value=Light.RED, initial=True)
        g = State(value=Light.GREEN, final=True)
        r.to(g)

    with pytest.raises(TypeError, match="needs an event"):
        derive("light", Eventless, Light, Change)


def test_a_chart_that_lacks_a_state_or_an_event_of_its_enum_is_not_derived() -> None:
    class Bigger(StrEnum):
        RED = "red"
        GREEN = "green"
        AMBER = "amber"

    class More(StrEnum):
        SWITCHED = "switched"
        BROKEN = "broken"

    class Small(StateMachine):
        r = State(value="red", initial=True)
        g = State(value="green", final=True)
        switched = r.to(g)

    with pytest.raises(TypeError, match="states differ from the enum's: amber"):
        derive("light", Small, Bigger, Change)
    with pytest.raises(TypeError, match="events differ from the enum's: broken"):
        derive("light", Small, Light, More)
