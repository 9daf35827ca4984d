"""How to connect, and what is known about the server one is connected to."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from aegisipc.eventstore.errors import InvalidName

DEFAULT_URL = "nats://127.0.0.1:4222"
_SCHEMES = {"nats", "tls"}
_VERSION = re.compile(r"v?(\d+)\.(\d+)\.(\d+)")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server's address, with the credentials its URL carried (empty when it carried none)."""

    scheme: str
    host: str
    port: int
    user: str = ""
    password: str = field(default="", repr=False)

    @classmethod
    def parse(cls, url: str, default_scheme: str = "nats") -> Self:
        """Read ``nats://user:password@host:port``; scheme and port may be missing. Raises
        ``InvalidName``.
        """
        text = url.strip()
        parts = urlsplit(text if "://" in text else f"{default_scheme}://{text}")
        try:
            port = parts.port or 4222
        except ValueError:
            port = 0
        if parts.scheme not in _SCHEMES or not parts.hostname or port == 0:
            raise InvalidName(f"cannot use {_redacted(url)!r} as a server's URL: write nats://host:port")
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        return cls(parts.scheme, parts.hostname, port, user, password)

    @property
    def url(self) -> str:
        """The URL without credentials: safe to show."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class ConnectOptions:
    """Where and how to connect.

    ``url`` is one URL or several with commas between them; credentials in a URL serve all of them. ``user``
    and ``password``, ``token`` or ``creds_file`` take precedence. ``name`` is the connection's name in the
    server's events. A silent server is given up after ``max_pings_out`` + 1 intervals of
    ``ping_interval_s``. A lost session is replaced after ``reconnect_wait_s``, however long it takes.
    ``max_unsent_bytes`` bounds what may wait for a server that does not read. ``require_jetstream`` is
    false for connections to the system account.
    """

    url: str = DEFAULT_URL
    name: str = "aegisipc"
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    creds_file: Path | None = None
    tls: ssl.SSLContext | None = None
    tls_hostname: str | None = None
    connect_timeout_s: float = 5.0
    ping_interval_s: float = 1.0
    max_pings_out: int = 2
    reconnect_wait_s: float = 0.1
    max_unsent_bytes: int = 64 * 1024 * 1024
    inbox_prefix: str = "_INBOX"
    require_jetstream: bool = True

    def endpoints(self) -> tuple[Endpoint, ...]:
        """The configured servers, in order. Raises ``InvalidName``."""
        found = tuple(Endpoint.parse(url) for url in self.url.split(",") if url.strip())
        if not found:
            raise InvalidName("cannot connect without a server's URL: write nats://host:port")
        return found

    def credentials(self) -> dict[str, Any]:
        """nats-py's keyword arguments for whichever credentials apply."""
        if self.creds_file is not None:
            return {"user_credentials": str(self.creds_file)}
        if self.token is not None:
            return {"token": self.token}
        if self.user is not None:
            return {"user": self.user, "password": self.password or ""}
        for endpoint in self.endpoints():
            if endpoint.password:
                return {"user": endpoint.user, "password": endpoint.password}
            if endpoint.user:
                return {"token": endpoint.user}
        return {}


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What the server said when the session was established. ``client_id`` is our connection's number
    there.
    """

    url: str
    version: str
    server_id: str
    server_name: str
    max_payload_bytes: int
    jetstream: bool
    cluster: str | None
    client_id: int
    discovered: tuple[str, ...] = ()

    @classmethod
    def from_info(cls, url: str, info: dict[str, Any]) -> Self:
        """Read the server's INFO line."""
        return cls(
            url=url,
            version=str(info.get("version", "")),
            server_id=str(info.get("server_id", "")),
            server_name=str(info.get("server_name", "")),
            max_payload_bytes=int(info.get("max_payload", 1024 * 1024)),
            jetstream=bool(info.get("jetstream", False)),
            cluster=info.get("cluster"),
            client_id=int(info.get("client_id", 0)),
            discovered=tuple(info.get("connect_urls") or ()),
        )

    @property
    def version_numbers(self) -> tuple[int, int, int]:
        """Major, minor and patch number; zeros if the version cannot be read."""
        match = _VERSION.match(self.version)
        return (int(match[1]), int(match[2]), int(match[3])) if match else (0, 0, 0)


def _redacted(url: str) -> str:
    return re.sub(r"//[^@/]*@", "//…@", url)
