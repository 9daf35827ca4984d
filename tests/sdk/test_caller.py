"""The client's core: what it sends, when it asks again, and what each call comes to."""

from __future__ import annotations

import itertools

import pytest

from aegisipc.eventstore.errors import LogFull, NotConnected, Overloaded, PayloadTooLarge
from aegisipc.eventstore.frames import HIGH, LOW, MAX_TIMEOUT_MS, CallOptions, Mark, decode_calls
from aegisipc.eventstore.ids import format_call_id, time_of
from aegisipc.eventstore.views import Congestion
from aegisipc.sdk.core.caller import ASK_AFTER_NS, GRACE_NS, Caller, CallsOut, Fate, Lane, PendingCall
from aegisipc.sdk.core.flow import FlowHint
from aegisipc.sdk.errors import CallTimeout
from aegisipc.sdk.outcomes import error_of_fate
from aegisipc.sdk.wire import MAX_ASKED
from tests.sdk.kit import GROUP, NS, SERVICE, ms

SERVER_MS = 1_800_000_000_000


class Rig:
    """A caller, its clock and one lane."""

    def __init__(
        self, *, max_open: int = 1000, max_frame_bytes: int = 1 << 20, max_payload_bytes: int = 0
    ) -> None:
        self.core = Caller(
            "c1",
            7,
            NS,
            max_open=max_open,
            max_frame_bytes=max_frame_bytes,
            max_payload_bytes=max_payload_bytes,
        )
        self.now_ns = 0
        self.lane = self.core.lane(SERVICE, GROUP)
        self.over: list[PendingCall] = []

    def submit(
        self,
        body: bytes = b"b",
        *,
        timeout_ms: int = 1000,
        lane: Lane | None = None,
        resource: str | None = None,
        options: CallOptions | None = None,
    ) -> PendingCall:
        return self.core.submit(
            lane or self.lane,
            "get",
            body,
            timeout_ms,
            resource,
            options,
            now_ns=self.now_ns,
            server_ms=SERVER_MS,
        )

    def frame(self, lane: Lane | None = None) -> CallsOut:
        frame = self.core.next_frame(lane or self.lane)
        assert frame is not None
        return frame

    def accepted(self, **options: int) -> PendingCall:
        call = self.submit(timeout_ms=options.get("timeout_ms", 60_000))
        self.core.on_acked(self.frame(), 5, self.now_ns)
        return call

    def tick(self, milliseconds: float) -> list[bytes]:
        """Let time pass; returns the ids to ask about."""
        self.now_ns += ms(milliseconds)
        tick = self.core.on_tick(self.now_ns)
        self.over += tick.over
        return [call_id for _, call_ids in tick.ask for call_id in call_ids]


# -- frames --------------------------------------------------------------------------------------------


def test_a_frame_holds_everything_that_gathered_in_the_order_in_which_it_was_submitted() -> None:
    rig = Rig()
    calls = [rig.submit(b"one", resource="x"), rig.submit(b"two", timeout_ms=5)]
    rig.lane.epoch = 9
    out = rig.frame()
    frame = decode_calls(out.payload)
    assert [tuple(entry) for entry in frame.entries] == [
        (calls[0].call_id, "get", 1000, "x", None),
        (calls[1].call_id, "get", 5, None, None),
    ]
    assert frame.bodies == [b"one", b"two"]
    assert (frame.session, frame.number, frame.epoch) == (7, 1, 9)
    assert out.lane.subject == NS.call(SERVICE, GROUP, "c1")
    assert out.give_up_ns == max(call.deadline_ns for call in calls)


def test_call_ids_rise_and_tell_the_servers_time() -> None:
    rig = Rig()
    calls = [rig.submit().call_id for _ in range(100)]
    assert calls == sorted(set(calls))
    assert {time_of(call_id) for call_id in calls} == {SERVER_MS}


def test_frames_of_a_lane_are_numbered_and_have_record_ids_of_their_own() -> None:
    rig = Rig()
    rig.submit()
    first = rig.frame()
    rig.core.on_acked(first, 1, 0)
    rig.submit()
    second = rig.frame()
    assert decode_calls(second.payload).number == 2
    assert first.record_id != second.record_id


def test_each_group_has_a_lane_of_its_own() -> None:
    rig = Rig()
    other = rig.core.lane(SERVICE, "other")
    assert rig.core.lane(SERVICE, GROUP) is rig.lane is not other
    rig.submit()
    assert rig.core.next_frame(other) is None
    rig.submit(lane=other)
    assert rig.frame(other).record_id != rig.frame().record_id


def test_nothing_to_send_gives_no_frame() -> None:
    assert Rig().core.next_frame(Rig().lane) is None


