"""The clock of one host is an hour off: nobody notices, since no promise rests on a clock."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.programs import Aegis, start_dev, until

AN_HOUR_OFF = """
import time
_time, _time_ns, _hour = time.time, time.time_ns, {hours} * 3600
time.time = lambda: _time() + _hour
time.time_ns = lambda: _time_ns() + _hour * 1_000_000_000
"""


@pytest.mark.parametrize(
    ("role", "hours"), [("router", 1), ("router", -1), ("instance", 1), ("instance", -1), ("client", 1)]
)
def test_a_host_whose_clock_is_an_hour_off_behaves_like_the_others(
    aegis: Aegis, tmp_path: Path, role: str, hours: int
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(AN_HOUR_OFF.format(hours=hours))
    off = {"PYTHONPATH": str(tmp_path / "site")}

    def env(of: str) -> dict[str, str]:
        return off if of == role else {}

    runner = Aegis(aegis.env | {"TRACE": str(tmp_path / "trace")}, aegis.cwd, aegis.running)
    _, told = start_dev(
        Aegis(runner.env | env("router"), runner.cwd, runner.running), tmp_path / "data", "--port", "0"
    )
    here = runner.at(told["url"])
    served = here.start(
        "serve", "desk:desk", "--group", "g1", "--resource", "x", "--instance", "a", **env("instance")
    )
    served.ready()
    call = ["--resource-id", "x", "--json"]
    done = here("call", "desk.book", "5", *call, "--timeout", "10", **env("client"))
    assert (done.code, done.json["result"]) == (0, "a"), done.err
    attached = here("call", "--attach", done.json["call_id"], "--json", **env("client"))
    assert attached.json["result"] == "a"

    (tmp_path / "hold-1").touch()
    blocker = here.start("call", "desk.order", "1", *call, "--timeout", "10")
    until((tmp_path / "trace").exists, "the first order runs")
    late = here("call", "desk.order", "2", *call, "--timeout", "0.5", **env("client"))
    assert (late.code, late.error["code"]) == (1, "call_expired")
    (tmp_path / "hold-1").unlink()
    assert blocker.ended() == 0
    assert json.loads(blocker.out[0])["result"] == "1 by a"
    states = here("status", "--json").json["services"]["desk"]["groups"]["g1"]["instances"]["a"]["state"]
    assert states == "active"
