"""What cannot travel, and encoding from many places at once."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Secret, SecretBytes, SecretStr, field_serializer

from aegisipc.eventstore.codec import decode, encode, type_codec
from aegisipc.eventstore.errors import NotEncodable


class Opaque:
    pass


class Node(BaseModel):
    children: "list[Node]" = []


class Holder(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    held: Any


class Login(BaseModel):
    password: SecretStr


@dataclass
class Ring:
    next: Any = None


class Nesting(BaseModel):
    inner: int

    @field_serializer("inner")
    def wrap(self, inner: int) -> bytes:
        return encode([inner, Decimal(inner)])


class Failing(BaseModel):
    inner: int

    @field_serializer("inner")
    def fail(self, inner: int) -> int:
        raise KeyError(inner)


def cyclic_list() -> list[Any]:
    ring: list[Any] = []
    ring.append({"ring": ring})
    return ring


def cyclic_dataclass() -> Ring:
    ring = Ring()
    ring.next = ring
    return ring


def cyclic_model() -> Node:
    node = Node()
    node.children.append(node)
    return node


def deep_list() -> list[Any]:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "type_name"),
    [
        (Opaque(), "Opaque"),
        ([{"a": Opaque()}], "Opaque"),
        (Holder(held=Opaque()), "Opaque"),
        (Opaque, "type"),
        (print, "builtin_function_or_method"),
        (ValueError("x"), "ValueError"),
        (range(3), "range"),
        (SecretStr("x"), "SecretStr"),
        (SecretBytes(b"x"), "SecretBytes"),
        (Secret[int](1), "Secret"),
        (Login(password=SecretStr("x")), "SecretStr"),
        ("\ud800", "str"),
        (cyclic_list(), "list"),
        (cyclic_dataclass(), "Ring"),
        (cyclic_model(), "Node"),
        (deep_list(), "list"),
        (Failing(inner=1), "Failing"),
    ],
    ids=lambda part: part if isinstance(part, str) and part.isascii() else "",
)
def test_what_cannot_travel_is_refused_by_name(value: Any, type_name: str) -> None:
    with pytest.raises(NotEncodable) as caught:
        encode(value)
    assert caught.value.type_name.rpartition(".")[2] == type_name


def test_the_refusal_of_a_secret_says_what_to_do_and_not_what_it_is() -> None:
    with pytest.raises(NotEncodable, match="get_secret_value") as caught:
        type_codec(Login).encode({"password": "hunter2"})
    assert "hunter2" not in str(caught.value)


def test_a_failing_serializer_is_refused_through_the_codec_of_the_type() -> None:
    with pytest.raises(NotEncodable):
        type_codec(Failing).encode(Failing(inner=1))


def test_encoding_goes_on_after_a_refusal() -> None:
    with pytest.raises(NotEncodable):
        encode([1, 2, Opaque()])
    assert decode(encode([3])) == [3]


def test_a_serializer_may_itself_encode() -> None:
    plain = decode(encode([Nesting(inner=1), Nesting(inner=2)]))
    assert [decode(item["inner"]) for item in plain] == [[1, Decimal(1)], [2, Decimal(2)]]


def test_threads_do_not_mix_their_values() -> None:
    def check(worker: int) -> bool:
        value = {
            "worker": worker,
            "items": [(worker, Decimal(n)) for n in range(50)],
            "inner": Nesting(inner=worker),
        }
        for _ in range(40):
            plain = decode(encode(value))
            if (
                plain["worker"] != worker
                or plain["items"] != value["items"]
                or decode(plain["inner"]["inner"])[0] != worker
            ):
                return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(check, range(16)))
