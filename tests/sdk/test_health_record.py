"""When an instance says that it is unhealthy, or healthy again."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from aegisipc.sdk.core.health import MIN_UNHEALTHY_NS, HealthRecord, Word

SECOND = 1_000_000_000


def failed_at(now_ns: int, reason: str = "no venue") -> HealthRecord:
    """Given: it was said at `now_ns` that it is unhealthy."""
    record = HealthRecord()
    assert record.on_check(reason, now_ns) is Word.UNHEALTHY
    record.on_said(Word.UNHEALTHY, now_ns)
    return record


def test_checks_that_pass_say_nothing() -> None:
    record = HealthRecord()
    assert [record.on_check(None, second * SECOND) for second in range(5)] == [None] * 5
    assert record.reason is None


def test_the_first_failure_is_said_and_further_ones_are_not() -> None:
    record = failed_at(0)
    assert [record.on_check("no venue", second * SECOND) for second in range(1, 5)] == [None] * 4


def test_the_latest_reason_is_the_one_it_has() -> None:
    record = failed_at(0, "no venue")
    record.on_check("no database", SECOND)
    assert record.reason == "no database"


def test_a_recovery_is_said_after_a_second_and_not_before() -> None:
    record = failed_at(0)
    assert record.on_check(None, MIN_UNHEALTHY_NS - 1) is None
    assert record.on_check(None, MIN_UNHEALTHY_NS) is Word.HEALTHY


def test_it_is_unhealthy_until_the_word_of_its_recovery_is_in_the_log() -> None:
    record = failed_at(0)
    record.on_check(None, 2 * SECOND)
    assert record.reason == "no venue"
    record.on_said(Word.HEALTHY, 2 * SECOND)
    assert record.reason is None


def test_a_failure_right_after_a_recovery_is_said_at_once() -> None:
    record = failed_at(0)
    record.on_check(None, 2 * SECOND)
    record.on_said(Word.HEALTHY, 2 * SECOND)
    assert record.on_check("no venue", 2 * SECOND + 1) is Word.UNHEALTHY


def test_before_it_is_ready_a_failure_is_known_and_not_said() -> None:
    record = HealthRecord()
    record.on_check_before_ready("no venue")
    assert record.reason == "no venue"
    record.on_check_before_ready(None)
    assert record.on_check(None, 5 * SECOND) is None
    assert record.reason is None


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3 * SECOND)), max_size=60))
def test_however_the_checks_come_out_the_words_alternate_and_no_second_has_two_pairs(
    checks: list[tuple[bool, int]],
) -> None:
    record, now_ns = HealthRecord(), 0
    said: list[tuple[Word, int]] = []
    for passes, after_ns in checks:
        now_ns += after_ns
        word = record.on_check(None if passes else "down", now_ns)
        if word is not None:
            record.on_said(word, now_ns)
            said.append((word, now_ns))
        if not passes:
            assert record.reason == "down"
    assert [word for word, _ in said] == [Word.UNHEALTHY, Word.HEALTHY] * (len(said) // 2) + [
        Word.UNHEALTHY
    ] * (len(said) % 2)
    unhealthy = [at_ns for word, at_ns in said if word is Word.UNHEALTHY]
    assert all(later - earlier >= MIN_UNHEALTHY_NS for earlier, later in pairwise(unhealthy))
