"""The call frames that were handed to one worker of a pool, until they are done with."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Final

from aegisipc.eventstore.ids import CallId

MAX_PARKED: Final = 256
"""Frames that a worker keeps although nothing is left in them but calls in doubt. It goes on telling the
server, four times a second, that it has each of them.
"""


class Delivery:
    """One call frame that was handed to this worker and is not acknowledged yet. ``doubts`` are those of its
    open calls that are in doubt, and that nothing is done about here.

    `is_again`: an earlier worker may have begun its calls. `is_suspect`: one of its calls may be what took
    that worker down.
    """

    __slots__ = ("doubts", "is_again", "is_suspect", "open", "token")

    def __init__(self, token: str, *, is_again: bool, is_suspect: bool) -> None:
        self.token = token
        self.open: set[CallId] = set()
        self.doubts: set[CallId] = set()
        self.is_again = is_again
        self.is_suspect = is_suspect


class Deliveries:
    """The frames in hand. What is to be told to the server gathers in ``acks`` (done with), ``naks`` (for
    another worker, at once) and ``laters`` (for whoever has room for it, after a while).
    """

    def __init__(self) -> None:
        self.by_seq: dict[int, Delivery] = {}
        self.acks: list[str] = []
        self.naks: list[str] = []
        self.laters: list[str] = []
        self._frame_of: dict[CallId, int] = {}
        self._parked: set[int] = set()

    @property
    def busy(self) -> int:
        """How many of them hold more than calls in doubt."""
        return len(self.by_seq) - len(self._parked)

    def holds(self, call_id: CallId) -> bool:
        """Whether the call is open in one of them."""
        return call_id in self._frame_of

    def of(self, call_id: CallId) -> Delivery | None:
        """Return the frame in which the call is open."""
        return self.by_seq.get(self._frame_of.get(call_id, 0))

    def add(self, call_id: CallId, seq: int) -> None:
        """A call of frame `seq` is open."""
        self.by_seq[seq].open.add(call_id)
        self._frame_of[call_id] = seq

    def settle(self, call_id: CallId) -> None:
        """The call is concluded."""
        seq = self._frame_of.pop(call_id, 0)
        if seq in self.by_seq:
            delivery = self.by_seq[seq]
            delivery.open.discard(call_id)
            delivery.doubts.discard(call_id)
            self.look_at(seq)

    def doubt(self, call_id: CallId) -> None:
        """Nothing is to be done about the call until its doubt is resolved."""
        seq = self._frame_of.get(call_id, 0)
        if seq in self.by_seq:
            self.by_seq[seq].doubts.add(call_id)
            self.look_at(seq)

    def undoubt(self, call_id: CallId) -> None:
        """Its doubt is resolved."""
        seq = self._frame_of.get(call_id, 0)
        if seq in self.by_seq:
            self.by_seq[seq].doubts.discard(call_id)
            self._parked.discard(seq)

    def look_at(self, seq: int) -> None:
        """Acknowledge a frame of which nothing is open; note when only doubts are left in it."""
        delivery = self.by_seq[seq]
        if not delivery.open:
            self._drop(seq)
            self.acks.append(delivery.token)
        elif len(delivery.doubts) == len(delivery.open):
            self._parked.add(seq)

    def give_back(self, begun: AbstractSet[CallId]) -> set[CallId]:
        """Give back the frames of which no call is begun; returns the calls that are not in hand any more by
        that.
        """
        gone: set[CallId] = set()
        for seq in [seq for seq, delivery in self.by_seq.items() if delivery.open.isdisjoint(begun)]:
            self.naks.append(self.by_seq[seq].token)
            gone |= self._drop(seq)
        return gone

    def unload(self) -> set[CallId]:
        """Give back the parked frames over the limit; returns the calls that are not in hand any more."""
        gone: set[CallId] = set()
        while len(self._parked) > MAX_PARKED:
            seq = max(self._parked)
            self.laters.append(self.by_seq[seq].token)
            gone |= self._drop(seq)
        return gone

    def _drop(self, seq: int) -> set[CallId]:
        dropped = self.by_seq.pop(seq).open
        for call_id in dropped:
            del self._frame_of[call_id]
        self._parked.discard(seq)
        return dropped
