"""What `aegis bench failover` reads from a log, on logs made by hand."""

from __future__ import annotations

from collections import Counter

import pytest

from aegisipc.eventstore.frames import Mark
from bench.chronicle import Chronicle
from bench.load import Load
from bench.outages import Outage, Outages, described, outage_of, percentile
from bench.relay import Relayed
from bench.scene import Kill, Plan
from tests.examples.group_story import NS_PER_MS, SUBJECTS, GroupStory

DONE, CLAIMED, DOUBT = Mark.SUCCEEDED, Mark.CLAIMED, Mark.IN_DOUBT


def chronicle_of(story: GroupStory) -> Chronicle:
    found = Chronicle()
    for record in story.records:
        found.add(record, SUBJECTS)
    return found


def test_a_failover_is_told_with_the_moments_of_its_promotion_and_its_first_outcome() -> None:
    story = GroupStory()
    story.promote("one", 1)  # 1 ms
    first, second, third = story.call(count=3)
    story.say("one", 1, (DONE, first))
    story.promote("two", 2, "disconnect")  # 4 ms
    story.say("two", 2, (Mark.EXPIRED, third))
    story.say("two", 2, (DONE, second))  # 6 ms: the first outcome of a handler
    found = chronicle_of(story)
    assert (found.accepted, found.lost, found.duplicates, found.fenced_frames) == (3, 0, 0, 0)
    epoch = found.after(1)
    assert epoch is not None
    assert (epoch.holder, epoch.detected_by, epoch.promoted_ns, epoch.first_outcome_ns) == (
        "two",
        "disconnect",
        4 * NS_PER_MS,
        6 * NS_PER_MS,
    )
    assert found.after(2) is None


def test_calls_without_an_outcome_are_lost_and_those_in_doubt_are_not() -> None:
    story = GroupStory()
    story.promote("one", 1)
    claimed, plain, doubted = story.call(count=3)
    story.say("one", 1, (CLAIMED, claimed), (CLAIMED, doubted))
    story.say("one", 1, (DOUBT, doubted))
    found = chronicle_of(story)
    assert (found.lost, found.doubts) == (2, [doubted])
    assert set(found.open) == {claimed, plain, doubted}


@pytest.mark.parametrize("second", [DONE, DOUBT, Mark.FAILED])
def test_a_second_outcome_is_a_duplicate(second: Mark) -> None:
    story = GroupStory()
    story.promote("one", 1)
    (call_id,) = story.call()
    story.say("one", 1, (DONE, call_id))
    story.say("one", 1, (second, call_id))
    assert chronicle_of(story).duplicates == 1


def test_a_resolved_doubt_is_one_outcome() -> None:
    story = GroupStory()
    story.promote("one", 1)
    ran, idle = story.call(count=2)
    story.say("one", 1, (CLAIMED, ran), (CLAIMED, idle))
    story.say("one", 1, (DOUBT, ran), (DOUBT, idle))
    story.say("one", 1, (Mark.EXECUTED, ran), (DONE, ran), (Mark.NOT_EXECUTED, idle))
    story.say("one", 1, (CLAIMED, idle))
    story.say("one", 1, (DONE, idle))
    found = chronicle_of(story)
    assert (found.lost, found.duplicates, found.started_twice, found.doubts) == (0, 0, 0, [])


def test_a_dead_letter_is_one_outcome_and_may_be_run_again() -> None:
    story = GroupStory()
    story.promote("one", 1)
    kept, again = story.call(count=2)
    story.say("one", 1, (CLAIMED, again), (Mark.DEAD_LETTERED, again), (Mark.DEAD_LETTERED, kept))
    assert (chronicle_of(story).lost, chronicle_of(story).duplicates) == (0, 0)
    (other,) = story.call()
    story.say("one", 1, (Mark.REQUEUED, again), (Mark.REQUEUED, other))  # the other is no dead letter
    assert set(chronicle_of(story).open) == {again, other}
    story.say("one", 1, (CLAIMED, again))
    story.say("one", 1, (DONE, again), (DONE, kept))
    found = chronicle_of(story)
    assert (found.lost, found.duplicates, found.started_twice) == (1, 1, 0)


def test_a_call_claimed_again_after_a_failed_attempt_was_not_started_twice() -> None:
    story = GroupStory()
    story.promote("one", 1)
    (call_id,) = story.call()
    story.say("one", 1, (CLAIMED, call_id))
    story.say("one", 1, (Mark.RETRY_SCHEDULED, call_id))
    story.say("one", 1, (CLAIMED, call_id))
    story.say("one", 1, (DONE, call_id))
    found = chronicle_of(story)
    assert (found.started_twice, found.duplicates, found.lost) == (0, 0, 0)


def test_a_call_claimed_while_it_may_have_run_was_started_twice() -> None:
    story = GroupStory()
    story.promote("one", 1)
    (call_id,) = story.call()
    story.say("one", 1, (CLAIMED, call_id))
    story.promote("two", 2)
    story.say("two", 2, (CLAIMED, call_id))
    assert chronicle_of(story).started_twice == 1


