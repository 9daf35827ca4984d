"""``aegis demo`` from end to end, with real processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from aegisipc.eventstore.errors import AegisError
from examples.demo import stage
from examples.demo.book import DIRECTORY
from examples.demo.flow import dump_step
from examples.demo.generate import generate
from examples.demo.performance import DataDirNotEmpty, data_dir, guarded
from examples.demo.stage import Part, ProcessFailed, Stage, part_of, parts

COMMAND = [sys.executable, "-m", "aegisipc.router.cli.main", "demo"]


async def demo(*words: str, tmp: Path, stop_after_line: str = "") -> tuple[int, str, str]:
    """Run the command, with SIGINT after such a line; return exit code, stdout and stderr."""
    child = await asyncio.create_subprocess_exec(
        *COMMAND,
        *words,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"TMPDIR": str(tmp)},
    )
    assert child.stdout is not None
    assert child.stderr is not None
    err = []
    async for line in child.stderr:
        err.append(line.decode())
        if stop_after_line and stop_after_line in err[-1]:
            child.send_signal(signal.SIGINT)
    out = (await child.stdout.read()).decode()
    return await child.wait(), out, "".join(err)


@pytest.mark.slow
async def test_a_small_flow_is_played_and_recounted(tmp_path: Path) -> None:
    steps = generate(seed=1, orders=200)
    file, tmp = tmp_path / "orders.jsonl", tmp_path / "tmp"
    tmp.mkdir()
    file.write_text("".join(dump_step(step) + "\n" for step in steps))
    code, out, err = await demo("--orders", str(file), "--json", tmp=tmp)
    assert code == 0, err
    assert out.count("\n") == 1
    figures = json.loads(out)
    assert figures["calls"] == len(steps) == figures["succeeded"] + figures["business_errors"]
    assert figures["business_errors"] > 0
    faults = ("lost", "duplicates", "started_twice", "mismatches", "not_accepted", "other_errors")
    assert [figures[name] for name in faults] == [0] * len(faults)
    assert 0 < figures["p50_ms"] <= figures["p99_ms"]
    assert figures["calls_per_s"] > 0
    assert figures["fsync"] is True
    assert left_in(tmp) == []


@pytest.mark.slow
async def test_standbys_take_over_from_a_killed_and_a_frozen_instance_and_every_order_is_executed_once(
    tmp_path: Path,
) -> None:
    steps = generate(seed=2, orders=400)
    file, tmp = tmp_path / "orders.jsonl", tmp_path / "tmp"
    tmp.mkdir()
    file.write_text("".join(dump_step(step) + "\n" for step in steps))
    code, out, err = await demo("--orders", str(file), "--kill", "--json", "--no-fsync", tmp=tmp)
    assert code == 0, err
    figures = json.loads(out)
    assert figures["calls"] == len(steps)
    faults = ("lost", "duplicates", "started_twice", "mismatches", "fenced_frames", "executed_twice")
    assert [figures[name] for name in faults] == [0] * len(faults)
    found = {failover["fault"]: failover for failover in figures["failovers"]}
    assert (found["kill"]["group"], found["freeze"]["group"]) == ("east", "west")
    for failover in found.values():
        assert failover["epoch"] > 1
        assert failover["holder"] != failover["victim"]
        assert failover["holder"] in err
    doubts = figures["doubts"]
    assert doubts["found_executed"] <= doubts["executed"] <= doubts["calls"]
    assert doubts["open"] == doubts["calls"] - doubts["found_executed"] - doubts["found_not_executed"]
    assert left_in(tmp) == []


def left_in(directory: Path) -> list[Path]:
    return list(directory.iterdir())


@pytest.mark.slow
async def test_an_interrupt_ends_it_cleanly_and_leaves_nothing_behind(tmp_path: Path) -> None:
    code, out, err = await demo("--no-fsync", "--json", tmp=tmp_path, stop_after_line="playing")
    assert (code, out) == (130, "")
    assert "Traceback" not in err
    assert left_in(tmp_path) == []


@pytest.mark.slow
async def test_a_process_that_ends_early_is_named_with_what_it_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bad_parts(url: str, groups: Mapping[str, Sequence[str]], books: Path | None) -> list[Part]:
        return [
            *parts(url, groups)[:1],
            Part("orders east", ("serve", "examples.nothing:orders", "--url", url)),
        ]

    monkeypatch.setattr(stage, "parts", bad_parts)
    told: list[tuple[str, str]] = []
    with pytest.raises(ProcessFailed, match=r"'orders east' ended with exit code 1.*\n.*examples\.nothing"):
        async with Stage(
            tmp_path, {"east": ["acc_1"]}, fsync=False, tell=lambda name, state: told.append((name, state))
        ):
            pytest.fail("it must not get ready")
    assert ("router", "gone") in told


async def test_a_file_that_cannot_be_played_is_refused_before_anything_is_started(tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"at_ms":1,"do":"cancel","account":"acc_1"}\n')
    code, out, err = await demo("--orders", str(bad), tmp=tmp_path)
    assert (code, out) == (1, "")
    assert err == f"error: {bad}, line 1, order_id: missing\n"


async def test_bad_usage_is_told_as_such(tmp_path: Path) -> None:
    assert (await demo("--concurrency", "0", tmp=tmp_path))[0] == 2
    assert (await demo("--seed", "1", "--orders", "x", tmp=tmp_path))[0] == 2


def test_the_data_are_kept_only_in_a_directory_that_was_empty(tmp_path: Path) -> None:
    with data_dir(tmp_path / "a" / "b") as chosen:
        (chosen / "log").touch()
    assert (tmp_path / "a" / "b" / "log").exists()
    with pytest.raises(DataDirNotEmpty), data_dir(tmp_path / "a" / "b"):
        pytest.fail("it must be refused")
    with data_dir(None) as made:
        assert made.is_dir()
    assert not made.exists()


async def test_a_failing_guard_ends_the_work() -> None:
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def guard() -> None:
        raise AegisError("the roof is on fire")

    with pytest.raises(AegisError, match="roof"):
        await guarded(work(), guard())
    assert ended.is_set()


def test_both_groups_get_their_accounts_and_the_pool_its_workers() -> None:
    cast = parts("nats://x", {"east": ["acc_1", "acc_3"], "west": []})
    assert [part.name for part in cast] == ["router", "orders east", "quotes 1", "quotes 2"]
    east = cast[1].words
    assert [east[i + 1] for i, word in enumerate(east) if word == "--resource"] == ["acc_1", "acc_3"]


def test_with_books_every_group_has_a_standby_that_keeps_them(tmp_path: Path) -> None:
    cast = parts("nats://x", {"east": ["acc_1"], "west": ["acc_2"]}, tmp_path)
    orders = [part for part in cast if part.name.startswith("orders")]
    assert [part.name for part in orders] == [
        part_of(f"orders-{group}-{number}") for group in ("east", "west") for number in (1, 2)
    ]
    assert {part.settings[DIRECTORY] for part in orders} == {str(tmp_path)}
    assert {part.words[1] for part in orders} == {"examples.demo.gateway:gateway"}


def test_the_verb_takes_what_its_help_says() -> None:
    from aegisipc.router.cli.dispatch import parser_of
    from examples.demo.cli import VERB

    parsed = parser_of(VERB).parse_args(["--seed", "3", "--json", "--data", "d", "--concurrency", "8"])
    assert isinstance(parsed, Namespace)
    assert (parsed.seed, parsed.json, parsed.data, parsed.concurrency) == (3, True, Path("d"), 8)
    assert (parsed.orders, parsed.no_fsync, parsed.kill) == (None, False, False)