def test_a_frame_holds_as_many_calls_as_the_lane_allows() -> None:
    rig = Rig()
    rig.lane.max_calls = 2
    for _ in range(5):
        rig.submit()
    assert [len(rig.frame().calls) for _ in range(3)] == [2, 2, 1]


def test_a_frame_never_exceeds_its_limit_even_with_long_resources() -> None:
    rig = Rig(max_frame_bytes=20_000)
    for _ in range(200):
        rig.submit(b"x" * 100, resource="r" * 250)
    sent = 0
    while (out := rig.core.next_frame(rig.lane)) is not None:
        assert len(out.payload) <= 20_000
        sent += len(out.calls)
    assert sent == 200


def test_a_call_whose_time_is_up_before_it_is_sent_is_never_sent() -> None:
    rig = Rig()
    late, other = rig.submit(timeout_ms=10), rig.submit(timeout_ms=1000)
    rig.tick(10 + GRACE_NS / 1e6)
    assert [call.call_id for call in rig.frame().calls] == [other.call_id]
    assert (rig.over, late.fate, late.sent) == ([late], Fate.NOT_SENT, False)


def test_a_timeout_is_at_least_a_millisecond_and_at_most_thirty_days() -> None:
    rig = Rig()
    assert (rig.submit(timeout_ms=0).timeout_ms, rig.submit(timeout_ms=1 << 60).timeout_ms) == (
        1,
        MAX_TIMEOUT_MS,
    )


# -- limits --------------------------------------------------------------------------------------------


def test_over_max_open_calls_a_call_is_refused_until_another_is_over() -> None:
    rig = Rig(max_open=2)
    first = rig.submit()
    rig.submit()
    with pytest.raises(Overloaded, match="2 calls of client 'c1' are open") as caught:
        rig.submit()
    assert (caught.value.limit, caught.value.retry_after_s) == (2, 0.1)
    rig.core.on_outcomes([(first.call_id, Mark.SUCCEEDED, b"")])
    rig.submit()


def test_arguments_that_fit_in_no_frame_are_refused_and_leave_nothing_behind() -> None:
    rig = Rig(max_frame_bytes=1000)
    with pytest.raises(PayloadTooLarge) as caught:
        rig.submit(b"x" * 1000)
    limit = caught.value.limit_bytes
    assert (caught.value.size_bytes, len(rig.core.open)) == (1000, 0)
    rig.submit(b"x" * limit)
    assert len(rig.frame().payload) <= 1000


def test_a_frame_never_exceeds_its_limit_even_with_long_keys() -> None:
    rig = Rig(max_frame_bytes=20_000)
    for number in range(200):
        key = f"{number:04}".ljust(256, "k")
        rig.submit(b"x" * 100, resource="r" * 250, options=CallOptions(key, HIGH))
    sent = 0
    while (out := rig.core.next_frame(rig.lane)) is not None:
        assert len(out.payload) <= 20_000
        assert all(entry.options is not None for entry in decode_calls(out.payload).entries)
        sent += len(out.calls)
    assert sent == 200


def test_a_congested_group_takes_no_calls_whatever_their_priority() -> None:
    rig = Rig()
    rig.lane.congestion = Congestion(open=5, limit=4, retry_after_ms=70, since_ns=0)
    for options in (None, CallOptions(None, HIGH)):
        with pytest.raises(Overloaded) as caught:
            rig.submit(options=options)
        assert (caught.value.retry_after_s, caught.value.limit) == (0.07, 4)
    assert not rig.core.open
    rig.lane.congestion = None
    rig.submit()


def test_only_calls_that_stand_before_it_make_a_call_wait() -> None:
    rig = Rig()
    for _ in range(99):
        rig.submit(options=CallOptions(None, LOW), timeout_ms=60_000)
    rig.core.on_hint(rig.lane, FlowHint(100, 10_000), rig.now_ns)
    rig.submit(options=CallOptions(None, HIGH), timeout_ms=1000)
    with pytest.raises(Overloaded, match="longer than its timeout of 1 s"):
        rig.submit(options=CallOptions(None, LOW), timeout_ms=1000)
    rig.core.on_hint(rig.lane, FlowHint(0, 0), rig.now_ns)
    rig.submit(options=CallOptions(None, LOW), timeout_ms=1000)


def test_the_count_of_open_calls_by_priority_goes_back_to_nothing_however_they_end() -> None:
    rig = Rig()
    calls = [rig.submit(options=CallOptions(None, number % 3), timeout_ms=100) for number in range(9)]
    assert rig.lane.open == [3, 3, 3]
    rig.core.drop(calls[0], 0)
    rig.core.on_outcomes([(calls[1].call_id, Mark.SUCCEEDED, b"")])
    rig.core.on_outcomes([(calls[1].call_id, Mark.SUCCEEDED, b"")])
    rig.tick(1000)
    assert rig.lane.open == [0, 0, 0]
    assert not rig.core.open


