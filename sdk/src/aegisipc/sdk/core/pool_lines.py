"""Where the calls of one worker stand that may begin: among all, or among the suspects."""

from __future__ import annotations

from aegisipc.eventstore.ids import CallId
from aegisipc.eventstore.open_calls import OpenCall
from aegisipc.sdk.core.fair import Fair
from aegisipc.sdk.core.pool_attempts import Suspects
from aegisipc.sdk.core.pool_endings import Endings
from aegisipc.sdk.core.pool_facts import Known
from aegisipc.sdk.core.pool_frames import Deliveries


class Lines:
    """The lines. Some calls in them may not wait any more."""

    __slots__ = ("_endings", "_frames", "cleared", "ready", "suspects")

    def __init__(self, frames: Deliveries, endings: Endings) -> None:
        self._frames, self._endings = frames, endings
        self.ready = Fair({})
        self.suspects = Suspects()
        self.cleared: set[CallId] = set()
        """Suspects that came to an end here, so that it was not they that took a worker down."""

    def add(self, call: OpenCall, known: Known | None) -> None:
        """One more may begin, when it is its turn."""
        if self._is_suspect(call, known):
            self.suspects.add(call, len(known.attempts) if known is not None else 0)
        else:
            self.ready.add(call)

    def _is_suspect(self, call: OpenCall, known: Known | None) -> bool:
        if known is not None and known.attempts:
            return not self._endings.is_once(call)
        delivery = self._frames.of(call.call_id)
        if delivery is None or not delivery.is_suspect:  # as it mostly is
            return False
        return not self._endings.is_once(call) and call.call_id not in self.cleared
