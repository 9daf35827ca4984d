"""Large bodies at the client: results that are references are fetched before anybody looks at them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from aegisipc.eventstore.calls import Outcome
from aegisipc.eventstore.codec import TypeCodec
from aegisipc.eventstore.errors import AegisError, ObjectMissing
from aegisipc.eventstore.ids import format_call_id
from aegisipc.eventstore.objects import Objects
from aegisipc.eventstore.references import Reference, reference_in
from aegisipc.sdk.outcomes import value_of
from aegisipc.sdk.persistence import persist

_PATIENCE_S: Final = 30.0
"""How long a result is asked for while the store of objects does not answer."""


class Results:
    """Makes values of outcomes, wherever their bodies are; `is_closed` says that there is no connection to
    fetch them by any more.
    """

    def __init__(self, objects: Objects | None = None, is_closed: Callable[[], bool] = lambda: False) -> None:
        self._objects = objects
        self._is_closed = is_closed

    async def value_of(self, outcome: Outcome, target: str, codec: TypeCodec[Any] | None) -> Any:
        """Return the result that an outcome records, or raise what it means; see
        :func:`aegisipc.sdk.outcomes.value_of`.

        Raises also:
            ObjectMissing, ObjectDamaged, …: its body is in the object store, and cannot be had from there.
        """
        reference = reference_in(outcome.body) if outcome.body else None
        if reference is not None:
            outcome = outcome._replace(body=await self._fetched(reference, outcome, target))
        return value_of(outcome, target, codec)

    async def _fetched(self, reference: Reference, outcome: Outcome, target: str) -> bytes:
        call_id = format_call_id(outcome.call_id)
        try:
            if self._objects is None:
                raise ObjectMissing("there is no store of large bodies here", name=reference.name)
            return await self._get(self._objects, reference)
        except AegisError as error:
            raise type(error)(
                f"{target} has its outcome, but what it gave ({reference.size_bytes} bytes) cannot be read: "
                f"{error.message}; attach({call_id!r}) tries again",
                **{**error.details, "call_id": call_id},
            ) from error

    async def _get(self, objects: Objects, reference: Reference) -> bytes:
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + _PATIENCE_S
        return await persist(
            lambda: objects.get(reference), lambda: self._is_closed() or loop.time() >= give_up_at
        )
