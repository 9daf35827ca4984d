"""The processes of a measurement: a server, a router, a service and the baseline's responder, each on its
own.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from aegisipc.eventstore.errors import AegisError
from aegisipc.router.infrastructure.child import ChildProcess
from aegisipc.router.infrastructure.embedded import EmbeddedServer

_READY_S = 30.0
_STOP_S = 5.0


class ChildFailed(AegisError):
    """A process of the measurement ended, or was not ready in time."""

    code = "child_failed"


@asynccontextmanager
async def stage(*, fsync: bool) -> AsyncIterator[str]:
    """Run everything that `aegis bench rpc` needs; gives the server's URL, ends every process."""
    with tempfile.TemporaryDirectory(prefix="aegis-bench-") as folder:
        async with EmbeddedServer(Path(folder) / "server", fsync=fsync) as server, AsyncExitStack() as stack:
            aegis = (sys.executable, "-m", "aegisipc.router.cli.main")
            serve = ("serve", "bench.workload:service", "--resource", "bench", "--url", server.url)
            for name, argv in (
                ("router", (*aegis, "router", "--url", server.url)),
                ("service", (*aegis, *serve)),
                ("echo", (sys.executable, "-m", "bench.workload", server.url)),
            ):
                await stack.enter_async_context(_child(name, argv, Path(folder) / f"{name}.log"))
            yield server.url


@asynccontextmanager
async def _child(name: str, argv: Sequence[str], output: Path) -> AsyncIterator[None]:
    child = ChildProcess(argv, output)
    try:
        await _ready(name, child, output)
        yield
    finally:
        child.send(signal.SIGTERM)
        try:
            await child.wait(_STOP_S)
        except TimeoutError:
            child.send(signal.SIGKILL)
            await child.wait(_STOP_S)


async def _ready(name: str, child: ChildProcess, output: Path) -> None:
    give_up_at = asyncio.get_running_loop().time() + _READY_S
    while True:
        text = await asyncio.to_thread(_read, output)
        if any(line.startswith("ready") for line in text.splitlines()):
            return
        if not child.is_running or asyncio.get_running_loop().time() > give_up_at:
            raise ChildFailed(
                f"cannot measure: the {name} process did not get ready; its last words: "
                f"{text[-500:].strip()!r}"
            )
        await asyncio.sleep(0.02)


def _read(output: Path) -> str:
    return output.read_text(errors="replace") if output.exists() else ""
