"""Who may join: given what stands already, this registration is admitted or refused."""

from __future__ import annotations

import pytest

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.events import Effect, MethodContract
from tests.router.domain.world import World, only
from tests.sdk.kit import CONTRACT, GROUP, NS, POOL, SERVICE, FakeClient, a_call

# -- admission -----------------------------------------------------------------------------------------


def test_the_first_instance_is_admitted_and_promoted() -> None:
    world = World()
    world.register("a")
    admitted, promoted = world.settle()
    assert admitted == ev.InstanceAdmitted(instance="a", incarnation="1", decided_by="r1")
    assert isinstance(promoted, ev.GroupPromoted)
    assert (promoted.holder, promoted.epoch, promoted.cause) == ("a", 1, "first instance of the group")
    assert promoted.kind == "first"
    assert promoted.evidence == {
        "former_holder": None,
        "former_epoch": 0,
        "former_state": None,
        "ready": ["a"],
        "open": 0,
        "claimed": 0,
        "doubts": 0,
    }


def test_nobody_is_promoted_before_he_is_ready() -> None:
    world = World()
    world.never_ready.add("a")
    world.register("a")
    only(world.settle(), ev.InstanceAdmitted)
    world.log.say(NS.instance(SERVICE, GROUP, "a"), ev.InstanceReady(incarnation="1"))
    assert only(world.settle(), ev.GroupPromoted).holder == "a"


def test_a_later_instance_becomes_a_standby() -> None:
    world = World()
    world.joined("a")
    world.register("b")
    assert only(world.settle(), ev.InstanceAdmitted).instance == "b"
    group = world.state.topology.group(SERVICE, GROUP)
    assert group is not None
    assert (group.holder, group.epoch) == ("a", 1)


def test_instances_of_a_pool_are_admitted_and_nobody_is_promoted() -> None:
    world = World()
    world.register("w1", group=POOL)
    world.register("w2", group=POOL)
    assert {type(event) for event in world.settle()} == {ev.InstanceAdmitted}


def test_two_instances_with_different_methods_that_register_at_once_are_judged_one_after_the_other() -> None:
    world = World()
    world.register("a", group="g1", resources=["x"])
    world.register("b", group="g2", resources=["y"], contract=changed(get=contract(arguments="z")))
    first = [d.event for d in world.decide()]
    assert [type(event) for event in first] == [ev.InstanceAdmitted]
    events = world.settle()
    assert [e.instance for e in events if isinstance(e, ev.InstanceRefused)] == ["b"]


def test_two_groups_that_want_the_same_resource_at_once_are_judged_one_after_the_other() -> None:
    world = World()
    world.register("a", group="g1", resources=["x"])
    world.register("b", group="g2", resources=["x"])
    events = world.settle()
    assert [e.instance for e in events if isinstance(e, ev.InstanceAdmitted)] == ["a"]
    assert [e.instance for e in events if isinstance(e, ev.InstanceRefused)] == ["b"]


def test_an_owned_group_has_resources_and_a_pool_has_none() -> None:
    world = World()
    world.register("a", resources=[])
    refused = only(world.settle(), ev.InstanceRefused)
    assert refused.error.code == "invalid_registration"
    assert refused.error.message == (
        "cannot admit 'a' to orders/acc: it registered as 'owned' with 0 resources; "
        "owned groups have some, pools have none"
    )


# -- conflicts -----------------------------------------------------------------------------------------


def changed(**methods: MethodContract | None) -> ev.Contract:
    merged = {**CONTRACT, **methods}
    return {name: method for name, method in merged.items() if method is not None}


def contract(
    effect: Effect = Effect.PURE, arguments: str = "a", signature: str = "get() -> int"
) -> MethodContract:
    return MethodContract(effect=effect, arguments=arguments, returns="r", signature=signature)


def test_an_instance_with_other_methods_is_refused_and_told_the_difference() -> None:
    world = World()
    world.joined("a")
    world.register(
        "b", contract=changed(get=contract(arguments="z", signature="get(x: int) -> int"), pay=None)
    )
    refused = only(world.settle(), ev.InstanceRefused)
    assert refused.error.code == "contract_conflict"
    assert refused.error.message == (
        "cannot admit 'b': whoever calls service 'orders' as a offers it would break "
        "(orders.get: get() -> int became get(x: int) -> int, which cannot be judged: its schemas are not "
        "known; orders.pay: is gone); offer what changed as a later version beside the old one, or stop "
        "those instances first"
    )
    assert refused.error.details["service"] == SERVICE
    assert len(refused.error.details["differences"]) == 2


