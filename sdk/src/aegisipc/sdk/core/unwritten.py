"""Outcomes of ``once`` calls that came to their end here and were not written before the pen went elsewhere.

Whoever holds it now finds these calls in doubt, and the one who ran them knows better: that is evidence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from aegisipc.eventstore.calls import OpenCall
from aegisipc.eventstore.events import Effect
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.ids import CallId
from aegisipc.sdk.core.pen import Fact

_ENDS = frozenset({Mark.SUCCEEDED, Mark.FAILED})


class Unwritten(NamedTuple):
    """How a call ended that ran here, and the events of the shared state that belong to that."""

    call: OpenCall
    mark: Mark
    body: bytes | None
    emitted: tuple[bytes, ...]


def unwritten(lost: Iterable[Fact], effects: Mapping[str, Effect]) -> list[Unwritten]:
    """Return what `lost`, the facts that will never be in the log, tell of ``once`` calls that ran here. What
    others said of a call in doubt is no evidence of ours.
    """
    found: list[Unwritten] = []
    told_by_others: set[CallId] = set()
    emitted: list[bytes] = []
    for mark, call, body in lost:
        if mark is Mark.EMITTED:
            emitted.append(body or b"")
            continue
        if mark is Mark.EXECUTED:
            told_by_others.add(call.call_id)
        elif mark in _ENDS and effects.get(call.method) is Effect.ONCE and call.call_id not in told_by_others:
            found.append(Unwritten(call, mark, body, tuple(emitted)))
        emitted.clear()
    return found
