"""What a router tells of its state when it is asked how it is: JSON-ready."""

from __future__ import annotations

from typing import Any, Final

from aegisipc.eventstore.pulses import PulseBoard
from aegisipc.eventstore.system import SystemState

_SHOWN: Final[dict[str, type]] = {
    "running": int,
    "waiting": int,
    "open": int,
    "epoch": int,
    "fenced": int,
    "doubts": int,
    "healthy": bool,
    "incarnation": str,
}


def shown_calls(state: SystemState) -> dict[str, Any]:
    """Return how many calls of each group are open, claimed, and in doubt."""
    counts = {f"{s}/{g}": state.counts(s, g) for s, g in sorted(state.calls)}
    return {
        "open_calls": {place: count.open for place, count in counts.items()},
        "claimed": {place: count.claimed for place, count in counts.items()},
        "doubts": {place: count.doubts for place, count in counts.items()},
    }


def shown_pulses(board: PulseBoard) -> dict[str, Any]:
    """Return what the instances' latest heartbeats said, and how old these are."""
    return {
        "/".join(key): {"age_ms": max(0, board.now_ns - p.at_ns) // 1_000_000, **_shown(p.report)}
        for key, p in sorted(board.instances.items())
    }


def _shown(report: dict[str, Any]) -> dict[str, Any]:
    """The board holds plain values only, but of whatever type a pulse gave them."""
    return {
        key: value if isinstance(value := report.get(key), kind) else None for key, kind in _SHOWN.items()
    }
