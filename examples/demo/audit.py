"""The venue's books beside the log, after a run with faults. Pure.

A book says what was executed, the log says what became of each call; neither knows the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.ids import format_call_id
from examples.demo.faults import FAULTS, Failover
from examples.demo.recount import Recount, Traced

_MAY_BE_EXECUTED: Final = frozenset({Mark.SUCCEEDED, Mark.IN_DOUBT, Mark.DEAD_LETTERED})


@dataclass(frozen=True)
class Audit:
    """What the faults led to, and what the books say of it."""

    failovers: Sequence[Failover]
    executed: int
    """Orders in the books."""
    executed_twice: int
    not_executed: int
    """Orders that the log says were placed, and no book has."""
    unexplained: int
    """Orders in the books that the log says were refused, or never began."""
    doubted: int
    doubted_executed: int
    """How many of the calls that were in doubt are in the books."""
    found_executed: int
    """How many of them the gateway's reconciliation found executed."""
    found_not_executed: int
    """And how many not: these ran then."""

    @property
    def faults(self) -> dict[str, int]:
        """What must be zero, by name."""
        return {
            "failovers_missing": len(FAULTS) - len(self.failovers),
            "executed_twice": self.executed_twice,
            "not_executed": self.not_executed,
            "unexplained": self.unexplained,
        }

    @property
    def still_open(self) -> int:
        """Doubts that nobody has resolved."""
        return self.doubted - self.found_executed - self.found_not_executed

    def to_json(self) -> dict[str, Any]:
        """Return the figures for programs."""
        return {
            "failovers": [{**asdict(found), "ms": round(found.ms, 2)} for found in self.failovers],
            "executed": self.executed,
            "doubts": {
                "calls": self.doubted,
                "executed": self.doubted_executed,
                "found_executed": self.found_executed,
                "found_not_executed": self.found_not_executed,
                "open": self.still_open,
            },
        }


def audited(failovers: Sequence[Failover], counted: Recount, placed: Mapping[str, int]) -> Audit:
    """Compare the log with the books: `placed` says how often each order was executed, by its call's id."""
    calls = {format_call_id(call_id): call for call_id, call in counted.calls.items()}
    doubted = {call_id: call for call_id, call in calls.items() if call.was_doubted}
    ended = Counter(call.resolved for call in doubted.values())
    return Audit(
        failovers,
        executed=len(placed),
        executed_twice=sum(times > 1 for times in placed.values()),
        not_executed=sum(_is_placed(call) and call_id not in placed for call_id, call in calls.items()),
        unexplained=sum(not _may_be_executed(calls.get(call_id)) for call_id in placed),
        doubted=len(doubted),
        doubted_executed=sum(call_id in placed for call_id in doubted),
        found_executed=ended[Mark.EXECUTED],
        found_not_executed=ended[Mark.NOT_EXECUTED],
    )


def _is_placed(call: Traced) -> bool:
    return call.target == "orders.place" and call.mark is Mark.SUCCEEDED


def _may_be_executed(call: Traced | None) -> bool:
    return call is not None and call.mark in _MAY_BE_EXECUTED
