"""Idempotency keys, as the holder of the pen grants them: at most one call has a key, and it says so in the
log before it starts.

Who has a key the index tells, and beside it what was noted here and is not folded yet. Of old keys the index
only knows in which segment to look: such a call waits, without a slot, until the host has read that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from enum import Enum, auto
from typing import Final, NamedTuple

from aegisipc.eventstore.bodies import ErrorInfo
from aegisipc.eventstore.calls import GroupCalls
from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.frames import Mark, PenFrame
from aegisipc.eventstore.ids import CallId, format_call_id
from aegisipc.eventstore.keys import HASH_BYTES, Elsewhere, KeyOwner, keyed_body
from aegisipc.eventstore.open_calls import OpenCall
from aegisipc.sdk.core.key_lookups import Answers, Lookup, digest_of, key_of
from aegisipc.sdk.core.pen import Pen

CONFLICT_CODE: Final = "idempotency_conflict"


class Entry(Enum):
    """What a call with a key finds when it has its turn."""

    OWNS = auto()
    """The key is its own, by the log."""
    GRANTED = auto()
    """The key is its own once that is in the log; it is noted."""
    WAITS = auto()
    """A segment has to be read first."""
    TAKEN = auto()
    """The key is another call's. Its outcome is noted."""


class _Noted(NamedTuple):
    """The latest word about a key that was noted here and is not folded yet."""

    mark: Mark
    owner: KeyOwner


class _Waiting(NamedTuple):
    """Who waits for an answer: calls to begin, and how others end."""

    lookup: Lookup
    calls: list[OpenCall]
    endings: list[tuple[Mark, OpenCall, bytes | None]]


