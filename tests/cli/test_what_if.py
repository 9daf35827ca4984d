"""``aegis replay --what-if``: over histories in memory, in a bundle, and of a real router."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from aegisipc.eventstore import events as ev
from aegisipc.eventstore import replay as history
from aegisipc.eventstore.errors import LimitExceeded
from aegisipc.eventstore.replay import NothingMatches, Source, extent_of, resolve
from aegisipc.router.application.simulating import NoHeartbeats, Simulation, simulate
from aegisipc.router.cli import what_if as verb
from aegisipc.router.cli.dispatch import dispatch
from aegisipc.router.domain import what_if as simulating
from aegisipc.router.domain import what_if_world
from aegisipc.router.domain.terms import POLICY_KEYS, Policy, RouterIdentity
from aegisipc.router.domain.what_if_facts import BadPolicy
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from aegisipc.sdk import Service
from tests.e2e.kit import Place
from tests.e2e.kit_log import until_said
from tests.router.domain.test_what_if import frozen, killed
from tests.router.domain.what_if_kit import Tape, said, source_of
from tests.sdk.kit import NS
from tests.support.waiting import eventually

FROZEN = ["missing group.promoted b", "missing instance.suspected a", "missing instance.recovered a"]


async def found_in(
    source: Source, *, since: str | None = None, until: str = "end", **changes: int
) -> Simulation:
    start = await resolve(source, since) if since is not None else None
    return await simulate(source, changes, since=start, until=await resolve(source, until))


async def shown(source: Source, capsys: pytest.CaptureFixture[str], *wanted: str, **options: Any) -> str:
    """What the verb prints."""
    nothing = {"policy": None, "json": False, "service": None, "group": None, "resource": None}
    args = Namespace(what_if=list(wanted), **{**nothing, **options})
    assert await verb.run(args, source, None, await resolve(source, "end")) == 0
    return capsys.readouterr().out


# -- what is read -------------------------------------------------------------------------------------------


async def test_what_is_read_gives_what_the_history_gives() -> None:
    source = await source_of(frozen())
    assert said((await found_in(source, suspect_after_ms=3000)).report.changes) == FROZEN
    assert await found_in(source, suspect_after_ms=3000) is not None
    assert (await found_in(source)).report.changes == []


async def test_it_ends_where_it_is_to_end() -> None:
    world = frozen()
    source = await source_of(world)
    promoted = await resolve(source, "group.promoted")
    found = await found_in(source, until=str(promoted.seq), suspect_after_ms=3000)
    assert said(found.report.changes) == FROZEN[:2]
    assert found.until_seq == promoted.seq


async def test_it_begins_where_there_are_enough_heartbeats() -> None:
    world = frozen()
    world.live(4000, "a", "b")
    world.fall_ill("b")
    world.live(500, "a", "b")
    kept_ns = world.log.records[0].timestamp_ns + 1_200_000_000
    world.pulses = [pulse for pulse in world.pulses if pulse.timestamp_ns >= kept_ns]
    source = await source_of(world)
    found = await found_in(source, suspect_after_ms=3000)
    assert found.from_ns >= kept_ns + 3_000_000_000
    assert (found.report.changes, found.report.today) == ([], [])
    with pytest.raises(NoHeartbeats, match=r"there are enough heartbeats only from 2027-01-15T08:00:04\.2"):
        await found_in(source, since="start", suspect_after_ms=3000)
    with pytest.raises(NoHeartbeats, match="nothing is in the log from there to that point"):
        await found_in(source, until=str(found.from_seq - 1), suspect_after_ms=3000)


async def test_without_heartbeats_nothing_can_be_simulated() -> None:
    source = await source_of(frozen())
    for without in (Source(source.log, NS, "a test"), Source(source.log, NS, "a test", (await empty()))):
        with pytest.raises(NoHeartbeats, match="there are no heartbeats in a test") as caught:
            await found_in(without, suspect_after_ms=3000)
        assert caught.value.details["since"] is None


async def empty() -> Any:
    world = Tape()
    world.pulses.clear()
    return (await source_of(world)).pulses


async def test_values_that_do_not_fit_the_recorded_ones_are_refused() -> None:
    source = await source_of(frozen())
    with pytest.raises(BadPolicy, match="nobody is lost before it is suspected"):
        await found_in(source, suspect_after_ms=5000)
    assert (await found_in(source, suspect_after_ms=5000, lost_after_ms=5000)).report.changes


async def test_more_decisions_than_can_be_compared_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    source = await source_of(frozen())
    for module in (simulating, what_if_world):
        with monkeypatch.context() as patch:
            patch.setattr(module, "MAX_DECISIONS", 3)
            with pytest.raises(LimitExceeded, match="choose a shorter range"):
                await found_in(source)


# -- what is shown ------------------------------------------------------------------------------------------


async def test_the_answer_comes_first_and_then_a_line_for_each_decision(
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = await source_of(frozen())
    lines = (await shown(source, capsys, "suspect_after_ms=3000")).splitlines()
    assert lines[0] == "3 decisions would change with suspect_after_ms=3000 (was 1000):"
    assert [line.split()[1:9] for line in lines[1:4]] == [
        ["9", "would", "not", "be", "orders/acc", "group.promoted", "epoch", "2"],
        ["10", "would", "not", "be", "orders/acc", "instance.suspected", "a:", "silent"],
        ["11", "would", "not", "be", "orders/acc", "instance.recovered", "a", "lives"],
    ]
    assert lines[4] == ""
    assert "a test, sequences 1 to 11" in lines[5]


async def test_without_any_change_it_tells_whether_today_decides_as_was_recorded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    world = killed()
    assert (await shown(await source_of(world), capsys)).startswith(
        "Today's code decides as was recorded: 7 decisions."
    )
    world.log.promote("b", 9)
    world.live(500, "b")
    out = await shown(await source_of(world), capsys)
    assert out.startswith("With the same policy, today's code decides otherwise than was recorded: 1 d")
    assert "would not be      orders/acc       group.promoted         epoch 9" in out


async def test_no_change_is_said_so(capsys: pytest.CaptureFixture[str]) -> None:
    out = await shown(await source_of(killed()), capsys, "handover_ms=10")
    assert out.startswith("No decision would change with handover_ms=10 (was 30000).")


async def test_where_the_facts_do_not_apply_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    world = frozen(calls=True)
    world.live(1500, "a")
    out = await shown(await source_of(world), capsys, "suspect_after_ms=3000")
    assert "Where the recorded facts do not apply with it:" in out
    assert "orders/acc from sequence " in out
    assert "orders/acc: 2 differences in that time not judged" in out


async def test_what_was_in_force_may_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    source = await source_of(frozen())
    out = await shown(source, capsys, "suspect_after_ms=1000", policy=["suspect_after_ms=2000"], json=True)
    assert json.loads(out)["policy"]["suspect_after_ms"] == 2000
    assert [change["how"] for change in json.loads(out)["changes"]] == ["additional"] * 3


async def test_names_of_others_are_shown_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    world = frozen()
    evil = "r\x1b[2J\x07\n"
    world.elected(RouterIdentity(evil, "9"), {}, term=2)
    world.elected(RouterIdentity(f"{evil}2", "9"), {"suspect_after_ms": 1500}, term=3)
    source = await source_of(world)
    out = await shown(Source(source.log, NS, f"a test{evil}", source.pulses), capsys, "suspect_after_ms=3000")
    assert not {"\x1b", "\x07"} & set(out)
    assert "note: the log does not say with which policy r\\x1b[2J\\x07\\n, r1 decided" in out
    assert "not all routers had the policy that is named as that of then: r\\x1b[2J\\x07\\n2 (susp" in out


async def test_programs_are_told_everything(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(await shown(await source_of(frozen()), capsys, "suspect_after_ms=3000", json=True))
    assert found["what_if"] == {"suspect_after_ms": 3000}
    assert found["changed_policy"] == {**found["policy"], "suspect_after_ms": 3000}
    assert [(c["how"], c["type"], c["who"], c["seq"]) for c in found["changes"]] == [
        ("missing", "group.promoted.v1", "b", 9),
        ("missing", "instance.suspected.v1", "a", 10),
        ("missing", "instance.recovered.v1", "a", 11),
    ]
    assert found["changes"][0]["after"] is None
    assert found["changes"][0]["before"]["data"]["epoch"] == 2
    assert (found["today"], found["diverged"], found["left_out"]) == (
        {"changes": [], "diverged": [], "left_out": {}},
        [],
        {},
    )


async def test_filters_leave_other_groups_out(capsys: pytest.CaptureFixture[str]) -> None:
    world = frozen()
    world.joined("z", group="other", resources=["z_1"])
    source = await source_of(world)
    wanted = "suspect_after_ms=3000"
    for only in ({"group": "acc"}, {"service": "orders"}, {"resource": "acc_1"}):
        found = json.loads(await shown(source, capsys, wanted, json=True, **only))
        assert len(found["changes"]) == 3, only
    found = json.loads(await shown(source, capsys, wanted, json=True, group="other"))
    assert found["changes"] == []
    with pytest.raises(NothingMatches):
        await shown(source, capsys, wanted, group="nobodys")


# -- the command --------------------------------------------------------------------------------------------


async def test_a_bundle_is_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = await source_of(frozen())
    extent = await extent_of(source)
    path = tmp_path / "incident.aegis"
    await history.export(source, path, from_seq=1, until_seq=extent.last_seq, until_ns=extent.end_ns)
    words = ["replay", "--bundle", str(path), "--what-if", "suspect_after_ms=3000", "--json"]
    assert await run_in_thread(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(c["how"], c["seq"]) for c in found["changes"]] == [("missing", s) for s in (9, 10, 11)]


async def run_in_thread(words: list[str]) -> int:
    """The command has an event loop of its own."""
    import asyncio

    return await asyncio.to_thread(dispatch, words)


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        ("suspect_after=3000", "there is no 'suspect_after' in a policy"),
        ("suspect_after_ms", "a whole number of milliseconds"),
        ("suspect_after_ms=", "a whole number of milliseconds"),
        ("suspect_after_ms=-1", "a whole number of milliseconds"),
        ("suspect_after_ms=0", "a whole number of milliseconds"),
        ("suspect_after_ms=1.5", "a whole number of milliseconds"),
        ("suspect_after_ms=9999999999999999999999", "a whole number of milliseconds"),
        ("lost_after_ms=٣", "a whole number of milliseconds"),
        ("", "there is no '' in a policy"),
    ],
)
@pytest.mark.parametrize("flag", ["--what-if", "--policy"])
def test_a_bad_key_or_value_is_bad_usage(
    flag: str, wanted: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["replay", "--what-if", "handover_ms=1"] if flag == "--policy" else ["replay"]
    with pytest.raises(SystemExit) as caught:
        dispatch([*words, flag, wanted])
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert why in err
    assert all(key in err for key in POLICY_KEYS)


def test_a_key_given_twice_is_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        dispatch(["replay", "--what-if", "handover_ms=1", "handover_ms=2"])
    assert caught.value.code == 2
    assert "handover_ms is given twice" in capsys.readouterr().err


# -- a real router ------------------------------------------------------------------------------------------


def orders() -> Service:
    service = Service("orders")

    @service.method(effect="idempotent")
    async def put() -> str:
        return "done"

    return service


@pytest.fixture
async def place(shared_server: EmbeddedServer) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        yield Place(shared_server, stack)


async def test_what_a_real_router_decided_is_decided_again(place: Place) -> None:
    await place.router(probe_ms=0, policy=Policy(suspect_after_ms=800, lost_after_ms=1600))
    client = await place.client()
    one = await place.serve(orders(), "x", instance="one")
    two = await place.serve(orders(), "x", instance="two")
    assert await client.call("orders.put", resource_id="x", returns=str) == "done"
    await one.fall_silent()
    await until_said(place, ev.InstanceLost)
    assert await client.call("orders.put", resource_id="x", returns=str, timeout=10) == "done"
    await eventually(lambda: one.incarnation != "", within_s=10)
    await until_said(place, ev.GroupPromoted, times=2)
    await two.leave()
    await until_said(place, ev.GroupPromoted, times=3)
    assert await client.call("orders.put", resource_id="x", returns=str, timeout=10) == "done"
    async with history.open_live(place.url, place.namespace) as source:
        same = await found_in(source)
        later = await found_in(source, suspect_after_ms=1200)
    assert (same.report.changes, same.report.diverged, same.report.notes) == ([], [], [])
    assert [each for each in said(same.report.today) if each.startswith(("missing", "additional"))] == []
    assert same.report.recorded == same.report.simulated >= 9
    assert (same.report.before.suspect_after_ms, later.report.after.suspect_after_ms) == (800, 1200)
    assert [each.rpartition(" ")[0] for each in said(later.report.changes)] == [
        "later group.promoted two",
        "later instance.suspected one",
    ]
