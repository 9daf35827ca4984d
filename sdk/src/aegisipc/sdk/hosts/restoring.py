"""Where a member of an owned group begins to read: at the newest snapshot of its group, if there is one."""

from __future__ import annotations

from bisect import bisect_right
from typing import Final, NamedTuple

import structlog

from aegisipc.eventstore.errors import AegisError, MalformedPayload
from aegisipc.eventstore.frames import OUTCOMES, Mark, decode_pen
from aegisipc.eventstore.group_snapshots import GroupSnapshot, decode_snapshot, load_calls
from aegisipc.eventstore.log import Record, Start
from aegisipc.eventstore.memories import Outcome
from aegisipc.eventstore.subjects import HA, PEN, STATE
from aegisipc.eventstore.topology import Topology
from aegisipc.sdk.core.member import GroupMember
from aegisipc.sdk.core.pen import Identity
from aegisipc.sdk.hosts.base import Site, describe
from aegisipc.sdk.state import SharedState

_log = structlog.get_logger("aegisipc.instance")

RECENT_S: Final = 300
"""Outcomes from so long before a snapshot are read, too: their callers may not have heard of them yet."""


class _Found(NamedTuple):
    record: Record
    snapshot: GroupSnapshot
    routing: list[Record]
    """The group's routing records up to there."""


async def restore(site: Site, identity: Identity, member: GroupMember, state: SharedState | None) -> int:
    """Bring `member`, which knows nothing yet, and its state to the newest snapshot of the group. Returns the
    sequence that it covers; 0 if there is none to be used: then everything is to be read.

    Raises:
        LogMissing, NotConnected, AckUnknown: as the log's ``last`` and ``read``.
        StateUnreadable: the service cannot start from nothing.
    """
    found = await _newest(site, identity)
    if found is not None and _load(found.snapshot, member, state):
        for record in found.routing:
            member.on_routing(record, site.subjects.parse(record.subject))
        await _read_outcomes(site, identity, member, found)
        _log.info("restored", instance=identity.instance, covers=found.snapshot.covers)
        return found.snapshot.covers
    if state is not None:
        state.restore(None)
    return 0


async def _newest(site: Site, identity: Identity) -> _Found | None:
    service, group = identity.service, identity.group
    record = await site.log.last(site.subjects.of_kind(service, group, STATE))
    if record is None:
        return None
    try:
        snapshot = decode_snapshot(record.payload)
    except MalformedPayload as error:
        _log.warning("snapshot_unreadable", seq=record.seq, error=error.message)
        return None
    topology = Topology(site.subjects)
    routing: list[Record] = []
    async for known in site.log.read([site.subjects.of_kind(service, group, HA)]):
        if known.seq > snapshot.covers:
            break
        routing.append(known)
        topology.apply(known)
    view = topology.group(service, group)
    writer = site.subjects.parse(record.subject).who
    if view is None or (view.holder, view.epoch) != (writer, snapshot.epoch):
        _log.warning("snapshot_not_of_the_holder", seq=record.seq, writer=writer, epoch=snapshot.epoch)
        return None
    return _Found(record, snapshot, routing)


def _load(snapshot: GroupSnapshot, member: GroupMember, state: SharedState | None) -> bool:
    try:
        if state is not None:
            if snapshot.state is None:
                raise MalformedPayload("cannot use a snapshot without state: the service shares some by now")
            state.restore(snapshot.state)
        load_calls(snapshot.calls, member.calls)
    except AegisError as error:
        _log.warning("snapshot_not_usable", covers=snapshot.covers, error=describe(error))
        return False
    return True


async def _read_outcomes(site: Site, identity: Identity, member: GroupMember, found: _Found) -> None:
    """Remember the outcomes that the holders gave shortly before the snapshot."""
    fence = site.subjects.fence(identity.service, identity.group)
    holders = Topology(site.subjects)
    seqs, held = [0], [(None, 0)]
    for record in found.routing:
        holders.apply(record)
        view = holders.group(identity.service, identity.group)
        if record.subject == fence and view is not None:
            seqs.append(record.seq)
            held.append((view.holder, view.epoch))  # type: ignore[arg-type]
    start = Start(time_ns=max(0, found.record.timestamp_ns - RECENT_S * 1_000_000_000))
    pen = site.subjects.of_kind(identity.service, identity.group, PEN)
    async for record in site.log.read([pen], start=start):
        if record.seq > found.snapshot.covers:
            return
        _remember(record, held[bisect_right(seqs, record.seq) - 1], site, member)


def _remember(record: Record, held: tuple[str | None, int], site: Site, member: GroupMember) -> None:
    outcomes = member.calls.outcomes
    try:
        frame = decode_pen(record.payload)
    except MalformedPayload:
        return
    if outcomes is None or (site.subjects.parse(record.subject).who, frame.epoch) != held:
        return
    for (mark, call_id), body in zip(frame.entries, frame.bodies, strict=True):
        known = outcomes.get(call_id)
        if known is not None and known.mark is not Mark.IN_DOUBT:
            continue  # the first outcome counts
        if mark is Mark.NOT_EXECUTED:
            outcomes.drop(call_id)
        elif mark in OUTCOMES:
            outcomes.add(Outcome(call_id, mark, body))
