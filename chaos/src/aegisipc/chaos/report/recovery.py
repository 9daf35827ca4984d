"""How long clients were without an answer after something was broken."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import accumulate

from aegisipc.chaos.history import Fault, Stage
from aegisipc.chaos.report.calls import Asked

_NEVER = 2**63
_NOT_SERVED = frozenset(
    {"ack_unknown", "call_cancelled", "call_expired", "log_full", "log_missing", "no_responders", "no_route"}
    | {"not_connected", "overloaded"}
)
"""Of these errors the service knows nothing. With others it answered: it is there again."""


@dataclass(slots=True)
class _Place:
    """The calls to one target and resource: when they were asked, the earliest success of those asked then
    or later, and the latest answer to any of those asked before.
    """

    asked_ns: list[int] = field(default_factory=list)
    succeeded_ns: list[int] = field(default_factory=list)
    answered_ns: list[int] = field(default_factory=list)

    def seal(self) -> None:
        self.succeeded_ns = list(accumulate(reversed(self.succeeded_ns), min))[::-1]
        self.answered_ns = list(accumulate(self.answered_ns, max))

    def recovery_ns(self, at_ns: int) -> int | None:
        """Return how long after `at_ns` somebody waited for the first success: who asked then, or later, or
        whose call was open then. A time in which nobody waits does not count.
        """
        first = bisect_left(self.asked_ns, at_ns)
        if first == len(self.asked_ns) or self.succeeded_ns[0] == _NEVER:
            return None  # nobody asked, or this place never answers with success
        succeeded_ns = self.succeeded_ns[first]
        if succeeded_ns == _NEVER:
            return _NEVER
        answered_ns = self.answered_ns[first - 1] if first > 0 else at_ns
        if answered_ns >= self.asked_ns[first]:
            return succeeded_ns - at_ns  # somebody waited from then on, and others after that
        return max(answered_ns - at_ns, succeeded_ns - self.asked_ns[first])


class Recoveries:
    """Answers, for a fault, how long it took until calls succeeded again.

    For each target and resource apart: from the fault (or from the first call after it, if none was open
    until then) to the first success of a call that was made after it (or to an error by which the service
    answered: the last calls may be meant to fail); the longest of them counts. So it holds
    the detection, the promotion and the way back to clients, and is short where nothing was hit.
    """

    def __init__(self, calls: Iterable[Asked]) -> None:
        self._places: dict[tuple[str, str | None], _Place] = {}
        for one in sorted((call for call in calls if call.is_call), key=lambda call: call.at_ns):
            place = self._places.setdefault((one.target, one.resource), _Place())
            place.asked_ns.append(one.at_ns)
            is_served = one.stage is Stage.OK or (one.stage is Stage.FAIL and one.error not in _NOT_SERVED)
            succeeded = is_served and one.told_ns is not None
            place.succeeded_ns.append((one.told_ns or 0) if succeeded else _NEVER)
            # One that was never answered says nothing of later faults: its client may have been killed.
            place.answered_ns.append(one.at_ns if one.told_ns is None else one.told_ns)
        for place in self._places.values():
            place.seal()

    def after(self, fault: Fault) -> float | None:
        """Return the seconds until calls succeeded again; ``None`` if nobody asked, infinite if none did."""
        found = [place.recovery_ns(fault.at_ns) for place in self._places.values()]
        longest = max((each for each in found if each is not None), default=None)
        if longest is None:
            return None
        return float("inf") if longest >= _NEVER else max(0, longest) / 1e9
