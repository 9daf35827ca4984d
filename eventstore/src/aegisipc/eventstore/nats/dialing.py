"""Which server to try next, and what a refusal means."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from nats.errors import Error as NatsError

from aegisipc.eventstore.errors import AegisError, BadCredentials, NotConnected, ServerUnsuitable

from .options import ConnectOptions, Endpoint, ServerInfo
from .wire import Wire

MIN_SERVER_VERSION = (2, 11)
_CREDENTIAL_MARKS = ("authorization violation", "authentication expired", "authentication revoked")


class Dialer:
    """Makes sessions. Configured servers come first, then those a cluster announced; each round goes on
    after the server tried last, so that a server that hangs does not hold up the way to the others twice.
    """

    def __init__(self, options: ConnectOptions, on_refused: Callable[[str, str], None]) -> None:
        self._options = options
        self._on_refused = on_refused
        self._configured = options.endpoints()
        self._discovered: tuple[Endpoint, ...] = ()
        self._next = 0

    async def dial_any(self) -> tuple[Wire, ServerInfo]:
        """A session with the first server that takes us, each being tried once.

        Raises the most telling refusal: ``BadCredentials`` or ``ServerUnsuitable`` before ``NotConnected``.
        """
        failures: list[AegisError] = []
        pool = self._pool()
        for offset in range(len(pool)):
            position = (self._next + offset) % len(pool)
            try:
                session = await self._dial(pool[position])
            except (BadCredentials, ServerUnsuitable, NotConnected) as failure:
                failures.append(failure)
            else:
                self._next = position + 1
                return session
        failures.sort(key=lambda failure: isinstance(failure, NotConnected))
        if len(failures) > 1 and isinstance(failures[0], NotConnected):
            raise NotConnected("; ".join(failure.message for failure in failures), url=self._options.url)
        raise failures[0]

    def _pool(self) -> tuple[Endpoint, ...]:
        known = {(endpoint.host, endpoint.port) for endpoint in self._configured}
        return self._configured + tuple(e for e in self._discovered if (e.host, e.port) not in known)

    async def _dial(self, endpoint: Endpoint) -> tuple[Wire, ServerInfo]:
        wire = Wire(self._options, self._on_refused)
        try:
            server = await wire.dial(endpoint)
            self._check(server)
        except BaseException as failure:
            await asyncio.shield(wire.shut())
            if isinstance(failure, (OSError, NatsError, TimeoutError, ImportError)):
                raise self._refusal(endpoint, failure) from failure
            raise
        self._discovered = tuple(Endpoint.parse(url, endpoint.scheme) for url in server.discovered)
        return wire, server

    def _check(self, server: ServerInfo) -> None:
        minimum = ".".join(str(number) for number in MIN_SERVER_VERSION)
        if server.version_numbers[:2] < MIN_SERVER_VERSION:
            raise ServerUnsuitable(
                f"cannot use the server at {server.url}: it is nats-server {server.version}, and "
                f"AegisIPC needs {minimum} or newer; upgrade it",
                url=server.url,
                version=server.version,
            )
        if self._options.require_jetstream and not server.jetstream:
            raise ServerUnsuitable(
                f"cannot use the server at {server.url}: JetStream is off; start it with --jetstream, or "
                "with a jetstream section in its configuration",
                url=server.url,
                version=server.version,
            )

    def _refusal(self, endpoint: Endpoint, failure: Exception) -> AegisError:
        text = str(failure) or type(failure).__name__
        if isinstance(failure, ImportError):
            return BadCredentials(
                f"cannot use the credentials file {self._options.creds_file}: {text}; install the package "
                "'nkeys'",
                url=endpoint.url,
            )
        if isinstance(failure, (FileNotFoundError, PermissionError)) and self._options.creds_file is not None:
            return BadCredentials(
                f"cannot read the credentials file {self._options.creds_file}: {text}", url=endpoint.url
            )
        if any(mark in text.lower() for mark in _CREDENTIAL_MARKS):
            return BadCredentials(
                f"cannot log in at {endpoint.url}: the server refused the credentials; check user and "
                "password (or token, or credentials file)",
                url=endpoint.url,
            )
        if isinstance(failure, TimeoutError):
            text = f"no answer within {self._options.connect_timeout_s:g} s"
        return NotConnected(
            f"cannot connect to {endpoint.url}: {text}; check the URL and that nats-server runs there "
            "('aegis dev' starts one)",
            url=endpoint.url,
        )
