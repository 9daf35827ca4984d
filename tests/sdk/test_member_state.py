"""The state that a group shares: the same in every member, whatever happens to whoever holds the pen."""

from __future__ import annotations

import pytest

from aegisipc.eventstore.codec import decode
from aegisipc.eventstore.frames import MAX_ENTRIES, NO_CALL, Mark, decode_pen
from aegisipc.sdk.core.replica import MAX_CHECKS, MAX_EVENTS, Check
from tests.sdk.kit import FakeClient, ListLog, a_call, marks
from tests.sdk.member_kit import ListState, MemberRig, active_member, events, run, standby_member


@pytest.fixture
def log() -> ListLog:
    return ListLog()


@pytest.fixture
def client(log: ListLog) -> FakeClient:
    return FakeClient(log)


@pytest.fixture
def holder(log: ListLog) -> MemberRig:
    return active_member(log, "a", state=ListState())


@pytest.fixture
def standby(log: ListLog, holder: MemberRig) -> MemberRig:
    return standby_member(log, "b", state=ListState())


def emitted_in(log: ListLog) -> list[bytes]:
    """The events in the log, as they stand there."""
    frames = [decode_pen(record.payload) for record in log.records if ".pen." in record.subject]
    return [
        body
        for frame in frames
        for (mark, _), body in zip(frame.entries, frame.bodies, strict=True)
        if mark is Mark.EMITTED and body is not None
    ]


# -- events --------------------------------------------------------------------------------------------


def test_events_are_applied_by_the_holder_at_once_and_by_the_others_when_they_are_in_the_log(
    client: FakeClient, holder: MemberRig, standby: MemberRig
) -> None:
    run(holder, client, b"one", b"two")
    assert events(holder) == [b"one", b"two"]
    standby.read()
    assert events(standby) == []
    holder.write()
    standby.read()
    holder.read()
    assert events(standby) == events(holder) == [b"one", b"two"]


def test_events_go_right_before_the_outcome_in_its_frame(client: FakeClient, holder: MemberRig) -> None:
    one = run(holder, client, b"1", b"2")
    two = run(holder, client, b"3")
    assert marks(holder.write()) == [
        (Mark.EMITTED, one),
        (Mark.EMITTED, one),
        (Mark.SUCCEEDED, one),
        (Mark.EMITTED, two),
        (Mark.SUCCEEDED, two),
    ]


@pytest.mark.parametrize("max_frame_bytes", [1, 64, 100, 133, 200, 1000])
def test_events_are_never_split_from_their_outcome_however_small_the_frames(
    log: ListLog, client: FakeClient, max_frame_bytes: int
) -> None:
    holder = active_member(log, "a", state=ListState(), max_frame_bytes=max_frame_bytes)
    for number in range(12):
        run(holder, client, *[b"%d.%d" % (number, part) for part in range(number % 4)])
    while (frame := holder.write()) is not None:
        said = marks(frame)
        size = sum(32 + len(body or b"") for body in frame.bodies)
        assert size <= max_frame_bytes or len({call for _, call in said}) == 1
        for index, (mark, call) in enumerate(said):
            if mark is Mark.EMITTED:
                outcome = next((m for m, c in said[index:] if c == call and m is not Mark.EMITTED), None)
                assert outcome is Mark.SUCCEEDED
    holder.read()
    assert not holder.core.calls.open
    assert emitted_in(log) == events(holder)


def test_an_outcome_whose_events_fill_a_frame_is_not_left_behind(log: ListLog, client: FakeClient) -> None:
    limit = 3 * 32 + 4  # two events and their outcome need 3 * 32 + 5
    holder = active_member(log, "a", state=ListState(), max_frame_bytes=limit)
    call = run(holder, client, b"ab", b"cd")
    assert marks(holder.write()) == [(Mark.EMITTED, call), (Mark.EMITTED, call), (Mark.SUCCEEDED, call)]


def test_more_than_a_frame_holds_fails_the_call_and_changes_nothing(log: ListLog, client: FakeClient) -> None:
    holder = active_member(log, "a", state=ListState(), max_frame_bytes=1000)
    call = run(holder, client, b"x" * 1000)
    assert marks(holder.write()) == [(Mark.FAILED, call)]
    _, _, body = holder.replies[-1][1]
    error = decode(body or b"")
    assert error["code"] == "result_too_large"
    assert error["details"]["limit_bytes"] == 1000
    assert (events(holder), holder.core.replica.spoiled) == ([], None)


def test_more_events_than_a_frame_has_entries_fail_the_call(client: FakeClient, holder: MemberRig) -> None:
    fits = run(holder, client, *[b""] * MAX_EVENTS)
    frame = holder.write()
    assert frame is not None
    assert (len(frame.entries), marks(frame)[-1]) == (MAX_ENTRIES - 1, (Mark.SUCCEEDED, fits))
    too_many = run(holder, client, *[b""] * (MAX_EVENTS + 1))
    assert marks(holder.write()) == [(Mark.FAILED, too_many)]


