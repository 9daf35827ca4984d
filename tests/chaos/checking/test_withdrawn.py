"""Who may start nothing: instances in quarantine, on their way out, or gone."""

from __future__ import annotations

import pytest

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.frames import Mark
from tests.chaos.checking.scene import GROUP, NS, POOL, SERVICE, Scene, a_pool, a_scene, broken_by, holds


def says(scene: Scene, instance: str, event: ev.Event, group: str = GROUP) -> None:
    scene.say(NS.instance(SERVICE, group, instance), event)


def registers(scene: Scene, instance: str, run: str, *, quarantined: bool, group: str = GROUP) -> None:
    event = ev.InstanceRegistered(
        incarnation=run,
        mode="pool" if group == POOL else "owned",
        contract={},
        host="h",
        pid=1,
        version="0",
        quarantined=quarantined,
    )
    says(scene, instance, event, group)
    admitted = ev.InstanceAdmitted(instance=instance, incarnation=run, decided_by="r")
    scene.say(NS.watch(SERVICE, group), admitted)
    says(scene, instance, ev.InstanceReady(incarnation=run), group)


def promote(scene: Scene, holder: str, run: str) -> None:
    """Give the pen to the next run of its holder."""
    scene.epoch += 1
    event = ev.GroupPromoted(
        epoch=scene.epoch,
        holder=holder,
        incarnation=run,
        kind="failover",
        cause=f"holder {holder!r} was restarted",
        decided_by="r",
    )
    scene.say(NS.fence(SERVICE, GROUP), event)


def resume(scene: Scene, group: str = GROUP) -> None:
    event = ev.GroupResumed(scope="group", author="ann", decided_by="r")
    scene.say(NS.watch(SERVICE, group), event)


def drains(scene: Scene, instance: str, run: str = "", group: str = GROUP) -> None:
    says(scene, instance, ev.InstanceDraining(incarnation=run or f"{instance}-1", cause="test"), group)


def leaves(scene: Scene, instance: str, run: str = "", group: str = GROUP) -> None:
    says(scene, instance, ev.InstanceLeft(incarnation=run or f"{instance}-1", cause="test"), group)


# -- quarantine ------------------------------------------------------------------------------------------


def in_quarantine() -> Scene:
    """A group whose only instance, ``q``, is in quarantine."""
    scene = Scene()
    scene.elect()
    registers(scene, "q", "q-1", quarantined=True)
    scene.promote("q")
    scene.wait(0.6)
    return scene


def test_an_instance_in_quarantine_that_begins_a_call_is_found() -> None:
    scene = in_quarantine()
    since_ns = scene.now_ns
    call_id = scene.whole_call()
    scene.fault("freeze", "q", since_ns)  # it knows from its registration on
    assert "quarantine" in broken_by(scene, "orders", call_id).text


def test_so_it_is_in_a_pool() -> None:
    scene = a_pool()
    registers(scene, "q", "q-1", quarantined=True, group=POOL)
    scene.wait(0.6)
    call_id = scene.accept(scene.invoke(), group=POOL)
    scene.ran(call_id, "q")
    scene.mark(Mark.SUCCEEDED, call_id, encode(1), writer="q", group=POOL)
    broken_by(scene, "orders", call_id)


def test_after_its_group_was_resumed_it_may() -> None:
    scene = in_quarantine()
    resume(scene)
    scene.whole_call()
    holds(scene)
    assert scene.verdict("orders").looked_at == 1


def test_so_may_its_next_run_without_one() -> None:
    scene = in_quarantine()
    registers(scene, "q", "q-2", quarantined=False)
    promote(scene, "q", "q-2")
    scene.whole_call()
    holds(scene)


def test_another_instance_may_start_calls() -> None:
    scene = in_quarantine()
    registers(scene, "a", "a-1", quarantined=False)
    scene.promote("a")
    scene.whole_call()
    holds(scene)


# -- leaving ---------------------------------------------------------------------------------------------


def test_an_instance_that_drains_and_begins_a_call_is_found() -> None:
    scene = a_scene()
    drains(scene, "a")
    scene.wait(0.6)
    assert "drains" in broken_by(scene, "orders", scene.whole_call()).text


def test_what_it_had_begun_or_was_about_to_begin_is_legal() -> None:
    scene = a_scene()
    call_id = scene.accept(scene.invoke())
    scene.began(call_id)
    drains(scene, "a")
    scene.whole_call()
    scene.wait(2.0)
    scene.ended(call_id)
    scene.mark(Mark.SUCCEEDED, call_id, encode(1))
    holds(scene)


@pytest.mark.parametrize(("fault", "victim"), [("freeze", "a"), ("slow-disk", "server")])
def test_one_whose_claim_was_on_its_way_is_excused(fault: str, victim: str) -> None:
    scene = a_scene()
    drains(scene, "a")
    since_ns = scene.now_ns
    scene.wait(0.6)
    scene.fault(fault, victim, since_ns)
    scene.whole_call()
    holds(scene)


def test_to_be_stopped_in_good_order_is_no_excuse() -> None:
    scene = a_scene()
    since_ns = scene.now_ns
    drains(scene, "a")
    scene.wait(0.6)
    scene.fault("stop", "a", since_ns)
    broken_by(scene, "orders", scene.whole_call())


def test_the_next_run_of_an_instance_that_left_may_start_calls() -> None:
    scene = a_scene()
    drains(scene, "a")
    leaves(scene, "a")
    scene.wait(1.0)
    registers(scene, "a", "a-2", quarantined=False)
    promote(scene, "a", "a-2")
    drains(scene, "a", "a-1")  # stored late
    scene.wait(1.0)
    scene.whole_call()
    holds(scene)


def test_a_worker_ends_what_it_has_in_hand_and_begins_nothing_once_it_left() -> None:
    scene = a_pool()
    drains(scene, "a", group=POOL)
    scene.wait(0.6)
    call_id = scene.accept(scene.invoke(), group=POOL)
    scene.ran(call_id)
    scene.mark(Mark.SUCCEEDED, call_id, encode(1), group=POOL)
    holds(scene)
    leaves(scene, "a", group=POOL)
    scene.wait(0.6)
    call_id = scene.accept(scene.invoke(), group=POOL)
    scene.ran(call_id)
    scene.mark(Mark.SUCCEEDED, call_id, encode(1), group=POOL)
    assert "left" in broken_by(scene, "orders", call_id).text
