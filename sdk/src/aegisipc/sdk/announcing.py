"""What an incarnation of an instance says about itself in the log, on the subjects that are its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from aegisipc.eventstore.errors import (
    AckUnknown,
    AegisError,
    LogFull,
    MalformedPayload,
    NoResponders,
    NotConnected,
)
from aegisipc.eventstore.events import (
    Event,
    InstanceRegistered,
    ServiceContract,
    decode_event,
    encode_event,
)
from aegisipc.eventstore.log import Start
from aegisipc.sdk.core.pen import Identity
from aegisipc.sdk.hosts.base import Site

_log = structlog.get_logger("aegisipc.instance")

_RETRY_S: Final = 0.1
_INSISTING_S: Final = 5.0
_APPEND_TIMEOUT_S: Final = 2.0


class Announcer:
    """The voice of one incarnation."""

    def __init__(self, site: Site, identity: Identity) -> None:
        self._log = site.log
        self._incarnation = identity.incarnation
        self._subject = site.subjects.instance(identity.service, identity.group, identity.instance)
        self._offers = site.subjects.contract(identity.service, identity.group, identity.instance)
        self.turn = asyncio.Lock()
        """To be held by those who speak unasked, from their reason to speak until they have acted on what
        they said: else a word that follows from another one could come before it.
        """

    async def say(self, event: Event, *, patience_s: float, number: int = 0) -> int:
        """Append an event about this instance; the same record is sent again for `patience_s` until it is
        stored. Returns its sequence.

        What is said more than once under one incarnation needs a `number` each time, so that it is not taken
        for a repetition.

        Raises:
            AckUnknown, NotConnected, NoResponders, LogFull: what the last attempt came to.
        """
        payload = encode_event(event)
        record_id = f"{self._incarnation}.{event.type}{f'.{number}' if number else ''}"

        async def attempt() -> int:
            appended = await self._log.append(
                self._subject, payload, record_id=record_id, timeout_s=_APPEND_TIMEOUT_S
            )
            return appended.seq

        return await _persist(attempt, patience_s)

    async def offer(self, contract: ServiceContract, *, patience_s: float) -> int:
        """Write the schemas of what the instance offers, unless the latest ones are the same. Returns where
        they stand.

        Raises:
            AckUnknown, NotConnected, NoResponders, LogFull: as for :meth:`say`.
        """

        async def attempt() -> int:
            latest = await self._log.last(self._offers)
            if latest is not None and _is_same(latest.payload, contract):
                return latest.seq
            appended = await self._log.append(
                self._offers,
                encode_event(contract),
                record_id=f"{self._incarnation}.{contract.type}.{contract.digest[:16]}",
                timeout_s=_APPEND_TIMEOUT_S,
            )
            return appended.seq

        return await _persist(attempt, patience_s)

    async def insist(self, event: Event, *, number: int) -> None:
        """Say it, however long that takes and whatever stands in the way."""
        told = ""
        while True:
            try:
                await self.say(event, patience_s=_INSISTING_S, number=number)
            except AegisError as error:
                if error.code != told:
                    told = error.code
                    _log.warning("cannot_say_yet", type=event.type, error=error.message)
                await asyncio.sleep(_RETRY_S)
            else:
                return

    async def is_followed(self, registered_seq: int) -> bool:
        """Tell whether another incarnation registered after `registered_seq`, where this one did.

        Raises:
            AckUnknown, NotConnected, NoResponders: the log cannot be asked.
        """
        async for record in self._log.read([self._subject], start=Start(registered_seq + 1)):
            if _registers_another(record.payload, self._incarnation):
                return True
        return False


def _is_same(payload: bytes, contract: ServiceContract) -> bool:
    try:
        event = decode_event(payload)
    except MalformedPayload:
        return False
    return isinstance(event, ServiceContract) and event.digest == contract.digest


def _registers_another(payload: bytes, incarnation: str) -> bool:
    try:
        event = decode_event(payload)
    except MalformedPayload:
        return False
    return isinstance(event, InstanceRegistered) and event.incarnation != incarnation


async def _persist[T](attempt: Callable[[], Awaitable[T]], patience_s: float) -> T:
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + patience_s
    while True:
        try:
            return await attempt()
        except (AckUnknown, NotConnected, NoResponders, LogFull):
            if loop.time() >= give_up_at:
                raise
            await asyncio.sleep(_RETRY_S)
