"""Programs that are run to their end: how long they took, and how much memory they had at most."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from bench.stage import ChildFailed

_LOOK_S: Final = 0.02


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
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.PIPE)
    reading = asyncio.ensure_future(process.communicate())
    peak_mib = 0.0
    try:
        while not reading.done():
            # What the kernel tells at the end counts the memory of the process that forked it, too.
            peak_mib = max(peak_mib, memory_mib(process.pid, "VmHWM"))
            await asyncio.wait({reading}, timeout=_LOOK_S)
    finally:
        if process.returncode is None:
            process.kill()
    output = (await reading)[0].decode()
    wall_s = time.perf_counter() - began
    if process.returncode != 0:
        why = f"{name} ended with exit code {process.returncode}: {output[-500:]}"
        raise ChildFailed(f"cannot measure: {why}")
    return Run(round(wall_s, 3), round(peak_mib, 1), output)


def memory_mib(pid: int, what: str = "VmRSS") -> float:
    """Return the memory that a process has now, or (``VmHWM``) had at most; 0 if it has ended (Linux;
    elsewhere not a number).
    """
    if sys.platform != "linux":
        return float("nan")
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{what}:")), 0.0)
