"""What the rules share: who decides, with how much patience, and what a decision is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Final, NamedTuple

from aegisipc.eventstore import events as ev

MAX_TOLD: Final = 8
"""How many differences, members or heirs an event names; of the rest it tells the number."""

MAX_TOLD_CHARS: Final = 200
"""Length of each. What instances say of themselves has no bound of its own, and an event has."""


@dataclass(frozen=True, slots=True)
class Policy:
    """When silence means something, and how long a planned change may take. All in milliseconds of the pulse
    stream's own time.
    """

    suspect_after_ms: int = 1000
    lost_after_ms: int = 3000
    leader_after_ms: int = 1000
    disconnect_lost_after_ms: int = 1000
    """How long after the end of its connection an instance that gives no new pulse is lost."""
    handover_ms: int = 30_000
    """How long a holder may take to finish what it runs before another is promoted all the same."""


POLICY_KEYS: Final = tuple(field.name for field in fields(Policy))
"""What a policy consists of."""

MAX_MS: Final = 30 * 24 * 3600 * 1000


def policy_in(written: Mapping[str, int]) -> Policy:
    """Return the policy that a leader wrote into the log. What a later version wrote beside what is known
    here is left out, as is what cannot be.
    """
    known = {key: value for key, value in written.items() if key in POLICY_KEYS and 0 < value <= MAX_MS}
    policy = Policy(**{**asdict(Policy()), **known})
    return policy if policy.lost_after_ms >= policy.suspect_after_ms else Policy()


@dataclass(frozen=True, slots=True)
class RouterIdentity:
    """Which router decides. ``incarnation`` tells this run from earlier ones of the same id."""

    id: str
    incarnation: str


class Decision(NamedTuple):
    """Append `event` to `subject` if its last record is still `expected_seq`."""

    subject: str
    event: ev.Event
    expected_seq: int


def listed(texts: Sequence[str], separator: str = ", ") -> str:
    """Name the first few of `texts`, each cut to a bearable length, and count the rest."""
    told = [shortened(text) for text in texts[:MAX_TOLD]]
    if len(texts) > MAX_TOLD:
        told.append(f"and {len(texts) - MAX_TOLD} more")
    return separator.join(told)


def shortened(text: str, limit: int = MAX_TOLD_CHARS) -> str:
    """Keep both ends: signatures that differ often begin alike."""
    if len(text) <= limit:
        return text
    head = limit // 2
    return f"{text[:head]} … {text[len(text) - (limit - head - 3) :]}"
