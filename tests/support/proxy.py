"""A TCP proxy that breaks connections in the ways networks do."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import socket
import struct
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

_CHUNK_BYTES = 64 * 1024
_LINGER_ZERO = struct.pack("ii", 1, 0)  # closing with this option sends RST and discards what is unsent


class Flow(enum.Enum):
    """What happens to bytes of one direction."""

    FORWARD = "forward"
    STALL = "stall"  # nobody reads them: the sender's kernel fills up
    DISCARD = "discard"  # read and thrown away: a black hole


@dataclass(slots=True)
class Direction:
    """Controls of one direction, for all connections. ``cut_after_bytes``: reset after that many more."""

    flow: Flow = Flow.FORWARD
    delay_s: float = 0.0
    cut_after_bytes: int | None = None
    forwarded_bytes: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def set(self, flow: Flow) -> None:
        """Change what happens from the next chunk on; a chunk that is held by a stall obeys too."""
        self.flow = flow
        self.changed.set()
        self.changed = asyncio.Event()


@dataclass(eq=False, slots=True)
class _Link:
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    pumps: list[asyncio.Task[None]] = field(default_factory=list)


class FaultyProxy:
    """Stands between clients and ``target`` (``nats://host:port``); clients connect to ``url``.

    ``to_server`` and ``to_client`` control the two directions; ``stall``, ``blackhole`` and ``heal``
    set both.
    """

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 4222)
        self._port = 0
        self._listener: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self.to_server = Direction()
        self.to_client = Direction()
        self.accepted = 0

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://127.0.0.1:{self._port}"

    @property
    def open_links(self) -> int:
        """Connections of which at least one direction still flows."""
        return sum(not all(pump.done() for pump in link.pumps) for link in self._links)

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.refuse()
        await self.reset()

    async def listen(self) -> None:
        """Accept connections (again), on the same port as before."""
        if self._listener is None:
            self._listener = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
            self._port = self._listener.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Stop accepting: new connections are refused, existing ones stay."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def stall(self) -> None:
        """Forward nothing, read nothing, close nothing."""
        self.to_server.set(Flow.STALL)
        self.to_client.set(Flow.STALL)

    def blackhole(self) -> None:
        """Swallow everything, both ways, and close nothing."""
        self.to_server.set(Flow.DISCARD)
        self.to_client.set(Flow.DISCARD)

    def heal(self) -> None:
        """Forward again; what was stalled is delivered."""
        self.to_server.set(Flow.FORWARD)
        self.to_client.set(Flow.FORWARD)

    async def reset(self) -> None:
        """Reset every connection (RST on both sides); what was held is lost."""
        links, self._links = self._links, set()
        pumps = [pump for link in links for pump in link.pumps]
        for link in links:
            _reset(link.client)
            _reset(link.server)
        for pump in pumps:
            pump.cancel()
        if pumps:
            await asyncio.wait(pumps)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            server_reader, server_writer = await asyncio.open_connection(*self._target)
        except OSError:
            _reset(writer)
            return
        link = _Link(writer, server_writer)
        self._links.add(link)
        loop = asyncio.get_running_loop()
        link.pumps += [
            loop.create_task(self._pump(link, reader, server_writer, self.to_server)),
            loop.create_task(self._pump(link, server_reader, writer, self.to_client)),
        ]

    async def _pump(
        self, link: _Link, source: asyncio.StreamReader, sink: asyncio.StreamWriter, direction: Direction
    ) -> None:
        try:
            with contextlib.suppress(OSError):
                while chunk := await source.read(_CHUNK_BYTES):
                    await self._pass_on(link, chunk, sink, direction)
        finally:
            sink.close()

    async def _pass_on(
        self, link: _Link, chunk: bytes, sink: asyncio.StreamWriter, direction: Direction
    ) -> None:
        while direction.flow is Flow.STALL:
            await direction.changed.wait()
        if direction.delay_s:
            await asyncio.sleep(direction.delay_s)
        if direction.flow is Flow.DISCARD:
            return
        if direction.cut_after_bytes is not None:
            chunk = chunk[: direction.cut_after_bytes]
            direction.cut_after_bytes -= len(chunk)
        sink.write(chunk)
        await sink.drain()
        direction.forwarded_bytes += len(chunk)
        if direction.cut_after_bytes == 0:
            direction.cut_after_bytes = None
            _reset(link.client)
            _reset(link.server)


def _reset(writer: asyncio.StreamWriter) -> None:
    raw = writer.get_extra_info("socket")
    if raw is not None:
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
    writer.transport.abort()
