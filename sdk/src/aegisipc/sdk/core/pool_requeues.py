"""Entries of call frames: calls, and dead letters that are to run again."""

from __future__ import annotations

from typing import NamedTuple

from aegisipc.eventstore.bodies import Requeued
from aegisipc.eventstore.frames import CallEntry
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.open_calls import OpenCall
from aegisipc.sdk.core.pool_facts import Known
from aegisipc.sdk.core.pool_words import requeue_in


class Opened(NamedTuple):
    """A call of a frame. ``requeued`` says who wants it to run again, and which dead letter it is, if so."""

    call: OpenCall
    requeued: Requeued | None

    def is_of(self, known: Known | None) -> bool:
        """Tell whether this entry is the one by which a call of which so much is known is to be run: a dead
        letter that came back is not run by the frame in which it came first, nor by one that another dead
        letter of it is about.
        """
        if self.requeued is None:
            return known is None or (not known.is_closed and known.dead_seq == 0)
        if known is None or known.is_closed:
            return False
        return known.dead_seq == self.requeued.dead_seq


def opened(record: Record, client: str, entry: CallEntry, body: bytes) -> Opened | None:
    """Read an entry; ``None`` if it is about a dead letter and cannot be read."""
    call_id, method, timeout_ms, resource, options = entry
    deadline_ns = record.timestamp_ns + timeout_ms * 1_000_000
    call = OpenCall(call_id, client, method, resource, record.seq, deadline_ns, body)
    if options is None:  # as it mostly is
        return Opened(call, None)
    call.key, call.priority, requeue = options
    if requeue is None:
        return Opened(call, None)
    said = requeue_in(body)
    if said is None or said.call is None or said.dead_seq != requeue[0]:
        return None
    call.client, call.body = requeue[1], said.call.body
    return Opened(call, said)
