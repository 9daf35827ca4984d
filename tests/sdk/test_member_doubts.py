"""Calls that may have run: how a holder comes to doubt them, and what ends the doubt."""

from __future__ import annotations

from typing import Any

import pytest

from aegisipc.eventstore.codec import decode
from aegisipc.eventstore.frames import Mark, decode_pen
from aegisipc.eventstore.lifecycles import CallState
from tests.sdk.kit import FakeClient, ListLog, a_call, marks
from tests.sdk.member_kit import ListState, MemberRig, active_member, said_by, standby_member


@pytest.fixture
def log() -> ListLog:
    return ListLog()


@pytest.fixture
def client(log: ListLog) -> FakeClient:
    return FakeClient(log)


def claimed_and_lost(
    log: ListLog, client: FakeClient, timeout_ms: int = 10_000, *, shares_state: bool = False
) -> tuple[MemberRig, MemberRig, bytes]:
    """`a` runs a ``once`` call when `b` gets the pen and finds it in doubt; returns both, and the call."""
    states = (ListState(), ListState()) if shares_state else (None, None)
    former = active_member(log, "a", state=states[0])
    heir = standby_member(log, "b", state=states[1])
    (call,) = client.send(a_call("pay", "x", timeout_ms=timeout_ms))
    former.read()
    former.write()
    assert former.started() == [call]
    log.promote("b", 2)
    heir.read()
    heir.write()
    former.read()
    return former, heir, call


def last_bodies(log: ListLog) -> list[Any]:
    """The bodies of the latest pen frame, decoded."""
    frame = next(r for r in reversed(log.records) if ".pen." in r.subject)
    return [None if body is None else decode(body) for body in decode_pen(frame.payload).bodies]


# -- how it comes --------------------------------------------------------------------------------------


def test_a_doubt_says_who_claimed_the_call_in_which_epoch_and_who_found_it(
    log: ListLog, client: FakeClient
) -> None:
    claimed_and_lost(log, client)
    (error,) = last_bodies(log)
    assert error["code"] == "in_doubt"
    assert error["message"].startswith("a claimed it in epoch 1 and lost the pen")
    assert error["details"] == {"claimed_by": "a", "claimed_epoch": 1, "found_by": "b"}


def test_the_caller_is_told_of_the_doubt_as_soon_as_it_is_known(log: ListLog, client: FakeClient) -> None:
    _, heir, call = claimed_and_lost(log, client)
    ((name, (call_id, mark, body)),) = heir.replies
    assert (name, call_id, mark) == ("c1", call, Mark.IN_DOUBT)
    heir.read()
    assert heir.core.answer([call]) == [(call, Mark.IN_DOUBT, body)]


def test_each_doubt_is_given_once_per_epoch(log: ListLog, client: FakeClient) -> None:
    _, heir, call = claimed_and_lost(log, client)
    assert [doubt.call_id for doubt in heir.doubts] == [call]
    heir.read()
    heir.pass_time(1)
    assert heir.core.take_doubts() == []
    log.promote("b", 3)
    heir.read()
    assert [doubt.call_id for doubt in heir.doubts] == [call, call]


def test_a_doubt_is_kept_over_several_takeovers(log: ListLog, client: FakeClient) -> None:
    _, _, call = claimed_and_lost(log, client)
    for epoch, name in ((3, "c"), (4, "d")):
        log.join(name)
        log.promote(name, epoch)
        heir = MemberRig(log, name)
        heir.read()
        assert heir.core.next_frame() is None  # it is in the log already
        assert call in heir.core.doubts
        assert [doubt.call_id for doubt in heir.doubts] == [call]
    assert heir.core.calls.open[call].claimed_by == "a"


def test_a_standby_gives_no_doubts(log: ListLog, client: FakeClient) -> None:
    former, _, call = claimed_and_lost(log, client)
    assert former.doubts == []
    assert call not in former.core.doubts
    assert not former.core.doubts.not_executed(call, said_by())


