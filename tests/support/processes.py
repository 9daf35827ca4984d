"""Which nats-servers are children of this process."""

from __future__ import annotations

import os
from pathlib import Path


def child_server_pids() -> list[int]:
    """Process ids of the nats-servers that this process started and that still run."""
    return [
        int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and _is_our_server(entry)
    ]


def _is_our_server(entry: Path) -> bool:
    try:
        stat = (entry / "stat").read_text(encoding="utf-8")
    except OSError:
        return False  # it ended while we looked
    name = stat[stat.index("(") + 1 : stat.rindex(")")]
    state, parent = stat[stat.rindex(")") + 2 :].split()[:2]
    return name == "nats-server" and state != "Z" and int(parent) == os.getpid()
