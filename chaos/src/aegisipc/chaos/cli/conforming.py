"""Saying what came of a comparison."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

from aegisipc.chaos.conformance.catalogue import CATALOGUE
from aegisipc.chaos.conformance.comparing import Compared, compare_all, random_entries
from aegisipc.eventstore.cli.ending import ended_by_sigterm
from aegisipc.eventstore.cli.output import print_json

_MOST_LINES: Final = 40


async def report(scripts: int, seed: int, *, as_json: bool) -> int:
    """Compare the fixed scripts and so many random ones, and say what came of it; exit code 1 if anything
    differs.

    Raises:
        AegisError: a server cannot be started or reached, or a script does not end.
    """
    entries = [*CATALOGUE, *random_entries(scripts, seed)]
    with ended_by_sigterm(), tempfile.TemporaryDirectory(prefix="aegis-conformance-") as directory:
        compared = await compare_all(entries, Path(directory), _silent if as_json else _tell)
    differing = [one for one in compared if not one.agrees]
    if as_json:
        print_json({"ok": not differing, "seed": seed, "scripts": [one.to_json() for one in compared]})
    else:
        lines = sum(one.lines for one in compared)
        print(f"\n{len(compared) - len(differing)} of {len(compared)} scripts agree, {lines} lines compared")
    return 1 if differing else 0


def _tell(compared: Compared) -> None:
    if compared.agrees:
        again = f", at attempt {compared.attempts}" if compared.attempts > 1 else ""
        print(f"{compared.name:<20} agrees ({compared.lines} lines{again})", flush=True)
        return
    print(f"{compared.name:<20} DIFFERS: - is what the server did, + the model", flush=True)
    for line in compared.differences[:_MOST_LINES]:
        print(f"    {line}")


def _silent(compared: Compared) -> None:
    """Say nothing."""
