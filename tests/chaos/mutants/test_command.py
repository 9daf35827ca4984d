"""``aegis chaos mutants``."""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import ArgumentParser

import pytest

from aegisipc.chaos.cli.mutants import configure
from aegisipc.chaos.mutants import UnknownMutant, trials
from aegisipc.chaos.mutants.trials import Trial, Trials


def _run(*words: str) -> int:
    parser = ArgumentParser()
    configure(parser.add_subparsers())
    args = parser.parse_args(["mutants", *words])
    code: int = args.chaos(args)
    return code


def _caught(name: str, **more: object) -> Trial:
    return Trial(name, 4, ("G4",), True, 1, "G4: a stranger wrote", **more)  # type: ignore[arg-type]


def test_one_mutant_is_tried_and_told_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("--mutant", "skip-the-claim", "--seeds", "8", "--jobs", "1", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["survivors"] == []
    (mutant,) = told["mutants"]
    assert mutant["name"] == "skip-the-claim"
    assert "G3" in mutant["verdicts"]
    assert isinstance(mutant["caught_by_seed"], int)
    assert mutant["schedules"] >= 1


@pytest.mark.parametrize(
    ("trial", "says"),
    [
        (_caught("skip-the-fence"), "1 of 1 caught"),
        (Trial("skip-the-fence", None, (), is_expected=False, schedules=9), "SURVIVED 9 schedules"),
        (_caught("skip-the-fence", control=("G2",)), "WITHOUT IT, TOO: G2"),
    ],
)
def test_survivors_and_unsound_controls_are_told_and_fail_the_command(
    trial: Trial, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def tried(*_: object, told: object = None, **__: object) -> Trials:
        if callable(told):
            told(trial)
        return Trials([trial], 1.0)

    monkeypatch.setattr(trials, "try_all", tried)
    assert _run() == (0 if trial.is_good else 1)
    assert says in capsys.readouterr().out


def test_an_unknown_mutant_is_a_typed_error() -> None:
    with pytest.raises(UnknownMutant, match="cannot find mutant 'nothing'"):
        _run("--mutant", "nothing")


@pytest.mark.parametrize("words", [("--seeds", "0"), ("--jobs", "x")])
def test_bad_usage_ends_with_2(words: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as leaving:
        _run(*words)
    assert leaving.value.code == 2


def test_to_configure_it_imports_nothing_heavy() -> None:
    script = (
        "import sys, argparse; from aegisipc.chaos.cli.mutants import configure; "
        "configure(argparse.ArgumentParser().add_subparsers()); "
        "print([m for m in sys.modules if m in ('asyncio', 'pydantic', 'msgpack', 'aegisipc.chaos.sim')])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