class Keys:
    """The keys that are granted, and the calls that wait to hear of theirs."""

    __slots__ = ("_answers", "_asked", "_calls", "_fresh", "_noted", "_parked", "_pen", "_ready", "_threaded")

    def __init__(self, pen: Pen, calls: Callable[[], GroupCalls], threaded: Collection[str] = ()) -> None:
        self._pen = pen
        self._threaded = frozenset(threaded)
        self._calls = calls
        self._noted: dict[bytes, _Noted] = {}
        self._answers = Answers()
        self._asked: dict[bytes, _Waiting] = {}
        self._fresh: list[Lookup] = []
        self._parked: dict[CallId, OpenCall] = {}
        """The calls that have their turn, and wait for an answer, or for a slot after it."""
        self._ready: tuple[deque[OpenCall], deque[OpenCall]] = deque(), deque()
        """Those of them that have their answer, and some that are gone; the second ones need a thread."""

    # -- turns ------------------------------------------------------------------------------------------

    def enter(self, call: OpenCall) -> Entry:
        """A call has its turn: grant it its key, or conclude it, or let it wait here without a slot."""
        key = key_of(call)
        owner = self.owner(key)
        if isinstance(owner, Elsewhere):
            self._ask(key, owner).calls.append(call)
            self._parked[call.call_id] = call
            return Entry.WAITS
        if owner is None:
            granted = KeyOwner(call.call_id, digest_of(call))
            self._noted[key] = _Noted(Mark.KEYED, granted)
            self._pen.note(Mark.KEYED, call, keyed_body(key, granted.digest))
            return Entry.GRANTED
        if owner.call_id == call.call_id:
            return Entry.OWNS
        self._refuse(call, owner)
        return Entry.TAKEN

    def end(self, mark: Mark, call: OpenCall, body: bytes | None, *, may_own: bool) -> None:
        """A call with a key ends, and had no effect: if the key is its own, it is free again. `may_own`: it
        may have got the key so long ago that a segment has to be read to know.
        """
        key = key_of(call)
        owner = self.owner(key)
        if isinstance(owner, Elsewhere):
            if may_own:
                self._ask(key, owner).endings.append((mark, call, body))
                return
        elif owner is not None and owner.call_id == call.call_id:
            self._noted[key] = _Noted(Mark.RELEASED, owner)
            self._pen.note(Mark.RELEASED, call, key)
        self._pen.note(mark, call, body)

    def owner(self, key: bytes) -> KeyOwner | Elsewhere | None:
        """Return who has a key, by its hash: as the log will tell once all is written."""
        noted = self._noted.get(key)
        if noted is not None:
            return noted.owner if noted.mark is Mark.KEYED else None
        index = self._calls().keys
        found = index.find(key) if index is not None else None
        return self._answers.instead_of(key, found)

    def _refuse(self, call: OpenCall, owner: KeyOwner) -> None:
        if owner.digest == digest_of(call):
            self._pen.note(Mark.DUPLICATE, call, owner.call_id)
            return
        first = format_call_id(owner.call_id)
        error = ErrorInfo(
            code=CONFLICT_CODE,
            message=f"its idempotency key {call.key!r} belongs to call {first}, which asks for something "
            "else; use a new key for another request",
            details={"first": first, "key": call.key},
        )
        self._pen.note(Mark.FAILED, call, encode(error))

    # -- segments ---------------------------------------------------------------------------------------

    def _ask(self, key: bytes, where: Elsewhere) -> _Waiting:
        waiting = self._asked.get(key)
        if waiting is None:
            lookup = Lookup(key, tuple(where.segments))
            waiting = self._asked[key] = _Waiting(lookup, [], [])
            self._fresh.append(lookup)
        return waiting

    def take_lookups(self) -> list[Lookup]:
        """Return what is to be looked up, once."""
        fresh, self._fresh = self._fresh, []
        return fresh

    def on_found(self, lookup: Lookup, owner: KeyOwner | None) -> list[OpenCall]:
        """A segment has been read. Returns the calls that ended by it; the others begin by :meth:`next`."""
        waiting = self._asked.get(lookup.key)
        if waiting is None or waiting.lookup is not lookup:
            return []  # asked in an earlier epoch
        del self._asked[lookup.key]
        self._answers.remember(lookup, owner)
        for mark, call, body in waiting.endings:
            self.end(mark, call, body, may_own=True)
        ended: list[OpenCall] = []
        for call in waiting.calls:
            if self._parked.get(call.call_id) is not call:
                continue
            now = self.owner(lookup.key)
            if isinstance(now, KeyOwner) and now.call_id != call.call_id:
                self._refuse(call, now)
                del self._parked[call.call_id]
                ended.append(call)
            else:
                self._ready[call.method in self._threaded].append(call)
        return ended

    # -- those that wait --------------------------------------------------------------------------------

    @property
    def has_ready(self) -> bool:
        """Whether :meth:`next` may have something to give."""
        return any(self._ready)

    @property
    def is_ending(self) -> bool:
        """Whether a call has ended, and only waits for an answer to give its key back."""
        return any(waiting.endings for waiting in self._asked.values())

    def next(self, has_room: Callable[[OpenCall], bool]) -> OpenCall | None:
        """Return a call that has its answer, if there is room for it: pass it to :meth:`enter` again."""
        for ready in self._ready:
            while ready and self._parked.get(ready[0].call_id) is not ready[0]:
                ready.popleft()
            if ready and has_room(ready[0]):
                call = ready.popleft()
                del self._parked[call.call_id]
                return call
        return None

    def withdraw(self, call_id: CallId) -> OpenCall | None:
        """A call ends while it waits here; ``None`` if it does not."""
        return self._parked.pop(call_id, None)

    def expire(self, now_ns: int) -> list[OpenCall]:
        """Take out the calls whose deadline passed while they waited."""
        expired = [call for call in self._parked.values() if call.deadline_ns <= now_ns]
        for call in expired:
            del self._parked[call.call_id]
        return expired

    # -- the log ----------------------------------------------------------------------------------------

    def on_own_folded(self, frame: PenFrame) -> None:
        """What a frame of this holder says is in the index now."""
        if not self._noted:
            return
        for (mark, call_id), body in zip(frame.entries, frame.bodies, strict=True):
            if (mark is Mark.KEYED or mark is Mark.RELEASED) and body is not None:
                key = body[:HASH_BYTES]
                noted = self._noted.get(key)
                if noted is not None and noted.mark is mark and noted.owner.call_id == call_id:
                    del self._noted[key]

    def clear(self) -> None:
        """The pen is someone else's."""
        self._noted.clear()
        self._asked.clear()
        self._fresh.clear()
        self._parked.clear()
        for ready in self._ready:
            ready.clear()
