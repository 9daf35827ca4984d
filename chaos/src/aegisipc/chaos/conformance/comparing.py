"""Running scripts on the model and on real servers, and comparing what was seen.

A difference counts if it is seen three times: a real server runs on a real clock, and a busy machine can be
late. The model is never asked twice: it is the same each time.
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aegisipc.chaos.conformance.catalogue import Entry, Where
from aegisipc.chaos.conformance.dice import random_script
from aegisipc.chaos.conformance.sites import RealSite, play_on_model, real_cluster, real_server
from aegisipc.chaos.conformance.stage import Transcript, play
from aegisipc.eventstore.errors import AegisError

ATTEMPTS: Final = 3
"""How often a script whose results differ is run on a real server."""

_AT_ONCE: Final = 24
_TIMEOUT_S: Final = 60.0
_CLUSTER_REPLICAS: Final = 3
_CONTEXT_LINES: Final = 2
_MOST_CHARS: Final = 400


class ScriptTimedOut(AegisError):
    """A script does not end on a real server. Fields: ``script``."""

    code = "script_timed_out"


@dataclass(frozen=True, slots=True)
class Compared:
    """What came of a script. ``differences`` is empty if the model did what the server did."""

    name: str
    where: Where
    lines: int
    attempts: int
    differences: tuple[str, ...]

    @property
    def agrees(self) -> bool:
        """Whether the model did what the server did."""
        return not self.differences

    def to_json(self) -> dict[str, Any]:
        """Return it for machines."""
        return {
            "script": self.name,
            "where": self.where.value,
            "lines": self.lines,
            "attempts": self.attempts,
            "agrees": self.agrees,
            "differences": list(self.differences),
        }


def random_entries(count: int, seed: int) -> list[Entry]:
    """Return random scripts: of `seed` and the numbers after it."""
    return [Entry(f"random{number}", random_script(number)) for number in range(seed, seed + count)]


async def compare_all(
    entries: Sequence[Entry], directory: Path, on_compared: Callable[[Compared], None] = lambda _: None
) -> list[Compared]:
    """Run all scripts on both. `directory` is for the servers' files.

    Raises:
        AegisError: a server cannot be started or reached, or a script does not end.
    """
    found: list[Compared] = []
    for where in Where:
        chosen = [entry for entry in entries if entry.where is where]
        if not chosen:
            continue
        found += await _compare_on(where, chosen, directory / where.value, on_compared)
    return found


async def _compare_on(
    where: Where, entries: Sequence[Entry], directory: Path, on_compared: Callable[[Compared], None]
) -> list[Compared]:
    if where is not Where.OWN:
        open_site = real_cluster if where is Where.CLUSTER else real_server
        async with open_site(directory) as site:
            return await _compare_together(entries, site, on_compared)
    compared = []
    for entry in entries:
        async with real_server(directory / entry.name) as site:
            compared += await _compare_together([entry], site, on_compared)
    return compared


async def _compare_together(
    entries: Sequence[Entry], site: RealSite, on_compared: Callable[[Compared], None]
) -> list[Compared]:
    """Run scripts side by side, and those whose results differ once more each by itself."""
    room = asyncio.Semaphore(_AT_ONCE)

    async def play_one(entry: Entry) -> Transcript:
        async with room:
            return await _play(site, entry, entry.name)

    seen = await asyncio.gather(*map(play_one, entries))
    compared = []
    for entry, real in zip(entries, seen, strict=True):
        attempts, lines = 1, sum(map(len, real.values()))
        differences = difference(real, model_transcript(entry, entry.name))
        while differences and attempts < ATTEMPTS:
            attempts += 1
            root = f"{entry.name}again{attempts}"
            differences = difference(await _play(site, entry, root), model_transcript(entry, root))
        compared.append(Compared(entry.name, entry.where, lines, attempts, tuple(differences)))
        on_compared(compared[-1])
    return compared


async def _play(site: RealSite, entry: Entry, root: str) -> Transcript:
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            return await play(site, root, entry.script)
    except TimeoutError:
        raise ScriptTimedOut(
            f"cannot compare {entry.name!r}: it did not end within {_TIMEOUT_S:g} s on a real server; "
            "is this machine very busy?",
            script=entry.name,
        ) from None


def model_transcript(entry: Entry, root: str) -> Transcript:
    """Return what a script sees on the model."""
    replicas = _CLUSTER_REPLICAS if entry.where is Where.CLUSTER else 1
    return play_on_model(root, entry.script, replicas=replicas)


def difference(real: Transcript, model: Transcript) -> list[str]:
    """Return the lines in which two transcripts differ: ``-`` is what the server did, ``+`` the model."""
    lines: list[str] = []
    for channel in dict.fromkeys([*real, *model]):
        one, other = real.get(channel, []), model.get(channel, [])
        if one != other:
            lines.append(f"channel {channel}:")
            changes = difflib.unified_diff(one, other, lineterm="", n=_CONTEXT_LINES)
            lines += [line[:_MOST_CHARS] for line in changes if not line.startswith(("---", "+++", "@@"))]
    return lines
