"""Whether what a stub expects fits what the service offers, before anything is submitted.

What a service offers is in the routing table, by fingerprints. If those of a method are the stub's own, there
is nothing to ask; else its schemas are read from the log, once for each fingerprint, and compared.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import structlog
from pydantic.errors import PydanticUserError

from aegisipc.eventstore.codec import TypeCodec, type_codec
from aegisipc.eventstore.contracts import Schemas, fingerprint_of, read_schemas, stub_changes, unpack
from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.events import ServiceContract, decode_event
from aegisipc.eventstore.jetstream_last import record_at
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.subjects import Subjects
from aegisipc.eventstore.topology import GroupView
from aegisipc.sdk.core.routing import route
from aegisipc.sdk.errors import ContractMismatch, NoRoute
from aegisipc.sdk.shapes import Parameter, parameter_of, schemas_text

if TYPE_CHECKING:
    from aegisipc.sdk.client import Client

_log = structlog.get_logger("aegisipc.client")

_READ_S: Final = 1.0
"""How long reading the schemas may hold up a call; at most half of its own time."""
_AGAIN_S: Final = 1.0
"""After it failed, calls go on unchecked for so long."""
_MAX_KEPT: Final = 2000
_MAX_RECORDS: Final = 3
_TOLD: Final = 8
_VARIADIC: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Expected:
    """A method of a stub: what it is called at the service, and what the stub takes it for."""

    def __init__(
        self, name: str, returns: Any, signature: inspect.Signature, hints: Mapping[str, Any]
    ) -> None:
        self.name = name
        self.returns = returns
        self._signature = signature
        self._hints = hints

    @cached_property
    def schemas(self) -> str | None:
        """Its schemas as text. What has no annotation may be anything; ``None``: nothing can be said."""
        own = list(self._signature.parameters.values())[1:]  # without self
        if any(parameter.kind in _VARIADIC for parameter in own):
            return None
        parameters: list[Parameter] = [
            parameter_of(parameter, _codec(self._hints.get(parameter.name, Any))) for parameter in own
        ]
        return schemas_text(parameters, _codec(self._hints.get("return", Any)))

    @cached_property
    def fingerprint(self) -> str:
        """The fingerprint of its schemas; empty if there are none."""
        return fingerprint_of(self.schemas) if self.schemas is not None else ""


def _codec(tp: Any) -> TypeCodec[Any]:
    try:
        return type_codec(tp)
    except PydanticUserError:  # the service has a word for it, perhaps; here nobody can tell
        return type_codec(Any)


class Api(NamedTuple):
    """What a stub is of. ``methods``: by their names in the stub; ``None``: not known."""

    service: str
    title: str
    methods: Mapping[str, Expected] | None


class SchemaReader:
    """Reads schemas from the log, for all stubs of a client."""

    def __init__(self, connection: Connection, subjects: Subjects) -> None:
        self._connection, self._subjects = connection, subjects
        self._known: dict[str, Schemas] = {}

    async def read(self, fingerprint: str, group: GroupView, timeout_s: float) -> Schemas | None:
        """Return the schemas of that fingerprint that an instance of the group offers, or ``None``: nobody
        wrote them down.

        Raises:
            AegisError: they cannot be read now.
        """
        if fingerprint not in self._known:
            for seq in _places(group, fingerprint)[:_MAX_RECORDS]:
                record = await record_at(self._connection, self._subjects.stream, seq, timeout_s=timeout_s)
                event = decode_event(record.payload) if record is not None else None
                if isinstance(event, ServiceContract):
                    self._keep(unpack(event))
                if fingerprint in self._known:
                    break
        return self._known.get(fingerprint)

    def _keep(self, schemas: Mapping[str, Schemas]) -> None:
        if len(self._known) + len(schemas) > _MAX_KEPT:
            self._known.clear()
        self._known.update(schemas)


def _places(group: GroupView, fingerprint: str) -> list[int]:
    """Where the schemas of that fingerprint stand in the log, the latest first."""
    found = {
        instance.registration.contract_seq
        for instance in group.instances.values()
        if instance.registration.contract_seq
        and any(method.schemas == fingerprint for method in instance.registration.contract.values())
    }
    return sorted(found, reverse=True)


class Fit:
    """Keeps watch over one stub."""

    def __init__(self, client: Client, api: Api) -> None:
        self._client, self._api = client, api
        self._fits_at: dict[str, tuple[object, int]] = {}
        self._verdicts: dict[tuple[str, str], list[str]] = {}
        self._line = asyncio.Lock()
        self._waiting = 0
        self._unreadable_until = 0.0

    def is_known(self, expected: Expected) -> bool:
        """Tell whether a call may go out at once: nothing has changed since the method was found to fit, and
        no call that was made before is still waiting to be checked.
        """
        topology = self._client.topology
        known = self._fits_at.get(expected.name)
        return (
            not self._waiting and known is not None and known[0] is topology and known[1] == topology.position
        )

    async def check(self, expected: Expected, resource_id: str | None, timeout_s: float | None) -> None:
        """Return if the method fits, or if nobody can tell now. Calls come out in the order in which they
        came in.

        Raises:
            ContractMismatch: it does not fit.
        """
        self._waiting += 1
        try:
            async with self._line:
                differences = await self._differences(expected, resource_id, timeout_s)
        finally:
            self._waiting -= 1
        if differences:
            more = f"; and {len(differences) - _TOLD} more" if len(differences) > _TOLD else ""
            raise ContractMismatch(
                f"cannot call {self._api.service}.{expected.name}: the stub {self._api.title!r} does not fit "
                f"what the service offers ({'; '.join(differences[:_TOLD])}{more}); nothing was submitted. "
                "Bring the stub up to date, or call another version of the method",
                service=self._api.service,
                method=expected.name,
                differences=differences,
            )

    async def _differences(
        self, expected: Expected, resource_id: str | None, timeout_s: float | None
    ) -> list[str]:
        if not _is_usable(resource_id, timeout_s):
            return []  # the call itself will say so
        topology = self._client.topology
        now = (topology, topology.position)
        try:
            place = route(topology, self._api.service, expected.name, resource_id)
        except NoRoute:
            return []  # as above
        group = topology.services[self._api.service].groups[place]
        offered = group.contract[expected.name].schemas
        if not offered or not expected.fingerprint or offered == expected.fingerprint:
            self._fits_at[expected.name] = now
            return []
        found = self._verdicts.get((expected.name, offered))
        if found is None:
            found = await self._compare(expected, offered, group, timeout_s)
        if found is not None:
            self._verdicts[expected.name, offered] = found
            if not found:
                self._fits_at[expected.name] = now
        return found or []

    async def _compare(
        self, expected: Expected, offered: str, group: GroupView, timeout_s: float | None
    ) -> list[str] | None:
        """``None``: nobody can tell now."""
        loop = asyncio.get_running_loop()
        if expected.schemas is None or loop.time() < self._unreadable_until:
            return None
        patience_s = _READ_S if timeout_s is None else min(_READ_S, timeout_s / 2)
        try:
            async with asyncio.timeout(patience_s):
                schemas = await self._client.schemas.read(offered, group, patience_s)
        except (AegisError, TimeoutError) as error:
            _log.warning("contract_not_read", service=self._api.service, error=str(error))
            schemas = None
        if schemas is None:
            self._unreadable_until = loop.time() + _AGAIN_S
            return None
        path = f"{self._api.service}.{expected.name}"
        changes = stub_changes(path, read_schemas(expected.schemas), schemas)
        return [str(change) for change in changes if change.breaking]


def _is_usable(resource_id: object, timeout_s: object) -> bool:
    is_time = isinstance(timeout_s, int | float) and timeout_s > 0
    return (resource_id is None or isinstance(resource_id, str)) and (timeout_s is None or is_time)