# -- outcomes ------------------------------------------------------------------------------------------


def test_an_outcome_ends_its_call_once() -> None:
    rig = Rig()
    call = rig.accepted()
    assert rig.core.on_outcomes([(call.call_id, Mark.FAILED, b"e")]) == [call]
    assert rig.core.on_outcomes([(call.call_id, Mark.SUCCEEDED, b"no")]) == []
    assert call.outcome is not None
    assert (call.outcome.mark, call.outcome.body) == (Mark.FAILED, b"e")
    assert call.is_over
    assert not rig.core.open


def test_outcomes_of_calls_of_others_are_ignored() -> None:
    assert Rig().core.on_outcomes([(b"?" * 16, Mark.SUCCEEDED, b"")]) == []


def test_an_outcome_that_overtakes_the_acknowledgement_counts() -> None:
    rig = Rig()
    call = rig.submit()
    out = rig.frame()
    rig.core.on_outcomes([(call.call_id, Mark.SUCCEEDED, b"r")])
    rig.core.on_acked(out, 3, rig.now_ns)
    assert rig.tick(10_000) == []
    assert rig.over == []
    assert call.fate is None


def test_outcomes_may_come_in_any_order() -> None:
    rig = Rig()
    one, two = rig.submit(), rig.submit()
    rig.core.on_acked(rig.frame(), 1, 0)
    rig.core.on_outcomes([(two.call_id, Mark.SUCCEEDED, b"2"), (one.call_id, Mark.SUCCEEDED, b"1")])
    assert one.outcome is not None
    assert two.outcome is not None
    assert (one.outcome.body, two.outcome.body) == (b"1", b"2")


# -- fates ---------------------------------------------------------------------------------------------


def test_a_call_without_an_outcome_ends_a_little_after_its_deadline() -> None:
    rig = Rig()
    call = rig.accepted(timeout_ms=100)
    rig.tick(100 + GRACE_NS / 1e6 - 1)
    assert rig.over == []
    rig.tick(1)
    assert rig.over == [call]
    assert call.fate is Fate.TIMED_OUT
    error = error_of_fate(call)
    assert isinstance(error, CallTimeout)
    assert "is durable, but has no outcome after 0.1 s" in error.message


def test_a_call_in_a_frame_that_was_not_acknowledged_has_an_unknown_fate() -> None:
    rig = Rig()
    call = rig.submit(timeout_ms=100)
    rig.frame()
    rig.tick(100 + GRACE_NS / 1e6)
    assert call.fate is Fate.UNKNOWN
    error = error_of_fate(call)
    assert isinstance(error, CallTimeout)
    assert "may be accepted all the same" in error.message


def test_a_call_that_was_never_sent_certainly_did_not_run() -> None:
    rig = Rig()
    call = rig.submit(timeout_ms=100)
    rig.tick(100 + GRACE_NS / 1e6)
    error = error_of_fate(call)
    assert isinstance(error, NotConnected)
    assert "it certainly did not run" in error.message


@pytest.mark.parametrize(("maybe_stored", "fate"), [(True, Fate.UNKNOWN), (False, Fate.REFUSED)])
def test_the_calls_of_a_frame_that_was_given_up_are_over(maybe_stored: bool, fate: Fate) -> None:
    rig = Rig()
    done, lost = rig.submit(), rig.submit()
    out = rig.frame()
    rig.core.on_outcomes([(done.call_id, Mark.SUCCEEDED, b"")])
    error = LogFull("full")
    assert rig.core.on_gave_up(out, error, maybe_stored=maybe_stored) == [lost]
    assert (lost.fate, lost.error, done.fate) == (fate, error, None)
    assert not rig.core.open
    rig.submit()
    assert len(rig.frame().calls) == 1


def test_a_refused_call_is_told_the_logs_reason() -> None:
    rig = Rig()
    call = rig.submit()
    reason = LogFull("full")
    rig.core.on_gave_up(rig.frame(), reason, maybe_stored=False)
    assert error_of_fate(call) is reason


