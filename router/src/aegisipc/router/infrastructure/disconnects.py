"""The server's own word that a connection ended, heard through its system account.

A server tells of each connection that ends, within milliseconds and with the connection's name. Instances
name theirs ``aegis:<namespace>:<service>:<group>:<instance>``; all others are none of our business. It is a
hint, beside the pulses: without it a router works as well, and learns of deaths later.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import structlog

from aegisipc.eventstore.errors import (
    AckUnknown,
    AegisError,
    BadCredentials,
    MalformedPayload,
    NoResponders,
    NotConnected,
    PermissionDenied,
)
from aegisipc.eventstore.jetstream_api import parse_time
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.events import Connected, Disconnected
from aegisipc.eventstore.nats.events import Event as ConnectionEvent
from aegisipc.eventstore.nats.message import Message
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.pulses import ConnectionId

SUBJECT: Final = "$SYS.ACCOUNT.*.DISCONNECT"
MAX_EVENT_BYTES: Final = 64 * 1024
MAX_REASON_CHARS: Final = 80

_WHO_ANSWERS: Final = "$SYS.REQ.SERVER.PING.IDZ"
"""Servers answer this to users of the system account only."""

_CHECK_TIMEOUT_S: Final = 2.0
_RETRY_S: Final = 1.0
_PARTS: Final = 5

_SAYS_NOTHING: Final = frozenset({"Server Shutdown", "Kicked", "Authentication Expired"})
"""Reasons that lie with the server or an operator: the client is sound, and connects again."""

_log = structlog.get_logger("aegisipc.router")


class Ended(NamedTuple):
    """A connection that ended, as the server told it. ``at_ns`` is by that server's clock."""

    name: str
    connection: ConnectionId
    reason: str
    at_ns: int

    @property
    def says_something(self) -> bool:
        """Whether it may be the client's fault that it ended."""
        return self.reason not in _SAYS_NOTHING


def read_ended(payload: bytes) -> Ended:
    """Read a server's event.

    Raises:
        MalformedPayload: when it is not one, or too long.
    """
    if len(payload) > MAX_EVENT_BYTES:
        raise MalformedPayload(
            f"cannot read an event of {len(payload)} bytes: the limit is {MAX_EVENT_BYTES}"
        )
    try:
        event = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise MalformedPayload(f"cannot read a server's event: {error}") from error
    client, server = _part(event, "client"), _part(event, "server")
    client_id = client.get("id")
    if not isinstance(client_id, int):
        raise MalformedPayload("cannot read a server's event: its client has no number")
    return Ended(
        _text(client, "name"),
        ConnectionId(_text(server, "id"), client_id),
        _text(event, "reason")[:MAX_REASON_CHARS],
        parse_time(_text(event, "timestamp")),
    )


def _part(event: object, key: str) -> dict[str, Any]:
    part = event.get(key) if isinstance(event, dict) else None
    if not isinstance(part, dict):
        raise MalformedPayload(f"cannot read a server's event: it tells of no {key}")
    return part


def _text(event: dict[str, Any], key: str) -> str:
    text = event.get(key, "")
    if not isinstance(text, str):
        raise MalformedPayload(f"cannot read a server's event: its {key} is no text")
    return text


class Disconnects:
    """A connection to the system account that tells `on_end` of each connection of an instance that ended.

    Losing it is no failure: it is replaced when that is possible again, and ``is_connected`` says how it is.
    """

    def __init__(self, url: str, namespace: str, *, name: str, on_end: Callable[[Ended], None]) -> None:
        self._options = ConnectOptions(url, name=name, require_jetstream=False)
        self._prefix = f"aegis:{namespace}:"
        self._marker = self._prefix.encode()
        self._on_end = on_end
        self._connection: Connection | None = None
        self._opening: asyncio.Task[None] | None = None
        self.told = 0
        self.ignored = 0
        self.unreadable = 0

    @property
    def is_connected(self) -> bool:
        """Whether servers can tell us anything now."""
        return self._connection is not None and self._connection.is_connected

    async def start(self) -> None:
        """Connect and listen; if no server answers, go on trying in the background.

        Raises:
            BadCredentials: the server refuses them, or they are not those of its system account.
            PermissionDenied: this user may not hear of connections.
            InvalidName, ServerUnsuitable: as the connection found it.
        """
        try:
            await self._open()
        except NotConnected as error:
            _log.warning("system_account_unreachable", error=error.message)
            self._opening = asyncio.get_running_loop().create_task(
                self._open_later(), name="router system account"
            )

    async def stop(self) -> None:
        """Hear no more. Idempotent."""
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.cancel()
            await asyncio.gather(opening, return_exceptions=True)
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _open_later(self) -> None:
        told = ""
        while self._connection is None:
            await asyncio.sleep(_RETRY_S)
            try:
                await self._open()
            except AegisError as error:
                if error.message != told:
                    told = error.message
                    _log.warning("system_account_unreachable", error=told)

    async def _open(self) -> None:
        try:
            connection = await Connection.open(self._options)
        except BadCredentials as error:
            raise _not_ours(error.message, **error.details) from error
        try:
            await _check_account(connection)
            await self._listen(connection)
        except BaseException:
            await connection.close()
            raise
        self._connection = connection
        connection.on_event(self._on_event)
        _log.info("system_account_connected", url=connection.server.url)

    async def _listen(self, connection: Connection) -> None:
        try:
            await connection.subscribe(SUBJECT, self._on_message)
        except PermissionDenied as error:
            raise PermissionDenied(
                f"cannot hear of connections that end: the user in --system-url may not subscribe to "
                f"{SUBJECT!r}; permit that, or leave --system-url (AEGIS_SYSTEM_URL) out",
                **error.details,
            ) from error

    def _on_event(self, event: ConnectionEvent) -> None:
        if isinstance(event, Disconnected):
            _log.warning("system_account_lost", reason=event.reason)
        elif isinstance(event, Connected):
            _log.info("system_account_connected", url=event.server.url)

    def _on_message(self, message: Message) -> None:
        if self._marker not in message.payload:  # most are clients, or of other namespaces
            return
        try:
            ended = read_ended(message.payload)
        except MalformedPayload as error:
            self.unreadable += 1
            _log.warning("unreadable_system_event", subject=message.subject, error=error.message)
            return
        if not ended.name.startswith(self._prefix) or ended.name.count(":") != _PARTS - 1:
            return
        if ended.says_something:
            self.told += 1
            self._on_end(ended)
        else:
            self.ignored += 1


async def _check_account(connection: Connection) -> None:
    """Any user may subscribe to what only the system account is told, and then hears nothing, for ever."""
    try:
        await connection.request(_WHO_ANSWERS, b"", timeout_s=_CHECK_TIMEOUT_S)
    except NoResponders:
        raise _not_ours(
            f"the user in it does not belong to the system account of {connection.server.url}",
            url=connection.server.url,
        ) from None
    except (AckUnknown, PermissionDenied) as error:  # it may be held to subscribing
        _log.warning("system_account_unchecked", error=error.message)


def _not_ours(why: str, **details: Any) -> BadCredentials:
    return BadCredentials(
        f"cannot use the system account: {why}; correct --system-url (AEGIS_SYSTEM_URL), or leave it out: "
        "then instances that die are noticed by their silence, a second later",
        **details,
    )
