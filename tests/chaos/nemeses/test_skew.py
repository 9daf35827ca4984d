"""Wall clocks of real processes that are wrong, drift and jump."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aegisipc.chaos.nemeses.errors import NemesisFailed
from aegisipc.chaos.nemeses.skew import ASK_DATETIME, VARIABLE, WallClock, skew_from_environment

ROOT = Path(__file__).parents[3]
HOUR_S = 3600

# Tells for each line it reads what time it has by every clock it knows, and its steady time.
TELLER = """
import sys
from aegisipc.chaos.nemeses.skew import skew_from_environment
assert skew_from_environment()
import time
from aegisipc.eventstore.objects import datetime
from datetime import UTC
for _ in sys.stdin:
    print(time.time(), time.time_ns() / 1e9, time.clock_gettime(time.CLOCK_REALTIME),
          datetime.now(UTC).timestamp(),
          datetime.now().timestamp(), time.monotonic(), time.clock_gettime(time.CLOCK_MONOTONIC), flush=True)
"""


class Teller:
    def __init__(self, clock: WallClock) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", TELLER],
            env={**os.environ, **clock.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ahead_s(self) -> list[float]:
        """By how much each of its clocks is ahead of ours: five of the wall, then two steady ones."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(file=self.process.stdin, flush=True)
        told = [float(word) for word in self.process.stdout.readline().split()]
        return [t - time.time() for t in told[:5]] + [t - time.monotonic() for t in told[5:]]

    def close(self) -> None:
        self.process.communicate()


def test_a_process_has_another_time_that_jumps_and_drifts() -> None:
    with WallClock(HOUR_S) as clock:
        teller = Teller(clock)
        try:
            assert teller.ahead_s() == pytest.approx([HOUR_S] * 5 + [0, 0], abs=30)
            clock.set(-2 * HOUR_S)
            assert teller.ahead_s() == pytest.approx([-2 * HOUR_S] * 5 + [0, 0], abs=30)
            clock.set(0, drift=1e6)  # eleven days in a second
            first = teller.ahead_s()[0]
            assert teller.ahead_s()[0] > first > 1
            clock.set(0)
            assert teller.ahead_s() == pytest.approx([0] * 7, abs=30)
        finally:
            teller.close()
        left = Path(clock.environment[VARIABLE])
    assert not left.exists()
    assert abs(time.time() - time.clock_gettime(time.CLOCK_REALTIME)) < 30  # ours was never touched


def test_a_process_can_be_wrong_by_itself() -> None:
    code = """
import time
before = time.time()
from aegisipc.chaos.nemeses.skew import skew_wall_clock
skew_wall_clock(-7200)
print(time.time() - before)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(told.stdout) == pytest.approx(-7200, abs=60)


def test_without_a_clock_in_the_environment_nothing_changes() -> None:
    before = time.time
    assert not skew_from_environment({})
    with pytest.raises(NemesisFailed, match=f"unset {VARIABLE}"):
        skew_from_environment({VARIABLE: "/no/such/clock"})
    with pytest.raises(NemesisFailed, match="enter it first"):
        WallClock().set(1)
    assert time.time is before


def test_every_module_that_asks_datetime_for_the_time_is_known() -> None:
    asking = {
        ".".join(path.with_suffix("").relative_to(source).parts)
        for source in ROOT.glob("*/src")
        for path in source.rglob("*.py")
        if re.search(r"\bdatetime\.(now|utcnow|today)\(", path.read_text()) and "chaos" not in path.parts
    }
    assert asking == set(ASK_DATETIME)
