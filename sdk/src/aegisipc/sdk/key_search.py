"""Finding the call that has an idempotency key: the holder of the group's pen knows it, else the log."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final, NamedTuple

from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.ids import CallId, parse_call_id
from aegisipc.eventstore.key_seeking import find_key
from aegisipc.eventstore.names import check_key, check_name, check_resource
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.sdk.attached import Seeker
from aegisipc.sdk.errors import CallTimeout, CallUnknown, ServiceDefinitionError
from aegisipc.sdk.persistence import persist

_ASK_TIMEOUT_S: Final = 1.0


class KeyAddress(NamedTuple):
    """An idempotency key, and whose it is."""

    key: str
    service: str
    resource: str | None


def key_address(key: object, service: object, resource: object) -> KeyAddress:
    """Check what names a call by its key.

    Raises:
        ServiceDefinitionError: the key or the service is missing.
        InvalidName: one of them cannot be what it is given as.
    """
    if key is None or service is None:
        raise ServiceDefinitionError(
            "cannot attach to nothing: give a call id, or idempotency_key and service (and resource_id, if "
            "the call was about a resource)"
        )
    return KeyAddress(
        check_key(key),
        check_name(service, "service"),
        None if resource is None else check_resource(resource),
    )


class KeySearch:
    """Finds calls by their keys."""

    def __init__(self, connection: Connection, seeker: Seeker) -> None:
        self._connection = connection
        self._seeker = seeker

    async def find(self, address: KeyAddress, group: str, timeout_s: float) -> CallId:
        """Return the call that has the key in a group.

        Raises:
            CallUnknown: nobody has it.
            CallTimeout: finding that out took longer than `timeout_s`.
        """
        seeker = self._seeker
        try:
            async with asyncio.timeout(timeout_s):
                found = await self._ask(address, group, min(_ASK_TIMEOUT_S, timeout_s))
                if found is None:
                    found = await persist(
                        lambda: find_key(seeker.log, seeker.subjects, address.service, group, address.key),
                        seeker.is_closed,
                    )
        except TimeoutError:
            raise CallTimeout(
                f"cannot find out within {timeout_s:g} s which call has the idempotency key {address.key!r}; "
                "try again with more time",
                key=address.key,
                call_id="",
            ) from None
        if found is not None:
            return found
        raise CallUnknown(
            f"cannot attach by the idempotency key {address.key!r}: no call of {address.service}, group "
            f"{group!r}, has it; none was accepted, the one that had it had no effect, or it is older than "
            "the log. Calling with the key is safe in each case but the last",
            key=address.key,
            call_id="",
        )

    async def _ask(self, address: KeyAddress, group: str, timeout_s: float) -> CallId | None:
        """Ask the holder; ``None`` if it does not answer, or does not know a call that has the key."""
        subject = self._seeker.subjects.find_key(address.service, group)
        question = json.dumps({"command": "find_key", "key": address.key}).encode()
        try:
            answer = await self._connection.request(subject, question, timeout_s=timeout_s)
            told: Any = json.loads(answer.payload)
            text = told.get("call_id") if told.get("ok") else None
            return parse_call_id(text) if text else None
        except (AegisError, ValueError, AttributeError, RecursionError):
            return None