def test_a_refusal_is_small_however_much_the_contracts_differ() -> None:
    def wide(tag: str) -> ev.Contract:
        return {
            f"{'m' * 300}_{n}": MethodContract(
                effect=Effect.PURE, arguments=tag, returns="r", signature=f"m({tag * 5000})"
            )
            for n in range(40)
        }

    world = World()
    world.joined("a", contract=wide("x"))
    world.register("b", contract=wide("y"))
    refused = only(world.decide(), ev.InstanceRefused)
    assert "; and 32 more)" in refused.error.message
    assert (len(refused.error.details["differences"]), refused.error.details["more"]) == (8, 32)
    assert all(len(difference) <= 200 for difference in refused.error.details["differences"])
    assert len(ev.encode_event(refused)) < 8192


@pytest.mark.parametrize(
    "offers",
    [
        changed(),
        changed(new=contract()),
        changed(pay=contract(Effect.IDEMPOTENT), get=contract()),
    ],
)
def test_an_instance_that_offers_more_is_admitted(offers: ev.Contract) -> None:
    world = World()
    world.joined("a")
    world.register("b", contract=offers)
    assert only(world.settle(), ev.InstanceAdmitted).instance == "b"


@pytest.mark.parametrize(
    ("offers", "said"),
    [
        (changed(get=None), "orders.get: is gone"),
        (changed(get=contract(Effect.ONCE)), "orders.get: effect pure became once"),
        (changed(get=contract(arguments="z")), "orders.get: the types in get() -> int changed, which cannot"),
    ],
)
def test_an_instance_that_would_break_callers_is_refused(offers: ev.Contract, said: str) -> None:
    world = World()
    world.joined("a")
    world.register("b", contract=offers)
    refused = only(world.settle(), ev.InstanceRefused)
    assert [told.startswith(said) for told in refused.error.details["differences"]] == [True]


def test_other_methods_are_welcome_when_nobody_offers_the_old_ones_any_more() -> None:
    world = World()
    world.joined("a")
    world.leave("a")
    world.register("b", contract=changed(get=None))
    assert any(isinstance(event, ev.InstanceAdmitted) for event in world.settle())
    assert sorted(world.state.topology.services[SERVICE].contract) == ["pay", "put"]


def test_a_restarted_instance_may_bring_other_methods_if_it_was_the_only_one() -> None:
    world = World()
    world.joined("a")
    world.register("a", "2", contract=changed(get=None))
    assert any(isinstance(event, ev.InstanceAdmitted) for event in world.settle())


def test_a_resource_of_another_group_with_a_live_member_is_refused() -> None:
    world = World()
    world.joined("a", group="g1", resources=["x", "y"])
    world.register("b", group="g2", resources=["y", "z"])
    refused = only(world.settle(), ev.InstanceRefused)
    assert refused.error.code == "resource_conflict"
    assert refused.error.message == (
        "cannot admit 'b' to orders/g2: resource 'y' belongs to group 'g1' (its instances are a); "
        "join that group, or leave the resource out"
    )
    assert refused.error.details == {"resource": "y", "group": "g1", "requested_by": "g2"}


def test_a_resource_of_a_dead_group_is_refused_while_calls_wait_for_it_there() -> None:
    world = World()
    world.joined("a", group="g1", resources=["x"])
    client = FakeClient(world.log, "c1", "g1")
    client.send(a_call("get", "x"), a_call("get", "x"))
    world.leave("a", group="g1")
    world.settle()
    world.register("b", group="g2", resources=["x"])
    refused = only(world.settle(), ev.InstanceRefused)
    assert "(2 calls wait for it there)" in refused.error.message


def test_a_resource_moves_when_its_group_is_dead_and_nothing_waits_there() -> None:
    world = World()
    world.joined("a", group="g1", resources=["x"])
    world.leave("a", group="g1")
    world.joined("b", group="g2", resources=["x"])
    assert world.state.topology.services[SERVICE].resources == {"x": "g2"}
