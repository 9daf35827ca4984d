"""The words of operators and hooks that one worker of a pool writes: a doubt is over, a dead letter is dealt
with.
"""

from __future__ import annotations

from typing import NamedTuple

from aegisipc.eventstore.bodies import Resolution
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.ids import CallId
from aegisipc.eventstore.open_calls import OpenCall
from aegisipc.sdk.core.pen import Pen
from aegisipc.sdk.core.pool_facts import PoolFacts
from aegisipc.sdk.core.pool_words import resolution_body


class Resolved(NamedTuple):
    """What came of a word that this worker wrote: ``seq`` is where it stands in the log, 0 if another word
    about the call was there first.
    """

    call_id: CallId
    seq: int


class Resolving:
    """Those that are on their way, one for each call."""

    def __init__(self, pen: Pen) -> None:
        self._pen = pen
        self._calls: dict[CallId, OpenCall] = {}
        self._resolved: list[Resolved] = []

    @property
    def is_busy(self) -> bool:
        """There is one."""
        return bool(self._calls)

    def __contains__(self, call_id: CallId) -> bool:
        return call_id in self._calls

    def resolve(self, facts: PoolFacts, call: OpenCall, resolution: Resolution, result: bytes | None) -> bool:
        """Note that a doubt is over; ``False`` if there is none, or a word is on its way."""
        known = facts.get(call.call_id)
        if known is None or known.mark is not Mark.IN_DOUBT or call.call_id in self._calls:
            return False
        self._calls[call.call_id] = call
        said = resolution_body(resolution, known.seq)
        if result is None:
            self._pen.note(Mark.NOT_EXECUTED, call, said)
        else:
            self._pen.note(Mark.EXECUTED, call, said)
            self._pen.note(Mark.SUCCEEDED, call, result)
        return True

    def discard(self, facts: PoolFacts, call: OpenCall, resolution: Resolution) -> bool:
        """Note that a dead letter will never run again; ``False`` as above."""
        known = facts.get(call.call_id)
        if known is None or known.mark is not Mark.DEAD_LETTERED or call.call_id in self._calls:
            return False
        self._calls[call.call_id] = call
        self._pen.note_dead(Mark.DISCARDED, call, resolution_body(resolution, known.seq))
        return True

    def end(self, call_id: CallId, seq: int) -> OpenCall | None:
        """A word of this worker came back: it counts, or not (0). Returns the call, if it is one of these."""
        call = self._calls.pop(call_id, None)
        if call is not None:
            self._resolved.append(Resolved(call_id, seq))
        return call

    def take(self) -> list[Resolved]:
        """Return what came of them, once."""
        resolved, self._resolved = self._resolved, []
        return resolved
