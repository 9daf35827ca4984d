"""Who wants which calls cancelled: the latest requests, as the log tells them."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.eventstore.events import CancelRequested, decode_event
from aegisipc.eventstore.ids import CallId, parse_call_id
from aegisipc.eventstore.log import Record

MAX_REMEMBERED: Final = 100_000
"""Requests that are remembered for calls that are not in hand."""


class Cancel(NamedTuple):
    """A request, and where it stands."""

    seq: int
    author: str
    reason: str


class ToCancel(NamedTuple):
    """A handler that runs, and that somebody wants to stop."""

    call_id: CallId
    author: str
    reason: str


class Cancels:
    """The requests that a worker remembers."""

    __slots__ = ("_wanted",)

    def __init__(self) -> None:
        self._wanted: OrderedDict[CallId, Cancel] = OrderedDict()

    def apply(self, record: Record) -> list[CallId]:
        """Take in a request; returns the calls that it names.

        Raises:
            MalformedPayload: it is none, or one of its ids is none.
        """
        event = decode_event(record.payload)
        if not isinstance(event, CancelRequested):
            raise MalformedPayload("cannot read a request to cancel calls: it is something else")
        named = [parse_call_id(text) for text in event.call_ids]
        wanted = self._wanted
        for call_id in named:
            wanted[call_id] = Cancel(record.seq, event.author, event.reason)
            wanted.move_to_end(call_id)
        while len(wanted) > MAX_REMEMBERED:
            wanted.popitem(last=False)
        return named

    def of(self, call_id: CallId, after_seq: int) -> Cancel | None:
        """Return the request that a call be cancelled, if it came after `after_seq`."""
        if not self._wanted:  # as it mostly is
            return None
        found = self._wanted.get(call_id)
        return found if found is not None and found.seq > after_seq else None
