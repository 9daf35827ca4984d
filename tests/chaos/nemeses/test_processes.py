"""Killing, freezing and looking into real processes."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys

import pytest

from aegisipc.chaos.nemeses.commands import find_tool, run
from aegisipc.chaos.nemeses.errors import NemesisFailed, Unavailable
from aegisipc.chaos.nemeses.processes import Victim, is_running
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.router.infrastructure.embedded import EmbeddedServer


async def test_a_server_is_frozen_thawed_and_killed(nats_server: EmbeddedServer) -> None:
    victim = Victim(nats_server.pid, "server")
    assert victim.is_alive()
    await victim.freeze()
    assert victim.is_frozen()
    assert victim.is_alive()
    assert victim.thaw()
    await nats_server.wait_healthy()
    assert not victim.is_frozen()
    await victim.freeze()
    assert victim.kill()  # also while frozen
    await victim.wait_gone()
    assert not victim.is_alive()
    await nats_server.kill()
    assert not victim.kill()
    assert not victim.thaw()
    assert (victim.rss_bytes(), victim.open_files(), victim.connections()) == (0, [], 0)
    with pytest.raises(NemesisFailed):
        await victim.freeze()
    with pytest.raises(NemesisFailed):
        Victim(victim.pid)


async def test_it_says_what_a_process_holds(shared_server: EmbeddedServer) -> None:
    victim = Victim(shared_server.pid, "server")
    before = victim.connections()
    async with await Connection.open(ConnectOptions(shared_server.url)):
        assert victim.connections() > 0
        sample = victim.sample(7)
    assert before >= 0
    assert (sample.process, sample.at_ns) == ("server", 7)
    assert sample.rss_bytes > 1_000_000
    assert sample.open_files >= victim.sockets() > 1  # it listens on two ports
    assert any(name.endswith("nats-server.log") for name in victim.open_files())
    assert victim.threads() > 1
    mine = Victim(os.getpid())
    with socket.socket():
        held = mine.sockets()
    assert mine.sockets() == held - 1


async def test_a_process_that_ended_and_is_not_yet_waited_for_is_not_alive() -> None:
    process = subprocess.Popen(  # noqa: ASYNC220 - asyncio would wait for it, so that it is no zombie
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE
    )
    victim = Victim(process.pid)
    assert victim.terminate()
    await victim.wait_gone()
    assert is_running(process.pid)  # a zombie: its number is not free yet
    assert not victim.is_alive()
    assert process.stdin is not None
    process.stdin.close()
    await asyncio.to_thread(process.wait)


async def test_a_process_that_goes_on_is_reported() -> None:
    with pytest.raises(NemesisFailed, match="kill it by hand"):
        await Victim(os.getpid()).wait_gone(0.01)


async def test_commands_that_fail_hang_or_are_missing_say_so() -> None:
    with pytest.raises(NemesisFailed, match="exit code 3: no"):
        await run([sys.executable, "-c", "print('no'); raise SystemExit(3)"])
    with pytest.raises(NemesisFailed, match="more than"):
        await run(["/bin/sleep", "60"], timeout_s=0.05)
    with pytest.raises(Unavailable, match="install no-such-tool"):
        find_tool("no-such-tool", "test")
