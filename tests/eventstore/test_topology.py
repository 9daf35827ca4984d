"""The routing fold: given a log, when one more record is folded, then this is who serves what."""

from __future__ import annotations

import pytest

from aegisipc.eventstore import events as ev
from aegisipc.eventstore import topology as topology_module
from aegisipc.eventstore.events import Effect, ErrorInfo, Event, MethodContract, encode_event
from aegisipc.eventstore.lifecycles import GroupState, InstanceState
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.names import POOL_GROUP
from aegisipc.eventstore.subjects import subjects_of
from aegisipc.eventstore.topology import GroupView, InstanceView, Topology

S = subjects_of("test")
PLACE = {"place": MethodContract(effect=Effect.ONCE, arguments="a", returns="b", signature="place()")}
PING = {"ping": MethodContract(effect=Effect.PURE, arguments="c", returns="d", signature="ping()")}


class History:
    """Writes events as instances and routers do, and folds them. One service, ``orders``."""

    def __init__(self, group: str = "acc") -> None:
        self.records: list[Record] = []
        self.topology = Topology(S)
        self.name = group

    def raw(self, subject: str, payload: bytes) -> ev.Event | ev.UnknownEvent | None:
        seq = len(self.records) + 1
        self.records.append(Record(seq, subject, payload, seq * 1000))
        return self.topology.apply(self.records[-1])

    def add(self, subject: str, event: Event) -> None:
        assert self.raw(subject, encode_event(event)) == event

    def own(self, instance: str, event: Event) -> None:
        self.add(S.instance("orders", self.name, instance), event)

    def watch(self, event: Event) -> None:
        self.add(S.watch("orders", self.name), event)

    def registered(
        self,
        instance: str,
        run: str = "r1",
        *,
        resources: tuple[str, ...] = ("acc",),
        contract: ev.Contract = PLACE,
    ) -> None:
        self.own(
            instance,
            ev.InstanceRegistered(
                incarnation=run,
                mode="owned",
                resources=resources,
                contract=contract,
                host="box",
                pid=1,
                version="1",
            ),
        )

    def admitted(self, instance: str, run: str = "r1") -> None:
        self.watch(ev.InstanceAdmitted(instance=instance, incarnation=run, decided_by="router-1"))

    def ready(self, instance: str, run: str = "r1") -> None:
        self.own(instance, ev.InstanceReady(incarnation=run))

    def joined(self, instance: str, run: str = "r1", **registration: object) -> None:
        self.registered(instance, run, **registration)  # type: ignore[arg-type]
        self.admitted(instance, run)
        self.ready(instance, run)

    def suspected(self, instance: str, run: str = "r1") -> None:
        self.watch(
            ev.InstanceSuspected(
                instance=instance, incarnation=run, last_pulse_ns=1, silence_ms=1000, decided_by="router-1"
            )
        )

    def recovered(self, instance: str, run: str = "r1") -> None:
        self.watch(ev.InstanceRecovered(instance=instance, incarnation=run, decided_by="router-1"))

    def lost(self, instance: str, run: str = "r1") -> None:
        self.suspected(instance, run)
        self.watch(
            ev.InstanceLost(
                instance=instance, incarnation=run, last_pulse_ns=1, silence_ms=2000, decided_by="router-1"
            )
        )

    def promoted(self, instance: str, run: str = "r1", *, epoch: int) -> None:
        self.add(
            S.fence("orders", self.name),
            ev.GroupPromoted(
                epoch=epoch, holder=instance, incarnation=run, cause=f"epoch {epoch}", decided_by="router-1"
            ),
        )

    def vacated(self, epoch: int) -> None:
        self.add(
            S.fence("orders", self.name),
            ev.GroupVacated(epoch=epoch, cause="nobody left", decided_by="router-1"),
        )

    @property
    def group(self) -> GroupView:
        found = self.topology.group("orders", self.name)
        assert found is not None
        return found

    def instance(self, instance: str) -> InstanceView:
        found = self.topology.instance("orders", self.name, instance)
        assert found is not None
        return found

    def states(self) -> dict[str, str]:
        return {name: str(instance.state) for name, instance in self.group.instances.items()}

    @property
    def anomalies(self) -> dict[str, int]:
        return dict(self.topology.anomalies)


# -- an instance's way ------------------------------------------------------------------------------------


