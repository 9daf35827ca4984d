"""G8, G9, recovery, leaks, unhandled errors, memory."""

from __future__ import annotations

import random

import pytest

from aegisipc.chaos.checking import Bounds
from aegisipc.chaos.checking.nodes import slope_of
from aegisipc.chaos.history import Deed, Probe, Sample, Stage
from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.frames import Mark
from tests.chaos.checking.scene import Scene, a_scene, broken_by, error, holds

S = 1_000_000_000

# -- G8 --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "digests",
    [
        {"live": "x", "replayed": "y"},
        {"live": "x", "replayed": "x", "snapshot": "z"},
    ],
)
def test_states_that_differ_are_found(digests: dict[str, str]) -> None:
    scene = a_scene()
    scene.probe("good", live="x", replayed="x", snapshot="x")
    scene.evidence.take(Probe("bad", "router", True, scene.now_ns, digests=digests))
    (finding,) = scene.verdict("G8").findings
    assert "bad" in finding.text


def test_what_is_not_known_does_not_differ() -> None:
    scene = a_scene()
    scene.probe("one", live="x")
    scene.probe("other", live="y", snapshot="y")
    holds(scene)


# -- G9 --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["overloaded", "not_connected", "payload_too_large"])
def test_a_call_that_was_refused_and_stands_in_the_log_is_found(code: str) -> None:
    scene = a_scene()
    number = scene.invoke()
    call_id = scene.accept(number, "get")
    scene.answer(number, Stage.FAIL, error=code)
    scene.mark(Mark.SUCCEEDED, call_id, encode(1))
    assert broken_by(scene, "G9", call_id).numbers == (number,)


def test_a_refused_call_with_an_effect_is_found() -> None:
    scene = a_scene()
    number = scene.invoke()
    scene.answer(number, Stage.FAIL, error="no_route")
    unknown = "01a1fdc1-2849-7000-8000-079feb28f202"
    scene.numbers[unknown] = number
    scene.ran(unknown)
    broken_by(scene, "G9", unknown)


def test_a_table_beyond_its_limit_is_found() -> None:
    scene = a_scene()
    for size in (10, 1001, 1002):
        scene.evidence.take(Sample("p", scene.tick(), tables={"calls/1000": size, "free": 5000}))
    (finding,) = scene.verdict("G9").findings
    assert "1002" in finding.text


def test_refusals_that_left_nothing_and_calls_that_were_turned_away_are_legal() -> None:
    scene = a_scene()
    scene.answer(scene.invoke(), Stage.FAIL, error="not_connected")
    number = scene.invoke()
    call_id = scene.accept(number)
    scene.mark(Mark.FAILED, call_id, error("overloaded", retry_after_ms=1000))
    scene.answer(number, Stage.FAIL, error="overloaded", call_id=call_id)
    # A repeat with a key was refused; the first one, with the same argument, was not.
    first = scene.invoke(key="k")
    own = scene.accept(first, "get", key="k")
    scene.mark(Mark.SUCCEEDED, own, encode(1))
    scene.answer(first, value=1, call_id=own)
    scene.answer(scene.invoke(key="k"), Stage.FAIL, error="overloaded")
    # One who only looked was refused; so was one who wanted it cancelled.
    for deed in (Deed.ATTACH, Deed.CANCEL, Deed.OPERATE):
        scene.answer(scene.invoke(deed, call_id=own), Stage.FAIL, error="not_connected", call_id=own)
    scene.evidence.take(Sample("p", scene.tick(), tables={"calls/1000": 1000}))
    holds(scene)


# -- recovery, leaks, unhandled --------------------------------------------------------------------------


def test_nodes_that_do_not_serve_or_only_late_are_found() -> None:
    scene = a_scene()
    scene.probe("dead", serves=False)
    scene.probe("slow", after_s=31.0)
    scene.probe("well", after_s=29.0)
    assert [finding.text.split()[1] for finding in scene.verdict("recovery").findings] == ["dead", "slow"]


def late_call(scene: Scene, delay_s: float) -> str:
    call_id = scene.accept(scene.invoke(), "get")
    scene.now_ns += int(delay_s * S)
    scene.mark(Mark.SUCCEEDED, call_id, encode(1))
    return call_id


def test_a_call_that_takes_too_long_after_healing_is_found() -> None:
    scene = a_scene()
    scene.evidence.healed_at_ns = scene.now_ns
    broken_by(scene, "recovery", late_call(scene, 40.0))


def test_a_call_may_take_long_while_something_is_broken() -> None:
    scene = a_scene()
    late_call(scene, 40.0)
    scene.evidence.healed_at_ns = scene.now_ns - S
    late_call(scene, 20.0)
    holds(scene)


def test_what_is_left_over_or_unhandled_is_told() -> None:
    scene = a_scene()
    scene.evidence.leaks += ["process 17", "consumer x"]
    scene.evidence.unhandled.append("KeyError in router r1")
    assert [finding.text for finding in scene.verdict("leaks").findings] == ["process 17", "consumer x"]
    assert [finding.text for finding in scene.verdict("unhandled").findings] == ["KeyError in router r1"]


# -- memory ----------------------------------------------------------------------------------------------


def grow(scene: Scene, process: str, mib_per_s: float, seconds: int, *, jump_mib: int = 0) -> None:
    noise = random.Random(7)
    for second in range(seconds):
        rss = 100 + jump_mib * (second > 2) + mib_per_s * second + noise.uniform(-3, 3)
        scene.evidence.take(Sample(process, second * S, rss_bytes=int(rss * (1 << 20))))


def test_memory_that_rises_is_found() -> None:
    scene = a_scene()
    grow(scene, "leaking", 1.0, 120)
    grow(scene, "slowly", 0.3, 600)
    grow(scene, "flat", 0.0, 600)
    assert [f.text.split()[0] for f in scene.verdict("memory").findings] == ["leaking", "slowly"]


def test_memory_may_rise_while_a_process_warms_up_and_a_short_run_says_nothing() -> None:
    scene = a_scene()
    grow(scene, "warm", 0.0, 120, jump_mib=200)
    grow(scene, "short", 5.0, 15)
    holds(scene)
    assert scene.verdict("memory").looked_at == 90


def test_the_slope_of_a_line() -> None:
    assert slope_of([(x, 3.0 * x + 1) for x in range(10)]) == pytest.approx(3.0)
    assert slope_of([(1.0, 5.0), (1.0, 7.0)]) == 0.0


def test_findings_are_bounded() -> None:
    scene = a_scene()
    for _ in range(20):
        scene.accept(scene.invoke())
    verdict = next(v for v in scene.judge(Bounds(findings=5)).verdicts if v.name == "G2")
    assert len(verdict.findings) == 6
    assert "15 more" in verdict.findings[-1].text
