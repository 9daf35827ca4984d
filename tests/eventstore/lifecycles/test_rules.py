"""What the lifecycles promise, rule by rule."""

from __future__ import annotations

import pytest

from aegisipc.eventstore.lifecycles import (
    CALL,
    GONE,
    GROUP,
    INSTANCE,
    ROUTER,
    SUSPECTED,
    CallEvent,
    CallState,
    GroupEvent,
    GroupState,
    InstanceEvent,
    InstanceState,
    RouterEvent,
    RouterState,
)

LIVE = {InstanceState.JOINING, InstanceState.STANDBY, InstanceState.ACTIVE, InstanceState.DRAINING}


def after(*events: InstanceEvent, start: InstanceState = INSTANCE.initial) -> InstanceState:
    state = start
    for event in events:
        state = INSTANCE.require(state, event)
    return state


class TestInstance:
    def test_a_member_joins_stands_by_is_promoted_and_demoted_drains_and_leaves(self) -> None:
        e = InstanceEvent
        assert after(e.READY) is InstanceState.STANDBY
        assert after(e.READY, e.PROMOTED) is InstanceState.ACTIVE
        assert after(e.READY, e.PROMOTED, e.DEMOTED) is InstanceState.STANDBY
        assert after(e.READY, e.PROMOTED, e.DRAINING, e.LEFT) is InstanceState.LEFT

    def test_a_pool_worker_is_active_as_soon_as_it_is_ready(self) -> None:
        assert after(InstanceEvent.JOINED_POOL) is InstanceState.ACTIVE

    def test_a_new_incarnation_takes_the_id_over_from_any_state(self) -> None:
        assert {INSTANCE.next(state, InstanceEvent.REGISTERED) for state in InstanceState} == {
            InstanceState.JOINING
        }

    def test_an_incarnation_that_left_was_refused_or_is_lost_is_gone(self) -> None:
        assert {InstanceState.LEFT, InstanceState.REFUSED, InstanceState.LOST} == GONE

    def test_every_state_is_live_suspected_or_gone(self) -> None:
        assert set(InstanceState) == LIVE | SUSPECTED | GONE
        assert len(LIVE) + len(SUSPECTED) + len(GONE) == len(InstanceState)

    @pytest.mark.parametrize("state", sorted(LIVE))
    def test_recovery_leads_back_to_the_state_before_the_suspicion(self, state: InstanceState) -> None:
        assert after(InstanceEvent.SUSPECTED, InstanceEvent.RECOVERED, start=state) is state

    @pytest.mark.parametrize("state", sorted(LIVE))
    @pytest.mark.parametrize(
        "event",
        sorted(set(InstanceEvent) - {InstanceEvent.SUSPECTED, InstanceEvent.RECOVERED, InstanceEvent.LOST}),
    )
    def test_suspicion_changes_nothing_else(self, state: InstanceState, event: InstanceEvent) -> None:
        unsuspected = INSTANCE.next(state, event)
        suspected = INSTANCE.next(after(InstanceEvent.SUSPECTED, start=state), event)
        if suspected in SUSPECTED:
            suspected = after(InstanceEvent.RECOVERED, start=suspected)
        assert suspected is unsuspected

    def test_only_a_suspected_instance_is_given_up(self) -> None:
        assert {state for state in InstanceState if INSTANCE.next(state, InstanceEvent.LOST)} == SUSPECTED

    def test_an_active_that_was_replaced_while_suspected_comes_back_as_a_standby(self) -> None:
        e = InstanceEvent
        assert after(e.READY, e.PROMOTED, e.SUSPECTED, e.DEMOTED, e.RECOVERED) is InstanceState.STANDBY

    def test_a_promotion_that_crosses_a_draining_does_not_stop_it(self) -> None:
        for event in (InstanceEvent.PROMOTED, InstanceEvent.DEMOTED):
            assert after(event, start=InstanceState.DRAINING) is InstanceState.DRAINING

    def test_an_instance_that_has_not_caught_up_cannot_be_promoted(self) -> None:
        assert InstanceEvent.PROMOTED not in INSTANCE.allowed(InstanceState.JOINING)


