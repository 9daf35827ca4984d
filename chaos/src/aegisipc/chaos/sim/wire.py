"""One simulated session of a client with the model server: it takes the place of a socket and its parser.

It has the interface of :class:`aegisipc.eventstore.nats.wire.Wire`; everything above it is production code.
What was sent in one turn of the loop leaves together at its end, as there. Both directions are queues that
keep their order, with a delay for each item; the network can hold them up, and what is in them when a session
breaks may be lost, all or a part of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from aegisipc.chaos.sim.loop import ACTOR, current
from aegisipc.eventstore.errors import NotConnected
from aegisipc.eventstore.nats.message import Message
from aegisipc.eventstore.nats.options import ConnectOptions, Endpoint, ServerInfo

if TYPE_CHECKING:
    from aegisipc.chaos.sim.network import Session

type Handler = Callable[[Message], None]


class ModelWire:
    """The client's end of a session. Call ``dial`` once, ``shut`` once."""

    def __init__(self, options: ConnectOptions, on_refused: Callable[[str, str], None]) -> None:
        self._loop = current()
        self.options = options
        self.actor = ACTOR.get()
        self.ended: asyncio.Future[str] = self._loop.create_future()
        self._on_refused = on_refused
        self._handlers: dict[int, Handler] = {}
        self._sid = 0
        self._outbox: list[tuple[bytes, ...]] = []
        self._session: Session | None = None
        self._pongs: list[asyncio.Future[bool]] = []
        self._unanswered = 0
        self._pinging: asyncio.TimerHandle | None = None

    # -- beginning and end ------------------------------------------------------------------------------

    async def dial(self, endpoint: Endpoint) -> ServerInfo:
        """Connect and log in. Raises ``OSError`` or ``TimeoutError``."""
        async with asyncio.timeout(self.options.connect_timeout_s):
            self._session = await self._loop.network.connect(self, endpoint.host)
        self._ping_later()
        return self._session.info

    def end(self, reason: str) -> None:
        """The session is over; the first reason counts. What has not left yet is dropped."""
        if self.ended.done():
            return
        self._outbox.clear()
        self.ended.set_result(reason)

    async def shut(self, reason: str = "closed", *, flush: bool = False) -> None:
        """End the session. ``flush`` sends what is buffered first."""
        if flush:
            self._uncork()
        self.end(reason)
        if self._pinging is not None:
            self._pinging.cancel()
        for pong in self._pongs:
            pong.cancel()
        if self._session is not None:
            self._session.closed_by_client()
        await asyncio.sleep(0)

    # -- sending ----------------------------------------------------------------------------------------

    def send(self, pieces: Iterable[bytes]) -> None:
        """Send at the end of this turn. Raises ``NotConnected``."""
        self._check_alive()
        self._cork(tuple(pieces))

    async def barrier(self, timeout_s: float) -> None:
        """Return once the server has processed all that was sent before.

        Raises ``TimeoutError``, or ``NotConnected`` if the session ends first.
        """
        self._check_alive()
        pong: asyncio.Future[bool] = self._loop.create_future()
        self._pongs.append(pong)
        self._cork((b"PING",))
        await asyncio.wait((pong, self.ended), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if self.ended.done():
            raise NotConnected(f"cannot reach the server: {self.ended.result()}; wait for the next session")
        if not pong.done():
            raise TimeoutError

    def attach(self, subject: str, queue: str, handler: Handler) -> int:
        """Subscribe; returns the number to ``detach`` by."""
        self._check_alive()
        self._sid += 1
        self._handlers[self._sid] = handler
        self._cork((b"SUB", subject.encode(), queue.encode(), b"%d" % self._sid))
        return self._sid

    def detach(self, number: int, *, take_late: bool = False) -> None:
        """Unsubscribe."""
        known = self._handlers.get(number) if take_late else self._handlers.pop(number, None)
        if known is not None and not self.ended.done():
            self._cork((b"UNSUB", b"%d" % number))

    def _check_alive(self) -> None:
        if self.ended.done() or self._session is None:
            raise NotConnected("cannot send: the session has ended; wait for the next one and try again")

    def _cork(self, pieces: tuple[bytes, ...]) -> None:
        if not self._outbox:
            self._loop.call_soon(self._uncork)
        self._outbox.append(pieces)

    def _uncork(self) -> None:
        if self._outbox and self._session is not None and not self.ended.done():
            self._session.send_up(self._outbox)
            self._outbox = []

    # -- what the server says: called as this end's actor ------------------------------------------------

    def on_message(self, sid: int, message: Message) -> None:
        """A message for a subscription came. What its handler raises ends nothing, but is noted."""
        handler = self._handlers.get(sid)
        if handler is None or self.ended.done():
            return
        try:
            handler(message)
        except Exception as error:  # noqa: BLE001 - as the real one: no message may end the session
            self._loop.call_exception_handler({"message": f"on {message.subject}", "exception": error})

    def on_pong(self) -> None:
        """The server answered the oldest PING."""
        self._unanswered = 0
        if self._pongs:
            pong = self._pongs.pop(0)
            if not pong.done():
                pong.set_result(True)

    def on_refused(self, operation: str, subject: str) -> None:
        """The server does not permit a subject."""
        self._on_refused(operation, subject.lower())

    def _ping_later(self) -> None:
        self._pinging = self._loop.call_later(self.options.ping_interval_s, self._ping)

    def _ping(self) -> None:
        if self.ended.done():
            return
        self._unanswered += 1
        if self._unanswered > self.options.max_pings_out:
            self.end("stale connection")
            return
        self._pongs.append(self._loop.create_future())
        self._cork((b"PING",))
        self._ping_later()
