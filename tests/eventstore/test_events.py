"""Events: persisted by versioned type strings, readable for ever."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegisipc.eventstore.errors import LimitExceeded, MalformedPayload, NotEncodable
from aegisipc.eventstore.events import (
    MAX_EVENT_BYTES,
    REGISTRY,
    Event,
    GroupPromoted,
    InstanceReady,
    Registry,
    UnknownEvent,
    decode_event,
    encode_event,
)

FIXTURES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "fixtures" / "events.json").read_text(encoding="utf-8")
)


def promoted(**evidence: Any) -> GroupPromoted:
    return GroupPromoted(
        epoch=1, holder="i1", incarnation="r", cause="c", evidence=evidence, decided_by="router-1"
    )


# -- what was stored stays readable -----------------------------------------------------------------------


LATEST = {fixture["type"]: fixture for fixture in FIXTURES}
"""A type has a fixture for each shape that it was ever stored in, the latest one last."""


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda fixture: fixture["type"])
def test_a_stored_event_of_each_version_is_read_as_it_was_meant(fixture: dict[str, Any]) -> None:
    event = decode_event(bytes.fromhex(fixture["hex"]))
    assert isinstance(event, Event)
    fields = event.model_dump(mode="json")
    assert {name: fields[name] for name in fixture["fields"]} == fixture["fields"]
    assert decode_event(encode_event(event)) == event
    if fixture["type"] not in REGISTRY.upcasters:
        assert event.type == fixture["type"]


@pytest.mark.parametrize("fixture", LATEST.values(), ids=lambda fixture: fixture["type"])
def test_the_latest_shape_of_each_version_is_written_byte_for_byte(fixture: dict[str, Any]) -> None:
    event = decode_event(bytes.fromhex(fixture["hex"]))
    assert isinstance(event, Event)
    assert event.model_dump(mode="json") == fixture["fields"]
    if fixture["type"] not in REGISTRY.upcasters:
        assert encode_event(event).hex() == fixture["hex"]


def test_every_type_ever_registered_has_a_frozen_fixture() -> None:
    assert LATEST.keys() == REGISTRY.classes.keys() | REGISTRY.upcasters.keys()


def test_every_type_is_a_versioned_name_and_no_class_path() -> None:
    for name, cls in REGISTRY.classes.items():
        assert cls.type == name
        assert cls.__module__ not in name
        subject, verb, version = name.split(".")
        assert subject.isidentifier()
        assert verb.isidentifier()
        assert version[0] == "v"
        assert version[1:].isdigit()


def test_every_upcaster_leads_to_a_type_that_exists() -> None:
    for old in REGISTRY.upcasters:
        assert REGISTRY._path(old)[-1] in REGISTRY.classes


# -- there and back ---------------------------------------------------------------------------------------

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), plain, max_size=3))
def test_an_event_is_read_as_it_was_written(evidence: dict[str, Any]) -> None:
    event = GroupPromoted(
        epoch=1, holder="i1", incarnation="r", cause="c", evidence=evidence, decided_by="router-1"
    )
    assert decode_event(encode_event(event)) == event


@pytest.mark.parametrize("value", [1 << 64, -(1 << 63) - 1, object(), b"\xff", "\ud800"], ids=repr)
def test_what_cannot_travel_is_refused_when_it_is_written(value: Any) -> None:
    with pytest.raises(NotEncodable, match=r"group\.promoted\.v1"):
        encode_event(promoted(value=value))


def test_an_event_that_nobody_would_read_is_not_written() -> None:
    with pytest.raises(LimitExceeded, match="put less into it"):
        encode_event(promoted(value="x" * MAX_EVENT_BYTES))
    with pytest.raises(MalformedPayload, match="limit"):
        decode_event(b"x" * (MAX_EVENT_BYTES + 1))


def test_events_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        InstanceReady(incarnation="r").incarnation = "other"  # type: ignore[misc]


# -- what is not known, or not an event -------------------------------------------------------------------


def test_a_type_that_this_version_does_not_know_is_told_from_a_broken_one() -> None:
    event = decode_event(msgpack.packb(["group.renamed.v1", {"to": "x"}]))
    assert event == UnknownEvent("group.renamed.v1", {"to": "x"})


def test_fields_of_a_later_minor_change_are_ignored() -> None:
    payload = msgpack.packb(["instance.ready.v1", {"incarnation": "r", "mood": "good"}])
    assert decode_event(payload) == InstanceReady(incarnation="r")


@pytest.mark.parametrize(
    "value",
    [
        None,
        1,
        "text",
        "ab",
        [],
        ["instance.ready.v1"],
        ["instance.ready.v1", {}, 1],
        ["instance.ready.v1", []],
        ["instance.ready.v1", {}],
        ["instance.ready.v1", {"incarnation": 1}],
        [1, {}],
        [b"instance.ready.v1", {}],
        {"instance.ready.v1": {}, "x": {}},
        ["group.promoted.v1", {"epoch": "one", "holder": "i", "incarnation": "r", "cause": "c"}],
    ],
    ids=repr,
)
def test_what_does_not_fit_is_malformed(value: Any) -> None:
    with pytest.raises(MalformedPayload):
        decode_event(msgpack.packb(value))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\x91" * 100_000,
        b"\x92\xa1\xff\x80",
        b"\xd7\xff" + b"\xff" * 8,
    ],
    ids=lambda payload: payload[:6].hex(),
)
def test_bytes_that_are_no_event_are_malformed(payload: bytes) -> None:
    with pytest.raises(MalformedPayload, match="cannot read an event"):
        decode_event(payload)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_nothing_but_malformed_payload(payload: bytes) -> None:
    try:
        decode_event(payload)
    except MalformedPayload:
        return


@given(st.sampled_from(FIXTURES), st.data())
def test_a_mutated_event_raises_nothing_but_malformed_payload(
    fixture: dict[str, Any], data: st.DataObject
) -> None:
    payload = bytes.fromhex(fixture["hex"])
    at = data.draw(st.integers(0, len(payload) - 1))
    mutated = payload[:at] + data.draw(st.binary(max_size=3)) + payload[at + data.draw(st.integers(0, 3)) :]
    try:
        decode_event(mutated)
    except MalformedPayload:
        return


# -- versions ---------------------------------------------------------------------------------------------


def versions() -> Registry:
    """A registry in which an order was placed with a price, then with a limit, and now with currency too."""
    registry = Registry()

    @registry.upcast("order.placed.v1", "order.placed.v2")
    def _(data: dict[str, Any]) -> dict[str, Any]:
        return {"limit": data["price"]}

    @registry.upcast("order.placed.v2", "order.placed.v3")
    def _(data: dict[str, Any]) -> dict[str, Any]:
        return data | {"currency": "EUR"}

    @registry.event("order.placed.v3")
    class OrderPlaced(Event):
        limit: int
        currency: str

    return registry


@pytest.mark.parametrize(
    ("type_name", "data", "currency"),
    [
        ("order.placed.v1", {"price": 7}, "EUR"),
        ("order.placed.v2", {"limit": 7}, "EUR"),
        ("order.placed.v3", {"limit": 7, "currency": "USD"}, "USD"),
    ],
)
def test_older_versions_are_read_as_the_newest(type_name: str, data: dict[str, Any], currency: str) -> None:
    event = decode_event(msgpack.packb([type_name, data]), versions())
    assert isinstance(event, Event)
    assert (event.type, event.model_dump()) == ("order.placed.v3", {"limit": 7, "currency": currency})


def test_an_upcaster_does_not_change_what_it_is_given() -> None:
    data = {"price": 7}
    versions().build("order.placed.v1", data)
    assert data == {"price": 7}


@pytest.mark.parametrize("data", [{}, {"price": "much"}, {"limit": 1}])
def test_old_data_that_an_upcaster_cannot_read_is_malformed(data: dict[str, Any]) -> None:
    with pytest.raises(MalformedPayload, match=r"order\.placed\.v"):
        versions().build("order.placed.v1", data)


def test_a_type_is_registered_once() -> None:
    registry = versions()
    with pytest.raises(ValueError, match="registered twice"):
        registry.event("order.placed.v1")(InstanceReady)
    with pytest.raises(ValueError, match="registered twice"):
        registry.upcast("order.placed.v3", "order.placed.v4")(dict)
    with pytest.raises(ValueError, match="registered twice"):
        registry.upcast("order.placed.v1", "order.placed.v3")(dict)
    assert InstanceReady.type == "instance.ready.v1"


def test_upcasters_cannot_lead_in_a_circle() -> None:
    registry = Registry()
    registry.upcast("a.b.v1", "a.b.v2")(dict)
    with pytest.raises(ValueError, match="upcast to itself"):
        registry.upcast("a.b.v2", "a.b.v1")(dict)
