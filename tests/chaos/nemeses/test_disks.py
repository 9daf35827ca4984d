"""A real server on disks that are slow, fail or are full. Without root or strace, that the error says so."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from aegisipc.chaos.nemeses.commands import run
from aegisipc.chaos.nemeses.disks import FaultySync, SmallDisk, sweep_disks
from aegisipc.chaos.nemeses.errors import NemesisFailed, Unavailable
from aegisipc.chaos.nemeses.namespaces import Namespaces
from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.jetstream import JetStreamLog
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.streams import create_log
from aegisipc.eventstore.subjects import subjects_of
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from aegisipc.router.infrastructure.server_config import ServerTuning

SUBJECTS = subjects_of("disk")
CALLS = SUBJECTS.call("orders", "g1", "c1")

ROOMY = ServerTuning(jetstream_max_store_bytes=1 << 42)  # else no stream fits on the small disk


@asynccontextmanager
async def fsynced_log(data_dir: Path) -> AsyncIterator[tuple[EmbeddedServer, JetStreamLog]]:
    async with (
        EmbeddedServer(data_dir, fsync=True, tuning=ROOMY) as server,
        await Connection.open(ConnectOptions(server.url)) as connection,
    ):
        yield server, await create_log(connection, SUBJECTS)


async def can_break_fsync(pid: int) -> bool:
    """Whether this machine lets us; if not, the error must say why."""
    try:
        async with FaultySync(pid, delay_s=0.001):
            return True
    except Unavailable as error:
        refused = error
    assert "strace" in refused.message or "ptrace" in refused.message
    return False


async def test_an_acknowledgement_waits_for_a_slow_fsync(tmp_path: Path) -> None:
    async with fsynced_log(tmp_path / "nats") as (server, log):
        if not await can_break_fsync(server.pid):
            return
        loop = asyncio.get_running_loop()
        async with FaultySync(server.pid, delay_s=0.3) as slow:
            began = loop.time()
            await log.append(CALLS, b"slow", timeout_s=20)
            assert loop.time() - began >= 0.3
            assert slow.calls >= 1
        assert slow.calls >= 1  # told afterwards, too
        assert _tracer(server.pid) == 0
        await log.append(CALLS, b"again", timeout_s=20)


async def test_a_failing_fsync_is_no_acknowledgement(tmp_path: Path) -> None:
    async with fsynced_log(tmp_path / "nats") as (server, log):
        if not await can_break_fsync(server.pid):
            return
        async with FaultySync(server.pid, fails_with="EIO") as failing:
            with pytest.raises(AegisError):
                await log.append(CALLS, b"lost?", timeout_s=2)
            assert failing.calls >= 1
        await server.restart()
        async with await Connection.open(ConnectOptions(server.url)) as connection:
            healed = JetStreamLog(connection, SUBJECTS.stream)
            await healed.append(CALLS, b"again", timeout_s=20)


async def test_a_server_may_die_while_its_fsyncs_are_broken(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path / "nats") as server:
        if not await can_break_fsync(server.pid):
            return
        async with FaultySync(server.pid, delay_s=0.01):
            await server.kill()
        with pytest.raises(NemesisFailed, match="has ended"):
            async with FaultySync(server.pid, delay_s=0.01):
                pass


async def test_without_strace_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(Unavailable, match="install strace"):
        async with FaultySync(os.getpid(), delay_s=1):
            pass
    with pytest.raises(NemesisFailed, match="either"):
        FaultySync(os.getpid())


async def test_where_tracing_is_refused_the_error_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strace = tmp_path / "strace"
    said = "strace: attach: ptrace(PTRACE_SEIZE): Operation not permitted"
    strace.write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
    strace.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(Unavailable, match=r"PTRACE_SEIZE.*with ptrace allowed"):
        async with FaultySync(os.getpid(), delay_s=1):
            pass


async def test_who_is_not_root_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Unavailable, match="only root may"):
        async with SmallDisk(1 << 20):
            pass
    with pytest.raises(Unavailable, match="only root may"):
        async with Namespaces():
            pass


async def test_a_full_disk_refuses_and_a_freed_one_takes_again() -> None:
    if os.geteuid() != 0:
        with pytest.raises(Unavailable, match="only root may"):
            await SmallDisk(1 << 20).__aenter__()
        with pytest.raises(Unavailable, match="only root may"):
            await sweep_disks()
        return
    async with SmallDisk(24 << 20) as disk, fsynced_log(disk.path / "nats") as (server, log):
        await log.append(CALLS, b"1", timeout_s=20)
        assert await disk.fill() > 1 << 20
        assert disk.free_bytes == 0
        with pytest.raises(AegisError):
            await _append_for_ever(log)
        disk.free()
        assert disk.free_bytes > 1 << 20
        await server.restart()
        async with await Connection.open(ConnectOptions(server.url)) as connection:
            await JetStreamLog(connection, SUBJECTS.stream).append(CALLS, b"again", timeout_s=20)
        path = disk.path
    assert not _is_there(path)


async def test_disks_of_a_crashed_run_are_swept_and_nothing_else() -> None:
    if os.geteuid() != 0:
        with pytest.raises(Unavailable, match="run as root"):
            await sweep_disks()
        return
    crashed = """
import asyncio, os
from aegisipc.chaos.nemeses.disks import SmallDisk
async def main():
    print((await SmallDisk(1 << 20).__aenter__()).path, flush=True)
    os._exit(1)
asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", crashed, stdout=subprocess.PIPE)
    output, _ = await process.communicate()
    left = output.decode().strip()
    assert left in await run(["mount"])
    async with SmallDisk(1 << 20) as mine:  # sweeps as it begins
        assert not _is_there(Path(left))
        assert mine.path not in await sweep_disks()
        assert await mine.fill(leave_bytes=1 << 19) == 1 << 19


async def _append_for_ever(log: JetStreamLog) -> None:
    while True:
        await log.append(CALLS, b"x" * 100_000, timeout_s=2)


def _is_there(path: Path) -> bool:
    return path.exists()


def _tracer(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("TracerPid:")[2].split()[0])
