"""One member's copy of the state that its group shares.

The holder of the pen applies an event when the call that emitted it ends, before the frame with its outcome
is in the log; everyone else applies it when that frame is folded. So the holder's copy runs ahead of the log
by what is not written yet. If it loses the pen just then, its copy holds what the log will never have: it has
to be built again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from aegisipc.eventstore.calls import OpenCall
from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.events import ErrorInfo
from aegisipc.eventstore.frames import MAX_ENTRIES, Mark
from aegisipc.sdk.core.pen import NOBODYS_CALL, Fact, Pen

MAX_EVENTS: Final = MAX_ENTRIES - 2
"""Events of one call: they have to fit into a frame with its outcome, and with the note that ends a doubt."""

MAX_CHECKS: Final = 8
"""Checks of the state that are remembered."""


class State(Protocol):
    """The service's state, as bytes go in and out of it. What it does must depend on the events alone."""

    def apply(self, body: bytes) -> None:
        """Apply an event."""
        ...

    def digest(self) -> bytes:
        """Return a digest that equal states share."""
        ...

    def snapshot(self) -> bytes:
        """Return the whole state."""
        ...


class Check(NamedTuple):
    """What a check of the state gave: the digest here, and the one that the holder put into the log."""

    own: bytes
    log: bytes


class Replica:
    """The copy of one member. ``spoiled`` says why it can be trusted no more; ``None`` while it can.
    ``failure`` is the error by which that came, if there was one.
    """

    __slots__ = ("_max_bytes", "_pen", "_state", "checks", "failure", "spoiled")

    def __init__(self, state: State | None, pen: Pen, *, max_bytes: int) -> None:
        self._state = state
        self._pen = pen
        self._max_bytes = max_bytes
        self.checks: OrderedDict[int, Check] = OrderedDict()
        self.spoiled: str | None = None
        self.failure: Exception | None = None

    def apply(self, events: Sequence[bytes]) -> bool:
        """Apply events here; tells whether that worked. If not, the copy is spoiled, and takes no more: what
        it would make of them says nothing of the others.
        """
        if not events:
            return True
        if self._state is None or self.spoiled is not None:
            return False
        try:
            for event in events:
                self._state.apply(event)
        except Exception as error:  # noqa: BLE001 - the service's own code runs here
            self.spoiled, self.failure = f"an event could not be applied: {error}", error
            return False
        return True

    def conclude(
        self, call: OpenCall, mark: Mark, body: bytes | None, events: Sequence[bytes]
    ) -> tuple[Mark, bytes | None]:
        """Apply the events of a call here and let them go in front of its outcome; or fail it, and drop them.
        Returns the outcome.
        """
        size = sum(32 + len(event) for event in events) + len(body or b"")
        if size > self._max_bytes or len(events) > MAX_EVENTS:
            return Mark.FAILED, _too_large(size, self._max_bytes)
        if not self.apply(events):
            return Mark.FAILED, _not_applied(self.spoiled or "this service shares no state")
        self.note(call, events)
        return mark, body

    def note(self, call: OpenCall, events: Sequence[bytes]) -> None:
        """Put events, applied here already, in front of the outcome of `call`."""
        for event in events:
            self._pen.note(Mark.EMITTED, call, event)

    def check(self) -> bytes | None:
        """Put a digest of the state into the log, behind all that is applied here; returns it, or ``None``
        without a state, or with one that nobody else has. Raises what the state's ``digest`` raises, and then
        nothing is written.
        """
        if self._state is None or self.spoiled is not None:
            return None
        digest = self._state.digest()
        self._pen.note(Mark.CHECKED, NOBODYS_CALL, digest)
        return digest

    def fold(self, facts: Sequence[tuple[Mark, bytes]], seq: int, *, mine: bool) -> None:
        """Take in what a frame says of the state. Of a frame of this very run, all is applied already."""
        for mark, body in facts:
            if mark is Mark.CHECKED:
                self._fold_check(body, seq, mine=mine)
            elif not mine and self._state is not None:
                self.apply([body])

    def _fold_check(self, told: bytes, seq: int, *, mine: bool) -> None:
        if self._state is None or self.spoiled is not None:
            return
        try:
            own = told if mine else self._state.digest()
        except Exception as error:  # noqa: BLE001 - the service's own code runs here
            self.spoiled, self.failure = f"its digest could not be taken: {error}", error
            return
        check = Check(own, told)
        self.checks[seq] = check
        if len(self.checks) > MAX_CHECKS:
            self.checks.popitem(last=False)
        if check.own != check.log:
            self.spoiled = f"it differs from the holder's at {seq}"

    def on_pen_lost(self, lost: Sequence[Fact]) -> None:
        """The pen is someone else's, and `lost` will never be in the log."""
        if any(fact.mark is Mark.EMITTED for fact in lost):
            self.spoiled = "it is ahead of the log: events were applied that the log refused"

    def snapshot(self) -> bytes | None:
        """Return the whole state, or ``None`` without one."""
        return self._state.snapshot() if self._state is not None else None


def _too_large(size_bytes: int, limit_bytes: int) -> bytes:
    return encode(
        ErrorInfo(
            code="result_too_large",
            message=f"it ran, but its result and its events of {size_bytes} bytes are over the limit of "
            f"{limit_bytes}",
            details={"size_bytes": size_bytes, "limit_bytes": limit_bytes},
        )
    )


def _not_applied(why: str) -> bytes:
    return encode(
        ErrorInfo(
            code="state_apply_failed",
            message=f"it ran, but the state did not take its events, which are dropped: {why}"[:4000],
        )
    )
