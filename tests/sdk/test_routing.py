"""Where a call goes, and what its caller is told when it can go nowhere."""

from __future__ import annotations

import pytest

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.topology import Topology
from aegisipc.sdk.core.routing import route
from aegisipc.sdk.errors import NoRoute
from tests.sdk.kit import NS, POOL, SERVICE, ListLog, registered


def admit(log: ListLog, instance: str, group: str, *resources: str, service: str = SERVICE) -> None:
    log.say(NS.instance(service, group, instance), registered("1", group=group, resources=resources))
    log.say(NS.watch(service, group), ev.InstanceAdmitted(instance=instance, incarnation="1", decided_by="r"))


def topology_of(log: ListLog) -> Topology:
    topology = Topology(NS)
    for record in log.records:
        topology.apply(record)
    return topology


def no_route(
    log: ListLog, method: str = "get", resource: str | None = None, service: str = SERVICE
) -> NoRoute:
    with pytest.raises(NoRoute) as caught:
        route(topology_of(log), service, method, resource)
    return caught.value


def test_a_resource_leads_to_the_group_that_serves_it() -> None:
    log = ListLog()
    admit(log, "a", "g1", "x", "y")
    admit(log, "b", "g2", "z")
    topology = topology_of(log)
    assert [route(topology, SERVICE, "get", resource) for resource in "xyz"] == ["g1", "g1", "g2"]


def test_a_group_without_a_live_instance_is_a_good_route() -> None:
    log = ListLog()
    admit(log, "a", "g1", "x")
    log.lose("a", group="g1")
    assert route(topology_of(log), SERVICE, "get", "x") == "g1"


def test_without_a_resource_a_call_goes_to_the_pool() -> None:
    log = ListLog()
    admit(log, "w", POOL)
    assert route(topology_of(log), SERVICE, "get", None) == POOL


def test_without_a_resource_a_call_goes_to_the_only_group() -> None:
    log = ListLog()
    admit(log, "a", "g1", "x", "y")
    assert route(topology_of(log), SERVICE, "get", None) == "g1"


def test_a_pool_and_groups_of_one_service_live_side_by_side() -> None:
    log = ListLog()
    admit(log, "w", POOL)
    admit(log, "a", "g1", "x")
    topology = topology_of(log)
    assert (route(topology, SERVICE, "get", None), route(topology, SERVICE, "get", "x")) == (POOL, "g1")


def test_an_unknown_service_in_an_empty_namespace() -> None:
    error = no_route(ListLog())
    assert error.message == (
        "cannot call orders.get: no service 'orders' has joined this namespace; "
        "start it, or check the namespace"
    )
    assert error.service == SERVICE


def test_an_unknown_service_beside_known_ones_lists_them() -> None:
    log = ListLog()
    for service in ("zebra", "ant"):
        admit(log, "a", "g", "x", service=service)
    assert no_route(log).message == (
        "cannot call orders.get: no service 'orders' has joined this namespace; there is ant, zebra"
    )


def test_a_service_whose_instance_is_not_admitted_yet_is_unknown() -> None:
    log = ListLog()
    log.say(NS.instance(SERVICE, "g", "a"), registered("1", group="g"))
    assert "no service 'orders' has joined" in no_route(log).message


def test_an_unknown_method_lists_those_there_are() -> None:
    log = ListLog()
    admit(log, "w", POOL)
    error = no_route(log, "nope")
    assert error.message == "cannot call orders.nope: 'orders' has no such method; it has get, pay, put"
    assert (error.service, error.method) == (SERVICE, "nope")


def test_an_unknown_resource_lists_those_there_are_and_cuts_a_long_list() -> None:
    log = ListLog()
    admit(log, "a", "g", *[f"acc_{n:02}" for n in range(11)])
    error = no_route(log, resource="q")
    assert error.message == (
        "cannot call orders.get for resource 'q': no group serves it; served are "
        "acc_00, acc_01, acc_02, acc_03, acc_04, acc_05, acc_06, acc_07 and 3 more"
    )
    assert (error.service, error.resource) == (SERVICE, "q")


def test_a_resource_given_to_a_pool() -> None:
    log = ListLog()
    admit(log, "w", POOL)
    assert no_route(log, resource="q").message == (
        "cannot call orders.get for resource 'q': 'orders' is a pool and keeps no order; "
        "call it without resource_id"
    )


def test_no_resource_given_where_several_groups_are() -> None:
    log = ListLog()
    admit(log, "a", "g1", "x")
    admit(log, "b", "g2", "y")
    assert no_route(log).message == (
        "cannot call orders.get without resource_id: 'orders' has 2 groups; name a resource, one of x, y"
    )


def test_a_version_that_nobody_offers_is_told_with_those_that_there_are() -> None:
    log = ListLog()
    admit(log, "a", "g1", "x")
    assert no_route(log, "get@2", "x").message == (
        "cannot call orders.get@2: 'orders' has no version 2 of 'get'; it has get"
    )
    assert no_route(log, "fly@2", "x").message == (
        "cannot call orders.fly@2: 'orders' has no such method; it has get, pay, put"
    )