def test_closing_ends_every_open_call_with_what_is_known_of_it() -> None:
    rig = Rig()
    accepted = rig.accepted()
    sent = rig.submit()
    rig.frame()
    unsent = rig.submit()
    assert rig.core.on_closed() == [accepted, sent, unsent]
    assert {call.fate for call in (accepted, sent, unsent)} == {Fate.CLOSED}
    told = [error_of_fate(call) for call in (accepted, sent, unsent)]
    assert [type(error) for error in told] == [CallTimeout, CallTimeout, NotConnected]
    for error, text in zip(
        told, ["is durable, but", "may be accepted", "certainly did not run"], strict=True
    ):
        assert text in error.message
        assert "client was closed" in error.message
        assert " after " not in error.message
        assert error.call_id in {format_call_id(call.call_id) for call in (accepted, sent, unsent)}


# -- asking again --------------------------------------------------------------------------------------


def test_a_silent_call_is_asked_about_again_and_again_at_doubling_intervals_up_to_eight_seconds() -> None:
    rig = Rig()
    call = rig.accepted()
    asked_at = [rig.now_ns for _ in range(2400) if rig.tick(25)]
    assert asked_at[0] == ASK_AFTER_NS
    gaps = [round((b - a) / 1e9, 1) for a, b in itertools.pairwise(asked_at)]
    assert gaps[:6] == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0]
    assert call.asks == len(asked_at)


def test_a_call_that_is_not_accepted_yet_is_not_asked_about() -> None:
    rig = Rig()
    rig.submit(timeout_ms=60_000)
    rig.frame()
    assert rig.tick(5000) == []


def test_after_a_reconnect_every_accepted_call_is_asked_about_at_once() -> None:
    rig = Rig()
    call = rig.accepted()
    rig.submit(timeout_ms=60_000)
    assert rig.tick(1) == []
    rig.core.on_reconnected(rig.now_ns)
    assert rig.tick(0) == [call.call_id]
    assert rig.tick(1) == []


def test_after_a_reconnect_thousands_of_calls_are_all_asked_about_in_one_tick_a_thousand_at_a_time() -> None:
    rig = Rig(max_open=10_000)
    calls = [rig.submit(timeout_ms=60_000) for _ in range(8000)]
    while (out := rig.core.next_frame(rig.lane)) is not None:
        rig.core.on_acked(out, 5, rig.now_ns)
    rig.core.on_reconnected(rig.now_ns)
    questions = [call_ids for _, call_ids in rig.core.on_tick(rig.now_ns).ask]
    assert [len(call_ids) for call_ids in questions] == [MAX_ASKED] * 8
    assert [call_id for call_ids in questions for call_id in call_ids] == [call.call_id for call in calls]


def test_a_reconnect_begins_the_intervals_anew() -> None:
    rig = Rig()
    rig.accepted()
    for _ in range(10_000 // 25):
        rig.tick(25)
    rig.core.on_reconnected(rig.now_ns)
    asked_after = [n * 25 for n in range(45) if rig.tick(25 if n else 0)]
    assert asked_after == [0, 500]


def test_after_an_answer_that_concluded_something_the_rest_is_asked_again_at_once() -> None:
    rig = Rig()
    one, two, three = rig.accepted(), rig.accepted(), rig.accepted()
    asked = rig.tick(250)
    assert asked == [one.call_id, two.call_id, three.call_id]
    concluded = rig.core.on_outcomes([(two.call_id, Mark.SUCCEEDED, b"")])
    rest = rig.core.on_answer(asked, concluded=len(concluded), now_ns=rig.now_ns)
    assert rest == [one.call_id, three.call_id]
    rig.core.on_outcomes([(call_id, Mark.SUCCEEDED, b"") for call_id in rest])
    assert rig.core.on_answer(rest, concluded=2, now_ns=rig.now_ns) == []


def test_after_an_answer_that_concluded_nothing_the_next_question_waits() -> None:
    rig = Rig()
    rig.accepted()
    asked = rig.tick(250)
    assert rig.core.on_answer(asked, concluded=0, now_ns=rig.now_ns) == []
    assert rig.tick(499) == []
    assert rig.tick(1) == asked


def test_calls_are_asked_about_group_by_group() -> None:
    rig = Rig()
    other = rig.core.lane(SERVICE, "other")
    mine = rig.accepted()
    theirs = rig.submit(lane=other, timeout_ms=60_000)
    rig.core.on_acked(rig.frame(other), 6, rig.now_ns)
    rig.now_ns += ASK_AFTER_NS
    asked = rig.core.on_tick(rig.now_ns).ask
    assert [(lane.group, [*ids]) for lane, ids in asked] == [
        (GROUP, [mine.call_id]),
        ("other", [theirs.call_id]),
    ]


def test_a_call_that_has_its_outcome_is_not_asked_about() -> None:
    rig = Rig()
    call = rig.accepted()
    rig.core.on_outcomes([(call.call_id, Mark.SUCCEEDED, b"")])
    assert rig.tick(1000) == []
