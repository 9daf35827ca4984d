"""The routing fold under operators and health checks: pauses, quarantine, handovers, drains."""

from __future__ import annotations

import pytest

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.events import Event, encode_event
from aegisipc.eventstore.lifecycles import GroupState
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.subjects import subjects_of
from aegisipc.eventstore.topology import GroupView, Handover, InstanceView, Topology

S = subjects_of("test")
BY = {"author": "ann", "decided_by": "router-1"}


class History:
    """Two ready instances of ``orders/g1``; ``i1`` holds the pen at epoch 1."""

    def __init__(self) -> None:
        self.topology = Topology(S)
        self.seq = 0
        self.join("i1")
        self.join("i2")
        self.promote("i1", 1)

    def add(self, subject: str, event: Event) -> None:
        self.seq += 1
        self.topology.apply(Record(self.seq, subject, encode_event(event), self.seq * 1000))

    def own(self, instance: str, event: Event) -> None:
        self.add(S.instance("orders", "g1", instance), event)

    def watch(self, event: Event, group: str = "g1") -> None:
        self.add(S.watch("orders", group), event)

    def fence(self, event: Event) -> None:
        self.add(S.fence("orders", "g1"), event)

    def join(self, instance: str, *, run: str = "r1", quarantined: bool = False) -> None:
        registered = ev.InstanceRegistered(
            incarnation=run,
            mode="owned",
            resources=("acc",),
            contract={},
            host="box",
            pid=1,
            version="1",
            quarantined=quarantined,
        )
        self.own(instance, registered)
        self.watch(ev.InstanceAdmitted(instance=instance, incarnation=run, decided_by="router-1"))
        self.own(instance, ev.InstanceReady(incarnation=run))

    def promote(self, instance: str, epoch: int) -> None:
        self.fence(
            ev.GroupPromoted(epoch=epoch, holder=instance, incarnation="r1", cause="c", decided_by="router-1")
        )

    def hand_over(self, to: str = "i2", epoch: int = 1) -> None:
        self.fence(
            ev.GroupHandoverStarted(epoch=epoch, holder="i1", to=to, to_incarnation="r1", cause="asked", **BY)
        )

    @property
    def group(self) -> GroupView:
        found = self.topology.group("orders", "g1")
        assert found is not None
        return found

    def instance(self, name: str) -> InstanceView:
        return self.group.instances[name]


@pytest.fixture
def history() -> History:
    return History()


def test_a_handover_is_under_way_until_the_next_holder_is_promoted(history: History) -> None:
    history.hand_over()
    group = history.group
    assert group.state is GroupState.FAILING_OVER
    assert group.handover == Handover("i2", "r1", "asked", "ann", history.seq * 1000)
    assert (group.holder, group.epoch, group.fence_seq) == ("i1", 1, history.seq)
    history.own("i1", ev.InstanceYielded(incarnation="r1", epoch=1, cause="asked"))
    assert group.yielded_epoch == 1
    history.promote("i2", 2)
    after = history.topology.to_plain()["services"]["orders"]["groups"]["g1"]
    assert (after["state"], after["holder"], after["epoch"]) == ("held", "i2", 2)
    assert (after["handover"], after["yielded_epoch"]) == (None, 0)


def test_a_cancelled_handover_leaves_holder_and_epoch_and_moves_the_fence(history: History) -> None:
    history.hand_over()
    history.own("i1", ev.InstanceYielded(incarnation="r1", epoch=1, cause="asked"))
    history.fence(ev.GroupHandoverCancelled(epoch=1, cause="i2 left", decided_by="router-1"))
    group = history.group
    assert (group.state, group.holder, group.epoch) == (GroupState.HELD, "i1", 1)
    assert (group.handover, group.yielded_epoch, group.fence_seq) == (None, 0, history.seq)


def test_a_handover_of_another_epoch_is_an_anomaly_that_moves_the_fence_alone(history: History) -> None:
    history.hand_over(epoch=7)
    assert history.group.handover is None
    assert history.group.state is GroupState.HELD
    assert history.group.fence_seq == history.seq
    assert history.topology.anomalies == {"handover of another epoch": 1}


def test_only_the_holder_of_the_epoch_can_yield_it(history: History) -> None:
    history.own("i2", ev.InstanceYielded(incarnation="r1", epoch=1, cause="x"))
    history.own("i1", ev.InstanceYielded(incarnation="r0", epoch=1, cause="x"))
    history.own("i1", ev.InstanceYielded(incarnation="r1", epoch=2, cause="x"))
    assert history.group.yielded_epoch == 0
    assert history.topology.anomalies == {"yielded without holding": 3}


