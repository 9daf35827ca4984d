"""Rows of calls: their columns, the statements that write many of them, and what the rows are made of.

A row has two parts. The first is known when the call is accepted, and stays; the second, its *standing*, is
written anew as a whole whenever something happens to the call. So of all that happened within one batch only
the last standing is written, and writing it twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from aegisipc.eventstore.lifecycles import CallState
from aegisipc.eventstore.open_calls import OpenCall
from aegisipc.eventstore.sql.models import Call
from aegisipc.eventstore.sql.texts import KEY, big, cut, small

ACCEPTED_COLUMNS: Final = (
    "call_id",
    "service",
    "group_name",
    "method",
    "resource",
    "client",
    "idempotency_key",
    "priority",
    "accepted_seq",
    "accepted_ns",
    "arguments",
)
STANDING_COLUMNS: Final = (
    "deadline_ns",
    "status",
    "claimed_by",
    "claimed_epoch",
    "started_ns",
    "concluded_seq",
    "concluded_ns",
    "concluded_by",
    "tries",
    "attempts",
    "error_code",
    "error_message",
    "result",
)
CALL_COLUMNS: Final = (*ACCEPTED_COLUMNS, *STANDING_COLUMNS, "latency_us")

STATUS: Final = STANDING_COLUMNS.index("status")
_ACCEPTED_NS: Final = ACCEPTED_COLUMNS.index("accepted_ns")
_CONCLUDED_NS: Final = STANDING_COLUMNS.index("concluded_ns")
_SMALL: Final = 1 << 31
_BIG: Final = 1 << 63
_US: Final = 1000
_MAX_TEXTS: Final = 10_000
_ACCEPTED: Final = CallState.ACCEPTED.value
_NO_ERROR: Final = (None, None)
_NO_LATENCY: Final = (None,)

type Error = tuple[str, str]
"""Code, message."""

type Standing = tuple[Any, ...]
type CallRow = tuple[Any, ...]


class Texts(dict[str, str]):
    """Names as they are to be stored; there are few, and each comes up often. Bounded."""

    def __missing__(self, name: str) -> str:
        """Cut a name that is new here."""
        if len(self) >= _MAX_TEXTS:
            self.clear()
        found = self[name] = cut(name, KEY) if len(name) == KEY else cut(name)
        return found


def call_text(call_id: bytes) -> str:
    """Return a call id in its text form; like ``format_call_id``, made for millions."""
    text = call_id.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def accepted_part(
    call: OpenCall, service: str, group: str, client: str, arguments: str | None, texts: Texts
) -> CallRow:
    """Return the part that stays; names of the place are given as they are to be stored."""
    resource, key, priority = call.resource, call.key, call.priority
    return (
        call_text(call.call_id),
        service,
        group,
        texts[call.method],
        None if resource is None else texts[resource],
        client,
        None if key is None else cut(key, KEY),
        priority if 0 <= priority < _SMALL else small(priority),
        call.seq,
        call.accepted_ns,
        arguments,
    )


def new_standing(call: OpenCall) -> Standing:
    """Return the standing of a call that was just accepted."""
    return (_deadline_ns(call), _ACCEPTED, None, None, None, None, None, None, 0, 0, None, None, None)


def _deadline_ns(call: OpenCall) -> int:
    deadline_ns = call.deadline_ns
    return deadline_ns if 0 <= deadline_ns < _BIG else big(deadline_ns)


def open_standing(call: OpenCall, started_ns: int | None, error: Error | None, texts: Texts) -> Standing:
    """Return the standing of a call without an outcome."""
    code, message = error or _NO_ERROR
    claimed_by, tries, attempts = call.claimed_by, call.tries, call.attempts
    return (
        _deadline_ns(call),
        call.state.value,
        None if claimed_by is None else texts[claimed_by],
        None if claimed_by is None else call.claimed_epoch,
        started_ns,
        None,
        None,
        None,
        tries if tries < _SMALL else small(tries),
        attempts if attempts < _SMALL else small(attempts),
        code,
        message,
        None,
    )


def closed_standing(  # noqa: PLR0913, PLR0917 - made for every call
    call: OpenCall,
    status: str,
    started_ns: int | None,
    seq: int,
    at_ns: int,
    by: str,
    error: Error | None,
    result: str | None,
    texts: Texts,
) -> Standing:
    """Return the standing of a call with an outcome, or of a dead letter."""
    claimed_by = call.claimed_by
    tries, attempts = call.tries, call.attempts
    code, message = error or _NO_ERROR
    return (
        _deadline_ns(call),
        status,
        None if claimed_by is None else texts[claimed_by],
        None if claimed_by is None else call.claimed_epoch,
        started_ns,
        seq,
        at_ns,
        by,
        tries if tries < _SMALL else small(tries),
        attempts if attempts < _SMALL else small(attempts),
        code,
        message,
        result,
    )


def whole(part: CallRow, standing: Standing) -> CallRow:
    """Return the row."""
    concluded_ns = standing[_CONCLUDED_NS]
    if concluded_ns is None:
        return part + standing + _NO_LATENCY
    took_ns = concluded_ns - part[_ACCEPTED_NS]
    latency_us = took_ns // _US if took_ns >= 0 else -(-took_ns // _US)  # as SQL divides
    return part + standing + (latency_us,)


def discarded(standing: Standing) -> Standing:
    """Return the standing of a dead letter that was discarded."""
    if standing[STATUS] != CallState.DEAD_LETTERED:
        return standing
    return (*standing[:STATUS], CallState.DISCARDED.value, *standing[STATUS + 1 :])


# -- statements -------------------------------------------------------------------------------------------

_TABLE: Final = Call.__tablename__
_EXCLUDED: Final = ", ".join(f"{column} = excluded.{column}" for column in CALL_COLUMNS[1:])
_NAMES: Final = ", ".join(CALL_COLUMNS)
_TYPES: Final = {column.name: str(column.type.compile()) for column in Call.__table__.columns}
_CHANGED: Final = ("call_id", *STANDING_COLUMNS)

_SQLITE_VALUES: Final = f"VALUES ({', '.join('?' * len(CALL_COLUMNS))})"
SQLITE_INSERT: Final = (
    f"INSERT INTO {_TABLE} ({_NAMES}) {_SQLITE_VALUES} ON CONFLICT (call_id) DO UPDATE SET {_EXCLUDED}"
)
SQLITE_INSERT_MISSING: Final = f"INSERT INTO {_TABLE} ({_NAMES}) {_SQLITE_VALUES} ON CONFLICT DO NOTHING"
SQLITE_UPDATE: Final = (
    f"UPDATE {_TABLE} SET "  # noqa: S608 - our own names
    + ", ".join(f"{column} = ?{number}" for number, column in enumerate(_CHANGED[1:], 2))
    + f", latency_us = (?{_CHANGED.index('concluded_ns') + 1} - accepted_ns) / {_US} WHERE call_id = ?1"
)


def _array_of(columns: Sequence[str]) -> str:
    casts = (_TYPES[column].partition("(")[0].lower().replace("integer", "int") for column in columns)
    return ", ".join(f"${number}::{kind}[]" for number, kind in enumerate(casts, 1))


_POSTGRESQL_VALUES: Final = f"SELECT * FROM unnest({_array_of(CALL_COLUMNS)})"  # noqa: S608 - our own names
POSTGRESQL_INSERT: Final = (
    f"INSERT INTO {_TABLE} ({_NAMES}) {_POSTGRESQL_VALUES} ON CONFLICT (call_id) DO UPDATE SET {_EXCLUDED}"
)
POSTGRESQL_INSERT_MISSING: Final = (
    f"INSERT INTO {_TABLE} ({_NAMES}) {_POSTGRESQL_VALUES} ON CONFLICT DO NOTHING"
)
POSTGRESQL_UPDATE: Final = (
    f"UPDATE {_TABLE} AS c SET "  # noqa: S608 - our own names
    + ", ".join(f"{column} = v.{column}" for column in _CHANGED[1:])
    + f", latency_us = (v.concluded_ns - c.accepted_ns) / {_US} "
    f"FROM unnest({_array_of(_CHANGED)}) AS v({', '.join(_CHANGED)}) WHERE c.call_id = v.call_id"
)
