"""What an explanation is made of: links of a chain, each with what it follows from, and the answer.

Pure: whoever reads a history builds the chain with it, link by link.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from aegisipc.eventstore.codec import decode
from aegisipc.eventstore.errors import AegisError, CodecError
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.replay.moments import iso

MAX_LINKS: Final = 400
"""Links that a chain keeps; of the rest it tells the number."""

MAX_NAMED: Final = 10
"""How many names an error or a note lists."""

MAX_SAID_CHARS: Final = 500
"""Characters of what one link says: causes and reasons come from others."""

type Plain = dict[str, Any]


class UnknownGroup(AegisError):
    """The history has no such group up to that point. Field ``groups``: those that it has."""

    code = "unknown_group"


class UnknownInstance(AegisError):
    """The history has no such instance up to that point. Field ``instances``: those that it has."""

    code = "unknown_instance"


class AmbiguousInstance(AegisError):
    """Several groups have an instance of that id. Field ``instances``: which, as they can be given."""

    code = "ambiguous_instance"


class CallAfterPoint(AegisError):
    """The call was accepted later than the point that is looked at. Fields: ``call_id``, ``seq``,
    ``until_seq``.
    """

    code = "call_after_point"


class Link(NamedTuple):
    """One link of a chain. ``number`` counts from 1; ``follows`` holds the numbers of the links that this one
    came from. ``seq`` is the record's that says it; 0 when no record of the log does (a heartbeat, or that
    there was none). ``at_ns`` is the server's Unix time. ``what`` names the kind of
    link for programs, ``said`` tells it to people, ``data`` holds what it is made of.
    """

    number: int
    seq: int
    at_ns: int
    what: str
    said: str
    follows: tuple[int, ...]
    data: Mapping[str, Any]

    def to_plain(self) -> Plain:
        """Return the link as plain data."""
        return {
            "number": self.number,
            "seq": self.seq or None,
            "at_ns": self.at_ns,
            "time": iso(self.at_ns),
            "what": self.what,
            "said": self.said,
            "follows": list(self.follows),
            "data": dict(self.data),
        }


@dataclass(slots=True)
class Reason:
    """An explanation: the answer in a sentence or two, and the chain of what led there.

    ``kind`` is ``group``, ``instance`` or ``call``; ``about`` says which one. ``notes`` tell what belongs to
    no link. ``omitted`` counts the links that are left out.
    """

    kind: str
    about: Plain
    answer: str = ""
    links: list[Link] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    omitted: int = 0
    details: Plain = field(default_factory=dict)
    """For programs: what the answer is made of."""

    def add(
        self,
        what: str,
        said: str,
        *,
        at_ns: int,
        seq: int = 0,
        follows: Iterable[int] = (),
        **data: Any,
    ) -> int:
        """Add a link, and return its number: 0 when the chain is full, which no link follows from."""
        if len(self.links) >= MAX_LINKS:
            self.omitted += 1
            return 0
        number = len(self.links) + 1
        self.links.append(Link(number, seq, at_ns, what, cut(said), _earlier(number, follows), data))
        return number

    def sort(self) -> None:
        """Put the links in the order of time; numbers follow. What no record says comes first of what has the
        same time: a decision is made on what was heard before.
        """
        ordered = sorted(self.links, key=lambda link: (link.at_ns, link.seq))
        renumbered = {link.number: index for index, link in enumerate(ordered, 1)}
        self.links = [
            link._replace(
                number=number, follows=_earlier(number, (renumbered[each] for each in link.follows))
            )
            for number, link in enumerate(ordered, 1)
        ]

    def to_plain(self) -> Plain:
        """Return everything as plain data."""
        return {
            "kind": self.kind,
            **self.about,
            "answer": self.answer,
            **self.details,
            "chain": [link.to_plain() for link in self.links],
            "notes": list(self.notes),
            "omitted": self.omitted,
        }


def _earlier(number: int, follows: Iterable[int]) -> tuple[int, ...]:
    """Nothing follows from what came later: a heartbeat may be stored after the end of its connection."""
    return tuple(sorted({each for each in follows if 0 < each < number}))


# -- words ----------------------------------------------------------------------------------------------


def moment(at_ns: int) -> str:
    """Return a time for people, to the millisecond: ``2026-03-01T10:31:07.250Z``."""
    seconds, ns = divmod(at_ns, 1_000_000_000)
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{ns // 1_000_000:03}Z"
    except (ValueError, OverflowError, OSError):  # no clock says that
        return f"{seconds} s of Unix time"


def lasted(ns: int) -> str:
    """Return a duration for people, exact where it is short: ``1019 ms``, ``12.5 s``, ``4 min``, ``3 h``."""
    ms = ns // 1_000_000
    if abs(ms) < 10_000:
        return f"{ms} ms"
    seconds = ms / 1000
    for limit, unit, size, digits in ((120, "s", 1, 1), (7200, "min", 60, 0), (172_800, "h", 3600, 0)):
        if seconds < limit:
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds / 86_400:.0f} d"


def cut(text: str, limit: int = MAX_SAID_CHARS) -> str:
    """Return `text`, cut to a bearable length."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def named(items: Sequence[str], limit: int = MAX_NAMED) -> str:
    """List the first of `items`, and how many more there are; ``none`` if there are none."""
    if not items:
        return "none"
    shown = ", ".join(cut(item, 80) for item in items[:limit])
    more = len(items) - limit
    return f"{shown} and {more} more" if more > 0 else shown


def counted(number: int, one: str, many: str = "") -> str:
    """Return ``1 call``, ``3 calls``."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def body_of(body: bytes | None) -> Plain:
    """Return what the body of a mark says, if it is a map that can be read; else an empty one."""
    try:
        said = decode(body) if body is not None else None
    except CodecError:
        return {}
    return (
        {key: value for key, value in said.items() if isinstance(key, str)} if isinstance(said, dict) else {}
    )


def by_whom(said: Plain) -> str:
    """Say who resolved a doubt or decided about a dead letter: ``operator ann@box: the venue has it``."""
    source = said.get("source", "operator")
    author, reason = said.get("author"), said.get("reason")
    text = f"{source} {author}" if author else str(source)
    if source == "evidence" and author:
        text = f"the evidence of {author}"
    return f"{text}: {reason}" if reason else text


def error_in(said: Plain) -> str:
    """Say what an error tells: ``refused: no such account``."""
    code, message = said.get("code"), said.get("message")
    if code in _NO_NEWS and message:
        return str(message)
    return f"{code}: {message}" if code and message else str(message or code or "no error was given")


_NO_NEWS: Final = frozenset({"in_doubt", "cancelled", "dead_lettered", "expired"})
"""Codes that say no more than the mark does."""

_ENDS: Final[Mapping[Mark, str]] = {
    Mark.SUCCEEDED: "succeeded",
    Mark.FAILED: "failed",
    Mark.EXPIRED: "expired",
    Mark.DUPLICATE: "was a duplicate",
    Mark.CANCELLED: "was cancelled",
    Mark.DEAD_LETTERED: "became a dead letter",
    Mark.DISCARDED: "was discarded",
}


def ended(mark: Mark) -> str:
    """Say how a call ended."""
    return _ENDS.get(mark, mark.name.lower().replace("_", " "))
