"""``aegis replay --verify``: whether snapshots, routers and bundles agree with the log, as people see it."""

from __future__ import annotations

import asyncio
import itertools
import re
from pathlib import Path

import pytest

from aegisipc.eventstore import checkpoints, replay
from aegisipc.eventstore.cli.output import Paint
from aegisipc.eventstore.memory import MemoryLog
from aegisipc.eventstore.replay import Check, Finding, Report, Source
from aegisipc.eventstore.system import SystemState
from aegisipc.eventstore.system_snapshots import dump_state
from aegisipc.router.cli.checking import MAX_ROWS, as_text
from aegisipc.router.cli.dispatch import dispatch
from tests.cli.programs import Aegis, System
from tests.eventstore.test_fold_determinism import S, random_records
from tests.golden.reading import bundles

GOLDEN = next(path for path in bundles() if path.stem == "failover")


async def forged_bundle(path: Path) -> int:
    """A bundle of a log in which a forged snapshot stands; returns up to which record that one says it is."""
    clock = itertools.count(1_000, 1_000)
    log, state = MemoryLog(lambda: next(clock)), SystemState(S)
    for record in random_records(5, 60):
        await log.append(record.subject, record.payload)
        if record.seq in (20, 40):
            state.replay(log._records[state.position :])
            if record.seq == 40:
                state.finished["orders", "forged"] = True
            await checkpoints.write(log, S, dump_state(state), router="r", taken_ns=1)
    await replay.export(Source(log, S, "memory"), path, from_seq=1, until_seq=len(log._records))
    return 42


def test_a_bundle_that_agrees_is_verified_without_a_server(aegis: Aegis) -> None:
    ended = aegis("replay", "--bundle", str(GOLDEN), "--verify")
    assert (ended.code, ended.err) == (0, "")
    assert re.match(r"all [0-9]+ checks agree\n", ended.out)
    assert "the end of the bundle" in ended.out


def test_up_to_a_point_only_what_comes_before_is_looked_at(aegis: Aegis) -> None:
    found = aegis("replay", "--bundle", str(GOLDEN), "--verify", "--until", "30", "--json").json
    assert (found["ok"], found["last_seq"], found["checks"]) == (True, 30, [])


def test_a_forged_snapshot_is_a_failure_that_says_where_and_what(aegis: Aegis, tmp_path: Path) -> None:
    path = tmp_path / "forged.aegis"
    seq = asyncio.run(forged_bundle(path))
    ended = aegis("replay", "--bundle", str(path), "--verify")
    assert ended.code == 1
    first, second, third, *_ = ended.out.splitlines()
    assert first.endswith("1 differs")
    assert second.startswith(
        f"the first difference is after record {seq}: what it holds (snapshot in record 44)"
    )
    assert third == f"it arose between records 21 and {seq}: all agreed after 20"
    assert "orders/forged" in ended.out


def test_there_is_no_verifying_a_part_of_a_state(capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--service", "--group", "--resource"):
        with pytest.raises(SystemExit) as caught:
            dispatch(["replay", "--verify", option, "x"])
        assert caught.value.code == 2
        assert "--verify folds the whole log" in capsys.readouterr().err


def test_a_running_system_agrees_with_its_log(system: System) -> None:
    ended = system.aegis("replay", "--verify", "--json", "--url", system.url)
    assert (ended.code, ended.json["ok"]) == (0, True)
    (router,) = [found for found in ended.json["checks"] if found["who"].startswith("router ")]
    assert (router["kind"], router["finding"]) == ("claim", "agrees")


# -- the text ------------------------------------------------------------------------------------------


def report(*checks: Check) -> Report:
    return Report("a log", "an empty state", 1, 900, "f" * 64, tuple(checks))


def agreeing(seq: int) -> Check:
    return Check("snapshot", f"snapshot in record {seq + 2}", seq, Finding.AGREES, "a" * 64, "a" * 64)


def differing(seq: int, **more: object) -> Check:
    return Check("claim", "router r1", seq, Finding.DIFFERS, "b" * 64, "a" * 64, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("checks", "answer"),
    [
        ([], "nothing to compare with: no snapshot, and no router that answers"),
        ([agreeing(1)], "the one check agrees"),
        ([agreeing(1), agreeing(2)], "all 2 checks agree"),
        ([agreeing(1), Check("claim", "r", 2, Finding.SKIPPED, why="w")], "the one check agrees, 1 skipped"),
        (
            [agreeing(1), differing(2), Check("snapshot", "s", 3, Finding.DAMAGED, why="w")],
            "2 of 3 checks failed: 1 differs, 1 damaged",
        ),
    ],
)
def test_the_answer_comes_first(checks: list[Check], answer: str) -> None:
    assert as_text(report(*checks), Paint()).splitlines()[0] == answer


def test_of_many_what_does_not_agree_is_shown_and_the_latest_that_do() -> None:
    checks = [agreeing(seq) for seq in range(200)] + [differing(300)]
    text = as_text(report(*checks), Paint())
    assert "router r1" in text
    assert "aaaaaaaaaaaa…, not bbbbbbbbbbbb…" in text
    assert "record 201 " in text
    assert "record 100 " not in text
    assert f"and {201 - MAX_ROWS} more" in text


def test_the_places_that_differ_are_listed_and_nothing_in_them_reaches_the_terminal() -> None:
    text = as_text(report(differing(5, changes=("calls/\x1b[31m: 1 -> 2",), why="\x07")), Paint())
    assert "nothing was compared before" in text
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "calls/\\x1b[31m: 1 -> 2" in text
