"""A small read model, made by hand: rows of which tests know what should be found."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Connection, insert, text

from aegisipc.eventstore.ids import CallIds, format_call_id
from aegisipc.eventstore.sql.models import (
    REVISION,
    VERSION_TABLE,
    Base,
    Call,
    Checkpoint,
    DeadLetter,
    Doubt,
    Group,
    Instance,
    InstanceEvent,
    Promotion,
)

BEGAN_NS: Final = 1_763_000_000_000_000_000
"""2025-11-13T02:13:20Z"""
SECOND: Final = 1_000_000_000

_OUTCOMES: Final = ("succeeded", "failed", "dead_lettered", "succeeded", "expired", "succeeded")
_OPEN: Final = ("accepted", "started", "in_doubt", "retry_wait")

type Row = dict[str, Any]


def call_row(number: int, call_id: str | None = None, **fields: Any) -> Row:
    """The call of that number: accepted so many seconds after the beginning; every fifth is open."""
    ids = CallIds(number)
    accepted_ns = BEGAN_NS + number * SECOND
    is_open = number % 5 == 4
    latency_us = None if is_open else 10_000 * (number % 7 + 1)
    status = _OPEN[number // 5 % 4] if is_open else _OUTCOMES[number % 6]
    error = ("refused", f"order {number} is not for us") if status in ("failed", "dead_lettered") else None
    row: Row = {
        "call_id": call_id or format_call_id(ids.next(accepted_ns // 1_000_000)),
        "service": ("orders", "quotes")[number % 3 == 2],
        "group_name": "g1" if number % 3 else "_pool",
        "method": ("place", "cancel", "place@2")[number % 4 % 3],
        "resource": None if number % 6 == 5 else f"acc_{number % 2}",
        "client": f"trader-{number % 2}",
        "idempotency_key": None,
        "priority": 1,
        "accepted_seq": 100 + number,
        "accepted_ns": accepted_ns,
        "deadline_ns": accepted_ns + 30 * SECOND,
        "status": status,
        "claimed_by": "orders-1",
        "claimed_epoch": 3,
        "started_ns": accepted_ns + 1_000_000,
        "concluded_seq": None if is_open else 101 + number,
        "concluded_ns": None if latency_us is None else accepted_ns + latency_us * 1000,
        "concluded_by": None if is_open else "orders-1",
        "latency_us": latency_us,
        "tries": 0,
        "attempts": 0,
        "error_code": error[0] if error else None,
        "error_message": error[1] if error else None,
        "arguments": None,
        "result": None,
    }
    return row | fields


def doubt_row(call: Row, **fields: Any) -> Row:
    """A doubt about a call, that nobody has ended."""
    names = (
        "call_id",
        "service",
        "group_name",
        "method",
        "resource",
        "client",
        "claimed_by",
        "claimed_epoch",
    )
    row = {name: call[name] for name in names} | {"seq": 900, "at_ns": call["accepted_ns"] + SECOND}
    ends = ("resolved_seq", "resolved_ns", "resolution", "source", "author", "reason")
    return row | dict.fromkeys(ends) | fields


def dead_letter_row(call: Row, **fields: Any) -> Row:
    """What is known of a call that was given up."""
    names = ("call_id", "service", "group_name", "method", "resource", "client")
    row = {name: call[name] for name in names} | {
        "seq": 950,
        "at_ns": call["accepted_ns"] + SECOND,
        "reason": "attempts_exhausted",
        "message": "3 attempts failed",
        "tries": 3,
        "attempts": 0,
        "state": "dead_lettered",
    }
    return row | dict.fromkeys(("dealt_seq", "dealt_ns", "dealt_by")) | fields


def promotion_row(seq: int, **fields: Any) -> Row:
    """A promotion, so many seconds after the beginning as its sequence says."""
    return {
        "seq": seq,
        "at_ns": BEGAN_NS + seq * SECOND,
        "service": "orders",
        "group_name": "g1",
        "event": "promoted",
        "epoch": 1,
        "holder": "orders-1",
        "incarnation": "one",
        "former_holder": None,
        "kind": "first",
        "cause": "first instance of the group",
        "author": "",
        "decided_by": "r1",
        "evidence": {"ready": ["orders-1"], "open": 0},
    } | fields


def instance_row(instance: str, **fields: Any) -> Row:
    """An instance that is active."""
    return {
        "service": "orders",
        "group_name": "g1",
        "instance": instance,
        "incarnation": f"{instance}-one",
        "mode": "owned",
        "state": "active",
        "host": "box",
        "pid": 17,
        "version": "1.2.0",
        "resources": ["acc_0", "acc_1"],
        "registered_seq": 3,
        "registered_ns": BEGAN_NS,
        "since_ns": BEGAN_NS + SECOND,
        "ended_ns": None,
        "ended_cause": None,
    } | fields


def event_row(seq: int, **fields: Any) -> Row:
    """Something that happened to an instance."""
    return {
        "seq": seq,
        "instance": "orders-1",
        "at_ns": BEGAN_NS + seq * SECOND,
        "service": "orders",
        "group_name": "g1",
        "incarnation": "orders-1-one",
        "event": "registered",
        "state_after": "joining",
        "cause": "",
        "decided_by": "",
        "evidence": {},
    } | fields


GROUP: Final[Row] = {
    "service": "orders",
    "group_name": "g1",
    "mode": "owned",
    "state": "held",
    "epoch": 3,
    "holder": "orders-1",
    "holder_incarnation": "orders-1-one",
    "since_ns": BEGAN_NS,
    "cause": "first instance of the group",
    "paused": False,
    "paused_by": "",
}
CHECKPOINT: Final[Row] = {
    "id": 1,
    "namespace": "default",
    "stream_id": "2025-11-13T00:00:00Z",
    "position": 4711,
    "position_ns": BEGAN_NS + 3600 * SECOND,
    "fold_version": 1,
    "level": "all",
    "updated_ns": BEGAN_NS + 3600 * SECOND,
    "rebuilt_ns": 0,
}

CALLS: Final = [call_row(number) for number in range(60)]
DOUBTED: Final = next(row for row in CALLS if row["status"] == "in_doubt")
DEAD: Final = next(row for row in CALLS if row["status"] == "dead_lettered")
PROMOTIONS: Final = [
    promotion_row(10),
    promotion_row(20, event="vacated", holder=None, incarnation=None, former_holder="orders-1", kind=""),
    promotion_row(30, epoch=2, holder="orders-2", former_holder="orders-1", kind="failover"),
    promotion_row(40, service="quotes", group_name="g2", holder="q-1", author="ann", kind="planned"),
]
INSTANCES: Final = [
    instance_row("orders-1"),
    instance_row("orders-2", state="standby", since_ns=BEGAN_NS + 50 * SECOND),
    instance_row("orders-1", incarnation="older", state="lost", ended_ns=BEGAN_NS, ended_cause="silent"),
    instance_row("q-1", service="quotes", group_name="_pool", mode="pool", resources=[]),
]
EVENTS: Final = [
    event_row(1),
    event_row(2, event="ready", state_after="standby"),
    event_row(
        3, event="suspected", state_after="suspected_active", cause="silent for 1012 ms", decided_by="r1"
    ),
    event_row(4, instance="orders-2"),
    event_row(5, instance="q-1", service="quotes", group_name="_pool"),
]


def make_tables(connection: Connection, revision: str = REVISION) -> None:
    """Make the tables, and say that they are at that revision."""
    Base.metadata.create_all(connection)
    connection.execute(text(f"CREATE TABLE {VERSION_TABLE} (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"))
    connection.execute(text(f"INSERT INTO {VERSION_TABLE} VALUES (:revision)"), {"revision": revision})


def fill(connection: Connection, *calls: Row, **checkpoint: Any) -> None:
    """Make the tables with these rows, and with those of `calls` beside them."""
    make_tables(connection)
    connection.execute(insert(Call), [*CALLS, *calls])
    connection.execute(insert(Doubt), [doubt_row(DOUBTED)])
    connection.execute(insert(DeadLetter), [dead_letter_row(DEAD)])
    connection.execute(insert(Promotion), PROMOTIONS)
    connection.execute(insert(Instance), INSTANCES)
    connection.execute(insert(InstanceEvent), EVENTS)
    connection.execute(insert(Group), [GROUP])
    connection.execute(insert(Checkpoint), [CHECKPOINT | checkpoint])
