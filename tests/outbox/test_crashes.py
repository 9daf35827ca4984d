"""The application is killed at each step: after a restart there is one call, or none if nothing was
committed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
from pathlib import Path

import pytest

from aegisipc.sdk.outbox import Outbox, Status
from tests.outbox.dying_app import KEY


async def run_app(step: str, path: Path, *how: str, may_end: Path) -> int:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.outbox.dying_app",
        step,
        str(path),
        *how,
        env={**os.environ, "MAY_END": str(may_end)},
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(90):
            _, stderr = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    if process.returncode != -signal.SIGKILL:
        assert process.returncode == 0, stderr.decode()
    return process.returncode


def rows(path: Path, sql: str) -> list[tuple[object, ...]]:
    database = sqlite3.connect(path)
    try:
        return database.execute(sql).fetchall()
    finally:
        database.close()


@pytest.mark.parametrize(
    ("step", "is_there", "status_then", "submissions"),
    [
        ("added", False, None, 0),
        ("committed", True, Status.WAITING, 1),
        ("submitted", True, Status.SENDING, 2),
        ("accepted", True, Status.ACCEPTED, 1),
    ],
)
async def test_killed_at_each_step_there_is_one_call_in_the_end(
    tmp_path: Path, step: str, is_there: bool, status_then: Status | None, submissions: int
) -> None:
    path, log, may_end = tmp_path / "desk.db", tmp_path / "log.db", tmp_path / "may-end"
    assert await run_app(step, path, "file", str(log), may_end=may_end) == -signal.SIGKILL
    with Outbox(path) as outbox:
        assert [entry.status for entry in outbox.entries()] == ([status_then] if is_there else [])
    assert len(rows(path, "SELECT * FROM orders")) == is_there

    may_end.touch()
    assert await run_app("none", path, "file", str(log), may_end=may_end) == 0
    with Outbox(path) as outbox:
        entries = outbox.entries()
        assert [(entry.key, entry.status) for entry in entries] == [(KEY, Status.SUCCEEDED)] * is_there
        assert all(outbox.wait(entry.entry_id) == "done" for entry in entries)
    assert len(rows(log, "SELECT * FROM submissions")) == submissions
    assert len(rows(log, "SELECT * FROM calls")) == is_there


async def test_killed_at_any_time_and_again_each_entry_is_one_call_in_its_order(tmp_path: Path) -> None:
    path, log, may_end = tmp_path / "desk.db", tmp_path / "log.db", tmp_path / "may-end"
    may_end.touch()
    for round_number in range(4):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.outbox.dying_app",
            "some",
            str(path),
            "file",
            str(log),
            env={**os.environ, "MAY_END": str(may_end)},
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        for _ in range(10 + 13 * round_number):
            await process.stdout.readline()
        await asyncio.sleep(0.02 * round_number)  # not for correctness: to meet it at different work
        process.kill()
        await process.wait()
    assert await run_app("none", path, "file", str(log), may_end=may_end) == 0

    with Outbox(path) as outbox:
        entries = outbox.entries()
    assert {entry.status for entry in entries} == {Status.SUCCEEDED}
    assert len(entries) > 100
    calls = [str(key) for (key,) in rows(log, "SELECT key FROM calls ORDER BY id")]
    for resource in ("acc_0", "acc_1", "acc_2"):
        keys = [entry.key for entry in entries if entry.resource_id == resource]
        assert [key for key in calls if key in keys] == keys
    assert len(calls) == len(entries)
