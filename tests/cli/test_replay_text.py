"""What ``aegis replay`` prints for people."""

from __future__ import annotations

import io
import json
import re
from argparse import Namespace

import msgpack  # type: ignore[import-untyped]
import pytest

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.cli.output import Paint
from aegisipc.eventstore.frames import (
    Mark,
    PenEntry,
    PenFrame,
    encode_pen,
)
from aegisipc.eventstore.ids import format_call_id
from aegisipc.eventstore.replay import (
    ALL,
    Filters,
    diff,
    resolve,
)
from aegisipc.router.cli import replaying
from aegisipc.router.cli.replay_changes import told
from aegisipc.router.cli.replay_deciding import about_to_decide
from aegisipc.router.cli.replay_events import list_events
from aegisipc.router.cli.replay_panes import MOST_DOUBTS, MOST_OPEN
from aegisipc.router.cli.replay_silences import Silence, Silences
from tests.cli.replay_kit import HERE, Scene
from tests.sdk.kit import EPOCH_NS, GROUP, NS, SERVICE, a_call, ms
from tests.sdk.kit import FakeClient as Caller


async def test_a_calm_system_says_so() -> None:
    text = await Scene().text()
    assert "no call is in doubt" in text
    assert "no call is open" in text
    assert "the leader was about to decide nothing" in text
    assert re.search(rf"{HERE} +1  a +0.0 s  .+ b 0.0 s +test$", text, re.MULTILINE)


async def test_what_the_leader_was_about_to_decide_is_told() -> None:
    scene = Scene()
    scene.beat("b", seconds=1.5)
    view = await scene.view()
    told = {(each["group"], each["type"]) for each in view["about_to_decide"]}
    assert (HERE, "group.promoted.v1") in told
    assert "about to decide, as far as log and heartbeats tell:" in await scene.text()
    assert "group.promoted: epoch 2 to b (failover): holder 'a' is suspected" in await scene.text()
    assert (await scene.view(Filters(service="other")))["about_to_decide"] == []


async def test_what_was_about_to_be_decided_depends_on_the_leaders_policy() -> None:
    """With this one it takes 40 s until an instance is lost: longer than heartbeats are read for a view."""
    scene = Scene()
    policy = {"lost_after_ms": 40_000}
    elected = ev.RouterElected(term=2, router="r", incarnation="r1", cause="t", policy=policy)
    scene.log.say(NS.term, elected)
    last_ns = scene.log.now_ns
    scene.beat("a", seconds=2)
    event = ev.InstanceSuspected(
        instance="b", incarnation="1", last_pulse_ns=last_ns, silence_ms=2000, decided_by="r"
    )
    scene.log.say(NS.watch(SERVICE, GROUP), event)
    for seconds, decisions in ((37, []), (2, ["instance.lost.v1"])):
        scene.beat("a", seconds=seconds)
        source = await scene.source()
        point = await resolve(source, "end")
        told = about_to_decide(*await replaying.folded(source, point), point, ALL)
        assert [each["type"] for each in told] == decisions


async def test_nothing_is_decided_where_nobody_leads_or_nobody_was_heard() -> None:
    scene = Scene()
    scene.beat("b", seconds=1.5)
    scene.pulses.clear()
    assert (await scene.view())["about_to_decide"] == []
    assert "no heartbeats are kept" in await scene.text()
    scene.log.say(NS.term, ev.RouterResigned(term=1, router="r", incarnation="r1"))
    text = await scene.text()
    assert "no router leads" in text
    assert "about to decide" not in text


async def test_on_a_narrow_terminal_reasons_stand_below_the_table_and_are_whole() -> None:
    scene = Scene()
    event = ev.GroupPromoted(epoch=2, holder="b", incarnation="1", cause="x" * 150, decided_by="r")
    scene.log.say(NS.fence(SERVICE, GROUP), event)
    wide, narrow = await scene.text(400), await scene.text(100)
    assert "WHY" in wide
    assert "(PULSE)\n" in narrow
    assert f"\nWHY\n{HERE}: {'x' * 150}\n" in narrow