def test_a_member_without_state_fails_calls_that_emit(log: ListLog, client: FakeClient) -> None:
    holder = active_member(log, "a")
    call = run(holder, client, b"event")
    assert marks(holder.write()) == [(Mark.FAILED, call)]
    assert holder.core.is_active
    assert holder.core.replica.spoiled is None


# -- failovers -----------------------------------------------------------------------------------------


def test_an_heir_goes_on_from_the_events_in_the_log(
    log: ListLog, client: FakeClient, holder: MemberRig, standby: MemberRig
) -> None:
    run(holder, client, b"kept")
    holder.write()
    lost = run(holder, client, b"lost")
    log.promote("b", 2)
    standby.read()
    assert events(standby) == [b"kept"]
    assert standby.started() == [lost]
    standby.finish(lost, emitted=[b"anew"])
    standby.write()
    assert emitted_in(log) == events(standby) == [b"kept", b"anew"]


def test_a_holder_that_loses_the_pen_with_events_unwritten_is_spoiled(
    log: ListLog, client: FakeClient, holder: MemberRig
) -> None:
    run(holder, client, b"ahead")
    log.join("b")
    log.promote("b", 2)
    holder.read()
    assert holder.core.replica.spoiled == "it is ahead of the log: events were applied that the log refused"
    assert holder.core.is_blocked


def test_a_holder_whose_frame_with_events_is_refused_is_spoiled(
    log: ListLog, client: FakeClient, holder: MemberRig
) -> None:
    run(holder, client, b"ahead")
    written = holder.next_frame()
    log.join("b")
    log.promote("b", 2)
    assert holder.refuse(written) is None
    assert holder.core.replica.spoiled is not None


def test_a_spoiled_member_does_not_take_the_pen(log: ListLog, client: FakeClient, holder: MemberRig) -> None:
    run(holder, client, b"ahead")
    log.join("b")
    log.promote("b", 2)
    log.promote("a", 3)
    holder.read()
    assert not holder.core.is_active
    assert holder.core.next_frame() is None


def test_a_holder_that_wrote_all_its_events_keeps_its_state_and_may_be_promoted_again(
    log: ListLog, client: FakeClient, holder: MemberRig, standby: MemberRig
) -> None:
    run(holder, client, b"one")
    holder.write()
    (call,) = client.send(a_call("get"))
    holder.read()
    holder.finish(call)  # unwritten, but no event
    log.promote("b", 2)
    standby.read()
    standby.finish(call, emitted=[b"two"])
    standby.write()
    log.promote("a", 3)
    holder.read()
    assert holder.core.replica.spoiled is None
    assert holder.core.is_active
    assert events(holder) == [b"one", b"two"]
    run(holder, client, b"three")
    holder.write()
    standby.read()
    assert events(standby) == [b"one", b"two", b"three"]


def test_a_frame_that_was_read_back_before_the_pen_was_lost_spoils_nothing(
    log: ListLog, client: FakeClient, holder: MemberRig
) -> None:
    run(holder, client, b"one")
    written = holder.next_frame()
    holder.store(written)
    log.join("b")
    log.promote("b", 2)
    holder.read()  # its acknowledgement is still on its way
    assert holder.core.replica.spoiled is None
    assert events(holder) == [b"one"]
    holder.ack(written)
    log.promote("a", 3)
    holder.read()
    assert holder.core.is_active


def test_an_old_frame_that_is_stored_again_does_not_hide_a_newer_one(
    log: ListLog, client: FakeClient, holder: MemberRig
) -> None:
    run(holder, client, b"one")
    holder.write()
    old = log.records[-1]
    run(holder, client, b"two")
    holder.store(holder.next_frame())
    log.append(old.subject, old.payload)
    log.join("b")
    log.promote("b", 2)
    holder.read()  # its acknowledgement was lost
    assert holder.core.replica.spoiled is None
    assert events(holder) == [b"one", b"two"]


def test_a_new_epoch_of_the_same_holder_spoils_a_state_that_is_ahead(
    log: ListLog, client: FakeClient, holder: MemberRig
) -> None:
    run(holder, client, b"ahead")
    log.promote("a", 2)
    holder.read()
    assert holder.core.replica.spoiled is not None
    assert not holder.core.is_active


def test_a_handover_costs_no_state(
    log: ListLog, client: FakeClient, holder: MemberRig, standby: MemberRig
) -> None:
    run(holder, client, b"one")
    written = holder.next_frame()
    log.hand_over(1, "a", "b")
    again = holder.refuse(written)
    assert again is not None
    holder.store(again)
    holder.ack(again)
    holder.read()
    assert holder.core.to_yield == 1
    log.promote("b", 2, kind="planned")
    for member in (holder, standby):
        member.read()
        assert events(member) == [b"one"]
        assert member.core.replica.spoiled is None


