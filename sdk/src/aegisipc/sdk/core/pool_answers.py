"""Answers to questions about a pool's calls, from what a worker remembers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from aegisipc.eventstore.frames import OUTCOMES, Mark
from aegisipc.eventstore.ids import CallId
from aegisipc.eventstore.memories import Outcomes
from aegisipc.sdk.core.pool_facts import PoolFacts

type Reply = tuple[CallId, int, bytes | None]

_TOLD: Final = OUTCOMES | {Mark.DISCARDED}
"""Of a discarded call callers are told that it is a dead letter."""


def answer(outcomes: Outcomes, call_ids: Sequence[CallId]) -> list[Reply]:
    """Return the outcomes that are remembered."""
    found = (outcomes.get(call_id) for call_id in call_ids)
    return [(o.call_id, int(o.mark), o.body) for o in found if o is not None]


def missing(
    outcomes: Outcomes, facts: PoolFacts, call_ids: Sequence[CallId]
) -> tuple[dict[CallId, int], list[CallId]]:
    """Return where the conclusions are whose bodies were forgotten, and what calls nothing is known of."""
    forgotten: dict[CallId, int] = {}
    unknown: list[CallId] = []
    for call_id in call_ids:
        known = facts.get(call_id)
        if outcomes.get(call_id) is not None:
            continue
        if known is None:
            unknown.append(call_id)
        elif known.mark in _TOLD:
            forgotten[call_id] = known.told_seq
    return forgotten, unknown
