"""The client's core: calls that wait for large arguments to be stored, or for the outcomes of other calls."""

from __future__ import annotations

import itertools

import pytest

from aegisipc.eventstore.errors import LogFull, PayloadTooLarge
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.ids import format_call_id
from aegisipc.sdk.core.caller import Fate, PendingCall
from aegisipc.sdk.errors import CallTimeout
from aegisipc.sdk.outcomes import error_of_fate
from tests.sdk.test_caller import Rig

# -- large arguments -----------------------------------------------------------------------------------


def large_rig() -> Rig:
    return Rig(max_frame_bytes=1000, max_payload_bytes=10_000)


def queued(rig: Rig) -> list[PendingCall]:
    out = rig.core.next_frame(rig.lane)
    return [] if out is None else list(out.calls)


def test_calls_of_the_same_resource_wait_for_large_arguments_and_others_do_not() -> None:
    rig = large_rig()
    large = rig.submit(b"x" * 5000, resource="a")
    same, other, none = rig.submit(resource="a"), rig.submit(resource="b"), rig.submit()
    assert large.is_uploading
    assert queued(rig) == [other, none]
    rig.core.on_uploaded(large, b"reference", rig.now_ns)
    assert queued(rig) == [large, same]
    assert rig.lane.held == {}
    assert (large.body, large.is_uploading) == (b"reference", False)


def test_large_arguments_that_are_stored_first_still_go_out_in_order() -> None:
    rig = large_rig()
    one, two = rig.submit(b"1" * 5000, resource="a"), rig.submit(b"2" * 5000, resource="a")
    three = rig.submit(resource="a")
    rig.core.on_uploaded(two, b"two", rig.now_ns)
    assert queued(rig) == []
    rig.core.on_uploaded(one, b"one", rig.now_ns)
    assert queued(rig) == [one, two, three]
    assert rig.lane.held == {}


def test_large_arguments_without_a_resource_hold_up_nobody() -> None:
    rig = large_rig()
    large, other = rig.submit(b"x" * 5000), rig.submit()
    assert queued(rig) == [other]
    rig.core.on_uploaded(large, b"reference", rig.now_ns)
    assert queued(rig) == [large]


@pytest.mark.parametrize("end", ["failed", "dropped", "late", "closed"])
def test_large_arguments_that_never_come_let_go_of_those_that_wait(end: str) -> None:
    rig = large_rig()
    large = rig.submit(b"x" * 5000, resource="a", timeout_ms=100)
    after = rig.submit(resource="a", timeout_ms=60_000)
    match end:
        case "failed":
            assert rig.core.on_upload_failed(large, LogFull("full"), 0) == [large]
            assert large.fate is Fate.REFUSED
        case "dropped":
            assert rig.core.drop(large, 0)
            assert large.fate is Fate.DROPPED
        case "late":
            rig.tick(1000)
            assert large.fate is Fate.NOT_SENT
            assert after.timeout_ms == 59_000
        case _:
            assert rig.core.on_closed() == [large, after]
            return
    assert queued(rig) == [after]
    rig.core.on_uploaded(large, b"too late", rig.now_ns)
    assert rig.core.on_upload_failed(large, LogFull("full"), 0) == []
    assert queued(rig) == []
    assert rig.lane.held == {}


def test_one_that_waits_for_large_arguments_can_be_dropped() -> None:
    rig = large_rig()
    large, waits, last = (
        rig.submit(b"x" * 5000, resource="a"),
        rig.submit(resource="a"),
        rig.submit(resource="a"),
    )
    assert rig.core.drop(waits, 0)
    assert queued(rig) == []
    rig.core.on_uploaded(large, b"reference", 0)
    assert queued(rig) == [large, last]


def test_the_time_of_a_call_runs_while_its_arguments_are_stored() -> None:
    rig = large_rig()
    large = rig.submit(b"x" * 5000, timeout_ms=1000)
    rig.tick(400)
    rig.core.on_uploaded(large, b"reference", rig.now_ns)
    assert large.timeout_ms == 600


def test_over_the_limit_of_large_arguments_a_call_is_refused() -> None:
    rig = large_rig()
    with pytest.raises(PayloadTooLarge, match="max_payload_bytes") as caught:
        rig.submit(b"x" * 10_001)
    assert (caught.value.size_bytes, caught.value.limit_bytes) == (10_001, 10_000)
    assert rig.submit(b"x" * 10_000).is_uploading


# -- duplicates ----------------------------------------------------------------------------------------


def test_a_duplicate_that_is_told_before_its_acknowledgement_is_linked_all_the_same() -> None:
    rig = Rig()
    again = rig.submit()
    out = rig.frame()
    rig.core.on_outcomes([(again.call_id, Mark.DUPLICATE, b"f" * 16)])
    rig.core.on_acked(out, 5, rig.now_ns)
    assert rig.core.links.take_fresh() == [b"f" * 16]
    assert rig.core.links.take_fresh() == []
    assert rig.tick(0) == [b"f" * 16]
    assert rig.core.on_outcomes([(b"f" * 16, Mark.SUCCEEDED, b"r")]) == [again]
    assert not rig.core.links


def test_many_duplicates_of_a_call_ask_about_it_once() -> None:
    rig = Rig()
    calls = [rig.accepted() for _ in range(5)]
    rig.core.on_outcomes([(call.call_id, Mark.DUPLICATE, b"f" * 16) for call in calls])
    assert rig.tick(0) == [b"f" * 16]
    assert rig.core.on_answer([b"f" * 16], concluded=1, now_ns=rig.now_ns) == [b"f" * 16]
    assert rig.core.on_outcomes([(b"f" * 16, Mark.FAILED, b"e")]) == calls
    assert {call.outcome for call in calls} == {calls[0].outcome}


def test_a_duplicate_that_runs_out_of_time_waits_for_nothing_any_more() -> None:
    rig = Rig()
    again = rig.accepted(timeout_ms=100)
    rig.core.on_outcomes([(again.call_id, Mark.DUPLICATE, b"f" * 16)])
    rig.tick(1000)
    assert rig.over == [again]
    assert not rig.core.links
    error = error_of_fate(again)
    assert isinstance(error, CallTimeout)
    assert error.duplicate_call_id == format_call_id(again.call_id)
    assert rig.core.on_outcomes([(b"f" * 16, Mark.SUCCEEDED, b"r")]) == []


def test_when_the_first_call_is_given_up_here_its_duplicates_look_elsewhere() -> None:
    rig = Rig()
    first, again = rig.accepted(timeout_ms=100), rig.accepted()
    rig.core.on_outcomes([(again.call_id, Mark.DUPLICATE, first.call_id)])
    assert rig.core.links.take_fresh() == []  # the outcome of one's own call comes anyway
    rig.tick(1000)
    assert rig.over == [first]
    assert rig.core.links.take_fresh() == [first.call_id]
    assert rig.core.on_outcomes([(first.call_id, Mark.SUCCEEDED, b"r")]) == [again]


def test_a_chain_of_duplicates_has_an_end() -> None:
    rig = Rig()
    call = rig.accepted()
    chain = [bytes([number]) * 16 for number in range(1, 12)]
    told = [(call.call_id, Mark.DUPLICATE, chain[0])]
    told += [(one, Mark.DUPLICATE, other) for one, other in itertools.pairwise(chain)]
    assert rig.core.on_outcomes(told) == [call]
    assert call.outcome is not None
    assert (call.outcome.mark, call.outcome.call_id) == (Mark.DUPLICATE, call.call_id)
