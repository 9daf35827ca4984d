"""What is still there when everybody has gone: connections, consumers, processes, files."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Final

from aegisipc.chaos.real.monitoring import connections, consumers
from aegisipc.chaos.real.scene import NAMESPACE, Scene
from aegisipc.eventstore.subjects import subjects_of

_GONE_S: Final = 15.0
"""Servers notice within so long that a connection is gone, and remove its consumers."""
_POLL_S: Final = 0.2
_POOL_CONSUMER: Final = "pool"


async def left_at_servers(scene: Scene) -> list[str]:
    """Return connections and consumers that do not go away though nobody runs any more. The consumer that a
    pool shares is meant to stay.
    """
    give_up_at = time.monotonic() + _GONE_S
    while True:
        left = await _left(scene)
        if not left or time.monotonic() > give_up_at:
            return left
        await asyncio.sleep(_POLL_S)


async def _left(scene: Scene) -> list[str]:
    own = {subjects_of(NAMESPACE).stream, subjects_of(NAMESPACE).pulse_stream}
    left = []
    for number, server in enumerate(scene.servers, 1):
        left += [f"connection {name!r} at server{number}" for name in await connections(server)]
        for stream, names in (await consumers(server)).items():
            if stream in own:
                left += [
                    f"consumer {name!r} of {stream} at server{number}"
                    for name in names
                    if not name.startswith(_POOL_CONSUMER)
                ]
    return left


def processes_in(folder: Path) -> list[str]:
    """Return processes, other than this one, whose command line or environment names a folder of the run."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            said = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        except OSError:
            continue
        if os.fsencode(folder) in said:
            shown = said.split(b"\0\0")[0].replace(b"\0", b" ")[:200].decode(errors="replace")
            found.append(f"process {entry.name}: {shown}")
    return found


def files_in(folder: Path) -> list[str]:
    """Return what processes left in their folder of temporary files."""
    return [f"file {path.name}" for path in sorted(folder.iterdir())] if folder.exists() else []
