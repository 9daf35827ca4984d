"""The calls of one worker that wait for their idempotency keys, and what is said of keys by it."""

from __future__ import annotations

from collections.abc import Callable

from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.ids import CallId
from aegisipc.eventstore.keys import HASH_BYTES, Elsewhere, KeyOwner
from aegisipc.eventstore.open_calls import OpenCall
from aegisipc.eventstore.pool_keys import PoolKeys, Said, keyed_body, released_body
from aegisipc.sdk.core.key_lookups import Answers, Lookup, digest_of, key_of
from aegisipc.sdk.core.pen import Pen
from aegisipc.sdk.core.pool_words import conflict_body


class _Waiting:
    """A call that waits for its key. ``is_noted``: it is on its way to the log that it has it."""

    __slots__ = ("call", "digest", "is_noted", "key")

    def __init__(self, call: OpenCall) -> None:
        self.call = call
        self.key = key_of(call)
        self.digest = digest_of(call)
        self.is_noted = False


class Keying:
    """Who waits for a key, and which calls in hand have theirs.

    A worker begins a call with a key only after its own word that the key is the call's has come back as one
    that counts, even if another worker said so before: so the log tells who may have begun it.

    `had_no_effect` tells of a call and the run of the worker that said last that a key is that call's,
    whether the log says by now that the call ended without having started.
    """

    def __init__(self, keys: PoolKeys, pen: Pen, had_no_effect: Callable[[CallId, str, int], bool]) -> None:
        self.keys = keys
        self._pen = pen
        self._had_no_effect = had_no_effect
        self._waiting: dict[CallId, _Waiting] = {}
        self._owned: set[CallId] = set()
        self._shared: set[CallId] = set()
        """Of those in hand, the ones of which another worker says that, too."""
        self._answers = Answers()
        self._asked: set[Lookup] = set()
        self._fresh: list[Lookup] = []

    # -- calls ------------------------------------------------------------------------------------------

    def has(self, call_id: CallId) -> bool:
        """Whether a call in hand has its key, by this worker's own word."""
        return call_id in self._owned

    def is_waiting(self, call_id: CallId) -> bool:
        """Whether a call waits here."""
        return call_id in self._waiting

    def enter(self, call: OpenCall) -> bool:
        """A call needs its key. Tells whether it is done with: the key is another's, and that is noted."""
        waiting = self._waiting[call.call_id] = _Waiting(call)
        return self._go_on(waiting)

    def _go_on(self, waiting: _Waiting) -> bool:
        call = waiting.call
        if not self.keys.is_open:
            return False
        owner = self.owner(waiting.key)
        if isinstance(owner, Elsewhere):
            self._ask(Lookup(waiting.key, tuple(owner.segments)))
        elif owner is None or owner.call_id == call.call_id:
            waiting.is_noted = True
            self._pen.note(Mark.KEYED, call, keyed_body(waiting.key, waiting.digest, self.keys.position))
        elif not self._is_given_back(waiting.key, owner):
            del self._waiting[call.call_id]
            if owner.digest == waiting.digest:
                self._pen.note(Mark.DUPLICATE, call, owner.call_id)
            else:
                self._pen.note(Mark.FAILED, call, conflict_body(call.key or "", owner.call_id))
            return True
        return False

    def _is_given_back(self, key: bytes, owner: KeyOwner) -> bool:
        """Who concluded the call that has the key did not come to say that it is free again: say so now."""
        said = self.keys.recent(key)
        if said is None or not self._had_no_effect(owner.call_id, said.writer, said.session):
            return False
        self.give_back(owner.call_id, key)
        return True

    def release(self, call: OpenCall, *, is_alone: bool) -> None:
        """A call in hand ended without having started: its key is free again. `is_alone`: that is so only if
        no other worker may have begun it.
        """
        if call.call_id in self._owned and not (is_alone and call.call_id in self._shared):
            body = released_body(key_of(call), self.keys.position)
            self._pen.note(Mark.RELEASED, call, body)

    def give_back(self, call_id: CallId, keyed: bytes | None) -> None:
        """The late word `keyed` that a call has its key counts, and the call is over."""
        key = (keyed or b"")[:HASH_BYTES]
        gone = OpenCall(call_id, "", "", None, 0, 0, b"")
        self._pen.note(Mark.RELEASED, gone, released_body(key, self.keys.position))

    def drop(self, call_id: CallId) -> None:
        """A call does not wait any more."""
        self._waiting.pop(call_id, None)

    def forget(self, call_id: CallId) -> None:
        """A call is not in hand any more."""
        self._waiting.pop(call_id, None)
        self._owned.discard(call_id)
        self._shared.discard(call_id)

    # -- the log's word ---------------------------------------------------------------------------------

    def on_keyed(self, call_id: CallId, before: Said | None, *, mine: bool, is_held: bool) -> bool:
        """It was said that a key is a call's (`before` is ``None`` if that does not count). Tells whether the
        call, which waited here, has its key now.
        """
        if not is_held:
            return False
        if not mine:
            if before is not None:
                self._shared.add(call_id)
            return False
        waiting = self._waiting.get(call_id)
        if before is None:
            if waiting is not None:
                waiting.is_noted = False
            return False
        self._owned.add(call_id)
        self._waiting.pop(call_id, None)
        return waiting is not None

    def go_on(self, key: bytes | None = None) -> list[CallId]:
        """Look again at the calls that wait (for that key), of which nothing is on its way. Returns those
        that are done with.
        """
        if not self._waiting:
            return []
        found = [w for w in self._waiting.values() if not w.is_noted and key in (None, w.key)]
        return [waiting.call.call_id for waiting in found if self._go_on(waiting)]

    def first_waiting(self, key: bytes) -> CallId | None:
        """Return a call that waits for that key, by its hash."""
        return next((call_id for call_id, waiting in self._waiting.items() if waiting.key == key), None)

    @property
    def needs_opening(self) -> bool:
        """Calls wait for their keys, and the pool has none yet."""
        return bool(self._waiting) and not self.keys.is_open

    # -- segments ---------------------------------------------------------------------------------------

    def owner(self, key: bytes) -> KeyOwner | Elsewhere | None:
        """Return who has a key, by its hash; what was read in segments is remembered for a while."""
        return self._answers.instead_of(key, self.keys.find(key))

    def _ask(self, lookup: Lookup) -> None:
        if lookup not in self._asked:
            self._asked.add(lookup)
            self._fresh.append(lookup)

    def take_lookups(self) -> list[Lookup]:
        """Return what is to be looked up, once."""
        fresh, self._fresh = self._fresh, []
        return fresh

    def on_found(self, lookup: Lookup, owner: KeyOwner | None) -> list[CallId]:
        """Segments were read. Returns the calls that are done with by that."""
        self._asked.discard(lookup)
        self._answers.remember(lookup, owner)
        return self.go_on(lookup.key)