def test_who_loses_the_pen_can_end_no_doubt_any_more(log: ListLog, client: FakeClient) -> None:
    _, heir, call = claimed_and_lost(log, client)
    assert len(heir.core.doubts) == 1
    log.promote("a", 3)
    heir.read()
    assert len(heir.core.doubts) == 0
    assert not heir.core.doubts.executed(call, Mark.SUCCEEDED, b"", said_by())
    assert heir.core.take_doubts() == []


def test_a_doubt_holds_up_no_other_call_of_its_resource(log: ListLog, client: FakeClient) -> None:
    _, heir, _ = claimed_and_lost(log, client)
    (after,) = client.send(a_call("get", "x"))
    heir.read()
    assert heir.started() == [after]


# -- evidence ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mark", [Mark.SUCCEEDED, Mark.FAILED])
def test_the_word_of_the_former_holder_ends_the_doubt(log: ListLog, client: FakeClient, mark: Mark) -> None:
    former, heir, call = claimed_and_lost(log, client)
    assert not former.finish(call, b"fill", mark)  # too late for an outcome
    former.testify(call, b"\xa4fill", mark)
    heir.read()
    assert marks(heir.write()) == [(Mark.EXECUTED, call), (mark, call)]
    who, outcome = last_bodies(log)
    assert (who["source"], who["author"], outcome) == ("evidence", "a", "fill")
    heir.read()
    assert call not in heir.core.calls.open
    assert heir.replies[-1] == ("c1", (call, mark, b"\xa4fill"))


def test_evidence_from_before_the_takeover_ends_the_doubt_at_once(log: ListLog, client: FakeClient) -> None:
    former = active_member(log, "a")
    (call,) = client.send(a_call("pay"))
    former.read()
    former.write()
    log.vacate(1)
    former.testify(call, b"\x07")
    log.join("b")
    log.promote("b", 2)
    heir = MemberRig(log, "b")
    heir.read()
    assert marks(heir.write()) == [(Mark.IN_DOUBT, call), (Mark.EXECUTED, call), (Mark.SUCCEEDED, call)]
    assert heir.doubts == []
    assert [reply[1] for _, reply in heir.replies] == [Mark.IN_DOUBT, Mark.SUCCEEDED]


def test_evidence_that_was_not_acted_on_is_acted_on_by_the_next_holder(
    log: ListLog, client: FakeClient
) -> None:
    former, heir, call = claimed_and_lost(log, client)
    former.testify(call)
    heir.read()
    heir.next_frame()  # it never arrives
    log.join("c")
    log.promote("c", 3)
    third = MemberRig(log, "c")
    third.read()
    assert marks(third.write()) == [(Mark.EXECUTED, call), (Mark.SUCCEEDED, call)]


def test_a_member_that_is_promoted_again_may_be_its_own_witness(log: ListLog, client: FakeClient) -> None:
    member = active_member(log, "a")
    (call,) = client.send(a_call("pay"))
    member.read()
    member.write()
    log.promote("a", 2)
    member.read()
    assert marks(member.write()) == [(Mark.IN_DOUBT, call)]
    assert not member.finish(call)
    member.testify(call)
    member.read()
    assert marks(member.write()) == [(Mark.EXECUTED, call), (Mark.SUCCEEDED, call)]


def test_the_events_that_evidence_tells_of_are_applied_with_its_outcome(
    log: ListLog, client: FakeClient
) -> None:
    former, heir, call = claimed_and_lost(log, client, shares_state=True)
    former.testify(call, b"\x01", emitted=[b"one", b"two"])
    heir.read()
    assert marks(heir.write()) == [
        (Mark.EXECUTED, call),
        (Mark.EMITTED, call),
        (Mark.EMITTED, call),
        (Mark.SUCCEEDED, call),
    ]
    former.read()
    assert former.state is not None
    assert heir.state is not None
    assert former.state.events == heir.state.events == [b"one", b"two"]


