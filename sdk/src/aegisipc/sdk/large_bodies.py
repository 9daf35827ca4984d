"""Arguments and results too large for a frame: they are objects, and a reference stands in their place."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from aegisipc.eventstore.errors import AegisError, LogFailed, PayloadTooLarge
from aegisipc.eventstore.open_calls import OpenCall
from aegisipc.eventstore.references import Reference, encode_reference, reference_in, result_name
from aegisipc.sdk.core.pen import Identity
from aegisipc.sdk.persistence import PASSING, persist

_PASSING: Final = (*PASSING, LogFailed)
_PUT_PATIENCE_S: Final = 60.0
"""How long a result waits for the store of objects. Without it the outcome could hardly be written either."""


class ObjectStore(Protocol):
    """As much of :class:`~aegisipc.eventstore.objects.Objects` as is needed here."""

    async def get(self, reference: Reference) -> bytes:
        """Return an object."""
        ...

    async def put(self, name: str, payload: bytes) -> Reference:
        """Store an object."""
        ...


class NotFetched(Exception):
    """The arguments are not to be had: the call cannot be run."""

    def __init__(self, error: AegisError) -> None:
        super().__init__(error.message)
        self.error = error


class NotStored(Exception):
    """The result cannot be stored. ``limit_bytes`` is set if it is too large for that."""

    def __init__(self, error: AegisError) -> None:
        super().__init__(error.message)
        self.error = error

    @property
    def limit_bytes(self) -> int | None:
        """The limit that it is over, if that is what is wrong."""
        found = self.error.details.get("limit_bytes")
        return found if isinstance(self.error, PayloadTooLarge) and isinstance(found, int) else None


class LargeBodies:
    """Fetches the arguments and stores the results of one instance's calls."""

    def __init__(self, objects: ObjectStore, identity: Identity, clock: Callable[[], int]) -> None:
        self._objects = objects
        self._identity = identity
        self._clock = clock

    async def arguments(self, call: OpenCall) -> bytes:
        """Return the arguments of `call` themselves. While the store does not answer, it is asked until the
        call's deadline.

        Raises:
            NotFetched: they are missing, damaged or too large; or the deadline passed.
        """
        try:
            reference = reference_in(call.body)
            if reference is None:
                return call.body
            return await persist(
                lambda: self._objects.get(reference),
                lambda: self._clock() >= call.deadline_ns,
                passing=_PASSING,
            )
        except AegisError as error:
            raise NotFetched(error) from error

    async def result(self, call: OpenCall, epoch: int, body: bytes) -> bytes:
        """Store a result; return the reference to it.

        Raises:
            NotStored: it is over the store's limit, or the store cannot take it.
        """
        who, loop = self._identity, asyncio.get_running_loop()
        name = result_name(who.service, who.group, call.call_id, who.instance, epoch)
        give_up_at = loop.time() + _PUT_PATIENCE_S
        try:
            stored = await persist(
                lambda: self._objects.put(name, body), lambda: loop.time() >= give_up_at, passing=_PASSING
            )
            return encode_reference(stored)
        except AegisError as error:
            raise NotStored(error) from error