async def test_long_lists_are_cut_and_counted() -> None:
    scene = Scene()
    ids = Caller(scene.log).send(*[a_call("pay", "acc_1")] * (MOST_DOUBTS + MOST_OPEN + 10))
    doubted = ids[: MOST_DOUBTS + 3]
    for number, (who, epoch, mark) in enumerate((("a", 1, Mark.CLAIMED), ("b", 2, Mark.IN_DOUBT)), 1):
        if epoch == 2:
            scene.log.promote("b", 2)
        frame = PenFrame(9, number, epoch, [PenEntry(mark, each) for each in doubted], [None] * len(doubted))
        scene.log.append(NS.pen(SERVICE, GROUP, who), encode_pen(frame))
    text = await scene.text()
    assert f"{MOST_DOUBTS + 3} calls are in doubt\n" in text
    assert "\n3 more (--json lists them)\n" in text
    assert f"{len(ids)} calls are open ({len(doubted)} in doubt, see above), the oldest:" in text
    assert text.count(" accepted ") == MOST_OPEN
    assert "\n7 more (--json lists them)\n" in text


async def test_of_many_open_calls_none_is_new_that_was_only_left_out_before(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(replaying, "MAX_COMPARED", 3)
    scene = Scene()
    caller = Caller(scene.log)
    old = [caller.send(a_call("pay", "acc_1"))[0] for _ in range(5)]
    done = PenFrame(1, 1, 1, [PenEntry(Mark.EXPIRED, each) for each in old[:3]], [None] * 3)
    before = len(scene.log.records)
    scene.log.append(NS.pen(SERVICE, GROUP, "a"), encode_pen(done))
    new = caller.send(a_call("pay", "acc_2"))[0]
    args = Namespace(diff=[str(before), "end"], from_beginning=False, json=True)
    assert await replaying._diff(args, await scene.source(), ALL) == 0
    told = capsys.readouterr()
    changes = [each for each in json.loads(told.out)["changes"] if each["path"][:1] == ["open"]]
    listed = {each["path"][-1]: each["change"] for each in changes if "oldest_first" in each["path"]}
    assert listed == {format_call_id(each): "removed" for each in old[:3]} | {format_call_id(new): "added"}
    assert "only the 3 oldest" in told.err


async def test_what_somebody_should_look_at_is_noted() -> None:
    scene = Scene()
    scene.log.lose("b")
    scene.log.pause()
    scene.log.append(NS.watch(SERVICE, GROUP), msgpack.packb(["venue.blessed.v1", {}]))
    scene.log.append(NS.watch(SERVICE, GROUP), b"\xc1")
    scene.log.append("aegis.t.log.x", b"")
    scene.log.append(NS.pen(SERVICE, GROUP, "b"), pen_of("b"))
    text = await scene.text()
    for note in (
        f"{HERE}: paused by ann: test",
        f"{HERE}: b was lost 0.0 s before",
        "1 record is of an unknown type or version: venue.blessed.v1 (1): skipped: this version",
        "records that did not fit, since the log began: malformed (1)",
        f"{HERE}: words about calls that did not count, since the log began: not the holder's (1)",
        "1 records cannot be read at all",
    ):
        assert note in text, note


def pen_of(who: str) -> bytes:
    return encode_pen(PenFrame(len(who), 1, 1, [PenEntry(Mark.CLAIMED, bytes(15) + b"\x01")], [None]))


async def test_nothing_of_a_log_reaches_the_terminal_as_a_control_sequence() -> None:
    scene = Scene()
    scene.log.say(
        NS.fence(SERVICE, GROUP),
        ev.GroupPromoted(epoch=2, holder="\x1b[31m", incarnation="\x1b", cause="\x1b]0;", decided_by="r"),
    )
    Caller(scene.log).send(("\x1b[1m", "\x07", 1000, b""))
    scene.log.append(NS.watch(SERVICE, GROUP), msgpack.packb(["\x1b.v1", {}]))
    text = await scene.text()
    before, after = await scene.view(at="before:group.promoted"), await scene.view()
    text += "\n".join(told(diff(before, after), Paint(io.StringIO())))
    assert "\x1b" not in text
    assert "\x07" not in text


# -- what happened --------------------------------------------------------------------------------------


async def listed(scene: Scene, since: str, until: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    source = await scene.source()
    first, last = await resolve(source, since), await resolve(source, until)
    await list_events(source, first, last, ALL, as_json=True)
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return [
        f"{each['heartbeat']} {each['instance']}" if "heartbeat" in each else each["type"] for each in told
    ]


async def test_silences_stand_between_the_records_at_their_time(capsys: pytest.CaptureFixture[str]) -> None:
    scene = Scene()
    scene.beat("b", seconds=1)
    scene.log.promote("b", 2)
    scene.beat("a", "b", seconds=1)
    scene.log.say(NS.instance(SERVICE, GROUP, "a"), ev.InstanceLeft(incarnation="1", cause="t"))
    promoted, left = "group.promoted.v1", "instance.left.v1"
    everything = ["silent a", promoted, "heard_again a", left]
    assert (await listed(scene, "start", "end", capsys))[-4:] == everything
    assert await listed(scene, "before:group.promoted", "end", capsys) == everything[1:]
    assert await listed(scene, "-1300ms", "end", capsys) == everything[0:], "it was heard before that"
    assert await listed(scene, "group.promoted", "group.promoted", capsys) == [promoted]


async def test_a_time_between_records_begins_with_the_next_one(capsys: pytest.CaptureFixture[str]) -> None:
    scene = Scene()
    scene.log.promote("b", 2)
    scene.wait(10)
    scene.log.promote("a", 3)
    assert await listed(scene, "-5ms", "end", capsys) == ["group.promoted.v1"]
    assert await listed(scene, "-10ms", "end", capsys) == ["group.promoted.v1"] * 2


async def test_a_clock_that_went_back_hides_no_record(capsys: pytest.CaptureFixture[str]) -> None:
    scene = Scene()
    scene.log.promote("b", 2)
    scene.wait(-5000)
    scene.log.promote("a", 3)
    last = len(scene.log.records)
    assert await listed(scene, str(last - 1), "end", capsys) == ["group.promoted.v1"] * 2


# -- silences -------------------------------------------------------------------------------------------


def silences_in(scene: Scene) -> list[Silence]:
    """What is told of the scene's heartbeats and records, up to its end."""
    found: list[Silence] = []
    silences = Silences(NS)
    moments = [(pulse.timestamp_ns, 0, pulse) for pulse in scene.pulses]
    moments += [(record.timestamp_ns, 1, record) for record in scene.log.records]
    for _, is_record, moment in sorted(moments, key=lambda each: each[:2]):
        found += silences.noted(moment) if is_record else silences.heard(moment)
    return [*found, *silences.until(scene.log.now_ns)]


def told_of(found: list[Silence]) -> list[tuple[str, bool, int]]:
    return [(each.instance[2], each.is_over, each.for_ms) for each in found]


def test_a_silence_is_told_when_it_is_sure_and_when_it_is_over() -> None:
    scene = Scene()
    scene.beat("b", seconds=2)
    scene.beat("a", "b", seconds=1)
    found = silences_in(scene)
    assert told_of(found) == [("a", False, 750), ("a", True, 2250)]
    assert {each.since_ns for each in found} == {EPOCH_NS + ms(1000)}
    assert found[1].at_ns == EPOCH_NS + ms(3250)
    assert found[0].to_plain()["heartbeat"] == "silent"
    line = found[1].to_line(Paint(io.StringIO()))
    assert f"{HERE}/a" in line
    assert "heard again; it was silent since 2027-01-15T08:00:01.000Z (2.2 s)" in line


def test_a_heartbeat_that_ends_a_silence_itself_tells_only_that() -> None:
    scene = Scene()
    scene.wait(900)
    scene.pulse("a")
    router = scene.pulses.pop(-2)
    assert router.subject == NS.pulse("router", "r")
    assert told_of(silences_in(scene)) == [("a", True, 900), ("b", False, 750)]


def test_who_left_or_was_lost_misses_no_heartbeats() -> None:
    scene = Scene()
    scene.log.say(NS.instance(SERVICE, GROUP, "a"), ev.InstanceLeft(incarnation="1", cause="t"))
    scene.log.lose("b")
    scene.wait(5000)
    assert silences_in(scene) == []


def test_a_new_run_was_not_silent_before_it_began() -> None:
    scene = Scene()
    scene.beat("b", seconds=2)
    scene.pulse("a", incarnation="2")
    assert told_of(silences_in(scene)) == [("a", False, 750)]


def test_heartbeats_that_cannot_be_read_change_nothing() -> None:
    scene = Scene()
    scene.pulses += [
        scene.pulses[-1]._replace(payload=b"\xc1"),
        scene.pulses[-1]._replace(subject="aegis.t.pulse.x"),
    ]
    assert silences_in(scene) == []
