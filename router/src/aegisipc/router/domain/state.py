"""What a router believes: the fold of the whole log, and of the heartbeats."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from aegisipc.eventstore.calls import GroupCalls
from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.subjects import CALL, HA, PEN, TERM, Subjects
from aegisipc.eventstore.topology import Topology


class RouterState:
    """The fold. Deterministic: equal records give equal states."""

    def __init__(self, subjects: Subjects) -> None:
        self._subjects = subjects
        self.topology = Topology(subjects)
        self.calls: dict[tuple[str, str], GroupCalls] = {}
        self.position = 0
        self.unreadable = 0

    def apply(self, record: Record) -> bool:
        """Fold one record; tells whether it may change what the router decides."""
        self.position = record.seq
        try:
            place = self._subjects.parse(record.subject)
        except MalformedPayload:
            self.unreadable += 1
            return False
        if place.kind in (HA, TERM):
            self.topology.apply(record, place)
            return True
        if place.kind in (CALL, PEN):
            key = (place.service, place.group)
            calls = self.calls.get(key)
            if calls is None:
                calls = self.calls[key] = GroupCalls(keep_bodies=False)
            calls.apply(record, place)
        return False

    def replay(self, records: Iterable[Record]) -> RouterState:
        """Fold many records."""
        for record in records:
            self.apply(record)
        return self

    def open_calls(self, service: str, group: str) -> int:
        """Return how many calls of a group have no outcome."""
        calls = self.calls.get((service, group))
        return len(calls.open) if calls else 0

    def to_plain(self) -> dict[str, Any]:
        """Return the state as plain, sorted data: equal states give equal data."""
        return {
            "position": self.position,
            "topology": self.topology.to_plain() | {"position": self.position},
            "calls": {
                f"{service}/{group}": calls.to_plain()
                for (service, group), calls in sorted(self.calls.items())
            },
        }
