"""The text of ``aegis status``: what a group's trouble looks like, and that it stays readable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.subjects import subjects_of
from aegisipc.eventstore.topology import Topology
from aegisipc.router.cli.overview import overview
from aegisipc.router.cli.reporting import Pulse, Status, as_plain

S = subjects_of("test")
SECOND_NS = 1_000_000_000
BY = {"author": "ann@box", "reason": "the venue is down", "decided_by": "r1"}
WIDTH = 100

type Said = tuple[str, ev.Event]


def fence(event: ev.Event, group: str = "g1") -> Said:
    return S.fence("orders", group), event


def watch(event: ev.Event, group: str = "g1") -> Said:
    return S.watch("orders", group), event


def said_by(instance: str, event: ev.Event, group: str = "g1") -> Said:
    return S.instance("orders", group, instance), event


def joined(
    instance: str,
    *,
    group: str = "g1",
    quarantined: bool = False,
    resources: Sequence[str] = ("acc_1", "acc_2"),
) -> list[Said]:
    mode: Any = "pool" if group == "_pool" else "owned"
    registered = ev.InstanceRegistered(
        incarnation=f"{instance}-run",
        mode=mode,
        resources=() if mode == "pool" else tuple(resources),
        contract={},
        host="box",
        pid=7,
        version="1",
        quarantined=quarantined,
    )
    admitted = ev.InstanceAdmitted(instance=instance, incarnation=f"{instance}-run", decided_by="r1")
    return [
        said_by(instance, registered, group),
        watch(admitted, group),
        said_by(instance, ev.InstanceReady(incarnation=f"{instance}-run"), group),
    ]


def promoted(instance: str, epoch: int = 1) -> Said:
    return fence(
        ev.GroupPromoted(
            epoch=epoch, holder=instance, incarnation=f"{instance}-run", cause="first", decided_by="r1"
        )
    )


LED = (S.term, ev.RouterElected(term=3, router="r1", incarnation="r1-run", cause="nobody leads"))
PAIR = [LED, *joined("orders-1"), promoted("orders-1"), *joined("orders-2")]
ROUTER = {"router": "r1", "system_account": True, "open_calls": {}, "doubts": {}, "claimed": {}}


def status_of(said: Sequence[Said], **fields: Any) -> Status:
    """What is known after these events, one a second."""
    topology = Topology(S)
    for seq, (subject, event) in enumerate(said, 1):
        topology.apply(Record(seq, subject, ev.encode_event(event), seq * SECOND_NS))
    assert not topology.anomalies, topology.anomalies
    pulses = {
        instance.incarnation: Pulse(0.2, {"incarnation": instance.incarnation, "open": 4, "fenced": 0})
        for group in topology.groups()
        for instance in group.live()
    }
    known: dict[str, Any] = {
        "router": ROUTER,
        "pulses": pulses,
        "routers": {"r1": Pulse(0.1, {"phase": "leading"})},
        **fields,
    }
    now_ns = (len(said) + 5) * SECOND_NS
    return Status("test", topology, len(said), now_ns, servers="nats://127.0.0.1:4222", **known)


def text_of(said: Sequence[Said], **fields: Any) -> str:
    return overview(status_of(said, **fields), everything=False, columns=WIDTH)


def row_of(text: str, group: str) -> list[str]:
    return next(line.split() for line in text.splitlines() if line.split()[1:2] == [group])


def test_a_sound_group_is_one_row_and_needs_no_note() -> None:
    text = text_of(PAIR, router=ROUTER | {"open_calls": {"orders/g1": 12}})
    assert " ".join(row_of(text, "g1")) == "orders g1 owned 1 orders-1 orders-2 0.2 s 12 0 acc_1, acc_2"
    assert text.splitlines()[1] == "router r1 leads term 3 (for 12 s); r1 has the system account"
    assert len(text.splitlines()) == 5


def test_the_routers_that_follow_are_named() -> None:
    routers = {name: Pulse(0.1, {}) for name in ("r3", "r1", "r2")}
    text = text_of(PAIR, routers=routers, router=ROUTER | {"router": "r2", "system_account": False})
    assert "leads term 3 (for 12 s), r2, r3 follow; r2 has no system account: deaths show by silence" in text


def test_without_a_router_the_holder_tells_of_its_calls() -> None:
    text = text_of(PAIR, router=None, routers={})
    assert "router r1 leads term 3 (for 12 s), and no router answers: calls go on" in text
    assert row_of(text, "g1")[8:10] == ["4", "-"]


@pytest.mark.parametrize(
    ("then", "says"),
    [
        (
            [
                fence(
                    ev.GroupHandoverStarted(
                        epoch=1,
                        holder="orders-1",
                        to="orders-2",
                        to_incarnation="orders-2-run",
                        cause="promoted by ann@box: new host",
                        decided_by="r1",
                    )
                )
            ],
            "orders/g1: handover from orders-1 to orders-2, for 5.0 s: promoted by ann@box: new host",
        ),
        (
            [watch(ev.GroupPaused(scope="group", **BY))],
            "orders/g1: paused by ann@box: the venue is down (aegis resume orders/g1)",
        ),
        (
            [said_by("orders-2", ev.InstanceUnhealthy(incarnation="orders-2-run", reason="no link\n"))],
            "orders/g1: orders-2 is unhealthy: no link\\n",
        ),
        (
            [
                watch(
                    ev.InstanceDrainRequested(instance="orders-2", incarnation="orders-2-run", **BY),
                )
            ],
            "orders/g1: orders-2 is to leave, asks ann@box: the venue is down",
        ),
        (
            joined("orders-3", quarantined=True),
            "orders/g1: orders-3 is in quarantine: it queues calls, and runs none (aegis resume orders/g1)",
        ),
        (
            [fence(ev.GroupVacated(epoch=1, cause="it left", decided_by="r1"))],
            "orders/g1: nobody holds the pen, for 5.0 s: it left",
        ),
    ],
)
def test_what_somebody_should_look_at_is_told_below_the_table(then: list[Said], says: str) -> None:
    text = text_of([*PAIR, *then])
    assert says in text.splitlines()
    assert max(map(len, text.splitlines())) <= WIDTH


def test_doubts_and_refused_frames_are_counted_and_lead_further() -> None:
    pulses = {"orders-2-run": Pulse(0.2, {"fenced": 2})}
    text = text_of(PAIR, pulses=pulses, router=ROUTER | {"doubts": {"orders/g1": 3}})
    assert row_of(text, "g1")[6:9] == ["-", "0", "3"]
    notes = [
        "orders/g1: 3 calls are in doubt (aegis doubt list --service orders --group g1)",
        "orders/g1: the fence refused 2 frames of orders-2, which had lost the pen",
    ]
    assert text.splitlines()[-2:] == notes


CONGESTED = watch(ev.GroupCongested(open=50, limit=50, retry_after_ms=1500, decided_by="r1"))


def test_a_congested_group_shows_how_full_it_is_since_when_and_when_to_try_again() -> None:
    known = {"router": ROUTER | {"open_calls": {"orders/g1": 57}}}
    known["pulses"] = {
        "orders-1-run": Pulse(0.2, {"waiting": 55}),
        "orders-2-run": Pulse(0.2, {"waiting": 9}),
    }
    text = text_of([*PAIR, CONGESTED], **known)
    assert row_of(text, "g1")[8:11] == ["57/50", "(55", "wait)"]
    assert text.splitlines()[-1] == (
        "orders/g1: congested, for 5.0 s: 50 calls were open, of 50 at most; clients refuse calls, and are "
        "to try again after 1.5 s"
    )
    group = as_plain(status_of([*PAIR, CONGESTED], **known))["services"]["orders"]["groups"]["g1"]
    assert group["congestion"] == {
        "open": 50,
        "limit": 50,
        "retry_after_ms": 1500,
        "since_ns": (len(PAIR) + 1) * SECOND_NS,
    }
    assert (group["open_calls"], group["waiting"]) == (57, 55)


def test_a_group_that_is_relieved_is_sound_again() -> None:
    relieved = watch(ev.GroupRelieved(open=3, decided_by="r1"))
    said = [*PAIR, CONGESTED, relieved]
    assert "congested" not in text_of(said)
    group = as_plain(status_of(said))["services"]["orders"]["groups"]["g1"]
    assert (group["congestion"], group["waiting"]) == (None, None)


def test_what_waits_in_a_pool_is_the_sum_of_what_its_workers_have_in_hand() -> None:
    said = [LED, *joined("w1", group="_pool"), *joined("w2", group="_pool"), *joined("w3", group="_pool")]
    pulses = {
        "w1-run": Pulse(0.2, {"waiting": 3}),
        "w2-run": Pulse(0.2, {"waiting": 4}),
        "w3-run": Pulse(0.2, {}),
    }
    text = text_of(said, pulses=pulses, router=ROUTER | {"open_calls": {"orders/_pool": 9}})
    assert "  9 (7 wait)  " in text


def test_a_troubled_instance_is_marked_where_it_is_named() -> None:
    suspected = ev.InstanceSuspected(
        instance="orders-2", incarnation="orders-2-run", last_pulse_ns=0, silence_ms=1000, decided_by="r1"
    )
    unhealthy = ev.InstanceUnhealthy(incarnation="orders-1-run", reason="no link")
    status = status_of([*PAIR, watch(suspected), said_by("orders-1", unhealthy)])
    text = overview(status, everything=False, columns=WIDTH)
    row = next(line for line in text.splitlines() if " g1 " in line)
    wide = overview(status, everything=False)
    assert "orders-1 (unhealthy)  orders-2 (suspected)" in wide
    assert "orders-1!  orders-2!" in row
    assert "orders/g1: orders-2 is suspected, for 6.0 s" in text


def test_long_names_and_many_groups_keep_the_table_narrow() -> None:
    said: list[Said] = [LED]
    for number in range(3):
        group = f"group-{number}"
        for one in ("a", "b", "c"):
            said += joined(
                f"positions-eu-west-{number}-{one}",
                group=group,
                resources=[f"account_{number}_{i}" for i in range(9)],
            )
    for one in ("w1", "w2", "w3"):
        said += joined(one, group="_pool")
    text = text_of(said)
    head, *rows = text.splitlines()[3:8]
    assert max(map(len, rows)) <= WIDTH
    assert all(row[head.index("RESOURCES")] in "-a" for row in rows)
    assert "w1, w2, w3  " in rows[0]
    assert rows[1].endswith("  account_0_0 +8")
    assert "  positions-eu-we… +2  " in rows[1]
    wide = overview(status_of(said), everything=False)
    assert "  positions-eu-west-0-a +2  " in wide


def test_programs_are_told_everything() -> None:
    pulses = {"orders-1-run": Pulse(0.25, {"fenced": 2, "open": 3, "doubts": 1})}
    paused = watch(ev.GroupPaused(scope="group", **BY))
    routers = {"r1": Pulse(0.1, {"phase": "leading"}), "r2": Pulse(0.2, {"phase": "following"})}
    plain = as_plain(status_of([*PAIR, paused], pulses=pulses, router=None, routers=routers))
    group = plain["services"]["orders"]["groups"]["g1"]
    assert (group["open_calls"], group["doubts"], group["claimed"], group["paused"]) == (3, 1, None, True)
    assert group["paused_by"] == "ann@box: the venue is down"
    holder, standby = group["instances"]["orders-1"], group["instances"]["orders-2"]
    assert (holder["role"], holder["fenced"], holder["last_pulse_ms"]) == ("active", 2, 250)
    assert (standby["role"], standby["fenced"], standby["eligible"]) == ("standby", None, True)
    assert (plain["followers"], plain["system_account"], plain["router"]) == (["r2"], None, None)
    assert plain["routers"]["r2"] == {"last_pulse_ms": 200, "pulse": {"phase": "following"}}


def test_roles_of_those_who_serve_no_owned_group_are_told() -> None:
    registered, *_ = joined("late")
    left = said_by("gone", ev.InstanceLeft(incarnation="gone-run", cause="stop requested"))
    said = [*PAIR, registered, *joined("w1", group="_pool"), *joined("gone"), left]
    groups = as_plain(status_of(said))["services"]["orders"]["groups"]
    roles = {name: found["role"] for group in groups.values() for name, found in group["instances"].items()}
    assert roles == {
        "orders-1": "active",
        "orders-2": "standby",
        "late": "joining",
        "w1": "worker",
        "gone": "gone",
    }
