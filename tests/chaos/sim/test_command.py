"""``aegis chaos sim`` as it is called."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from aegisipc.chaos.cli.verb import PARTS, VERB
from aegisipc.chaos.sim.plan import expand
from aegisipc.chaos.sim.plan_files import plan_from_plain
from aegisipc.router.cli.main import main


def _json(words: list[str], capsys: pytest.CaptureFixture[str], code: int = 0) -> Any:
    assert main(["chaos", "sim", *words, "--json"]) == code
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("words", [[], *([part] for part in PARTS)])
def test_every_part_explains_itself(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["chaos", *words, "--help"])
    assert ended.value.code == 0
    assert f"aegis chaos {' '.join(words)}".strip() in capsys.readouterr().out
    assert VERB.help


def test_many_seeds_are_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    told = _json(["--seeds", "3", "--first-seed", "7"], capsys)
    assert told["schedules"] == 3
    assert told["first_seed"] == 7
    assert told["violations"] == 0
    assert told["failures"] == []
    assert told["events"] > 100


def test_one_seed_tells_its_plan_and_what_came_of_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["chaos", "sim", "--seed", "1", "--keep", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "plan of seed 1" in out
    assert all(f"call {call.number} " in out for call in expand(1).calls)
    assert "linearizable" in out
    command = out[out.index("aegis replay --bundle") :].splitlines()[0]
    assert main([*shlex.split(command)[1:], "--json"]) == 0
    view = json.loads(capsys.readouterr().out)
    assert set(view["groups"]) >= {f"book/{group.name}" for group in expand(1).groups}


def test_a_plan_goes_through_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    plain = _json(["--seed", "2", "--plan"], capsys)
    assert plan_from_plain(plain) == expand(2)
    path.write_text(json.dumps(plain))
    by_file = _json(["--plan-file", str(path)], capsys)
    assert by_file["trace"] == _json(["--seed", "2"], capsys)["trace"]


def test_a_bad_plan_is_an_error_and_no_traceback(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text('{"seed": 1}')
    assert _json(["--plan-file", str(path)], capsys, code=1)["error"]["code"] == "bad_plan"
    assert main(["chaos", "sim", "--plan-file", str(tmp_path / "none")]) == 1
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--seed", "1", "--seeds", "3"],
        ["--seed", "1", "--plan-file", "x"],
        ["--plan"],
        ["--seed", "1", "--remember", "x"],
        ["--seed", "1", "--because", "x"],
        ["--seed", "1", "--plan", "--keep", "x"],
        ["--seeds", "0"],
        ["--budget-s", "nan"],
    ],
)
def test_what_makes_no_sense_is_bad_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["chaos", "sim", *words])
    assert ended.value.code == 2
    assert "usage: aegis chaos sim" in capsys.readouterr().err
