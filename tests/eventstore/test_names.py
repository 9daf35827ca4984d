"""Names, resource ids, and the groups they make."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegisipc.eventstore.errors import InvalidName
from aegisipc.eventstore.names import (
    POOL_GROUP,
    check_key,
    check_method,
    check_name,
    check_resource,
    default_group,
    split_method,
    split_target,
    wire_method,
)

ALPHABET = "abcXYZ019-_"
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}", fullmatch=True)
anything = st.one_of(st.text(), st.binary(), st.none(), st.integers(), st.tuples(st.text()))


@pytest.mark.parametrize("name", ["a", "0", "orders", "strategy-7", "Acc_XYZ", "a" * 63])
def test_a_legal_name_is_returned_as_it_is(name: str) -> None:
    assert check_name(name, "service") is name


@pytest.mark.parametrize(
    "name", ["", "_pool", "-x", "a" * 64, "a.b", "a b", "a*", ">", "ä", "a\n", "a\0", "٣", None, 7, b"a"]
)
def test_an_illegal_name_is_refused_with_what_to_do(name: Any) -> None:
    with pytest.raises(InvalidName, match="use 1 to 63 letters, digits, '-' or '_'") as refused:
        check_name(name, "service")
    assert "as a service name" in str(refused.value)
    assert (refused.value.name, refused.value.what) == (name, "service")


@given(st.text(ALPHABET + ".*> \n", max_size=70))
def test_every_accepted_name_is_one_safe_subject_token(name: str) -> None:
    try:
        check_name(name, "service")
    except InvalidName:
        return
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name)
    assert len(name) <= 63


@given(anything)
def test_checks_raise_nothing_but_invalid_name(value: Any) -> None:
    def check(function: Any, *more: Any) -> None:
        refusal = ""
        try:
            function(value, *more)
        except InvalidName as refused:
            refusal = str(refused)
        assert refusal == "" or refusal.startswith("cannot ")
        assert len(refusal) < 300

    check(check_name, "service")
    check(check_method)
    check(check_resource)
    check(check_key)
    check(wire_method, 2)
    check(split_target)


@pytest.mark.parametrize("method", ["_private", "1st", "", "a-b", "a.b", "a" * 64, "é"])
def test_a_method_is_an_identifier_without_leading_underscore(method: str) -> None:
    assert check_method("place_2") == "place_2"
    with pytest.raises(InvalidName, match="starting with a letter"):
        check_method(method)


@pytest.mark.parametrize("resource", ["x", "acc XYZ", "a.b.>", "a\0b", "é" * 128, "x" * 256, "😀" * 64])
def test_a_resource_is_any_text_up_to_256_bytes(resource: str) -> None:
    assert check_resource(resource) == resource


@pytest.mark.parametrize("resource", ["", "é" * 129, "x" * 257, "\ud800", None, b"x"])
def test_other_resources_are_refused_with_the_limit(resource: Any) -> None:
    with pytest.raises(InvalidName, match="use text of 1 to 256 bytes"):
        check_resource(resource)


@pytest.mark.parametrize("name", ["place@2", "place@10", "place@9999", "p@3", "a" * 63 + "@2"])
def test_a_method_may_be_a_later_version(name: str) -> None:
    assert check_method(name) is name
    assert split_target(f"orders.{name}") == ("orders", name)
    base, version = split_method(name)
    assert wire_method(base, version) == name


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("place@1", "version 1 of a method has no suffix; write 'place'"),
        ("place@0", "place@2 to place@9999, without leading zeros"),
        ("place@02", "without leading zeros"),
        ("place@10000", "without leading zeros"),
        ("place@", "without leading zeros"),
        ("place@x", "without leading zeros"),
        ("place@2@3", "without leading zeros"),
        ("place@\u0662", "without leading zeros"),
        ("place@2\n", "without leading zeros"),
        ("@2", "use 1 to 63 letters"),
        ("_p@2", "use 1 to 63 letters"),
    ],
)
def test_other_versions_are_refused_with_what_to_write(name: str, said: str) -> None:
    with pytest.raises(InvalidName, match="as a method name") as caught:
        check_method(name)
    assert said in caught.value.message


@pytest.mark.parametrize("version", [0, -1, 10_000, True, "2", 2.0, None])
def test_a_version_is_a_number_from_1_to_9999(version: Any) -> None:
    with pytest.raises(InvalidName, match="a whole number from 1 to 9999"):
        wire_method("place", version)


def test_a_version_is_given_once() -> None:
    assert wire_method("place", 1) == "place"
    with pytest.raises(InvalidName, match="give the version apart, as version=3"):
        wire_method("place@3", 2)


@pytest.mark.parametrize("name", ["place", "place@x", "@", "place@", ""])
def test_what_is_no_version_belongs_to_the_name(name: str) -> None:
    assert split_method(name) == (name, 1)


@pytest.mark.parametrize("key", ["k", "order 7/ä", "x" * 256, "ä" * 128])
def test_a_key_is_any_text_up_to_256_bytes(key: str) -> None:
    assert check_key(key) is key


@pytest.mark.parametrize("key", ["", "x" * 257, "ä" * 129, "\ud800", None, 7, b"k"])
def test_other_keys_are_refused_with_the_limit(key: Any) -> None:
    with pytest.raises(InvalidName, match="text of 1 to 256 bytes") as caught:
        check_key(key)
    assert caught.value.what == "idempotency key"


def test_a_target_is_a_service_and_a_method() -> None:
    assert split_target("orders.place") == ("orders", "place")
    with pytest.raises(InvalidName, match=r"as in 'orders\.place'"):
        split_target("orders")
    for target in ("orders.", ".place", "orders.place.now", "_pool.place", "orders._hidden"):
        with pytest.raises(InvalidName):
            split_target(target)


def test_no_resources_make_the_pool() -> None:
    assert default_group([]) == POOL_GROUP


def test_one_resource_with_a_legal_name_is_its_own_group() -> None:
    assert default_group(["acc_XYZ"]) == "acc_XYZ"
    assert default_group(["acc_XYZ", "acc_XYZ"]) == "acc_XYZ"


def test_other_resources_make_a_group_named_by_a_frozen_digest() -> None:
    assert default_group(["b", "a"]) == default_group(("a", "b", "a")) == "r-3554d2b8a1"
    assert default_group(["konto/1"]) == "r-1a1118a187"


def test_resources_that_hold_separators_do_not_share_a_group() -> None:
    groups = [default_group(rs) for rs in (["a\0b"], ["a", "b"], ['a","b'], ["a,b"], ["a", "b", ""])]
    assert len(set(groups)) == len(groups)


def test_a_resource_that_looks_like_a_digest_does_not_take_the_group_of_others() -> None:
    other = default_group(["a", "b"])
    assert default_group([other]) != other


@given(st.lists(st.text(max_size=20), max_size=5))
def test_a_default_group_is_a_legal_name_whatever_the_order(resources: list[str]) -> None:
    group = default_group(resources)
    assert group == default_group(reversed(resources))
    assert group == POOL_GROUP or check_name(group, "group") == group


@given(names, names)
def test_different_legal_resources_have_different_groups(one: str, other: str) -> None:
    assert (default_group([one]) == default_group([other])) == (one == other)
