"""Questions to the read model: which calls there were, who was promoted and why, what instances went through.

Each is a function of a connection and of what is wanted, and answers with the newest first, at most so many.
The statements are the same on both databases; values travel as parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, and_, literal_column, or_, select

from aegisipc.eventstore.lifecycles import CallState
from aegisipc.eventstore.sql.models import (
    Call,
    DeadLetter,
    Doubt,
    Group,
    Instance,
    InstanceEvent,
    Promotion,
)

OPEN_STATES: Final = (CallState.ACCEPTED, CallState.STARTED, CallState.RETRY_WAIT, CallState.IN_DOUBT)
"""States of calls that have no outcome."""

_UUID_DASHES: Final = (8, 12, 16, 20)
_AFTER_HEX: Final = "g"
_INSTANCE_KEY: Final = ("service", "group_name", "instance", "incarnation")

type Row = dict[str, Any]
"""A row: its columns by name."""


class Found(NamedTuple):
    """Rows, the newest first, and whether there are more than were asked for."""

    rows: list[Row]
    more: bool


class CallStory(NamedTuple):
    """What the read model knows of one call. ``dead_letter`` is ``None`` if it never was one."""

    call: Row
    doubts: list[Row]
    dead_letter: Row | None


@dataclass(frozen=True, slots=True)
class WantedCalls:
    """Which calls; ``None`` and an empty ``statuses`` leave out no call. Times are Unix nanoseconds.

    ``since_ns`` and ``until_ns`` are about when a call was accepted, and include that moment.
    ``slower_than_us``: it took at least so many microseconds until it had its outcome; one that has none
    counts if by ``now_ns`` it has been open for as long.
    """

    service: str | None = None
    group: str | None = None
    method: str | None = None
    statuses: Sequence[str] = ()
    since_ns: int | None = None
    until_ns: int | None = None
    slower_than_us: int | None = None
    now_ns: int = 0
    resource: str | None = None
    client: str | None = None


@dataclass(frozen=True, slots=True)
class WantedHistory:
    """Which events of groups or instances; ``None`` leaves out none."""

    service: str | None = None
    group: str | None = None
    instance: str | None = None
    since_ns: int | None = None
    until_ns: int | None = None


# -- calls ----------------------------------------------------------------------------------------------


def calls(connection: Connection, wanted: WantedCalls, limit: int) -> Found:
    """Return calls, those accepted last first."""
    return _found(connection, calls_statement(wanted), limit)


def calls_statement(wanted: WantedCalls) -> Select[Any]:
    """Return the statement that :func:`calls` runs, but for the limit."""
    return (
        select(Call.__table__)
        .where(
            *_equal(
                (Call.service, wanted.service),
                (Call.group_name, wanted.group),
                (Call.method, wanted.method),
                (Call.resource, wanted.resource),
                (Call.client, wanted.client),
            ),
            *_between(Call.accepted_ns, wanted.since_ns, wanted.until_ns),
            *_of_statuses(wanted.statuses),
            *_slow(wanted),
        )
        .order_by(Call.accepted_ns.desc(), Call.call_id.desc())
    )


def _of_statuses(statuses: Sequence[str]) -> list[ColumnElement[bool]]:
    """The index of calls that did not succeed is only used if the statement says literally that it may be."""
    if not statuses:
        return []
    wanted: list[ColumnElement[bool]] = [Call.status.in_(sorted(set(statuses)))]
    if CallState.SUCCEEDED not in statuses:
        wanted.append(Call.status != literal_column(f"'{CallState.SUCCEEDED}'"))
    return wanted


def _slow(wanted: WantedCalls) -> list[ColumnElement[bool]]:
    if wanted.slower_than_us is None:
        return []
    began_by_ns = wanted.now_ns - wanted.slower_than_us * 1000
    is_open = and_(Call.concluded_ns.is_(None), Call.accepted_ns <= began_by_ns)
    return [or_(Call.latency_us >= wanted.slower_than_us, is_open)]


def stories_beginning_with(connection: Connection, digits: str, limit: int) -> list[CallStory]:
    """Return what is known of the calls whose ids begin with these hexadecimal digits (without dashes), the
    oldest first.
    """
    found = _found(connection, beginning_statement(digits), limit)
    return [_story(connection, call) for call in found.rows]


def beginning_statement(digits: str) -> Select[Any]:
    """Return the statement that finds the calls whose ids begin with these hexadecimal digits."""
    first = _with_dashes(digits)
    within = and_(Call.call_id >= first, Call.call_id < first + _AFTER_HEX)
    return select(Call.__table__).where(within).order_by(Call.call_id)


def _story(connection: Connection, call: Row) -> CallStory:
    call_id = call["call_id"]
    doubts = select(Doubt.__table__).where(Doubt.call_id == call_id).order_by(Doubt.seq)
    letter = select(DeadLetter.__table__).where(DeadLetter.call_id == call_id)
    dead_letter = connection.execute(letter).mappings().first()
    return CallStory(
        call,
        [dict(row) for row in connection.execute(doubts).mappings()],
        None if dead_letter is None else dict(dead_letter),
    )


def _with_dashes(digits: str) -> str:
    edges = [0, *(at for at in _UUID_DASHES if at < len(digits)), len(digits)]
    return "-".join(digits[start:end] for start, end in pairwise(edges))


# -- groups and instances -------------------------------------------------------------------------------


def promotions(connection: Connection, wanted: WantedHistory, limit: int) -> Found:
    """Return what happened to the pens of groups, the newest first."""
    statement = (
        select(Promotion.__table__)
        .where(
            *_equal(
                (Promotion.service, wanted.service),
                (Promotion.group_name, wanted.group),
                (Promotion.holder, wanted.instance),
            ),
            *_between(Promotion.at_ns, wanted.since_ns, wanted.until_ns),
        )
        .order_by(Promotion.seq.desc())
    )
    return _found(connection, statement, limit)


def instances(connection: Connection, wanted: WantedHistory, limit: int) -> Found:
    """Return the instances that are there now, by service, group and name. Each has the ``epoch`` that it
    holds, ``None`` if it does not hold its group's pen.
    """
    holds = and_(
        Group.service == Instance.service,
        Group.group_name == Instance.group_name,
        Group.holder == Instance.instance,
        Group.holder_incarnation == Instance.incarnation,
    )
    statement = (
        select(Instance.__table__, Group.epoch)
        .outerjoin_from(Instance, Group, holds)
        .where(
            Instance.ended_ns.is_(None),
            *_equal(
                (Instance.service, wanted.service),
                (Instance.group_name, wanted.group),
                (Instance.instance, wanted.instance),
            ),
            *_between(Instance.since_ns, wanted.since_ns, wanted.until_ns),
        )
        .order_by(*(getattr(Instance, name) for name in _INSTANCE_KEY))
    )
    return _found(connection, statement, limit)


def instance_events(connection: Connection, wanted: WantedHistory, limit: int) -> Found:
    """Return what happened to instances, the newest first."""
    statement = (
        select(InstanceEvent.__table__)
        .where(
            *_equal(
                (InstanceEvent.service, wanted.service),
                (InstanceEvent.group_name, wanted.group),
                (InstanceEvent.instance, wanted.instance),
            ),
            *_between(InstanceEvent.at_ns, wanted.since_ns, wanted.until_ns),
        )
        .order_by(InstanceEvent.seq.desc(), InstanceEvent.instance)
    )
    return _found(connection, statement, limit)


# -- what they have in common ---------------------------------------------------------------------------


def _equal(*pairs: tuple[Any, str | None]) -> list[ColumnElement[bool]]:
    return [column == value for column, value in pairs if value is not None]


def _between(column: Any, since_ns: int | None, until_ns: int | None) -> list[ColumnElement[bool]]:
    wanted = [] if since_ns is None else [column >= since_ns]
    return wanted if until_ns is None else [*wanted, column <= until_ns]


def _found(connection: Connection, statement: Select[Any], limit: int) -> Found:
    rows: list[Mapping[Any, Any]] = list(connection.execute(statement.limit(limit + 1)).mappings())
    return Found([dict(row) for row in rows[:limit]], len(rows) > limit)