def test_a_registration_alone_makes_nobody_ready() -> None:
    history = History()
    history.registered("i1")
    assert history.states() == {"i1": "joining"}
    assert (list(history.group.live()), list(history.group.ready())) == ([], [])
    history.ready("i1")
    assert list(history.group.ready()) == []  # ready, and not admitted


def test_admission_accepts_contract_and_resources() -> None:
    history = History()
    history.registered("i1", resources=("acc", "acc 2"))
    history.admitted("i1")
    service = history.topology.services["orders"]
    assert service.contract == PLACE
    assert service.resources == {"acc": "acc", "acc 2": "acc"}
    assert history.group.resources == {"acc", "acc 2"}
    assert [instance.id for instance in history.group.live()] == ["i1"]


def test_a_ready_and_admitted_instance_can_be_promoted() -> None:
    history = History()
    history.joined("i1")
    assert [instance.id for instance in history.group.ready()] == ["i1"]
    history.promoted("i1", epoch=1)
    group = history.group
    assert (group.state, group.epoch, group.holder, group.holder_incarnation) == (
        GroupState.HELD,
        1,
        "i1",
        "r1",
    )
    assert (group.fence_seq, group.since_ns, group.cause) == (4, 4000, "epoch 1")
    assert history.instance("i1").state is InstanceState.ACTIVE
    assert history.anomalies == {}


def test_an_instance_of_a_pool_is_active_as_soon_as_it_is_ready() -> None:
    history = History(POOL_GROUP)
    history.joined("w1", resources=())
    assert history.states() == {"w1": "active"}
    assert history.group.mode == "pool"


def test_a_refused_instance_keeps_the_reason_and_changes_no_route() -> None:
    history = History()
    history.registered("i1")
    error = ErrorInfo(code="resource_taken", message="cannot serve 'acc'")
    history.watch(ev.InstanceRefused(instance="i1", incarnation="r1", error=error, decided_by="router-1"))
    assert history.instance("i1").refusal == error
    assert history.states() == {"i1": "refused"}
    assert history.topology.services["orders"].resources == {}


def test_a_suspected_instance_keeps_its_role_and_recovers_into_it() -> None:
    history = History()
    history.joined("i1")
    history.promoted("i1", epoch=1)
    history.suspected("i1")
    assert history.states() == {"i1": "suspected_active"}
    assert history.instance("i1").is_ready
    history.recovered("i1")
    assert history.states() == {"i1": "active"}


def test_loss_of_the_active_and_promotion_of_the_standby() -> None:
    history = History()
    history.joined("i1")
    history.promoted("i1", epoch=1)
    history.joined("i2")
    history.lost("i1")
    history.promoted("i2", epoch=2)
    assert history.states() == {"i1": "lost", "i2": "active"}
    assert (history.group.epoch, history.group.holder) == (2, "i2")
    assert [instance.id for instance in history.group.live()] == ["i2"]
    assert history.anomalies == {}


def test_a_planned_promotion_demotes_the_former_holder() -> None:
    history = History()
    history.joined("i1")
    history.joined("i2")
    history.promoted("i1", epoch=1)
    history.promoted("i2", epoch=2)
    assert history.states() == {"i1": "standby", "i2": "active"}
    assert history.anomalies == {}


def test_draining_and_leaving_end_in_a_vacant_group() -> None:
    history = History()
    history.joined("i1")
    history.promoted("i1", epoch=1)
    history.own("i1", ev.InstanceDraining(incarnation="r1", cause="SIGTERM"))
    assert history.states() == {"i1": "draining"}
    history.own("i1", ev.InstanceLeft(incarnation="r1", cause="SIGTERM"))
    history.vacated(1)
    group = history.group
    assert (group.state, group.holder, group.holder_incarnation, group.epoch) == (
        GroupState.VACANT,
        None,
        None,
        1,
    )
    assert group.cause == "nobody left"
    assert history.anomalies == {}


def test_a_holder_that_lives_is_demoted_when_the_group_is_vacated() -> None:
    history = History()
    history.joined("i1")
    history.promoted("i1", epoch=1)
    history.vacated(1)
    assert history.states() == {"i1": "standby"}


# -- incarnations -----------------------------------------------------------------------------------------


def test_a_new_incarnation_starts_over_under_the_same_id() -> None:
    history = History()
    history.joined("i1")
    history.promoted("i1", epoch=1)
    history.lost("i1")
    history.registered("i1", "r2")
    instance = history.instance("i1")
    assert (instance.state, instance.incarnation, instance.admitted) == (InstanceState.JOINING, "r2", False)


