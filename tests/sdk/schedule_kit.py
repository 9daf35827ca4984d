"""What the tests of a schedule share: calls, and ways to take them."""

from __future__ import annotations

from collections.abc import Iterable

from aegisipc.eventstore.calls import OpenCall
from aegisipc.eventstore.frames import NORMAL
from aegisipc.eventstore.ids import CallIds
from aegisipc.sdk.core.schedule import Schedule

_ids = CallIds(1)


def call(
    resource: str | None = None,
    method: str = "get",
    deadline_ns: int = 1000,
    *,
    client: str = "c1",
    priority: int = NORMAL,
) -> OpenCall:
    made = OpenCall(_ids.next(1), client, method, resource, 1, deadline_ns, b"")
    made.priority = priority
    return made


def added(schedule: Schedule, calls: Iterable[OpenCall]) -> list[OpenCall]:
    calls = list(calls)
    for each in calls:
        schedule.add(each)
    return calls


def taken(schedule: Schedule) -> list[OpenCall]:
    found = []
    while (each := schedule.take()) is not None:
        found.append(each)
    return found


def one_by_one(schedule: Schedule) -> list[OpenCall]:
    """Each is done before the next is taken."""
    found = []
    while (each := schedule.take()) is not None:
        found.append(each)
        schedule.free(each)
    return found


def left_behind(schedule: Schedule) -> tuple[int, int, int]:
    """How many clients, resources and calls that are gone it still knows."""
    clients = sum(len(line.clients) for line in schedule._fair._lines)
    return clients, len(schedule._queues), len(schedule._gone)
