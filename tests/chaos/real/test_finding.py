"""Which keys are asked for after the faults."""

from __future__ import annotations

from aegisipc.chaos.history import Deed, Operation, Stage
from aegisipc.chaos.real.finding import Key, keys_in


def asked(number: int, key: str | None, resource: str | None = "r") -> Operation:
    return Operation(number, Stage.INVOKE, Deed.CALL, "c", number, "book.add", resource=resource, key=key)


def test_each_key_is_asked_for_once_where_it_was_used() -> None:
    found = keys_in([asked(1, "a"), asked(2, None), asked(3, "b", None), asked(4, "a")], "7")
    assert sorted(found, key=lambda key: key.key) == [
        Key("book.add", "r", "a"),
        Key("book.add", None, "b"),
    ]


def test_the_order_is_one_of_chance_and_the_same_for_a_seed() -> None:
    operations = [asked(number, f"k{number}") for number in range(50)]
    found = keys_in(operations, "7")
    assert found == keys_in(reversed(operations), "7")
    assert found != keys_in(operations, "8")
    assert found != sorted(found)
