"""The processes of a measurement: a server, a router, services, each on its own."""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from aegisipc.eventstore.errors import AegisError
from aegisipc.router.infrastructure.child import ChildProcess
from aegisipc.router.infrastructure.embedded import EmbeddedServer

AEGIS: Final = (sys.executable, "-m", "aegisipc.router.cli.main")

_READY_S = 60.0
_STOP_S = 5.0


class ChildFailed(AegisError):
    """A process of the measurement ended, or was not ready in time."""

    code = "child_failed"


@asynccontextmanager
async def stage(*, fsync: bool) -> AsyncIterator[str]:
    """Run everything that `aegis bench rpc` needs; gives the server's URL, ends every process."""
    with tempfile.TemporaryDirectory(prefix="aegis-bench-") as folder:
        async with EmbeddedServer(Path(folder) / "server", fsync=fsync) as server, AsyncExitStack() as stack:
            serve = ("serve", "bench.workload:service", "--resource", "bench", "--url", server.url)
            for name, argv in (
                ("router", (*AEGIS, "router", "--url", server.url)),
                ("service", (*AEGIS, *serve)),
                ("echo", (sys.executable, "-m", "bench.workload", server.url)),
            ):
                await stack.enter_async_context(child(name, argv, Path(folder) / f"{name}.log"))
            yield server.url


@asynccontextmanager
async def child(
    name: str, argv: Sequence[str], output: Path, env: Mapping[str, str] | None = None
) -> AsyncIterator[ChildProcess]:
    """Run a program from the line on that starts with ``ready``; it has ended when this ends.

    `env` is its whole environment; without it, the program has ours.

    Raises:
        ChildFailed: it did not get ready; with the end of what it wrote.
    """
    process = ChildProcess(argv, output, env=env)
    try:
        await _ready(name, process, output)
        yield process
    finally:
        await _ended(process)


async def _ended(process: ChildProcess) -> None:
    process.send(signal.SIGTERM)
    try:
        await process.wait(_STOP_S)
    except TimeoutError:
        process.send(signal.SIGKILL)
        await process.wait(_STOP_S)


async def _ready(name: str, process: ChildProcess, output: Path) -> None:
    give_up_at = asyncio.get_running_loop().time() + _READY_S
    while True:
        text = await asyncio.to_thread(_read, output)
        if any(line.startswith("ready") for line in text.splitlines()):
            return
        if not process.is_running or asyncio.get_running_loop().time() > give_up_at:
            raise ChildFailed(
                f"cannot measure: the {name} process did not get ready; its last words: "
                f"{text[-500:].strip()!r}"
            )
        await asyncio.sleep(0.02)


def _read(output: Path) -> str:
    return output.read_text(errors="replace") if output.exists() else ""
