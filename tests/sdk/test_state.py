"""Shared state as bytes: what goes in comes out the same, everywhere, and what does not fit says so."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, field_validator

from aegisipc.eventstore.codec import decode, encode
from aegisipc.eventstore.errors import LimitExceeded
from aegisipc.sdk import state as state_module
from aegisipc.sdk.canonical import canonical_bytes
from aegisipc.sdk.errors import EmitRefused, ServiceDefinitionError, StateUnreadable
from aegisipc.sdk.service import Service
from aegisipc.sdk.state import COMPRESS_OVER_BYTES, SharedState


class Filled(BaseModel):
    symbol: str
    price: Decimal
    tags: set[str] = set()


@dataclass
class Cancelled:
    symbol: str


class Moved(TypedDict):
    symbol: str
    by: int


class Renamed(TypedDict):
    symbol: str
    to: str


class Book(BaseModel):
    fills: dict[str, list[Filled]] = {}
    notes: dict[str, Any] = {}


def unchecked(cls: Any, **fields: Any) -> Any:
    return cls.model_construct(**fields)


class Desk:
    """A service with state, as one member of a group has it."""

    def __init__(self) -> None:
        self.service = Service("desk")
        self.book = Book()
        self.heard: list[object] = []
        self.service.on(Filled)(self.filled)
        self.service.on(Cancelled)(self.cancelled)
        self.service.on(Moved)(self.heard.append)
        self.service.snapshot(self.taken)
        self.service.restore(self.restored)
        self.state = SharedState(self.service)

    def filled(self, event: Filled) -> None:
        self.book.fills.setdefault(event.symbol, []).append(event)

    def cancelled(self, event: Cancelled) -> None:
        del self.book.fills[event.symbol]

    def taken(self) -> Book:
        return self.book

    def restored(self, state: Book | None) -> None:
        self.book = state or Book()


def fill(symbol: str = "A", price: str = "1.50") -> Filled:
    return Filled(symbol=symbol, price=Decimal(price), tags={"x", "y"})


def desk_with(*symbols: str) -> Desk:
    desk = Desk()
    for symbol in symbols:
        desk.state.apply(desk.state.encode(fill(symbol)))
    return desk


# -- events --------------------------------------------------------------------------------------------


def test_an_event_travels_as_its_name_and_its_data() -> None:
    assert decode(Desk().state.encode(fill())) == [
        "Filled",
        {"symbol": "A", "price": Decimal("1.50"), "tags": {"x", "y"}},
    ]


def test_an_applied_event_is_a_copy_equal_to_what_was_emitted() -> None:
    event = fill()
    desk = Desk()
    body = desk.state.encode(event)
    event.tags.clear()
    desk.state.apply(body)
    assert desk.book.fills == {"A": [fill()]}


def test_what_one_application_keeps_of_an_event_the_next_does_not_share() -> None:
    desk = Desk()
    body = desk.state.encode(fill())
    desk.state.apply(body)
    desk.state.apply(body)
    first, second = desk.book.fills["A"]
    first.tags.clear()
    assert second == fill()


def test_events_may_be_applied_in_another_order_than_they_were_encoded() -> None:
    desk = Desk()
    bodies = [desk.state.encode(fill(symbol)) for symbol in "ABC"]
    for body in reversed(bodies):
        desk.state.apply(body)
    assert list(desk.book.fills) == ["C", "B", "A"]


@pytest.mark.parametrize("event", [Cancelled("A"), fill("B")])
def test_dataclasses_and_models_arrive_as_themselves(event: object) -> None:
    desk = desk_with("A")
    desk.state.apply(desk.state.encode(event))
    assert desk.book.fills == ({} if isinstance(event, Cancelled) else {"A": [fill("A")], "B": [event]})


def test_a_dict_is_taken_for_the_only_typed_dict_there_is() -> None:
    desk = Desk()
    desk.state.apply(desk.state.encode({"symbol": "A", "by": 2}))
    assert desk.heard == [{"symbol": "A", "by": 2}]


def test_of_two_typed_dicts_the_name_tells_which_is_meant() -> None:
    desk = Desk()
    renamed: list[object] = []
    desk.service.on(Renamed)(renamed.append)
    state = SharedState(desk.service)
    with pytest.raises(EmitRefused, match="may be any of 'Moved', 'Renamed'; say which"):
        state.encode({"symbol": "A", "to": "B"})
    state.apply(state.encode({"symbol": "A", "to": "B"}, "Renamed"))
    assert (renamed, desk.heard) == ([{"symbol": "A", "to": "B"}], [])


def test_all_members_of_a_union_are_taken_under_one_name() -> None:
    service, heard = Service("desk"), list[object]()
    service.on(Filled | Cancelled, name="trade")(heard.append)
    state = SharedState(service)
    for event in (fill(), Cancelled("B")):
        state.apply(state.encode(event))
    assert heard == [fill(), Cancelled("B")]


def test_a_subclass_is_not_cut_down_to_its_base_but_refused() -> None:
    class Larger(Filled):
        quantity: int = 5

    with pytest.raises(
        EmitRefused, match=r"nothing applies events of exactly that type.*@desk\.on\(Larger\)"
    ):
        Desk().state.encode(Larger(symbol="A", price=Decimal(1)))


@pytest.mark.parametrize(
    ("event", "fault"),
    [
        ({"symbol": "A", "by": "much"}, "by: Input should be a valid integer"),
        (unchecked(Filled, symbol="A", price="dear"), "price: Input should be"),
    ],
)
def test_an_invalid_event_is_refused_and_its_field_named(event: object, fault: str) -> None:
    with pytest.raises(EmitRefused, match=fault) as caught:
        Desk().state.encode(event)
    assert caught.value.code == "emit_refused"


def test_what_could_be_written_but_not_read_back_is_refused() -> None:
    class Deep(BaseModel):
        inner: Any

    service = Service("desk")
    service.on(Deep)(lambda event: None)
    inner: Any = 1
    for _ in range(63):  # with the model and the pair around it, one level too many
        inner = [inner]
    with pytest.raises(EmitRefused, match="depth"):
        SharedState(service).encode(Deep(inner=inner))


def test_an_event_of_an_unknown_name_is_named_with_what_to_do() -> None:
    with pytest.raises(
        StateUnreadable, match="nothing in this version applies them; keep a function"
    ) as caught:
        Desk().state.apply(encode(["Settled", {}]))
    assert (caught.value.event, caught.value.service, caught.value.code) == (
        "Settled",
        "desk",
        "state_unreadable",
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        encode("Filled"),
        encode(["Filled"]),
        encode([["Filled"], {}]),
        encode(["Filled", {"symbol": 1}]),
    ],
)
def test_bytes_that_are_no_event_are_a_typed_error(body: bytes) -> None:
    with pytest.raises(StateUnreadable):
        Desk().state.apply(body)


def test_a_function_that_cannot_apply_an_event_is_a_typed_error_with_its_cause() -> None:
    desk = Desk()
    with pytest.raises(StateUnreadable, match=r"cancelled\(\) raised KeyError: 'Z'") as caught:
        desk.state.apply(desk.state.encode(Cancelled("Z")))
    assert isinstance(caught.value.__cause__, KeyError)
    assert caught.value.event == "Cancelled"


# -- snapshots -----------------------------------------------------------------------------------------


def test_a_restored_state_equals_the_one_that_was_saved() -> None:
    saved = desk_with("A", "B", "A")
    again = Desk()
    again.state.restore(saved.state.snapshot())
    assert again.book == saved.book
    assert again.state.digest() == saved.state.digest()


def test_restoring_nothing_starts_from_nothing() -> None:
    desk = desk_with("A")
    desk.state.restore(None)
    assert desk.book == Book()


def test_a_small_snapshot_is_the_pair_of_version_and_data() -> None:
    assert decode(desk_with().state.snapshot()) == [1, {"fills": {}, "notes": {}}]


def test_a_large_snapshot_is_compressed_and_read_back() -> None:
    saved = desk_with(*[f"symbol-{i}" for i in range(500)])
    blob = saved.state.snapshot()
    plain = zlib.decompress(blob)
    assert len(blob) < len(plain) / 3
    assert len(plain) > COMPRESS_OVER_BYTES
    again = Desk()
    again.state.restore(blob)
    assert again.book == saved.book


def large_blob() -> bytes:
    return desk_with(*[f"symbol-{i}" for i in range(500)]).state.snapshot()


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"\xc1\xc1",
        b"\x92",
        encode([2, {}]),
        encode([1, {"fills": 3}]),
        encode({"fills": {}}),
        large_blob()[:-5],
        large_blob() + b"more",
        zlib.compress(b"\x92" + b"\x00" * (state_module.MAX_SNAPSHOT_BYTES + 1)),
    ],
    ids=["empty", "noise", "cut", "version", "type", "no pair", "cut zlib", "tail", "bomb"],
)
def test_a_blob_that_does_not_fit_is_a_typed_error(blob: bytes) -> None:
    desk = desk_with("A")
    with pytest.raises(StateUnreadable, match="cannot restore the state of service 'desk'"):
        desk.state.restore(blob)


def test_a_restore_that_raises_is_a_typed_error() -> None:
    desk = Desk()

    def broken(state: Book | None) -> None:
        raise OSError("disk")

    desk.service.state.restore = broken
    with pytest.raises(StateUnreadable, match="OSError: disk"):
        SharedState(desk.service).restore(None)


@pytest.mark.parametrize("method", ["snapshot", "digest"])
@pytest.mark.parametrize("wrong", [None, {"fills": [1]}, unchecked(Book, fills={"A": ["no fill"]})])
def test_a_snapshot_that_could_not_be_read_back_is_not_given_out(method: str, wrong: Any) -> None:
    desk = Desk()
    desk.book = wrong
    with pytest.raises(StateUnreadable, match=r"cannot take a snapshot of service 'desk': taken\(\)"):
        getattr(desk.state, method)()


def test_a_state_over_the_limit_is_a_typed_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_module, "MAX_SNAPSHOT_BYTES", 100)
    with pytest.raises(LimitExceeded, match="keep less in the shared state") as caught:
        desk_with("A", "B", "C").state.snapshot()
    assert caught.value.limit_bytes == 100


def test_validators_that_raise_anything_are_a_typed_error() -> None:
    class Picky(BaseModel):
        value: int

        @field_validator("value")
        @classmethod
        def looked_up(cls, value: int) -> int:
            return {1: 1}[value]

    service = Service("desk")
    service.on(Picky)(lambda event: None)
    with pytest.raises(StateUnreadable, match="KeyError"):
        SharedState(service).apply(encode(["Picky", {"value": 2}]))


# -- digests -------------------------------------------------------------------------------------------


def test_the_digest_does_not_depend_on_the_order_in_which_dicts_were_filled() -> None:
    one, two = desk_with("A", "B"), desk_with("B", "A")
    one.book.notes = {"a": {"x": 1, "y": {1, "1"}}, "b": 2}
    two.book.notes = {"b": 2, "a": {"y": {"1", 1}, "x": 1}}
    assert list(one.book.fills) != list(two.book.fills)
    assert one.state.digest() == two.state.digest()
    assert len(one.state.digest()) == 32


@pytest.mark.parametrize(
    "other",
    [
        lambda desk: desk.book.fills["A"].reverse(),
        lambda desk: desk.book.fills.pop("A"),
        lambda desk: desk.book.notes.update(x=1),
        lambda desk: desk.book.fills["A"][0].tags.clear(),
    ],
)
def test_another_state_has_another_digest(other: Callable[[Desk], Any]) -> None:
    def made() -> Desk:
        desk = Desk()
        for price in ("1.0", "2.0"):
            desk.state.apply(desk.state.encode(fill("A", price)))
        return desk

    changed = made()
    assert changed.state.digest() == made().state.digest()
    other(changed)
    assert changed.state.digest() != made().state.digest()


_PROGRAM = """
from tests.sdk.test_state import desk_with
desk = desk_with("B", "A", "C")
mixed = {1, "one", 2.5, b"b", None, (1, 2)}
desk.book.notes = {"mixed": mixed, "keys": {3: "x", "three": "y", (1, "a"): "z"}}
print(desk.state.digest().hex(), list({"alpha", "beta", "gamma", "delta", "epsilon"}))
"""


def test_the_digest_is_the_same_in_every_process() -> None:
    answers = [
        subprocess.run(
            [sys.executable, "-c", _PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout.split(" ", 1)
        for seed in ("1", "2", "77")
    ]
    digests, orders = {digest for digest, _ in answers}, {order for _, order in answers}
    assert len(orders) > 1, "the seeds must make a difference, or this shows nothing"
    assert len(digests) == 1


_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=5)
    | st.binary(max_size=5)
    | st.floats(allow_nan=False)
)
_PLAIN = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


def reordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: reordered(value[key]) for key in reversed(value)}
    return [reordered(item) for item in value] if isinstance(value, list) else value


@given(_PLAIN)
def test_canonical_bytes_do_not_depend_on_the_order_of_keys(value: Any) -> None:
    assert canonical_bytes(value) == canonical_bytes(reordered(value))


@given(_PLAIN, _PLAIN)
def test_canonical_bytes_of_different_values_differ(one: Any, two: Any) -> None:
    assert (canonical_bytes(one) == canonical_bytes(two)) == (
        encode(sorted_plain(one)) == encode(sorted_plain(two))
    )


def sorted_plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: sorted_plain(value[key]) for key in sorted(value)}
    return [sorted_plain(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("one", "two"), [([1], (1,)), ({1}, frozenset({1})), ({}, []), ({1: 2}, [[1, 2]]), (1, 1.0)]
)
def test_containers_of_different_kinds_are_different(one: Any, two: Any) -> None:
    assert canonical_bytes(one) != canonical_bytes(two)


# -- without state -------------------------------------------------------------------------------------


def test_a_service_without_state_has_nothing_to_restore_save_or_compare() -> None:
    state = SharedState(Service("plain"))
    assert state.is_empty
    state.restore(None)
    for refused in (state.snapshot, state.digest, lambda: state.restore(encode([1, {}]))):
        with pytest.raises(StateUnreadable, match="shares no state"):
            refused()
    with pytest.raises(ServiceDefinitionError):
        state.encode(fill())


def test_a_service_with_state_is_not_empty() -> None:
    assert not Desk().state.is_empty
