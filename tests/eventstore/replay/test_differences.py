"""What changed between two pieces of plain data."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegisipc.eventstore.replay import Change, Extent, Point, PointsReversed, check_order, diff

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)
MAPS = st.dictionaries(st.text(max_size=3), JSON, max_size=4)


def applied(before: dict[str, Any], changes: list[Change]) -> dict[str, Any]:
    """What comes of it if the changes are made."""
    after = copy.deepcopy(before)
    for change in changes:
        place = after
        for part in change.path[:-1]:
            place = place[part]
        place[change.path[-1]] = change.after
    return after


def without_nothing(value: Any) -> Any:
    """A change to nothing and the absence of a thing are told alike."""
    if isinstance(value, dict):
        return {key: without_nothing(each) for key, each in value.items() if each is not None}
    return value


@given(MAPS, MAPS)
def test_the_changes_make_the_one_the_other(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert without_nothing(applied(before, diff(before, after))) == without_nothing(after)


@given(MAPS)
def test_what_is_equal_has_no_changes(value: dict[str, Any]) -> None:
    assert diff(value, copy.deepcopy(value)) == []


def test_a_change_says_where_it_is() -> None:
    before = {"groups": {"o/g": {"active": "a", "epoch": 1, "why": "x"}}, "gone": {"x": 1}}
    after = {"groups": {"o/g": {"active": "b", "epoch": 2, "why": "x"}}, "new": 5}
    assert diff(before, after) == [
        Change(("groups", "o/g", "active"), "changed", "a", "b"),
        Change(("groups", "o/g", "epoch"), "changed", 1, 2),
        Change(("gone",), "removed", {"x": 1}, None),
        Change(("new",), "added", None, 5),
    ]


def test_calls_in_a_list_are_compared_one_by_one() -> None:
    before = {"open": [{"call_id": "1", "state": "accepted"}, {"call_id": "2", "state": "accepted"}]}
    after = {"open": [{"call_id": "2", "state": "started"}]}
    assert [(change.path, change.kind) for change in diff(before, after)] == [
        (("open", "1"), "removed"),
        (("open", "2", "state"), "changed"),
    ]


def test_what_only_tells_the_time_is_left_out() -> None:
    before = {"point": 1, "position": 1, "heartbeats": {"a": 1}, "leader": 1}
    after = {"point": 2, "position": 2, "heartbeats": {"a": 2}, "leader": 1}
    assert diff(before, after) == []
    assert len(diff(before, after, leave_out=())) == 3


def test_a_change_is_plain_data() -> None:
    (change,) = diff({"a": 1}, {"a": 2})
    assert change.to_plain() == {"path": ["a"], "change": "changed", "before": 1, "after": 2}


def a_point(seq: int, at_ns: int) -> Point:
    return Point(seq, at_ns, f"said {seq}", Extent(1, 9, 1, 9, 9))


def test_points_in_the_wrong_order_are_refused() -> None:
    check_order(a_point(4, 5), a_point(4, 5))
    check_order(a_point(4, 5), a_point(4, 6))
    for second in (a_point(3, 5), a_point(4, 4)):
        with pytest.raises(PointsReversed, match=r"swap them: --diff said \d said 4") as caught:
            check_order(a_point(4, 5), second)
        assert (caught.value.first, caught.value.second) == (4, second.seq)
