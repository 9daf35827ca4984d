"""The board's two hints: connections that ended, and probes without an answer. Time passes by pulses only."""

from __future__ import annotations

from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest

from aegisipc.eventstore import pulses
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.pulses import ConnectionId, InstanceKey, PulseBoard
from tests.sdk.kit import EPOCH_NS, NS, ms

A: InstanceKey = ("orders", "g", "a")
FIRST = ConnectionId("S1", 7)
SECOND = ConnectionId("S1", 8)


class Heard:
    """A board, and what it hears."""

    def __init__(self) -> None:
        self.board = PulseBoard(NS, gap_ms=500)
        self.board.now_ns = self.board.floor_ns = self.now_ns = EPOCH_NS

    def later(self, milliseconds: float) -> Heard:
        """Time passes in steps that are no gap: a router pulses."""
        while milliseconds > 0:
            step = min(250, milliseconds)
            milliseconds -= step
            self.now_ns += ms(step)
            self._apply(NS.pulse("router", "r1"), {"incarnation": "i"})
        return self

    def gap(self, milliseconds: float) -> Heard:
        """Nobody at all was heard for so long."""
        self.now_ns += ms(milliseconds)
        self._apply(NS.pulse("router", "r1"), {"incarnation": "i"})
        return self

    def pulse(self, through: ConnectionId | None, incarnation: str = "1", *, who: InstanceKey = A) -> Heard:
        report: dict[str, Any] = {"service": who[0], "group": who[1], "incarnation": incarnation}
        if through is not None:
            report |= {"server": through.server, "cid": through.client_id}
        self._apply(NS.pulse("instance", who[2]), report)
        return self

    def _apply(self, subject: str, report: dict[str, Any]) -> None:
        self.board.apply(Record(1, subject, msgpack.packb(report), self.now_ns))

    def ended(self, connection: ConnectionId, *, event_ns: int | None = None) -> Heard:
        when = self.now_ns if event_ns is None else event_ns
        self.board.connection_ended(connection, reason="Client Closed", event_ns=when)
        return self

    def is_out(self, incarnation: str = "1") -> bool:
        return self.board.disconnected(A, incarnation) is not None


# -- connections that ended ----------------------------------------------------------------------------


def test_one_whose_connection_ended_is_disconnected_at_once() -> None:
    heard = Heard().pulse(FIRST).later(100).ended(FIRST)
    assert heard.board.disconnected(A, "1") == (EPOCH_NS + ms(100), "Client Closed", 7)


def test_the_end_of_an_older_connection_says_nothing() -> None:
    assert not Heard().pulse(FIRST).later(50).pulse(SECOND).ended(FIRST).is_out()


def test_a_client_of_another_server_may_have_the_same_number() -> None:
    assert not Heard().pulse(FIRST).ended(ConnectionId("S2", 7)).is_out()


def test_a_pulse_through_another_connection_takes_the_mark_away() -> None:
    heard = Heard().pulse(FIRST).ended(FIRST)
    assert heard.is_out()
    assert not heard.later(250).pulse(SECOND).is_out()


def test_a_pulse_that_was_under_way_through_the_connection_that_ended_leaves_the_mark() -> None:
    assert Heard().pulse(FIRST).ended(FIRST).later(10).pulse(FIRST).is_out()


def test_an_end_may_be_told_before_the_only_pulse_through_that_connection_is_read() -> None:
    heard = Heard().pulse(FIRST).later(250).ended(SECOND)
    assert not heard.is_out()
    assert heard.pulse(SECOND).is_out()


def test_one_that_goes_on_to_pulse_through_a_connection_is_believed_more_than_who_says_that_it_ended() -> (
    None
):
    heard = Heard().pulse(FIRST).ended(FIRST).later(500).pulse(FIRST)
    assert heard.is_out()
    assert not heard.later(250).pulse(FIRST).is_out()


def test_the_end_of_an_earlier_run_says_nothing_of_the_present_one() -> None:
    heard = Heard().pulse(FIRST, "1").ended(FIRST)
    assert not heard.is_out("2")
    assert not heard.pulse(SECOND, "2").is_out("1")


@pytest.mark.parametrize("through", [None, ConnectionId("", 0)])
def test_one_that_does_not_tell_its_connection_is_never_disconnected(through: ConnectionId | None) -> None:
    assert not Heard().pulse(through).ended(FIRST).is_out()


def test_one_that_was_never_heard_of_is_not_disconnected() -> None:
    assert not Heard().ended(FIRST).is_out()