def test_what_a_former_holder_got_into_the_log_counts_as_a_fault_and_for_no_call() -> None:
    story = GroupStory()
    story.promote("one", 1)
    (call_id,) = story.call()
    story.promote("two", 2)
    story.say("one", 1, (DONE, call_id))
    found = chronicle_of(story)
    assert (found.fenced_frames, found.lost) == (1, 1)


def test_a_second_copy_of_a_frame_and_unreadable_records_are_told_apart() -> None:
    story = GroupStory()
    story.promote("one", 1)
    (call_id,) = story.call()
    story.say("one", 1, (DONE, call_id), number=1)
    story.say("one", 1, (DONE, call_id), number=1)
    story.garbage()
    found = chronicle_of(story)
    assert (found.duplicates, found.unreadable) == (0, 1)


# -- figures -------------------------------------------------------------------------------------------------


def test_an_outage_counts_from_the_signal_on_both_clocks() -> None:
    story = GroupStory()
    story.promote("one", 1)
    story.promote("two", 2)
    story.say("two", 2, (DONE, story.call()[0]))  # stored at 4 ms
    after = chronicle_of(story).after(1)
    kill = Kill("one", 1, at_ns=NS_PER_MS, at_s=100.0)
    outage = outage_of(kill, after, {2: 100.0035})
    assert outage[:5] == ("one", 2, "", 1.0, 3.0)
    assert outage.reply_ms == pytest.approx(3.5)


def test_a_promotion_before_the_signal_is_not_what_the_kill_led_to() -> None:
    story = GroupStory()
    story.promote("one", 1)
    story.promote("two", 2)
    story.say("two", 2, (DONE, story.call()[0]))
    after = chronicle_of(story).after(1)
    assert outage_of(Kill("one", 1, at_ns=3 * NS_PER_MS, at_s=0.0), after, {}).ms is None
    assert outage_of(Kill("one", 1, at_ns=0, at_s=0.0), None, {}).ms is None


async def nobody_is_called(number: int) -> Relayed:
    raise AssertionError(number)


def some_outages(*ms: float | None, effect: str = "idempotent", again: int = 0) -> Outages:
    load = Load(nobody_is_called, 10.0)
    load.made, load.poured_s = 20, 2.0
    load.latencies_s.extend([0.001] * 99 + [2.0])
    found = [Outage("relay-1", 2, "silence", one, one, one and one + 1) for one in ms]
    plan = Plan(len(ms), 10, effect, system_account=False)
    return Outages(plan, found, Chronicle(accepted=20), load, started_again=again, doubts_that_ran=0)


def test_the_figures_have_the_median_and_the_worst_of_the_failovers() -> None:
    outages = some_outages(3.0, 1.0, 2.0, 10.0, 2.5)
    figures = outages.to_json()
    assert outages.is_good
    assert (figures["kills"], figures["rate"], figures["fast_path"]) == (5, 10, False)
    assert (figures["median_ms"], figures["worst_ms"], figures["reply_worst_ms"]) == (2.5, 10.0, 11.0)
    assert [one["ms"] for one in figures["failovers"]] == [3.0, 1.0, 2.0, 10.0, 2.5]
    assert (figures["calls"], figures["lost"], figures["duplicates"], figures["errors"]) == (20, 0, 0, 0)
    assert (figures["achieved_rate"], figures["call_p50_ms"], figures["call_worst_ms"]) == (10.0, 1.0, 2000.0)


def test_a_run_without_failovers_a_lost_call_and_an_error_are_not_good() -> None:
    assert some_outages(1.0, None).is_good
    assert not some_outages(None, None).is_good
    losing = some_outages(1.0)
    losing.chronicle.open[b"x" * 16] = None
    assert (losing.is_good, losing.to_json()["lost"]) == (False, 1)
    failing = some_outages(1.0)
    failing.load.errors = Counter(call_timeout=2)
    assert (failing.is_good, failing.to_json()["error_codes"]) == (False, {"call_timeout": 2})


def test_beginning_a_call_again_is_a_fault_only_of_a_once_method() -> None:
    assert some_outages(1.0, again=5).is_good
    assert not some_outages(1.0, effect="once", again=5).is_good


def test_people_read_each_kill_and_the_whole() -> None:
    outages = some_outages(3.0, None)
    outages.chronicle.duplicates = 1
    outages.chronicle.unreadable = 4
    shown = described(outages)
    assert "1 duplicates" in shown
    assert "WRONG: 4 unreadable" in shown
    assert "kills missed: 1" in shown
    assert "silence alone" in shown
    assert shown.count("relay-1") == 2


def test_a_percentile_is_of_the_nearest_rank() -> None:
    assert [percentile([float(n) for n in range(100, 0, -1)], share) for share in (0.5, 0.99, 1)] == [
        50,
        99,
        100,
    ]
