"""Where a member of an owned group begins to read: at the newest snapshot of its group, if there is one."""

from __future__ import annotations

from bisect import bisect_right
from typing import Final, NamedTuple

import structlog

from aegisipc.eventstore.errors import AegisError, MalformedPayload
from aegisipc.eventstore.frames import OUTCOMES, Mark, decode_pen
from aegisipc.eventstore.group_snapshots import GroupSnapshot, decode_snapshot, load_calls
from aegisipc.eventstore.keys import KeyIndex, decode_segment
from aegisipc.eventstore.log import Record, Start
from aegisipc.eventstore.memories import Outcome
from aegisipc.eventstore.subjects import HA, KEYS, STATE
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
    seqs: list[int]
    """Where the pen went to somebody, and to whom (with the epoch) in ``held``."""
    held: list[tuple[str | None, int]]

    def holder_at(self, seq: int) -> tuple[str | None, int]:
        """Return who held the pen at a record, and in which epoch."""
        return self.held[bisect_right(self.seqs, seq) - 1]


async def restore(site: Site, identity: Identity, member: GroupMember, state: SharedState | None) -> int:
    """Bring `member`, which knows nothing yet, and its state to the newest snapshot of the group. Returns the
    sequence that it covers; 0 if there is none to be used: then everything is to be read.

    Raises:
        LogMissing, NotConnected, AckUnknown: as the log's ``last`` and ``read``.
        StateUnreadable: the service cannot start from nothing.
    """
    found = await _newest(site, identity)
    if found is not None and await _load(site, identity, found, member, state):
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
    found = _Found(record, snapshot, [], [0], [(None, 0)])
    async for known in site.log.read([site.subjects.of_kind(service, group, HA)]):
        if known.seq > snapshot.covers:
            break
        if not site.subjects.writer(known.subject):
            continue  # no fold can read it
        found.routing.append(known)
        topology.apply(known)
        view = topology.group(service, group)
        if view is not None and (view.holder, view.epoch) != found.held[-1]:
            found.seqs.append(known.seq)
            found.held.append((view.holder, view.epoch))
    writer = site.subjects.writer(record.subject)
    if found.held[-1] != (writer, snapshot.epoch):
        _log.warning("snapshot_not_of_the_holder", seq=record.seq, writer=writer, epoch=snapshot.epoch)
        return None
    return found


async def _load(
    site: Site, identity: Identity, found: _Found, member: GroupMember, state: SharedState | None
) -> bool:
    snapshot, calls = found.snapshot, member.calls
    try:
        if state is not None:
            if snapshot.state is None:
                raise MalformedPayload("cannot use a snapshot without state: the service shares some by now")
            state.restore(snapshot.state)
        load_calls(snapshot.calls, calls)
    except AegisError as error:
        _log.warning("snapshot_not_usable", covers=snapshot.covers, error=describe(error))
        return False
    if calls.keys is not None:
        await _read_segments(site, identity, calls.keys, found)
    return True


async def _read_segments(site: Site, identity: Identity, keys: KeyIndex, found: _Found) -> None:
    """Take in the segments of keys that the holders wrote up to the snapshot."""
    loaded, covered = keys.recent, keys.covered
    keys.recent, keys.covered = {}, 0
    subject = site.subjects.of_kind(identity.service, identity.group, KEYS)
    async for record in site.log.read([subject]):
        if record.seq > found.snapshot.covers:
            break
        try:
            segment = decode_segment(record.payload)
        except MalformedPayload:
            continue  # no fold can read it
        if (site.subjects.writer(record.subject), segment.epoch) == found.holder_at(record.seq):
            keys.on_segment(record.seq, segment)
    keys.recent, keys.covered = loaded, max(covered, keys.covered)


async def _read_outcomes(site: Site, identity: Identity, member: GroupMember, found: _Found) -> None:
    """Remember the outcomes that the holders gave shortly before the snapshot."""
    start = Start(time_ns=max(0, found.record.timestamp_ns - RECENT_S * 1_000_000_000))
    conclusions = site.subjects.conclusions(identity.service, identity.group)
    async for record in site.log.read(conclusions, start=start):
        if record.seq > found.snapshot.covers:
            return
        _remember(record, found.holder_at(record.seq), site, member)


def _remember(record: Record, held: tuple[str | None, int], site: Site, member: GroupMember) -> None:
    outcomes = member.calls.outcomes
    try:
        frame = decode_pen(record.payload)
    except MalformedPayload:
        return
    if outcomes is None or (site.subjects.writer(record.subject), frame.epoch) != held:
        return
    for (mark, call_id), body in zip(frame.entries, frame.bodies, strict=True):
        known = outcomes.get(call_id)
        if mark is Mark.REQUEUED and known is not None and known.mark is Mark.DEAD_LETTERED:
            outcomes.drop(call_id)
            continue
        if known is not None and known.mark is not Mark.IN_DOUBT:
            continue  # the first outcome counts
        if mark is Mark.NOT_EXECUTED:
            outcomes.drop(call_id)
        elif mark in OUTCOMES:
            outcomes.add(Outcome(call_id, mark, body))
