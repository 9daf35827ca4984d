"""What came of it: clients' tally and the log's recount side by side, as one verdict. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from examples.demo.audit import Audit
from examples.demo.play import RESULTS
from examples.demo.recount import Recount, differences
from examples.demo.tally import Ending, Tally, percentile

BUSINESS_CODES: Final = frozenset(
    {
        "shut_out",  # by the venue: of a former holder, whose evidence ended the doubt
        "duplicate_order",
        "insufficient_funds",
        "position_limit",
        "price_off_market",
        "unknown_account",
        "unknown_order",
        "unknown_symbol",
    }
)
"""The errors by which the examples' services refuse a call."""


@dataclass(frozen=True)
class Summary:
    """The figures of one run. All counts of calls are the log's; times are the clients'."""

    tally: Tally
    counted: Recount
    mismatches: int
    first_mismatches: list[str]
    audit: Audit | None = None
    """Of a run with faults."""

    @property
    def succeeded(self) -> int:
        """Calls with a result."""
        return self.counted.endings[Ending.SUCCEEDED]

    @property
    def business_errors(self) -> int:
        """Calls that a service refused for a reason of the business."""
        return sum(n for code, n in self.counted.codes.items() if code in BUSINESS_CODES)

    @property
    def other_errors(self) -> int:
        """Calls with any other outcome than success."""
        return self.counted.endings.total() - self.succeeded - self.business_errors

    @property
    def faults(self) -> dict[str, int]:
        """What must be zero, by name."""
        counted = self.counted
        return {
            "lost": len(counted.lost),
            "duplicates": len(counted.duplicates),
            "started_twice": len(counted.started_twice),
            "accepted_twice": counted.accepted_twice,
            "unreadable": counted.frames_unreadable,
            "strays": counted.strays,
            "mismatches": self.mismatches,
            "not_accepted": self.tally.endings[Ending.NOT_ACCEPTED],
            "fenced_frames": counted.frames_fenced,
            **(self.audit.faults if self.audit else {}),
        }

    @property
    def is_good(self) -> bool:
        """Nothing is wrong: every call was accepted and has exactly one outcome, the one its caller saw."""
        return self.tally.done == self.tally.total and not any(self.faults.values())

    def to_json(self) -> dict[str, Any]:
        """Return the figures for programs."""
        faults = self.faults
        return {
            "calls": len(self.counted.calls),
            "succeeded": self.succeeded,
            "business_errors": self.business_errors,
            "lost": faults.pop("lost"),
            "duplicates": faults.pop("duplicates"),
            "p50_ms": _ms(percentile(self.tally.latencies_s, 0.5)),
            "p99_ms": _ms(percentile(self.tally.latencies_s, 0.99)),
            "calls_per_s": round(self.tally.calls_per_s),
            "seconds": round(self.tally.seconds, 3),
            "other_errors": self.other_errors,
            **faults,
            "frames": self.counted.frames,
            "outcomes": {str(ending): n for ending, n in sorted(self.counted.endings.items())},
            "errors": dict(sorted(self.counted.codes.items())),
            **(self.audit.to_json() if self.audit else {}),
        }


def summarize(tally: Tally, counted: Recount, audit: Audit | None = None) -> Summary:
    """Compare what the clients saw with the log."""
    mismatches, first = differences(counted, tally.seen, RESULTS)
    return Summary(tally, counted, mismatches, first, audit)


def _ms(seconds: float) -> float | None:
    return None if math.isnan(seconds) else round(seconds * 1000, 2)
