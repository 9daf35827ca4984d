"""Instances of a newer contract beside older ones: who may join, and what may be called meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from aegisipc.eventstore import events as ev
from aegisipc.eventstore import known_schemas as schemas_module
from aegisipc.eventstore.contracts import fingerprint_of, pack
from aegisipc.eventstore.known_schemas import KnownSchemas
from aegisipc.eventstore.subjects import CONTRACT
from aegisipc.eventstore.system import SystemState
from aegisipc.sdk.core.routing import route
from aegisipc.sdk.errors import NoRoute
from aegisipc.sdk.service import Service
from tests.router.domain.world import World
from tests.sdk.kit import GROUP, NS, POOL, SERVICE


def offering(*functions: Callable[..., Any]) -> Service:
    service = Service(SERVICE)
    for function in functions:
        service.method(effect="pure")(function)
    return service


def place(quantity: int) -> None: ...
def get() -> None: ...


FIRST = offering(place)


def _second() -> Service:
    def place(quantity: int, note: str = "") -> None: ...

    return offering(place, get)


def _breaking() -> Service:
    def place(quantity: str) -> None: ...

    return offering(place)


def _beside() -> Service:
    """An addition of its own, which is no step from the second one."""

    def place(quantity: int, urgent: bool = False) -> None: ...

    return offering(place)


SECOND, BREAKING, BESIDE = _second(), _breaking(), _beside()


class Upgrade(World):
    """A world whose instances write down their schemas, as they do."""

    def offer(
        self,
        instance: str,
        service: Service,
        *,
        incarnation: str = "1",
        group: str = GROUP,
        resources: Sequence[str] | None = None,
        known: bool = True,
    ) -> None:
        if known:
            self.log.say(NS.contract(SERVICE, group, instance), service.schemas)
        self.register(instance, incarnation, group=group, resources=resources, contract=service.contract)

    def joins(self, instance: str, service: Service, **options: Any) -> None:
        self.offer(instance, service, **options)
        settled = self.settle()
        assert not [each for each in settled if isinstance(each, ev.InstanceRefused)]

    def refused(self, instance: str, service: Service, **options: Any) -> list[str]:
        self.offer(instance, service, **options)
        found = [each for each in self.settle() if isinstance(each, ev.InstanceRefused)]
        assert [each.instance for each in found] == [instance]
        differences: list[str] = found[0].error.details["differences"]
        return differences

    def routed(self, method: str, resource: str | None = "acc_1") -> str:
        return route(self.state.topology, SERVICE, method, resource)

    def no_route(self, method: str, resource: str | None = "acc_1") -> str:
        with pytest.raises(NoRoute) as caught:
            self.routed(method, resource)
        return caught.value.message


# -- owned groups -----------------------------------------------------------------------------------------


def test_an_instance_with_an_optional_parameter_more_joins_beside_the_old_one() -> None:
    world = Upgrade()
    world.joins("a", FIRST)
    world.joins("b", SECOND)
    assert world.group().holder == "a"


def test_until_the_new_one_is_active_only_what_the_old_one_offers_may_be_called() -> None:
    world = Upgrade()
    world.joins("a", FIRST)
    world.joins("b", SECOND)
    assert world.routed("place") == GROUP
    assert "'orders' has no such method; it has place" in world.no_route("get")
    world.leave("a")
    world.settle()
    assert (world.group().holder, world.routed("get")) == ("b", GROUP)


def test_while_nobody_is_active_calls_wait_for_what_was_offered_last() -> None:
    world = Upgrade()
    world.joins("a", SECOND)
    world.joins("b", SECOND)
    world.leave("a")
    world.leave("b")
    assert world.routed("get") == GROUP
    world.settle()
    assert world.routed("get") == GROUP


def test_an_instance_that_breaks_callers_is_refused_and_told_what() -> None:
    world = Upgrade()
    world.joins("a", FIRST)
    assert world.refused("b", BREAKING) == ["orders.place argument quantity: integer became string"]


def test_an_old_instance_may_come_back_until_a_new_one_is_active() -> None:
    world = Upgrade()
    world.joins("a", FIRST)
    world.joins("b", SECOND)
    world.joins("c", FIRST)
    world.leave("a")
    world.settle()
    assert world.group().holder == "b"
    assert world.refused("d", FIRST) == [
        "orders.get: is gone",
        "orders.place argument note: is gone: what callers give there is refused",
    ]


def test_additions_that_have_nothing_to_do_with_each_other_are_not_offered_side_by_side() -> None:
    world = Upgrade()
    world.joins("a", FIRST)
    world.joins("b", SECOND)
    assert "orders.get: is gone" in world.refused("c", BESIDE)
    world.leave("b")
    world.joins("d", BESIDE)


def test_groups_of_a_service_are_upgraded_one_by_one() -> None:
    world = Upgrade()
    world.joins("a", FIRST, group="g1", resources=["x"])
    world.joins("b", FIRST, group="g2", resources=["y"])
    world.leave("a", group="g1")
    world.joins("a2", SECOND, group="g1", resources=["x"])
    assert world.routed("get", "x") == "g1"
    assert "group 'g2' of 'orders' has no such method; it has place" in world.no_route("get", "y")
    world.joins("b2", FIRST, group="g2", resources=["y"])
    assert world.refused("b3", BREAKING, group="g2", resources=["y"])


# -- versions -----------------------------------------------------------------------------------------------


def test_a_later_version_stands_beside_the_old_one() -> None:
    def place_again(quantity: str) -> None: ...

    both = offering(place)
    both.method(effect="pure", name="place", version=2)(place_again)
    world = Upgrade()
    world.joins("a", FIRST)
    world.joins("b", both)
    world.leave("a")
    world.settle()
    assert world.routed("place@2") == GROUP
    assert "'orders' has no version 3 of 'place'; it has place, place@2" in world.no_route("place@3")


# -- pools ---------------------------------------------------------------------------------------------------


def test_of_a_pool_only_what_every_worker_offers_may_be_called() -> None:
    world = Upgrade()
    world.joins("w1", FIRST, group=POOL)
    world.joins("w2", SECOND, group=POOL)
    assert world.routed("place", None) == POOL
    assert "has no such method; it has place" in world.no_route("get", None)
    world.leave("w1", group=POOL)
    assert world.routed("get", None) == POOL
    assert world.refused("w3", FIRST, group=POOL)


def test_an_old_worker_may_come_back_as_long_as_another_old_one_is_there() -> None:
    world = Upgrade()
    world.joins("w1", FIRST, group=POOL)
    world.joins("w2", FIRST, group=POOL)
    world.joins("w3", SECOND, group=POOL)
    world.joins("w1", FIRST, group=POOL, incarnation="2")
    world.leave("w2", group=POOL)
    world.joins("w2", FIRST, group=POOL, incarnation="2")


# -- what the router knows ---------------------------------------------------------------------------------


def test_without_schemas_a_changed_method_is_refused_and_the_same_one_is_not() -> None:
    world = Upgrade()
    world.joins("a", FIRST, known=False)
    world.joins("b", FIRST, known=False)
    (said,) = world.refused("c", SECOND, known=False)
    assert said.endswith("which cannot be judged: its schemas are not known")


def test_schemas_are_known_by_their_fingerprints_whoever_wrote_them() -> None:
    known = KnownSchemas()
    world = Upgrade()
    world.joins("a", FIRST)
    world.joins("b", FIRST)
    for record in world.log.records:
        if NS.parse(record.subject).kind == CONTRACT:
            known.apply(record)
    assert set(known) == {fingerprint_of(method.schemas) for method in FIRST.methods.values()}
    assert known.unreadable == 0


def test_equal_records_give_equal_states() -> None:
    world = Upgrade()
    world.joins("a", FIRST)
    world.joins("b", SECOND)
    again = SystemState(NS).replay(world.log.records)
    assert again.to_plain() == world.state.to_plain()
    assert len(again.to_plain()["schemas"]) == 3


def test_the_oldest_schemas_are_forgotten_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schemas_module, "MAX_KEPT_METHODS", 3)
    known, world = KnownSchemas(), World()

    def text(number: int) -> str:
        return f'{{"arguments":{{"n":{number}}}}}'

    def write(*numbers: int) -> None:
        event = pack({f"m{number}": text(number) for number in numbers})
        world.log.say(NS.contract(SERVICE, GROUP, "a"), event)
        known.apply(world.log.records[-1])

    write(1, 2)
    write(2, 3)
    write(1, 2)  # is the latest again
    write(4)
    assert set(known) == {fingerprint_of(text(number)) for number in (1, 2, 4)}


def test_records_that_cannot_be_read_are_counted_and_change_nothing() -> None:
    world = Upgrade()
    world.log.append(NS.contract(SERVICE, GROUP, "a"), b"\xc1")
    world.log.say(NS.contract(SERVICE, GROUP, "a"), ev.InstanceReady(incarnation="1"))
    world.log.say(NS.contract(SERVICE, GROUP, "a"), ev.ServiceContract(digest="x", schemas="y"))
    assert (len(world.state.schemas), world.state.schemas.unreadable) == (0, 3)
    world.joins("a", FIRST)
    assert world.routed("place") == GROUP
