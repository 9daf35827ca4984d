"""Short runs with real processes: what they find is nothing, and they leave nothing behind."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import tempfile
from pathlib import Path

import pytest

from aegisipc.chaos.cli.reporting import as_plain, is_green, line_of
from aegisipc.chaos.history import Deed, Stage
from aegisipc.chaos.nemeses.errors import Unavailable
from aegisipc.chaos.real.leaks import processes_in
from aegisipc.chaos.real.running import run_scenario
from aegisipc.chaos.real.scenarios import SCENARIOS
from aegisipc.chaos.real.scene import NotReady
from aegisipc.eventstore.cli.output import Paint


def _folders() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("aegis-chaos-*"))


def _files(folder: Path) -> list[Path]:
    return list(folder.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kill-instance", "kill-server"])
async def test_a_short_run_holds(name: str, tmp_path: Path) -> None:
    before = _folders()
    done = await run_scenario(
        SCENARIOS[name], seed=1, duration_s=2.0, keep_in=tmp_path, tell=lambda _: None, read_s=1.0
    )
    run = done.run
    assert run.is_green, line_of(run, Paint())
    assert is_green([done])
    assert run.evidence.faults
    assert any(o.stage is Stage.OK and o.deed is Deed.CALL for o in run.evidence.operations)
    assert run.versions["nats-server"][0].isdigit()
    looked_at = {verdict.name for verdict in run.judgement.verdicts if verdict.looked_at}
    assert looked_at >= {"G1", "G2", "G3", "G4", "G5", "G7", "G8", "epochs", "recovery", "unhandled"}
    assert {probe.role for probe in run.evidence.probes} >= {"client", "instance", "router", "server"}
    assert run.roles
    assert json.loads(json.dumps(as_plain(run, done.plan)))["plan"]
    assert _files(tmp_path) == []
    assert _folders() <= before


@pytest.mark.slow
async def test_an_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; from aegisipc.chaos.cli.reporting import run_and_report;"
        "from aegisipc.eventstore.cli.running import run_async;"
        "run_async(run_and_report('kill-instance', seed=1, duration_s=60, report=None, as_json=False))"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        code,
        stderr=asyncio.subprocess.PIPE,
        env={"TMPDIR": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(60):
            assert b"faults in" in await process.stderr.readline()
            process.send_signal(signal.SIGINT)
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode != 0
    assert not processes_in(tmp_path)
    assert _files(tmp_path) == []


@pytest.mark.parametrize(
    ("error", "skipped", "found"),
    [
        (Unavailable("cannot mount here"), "cannot mount here", []),
        (ExceptionGroup("two", [NotReady("r1 is late"), NotReady("r2 is late")]), "", ["r1", "r2"]),
    ],
)
async def test_a_run_that_cannot_be_finished_says_why(
    error: Exception, skipped: str, found: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_scene(*_: object) -> None:
        raise error

    monkeypatch.setattr("aegisipc.chaos.real.running.a_scene", no_scene)
    done = await run_scenario(
        SCENARIOS["kill-server"], seed=1, duration_s=1.0, keep_in=tmp_path, tell=lambda _: None
    )
    findings = [finding.text[:2] for each in done.run.judgement.verdicts for finding in each.findings]
    assert (done.run.skipped, findings) == (skipped, found)
    assert not done.run.is_green
    assert not is_green([done])
