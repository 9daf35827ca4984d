"""The schemas that a router knows: what instances wrote into the log of what they offer."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Final

from aegisipc.eventstore.contracts import Schemas, unpack
from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.eventstore.events import ServiceContract, decode_event
from aegisipc.eventstore.log import Record

MAX_KEPT_BYTES: Final = 32 * 1024 * 1024
"""Of records as they are stored, the oldest of which are forgotten: then fingerprints have to do."""
MAX_KEPT_METHODS: Final = 20_000


class KnownSchemas(Mapping[str, Schemas]):
    """The fold of the contract records: the schemas of methods by their fingerprints.

    A contract that is written again, as by each of many instances, counts once and is the latest then.
    """

    def __init__(self) -> None:
        self.unreadable = 0
        self._contracts: OrderedDict[str, tuple[int, frozenset[str]]] = OrderedDict()
        self._schemas: dict[str, Schemas] = {}
        self._uses: dict[str, int] = {}
        self._bytes = 0

    def apply(self, record: Record) -> None:
        """Take a record in."""
        try:
            event = decode_event(record.payload)
            if not isinstance(event, ServiceContract):
                self.unreadable += 1
            elif event.digest in self._contracts:
                self._contracts.move_to_end(event.digest)
            else:
                self._add(event.digest, len(record.payload), unpack(event))
        except MalformedPayload:
            self.unreadable += 1

    def _add(self, digest: str, size_bytes: int, schemas: Mapping[str, Schemas]) -> None:
        self._contracts[digest] = (size_bytes, frozenset(schemas))
        self._bytes += size_bytes
        for name, document in schemas.items():
            self._schemas.setdefault(name, document)
            self._uses[name] = self._uses.get(name, 0) + 1
        while len(self._contracts) > 1 and (
            self._bytes > MAX_KEPT_BYTES or len(self._schemas) > MAX_KEPT_METHODS
        ):
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        _, (size_bytes, names) = self._contracts.popitem(last=False)
        self._bytes -= size_bytes
        for name in names:
            self._uses[name] -= 1
            if not self._uses[name]:
                del self._uses[name], self._schemas[name]

    def __getitem__(self, fingerprint: str) -> Schemas:
        return self._schemas[fingerprint]

    def __iter__(self) -> Iterator[str]:
        return iter(self._schemas)

    def __len__(self) -> int:
        return len(self._schemas)
