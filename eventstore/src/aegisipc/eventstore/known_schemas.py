"""The schemas that a router knows: what instances wrote into the log of what they offer."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from aegisipc.eventstore import dump_forms as form
from aegisipc.eventstore.contracts import Schemas, unpack
from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.eventstore.events import ServiceContract, decode_event
from aegisipc.eventstore.log import Record

MAX_KEPT_BYTES: Final = 32 * 1024 * 1024
"""Of records as they are stored, the oldest of which are forgotten: then fingerprints have to do."""
MAX_KEPT_METHODS: Final = 20_000

_DUMP: Final = (form.INT, form.LIST)
_CONTRACT: Final = (form.TEXT, form.INT, form.TEXT)


class _Kept(NamedTuple):
    """A contract that is remembered: the size of its record, its schemas' names, and they as stored."""

    size_bytes: int
    names: frozenset[str]
    packed: str


class KnownSchemas(Mapping[str, Schemas]):
    """The fold of the contract records: the schemas of methods by their fingerprints.

    A contract that is written again, as by each of many instances, counts once and is the latest then.
    """

    def __init__(self) -> None:
        self.unreadable = 0
        self._contracts: OrderedDict[str, _Kept] = OrderedDict()
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
                self._add(event, len(record.payload), unpack(event))
        except MalformedPayload:
            self.unreadable += 1

    def _add(self, event: ServiceContract, size_bytes: int, schemas: Mapping[str, Schemas]) -> None:
        self._contracts[event.digest] = _Kept(size_bytes, frozenset(schemas), event.schemas)
        self._bytes += size_bytes
        for name, document in schemas.items():
            self._schemas.setdefault(name, document)
            self._uses[name] = self._uses.get(name, 0) + 1
        while len(self._contracts) > 1 and (
            self._bytes > MAX_KEPT_BYTES or len(self._schemas) > MAX_KEPT_METHODS
        ):
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        _, oldest = self._contracts.popitem(last=False)
        self._bytes -= oldest.size_bytes
        for name in oldest.names:
            self._uses[name] -= 1
            if not self._uses[name]:
                del self._uses[name], self._schemas[name]

    def dump(self) -> list[Any]:
        """Return what is remembered as plain data, the schemas as they are stored, oldest contract first."""
        contracts = [[digest, kept.size_bytes, kept.packed] for digest, kept in self._contracts.items()]
        return [self.unreadable, contracts]

    def load(self, plain: Any) -> None:
        """Fill an empty fold with what :meth:`dump` gave.

        Raises:
            MalformedPayload: schemas cannot be read.
            one of ``dump_forms.UNREADABLE``: it is not what it should be.
        """
        unreadable, contracts = form.typed(plain, _DUMP)
        for digest, size_bytes, packed in form.each(contracts, _CONTRACT):
            if digest in self._contracts:
                raise ValueError("a contract is there twice")
            event = ServiceContract(digest=digest, schemas=packed)
            self._add(event, size_bytes, unpack(event))
        if len(self._contracts) != len(contracts):
            raise ValueError("there are more contracts than are remembered")
        self.unreadable = unreadable

    def __getitem__(self, fingerprint: str) -> Schemas:
        return self._schemas[fingerprint]

    def __iter__(self) -> Iterator[str]:
        return iter(self._schemas)

    def __len__(self) -> int:
        return len(self._schemas)
