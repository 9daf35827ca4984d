"""Programs that are run to their end: how long they took, and how much memory they had at most."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from bench.stage import ChildFailed

_KIB_PER_MAXRSS = 1 if sys.platform != "darwin" else 1 / 1024


class Run(NamedTuple):
    """One run of a program: seconds from its start to its end, its peak memory, and what it printed."""

    wall_s: float
    peak_mib: float
    output: str


async def run(name: str, argv: Sequence[str]) -> Run:
    """Run a program to its end.

    Raises:
        ChildFailed: it ended with another exit code than 0.
    """
    return await asyncio.to_thread(_run, name, argv)


def _run(name: str, argv: Sequence[str]) -> Run:
    began = time.perf_counter()
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own programs
        assert process.stdout is not None  # noqa: S101 - for the type checker
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall_s = time.perf_counter() - began
    if process.returncode != 0:
        why = f"{name} ended with exit code {process.returncode}: {output[-500:]}"
        raise ChildFailed(f"cannot measure: {why}")
    return Run(round(wall_s, 3), round(usage.ru_maxrss * _KIB_PER_MAXRSS / 1024, 1), output)


def resident_mib(pid: int) -> float:
    """Return the memory that a process has now (Linux; elsewhere not a number)."""
    if sys.platform != "linux":
        return float("nan")
    with open(f"/proc/{pid}/status", encoding="ascii") as lines:  # noqa: PTH123 - not a file of ours
        for line in lines:
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
    return float("nan")
