"""Calls that repeat others: each waits for the outcome of the call that has its idempotency key."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Final

from aegisipc.eventstore.calls import Outcome
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.ids import CallId
from aegisipc.sdk.core.lanes import PendingCall
from aegisipc.sdk.wire import WireOutcome

MAX_LINKS: Final = 8
"""How many calls may lead from one that repeats another to the first one."""

DUPLICATE: Final = int(Mark.DUPLICATE)
_ID_BYTES: Final = 16


def first_in(call_id: CallId, body: bytes | None) -> CallId | None:
    """Return the call that the body of a ``DUPLICATE`` of a call names; ``None`` if it can be none."""
    return body if body is not None and len(body) == _ID_BYTES and body != call_id else None


class Links:
    """Who waits for which call."""

    __slots__ = ("_fresh", "_waiting")

    def __init__(self) -> None:
        self._waiting: dict[CallId, dict[CallId, PendingCall]] = {}
        self._fresh: list[CallId] = []

    def __bool__(self) -> bool:
        """Whether any call waits for another."""
        return bool(self._waiting)

    def __contains__(self, first: object) -> bool:
        """Whether any call waits for this one."""
        return first in self._waiting

    def waiting_for(self, first: CallId) -> list[PendingCall]:
        """Return the calls that wait for this one."""
        return list(self._waiting.get(first, {}).values())

    def pop(self, first: CallId) -> list[PendingCall]:
        """Return the calls that wait for this one, and forget that."""
        return list(self._waiting.pop(first, {}).values())

    def follow(
        self,
        call: PendingCall,
        first: bytes | None,
        known: Mapping[CallId, WireOutcome],
        own: Container[CallId],
    ) -> Outcome | None:
        """Let `call` have the outcome of the first call. Returns it if it is among those that are `known`,
        and its own as it is if that leads nowhere; ``None`` when the first call's is awaited from now on.
        `own` are the calls whose outcomes come here anyway.
        """
        while True:
            call.links += 1
            next_id = first_in(call.call_id, first)
            if next_id is None or call.links > MAX_LINKS:
                return Outcome(call.call_id, Mark.DUPLICATE, first)
            found = known.get(next_id)
            if found is None:
                break
            if found[1] != DUPLICATE:
                return Outcome(next_id, Mark(found[1]), found[2])
            first = found[2]
        call.first, call.asks, call.ask_at_ns = next_id, 0, 0
        followers = self._waiting.setdefault(next_id, {})
        followers[call.call_id] = call
        if len(followers) == 1 and next_id not in own:
            self._fresh.append(next_id)
        return None

    def on_end(self, call: PendingCall) -> None:
        """A call is over here without an outcome: it waits for no other any more, and those that wait for it
        have to look elsewhere now.
        """
        if call.first is not None and call.first in self._waiting:
            followers = self._waiting[call.first]
            followers.pop(call.call_id, None)
            if not followers:
                del self._waiting[call.first]
        if call.call_id in self._waiting:
            self._fresh.append(call.call_id)

    def take_fresh(self) -> list[CallId]:
        """Return the calls, each once, whose outcome has to be looked for in the log now."""
        if not self._fresh:
            return []
        taken, self._fresh = self._fresh, []
        return taken
