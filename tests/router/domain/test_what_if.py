"""What if: given a recorded history, then exactly the decisions that another policy changes are found."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.ids import CallIds
from aegisipc.router.domain.decide import Policy, RouterIdentity, elect
from tests.router.domain.traffic import Traffic, joins
from tests.router.domain.what_if_kit import STEP_MS, Tape, said, what_if
from tests.sdk.kit import NS, POOL, ms, pen_frame

_ids = CallIds(9)


def killed() -> Tape:
    """The holder is killed, and its standby takes over; the server told of the end of its connection."""
    world = Tape("a", "b")
    world.live(1000, "a", "b")
    world.disconnect("a")
    world.settle()
    world.live(5000, "b")
    return world


def frozen(milliseconds: int = 1500, *, calls: bool = False) -> Tape:
    """The holder stands still for a while, and goes on."""
    world = Tape("a", "b")
    world.live(1000, "a", "b")
    if calls:
        world.marks("a", (Mark.SUCCEEDED, _ids.next(1)))
    world.live(milliseconds, "b")
    if calls and world.group().holder == "b":
        world.marks("b", (Mark.SUCCEEDED, _ids.next(1)))
    world.live(2000, "a", "b")
    return world


def handed_over() -> Tape:
    world = Tape("a", "b")
    world.live(1000, "a", "b")
    world.promote("b")
    world.live(500, "a", "b")
    world.yields("a")
    world.live(1000, "a", "b")
    return world


def lost() -> Tape:
    """It stands still for so long that it is given up, and comes back as a new run."""
    world = Tape("a", "b")
    world.live(1000, "a", "b")
    world.live(4000, "b")
    world.register("a", "2")
    world.settle()
    for _ in range(20):
        world.pulse("a", after_ms=STEP_MS, incarnation="2")
        world.pulse("b")
        world.settle()
    return world


def rolled() -> Tape:
    """A rolling restart: each one leaves, and comes back."""
    world = Tape("a", "b", "c")
    runs = dict.fromkeys("abc", "1")
    world.live(1000, *runs)
    for instance in runs:
        world.drain(instance)
        world.live(200, *runs)
        world.leave(instance)
        world.live(200, *(each for each in runs if each != instance))
        world.register(instance, "2")
        world.settle()
        runs[instance] = "2"
        for _ in range(20):
            world.pulse(after_ms=STEP_MS)
            for each, run in runs.items():
                world.pulse(each, incarnation=run)
            world.settle()
    return world


def unhealthy() -> Tape:
    world = Tape("a", "b")
    world.live(500, "a", "b")
    world.fall_ill("a")
    world.live(200, "a", "b")
    world.yields("a")
    world.live(200, "a", "b")
    world.get_well("a")
    world.live(500, "a", "b")
    return world


def probed() -> Tape:
    """It pulses, and answers no probes for a while."""
    world = Tape("a", "b")
    world.live(500, "a", "b")
    world.miss_probes("a")
    world.live(1000, "a", "b")
    world.board.probe_answered(("orders", "acc", "a"), "1")
    world.live(500, "a", "b")
    return world


HISTORIES = {
    function.__name__: function for function in (killed, frozen, handed_over, lost, rolled, unhealthy, probed)
}


@pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES)
def test_with_the_policy_and_the_code_of_that_time_nothing_changes(history: Callable[[], Tape]) -> None:
    world = history()
    report = what_if(world)
    assert (report.changes, said(report.today)) == ([], [])
    assert (report.diverged, report.today_diverged) == ([], [])
    assert (report.left_out, report.today_left_out) == ({}, {})
    assert report.recorded == report.simulated > 4


@pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES)
def test_it_may_begin_anywhere(history: Callable[[], Tape]) -> None:
    world = history()
    for from_seq in range(2, len(world.log.records) + 1):
        report = what_if(world, from_seq=from_seq)
        assert (from_seq, said(report.today), report.changes) == (from_seq, [], [])


def test_with_more_patience_a_freeze_changes_nothing() -> None:
    world = frozen()
    report = what_if(world, {"suspect_after_ms": 3000})
    assert said(report.changes) == [
        "missing group.promoted b",
        "missing instance.suspected a",
        "missing instance.recovered a",
    ]
    recorded = {record.seq: ev.decode_event(record.payload) for record in world.log.records}
    assert [change.seq for change in report.changes] == [
        seq
        for seq, event in recorded.items()
        if (isinstance(event, ev.GroupPromoted) and event.holder == "b")
        or isinstance(event, ev.InstanceSuspected | ev.InstanceRecovered)
    ]
    assert (report.today, report.left_out, report.diverged) == ([], {}, [])
    assert (report.before.suspect_after_ms, report.after.suspect_after_ms) == (1000, 3000)


def test_with_less_patience_a_hiccup_changes_the_holder() -> None:
    world = frozen(700)
    assert not [r for r in world.log.records if "suspected" in repr(r.payload)]
    report = what_if(world, {"suspect_after_ms": 500})
    assert said(report.changes) == [
        "additional group.promoted b",
        "additional instance.suspected a",
        "additional instance.recovered a",
    ]
    assert [change.seq for change in report.changes] == [None] * 3


def test_somewhat_more_patience_makes_a_failover_later_by_as_much() -> None:
    world = frozen(5000)
    report = what_if(world, {"suspect_after_ms": 1500})
    assert said(report.changes) == ["later group.promoted b 500", "later instance.suspected a 500"]
    assert what_if(world, {"suspect_after_ms": 1500}) == report


def test_a_holder_that_was_told_of_by_the_server_is_lost_later_only() -> None:
    report = what_if(killed(), {"disconnect_lost_after_ms": 2000})
    assert said(report.changes) == ["later instance.lost a 1000"]


def test_what_the_server_told_is_heard_when_it_was_told() -> None:
    """The recorded router suspected for silence, and knew of the connection only later."""
    world = Tape("a", "b")
    world.live(1000, "a", "b")
    world.live(1200, "b")
    world.disconnect("a")
    world.live(2000, "b")
    report = what_if(world, {"suspect_after_ms": 2500})
    assert said(report.changes) == ["later group.promoted b 150", "later instance.suspected a 150"]
    later = report.changes[1].after
    assert later is not None
    assert isinstance(later.event, ev.InstanceSuspected)
    assert later.event.source == "disconnect"


def test_that_it_answers_no_probes_is_heard_whatever_the_patience() -> None:
    world = probed()
    assert said(what_if(world, {"suspect_after_ms": 2000}).changes) == []
    assert said(what_if(world, {"suspect_after_ms": 500, "lost_after_ms": 600}).changes) == []


def test_a_suspicion_whose_evidence_cannot_be_is_no_hint() -> None:
    world = Tape("a", "b")
    world.live(1000, "a", "b")
    for evidence in ({"disconnected_ns": "x", "client_id": 1}, {"probe_failed_ns": None}, {}):
        event = ev.InstanceSuspected(
            instance="b",
            incarnation="1",
            last_pulse_ns=0,
            silence_ms=0,
            evidence=evidence,
            decided_by="r1",
        )
        world.log.say(NS.watch("orders", "acc"), event)
        world.live(500, "a", "b")
    assert said(what_if(world).today)[0] == "missing instance.suspected b"
    assert what_if(world).simulated == what_if(world).recorded - 6


# -- where the facts no longer apply ------------------------------------------------------------------------


def seq_of_writes(world: Tape, instance: str) -> int:
    return next(r.seq for r in world.log.records if r.subject.endswith(f".pen.{instance}"))


def test_writes_of_a_holder_that_there_was_not_end_the_judging_of_its_group() -> None:
    world = frozen(calls=True)
    world.live(1500, "a")  # whatever becomes of the new holder may come of its having been the holder
    report = what_if(world, {"suspect_after_ms": 3000})
    assert said(report.changes) == [
        "missing group.promoted b",
        "missing instance.suspected a",
        "missing instance.recovered a",
    ]
    (span,) = report.diverged
    promoted_again = world.log.last_seq(NS.fence("orders", "acc"))
    assert (span.service, span.group) == ("orders", "acc")
    assert (span.seq, span.end_seq) == (seq_of_writes(world, "b"), promoted_again)
    assert span.why == "'b' writes as the holder of epoch 2; here 'a' holds the pen"
    assert report.left_out == {("orders", "acc"): 2}  # b is suspected, and a promoted
    assert (report.today, report.today_diverged) == ([], [])


def test_without_writes_the_same_is_judged() -> None:
    world = frozen()
    world.live(1500, "a")
    report = what_if(world, {"suspect_after_ms": 3000})
    assert said(report.changes) == [
        "missing group.promoted b",
        "missing instance.suspected a",
        "missing instance.recovered a",
        "missing group.promoted a",
        "missing instance.suspected b",
    ]
    assert (report.diverged, report.left_out) == ([], {})


def test_a_group_that_is_as_it_was_recorded_again_is_judged_again() -> None:
    world = Tape("a", "b")
    world.live(1000, "a", "b")
    world.live(1100, "b")
    world.marks("b", (Mark.SUCCEEDED, _ids.next(1)))
    world.live(1500, "b")  # until then it is promoted with more patience, too
    world.marks("b", (Mark.SUCCEEDED, _ids.next(1)))
    world.connect("a")
    world.live(1000, "a", "b")
    world.live(2200, "a")
    report = what_if(world, {"suspect_after_ms": 2000})
    (span,) = report.diverged
    assert (span.seq, span.end_seq) == (seq_of_writes(world, "b"),) * 2
    assert said(report.changes) == [
        "later group.promoted b 1000",
        "later instance.suspected a 1000",
        "later group.promoted a 1000",
        "later instance.suspected b 1000",
    ]
    assert report.left_out == {}


def test_who_came_back_because_it_was_given_up_is_no_fact_where_it_was_not() -> None:
    world = lost()
    report = what_if(world, {"suspect_after_ms": 5000, "lost_after_ms": 6000})
    assert said(report.changes) == [
        "missing group.promoted b",
        "missing instance.suspected a",
        "missing instance.lost a",
    ]
    (span,) = report.diverged
    assert span.hard
    assert span.why == "'a' came back because it was given up, and was not given up here"


def come_back(after_ms: int, *, alive: bool) -> Tape:
    """The holder freezes, or dies; its standby takes over; and it comes back as a new run."""
    world = Tape("a", "b")
    world.live(1000, "a", "b")
    world.live(after_ms, "b")
    if alive:
        world.live(4 * STEP_MS, "a", "b")  # it finds the pen gone: its memory holds what the log refused
    world.register("a", "2")
    world.settle()
    for _ in range(20):
        world.pulse("a", after_ms=STEP_MS, incarnation="2")
        world.pulse("b")
        world.settle()
    return world


def test_who_came_back_because_it_had_lost_the_pen_is_no_fact_where_it_had_not() -> None:
    report = what_if(come_back(1500, alive=True), {"suspect_after_ms": 3000})
    assert said(report.changes) == [
        "missing group.promoted b",
        "missing instance.suspected a",
        "missing instance.recovered a",
    ]
    (span,) = report.diverged
    assert span.hard
    assert span.why == "'a' came back because it had lost the pen, which it did not lose here"
    assert report.left_out == {("orders", "acc"): 1}  # what comes of its new run
    assert (report.today, report.today_diverged) == ([], [])


def test_who_was_started_again_after_its_death_is_a_fact() -> None:
    report = what_if(come_back(1500, alive=False), {"suspect_after_ms": 3000})
    assert said(report.changes) == ["later group.promoted b 450", "missing instance.suspected a"]
    assert report.diverged == []


def test_who_was_given_up_and_was_not_told_is_not_judged_any_more() -> None:
    world = frozen(1500)
    report = what_if(world, {"suspect_after_ms": 400, "lost_after_ms": 1200})
    assert said(report.changes) == [
        "earlier group.promoted b 600",
        "earlier instance.suspected a 600",
        "additional instance.lost a",
    ]
    (span,) = report.diverged
    assert (span.hard, span.end_ns) == (True, None)
    assert span.why == "'a' pulses on, and was given up here: it would have come back as a new run"
    assert report.left_out == {("orders", "acc"): 1}  # its recovery


def test_an_epoch_of_another_number_is_the_same_holder() -> None:
    """With more patience there is one change of holder less; the handover that follows is the same."""
    world = Tape("a", "b", "c")
    world.live(500, "a", "b", "c")
    world.live(1300, "b", "c")
    world.live(500, "a", "b", "c")
    world.promote("a")
    world.yields("b")
    world.live(500, "a", "b", "c")
    world.marks("a", (Mark.SUCCEEDED, _ids.next(1)))
    world.promote("c")
    world.yields("a")
    world.live(500, "a", "b", "c")
    world.marks("c", (Mark.SUCCEEDED, _ids.next(1)))
    report = what_if(world, {"suspect_after_ms": 2000})
    assert said(report.changes) == [
        "missing group.promoted b",
        "missing instance.suspected a",
        "missing instance.recovered a",
        "additional command.refused a",
        "missing group.handover_started a",
        "missing group.promoted a",
    ]
    assert report.diverged == []  # it is the same holder, with an epoch less


# -- what operators wish ------------------------------------------------------------------------------------


def test_a_wish_is_judged_by_what_is_believed_there() -> None:
    world = Tape("a", "b")
    world.live(1000, "a", "b")
    world.live(600, "a")
    world.promote("b")
    world.live(500, "a", "b")
    world.yields("a")
    world.live(500, "a", "b")
    report = what_if(world, {"suspect_after_ms": 500})
    assert said(report.changes)[:3] == [
        "additional instance.suspected b",
        "additional command.refused b",
        "missing group.handover_started b",
    ]
    refused = report.changes[1].after
    assert refused is not None
    assert refused.cause.startswith("cannot promote 'b' in orders/acc: it is suspected: silent for 6")


def test_a_handover_that_may_take_less_time_is_overruled_earlier() -> None:
    world = Tape("a", "b")
    world.live(500, "a", "b")
    world.promote("b")
    world.live(30_500, "a", "b")
    assert said(what_if(world, {"handover_ms": 10_000}).changes) == ["earlier group.promoted b 20000"]
    assert said(what_if(world).today) == []


# -- routers ------------------------------------------------------------------------------------------------

OTHER = RouterIdentity("r2", "i2")


def two_routers() -> Tape:
    """The leader falls silent, and another router takes over."""
    world = Tape("a", "b")
    for _ in range(20):
        world.live(STEP_MS, "a", "b")
        world.pulse_of("router", "r2", "i2")
    for _ in range(60):
        world.log.now_ns += ms(STEP_MS)
        for instance in "ab":
            world.pulse_of("instance", instance)
        world.pulse_of("router", "r2", "i2")
        found = elect(world.state, world.board, OTHER, Policy(), NS)
        if found is not None:
            world.append(found)
    assert world.state.topology.leadership.router == "r2"
    return world


def test_another_leader_is_elected_earlier_with_less_patience() -> None:
    world = two_routers()
    assert said(what_if(world).today) == []
    assert said(what_if(world, {"leader_after_ms": 500}).changes) == ["earlier router.elected 500"]


def test_a_leader_that_nobody_replaces_decides_nothing_and_so_nobody_does() -> None:
    world = two_routers()
    for _ in range(40):
        world.log.now_ns += ms(STEP_MS)
        world.pulse_of("instance", "b")
        world.pulse_of("router", "r2", "i2")
        for decision in world.decide(OTHER):
            world.append(decision)
    report = what_if(world, {"leader_after_ms": 60_000})
    assert said(report.changes) == [
        "missing router.elected",
        "missing group.promoted b",
        "missing instance.suspected a",
    ]


def test_each_leader_has_the_policy_that_it_wrote_down() -> None:
    world = Tape("a", "b", policy={"suspect_after_ms": 1000, "lost_after_ms": 9000, "a_later_one": 1})
    world.live(500, "a", "b")
    world.live(5000, "b")
    assert what_if(world).before.lost_after_ms == 9000
    assert said(what_if(world).today) == ["missing instance.lost a"]  # the test's router has the usual one
    assert said(what_if(world, {"lost_after_ms": 3000}).changes) == ["additional instance.lost a"]


def test_a_policy_that_nobody_wrote_down_is_assumed_and_said_so() -> None:
    world = killed()
    assert "the log does not say with which policy r1 decided" in what_if(world).notes[0]
    assert what_if(world, given={"lost_after_ms": 5000}).notes == []
    assert what_if(world, given={"lost_after_ms": 5000}).before.lost_after_ms == 5000


def test_a_silence_that_the_heartbeats_are_too_coarse_for_is_told() -> None:
    world = frozen()
    report = what_if(world, {"suspect_after_ms": 60})
    assert "counts as the server's" in report.notes[-1]


# -- today's code against what was recorded -----------------------------------------------------------------


def test_what_was_recorded_and_is_decided_otherwise_today_is_told_apart() -> None:
    world = Tape("a", "b")
    world.live(1000, "a", "b")
    world.log.promote("b", 2)  # for no reason that there is
    world.live(1000, "a", "b")
    report = what_if(world, {"suspect_after_ms": 900})
    assert report.changes == []
    assert said(report.today) == ["missing group.promoted b"]
    assert report.today[0].seq == world.log.last_seq(NS.fence("orders", "acc"))
    assert report.today_diverged == []
    world.marks("b", (Mark.SUCCEEDED, _ids.next(1)))
    world.live(500, "a", "b")
    assert [span.why for span in what_if(world).today_diverged] == [
        "'b' writes as the holder of epoch 2; here 'a' holds the pen"
    ]


def test_a_decision_that_came_late_is_told_with_how_late() -> None:
    world = Tape("a", "b")
    world.live(1000, "a", "b")
    world.silence(2000, "b")  # and the router does not look
    world.settle()
    world.live(1000, "b")
    assert said(what_if(world).today)[:2] == [
        "earlier group.promoted b 750",
        "earlier instance.suspected a 750",
    ]


def test_congestion_is_judged_by_what_the_router_saw() -> None:
    world = Tape("a")
    world.live(500, "a")
    joins(world, "b", max_backlog=10)
    traffic = Traffic(world)
    traffic.call(12)
    world.settle()
    world.live(500, "a", "b")
    traffic.conclude(12)
    world.live(500, "a", "b")
    report = what_if(world, {"suspect_after_ms": 2000})
    assert {"group.congested.v1", "group.relieved.v1"} <= {
        ev.decode_event(r.payload).type for r in world.log.records if ".ha." in r.subject
    }
    assert (said(report.today), report.changes) == ([], [])


def test_workers_of_a_pool_are_judged_by_their_heartbeats_and_their_writes_prove_nothing() -> None:
    world = Tape()
    for worker in ("v", "w"):
        world.register(worker, group=POOL)
        world.settle()
    world.live(1000, "v", "w", group=POOL)
    world.live(700, "w", group=POOL)
    world.live(500, "v", "w", group=POOL)
    frame = pen_frame(3, 1, (Mark.SUCCEEDED, _ids.next(1), None))
    world.log.append(NS.pen("orders", POOL, "v"), frame)
    world.live(500, "v", "w", group=POOL)
    report = what_if(world, {"suspect_after_ms": 500})
    assert said(report.changes) == ["additional instance.suspected v", "additional instance.recovered v"]
    assert (report.diverged, said(report.today)) == ([], [])


def test_what_cannot_be_read_is_passed_over() -> None:
    world = frozen()
    for subject in ("aegis.t.log.x", NS.fence("orders", "acc"), NS.term, NS.call("orders", "acc", "c")):
        world.log.append(subject, b"\xc1")
    world.pulses.append(world.pulses[-1]._replace(payload=b"\xc1"))
    report = what_if(world, {"suspect_after_ms": 3000})
    assert len(said(report.changes)) == 3
    assert said(report.today) == []