def test_what_is_said_of_an_earlier_incarnation_is_counted_and_ignored() -> None:
    history = History()
    history.joined("i1")
    history.registered("i1", "r2")
    history.ready("i1", "r1")
    history.own("i1", ev.InstanceLeft(incarnation="r1", cause="late"))
    history.admitted("i1", "r1")
    history.lost("i1", "r1")
    assert history.states() == {"i1": "joining"}
    assert not history.instance("i1").admitted
    assert history.anomalies == {"of another incarnation": 5}


def test_an_active_that_restarts_quickly_leaves_no_anomaly_when_its_standby_is_promoted() -> None:
    history = History()
    history.joined("i1")
    history.promoted("i1", epoch=1)
    history.joined("i2")
    history.joined("i1", "r2")
    history.promoted("i2", epoch=2)
    assert history.states() == {"i2": "active", "i1": "standby"}
    assert history.anomalies == {}


def test_a_registration_stored_twice_does_not_unseat_the_active() -> None:
    history = History()
    history.joined("i1")
    history.promoted("i1", epoch=1)
    history.registered("i1")
    assert history.states() == {"i1": "active"}
    assert history.instance("i1").admitted
    assert history.anomalies == {"registered twice": 1}


def test_a_lost_incarnation_does_not_come_back() -> None:
    history = History()
    history.joined("i1")
    history.lost("i1")
    history.registered("i1")
    history.admitted("i1")
    history.ready("i1")
    assert history.states() == {"i1": "lost"}
    assert history.anomalies == {
        "registered twice": 1,
        "instance lost admitted": 1,
        "instance lost ready": 1,
    }


def test_admission_after_death_takes_no_resources() -> None:
    history = History()
    history.registered("i1")
    history.own("i1", ev.InstanceLeft(incarnation="r1", cause="changed its mind"))
    history.admitted("i1")
    assert history.topology.services["orders"].resources == {}
    assert history.topology.services["orders"].contract == {}


def test_instances_are_listed_in_order_of_registration_newest_incarnation_last() -> None:
    history = History()
    for instance in ("i1", "i2", "i3"):
        history.joined(instance)
    history.joined("i1", "r2")
    assert [instance.id for instance in history.group.live()] == ["i2", "i3", "i1"]
    assert [instance.id for instance in history.group.ready()] == ["i2", "i3", "i1"]


def test_gone_instances_are_bounded_and_the_newest_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topology_module, "MAX_GONE_INSTANCES", 3)
    history = History()
    history.joined("alive")
    for number in range(10):
        history.registered(f"i{number}")
        history.own(f"i{number}", ev.InstanceLeft(incarnation="r1", cause="c"))
    assert list(history.group.instances) == ["alive", "i7", "i8", "i9"]


# -- contracts and resources ------------------------------------------------------------------------------


def test_a_contract_stands_while_anybody_lives_and_is_replaced_when_nobody_does() -> None:
    history = History()
    history.joined("i1")
    history.joined("i2", contract=PING)
    assert history.topology.services["orders"].contract == PLACE
    history.lost("i1")
    history.lost("i2")
    history.joined("i3", contract=PING)
    assert history.topology.services["orders"].contract == PING


def test_a_resource_belongs_to_the_group_that_was_admitted_last_with_it() -> None:
    history = History()
    history.joined("i1", resources=("acc", "acc 2"))
    history.name = "other"
    history.joined("i2", resources=("acc 2",))
    assert history.topology.services["orders"].resources == {"acc": "acc", "acc 2": "other"}
    assert {group.name: group.resources for group in history.topology.groups()} == {
        "acc": {"acc"},
        "other": {"acc 2"},
    }


# -- the fence --------------------------------------------------------------------------------------------


def test_a_reaffirmed_promotion_moves_the_fence_and_nothing_else() -> None:
    history = History()
    history.joined("i1")
    history.promoted("i1", epoch=1)
    since_ns = history.group.since_ns
    history.promoted("i1", epoch=1)
    assert (history.group.fence_seq, history.group.since_ns) == (5, since_ns)
    assert history.anomalies == {}