def test_a_yield_that_crosses_the_end_of_its_handover_does_not_count(history: History) -> None:
    history.hand_over()
    history.fence(ev.GroupHandoverCancelled(epoch=1, cause="i2 left", decided_by="router-1"))
    history.own("i1", ev.InstanceYielded(incarnation="r1", epoch=1, cause="asked"))
    assert history.group.yielded_epoch == 0
    assert history.topology.anomalies == {"yielded without need": 1}


def test_a_holder_that_is_healthy_again_during_a_handover_has_yielded_all_the_same(history: History) -> None:
    history.own("i1", ev.InstanceUnhealthy(incarnation="r1", reason="x"))
    history.hand_over()
    history.own("i1", ev.InstanceYielded(incarnation="r1", epoch=1, cause="asked"))
    history.own("i1", ev.InstanceHealthy(incarnation="r1"))
    assert history.group.yielded_epoch == 1


def test_an_unhealthy_instance_is_ready_but_not_eligible_until_it_is_healthy_again(history: History) -> None:
    history.own("i2", ev.InstanceUnhealthy(incarnation="r1", reason="no venue"))
    assert (history.instance("i2").is_ready, history.instance("i2").is_eligible) == (True, False)
    assert history.instance("i2").unhealthy == "no venue"
    history.own("i2", ev.InstanceHealthy(incarnation="r1"))
    assert history.instance("i2").is_eligible


def test_a_holder_that_yielded_and_is_healthy_again_has_not_yielded(history: History) -> None:
    history.own("i1", ev.InstanceUnhealthy(incarnation="r1", reason="x"))
    history.own("i1", ev.InstanceYielded(incarnation="r1", epoch=1, cause="x"))
    history.own("i1", ev.InstanceHealthy(incarnation="r1"))
    assert history.group.yielded_epoch == 0


def test_an_instance_that_is_to_drain_is_not_eligible(history: History) -> None:
    history.watch(ev.InstanceDrainRequested(instance="i2", incarnation="r1", reason="release", **BY))
    assert history.instance("i2").drain_requested_by == "ann: release"
    assert not history.instance("i2").is_eligible


def test_a_drain_of_an_earlier_run_says_nothing_about_this_one(history: History) -> None:
    history.watch(ev.InstanceDrainRequested(instance="i2", incarnation="r0", **BY))
    assert not history.instance("i2").drain_requested


def test_a_pause_lasts_until_the_group_is_resumed(history: History) -> None:
    history.watch(ev.GroupPaused(scope="group", reason="venue down", **BY))
    group = history.group
    assert (group.paused, group.paused_by, group.pause_seq) == (True, "ann: venue down", history.seq)
    assert not history.topology.services["orders"].paused
    history.watch(ev.GroupResumed(scope="group", **BY))
    assert (group.paused, group.paused_by, group.pause_seq) == (False, "", history.seq)


def test_a_pause_of_the_service_is_known_to_be_older_than_a_group_that_comes_later(history: History) -> None:
    history.watch(ev.GroupPaused(scope="service", **BY))
    service = history.topology.services["orders"]
    assert service.paused
    assert history.group.pause_seq == service.pause_seq
    history.watch(ev.InstanceAdmitted(instance="j1", incarnation="r1", decided_by="router-1"), group="g2")
    later = service.groups["g2"]
    assert not later.paused
    assert later.pause_seq < service.pause_seq
    history.watch(ev.GroupPaused(scope="service", **BY), group="g2")
    assert later.pause_seq > service.pause_seq


def test_resuming_a_group_ends_the_quarantine_of_its_instances(history: History) -> None:
    history.join("i3", quarantined=True)
    assert history.instance("i3").quarantined
    assert history.instance("i3").is_eligible
    history.watch(ev.GroupResumed(scope="group", **BY))
    assert not history.instance("i3").quarantined


def test_the_canonical_form_tells_all_of_it_apart(history: History) -> None:
    seen = [history.topology.to_plain()]
    for event in (
        ev.GroupPaused(scope="service", **BY),
        ev.InstanceDrainRequested(instance="i2", incarnation="r1", **BY),
    ):
        history.watch(event)
        seen.append(history.topology.to_plain())
    history.own("i2", ev.InstanceUnhealthy(incarnation="r1", reason="x"))
    seen.append(history.topology.to_plain())
    history.hand_over()
    seen.append(history.topology.to_plain())
    services = [plain["services"] for plain in seen]
    assert all(services[i] != services[i + 1] for i in range(len(services) - 1))
