"""A NATS client that sends whatever bytes it is given, as no library would."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit

from aegisipc.chaos.nemeses.errors import NemesisFailed
from aegisipc.chaos.nemeses.hostile import MALLORY, Shot

_BATCH: Final = 64
_TIMEOUT_S: Final = 10.0


@dataclass(slots=True)
class Sent:
    """What became of messages, as far as the server says. ``refused``: for lack of permission."""

    by_kind: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    closed: int = 0
    """Connections that the server closed because of what was sent; the rest of that batch is lost."""
    errors: Counter[str] = field(default_factory=Counter)
    """Everything else that the server objected to, by its words."""

    @property
    def total(self) -> int:
        """How many messages were sent."""
        return self.by_kind.total()


async def send(url: str, shots: Iterable[Shot], *, per_s: float | None = None) -> Sent:
    """Send messages to the server at `url` (with credentials, if need be), 64 at a time: the server has read
    each lot before the next. `per_s` limits the rate.

    Raises:
        NemesisFailed: nobody can connect there.
    """
    sent, client = Sent(), _Client(url)
    lot: list[Shot] = []
    try:
        for shot in shots:
            lot.append(shot)
            if len(lot) == _BATCH:
                await _fire(client, lot, sent)
                if per_s:
                    await asyncio.sleep(len(lot) / per_s)
                lot = []
        await _fire(client, lot, sent)
    finally:
        await client.close()
    return sent


async def _fire(client: _Client, lot: list[Shot], sent: Sent) -> None:
    sent.by_kind.update(shot.kind.value for shot in lot)
    try:
        await client.exchange(b"".join(map(_publish, lot)), sent)
    except (OSError, EOFError, TimeoutError):
        sent.closed += 1
        await client.close()


def _publish(shot: Shot) -> bytes:
    reply = shot.reply + b" " if shot.reply else b""
    if not shot.headers:
        return b"PUB %s %s%d\r\n%s\r\n" % (shot.subject, reply, len(shot.payload), shot.payload)
    both = shot.headers + shot.payload
    return b"HPUB %s %s%d %d\r\n%s\r\n" % (shot.subject, reply, len(shot.headers), len(both), both)


class _Client:
    """One connection at a time, made when it is needed."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "127.0.0.1", parts.port or 4222)
        login = {"user": parts.username, "pass": parts.password} if parts.username else {}
        said = {"name": MALLORY, "verbose": False, "pedantic": False, "headers": True, "lang": "python"}
        said |= {key: unquote(value) for key, value in login.items() if value is not None}
        said |= {"version": "1", "protocol": 1, "no_responders": True}
        self._hello = b"CONNECT " + json.dumps(said).encode() + b"\r\n"
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def exchange(self, commands: bytes, sent: Sent) -> None:
        """Send commands, and take in what the server says until it has read them all."""
        async with asyncio.timeout(_TIMEOUT_S):
            reader, writer = self._streams or await self._open()
            writer.write(commands + b"PING\r\n")
            while (line := await reader.readline()) != b"PONG\r\n":
                if not line:
                    raise EOFError
                if line.startswith(b"PING"):
                    writer.write(b"PONG\r\n")
                elif line.startswith(b"-ERR 'Permissions Violation"):
                    sent.refused += 1
                elif line.startswith(b"-ERR"):
                    sent.errors[line[5:].decode("utf-8", "replace").strip()] += 1

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            self._streams = await asyncio.open_connection(*self._address)
        except OSError as error:
            host, port = self._address
            raise NemesisFailed(
                f"cannot reach a server at {host}:{port}: {error}; start one", what="hostile messages"
            ) from error
        self._streams[1].write(self._hello)
        return self._streams

    async def close(self) -> None:
        """Hang up."""
        if self._streams is not None:
            writer = self._streams[1]
            self._streams = None
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
