"""The estimate of the server's clock."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aegisipc.eventstore.clock import WINDOW_NS, ServerClock

S_NS = 1_000_000_000
SKEW_NS = 1_763_000_000 * S_NS

# Pauses between messages, and how long each took to arrive.
deliveries = st.lists(st.tuples(st.integers(0, 50 * S_NS), st.integers(0, 5 * S_NS)), min_size=1, max_size=40)


@given(deliveries)
def test_it_is_never_ahead_and_behind_by_the_fastest_recent_delivery_at_most(
    steps: list[tuple[int, int]],
) -> None:
    local_ns, clock, seen = 0, None, []
    for pause_ns, delay_ns in steps:
        local_ns += pause_ns
        server_ns = local_ns + SKEW_NS - delay_ns
        seen.append((local_ns, delay_ns))
        if clock is None:
            clock = ServerClock(server_ns, local_ns)
        clock.observe(server_ns, local_ns)
        behind_ns = local_ns + SKEW_NS - clock.now_ns(local_ns)
        recent = [delay for at_ns, delay in seen if local_ns - at_ns <= WINDOW_NS]
        assert 0 <= behind_ns <= min(recent)


def _run(rate_ppm: int, hours: int) -> int:
    """How far behind the estimate was at worst (negative: ahead) of a server's clock of another rate."""
    clock, worst = ServerClock(SKEW_NS, 0), 0
    for second in range(hours * 3600):
        local_ns = second * S_NS
        server_ns = SKEW_NS + local_ns + local_ns * rate_ppm // 1_000_000
        clock.observe(server_ns, local_ns)
        error = server_ns - clock.now_ns(local_ns)
        worst = max(worst, error, key=abs)
    return worst


def test_it_follows_a_server_that_runs_faster() -> None:
    assert 0 <= _run(200, hours=1) <= 1000


def test_it_is_ahead_of_a_slower_server_by_the_drift_of_two_windows_at_most() -> None:
    drift_ns = 2 * (WINDOW_NS + S_NS) * 200 // 1_000_000
    assert -drift_ns <= _run(-200, hours=1) <= 0


def test_after_a_long_silence_old_evidence_is_forgotten_at_once() -> None:
    clock = ServerClock(SKEW_NS, 0)
    later_ns = 10 * WINDOW_NS
    stepped_back_ns = SKEW_NS + later_ns - 60 * S_NS
    clock.observe(stepped_back_ns, later_ns)
    assert clock.now_ns(later_ns) == stepped_back_ns


def test_a_server_that_was_set_back_is_believed_after_two_windows() -> None:
    clock, local_ns = ServerClock(SKEW_NS, 0), 0
    while local_ns <= 2 * WINDOW_NS + 2 * S_NS:
        local_ns += S_NS
        clock.observe(SKEW_NS + local_ns - 60 * S_NS, local_ns)
    assert clock.now_ns(local_ns) == SKEW_NS + local_ns - 60 * S_NS


def test_old_records_read_at_the_start_do_not_spoil_the_estimate() -> None:
    clock = ServerClock(SKEW_NS, 0)
    clock.observe(SKEW_NS - 30 * 24 * 3600 * S_NS, 5)
    assert clock.now_ns(5) == SKEW_NS + 5