# -- events that cannot be applied ---------------------------------------------------------------------


def test_a_call_whose_events_the_state_does_not_take_fails_and_the_copy_is_spoiled(
    log: ListLog, client: FakeClient, holder: MemberRig, standby: MemberRig
) -> None:
    call = run(holder, client, b"fine", b"!bad")
    assert marks(holder.write()) == [(Mark.FAILED, call)]
    error = decode(holder.replies[-1][1][2] or b"")
    assert (error["code"], "!bad" in error["message"]) == ("state_apply_failed", True)
    assert holder.core.is_blocked
    assert isinstance(holder.core.replica.failure, ValueError)
    standby.read()
    assert events(standby) == []
    assert standby.core.replica.spoiled is None


def test_a_spoiled_holder_starts_nothing_more_and_concludes_what_runs(
    log: ListLog, client: FakeClient, holder: MemberRig
) -> None:
    runs, bad = client.send(a_call("get"), a_call("put"))
    holder.read()
    holder.finish(bad, emitted=[b"!bad"])
    (never,) = client.send(a_call("get"))
    holder.read()
    assert holder.started() == [runs]
    holder.finish(runs)
    assert holder.write_all() == [(Mark.FAILED, bad), (Mark.SUCCEEDED, runs)]
    assert list(holder.core.calls.open) == [never]


def test_a_spoiled_holder_lets_no_more_events_into_the_log(
    log: ListLog, client: FakeClient, holder: MemberRig
) -> None:
    runs, bad = client.send(a_call("put"), a_call("put"))
    holder.read()
    holder.finish(bad, emitted=[b"!bad"])
    holder.finish(runs, emitted=[b"good, but for whom?"])
    assert holder.write_all() == [(Mark.FAILED, bad), (Mark.FAILED, runs)]
    assert emitted_in(log) == []


def test_a_standby_that_cannot_apply_an_event_is_spoiled_and_takes_no_more(
    log: ListLog, client: FakeClient, holder: MemberRig
) -> None:
    class Picky(ListState):
        def apply(self, body: bytes) -> None:
            if body == b"one":
                raise ValueError("not here")
            super().apply(body)

    picky = standby_member(log, "b", state=Picky())
    run(holder, client, b"one")
    run(holder, client, b"two")
    holder.write()
    picky.read()
    assert picky.core.replica.spoiled == "an event could not be applied: not here"
    assert events(picky) == []
    log.promote("b", 2)
    picky.read()
    assert not picky.core.is_active


# -- checks --------------------------------------------------------------------------------------------


def test_every_member_agrees_with_a_check_at_its_place_in_the_log(
    log: ListLog, client: FakeClient, holder: MemberRig, standby: MemberRig
) -> None:
    run(holder, client, b"one")
    first = holder.core.replica.check()
    run(holder, client, b"two")
    holder.write()
    run(holder, client, b"three")
    second = holder.core.replica.check()
    holder.write()
    assert first is not None
    assert second is not None
    holder.read()
    standby.read()
    assert list(standby.core.replica.checks.values()) == [Check(first, first), Check(second, second)]
    assert standby.core.replica.checks == holder.core.replica.checks
    assert first != second


def test_a_member_that_differs_is_spoiled_and_says_where(
    log: ListLog, client: FakeClient, holder: MemberRig, standby: MemberRig
) -> None:
    assert standby.state is not None
    standby.state.events.append(b"of its own making")
    holder.core.replica.check()
    holder.write()
    standby.read()
    (seq,) = standby.core.replica.checks
    assert standby.core.replica.spoiled == f"it differs from the holder's at {seq}"


def test_only_the_latest_checks_are_remembered(
    log: ListLog, client: FakeClient, holder: MemberRig, standby: MemberRig
) -> None:
    for _ in range(MAX_CHECKS + 3):
        holder.core.replica.check()
        holder.write()
    standby.read()
    assert len(standby.core.replica.checks) == MAX_CHECKS
    assert max(standby.core.replica.checks) == log.records[-1].seq


def test_a_check_whose_digest_cannot_be_taken_spoils_the_copy_and_not_the_following(
    log: ListLog, client: FakeClient, holder: MemberRig
) -> None:
    class Broken(ListState):
        def digest(self) -> bytes:
            raise RuntimeError("no digest today")

    broken = standby_member(log, "b", state=Broken())
    holder.core.replica.check()
    holder.write()
    broken.read()
    assert broken.core.replica.spoiled == "its digest could not be taken: no digest today"
    assert broken.position == len(log.records)


def test_a_spoiled_or_stateless_holder_writes_no_check(
    log: ListLog, client: FakeClient, holder: MemberRig
) -> None:
    run(holder, client, b"!bad")
    assert holder.core.replica.check() is None
    assert NO_CALL not in [call for _, call in holder.write_all()]
    stateless = active_member(ListLog(), "a")
    assert stateless.core.replica.check() is None
    assert stateless.core.next_frame() is None
