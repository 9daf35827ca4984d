"""What becomes of a drain and of a promotion, as it is read from the log: record by record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.subjects import GROUP_WHO, WATCH_WHO, subjects_of
from aegisipc.eventstore.topology import GroupView, Topology
from aegisipc.router.cli.draining import Departure, Gone
from aegisipc.router.cli.promoting import Settled, Succession

SUBJECTS = subjects_of("test")
BY: Any = {"decided_by": "r1"}
type Said = tuple[str, ev.Event]


def joins(name: str, run: str = "1") -> list[Said]:
    incarnation = f"{name}-{run}"
    registered = ev.InstanceRegistered(
        incarnation=incarnation, mode="owned", contract={}, host="h", pid=1, version="0"
    )
    admitted = ev.InstanceAdmitted(instance=name, incarnation=incarnation, **BY)
    return [(name, registered), (WATCH_WHO, admitted), (name, ev.InstanceReady(incarnation=incarnation))]


def promoted(name: str, epoch: int, kind: Any = "planned", cause: str = "so it is") -> Said:
    event = ev.GroupPromoted(epoch=epoch, holder=name, incarnation=f"{name}-1", kind=kind, cause=cause, **BY)
    return GROUP_WHO, event


def drain_requested(name: str) -> Said:
    event = ev.InstanceDrainRequested(instance=name, incarnation=f"{name}-1", author="ann", **BY)
    return WATCH_WHO, event


def left(name: str) -> Said:
    return name, ev.InstanceLeft(incarnation=f"{name}-1", cause="drain requested by ann")


def lost(name: str, **more: Any) -> list[Said]:
    about = {"instance": name, "incarnation": f"{name}-1", "last_pulse_ns": 1, "silence_ms": 3001}
    events = ev.InstanceSuspected(**about, **more, **BY), ev.InstanceLost(**about, **more, **BY)
    return [(WATCH_WHO, event) for event in events]


def handover(to: str) -> Said:
    event = ev.GroupHandoverStarted(
        epoch=1, holder="a", to=to, to_incarnation=f"{to}-1", cause="promoted by ann", author="ann", **BY
    )
    return GROUP_WHO, event


BOTH = [*joins("a"), promoted("a", 1, "first"), *joins("b")]
DECIDED = len(BOTH) + 1
"""The sequence of whatever comes after both have joined. A record is one second after the one before."""


def told[T](
    look: Callable[[Record, ev.Event | ev.UnknownEvent | None, GroupView], T | None], said: Sequence[Said]
) -> T | None:
    """Give it the records, until it has found something."""
    topology = Topology(SUBJECTS)
    for seq, (who, event) in enumerate(said, 1):
        subject = SUBJECTS.instance("desk", "g1", who)
        record = Record(seq, subject, ev.encode_event(event), seq * 1_000_000_000)
        folded = topology.apply(record)
        group = topology.group("desk", "g1")
        assert group is not None
        found = look(record, folded, group)
        if found is not None:
            return found
    return None


def departed(name: str, *said: Said) -> Gone | None:
    return told(Departure(name, DECIDED).look, [*BOTH, drain_requested(name), *said])


def settled(*said: Said, seq: int = DECIDED, epoch: int = 2) -> Settled | None:
    return told(Succession(seq, epoch).look, [*BOTH, *said])


# -- drain -------------------------------------------------------------------------------------------------


def test_an_instance_that_is_still_there_has_not_gone() -> None:
    draining = ("a", ev.InstanceDraining(incarnation="a-1", cause="drain requested by ann"))
    assert departed("a", draining, left("b")) is None


def test_a_holder_that_leaves_is_not_told_as_the_holder_and_its_heirs_are_counted() -> None:
    gone = departed("a", left("a"))
    assert gone is not None
    assert (gone.event, gone.cause) == ("left", "drain requested by ann")
    assert (gone.holder, gone.heirs, gone.at_ns - gone.asked_at_ns) == (None, 1, 1_000_000_000)


def test_a_standby_that_leaves_leaves_the_holder_alone() -> None:
    gone = departed("b", left("b"))
    assert gone is not None
    assert (gone.event, gone.holder, gone.epoch, gone.heirs) == ("left", "a", 1, 0)


def test_an_instance_that_is_lost_while_it_drains_did_not_leave() -> None:
    gone = departed("a", *lost("a", cause="its connection ended"))
    assert gone is not None
    assert (gone.event, gone.cause) == ("lost", "its connection ended")
    gone = departed("a", *lost("a"))
    assert gone is not None
    assert gone.cause == "silent for 3001 ms"


def test_another_run_of_the_instance_is_not_the_one_that_was_to_leave() -> None:
    gone = departed("a", *joins("a", "2"))
    assert gone is not None
    assert gone.event == "replaced"


# -- promote -----------------------------------------------------------------------------------------------


def test_a_handover_takes_from_its_start_to_the_promotion() -> None:
    yielded = ("a", ev.InstanceYielded(incarnation="a-1", epoch=1, cause="handover"))
    assert settled(handover("b"), yielded) is None
    found = settled(handover("b"), yielded, promoted("b", 2))
    assert found is not None
    assert (found.holder, found.epoch, found.former, found.former_epoch) == ("b", 2, "a", 1)
    assert (found.kind, found.took_ns) == ("planned", 2_000_000_000)


def test_a_promotion_that_is_decided_at_once_takes_no_time() -> None:
    found = settled(promoted("b", 2, "failover"))
    assert found is not None
    assert (found.holder, found.kind, found.former, found.took_ns) == ("b", "failover", "a", 0)


def test_a_promotion_that_is_only_written_again_settles_nothing() -> None:
    assert settled(handover("b"), promoted("a", 1)) is None


def test_a_handover_that_is_called_off_leaves_the_pen_where_it_is() -> None:
    off = (GROUP_WHO, ev.GroupHandoverCancelled(epoch=1, cause="'b' cannot take over", **BY))
    found = settled(handover("b"), off)
    assert found is not None
    assert (found.holder, found.epoch, found.kind) == ("a", 1, "cancelled")
    assert found.cause == "'b' cannot take over"


def test_the_pen_may_go_to_another_one_or_to_nobody() -> None:
    found = settled(handover("b"), *joins("c"), promoted("c", 2, "failover"))
    assert found is not None
    assert (found.holder, found.epoch) == ("c", 2)
    found = settled(handover("b"), (GROUP_WHO, ev.GroupVacated(epoch=1, cause="holder 'a' was lost", **BY)))
    assert found is not None
    assert (found.holder, found.kind) == (None, "vacated")


def test_a_promotion_whose_answer_was_lost_is_found_by_its_epoch() -> None:
    found = settled(handover("b"), promoted("b", 2), seq=0)
    assert found is not None
    assert (found.holder, found.epoch, found.former, found.former_epoch) == ("b", 2, "a", 1)