class TestGroup:
    def test_a_promotion_leads_to_held_from_every_state(self) -> None:
        assert {GROUP.next(state, GroupEvent.PROMOTED) for state in GroupState} == {GroupState.HELD}

    def test_reaffirming_the_fence_changes_no_state(self) -> None:
        assert all(GROUP.next(state, GroupEvent.REAFFIRMED) is state for state in GroupState)

    def test_a_group_whose_holder_hands_over_is_failing_over_until_the_next_one_is_promoted(self) -> None:
        assert GROUP.next(GroupState.HELD, GroupEvent.HANDOVER_STARTED) is GroupState.FAILING_OVER
        assert GROUP.next(GroupState.FAILING_OVER, GroupEvent.PROMOTED) is GroupState.HELD

    def test_a_handover_that_is_called_off_leaves_the_holder_in_place(self) -> None:
        assert GROUP.next(GroupState.FAILING_OVER, GroupEvent.HANDOVER_CANCELLED) is GroupState.HELD
        assert GROUP.next(GroupState.HELD, GroupEvent.HANDOVER_CANCELLED) is None

    def test_a_holder_may_be_lost_during_its_own_handover(self) -> None:
        assert GROUP.next(GroupState.FAILING_OVER, GroupEvent.VACATED) is GroupState.VACANT

    def test_a_vacant_group_has_no_holder_to_hand_over(self) -> None:
        assert GroupEvent.HANDOVER_STARTED not in GROUP.allowed(GroupState.VACANT)


class TestCall:
    def test_an_outcome_is_final(self) -> None:
        assert CALL.final == {
            CallState.SUCCEEDED,
            CallState.FAILED,
            CallState.EXPIRED,
            CallState.CANCELLED,
            CallState.DUPLICATE,
            CallState.DISCARDED,
        }

    def test_a_dead_letter_can_only_be_requeued_or_discarded(self) -> None:
        assert CALL.allowed(CallState.DEAD_LETTERED) == {CallEvent.REQUEUED, CallEvent.DISCARDED}

    def test_a_duplicate_never_started(self) -> None:
        assert {s for s in CallState if CALL.next(s, CallEvent.DUPLICATED)} == {CallState.ACCEPTED}

    def test_an_expired_call_never_started(self) -> None:
        assert {state for state in CallState if CALL.next(state, CallEvent.EXPIRED)} == {
            CallState.ACCEPTED,
            CallState.RETRY_WAIT,
        }

    def test_only_a_claimed_call_can_come_into_doubt(self) -> None:
        assert {state for state in CallState if CALL.next(state, CallEvent.DOUBTED)} == {CallState.STARTED}

    def test_a_call_in_doubt_is_neither_started_nor_retried_while_it_is_in_doubt(self) -> None:
        assert CALL.allowed(CallState.IN_DOUBT).isdisjoint({CallEvent.CLAIMED, CallEvent.RETRY_SCHEDULED})

    def test_a_call_that_certainly_did_not_run_may_run_again(self) -> None:
        assert CALL.next(CallState.IN_DOUBT, CallEvent.RESOLVED_NOT_EXECUTED) is CallState.ACCEPTED

    def test_a_call_that_did_run_stays_in_doubt_until_its_outcome_is_there(self) -> None:
        assert CALL.next(CallState.IN_DOUBT, CallEvent.RESOLVED_EXECUTED) is CallState.IN_DOUBT
        assert CALL.next(CallState.STARTED, CallEvent.RESOLVED_EXECUTED) is None

    def test_a_claimed_call_is_not_claimed_again(self) -> None:
        assert CALL.next(CallState.STARTED, CallEvent.CLAIMED) is None

    @pytest.mark.parametrize("state", [CallState.ACCEPTED, CallState.RETRY_WAIT])
    def test_a_call_that_needs_no_claim_concludes_or_waits_for_a_retry_without_one(
        self, state: CallState
    ) -> None:
        assert CALL.next(state, CallEvent.SUCCEEDED) is CallState.SUCCEEDED
        assert CALL.next(state, CallEvent.FAILED) is CallState.FAILED
        assert CALL.next(state, CallEvent.RETRY_SCHEDULED) is CallState.RETRY_WAIT

    def test_a_call_that_is_not_in_doubt_can_be_cancelled_and_dead_lettered(self) -> None:
        for state in (CallState.ACCEPTED, CallState.STARTED, CallState.RETRY_WAIT):
            assert CALL.next(state, CallEvent.CANCELLED) is CallState.CANCELLED
            assert CALL.next(state, CallEvent.DEAD_LETTERED) is CallState.DEAD_LETTERED


class TestRouter:
    def test_a_router_leads_only_after_it_has_caught_up(self) -> None:
        assert {state for state in RouterState if ROUTER.next(state, RouterEvent.TOOK_LEAD)} == {
            RouterState.FOLLOWING
        }

    def test_a_router_that_lost_its_place_replays_and_does_not_lead_meanwhile(self) -> None:
        for state in (RouterState.FOLLOWING, RouterState.LEADING):
            assert ROUTER.next(state, RouterEvent.LOST_PLACE) is RouterState.REPLAYING

    def test_a_router_can_stop_in_every_state(self) -> None:
        for state in set(RouterState) - ROUTER.final:
            assert ROUTER.next(state, RouterEvent.STOPPED) is RouterState.STOPPED
