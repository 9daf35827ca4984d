"""What processes hold while they run, as the kernel and the server tell it."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any, Final

from aegisipc.chaos.history import Sample
from aegisipc.chaos.real.recording import now_ns
from aegisipc.chaos.real.scene import NAMESPACE, Scene
from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.subjects import subjects_of
from aegisipc.router.cli.asking import ask
from aegisipc.router.infrastructure.embedded import EmbeddedServer

MACHINE: Final = "machine"
FSYNC_MS: Final = "fsync_ms"
LATE_MS: Final = "late_ms"
_ANSWER_S: Final = 1.0
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


async def page(server: EmbeddedServer, path: str) -> dict[str, Any]:
    """Return a monitoring page of a server; empty if it does not answer."""
    host, _, port = server.monitor_url.removeprefix("http://").partition(":")
    try:
        async with asyncio.timeout(_ANSWER_S):
            reader, writer = await asyncio.open_connection(host, int(port))
            try:
                writer.write(f"GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
                body = (await reader.read()).partition(b"\r\n\r\n")[2]
            finally:
                writer.close()
        found: dict[str, Any] = json.loads(body)
    except (OSError, TimeoutError, ValueError):
        return {}
    return found


async def connections(server: EmbeddedServer) -> list[str]:
    """The names of the connections that a server has."""
    found = await page(server, "/connz?limit=10000")
    return sorted(str(each.get("name", "")) for each in found.get("connections", ()))


async def consumers(server: EmbeddedServer) -> dict[str, list[str]]:
    """The names of the consumers of each stream of a server."""
    found = await page(server, "/jsz?consumers=true&streams=true&accounts=true")
    return {
        str(stream["name"]): sorted(str(each.get("name", "")) for each in stream.get("consumer_detail") or ())
        for account in found.get("account_details", ())
        for stream in account.get("stream_detail", ())
    }


def held_by(process: str, pid: int, **more: Any) -> Sample | None:
    """Return what a process holds; ``None`` if it has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
        files = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - a count of names is all
    except (OSError, ValueError, IndexError):
        return None
    return Sample(process, now_ns(), rss_bytes=pages * _PAGE_BYTES, open_files=files, **more)


async def samples_of(scene: Scene) -> list[Sample]:
    """Return what all processes of a scene hold now."""
    found = [
        held_by(f"{member.name}#{member.lives}", member.pid)
        for member in scene.members.values()
        if member.pid is not None
    ]
    for number, server in enumerate(scene.servers, 1):
        if server.is_running:
            counts = {
                "connections": len(await connections(server)),
                "consumers": sum(map(len, (await consumers(server)).values())),
            }
            found.append(held_by(f"server{number}", server.pid, **counts))
    return [each for each in found if each is not None]


async def machine_sample(scene: Scene) -> Sample:
    """Return how slow this machine is at the moment: how long an fsync takes on the disk of the run, and how
    late a callback comes. Where all calls stood still, this tells whether the system did, or the machine.
    """
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    await asyncio.sleep(0)
    late_ms = int((loop.time() - began_s) * 1000)
    fsync_ms = await asyncio.to_thread(_fsync_ms, scene.folder / "fsync")
    return Sample(MACHINE, now_ns(), tables={FSYNC_MS: fsync_ms, LATE_MS: late_ms})


def _fsync_ms(path: Path) -> int:
    began_s = time.monotonic()
    file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.write(file, b"x")
        os.fsync(file)
    finally:
        os.close(file)
    return int((time.monotonic() - began_s) * 1000)


async def tables_of(scene: Scene, connection: Connection) -> list[Sample]:
    """Return how full the tables of routers and instances are, as a router tells it; nothing if none answers.

    How many calls an instance runs is bounded by its service. How many are open is not: clients are told to
    hold back, and that takes a moment.
    """
    try:
        told = await ask(connection, subjects_of(NAMESPACE).api("status"), {}, _ANSWER_S)
    except AegisError:
        return []
    at_ns = now_ns()
    counts = {name: dict(told.get(name) or {}) for name in ("open_calls", "claimed", "doubts")}
    found = [Sample("system", at_ns, tables={name: sum(count.values()) for name, count in counts.items()})]
    for place, pulse in dict(told.get("pulses") or {}).items():
        said = {"running": f"running/{scene.shape.max_running}", "waiting": "waiting", "open": "open"}
        tables = {shown: pulse[name] for name, shown in said.items() if isinstance(pulse.get(name), int)}
        found.append(Sample(place.rpartition("/")[2], at_ns, tables=tables))
    return found
