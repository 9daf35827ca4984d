"""Running the tools of the system: short commands that answer at once."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import Final

from aegisipc.chaos.nemeses.errors import NemesisFailed, unavailable

_TIMEOUT_S: Final = 30.0


def find_tool(name: str, to: str) -> str:
    """Return the path of a program that is needed `to` do something.

    Raises:
        Unavailable: it is not installed.
    """
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/bin:/bin")
    if found is None:
        raise unavailable(to, f"there is no {name}", f"install {name}")
    return found


def need_root(to: str) -> None:
    """Check that we may do what only root may.

    Raises:
        Unavailable: we are somebody else.
    """
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        raise unavailable(to, "only root may", "run as root")


async def run(
    argv: Sequence[str], *, timeout_s: float = _TIMEOUT_S, env: Mapping[str, str] | None = None
) -> str:
    """Run a command to its end, and return its output.

    Raises:
        NemesisFailed: it failed, or took too long. Fields: ``what``, ``output``.
    """
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env
    )
    try:
        async with asyncio.timeout(timeout_s):
            output, _ = await process.communicate()
    except BaseException as error:
        if process.returncode is None:
            process.kill()
            await process.wait()
        if isinstance(error, TimeoutError):
            raise failed(argv, f"it took more than {timeout_s:g} s", "") from None
        raise
    text = output.decode("utf-8", "replace")
    if process.returncode != 0:
        raise failed(argv, f"exit code {process.returncode}", text)
    return text


def failed(argv: Sequence[str], reason: str, output: str) -> NemesisFailed:
    """Return the error for a command that did not do its work."""
    said = output.strip()[-500:]
    return NemesisFailed(
        f"cannot run {' '.join(argv)!r}: {reason}{': ' + said if said else ''}; run it by hand to see why",
        what=argv[0],
        output=said,
    )