def test_evidence_whose_events_the_state_does_not_take_fails_the_call_instead_of_every_holder(
    log: ListLog, client: FakeClient
) -> None:
    former, heir, call = claimed_and_lost(log, client, shares_state=True)
    former.testify(call, b"\x01", emitted=[b"good", b"!bad"])
    heir.read()
    assert marks(heir.write()) == [(Mark.EXECUTED, call), (Mark.FAILED, call)]
    assert last_bodies(log)[1]["code"] == "state_apply_failed"
    assert heir.core.replica.spoiled is not None
    log.promote("a", 3)
    former.read()
    assert former.core.is_active
    assert former.core.next_frame() is None
    assert former.core.replica.spoiled is None
    assert former.state is not None
    assert former.state.events == []


def test_a_holder_whose_state_is_spoiled_leaves_evidence_with_events_to_the_next_one(
    log: ListLog, client: FakeClient
) -> None:
    former, heir, call = claimed_and_lost(log, client, shares_state=True)
    (other,) = client.send(a_call("put"))
    heir.read()
    heir.finish(other, emitted=[b"!bad"])
    former.testify(call, emitted=[b"good"])
    heir.read()
    assert marks(heir.write()) == [(Mark.FAILED, other)]
    assert call in heir.core.doubts


# -- what others say -----------------------------------------------------------------------------------


def test_a_call_that_is_said_to_have_run_ends_with_what_is_said(log: ListLog, client: FakeClient) -> None:
    _, heir, call = claimed_and_lost(log, client)
    assert heir.core.doubts.executed(call, Mark.SUCCEEDED, b"\x2a", said_by("operator"))
    assert call not in heir.core.doubts
    assert not heir.core.doubts.executed(call, Mark.SUCCEEDED, b"\x2b", said_by("operator"))
    assert not heir.core.doubts.not_executed(call, said_by("reconcile"))
    assert marks(heir.write()) == [(Mark.EXECUTED, call), (Mark.SUCCEEDED, call)]
    who, result = last_bodies(log)
    assert (who["source"], who["author"], who["reason"], result) == ("operator", "ann", "test", 42)


def test_a_call_that_did_not_run_is_claimed_again_and_runs_within_its_deadline(
    log: ListLog, client: FakeClient
) -> None:
    _, heir, call = claimed_and_lost(log, client)
    assert heir.core.doubts.not_executed(call, said_by())
    assert not heir.core.doubts.not_executed(call, said_by())
    assert marks(heir.write()) == [(Mark.NOT_EXECUTED, call)]
    assert heir.core.next_frame() is None  # not before it is in the log
    heir.read()
    assert heir.core.answer([call]) == []
    assert marks(heir.write()) == [(Mark.CLAIMED, call)]
    assert heir.started() == [call]
    heir.read()
    assert (heir.core.calls.open[call].claimed_by, heir.core.calls.open[call].claimed_epoch) == ("b", 2)
    heir.finish(call)
    heir.write_all()
    assert call not in heir.core.calls.open


def test_a_call_that_did_not_run_expires_if_its_deadline_has_passed(log: ListLog, client: FakeClient) -> None:
    _, heir, call = claimed_and_lost(log, client, timeout_ms=50)
    heir.pass_time(100)
    assert heir.core.next_frame() is None  # what is in doubt does not expire
    heir.core.doubts.not_executed(call, said_by())
    heir.write()
    heir.read()
    assert marks(heir.write()) == [(Mark.EXPIRED, call)]
    assert heir.replies[-1] == ("c1", (call, Mark.EXPIRED, None))


def test_a_call_that_did_not_run_waits_for_those_of_its_resource_that_came_before(
    log: ListLog, client: FakeClient
) -> None:
    _, heir, call = claimed_and_lost(log, client)
    (running,) = client.send(a_call("get", "x"))
    heir.read()
    heir.core.doubts.not_executed(call, said_by())
    heir.write()
    heir.read()
    assert heir.core.next_frame() is None
    heir.finish(running)
    assert marks(heir.write()) == [(Mark.SUCCEEDED, running), (Mark.CLAIMED, call)]


