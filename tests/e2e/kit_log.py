"""What the log of a place tells: its records, and what was said of groups and instances."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import NamedTuple

from aegisipc.eventstore.events import Event, decode_event
from aegisipc.eventstore.lifecycles import InstanceState
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.streams import open_log
from aegisipc.eventstore.subjects import HA, subjects_of
from aegisipc.eventstore.topology import Topology
from tests.e2e.kit import Place


class Said[E: Event](NamedTuple):
    """An event, who said it, and when by the server's clock."""

    who: str
    event: E
    at_ns: int
    seq: int


async def records(place: Place) -> list[Record]:
    """What the log of the namespace holds now."""
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(await Connection.open(ConnectOptions(place.url)))
        subjects = subjects_of(place.namespace)
        log = await open_log(connection, subjects)
        return [record async for record in log.read([subjects.everything])]


async def topology_of(place: Place) -> Topology:
    """What all of it comes to."""
    topology = Topology(subjects_of(place.namespace))
    for record in await records(place):
        topology.apply(record)
    return topology


async def states(place: Place) -> dict[str, InstanceState]:
    """The state of every instance."""
    topology = await topology_of(place)
    return {i.id: i.state for group in topology.groups() for i in group.instances.values()}


async def until_said[E: Event](
    place: Place, kind: type[E], who: str | None = None, *, times: int = 1
) -> list[Said[E]]:
    """Wait until the log holds that word, or so many of them; return them all."""
    async with asyncio.timeout(20):
        while True:
            found = await said(place, kind, who)
            if len(found) >= times:
                return found
            await asyncio.sleep(0.01)


async def said[E: Event](place: Place, kind: type[E], who: str | None = None) -> list[Said[E]]:
    """All events of one kind (and of those it is the base of), in order; of one writer, if named."""
    subjects = subjects_of(place.namespace)
    found = []
    for record in await records(place):
        at = subjects.parse(record.subject)
        if at.kind != HA or (who is not None and at.who != who):
            continue
        event = decode_event(record.payload)
        if isinstance(event, kind):
            found.append(Said(at.who, event, record.timestamp_ns, record.seq))
    return found
