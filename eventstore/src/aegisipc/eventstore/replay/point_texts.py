"""What people write for a point in a history, and what it means before anybody has looked at a log.

::

    [before:]WHAT

    2026-11-21T10:31:07.250Z    a time; without a zone it is UTC, as in all output
    10:31:07.250                the latest such time of day that the log knows
    -5m  -90s  -2h  -1d         so long before the log's end; of a log on a server, before now
    -250ms
    4711                        a sequence
    019a9e6e-8d5b-…             a call: where it was accepted; 8 hexadecimal digits of its beginning will do
    start  end                  the first record, or all there is
    group.promoted              the last event of that type (or mark of a call: in_doubt, failed, …);
                                with first: or last: before it, the first or last one, of calls, too
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Final, Literal, NamedTuple

from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.events import REGISTRY
from aegisipc.eventstore.frames import Mark

NS: Final = 1_000_000_000
ACCEPTED: Final = "accepted"
"""What a call frame says of each of its calls, beside the marks of the others."""

MARKS: Final = {mark.name.lower(): mark for mark in Mark}

FORMS: Final = (
    "give a time (2026-11-21T10:31:07.250Z, 10:31:07, -5m), a sequence, a call id or at least its first 8 "
    "digits, 'start', 'end', or an event such as group.promoted or in_doubt (first:… and last:… choose one); "
    "before:… is the moment just before"
)
_MIN_HEX: Final = 8
_UUID_HEX: Final = 32
_MAX_SEQ: Final = 1 << 63
_MAX_SHOWN: Final = 80

_AGO: Final = re.compile(r"-(\d{1,12}(?:\.\d{1,9})?)(ms|s|m|h|d)")
_DAY_TIME: Final = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,9}))?)?")
_TIME: Final = re.compile(
    r"(\d{4}-\d{2}-\d{2})(?:[Tt ](\d{2}:\d{2}(?::\d{2})?)(?:[.,](\d{1,9}))?\s?(Z|z|[+-]\d{2}:?\d{2})?)?"
)
_HEX: Final = re.compile(r"[0-9a-fA-F][0-9a-fA-F-]*")
_EVENT: Final = re.compile(r"([a-z_]+\.[a-z_]+|[a-z_]+)(\.v\d+)?")
_UNITS_NS: Final = {"ms": NS // 1000, "s": NS, "m": 60 * NS, "h": 3600 * NS, "d": 86_400 * NS}

type Which = Literal["first", "last"]


class BadPoint(AegisError):
    """A text that names no point in a history. Field: ``text``."""

    code = "bad_point"


class Edge(NamedTuple):
    """The first record, or the end."""

    is_end: bool


class AtSeq(NamedTuple):
    """A sequence."""

    seq: int


class AtTime(NamedTuple):
    """A moment: Unix nanoseconds."""

    ns: int


class TimeOfDay(NamedTuple):
    """Nanoseconds since midnight (UTC), on whichever day."""

    ns: int


class Ago(NamedTuple):
    """Nanoseconds before the end."""

    ns: int


class OfCall(NamedTuple):
    """A call: the hexadecimal digits that its id begins with. ``last``: the latest word about it."""

    digits: str
    which: Which


class OfEvent(NamedTuple):
    """An event by its type, without the version unless one was given; or a mark of calls, or ``accepted``."""

    name: str
    version: str
    which: Which


type What = Edge | AtSeq | AtTime | TimeOfDay | Ago | OfCall | OfEvent


@dataclass(frozen=True, slots=True)
class Wanted:
    """A point as it was asked for. ``before``: the moment just before."""

    text: str
    what: What
    before: bool


def parse_point(text: str) -> Wanted:
    """Read what somebody wrote for a point.

    Raises:
        BadPoint: it is none of the forms.
    """
    rest = text.strip()
    before = rest.startswith("before:")
    rest = rest.removeprefix("before:").strip()
    which: Which | None = None
    if rest.startswith(("first:", "last:")):
        which = "first" if rest.startswith("first:") else "last"
        rest = rest.partition(":")[2].strip()
    what = _of_things(rest, which)
    if what is None and which is None:
        what = _of_moments(rest)
    if what is None:
        raise _bad(text, FORMS)
    return Wanted(text.strip(), what, before)


def _of_things(text: str, which: Which | None) -> What | None:
    """A call or an event: what there may be a first and a last of."""
    digits = text.replace("-", "").lower()
    # A sequence never begins with 0; a call id does, for the next 500 years.
    if _HEX.fullmatch(text) and _MIN_HEX <= len(digits) <= _UUID_HEX and (which or text.startswith("0")):
        return OfCall(digits, which or "first")
    event = _EVENT.fullmatch(text)
    if event is None or text in ("start", "end"):
        return None
    name, version = event[1], (event[2] or "").removeprefix(".")
    is_word = name in MARKS or name == ACCEPTED
    if is_word and version:
        raise _bad(text, f"marks of calls have no version; give {name}")
    if not is_word and "." not in name:
        raise _bad(text, f"{meant(name)}{FORMS}")
    return OfEvent(name, version, which or "last")


def _bad(text: str, why: str) -> BadPoint:
    return BadPoint(f"cannot find a point in {text!r:.{_MAX_SHOWN}}: {why}", text=text[:_MAX_SHOWN])


def meant(name: str) -> str:
    """Say which event or mark may have been meant by a name that is none; nothing for one that is."""
    known = sorted({name.rpartition(".v")[0] for name in REGISTRY.classes} | MARKS.keys() | {ACCEPTED})
    if name in known:
        return ""
    near = [each for each in known if name in each or each in name] or get_close_matches(name, known, n=2)
    return f"did you mean {' or '.join(near[:4])}? Else " if near else ""


def _of_moments(text: str) -> What | None:
    if text in ("start", "end"):
        return Edge(text == "end")
    if text.isascii() and text.isdigit():
        return AtSeq(int(text[:20])) if int(text[:20]) < _MAX_SEQ else None
    if (ago := _AGO.fullmatch(text)) is not None:
        return Ago(_scaled(ago[1], _UNITS_NS[ago[2]]))
    if (day := _DAY_TIME.fullmatch(text)) is not None:
        hours, minutes, seconds = (int(part or 0) for part in day.groups()[:3])
        if hours > 23 or minutes > 59 or seconds > 59:
            return None
        return TimeOfDay(((hours * 60 + minutes) * 60 + seconds) * NS + _fraction(day[4]))
    return _time(text)


def _time(text: str) -> AtTime | None:
    found = _TIME.fullmatch(text)
    if found is None:
        return None
    day, clock, fraction, zone = found.groups()
    try:
        moment = datetime.fromisoformat(f"{day}T{clock or '00:00'}{(zone or 'Z').upper()}")
        since = moment.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
    return AtTime((since.days * 86_400 + since.seconds) * NS + _fraction(fraction))


def _fraction(digits: str | None) -> int:
    return int((digits or "").ljust(9, "0"))


def _scaled(number: str, unit_ns: int) -> int:
    whole, _, fraction = number.partition(".")
    return int(whole) * unit_ns + _fraction(fraction) * unit_ns // NS