@pytest.mark.parametrize("executed", [True, False])
def test_a_resolution_that_did_not_reach_the_log_leaves_the_doubt_to_the_next_holder(
    log: ListLog, client: FakeClient, executed: bool
) -> None:
    _, heir, call = claimed_and_lost(log, client)
    if executed:
        heir.core.doubts.executed(call, Mark.SUCCEEDED, b"\x01", said_by())
    else:
        heir.core.doubts.not_executed(call, said_by())
    written = heir.next_frame()
    log.join("c")
    log.promote("c", 3)
    assert heir.refuse(written) is None
    third = MemberRig(log, "c")
    third.read()
    assert call in third.core.doubts
    assert third.core.calls.open[call].state is CallState.IN_DOUBT
    assert [doubt.call_id for doubt in third.doubts] == [call]


def test_evidence_is_of_no_use_once_it_is_in_the_log_that_the_call_did_not_run(
    log: ListLog, client: FakeClient
) -> None:
    former, heir, call = claimed_and_lost(log, client)
    heir.core.doubts.not_executed(call, said_by())
    heir.write()
    former.testify(call, b"late")
    heir.read()
    assert marks(heir.write()) == [(Mark.CLAIMED, call)]
    assert heir.core.calls.anomalies["evidence of no use"] == 1


def test_evidence_that_crossed_the_word_that_the_call_did_not_run_says_nothing_of_its_next_run(
    log: ListLog, client: FakeClient
) -> None:
    former, heir, call = claimed_and_lost(log, client)
    heir.core.doubts.not_executed(call, said_by())
    former.testify(call, b"of the first run")
    heir.read()
    heir.write()
    heir.read()
    assert marks(heir.write()) == [(Mark.CLAIMED, call)]
    log.join("c")
    log.promote("c", 3)
    third = MemberRig(log, "c")
    third.read()
    assert marks(third.write()) == [(Mark.IN_DOUBT, call)]
    assert call in third.core.doubts


def test_a_call_may_come_into_doubt_twice(log: ListLog, client: FakeClient) -> None:
    former, heir, call = claimed_and_lost(log, client)
    heir.core.doubts.not_executed(call, said_by())
    heir.write()
    heir.read()
    heir.write()
    assert heir.started() == [call]
    log.promote("a", 3)
    former.read()
    assert marks(former.write()) == [(Mark.IN_DOUBT, call)]
    assert last_bodies(log)[0]["details"]["claimed_by"] == "b"
    heir.read()
    heir.testify(call)
    former.read()
    assert marks(former.write()) == [(Mark.EXECUTED, call), (Mark.SUCCEEDED, call)]


def test_someone_elses_evidence_ends_no_doubt(log: ListLog, client: FakeClient) -> None:
    _, heir, call = claimed_and_lost(log, client)
    log.join("c")
    liar = MemberRig(log, "c")
    liar.testify(call, b"forged")
    heir.read()
    assert heir.core.next_frame() is None
    assert call in heir.core.doubts


def test_a_reply_of_a_doubt_and_its_end_in_one_frame_tells_both(log: ListLog, client: FakeClient) -> None:
    former = active_member(log, "a")
    (call,) = client.send(a_call("pay"))
    former.read()
    former.write()
    log.join("b")
    log.promote("b", 2)
    heir = MemberRig(log, "b")
    heir.read()
    heir.core.doubts.executed(call, Mark.SUCCEEDED, b"\x01", said_by("reconcile"))
    written = heir.next_frame()
    replies = heir.core.replies(written)
    assert [mark for _, mark, _ in replies["c1"]] == [Mark.IN_DOUBT, Mark.SUCCEEDED]
