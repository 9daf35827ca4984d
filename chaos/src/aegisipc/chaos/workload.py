"""What simulated and real runs call: ``book``, owned and with shared state, and ``desk``, a pool.

Their handlers differ in what they write to, and where a process keeps what it remembers; see
:mod:`aegisipc.chaos.sim.services` and :mod:`aegisipc.chaos.real.services`.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

from pydantic import BaseModel

from aegisipc.sdk import Retry
from aegisipc.sdk.pending import Pending

BOOK: Final = "book"
DESK: Final = "desk"
EFFECTS: Final = {"place": "once", "add": "idempotent", "peek": "pure"}
"""The methods of both services, and how each is declared."""

MAX_ATTEMPTS: Final = 3
RETRY: Final = Retry(attempts=MAX_ATTEMPTS, base_s=0.02, max_s=0.5)
"""Of the methods that may run again."""

LEFT_TO_PEOPLE: Final = 3
"""Of so many doubts the services leave one to an operator."""


class Added(BaseModel):
    """A number was added to a resource."""

    resource: str
    number: int


class Trouble(Exception):
    """A handler fails as it was asked to."""


def receipt_of(pending: Pending) -> dict[str, Any]:
    """Return what is told now of how a call is kept, as a history has it."""
    return {"call_id": pending.call_id, **asdict(pending.receipt)}
