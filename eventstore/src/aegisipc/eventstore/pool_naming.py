"""What words about a pool's calls name, and whether they are about what counts now.

Who writes decides on what was read a moment ago, and a frame may be under way for long. So what could do harm
when it comes late names what it is about: a doubt the claim, a resolution the doubt, a retry the attempt that
failed, what ends a claimed call the claim, what deals with a dead letter that one. Whoever folds a pool's
calls (workers, routers, readers of histories) leaves out what is about something else by then.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from aegisipc.eventstore.codec import decode
from aegisipc.eventstore.errors import CodecError
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.ids import CallId

NAMING: Final = frozenset(
    {
        Mark.IN_DOUBT,
        Mark.NOT_EXECUTED,
        Mark.RETRY_SCHEDULED,
        Mark.CANCELLED,
        Mark.DEAD_LETTERED,
        Mark.REQUEUED,
        Mark.DISCARDED,
    }
)
"""Marks whose bodies say what they are about."""

MAX_LETTERS: Final = 10_000


class Scheduled(NamedTuple):
    """Attempt number ``attempt`` failed; the next one is due at ``due_ns``."""

    attempt: int
    due_ns: int
    claimed_seq: int


class Standing(NamedTuple):
    """Where a call stands: its claim that counts now (0: none), its latest doubt, or dead letter; the dead
    letter from which it came back (0: none), and how many attempts failed since.
    """

    claim_seq: int
    latest_seq: int
    dead_seq: int
    tries: int


def is_about(standing: Standing, mark: Mark, body: bytes | None) -> bool:
    """Tell whether a word is about what counts now, for marks of :data:`NAMING` that count otherwise."""
    match mark:
        case Mark.IN_DOUBT:
            return claim_in(body) in (0, standing.claim_seq)
        case Mark.NOT_EXECUTED | Mark.DISCARDED:
            return doubt_in(body) in (0, standing.latest_seq)
        case Mark.REQUEUED:
            return requeued_from(body) == standing.latest_seq
        case Mark.RETRY_SCHEDULED:
            said = scheduled_in(body)
            here = (standing.tries + 1, standing.claim_seq)
            return said is not None and (said.attempt, said.claimed_seq) == here
        case _:  # CANCELLED, DEAD_LETTERED
            return (claim_in(body), dead_letter_in(body)) == (standing.claim_seq, standing.dead_seq)


class Letters:
    """The dead letters of a pool, for a fold that forgets closed calls: where that of each call stands that
    counts, 0 if it was dealt with. The latest 10,000 are remembered; of older ones every word counts.
    """

    __slots__ = ("_seqs",)

    def __init__(self) -> None:
        self._seqs: OrderedDict[CallId, int] = OrderedDict()

    def note(self, call_id: CallId, seq: int) -> None:
        """A call became a dead letter at `seq`, or is none any more (0)."""
        self._seqs[call_id] = seq
        self._seqs.move_to_end(call_id)
        if len(self._seqs) > MAX_LETTERS:
            self._seqs.popitem(last=False)

    def dump(self) -> list[tuple[CallId, int]]:
        """Return what is remembered, oldest first."""
        return list(self._seqs.items())

    def load(self, plain: Iterable[tuple[CallId, int]]) -> None:
        """Remember what :meth:`dump` gave."""
        self._seqs = OrderedDict((call_id, seq) for call_id, seq in plain)

    def is_about(self, call_id: CallId, mark: Mark, body: bytes | None) -> bool:
        """Tell whether a word that deals with a dead letter is about the one that counts."""
        latest = self._seqs.get(call_id)
        return latest is None or (latest > 0 and is_about(Standing(0, latest, 0, 0), mark, body))


# -- reading ----------------------------------------------------------------------------------------------


def number_in(body: bytes | None) -> int:
    """Return the number of an attempt, 0 if there is none."""
    return _int(said_in(body))


def claim_in(body: bytes | None) -> int:
    """Return the claim that a word names, 0 if it names none."""
    return named_in(body, "details", "claimed_seq")


def dead_letter_in(body: bytes | None) -> int:
    """Return the dead letter that an outcome names as what the call came back from."""
    return named_in(body, "details", "dead_seq")


def doubt_in(body: bytes | None) -> int:
    """Return the doubt, or the dead letter, that a resolution names."""
    return named_in(body, "doubt_seq")


def requeued_from(body: bytes | None) -> int:
    """Return the dead letter that a ``REQUEUED`` fact names."""
    return named_in(body, "dead_seq")


def scheduled_in(body: bytes | None) -> Scheduled | None:
    """Read the body of a ``RETRY_SCHEDULED`` fact; ``None`` if it cannot be read."""
    said = said_in(body)
    if not isinstance(said, dict):
        return None
    return Scheduled(*(_int(said.get(name)) for name in Scheduled._fields))


def said_in(body: bytes | None) -> Any:
    """Return what a body says, ``None`` if it cannot be read."""
    try:
        return decode(body or b"")
    except CodecError:
        return None


def named_in(body: bytes | None, *path: str) -> int:
    """Return the number that stands at a place in a body, 0 if there is none."""
    found = said_in(body)
    try:
        for name in path:
            found = found[name]
    except (LookupError, TypeError):
        return 0
    return _int(found)


def _int(value: Any) -> int:
    return value if type(value) is int else 0
