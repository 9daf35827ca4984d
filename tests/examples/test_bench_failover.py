"""``aegis bench failover`` from end to end, with real processes and few calls."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from bench.cli import VERB

COMMAND = [sys.executable, "-m", "aegisipc.router.cli.main", "bench", "failover"]
SMALL = ("--kills", "2", "--rate", "200", "--no-fsync")


async def bench(
    *words: str, tmp: Path, stop_after_line: str = "", stop_by: signal.Signals = signal.SIGINT
) -> tuple[int, str, str]:
    """Run the command, with a signal after such a line; return exit code, stdout and stderr."""
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
            child.send_signal(stop_by)
    out = (await child.stdout.read()).decode()
    return await child.wait(), out, "".join(err)


def left_in(directory: Path) -> list[Path]:
    return list(directory.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("effect", "options"),
    [("idempotent", ()), ("once", ("--no-system-account", "--suspect-after-ms", "500"))],
    ids=["idempotent", "once, by silence"],
)
async def test_every_kill_is_followed_by_a_failover_and_no_call_is_lost(
    tmp_path: Path, effect: str, options: tuple[str, ...]
) -> None:
    code, out, err = await bench(*SMALL, "--effect", effect, *options, "--json", tmp=tmp_path)
    assert code == 0, err
    assert out.count("\n") == 1
    figures = json.loads(out)
    assert (figures["kills"], figures["rate"], figures["fast_path"]) == (2, 200, not options)
    assert len(figures["failovers"]) == 2
    for failover in figures["failovers"]:
        if failover["ms"] is None:  # a starved machine: it had been replaced just before it was killed
            assert figures["missed"]
            continue
        assert 0 < failover["promoted_ms"] <= failover["ms"] <= figures["worst_ms"]
        assert failover["reply_ms"] > 0
        assert failover["detected_by"] in ("silence", "disconnect", "probe")
    first, second = (failover["epoch"] for failover in figures["failovers"])
    assert 1 < first < second
    assert figures["median_ms"] <= figures["worst_ms"]
    assert [figures[name] for name in ("lost", "duplicates", "errors", "fenced_frames")] == [0, 0, 0, 0]
    assert figures["calls"] > 0
    assert figures["in_doubt"] == 0 or effect == "once"
    assert left_in(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupt_ends_it_cleanly_and_leaves_nothing_behind(
    tmp_path: Path, signum: signal.Signals
) -> None:
    code, out, err = await bench(
        *SMALL, "--json", tmp=tmp_path, stop_after_line="kill 1 of 2", stop_by=signum
    )
    assert (code, out) == (130, "")
    assert "Traceback" not in err
    assert left_in(tmp_path) == []


def test_the_verb_takes_what_its_help_says() -> None:
    from aegisipc.router.cli.dispatch import parser_of

    parse = parser_of(VERB).parse_args
    usual = parse(["failover"])
    assert isinstance(usual, Namespace)
    assert (usual.kills, usual.rate, usual.effect) == (50, 5000, "idempotent")
    assert (usual.no_system_account, usual.pulse_ms, usual.suspect_after_ms) == (False, 250, 1000)
    other = parse(["failover", "--kills", "3", "--rate", "10", "--effect", "once", "--no-system-account"])
    assert (other.kills, other.rate, other.effect, other.no_system_account) == (3, 10, "once", True)
    assert parse(["rpc", "--no-fsync"]).no_fsync is True


@pytest.mark.parametrize("words", [["--kills", "0"], ["--rate", "x"], ["--effect", "pure"]])
def test_what_makes_no_sense_is_bad_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    from aegisipc.router.cli.dispatch import parser_of

    with pytest.raises(SystemExit) as ended:
        parser_of(VERB).parse_args(["failover", *words])
    assert ended.value.code == 2
    assert words[0] in capsys.readouterr().err
