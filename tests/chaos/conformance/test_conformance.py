"""The model of the server does what real servers do; and the comparison would notice if it did not."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from random import Random
from typing import Any

import pytest

from aegisipc.chaos.cli.conformance import configure
from aegisipc.chaos.cli.conforming import report
from aegisipc.chaos.conformance.catalogue import CATALOGUE, Entry, Where
from aegisipc.chaos.conformance.comparing import compare_all, difference, model_transcript, random_entries
from aegisipc.chaos.conformance.dice import random_script
from aegisipc.chaos.conformance.sites import play_on_model
from aegisipc.chaos.conformance.stage import ANSWERS, Publish, Stage
from aegisipc.chaos.sim.streams import ModelStream

RANDOM_SCRIPTS = 20


async def test_the_model_does_what_real_servers_do(tmp_path: Path) -> None:
    entries = [*CATALOGUE, *random_entries(RANDOM_SCRIPTS, 0)]
    compared = await compare_all(entries, tmp_path)
    assert {one.name for one in compared} == {entry.name for entry in entries}
    assert all(one.lines > 3 for one in compared)
    assert not [line for one in compared for line in (one.name, *one.differences) if not one.agrees]


@pytest.mark.parametrize("seed", range(3))
def test_the_model_is_the_same_each_time_and_its_own_choices_change_nothing_that_is_promised(
    seed: int,
) -> None:
    script = random_script(Random(seed).randrange(1000))
    seen = [play_on_model("again", script, seed=chosen) for chosen in (1, 1, 2, 3)]
    assert seen[0][ANSWERS]
    assert all(other == seen[0] for other in seen)


async def test_a_model_that_does_otherwise_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def remembers_nothing(self: ModelStream, message_id: str) -> None:
        return None

    async def twice(stage: Stage) -> None:
        await stage.create_stream()
        await stage.publish(Publish(stage.subject("a"), id="1"), Publish(stage.subject("a"), id="1"))

    monkeypatch.setattr(ModelStream, "_known", remembers_nothing)
    (compared,) = await compare_all([Entry("twice", twice, Where.SHARED)], tmp_path)
    assert not compared.agrees
    assert compared.attempts == 3
    assert any(line.startswith("-") and "duplicate" in line for line in compared.differences)
    assert any(line.startswith("+") and '"seq":2' in line for line in compared.differences)


def test_transcripts_are_compared_by_channel() -> None:
    real = {"answers": ["one", "two"], "push": ["a"], "only": ["here"]}
    model = {"push": ["a"], "answers": ["one", "three"], "other": []}
    lines = difference(real, model)
    assert lines == ["channel answers:", " one", "-two", "+three", "channel only:", "-here"]


async def test_the_command_says_what_came_of_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = tuple(entry for entry in CATALOGUE if entry.name in ("conditions", "replicated"))
    monkeypatch.setattr("aegisipc.chaos.cli.conforming.CATALOGUE", chosen)
    assert await report(2, 7, as_json=False) == 0
    printed = capsys.readouterr().out
    assert "random7" in printed
    assert "4 of 4 scripts agree" in printed


def test_replicated_streams_look_at_the_id_first_and_single_ones_at_the_expectation() -> None:
    async def retry(stage: Stage) -> None:
        await stage.create_stream()
        subject = stage.subject("a")
        await stage.publish(Publish(subject, id="1", last=0), Publish(subject, id="1", last=0))

    by_replicas: dict[int, Any] = {
        replicas: play_on_model("retry", retry, replicas=replicas)[ANSWERS][-1] for replicas in (1, 3)
    }
    assert "10071" in by_replicas[1]
    assert '"duplicate":true' in by_replicas[3]
    entry = Entry("retry", retry, Where.CLUSTER)
    assert model_transcript(entry, "retry")[ANSWERS][-1] == by_replicas[3]


def test_the_command_takes_how_many_scripts_from_which_seed(capsys: pytest.CaptureFixture[str]) -> None:
    parser = ArgumentParser()
    configure(parser.add_subparsers())
    args = parser.parse_args(["conformance", "--scripts", "0", "--seed", "12", "--json"])
    assert (args.scripts, args.seed, args.json) == (0, 12, True)
    assert callable(args.chaos)
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(["conformance", "--scripts", "-1"])
    assert "--scripts" in capsys.readouterr().err