def test_an_end_that_lies_ahead_of_the_pulses_counts_once_they_have_come_so_far() -> None:
    heard = Heard().pulse(FIRST).ended(FIRST, event_ns=EPOCH_NS + ms(8000))
    assert not heard.is_out()
    assert not heard.later(7250).is_out()
    assert heard.later(250).is_out()
    ended = heard.board.disconnected(A, "1")
    assert ended is not None
    assert ended.at_ns == EPOCH_NS + ms(8000)


def test_an_end_told_by_a_server_whose_clock_is_behind_counts_from_the_moment_it_was_heard() -> None:
    heard = Heard().later(5000).pulse(FIRST).ended(FIRST, event_ns=EPOCH_NS)
    ended = heard.board.disconnected(A, "1")
    assert ended is not None
    assert ended.at_ns == heard.board.now_ns


def test_ends_around_a_gap_in_which_nobody_was_heard_judge_nobody() -> None:
    for ended_after_ms in (0, 100, 500):
        before_the_gap = Heard().pulse(FIRST).ended(FIRST).gap(10_000)
        assert not before_the_gap.is_out()
        after_it = Heard().pulse(FIRST).gap(10_000).pulse(FIRST).later(ended_after_ms).ended(FIRST)
        assert not after_it.is_out()


def test_an_end_a_while_after_a_gap_counts_again() -> None:
    assert Heard().gap(10_000).pulse(FIRST).later(501).ended(FIRST).is_out()


def test_a_router_that_has_just_started_believes_the_first_end_that_it_is_told() -> None:
    assert Heard().pulse(FIRST).later(1).ended(FIRST).is_out()


def test_only_so_many_ends_are_remembered_the_latest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulses, "MAX_SOURCES", 2)
    heard = Heard().pulse(FIRST).ended(FIRST).ended(SECOND).ended(ConnectionId("S1", 9))
    assert not heard.is_out()
    assert heard.pulse(SECOND).is_out()


# -- probes --------------------------------------------------------------------------------------------


class Probed(Heard):
    """A board whose instance is probed."""

    def answer(self, incarnation: str = "1") -> Probed:
        self.board.probe_answered(A, incarnation)
        return self

    def miss(self, times: int = 1, *, incarnation: str = "1", waited_ms: int = 1000) -> Probed:
        """So many probes are waited for, while others are heard."""
        for _ in range(times):
            asked_ns = self.board.now_ns
            self.later(waited_ms)
            self.tell_miss(asked_ns, waited_ms, incarnation=incarnation)
        return self

    def tell_miss(self, asked_ns: int, waited_ms: int, *, incarnation: str = "1") -> Probed:
        self.board.probe_missed(A, incarnation, asked_ns=asked_ns, waited_ms=waited_ms, cause="t")
        return self

    def has_failed(self, incarnation: str = "1") -> bool:
        return self.board.probe_failed(A, incarnation) is not None


def test_three_probes_in_a_row_without_an_answer_fail() -> None:
    probed = Probed().answer().miss(2)
    assert not probed.has_failed()
    assert probed.miss().board.probe_failed(A, "1") == (
        EPOCH_NS + ms(3000),
        "3 probes in a row had no answer: t",
    )
    assert probed.miss(5).board.probe_failed(A, "1") == (
        EPOCH_NS + ms(3000),
        "3 probes in a row had no answer: t",
    )


def test_an_answer_between_begins_the_count_anew() -> None:
    assert not Probed().answer().miss(2).answer().miss(2).has_failed()


def test_an_answer_ends_the_failure() -> None:
    assert not Probed().answer().miss(3).answer().has_failed()


def test_one_that_never_answered_does_not_know_of_probes() -> None:
    assert not Probed().miss(10).has_failed()


def test_the_answers_of_an_earlier_run_are_not_those_of_the_present_one() -> None:
    probed = Probed().answer("1").miss(3, incarnation="2")
    assert not probed.has_failed("2")
    assert not probed.has_failed("1")


def test_probes_refused_at_once_count_at_once() -> None:
    assert Probed().answer().miss(3, waited_ms=0).has_failed()


def test_nobody_fails_probes_while_the_router_itself_hears_nobody() -> None:
    probed = Probed().answer()
    for _ in range(5):
        probed.tell_miss(probed.board.now_ns, 1000)
    assert not probed.has_failed()


def test_probes_sent_before_a_gap_do_not_count() -> None:
    probed = Probed().answer()
    asked_ns = probed.board.now_ns
    probed.gap(10_000)
    for _ in range(5):
        probed.tell_miss(asked_ns, 1000)
    assert not probed.has_failed()
    assert probed.miss(3).has_failed()


def test_only_so_many_probed_instances_are_remembered_the_latest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulses, "MAX_SOURCES", 1)
    probed = Probed().answer().miss(3)
    probed.board.probe_answered(("orders", "g", "b"), "1")
    assert not probed.has_failed()
