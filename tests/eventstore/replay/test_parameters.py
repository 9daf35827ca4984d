"""Signatures tell which parameter is which."""

from __future__ import annotations

import pytest

from aegisipc.eventstore.replay.parameters import Parameters, names_in
from aegisipc.eventstore.topology import Topology
from tests.sdk.kit import CONTRACT, GROUP, NS, SERVICE, ListLog, registered


@pytest.mark.parametrize(
    ("signature", "names"),
    [
        ("get() -> int", ()),
        ("place(order: Order) -> Fill", ("order",)),
        (
            "put(a: dict[str, tuple[int, int]], b: Callable[[int], str] = …, c: int) -> None",
            ("a", "b", "c"),
        ),
        ("one(a: Literal['(', 'x'], b: int) -> int", None),  # brackets in texts: rather nothing than wrong
        ("cut(a: int, b: st…", None),
        ("no signature", None),
        ("odd(1: int) -> int", None),
        ("", None),
    ],
)
def test_names_are_read_from_a_signature(signature: str, names: tuple[str, ...] | None) -> None:
    assert names_in(signature) == names


def test_who_offers_a_method_tells_its_parameters() -> None:
    log, topology = ListLog(), Topology(NS)
    pay = CONTRACT["pay"]
    for instance, signature in (("a", "pay(account: str, amount: int) -> int"), ("b", "pay(x: str) -> int")):
        contract = CONTRACT | {"pay": pay.model_copy(update={"signature": signature})}
        log.say(NS.instance(SERVICE, GROUP, instance), registered("1", group=GROUP, contract=contract))
        topology.apply(log.records[-1])
        told = Parameters(topology).of(SERVICE, GROUP, "pay")
        assert told == (("account", "amount") if instance == "a" else None)  # they do not agree
    assert Parameters(topology).of(SERVICE, GROUP, "get") == ()
    assert Parameters(topology).of(SERVICE, GROUP, "other") is None
    assert Parameters(topology).of(SERVICE, "elsewhere", "pay") is None
