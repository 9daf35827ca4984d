"""The service that `aegis bench keys` calls."""

from __future__ import annotations

from aegisipc.sdk import Service

service = Service("keyed", max_running=1024)

_runs = 0


@service.method(effect="idempotent")
async def run(number: int) -> int:
    """Give the number back, and count that this ran."""
    global _runs  # noqa: PLW0603 - of this process, which is what is asked
    _runs += 1
    return number


@service.method(effect="pure")
async def runs() -> int:
    """Return how many calls ran in this process."""
    return _runs
