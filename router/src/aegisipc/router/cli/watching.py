"""One group as the log tells it, followed until something has come about."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.log import Log, Record
from aegisipc.eventstore.subjects import HA, Subjects
from aegisipc.eventstore.topology import GroupView, Topology

_LOOK_S: Final = 0.5

type Look[T] = Callable[[Record, ev.Event | ev.UnknownEvent | None, GroupView], T | None]
"""Takes each record of the group's topology in order, with the group as it is after it; returns what is
waited for as soon as it is there.
"""


async def until_said[T](
    log: Log, subjects: Subjects, service: str, group: str, look: Look[T], timeout_s: float
) -> T | None:
    """Read the group's topology from its beginning on, until `look` has found something; ``None`` if it has
    not within `timeout_s` seconds.

    Raises:
        LogFailed: the log cannot be followed any more.
    """
    topology = Topology(subjects)
    found: list[T] = []
    something = asyncio.Event()

    def take(record: Record) -> None:
        event = topology.apply(record)
        view = topology.group(service, group)
        if found or view is None:
            return
        seen = look(record, event, view)
        if seen is not None:
            found.append(seen)
            something.set()

    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + timeout_s
    following = await log.follow([subjects.of_kind(service, group, HA)], take)
    try:
        while not found and (left_s := give_up_at - loop.time()) > 0:
            if following.failure is not None:
                raise following.failure
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left_s, _LOOK_S)):
                    await something.wait()
    finally:
        await following.stop()
    return found[0] if found else None
