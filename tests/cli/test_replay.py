"""``aegis replay`` as somebody on call uses it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgpack  # type: ignore[import-untyped]
import pytest

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.errors import InvalidName, LogMissing, UnknownCall
from aegisipc.eventstore.events import encode_event
from aegisipc.eventstore.frames import (
    CallEntry,
    CallFrame,
    Mark,
    PenEntry,
    PenFrame,
    encode_calls,
    encode_pen,
)
from aegisipc.eventstore.ids import CallIds, format_call_id
from aegisipc.eventstore.jetstream import JetStreamLog
from aegisipc.eventstore.log import Log
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.replay import (
    NoSuchEvent,
    NothingMatches,
    PointOutsideLog,
    PointsReversed,
    export,
    open_live,
)
from aegisipc.eventstore.streams import create_log
from aegisipc.eventstore.subjects import Subjects, subjects_of
from aegisipc.router.cli import dispatch, replaying
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from tests.cli.programs import Aegis
from tests.cli.replay_kit import HERE
from tests.conftest import run_in_own_loop
from tests.sdk.kit import GROUP, SERVICE, registered

NAMESPACE: Final = "cli-replay"


class Incident:
    """Written to a real log: ``a`` held the pen and claimed a call, was lost, and ``b`` found it in doubt."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.subjects: Subjects = subjects_of(NAMESPACE)
        self.call_id = CallIds(5).next(1_800_000_000_000)

    async def write(self) -> None:
        async with await Connection.open(ConnectOptions(self.url)) as connection:
            self.log: Log = await create_log(connection, self.subjects)
            pulses = JetStreamLog(connection, self.subjects.pulse_stream)
            await self._say(
                self.subjects.term, ev.RouterElected(term=1, router="r", incarnation="1", cause="t")
            )
            for instance in ("a", "b"):
                await self._join(instance)
                await self._pulse(pulses, instance)
            await self._promote("a", 1, "first instance of the group")
            await self._call()
            await self._mark("a", 1, Mark.CLAIMED)
            await self._pulse(pulses, "b")
            await self._promote("b", 2, "holder 'a' has been silent for 1050 ms")
            await self._mark("b", 2, Mark.IN_DOUBT)

    async def _say(self, subject: str, event: ev.Event) -> int:
        return (await self.log.append(subject, encode_event(event))).seq

    async def _join(self, instance: str) -> None:
        own = self.subjects.instance(SERVICE, GROUP, instance)
        await self._say(own, registered("1"))
        admitted = ev.InstanceAdmitted(instance=instance, incarnation="1", decided_by="r")
        await self._say(self.subjects.watch(SERVICE, GROUP), admitted)
        await self._say(own, ev.InstanceReady(incarnation="1"))

    async def _promote(self, holder: str, epoch: int, cause: str) -> None:
        event = ev.GroupPromoted(epoch=epoch, holder=holder, incarnation="1", cause=cause, decided_by="r")
        await self._say(self.subjects.fence(SERVICE, GROUP), event)

    async def _pulse(self, pulses: Log, instance: str) -> None:
        report = {"service": SERVICE, "group": GROUP, "incarnation": "1"}
        await pulses.append(self.subjects.pulse("instance", instance), msgpack.packb(report))

    async def _call(self) -> None:
        now_ns = (await self.log.bounds()).now_ns
        self.call_id = CallIds(5).next(now_ns // 1_000_000)
        frame = CallFrame(5, 1, 1, [CallEntry(self.call_id, "pay", 60_000, "acc_1")], [b""])
        await self.log.append(self.subjects.call(SERVICE, GROUP, "c"), encode_calls(frame))

    async def _mark(self, who: str, epoch: int, mark: Mark) -> None:
        said = encode({"code": "in_doubt", "message": "a is gone"}) if mark is Mark.IN_DOUBT else None
        frame = PenFrame(epoch, 1, epoch, [PenEntry(mark, self.call_id)], [said])
        await self.log.append(self.subjects.pen(SERVICE, GROUP, who), encode_pen(frame))


@pytest.fixture(scope="module")
def incident(shared_server: EmbeddedServer) -> Incident:
    found = Incident(shared_server.url)
    run_in_own_loop(found.write)
    return found


@pytest.fixture
def replay(incident: Incident, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the verb in this process; returns what it printed."""

    def run(*words: str, namespace: str = NAMESPACE) -> str:
        verb = dispatch.load("replay")
        assert verb is not None
        args = dispatch.parser_of(verb).parse_args([*words, "--url", incident.url, "--namespace", namespace])
        assert asyncio.run(replaying.replay(args)) == 0
        return capsys.readouterr().out

    return run


# -- the command ----------------------------------------------------------------------------------------


def test_the_answer_comes_first(replay: Callable[..., str], incident: Incident) -> None:
    out = replay("--until", "end")
    lines = out.splitlines()
    assert lines[0].startswith(f"namespace {NAMESPACE} at {incident.url}: sequence 12 of 12, ")
    assert lines[1].startswith("router r leads term 1, since ")
    assert re.match(
        r"GROUP +EPOCH +ACTIVE +PULSE +SINCE +OPEN +OLDEST +DOUBT +STANDBYS \(PULSE\) +WHY", lines[3]
    )
    assert re.match(
        rf"{HERE} +2 +b +.+Z \(.+\) +1 .+ 1  a .+holder 'a' has been silent for 1050 ms$", lines[4]
    )
    assert "1 call is in doubt" in out
    assert re.search(rf"{format_call_id(incident.call_id)}  {HERE} +pay +acc_1 +c +a, epoch 1 ", out)


def test_just_before_and_just_after_differ_in_exactly_the_promotion(replay: Callable[..., str]) -> None:
    before, after = (
        json.loads(replay("--until", f"{when}group.promoted", "--json")) for when in ("before:", "")
    )
    assert (before["point"]["seq"], after["point"]["seq"]) == (10, 11)
    differing = {key for key in after if after[key] != before[key]}
    assert differing - {"about_to_decide"} == {"point", "position", "position_time", "groups"}
    group = [view["groups"].pop(HERE) for view in (before, after)]
    assert before["groups"] == after["groups"] == {}
    assert {key for key in group[0] if group[0][key] != group[1][key]} == {
        "active",
        "epoch",
        "since",
        "since_ns",
        "why",
        "fence_seq",
        "instances",
    }
    assert [each["active"] for each in group] == ["a", "b"]


def test_a_difference_is_told_by_group(replay: Callable[..., str], incident: Incident) -> None:
    out = replay("--diff", "before:group.promoted", "end")
    assert f"\n{HERE}\n  active: a → b\n  epoch: 1 → 2\n" in out
    assert "why: first instance of the group → holder 'a' has been silent for 1050 ms" in out
    assert f"in doubt\n  + {format_call_id(incident.call_id)}: {HERE} pay for acc_1, in_doubt" in out
    assert "_ns" not in out
    told = json.loads(replay("--diff", "before:group.promoted", "end", "--json"))
    assert (told["from"]["seq"], told["to"]["seq"]) == (10, 12)
    assert {"path": ["groups", HERE, "epoch"], "change": "changed", "before": 1, "after": 2} in told[
        "changes"
    ]
    assert "nothing changed" in replay("--diff", "12", "12")


def test_what_happened_between_two_points_is_listed(replay: Callable[..., str]) -> None:
    out = replay("--from", "first:group.promoted", "--until", "11")
    events = [line.split()[3] for line in out.splitlines() if "heartbeat" not in line]
    assert events == ["group.promoted.v1", "calls.v2", "pen.v1", "group.promoted.v1"]
    told = [json.loads(line) for line in replay("--from", "before:11", "--json").splitlines()]
    assert [each["seq"] for each in told if "seq" in each] == [11, 12]
    assert replay("--from", "end").startswith("nothing was stored from end to end")


def test_filters_narrow_a_listing_to_a_resource_and_its_calls(
    replay: Callable[..., str], incident: Incident
) -> None:
    out = replay("--from", "start", "--resource", "acc_1", "--service", SERVICE, "--json")
    told = [json.loads(line) for line in out.splitlines()]
    assert [each["seq"] for each in told if "seq" in each] == [*range(2, 13)]
    with pytest.raises(NothingMatches, match="there is acc_1"):
        replay("--from", "start", "--resource", "acc_2")


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--until", "-5d"], PointOutsideLog),
        (["--until", "13"], PointOutsideLog),
        (["--until", "group.paused"], NoSuchEvent),
        (["--until", "0199aaaa"], UnknownCall),
        (["--diff", "end", "start"], PointsReversed),
        (["--from", "end", "--until", "start"], PointsReversed),
        (["--service", "../x"], InvalidName),
        (["--service", "nope"], NothingMatches),
        (["--from", "start", "--group", "nope"], NothingMatches),
        (["--diff", "start", "end", "--group", "nope"], NothingMatches),
        (["--follow", "--service", "nope"], NothingMatches),
        (["--bundle", "/nowhere/there.aegis"], FileNotFoundError),
    ],
)
def test_what_cannot_be_shown_is_refused(
    replay: Callable[..., str], words: list[str], error: type[Exception]
) -> None:
    with pytest.raises(error):
        replay(*words)


def test_a_namespace_without_a_log_is_refused(replay: Callable[..., str]) -> None:
    with pytest.raises(LogMissing):
        replay(namespace="cli-replay-none")


def test_an_error_is_a_message_an_exit_code_and_for_programs_json(aegis: Aegis, incident: Incident) -> None:
    done = aegis.at(incident.url, NAMESPACE)("replay", "--until", "13", "--json")
    assert (done.code, done.error["code"]) == (1, "point_outside_log")
    assert done.error["details"]["last_seq"] == 12
    assert done.err.startswith("error: cannot go to '13' (sequence 13): it is after the log, which holds")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--until", "promoted"], "did you mean group.promoted"),
        (["--diff", "a"], "expected 2 arguments"),
        (["--diff", "start", "soon"], "cannot find a point in 'soon'"),
        (["--diff", "start", "end", "--until", "3"], "--diff names both points"),
        (["--diff", "start", "end", "--follow"], "not allowed with"),
        (["--follow", "--until", "3"], "--follow begins now"),
        (["--follow", "--bundle", "x"], "nothing is added to a bundle"),
        (["--why", "shop", "x"], "KIND is one of group, instance, call"),
        (["--verify", "--from", "3"], "--verify goes with no --from"),
        (["--step", "--json"], "--step is for people"),
        (["--policy", "a=1"], "--policy goes with --what-if only"),
        (["--until", "in_doubt.v9"], "marks of calls have no version; give in_doubt"),
        (["--until", "promotd"], "did you mean"),
        (["--why", "call", "019a9e6e", "--service", "orders"], "--why names what it is about"),
        (["--verify", "--from-beginning"], "--from-beginning goes with --until and --diff only"),
        (["--until", "-5x"], "expected one argument"),
    ],
)
def test_what_makes_no_sense_is_bad_usage(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        dispatch.dispatch(["replay", *words])
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


def test_a_time_before_now_may_be_an_options_value() -> None:
    verb = dispatch.load("replay")
    assert verb is not None
    args = dispatch.parser_of(verb).parse_args(["--from", "-5m", "--until", "-250ms"])
    assert (args.since, args.until) == ("-5m", "-250ms")
    assert dispatch.parser_of(verb).parse_args(["--diff", "-2h", "-1.5s"]).diff == ["-2h", "-1.5s"]


def test_a_replay_from_the_beginning_looks_at_no_snapshot(aegis: Aegis, incident: Incident) -> None:
    subjects = subjects_of("cli-replay-beginning")

    async def write() -> None:
        async with await Connection.open(ConnectOptions(incident.url)) as connection:
            log = await create_log(connection, subjects)
            elected = ev.RouterElected(term=1, router="r", incarnation="r1", cause="t")
            await log.append(subjects.term, encode_event(elected))
            await log.append(subjects.snapshot_index, b"\xc1")

    asyncio.run(write())
    here = aegis.at(incident.url, subjects.namespace)
    usual, thorough = here("replay", "--json"), here("replay", "--json", "--from-beginning")
    assert ("is skipped" in usual.err, thorough.err) == (True, "")
    first, second = json.loads(usual.out), json.loads(thorough.out)
    assert {name for name in first if first[name] != second[name]} <= {"point"}


def test_changes_are_told_as_they_happen_and_a_bad_snapshot_is_skipped(
    aegis: Aegis, incident: Incident
) -> None:
    subjects = subjects_of("cli-replay-follow")

    async def append(subject: str, payload: bytes) -> None:
        async with await Connection.open(ConnectOptions(incident.url)) as connection:
            await (await create_log(connection, subjects)).append(subject, payload)

    def promotion(epoch: int, holder: str) -> bytes:
        event = ev.GroupPromoted(epoch=epoch, holder=holder, incarnation="1", cause="t", decided_by="r")
        return encode_event(event)

    asyncio.run(append(subjects.fence(SERVICE, GROUP), promotion(1, "a")))
    asyncio.run(append(subjects.snapshot_index, b"\xc1"))
    here = aegis.at(incident.url, subjects.namespace)
    people, program = here.start("replay", "--follow"), here.start("replay", "--follow", "--json")
    people.line(HERE)
    people.line("warning: the snapshot at sequence 2 is skipped", stream="err")
    assert json.loads(program.line('"groups"'))["groups"][HERE]["active"] == "a"
    asyncio.run(append(subjects.fence(SERVICE, GROUP), promotion(2, "b")))
    people.line("group.promoted.v1         epoch 2 to b (failover): t")
    people.line("active: a → b")
    told = json.loads(program.line('"seq":3'))
    assert {"path": ["groups", HERE, "active"], "change": "changed", "before": "a", "after": "b"} in told[
        "changes"
    ]


async def test_a_bundle_shows_what_the_log_did(
    replay: Callable[..., str], incident: Incident, tmp_path: Path
) -> None:
    path = tmp_path / "x.aegis"
    async with open_live(incident.url, NAMESPACE) as source:
        await export(source, path, from_seq=1, until_seq=12)
    for words in (["--until", "before:in_doubt"], ["--until", "11"]):
        seen = [
            await asyncio.to_thread(replay, *words, *more, "--json") for more in ([], ["--bundle", str(path)])
        ]
        live, offline = (json.loads(each) for each in seen)
        assert offline.pop("source").startswith("bundle x.aegis (")
        del live["source"]
        assert offline == live
