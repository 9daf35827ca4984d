"""Options of the verbs that ask the read model: which database, which rows, how many."""

from __future__ import annotations

import os
import re
from argparse import ArgumentParser, ArgumentTypeError

from aegisipc.eventstore.cli import add_json_option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace, _ActionsContainer

DEFAULT_LIMIT = 50
MAX_LIMIT = 10_000
DEFAULT_SQL = "sqlite:///aegis.db"
"""Where the projector writes to unless it is told otherwise."""

STATUSES = (
    "accepted",
    "started",
    "retry_wait",
    "in_doubt",
    "succeeded",
    "failed",
    "expired",
    "cancelled",
    "duplicate",
    "dead_lettered",
    "discarded",
)
OPEN = "open"
"""Stands for all states of calls that have no outcome."""

MIN_SHORT_ID = 8
"""Digits of the beginning of a call's id that may stand for all of it."""
_HEX = frozenset("0123456789abcdef")
_UUID_DIGITS = 32
_VERSION_AT = 12

_MOMENTS = "a time (2026-11-21T10:31:07, without a zone in UTC; 10:31:07; or -5m, -2h, -1d before now)"
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)\s?(us|ms|s|m|h)")
_UNITS_US = {"us": 1, "ms": 1000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000}
_LONGEST_US = 366 * 86_400 * 1_000_000
_LAST_NS = (1 << 63) - 1
_RELATIVE = re.compile(r"-\d[\d.]*[a-z]*$")
"""What begins with a dash and is a value all the same: a number, or a time before now."""


def add_sql_option(parser: _ActionsContainer, what: str, default: str) -> None:
    """Add ``--sql``: where the read model is; ``None`` if neither the option nor the environment says."""
    parser.add_argument(
        "--sql",
        default=os.environ.get("AEGIS_SQL") or None,
        metavar="URL",
        help=f"{what}: sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE (default: $AEGIS_SQL, "
        f"else {default})",
    )


def add_model_options(parser: ArgumentParser) -> None:
    """Add which read model to ask, how many rows to give, and ``--json``."""
    parser.add_argument(
        "--limit",
        type=_limit,
        default=DEFAULT_LIMIT,
        metavar="N",
        help=f"how many, 1 to {MAX_LIMIT} (default: %(default)s)",
    )
    add_json_option(parser)
    where = parser.add_argument_group("where")
    add_sql_option(where, "the read model's database", DEFAULT_SQL)
    where.add_argument(
        "--namespace",
        default=os.environ.get("AEGIS_NAMESPACE") or None,
        metavar="NAME",
        help="refuse a read model of another namespace (default: $AEGIS_NAMESPACE, else any will do)",
    )


def add_time_options(parser: ArgumentParser, what: str) -> None:
    """Add ``--since`` and ``--until``; both are in the arguments as Unix nanoseconds, or ``None``."""
    parser.add_argument("--since", type=moment, metavar="TIME", help=f"only {what} since then: {_MOMENTS}")
    parser.add_argument("--until", type=moment, metavar="TIME", help=f"only {what} until then")
    parser._negative_number_matcher = _RELATIVE  # else -5m is taken for an option


def check_times(args: Namespace) -> None:
    """See that the time between ``--since`` and ``--until`` is one."""
    if args.since is not None and args.until is not None and args.until < args.since:
        args.usage_error("--until: that is before --since")


def moment(text: str) -> int:
    """Read a time; one that is relative is so to this machine's clock. Returns Unix nanoseconds."""
    import time  # noqa: PLC0415 - not for --help

    from aegisipc.eventstore.replay.point_texts import (  # noqa: PLC0415 - heavy
        Ago,
        AtTime,
        BadPoint,
        TimeOfDay,
        parse_point,
    )

    try:
        point = parse_point(text)
    except BadPoint:
        point = None
    now_ns = time.time_ns()
    if point is not None and not point.before:
        match point.what:
            case AtTime(ns):
                return min(max(0, ns), _LAST_NS)
            case Ago(ns):
                return max(0, now_ns - ns)
            case TimeOfDay(ns):
                return _latest(ns, now_ns)
    raise ArgumentTypeError(f"{text!r:.80} is no time; give {_MOMENTS}")


def _latest(of_day_ns: int, now_ns: int) -> int:
    """Return the latest such time of day that is not in the future."""
    day_ns = 86_400 * 1_000_000_000
    today_ns = now_ns - now_ns % day_ns + of_day_ns
    return today_ns if today_ns <= now_ns else today_ns - day_ns


def duration_us(text: str) -> int:
    """Read a duration such as ``50ms``; returns microseconds."""
    found = _DURATION.fullmatch(text.strip())
    value = round(float(found[1]) * _UNITS_US[found[2]]) if found is not None else _LONGEST_US + 1
    if value > _LONGEST_US:
        raise ArgumentTypeError(f"{text!r:.80} is no duration; give one like 50ms, 1.5s or 2m")
    return value


def _limit(text: str) -> int:
    value = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
    if not 1 <= value <= MAX_LIMIT:
        raise ArgumentTypeError(f"give a number from 1 to {MAX_LIMIT}")
    return value


def call_digits(text: str) -> str:
    """Read the id of a call, or the beginning of one; returns its hexadecimal digits without the dashes."""
    digits = text.replace("-", "").lower()
    if not MIN_SHORT_ID <= len(digits) <= _UUID_DIGITS or not _HEX.issuperset(digits):
        raise ArgumentTypeError(
            f"cannot read {text!r:.80} as a call id: give a UUID as submit() returned it, or at least its "
            f"first {MIN_SHORT_ID} digits"
        )
    if digits[_VERSION_AT : _VERSION_AT + 1] not in ("", "7"):
        raise ArgumentTypeError(
            f"cannot read {text!r:.80} as a call id: give a UUID of version 7, as submit() returned it"
        )
    return digits
