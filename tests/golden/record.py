"""Records the golden histories of this version: ``python -m tests.golden.record``.

Real routers, instances and clients on a real server play the scenes; the log of each becomes a bundle, and
what it comes to is written down beside it. Once released, these files stay as they are for ever: a version
that reads one of them otherwise has broken somebody's log. So nothing that is there is ever replaced.

``python -m tests.golden.record --digests`` adds digests to the old histories, after ``FOLD_VERSION`` was
raised. Look well before you do: what else changed must not be what anybody relies on.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import sys
import tempfile
from contextlib import AsyncExitStack
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Final

from aegisipc.eventstore import replay
from aegisipc.eventstore.frames import decode_pen
from aegisipc.eventstore.ids import format_call_id
from aegisipc.eventstore.replay import Source
from aegisipc.eventstore.system_snapshots import FOLD_VERSION
from aegisipc.router.application.snapshotting import SnapshotOptions
from aegisipc.router.domain.decide import Policy
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from tests.e2e.kit import Place
from tests.golden.reading import HERE, Plain, digests, expected_of, facts, readable, words_in
from tests.golden.scenes import SCENES

NAMESPACE: Final = "golden"
HOST: Final = "golden-host"
"""In the place of the name of whichever machine this runs on."""

MAX_BYTES: Final = 150_000

POINTS: Final = {
    "failover": (
        "before:first:instance.suspected",
        "before:last:group.promoted",
        "last:group.promoted",
        "first:in_doubt",
        "before:first:executed",
        "end",
    ),
    "doubt": ("first:in_doubt", "first:executed", "last:in_doubt", "last:not_executed", "end"),
    "rolling-restart": (
        "first:group.handover_started",
        "first:instance.unhealthy",
        "first:router.resigned",
        "first:group.paused",
        "end",
    ),
    "poison-call": ("first:attempted", "first:dead_lettered", "first:requeued", "first:discarded", "end"),
}
"""At which moments of a history there is something to see."""

ASKED: Final = {
    "failover": (("group", "orders/acc_1"), ("instance", "orders-a"), ("call", "last:in_doubt")),
    "doubt": (("group", "orders/book"), ("call", "first:executed"), ("call", "last:not_executed")),
    "rolling-restart": (("group", "desk/x"), ("instance", "desk-b")),
    "poison-call": (("call", "last:attempted"), ("call", "last:discarded"), ("group", "rates/_pool")),
}
"""What one would like to know; of calls: of the first or last one with that mark."""


async def recorded(name: str, server: EmbeddedServer, folder: Path) -> None:
    """Play a scene, and write what came of it."""
    async with AsyncExitStack() as stack:
        place = Place(server, stack)
        place.namespace = f"{NAMESPACE}-{name}"
        await place.router(id="router-1", policy=Policy(), snapshots=SnapshotOptions(every_entries=30))
        await SCENES[name](place)
        source = await stack.enter_async_context(replay.open_live(server.url, place.namespace))
        source = replace(source, about=f"namespace {place.namespace}")
        bounds = await source.log.bounds()
        whole = folder / f"{name}.aegis"
        await replay.export(source, whole, from_seq=1, until_seq=bounds.last_seq)
        files = [whole]
        if name == "failover":  # one that begins amid a log
            begin = (await replay.resolve(source, "last:group.promoted")).seq
            files.append(folder / f"{name}-tail.aegis")
            await replay.export(source, files[-1], from_seq=begin, until_seq=bounds.last_seq)
    for path in files:
        await write_facts(path, name)
        path.chmod(0o644)
        size = path.stat().st_size
        print(f"{path.name}: {size} bytes")  # noqa: T201 - for whoever runs it
        if size > MAX_BYTES:
            raise SystemExit(f"{path.name} is too large: {size} bytes, and the limit is {MAX_BYTES}")


async def write_facts(path: Path, name: str) -> None:
    """Write down what a history comes to."""
    source = replay.open_bundle(path)
    is_whole = source.base is None
    points = POINTS[name] if is_whole else ("start", "end")
    questions = [[kind, await _meant(source, kind, text), "end"] for kind, text in ASKED[name]]
    found = await facts(source, points, questions if is_whole else ())
    found["digests"] = {str(FOLD_VERSION): found["digests"]}
    words = dict(sorted((await words_in(source)).items()))
    about: Plain = {
        "history": path.stem,
        "version": version("aegisipc"),
        "base_fold": None if is_whole else FOLD_VERSION,
        "words": words,
    }
    _write(path, about | found)


async def _meant(source: Source, kind: str, text: str) -> str:
    """Name the call that the mark is about."""
    if kind != "call":
        return text
    mark = text.rpartition(":")[2]
    seq = (await replay.resolve(source, text)).seq
    async for record in source.log.read([source.subjects.everything]):
        if record.seq == seq:
            marks = decode_pen(record.payload).entries
            return format_call_id(next(each.call_id for each in marks if each.mark.name.lower() == mark))
    raise AssertionError(seq)


def _write(path: Path, found: Plain) -> None:
    text = json.dumps(found, indent=1, sort_keys=True) + "\n"
    path.with_suffix(".json").write_text(text, encoding="utf-8")


async def record_all(target: Path) -> None:
    """Record every scene, and put the set in its place when it is whole."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "set"
        folder.mkdir()
        async with EmbeddedServer(Path(scratch) / "nats", fsync=False) as server:
            for name in SCENES:
                await recorded(name, server, folder)
        shutil.copytree(folder, target)


async def add_digests() -> None:
    """Write digests of this version of the fold into the old histories; those of others stay."""
    for path in readable():
        expected = expected_of(path)
        source = replay.open_bundle(path)
        expected["digests"].setdefault(str(FOLD_VERSION), await digests(source))
        _write(path, expected)


def main(words: list[str]) -> None:
    if words == ["--digests"]:
        asyncio.run(add_digests())
        return
    target = HERE / version("aegisipc")
    if words:
        raise SystemExit("usage: python -m tests.golden.record [--digests]")
    if target.exists():
        raise SystemExit(
            f"{target.name} has its histories: what was recorded never changes. Record under a new version, "
            "or, as long as this one is not released, remove the folder yourself"
        )
    socket.gethostname = lambda: HOST
    asyncio.run(record_all(target))


if __name__ == "__main__":
    main(sys.argv[1:])
