"""Processes are forked, signalled and ended, and none is left."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from aegisipc.chaos.real.leaks import processes_in
from aegisipc.chaos.real.zygote import ZygoteGone, running_zygote
from tests.support.waiting import eventually


async def test_all_that_was_forked_ends_with_the_one_who_forked_it(tmp_path: Path) -> None:
    with running_zygote(tmp_path) as zygote:
        sleeper = zygote.fork("time:sleep", tmp_path / "sleep.out", {})
        await eventually(lambda: not sleeper.is_alive, within_s=10, what="a wrong call ends")
        assert sleeper.code == 1
        assert "Traceback" in (tmp_path / "sleep.out").read_text()
        waiting = zygote.fork("signal:pause", tmp_path / "pause.out", {})
        frozen = zygote.fork("signal:pause", tmp_path / "pause.out", {})
        frozen.send(signal.SIGSTOP)
        assert waiting.is_alive
        assert frozen.is_alive
        waiting.kill()
        assert waiting.code == -signal.SIGKILL
        assert processes_in(tmp_path)
    assert not processes_in(tmp_path)
    with pytest.raises(ZygoteGone, match="has ended"):
        zygote.fork("signal:pause", tmp_path / "pause.out", {})


def test_environment_is_that_of_the_child_only(tmp_path: Path) -> None:
    with running_zygote(tmp_path) as zygote:
        child = zygote.fork("os:abort", tmp_path / "abort.out", {}, env={"CHAOS_TEST": "1"})
        while child.is_alive:
            pass
        assert child.code == -signal.SIGABRT
    assert "CHAOS_TEST" not in os.environ