def test_an_epoch_that_does_not_rise_holds_and_is_counted() -> None:
    history = History()
    history.joined("i1")
    history.joined("i2")
    history.promoted("i1", epoch=2)
    history.promoted("i2", epoch=2)
    assert (history.group.holder, history.group.epoch) == ("i2", 2)
    assert history.anomalies == {"epoch did not rise": 1}


@pytest.mark.parametrize(
    "payload", [b"garbage", b"\x92\xafgroup.moved.v99\x80"], ids=["malformed", "unknown"]
)
def test_even_a_record_that_cannot_be_read_moves_the_sequence_to_compare_with(payload: bytes) -> None:
    history = History()
    history.joined("i1")
    history.promoted("i1", epoch=1)
    history.raw(S.fence("orders", "acc"), payload)
    history.raw(S.watch("orders", "acc"), payload)
    history.raw(S.term, payload)
    assert (history.group.fence_seq, history.group.watch_seq) == (5, 6)
    assert history.topology.leadership.seq == 7
    assert (history.group.holder, history.group.epoch) == ("i1", 1)


# -- leadership -------------------------------------------------------------------------------------------


def elected(term: int, router: str) -> Event:
    return ev.RouterElected(term=term, router=router, incarnation=f"{router}-run", cause="c")


def resigned(term: int, router: str) -> Event:
    return ev.RouterResigned(term=term, router=router, incarnation=f"{router}-run")


def test_the_last_elected_router_leads_until_it_resigns() -> None:
    history = History()
    history.add(S.term, elected(1, "a"))
    history.add(S.term, elected(2, "b"))
    lead = history.topology.leadership
    assert (lead.term, lead.router, lead.incarnation, lead.seq, lead.since_ns) == (2, "b", "b-run", 2, 2000)
    history.add(S.term, resigned(2, "b"))
    lead = history.topology.leadership
    assert (lead.term, lead.router, lead.incarnation, lead.seq) == (2, None, None, 3)
    assert history.anomalies == {}


def test_who_does_not_lead_cannot_resign() -> None:
    history = History()
    history.add(S.term, elected(2, "b"))
    history.add(S.term, resigned(1, "a"))
    assert (history.topology.leadership.router, history.topology.leadership.seq) == ("b", 2)
    assert history.anomalies == {"resigned without leading": 1}


def test_a_term_that_does_not_rise_holds_and_is_counted() -> None:
    history = History()
    history.add(S.term, elected(2, "b"))
    history.add(S.term, elected(2, "a"))
    assert history.topology.leadership.router == "a"
    assert history.anomalies == {"term did not rise": 1}


# -- anomalies --------------------------------------------------------------------------------------------


def test_events_in_the_wrong_place_are_counted_and_ignored() -> None:
    history = History()
    history.joined("i1")
    before = history.states()
    history.own("i1", ev.GroupVacated(epoch=1, cause="c", decided_by="i1"))
    history.watch(ev.InstanceReady(incarnation="r1"))
    history.add(S.fence("orders", "acc"), ev.InstanceLeft(incarnation="r1", cause="c"))
    history.add(S.term, ev.InstanceReady(incarnation="r1"))
    assert history.states() == before
    assert history.anomalies == {"misplaced": 4}


def test_records_of_calls_only_move_the_position() -> None:
    history = History()
    assert history.raw(S.call("orders", "acc", "c1"), b"\x00") is None
    assert history.raw(S.pen("orders", "acc", "i1"), b"\x00") is None
    assert history.topology.position == 2
    assert (history.topology.services, history.anomalies) == ({}, {})


def test_a_foreign_subject_is_counted() -> None:
    history = History()
    history.raw("aegis.other.log.s.g.ha.i1", b"")
    assert history.anomalies == {"malformed": 1}


def test_kinds_of_anomaly_are_bounded_whatever_hostile_records_say() -> None:
    history = History()
    for number in range(500):
        name = (f"evil.{number}." + "x" * 1000).encode()
        history.raw(S.fence("orders", "acc"), b"\x92\xda" + len(name).to_bytes(2) + name + b"\x80")
    assert sum(history.anomalies.values()) == 500
    assert len(history.anomalies) <= topology_module.MAX_ANOMALIES + 1
    assert max(map(len, history.anomalies)) < 120


def test_views_of_what_is_not_there_are_none() -> None:
    topology = Topology(S)
    assert topology.group("orders", "acc") is None
    assert topology.instance("orders", "acc", "i1") is None
