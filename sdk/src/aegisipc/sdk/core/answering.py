"""What callers are told: outcomes that have just become durable, and those that are remembered."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from aegisipc.eventstore.calls import GroupCalls
from aegisipc.eventstore.frames import OUTCOMES, Mark
from aegisipc.eventstore.ids import CallId
from aegisipc.sdk.core.pen import Written

type Reply = tuple[CallId, int, bytes | None]
"""A call, the mark of its outcome, and its result or error."""


def replies_of(written: Written, calls: GroupCalls) -> dict[str, list[Reply]]:
    """Return, per client, the outcomes in a frame that is now durable. Before the word that a call is a
    duplicate comes the outcome of the one that it repeats, if that is remembered.
    """
    by_client: dict[str, list[Reply]] = defaultdict(list)
    for mark, call, body in written.facts:
        if mark in OUTCOMES:
            if mark is Mark.DUPLICATE and body is not None:
                by_client[call.client] += _remembered([body], calls)
            by_client[call.client].append((call.call_id, int(mark), body))
    return by_client


def answers_to(call_ids: Sequence[CallId], calls: GroupCalls) -> list[Reply]:
    """Return the remembered outcomes of those calls that have one; in front of a duplicate's that of the call
    that it repeats.
    """
    answers: list[Reply] = []
    for call_id, mark, body in _remembered(call_ids, calls):
        if mark == Mark.DUPLICATE and body is not None:
            answers += _remembered([body], calls)
        answers.append((call_id, mark, body))
    return answers


def _remembered(call_ids: Sequence[CallId], calls: GroupCalls) -> list[Reply]:
    outcomes = calls.outcomes
    found = [outcomes.get(call_id) if outcomes is not None else None for call_id in call_ids]
    return [(o.call_id, int(o.mark), o.body) for o in found if o is not None]
