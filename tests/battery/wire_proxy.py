"""A proxy that reads the NATS protocol: it can keep back one message, of either direction, and tell of it.

What comes after a message that is kept back, on the same connection and in the same direction, waits behind
it, as it would behind a lost packet. Then the message is passed on, or it is lost together with its
connection: a stream of bytes has no gaps.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from tests.support.proxy import Direction, FaultyProxy, _Link, _reset

_CHUNK_BYTES: Final = 64 * 1024
_PAYLOADS: Final = frozenset({"PUB", "HPUB", "MSG", "HMSG"})
_MAX_LINE_BYTES: Final = 64 * 1024

type Wants = Callable[["Seen"], bool]


class NotNats(Exception):
    """These bytes are not the NATS protocol."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One operation of the protocol. ``subject`` is empty where it carries no message; ``payload`` is without
    headers. A consumer's message has the subject under which it was stored.
    """

    verb: str
    raw: bytes
    subject: str = ""
    reply: str = ""
    payload: bytes = b""


class Splitter:
    """Cuts a stream of bytes into operations. Pure."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, chunk: bytes) -> Iterator[Frame]:
        """Take in bytes and return the operations that are complete.

        Raises:
            NotNats: they are none.
        """
        self._buffer += chunk
        while (frame := self._next()) is not None:
            yield frame

    def _next(self) -> Frame | None:
        end = self._buffer.find(b"\r\n")
        if end < 0:
            if len(self._buffer) > _MAX_LINE_BYTES:
                raise NotNats("a line has no end")
            return None
        line = bytes(self._buffer[:end])
        words = line.split()
        verb = words[0].decode("ascii", "replace").upper() if words else ""
        if not verb:
            raise NotNats("a line is empty")
        if verb not in _PAYLOADS:
            return Frame(verb, self._take(end + 2))
        subject, reply, skipped, size = _read(verb, words[1:], line)
        total = end + 2 + size + 2
        if len(self._buffer) < total:
            return None
        raw = self._take(total)
        if not raw.endswith(b"\r\n"):
            raise NotNats(f"a payload has another length than {line!r} says")
        return Frame(verb, raw, subject, reply, raw[end + 2 + skipped : -2])

    def _take(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken


def _read(verb: str, words: list[bytes], line: bytes) -> tuple[str, str, int, int]:
    """Subject, reply subject, size of the headers, and size of all of it."""
    numbers = 2 if verb.startswith("H") else 1
    names = 2 if verb.endswith("MSG") else 1  # subject, and the id of the subscription
    if len(words) not in (names + numbers, names + numbers + 1):
        raise NotNats(f"cannot read {line!r}")
    try:
        sizes = [int(word) for word in words[-numbers:]]
        subject = words[0].decode()
        reply = words[names].decode() if len(words) > names + numbers else ""
    except ValueError:
        raise NotNats(f"cannot read {line!r}") from None
    skipped, size = (sizes[0], sizes[1]) if numbers == 2 else (0, sizes[0])
    if not 0 <= skipped <= size:
        raise NotNats(f"cannot read {line!r}")
    return subject, reply, skipped, size


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """An operation on its way. ``who`` is the name under which the client connected."""

    frame: Frame
    is_to_server: bool
    who: str
    link: _Link


class Hold:
    """Keeps back whatever it wants, from the first such message on until it is released or dropped."""

    def __init__(self, wants: Wants) -> None:
        self.wants = wants
        self._is_over = asyncio.Event()
        self._has_enough = False
        self.caught = asyncio.Event()
        self.seen: list[Seen] = []

    async def gate(self, seen: Seen) -> None:
        """Return when the message may go on."""
        if self._is_over.is_set() or self._has_enough or not self.wants(seen):
            return
        self.seen.append(seen)
        self.caught.set()
        await self._is_over.wait()

    def take_no_more(self) -> None:
        """Keep back what is kept back, and nothing else."""
        self._has_enough = True

    def release(self) -> None:
        """Pass everything on, and keep nothing back any more."""
        self._is_over.set()

    def drop(self) -> None:
        """Lose what is kept back, with its connections, and keep nothing back any more."""
        for seen in self.seen:
            for pump in seen.link.pumps:
                pump.cancel()
            _reset(seen.link.client)
            _reset(seen.link.server)
        self._is_over.set()


class AnswerTo:
    """Wants what tells a writer that its record is stored: the acknowledgement, or, should that come first,
    the record itself by way of a subscription.
    """

    def __init__(self, wants: Wants) -> None:
        self._wants = wants
        self._sent: Seen | None = None

    def __call__(self, seen: Seen) -> bool:
        if self._sent is None:
            if seen.is_to_server and self._wants(seen):
                self._sent = seen
            return False
        if seen.is_to_server or seen.link is not self._sent.link:
            return False
        sent, frame = self._sent.frame, seen.frame
        return frame.subject == sent.reply or (frame.subject, frame.payload) == (sent.subject, sent.payload)


class WireProxy(FaultyProxy):
    """Keeps messages back: ``hold = proxy.hold(wants)``; then ``hold.caught``; then ``hold.drop()``."""

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self._holds: list[Hold] = []
        self._names: dict[_Link, str] = {}
        self._kept: set[_Link] = set()
        self.failures: list[Exception] = []

    def hold(self, wants: Wants) -> Hold:
        """Keep back whatever `wants` returns true for."""
        hold = Hold(wants)
        self._holds.append(hold)
        return hold

    def keep_open(self, link: _Link) -> None:
        """Do not tell the server when the client of this connection is gone."""
        self._kept.add(link)

    async def _pump(
        self, link: _Link, source: asyncio.StreamReader, sink: asyncio.StreamWriter, direction: Direction
    ) -> None:
        splitter, is_to_server = Splitter(), direction is self.to_server
        is_gone = False
        try:
            with contextlib.suppress(OSError):
                while chunk := await source.read(_CHUNK_BYTES):
                    for frame in splitter.feed(chunk):
                        await self._gates(frame, link, is_to_server=is_to_server)
                        if not is_gone:
                            is_gone = not await self._is_passed_on(link, frame, sink, direction)
                    if is_gone and is_to_server:
                        return
        except NotNats as error:
            self.failures.append(error)
        finally:
            if not is_to_server or link not in self._kept:
                sink.close()

    async def _is_passed_on(
        self, link: _Link, frame: Frame, sink: asyncio.StreamWriter, direction: Direction
    ) -> bool:
        """Whether there is still somebody at the other end. If it is the client who is gone, the server is
        listened to all the same: it may have something to say to what the client had sent.
        """
        try:
            await self._pass_on(link, frame.raw, sink, direction)
        except OSError:
            return False
        return True

    async def _gates(self, frame: Frame, link: _Link, *, is_to_server: bool) -> None:
        if frame.verb == "CONNECT":
            said: dict[str, Any] = json.loads(frame.raw[len("CONNECT ") :])
            self._names[link] = str(said.get("name", ""))
        if frame.verb in _PAYLOADS:
            seen = Seen(frame, is_to_server, self._names.get(link, ""), link)
            for hold in self._holds:
                await hold.gate(seen)
