"""Entries of call frames: calls, and dead letters that are to run again."""

from __future__ import annotations

from aegisipc.eventstore.bodies import Requeued
from aegisipc.eventstore.frames import CallEntry
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.open_calls import OpenCall
from aegisipc.sdk.core.pool_words import requeue_in


def opened(record: Record, client: str, entry: CallEntry, body: bytes) -> OpenCall:
    """Return the call of an entry."""
    call_id, method, timeout_ms, resource, options = entry
    deadline_ns = record.timestamp_ns + timeout_ms * 1_000_000
    call = OpenCall(call_id, client, method, resource, record.seq, deadline_ns, body)
    if options is not None:
        call.key, call.priority, _ = options
    return call


def requeued(record: Record, entry: CallEntry, body: bytes) -> tuple[OpenCall, Requeued] | None:
    """Return the call of an entry that is about a dead letter, and who wants it to run again; ``None`` if it
    cannot be read.
    """
    requeue = entry.options.requeue if entry.options is not None else None
    said = requeue_in(body)
    if requeue is None or said is None or said.call is None or said.dead_seq != requeue[0]:
        return None
    return opened(record, requeue[1], entry, said.call.body), said
