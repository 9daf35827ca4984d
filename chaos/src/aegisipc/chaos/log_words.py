"""Which words about a call count: the rules of ``docs/lifecycles.md``, told once more and independently.

A call moves from state to state by what frames say of it. A word that its state has no way for does not
count. In a pool, where many write, a word that could do harm when it comes late names what it is about (the
claim, the doubt, the attempt, the dead letter), and does not count if that is past.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, Protocol

from aegisipc.eventstore.codec import decode
from aegisipc.eventstore.errors import CodecError
from aegisipc.eventstore.frames import Mark


class CallState(StrEnum):
    """Where a call stands."""

    OPEN = "open"
    CLAIMED = "claimed"
    WAITING = "waiting"
    """For its next attempt."""
    DOUBT = "in doubt"
    DEAD = "dead lettered"
    FINAL = "final"


_ENDS: Final = {Mark.SUCCEEDED: CallState.FINAL, Mark.FAILED: CallState.FINAL}
_UNTIL_CLAIMED: Final = {
    **_ENDS,
    Mark.CLAIMED: CallState.CLAIMED,
    Mark.RETRY_SCHEDULED: CallState.WAITING,
    Mark.EXPIRED: CallState.FINAL,
    Mark.CANCELLED: CallState.FINAL,
    Mark.DEAD_LETTERED: CallState.DEAD,
}

NEXT: Final[Mapping[CallState, Mapping[Mark, CallState]]] = {
    CallState.OPEN: {**_UNTIL_CLAIMED, Mark.DUPLICATE: CallState.FINAL},
    CallState.WAITING: _UNTIL_CLAIMED,
    CallState.CLAIMED: {
        **_ENDS,
        Mark.RETRY_SCHEDULED: CallState.WAITING,
        Mark.IN_DOUBT: CallState.DOUBT,
        Mark.CANCELLED: CallState.FINAL,
        Mark.DEAD_LETTERED: CallState.DEAD,
    },
    CallState.DOUBT: {**_ENDS, Mark.NOT_EXECUTED: CallState.OPEN, Mark.EXECUTED: CallState.DOUBT},
    CallState.DEAD: {Mark.REQUEUED: CallState.OPEN, Mark.DISCARDED: CallState.FINAL},
    CallState.FINAL: {},
}
"""What each word does to a call; a word that is not there does not count."""

BESIDE: Final = frozenset({Mark.KEYED, Mark.RELEASED, Mark.ATTEMPTED})
"""Words that move no call."""


class Said(Protocol):
    """A word, as far as these rules look at it."""

    @property
    def seq(self) -> int:
        """Where it stands in the log."""
        ...

    @property
    def mark(self) -> Mark:
        """What it says."""
        ...


def is_about_this(state: CallState, words: Sequence[Said], mark: Mark, body: bytes | None) -> bool:
    """Tell whether a word about a call of a pool is about what counts now. `words` are those that counted."""
    if mark in (Mark.CLAIMED, Mark.SUCCEEDED, Mark.FAILED, Mark.EXPIRED, Mark.DUPLICATE, Mark.EXECUTED):
        return True
    said = said_in(body)
    claim = _last(words, Mark.CLAIMED) if state is CallState.CLAIMED else 0
    dead = _last(words, Mark.DEAD_LETTERED)
    if mark is Mark.IN_DOUBT:
        return number_at(said, "details", "claimed_seq") in (0, claim)
    if mark in (Mark.NOT_EXECUTED, Mark.DISCARDED):
        latest = dead if mark is Mark.DISCARDED else _last(words, Mark.IN_DOUBT)
        return number_at(said, "doubt_seq") in (0, latest)
    if mark is Mark.REQUEUED:
        return number_at(said, "dead_seq") == dead
    if mark is Mark.RETRY_SCHEDULED:
        named = number_at(said, "attempt"), number_at(said, "claimed_seq")
        return named == (_tries(words) + 1, claim)
    named = number_at(said, "details", "claimed_seq"), number_at(said, "details", "dead_seq")
    return named == (claim, dead)


def _last(words: Sequence[Said], mark: Mark) -> int:
    return next((word.seq for word in reversed(words) if word.mark is mark), 0)


def _tries(words: Sequence[Said]) -> int:
    """How many attempts failed since the call was accepted or requeued."""
    tries = 0
    for word in words:
        if word.mark is Mark.RETRY_SCHEDULED:
            tries += 1
        elif word.mark is Mark.REQUEUED:
            tries = 0
    return tries


def said_in(body: bytes | None) -> Any:
    """Return what a body says, ``None`` if it cannot be read."""
    if not body:
        return None
    try:
        return decode(body)
    except CodecError:
        return None


def number_at(said: Any, *path: str) -> int:
    """Return the number that stands at a place in what a body says, 0 if there is none."""
    for name in path:
        if not isinstance(said, dict):
            return 0
        said = said.get(name)
    return said if type(said) is int else 0


def code_of(body: bytes | None) -> str:
    """Return the code of the error that a body holds, ``""`` if it holds none."""
    said = said_in(body)
    code = said.get("code") if isinstance(said, dict) else None
    return code if isinstance(code, str) else ""


_WIDTHS: Final = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}


def argument_number(body: bytes) -> int | None:
    """Return the first positional argument of a call, if it is an integer that is not negative.

    The arguments are ``[[positional, …], {named, …}]``; no more of them is decoded than is needed.
    """
    if len(body) < 3 or body[0] != 0x92:
        return None
    if 0x91 <= body[1] <= 0x9F:
        at = 2
    elif body[1] == 0xDC:
        at = 4
    else:
        return None
    if at >= len(body):
        return None
    head = body[at]
    if head <= 0x7F:
        return head
    width = _WIDTHS.get(head)
    return int.from_bytes(body[at + 1 : at + 1 + width]) if width is not None else None
