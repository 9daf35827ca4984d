"""What a view of the system at a point tells."""

from __future__ import annotations

import json
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.frames import (
    CallEntry,
    CallFrame,
    Mark,
    PenEntry,
    PenFrame,
    encode_calls,
    encode_pen,
)
from aegisipc.eventstore.ids import CallId, CallIds, format_call_id
from aegisipc.eventstore.replay import (
    ALL,
    Filters,
    NothingMatches,
    Source,
    board_at,
    check_filters,
    diff,
    names_in,
    resolve,
    state_at,
    view_of,
)
from aegisipc.eventstore.replay.moments import iso
from aegisipc.eventstore.replay.views import SKIPPED
from tests.eventstore.replay.kit import History
from tests.sdk.kit import EPOCH_NS, GROUP, NS, POOL, SERVICE, ms

HERE = f"{SERVICE}/{GROUP}"


class Scene(History):
    """Instance ``a`` holds the pen, ``b`` is its standby, ``r`` leads; a second passed, with heartbeats."""

    def __init__(self) -> None:
        super().__init__()
        self._ids, self._frames = CallIds(7), 0
        self.log.say(NS.term, ev.RouterElected(term=3, router="r", incarnation="r1", cause="t"))
        self.log.join("a")
        self.log.promote("a", 1, kind="first")
        self.log.join("b")
        for _ in range(4):
            self.wait(250)
            self.pulse("a", "b")

    def call(self, *resources: str | None, group: str = GROUP) -> list[CallId]:
        self._frames += 1
        ids = [self._ids.next(self.log.now_ns // 1_000_000) for _ in resources]
        entries = [
            CallEntry(call_id, "pay", 10_000, name) for call_id, name in zip(ids, resources, strict=True)
        ]
        frame = CallFrame(7, self._frames, 1, entries, [b""] * len(ids))
        self.log.append(NS.call(SERVICE, group, "c"), encode_calls(frame))
        return ids

    def mark(self, mark: Mark, call_id: CallId, who: str = "a", epoch: int = 1) -> None:
        self._frames += 1
        frame = PenFrame(9, self._frames, epoch, [PenEntry(mark, call_id)], [None])
        self.log.append(NS.pen(SERVICE, GROUP, who), encode_pen(frame))


async def seen(scene: History | Source, at: str = "end", filters: Filters = ALL, **options: Any) -> Any:
    """The view at a point, after a trip through JSON."""
    source = scene if isinstance(scene, Source) else await scene.source()
    point = await resolve(source, at)
    state, board = await state_at(source, point), await board_at(source, point)
    view = view_of(state, board, point, filters, **options)
    assert json.loads(json.dumps(view)) == view, "a view is plain JSON"
    return view


async def test_who_is_active_where_since_when_and_why() -> None:
    view = await seen(Scene())
    group = view["groups"][HERE]
    told = {
        key: group[key] for key in ("active", "incarnation", "epoch", "state", "since", "why", "fence_seq")
    }
    assert told == {
        "active": "a",
        "incarnation": "1",
        "epoch": 1,
        "state": "held",
        "since": iso(EPOCH_NS),
        "why": "test",
        "fence_seq": 5,
    }
    assert {who: (each["role"], each["state"]) for who, each in group["instances"].items()} == {
        "a": ("active", "active"),
        "b": ("standby", "standby"),
    }
    assert (view["leader"]["router"], view["leader"]["term"], view["leader"]["since"]) == (
        "r",
        3,
        iso(EPOCH_NS),
    )
    assert view["point"]["seq"] == view["position"] == 8
    assert view["point"]["log"]["last_seq"] == 8


async def test_heartbeats_of_this_run_are_told_by_instance() -> None:
    scene = Scene()
    scene.wait(250)
    scene.pulse("a")
    scene.pulse("b", incarnation="2")
    beats = (await seen(scene))["heartbeats"]
    assert beats["instances"][f"{HERE}/a"]["at_ns"] == EPOCH_NS + ms(1250)
    assert beats["instances"][f"{HERE}/b"] is None
    assert beats["routers"]["r"]["at"] == iso(EPOCH_NS + ms(1250))


async def test_open_calls_are_listed_oldest_first_and_counted() -> None:
    scene = Scene()
    first = scene.call("acc_1", None)
    scene.wait(100)
    (late,) = scene.call("acc_2")
    scene.mark(Mark.CLAIMED, first[0])
    scene.mark(Mark.SUCCEEDED, first[1])
    view = await seen(scene)
    assert list(view["open"]["oldest_first"]) == [format_call_id(each) for each in (first[0], late)]
    call = view["open"]["oldest_first"][format_call_id(first[0])]
    assert (call["state"], call["claimed_by"], call["claimed_epoch"], call["group"]) == (
        "started",
        "a",
        1,
        HERE,
    )
    counts = view["groups"][HERE]["calls"]
    assert (counts["open"], counts["claimed"], counts["in_doubt"], counts["accepted"]) == (2, 1, 0, 3)
    assert counts["oldest"] == {
        "call": format_call_id(first[0]),
        "made": iso(EPOCH_NS + ms(1000)),
        "made_ns": EPOCH_NS + ms(1000),
    }
    assert counts["concluded"] == {"succeeded": 1}


async def test_only_so_many_open_calls_are_listed_but_all_doubts() -> None:
    scene = Scene()
    ids = scene.call(*["acc_1"] * 5)
    for call_id in ids[2:]:
        scene.mark(Mark.CLAIMED, call_id)
    scene.log.promote("b", 2)
    for call_id in ids[2:]:
        scene.mark(Mark.IN_DOUBT, call_id, "b", 2)
    view = await seen(scene, max_listed=2)
    assert (view["open"]["count"], view["open"]["left_out"], len(view["open"]["oldest_first"])) == (5, 3, 2)
    assert list(view["in_doubt"]) == [format_call_id(each) for each in ids[2:]]
    assert all(each["claimed_by"] == "a" for each in view["in_doubt"].values())


async def test_what_a_promotion_changed_is_exactly_what_differs() -> None:
    scene = Scene()
    (call_id,) = scene.call("acc_1")
    scene.mark(Mark.CLAIMED, call_id)
    for _ in range(3):
        scene.wait(250)
        scene.pulse("b")
    promoted_ns = scene.log.now_ns
    scene.log.promote("b", 2)
    source = await scene.source()
    before, after = await seen(source, "before:group.promoted"), await seen(source, "group.promoted")
    changes = diff(before, after)
    here, since = (
        ("groups", HERE),
        {"since": (iso(EPOCH_NS), iso(promoted_ns)), "since_ns": (EPOCH_NS, promoted_ns)},
    )
    expected: dict[tuple[str, ...], tuple[Any, Any]] = {
        (*here, "active"): ("a", "b"),
        (*here, "epoch"): (1, 2),
        (*here, "fence_seq"): (5, 11),
        **{(*here, name): value for name, value in since.items()},
        **{(*here, "instances", who, name): value for who in "ab" for name, value in since.items()},
        (*here, "instances", "a", "role"): ("active", "standby"),
        (*here, "instances", "a", "state"): ("active", "standby"),
        (*here, "instances", "b", "role"): ("standby", "active"),
        (*here, "instances", "b", "state"): ("standby", "active"),
    }
    assert {change.path: (change.before, change.after) for change in changes} == expected
    assert before["heartbeats"] == after["heartbeats"]
    same = {"point", "position", "position_time", "groups"}
    assert {key: before[key] for key in before if key not in same} == {
        key: after[key] for key in after if key not in same
    }


async def test_a_group_that_was_only_called_is_there_too() -> None:
    scene = Scene()
    scene.call(None, group=POOL)
    group = (await seen(scene))["groups"][f"{SERVICE}/{POOL}"]
    assert (group["mode"], group["calls"]["open"], group["instances"]) == ("pool", 1, {})


async def test_events_of_unknown_types_are_named_counted_and_the_policy_stated() -> None:
    scene = Scene()
    assert "policy" not in (await seen(scene))["anomalies"]
    for _ in range(2):
        scene.log.append(NS.watch(SERVICE, GROUP), msgpack.packb(["venue.blessed.v1", {}]))
    scene.log.append(NS.fence(SERVICE, GROUP), msgpack.packb(["group.promoted.v9", {"epoch": 2}]))
    scene.log.append(NS.watch(SERVICE, GROUP), b"\xc1")
    view = await seen(scene)
    assert view["anomalies"]["unknown_types"] == {"group.promoted.v9": 1, "venue.blessed.v1": 2}
    assert view["anomalies"]["policy"] == SKIPPED
    assert view["anomalies"]["topology"] == {"malformed": 1}
    assert view["groups"][HERE]["epoch"] == 1


async def test_words_that_did_not_count_are_told_by_group() -> None:
    scene = Scene()
    (call_id,) = scene.call("acc_1")
    scene.mark(Mark.SUCCEEDED, call_id, "b")
    assert (await seen(scene))["anomalies"]["calls"] == {HERE: {"not the holder's": 1}}


async def test_filters_leave_only_what_they_name() -> None:
    scene = Scene()
    mine, other = scene.call("acc_1", "acc_9")
    scene.call(None, group=POOL)
    by_group = await seen(scene, filters=Filters(SERVICE, GROUP))
    assert list(by_group["groups"]) == [HERE]
    assert by_group["open"]["count"] == 2
    by_resource = await seen(scene, filters=Filters(resource="acc_1"))
    assert list(by_resource["groups"]) == [HERE]
    assert list(by_resource["open"]["oldest_first"]) == [format_call_id(mine)]
    assert by_resource["groups"][HERE]["calls"]["open"] == 1
    of_a_call = await seen(scene, filters=Filters(resource="acc_9"))
    assert list(of_a_call["open"]["oldest_first"]) == [format_call_id(other)]
    assert (await seen(scene, filters=Filters(service="nope")))["groups"] == {}


@pytest.mark.parametrize(
    ("filters", "told"),
    [
        (Filters(service="nope"), "cannot show service 'nope': at this point there is orders"),
        (Filters(group="nope"), "cannot show group 'nope': at this point there is acc"),
        (Filters(resource="nope"), "cannot show resource 'nope': at this point there is acc_1"),
        (Filters(SERVICE, GROUP, "acc_2"), "cannot show resource 'acc_2'"),
    ],
)
async def test_a_filter_that_names_nothing_is_refused_with_what_there_is(filters: Filters, told: str) -> None:
    source = await Scene().source()
    state = await state_at(source, await resolve(source, "end"))
    with pytest.raises(NothingMatches, match=told):
        check_filters(filters, names_in(state))
    check_filters(Filters(SERVICE, GROUP, "acc_1"), names_in(state))
    check_filters(filters, {(filters.service or SERVICE, filters.group or GROUP): {filters.resource or ""}})


async def test_before_the_first_record_there_is_nothing() -> None:
    view = await seen(Scene(), "before:start")
    assert (view["position"], view["position_time"], view["groups"]) == (0, None, {})
    assert (view["leader"]["router"], view["leader"]["since"]) == (None, None)
