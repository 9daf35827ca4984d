"""One session with one NATS server, from handshake to its only end.

nats-py does what it does well: TCP and TLS, authentication, parsing. What it does badly is replaced here
(its version is pinned exactly, and tests check that these hooks still take effect):

- A session is never revived. nats-py's reconnection would send what was left in its buffers (a request that
  was reported as failed is stored later), gives up for good on some errors, and can believe itself
  connected when its read loop is dead. Here any failure ends the session, once, with a reason; the
  connection makes a new one.
- All writes go through one first-in-first-out buffer, written once per turn of the event loop. So a
  ``barrier`` is one: nats-py's PING overtakes its own publishes.
- Messages go to their handler as they are parsed, without a queue and a task per subscription.
- A late PONG after a timeout is harmless; in nats-py it kills the read loop.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable
from typing import Any, override

import structlog
from nats.aio.client import Client
from nats.protocol.parser import PERMISSIONS_ERR

from aegisipc.eventstore.errors import NotConnected, Overloaded

from .message import Message
from .options import ConnectOptions, Endpoint, ServerInfo

type Handler = Callable[[Message], None]

_log = structlog.get_logger(__name__)

_PING = b"PING\r\n"
_REFUSED = re.compile(r"permissions violation for (publish|subscription) to \"([^\"]*)\"")


class Wire(Client):
    """A nats-py client that lives for one session. Call ``dial`` once, ``shut`` once.

    ``ended`` is resolved with the reason when the session is over, whoever ended it.
    ``on_refused(operation, subject)`` is called when the server refuses a subject.
    """

    def __init__(self, options: ConnectOptions, on_refused: Callable[[str, str], None]) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[str] = self._loop.create_future()
        self._connect_options = options
        self._on_refused = on_refused
        self._handlers: dict[int, Handler] = {}
        self._outbox: list[bytes] = []
        self._outbox_bytes = 0

    # -- beginning and end ------------------------------------------------------------------------------

    async def dial(self, endpoint: Endpoint) -> ServerInfo:
        """Connect and log in.

        Raises ``OSError``, ``TimeoutError`` or nats-py's errors; call ``shut`` then.
        """
        options = self._connect_options
        settings: dict[str, Any] = {
            "name": options.name,
            "allow_reconnect": False,
            "connect_timeout": options.connect_timeout_s,
            "ping_interval": options.ping_interval_s,
            "max_outstanding_pings": options.max_pings_out,
            "pending_size": 0,
            "tls": options.tls,
            "tls_hostname": options.tls_hostname,
            "error_cb": self._on_error,
            **options.credentials(),
        }
        await self.connect([endpoint.url], **settings)
        if not self.is_connected:
            raise ConnectionResetError("the server closed the connection during the handshake")
        for task in (self._reading_task, self._ping_interval_task, self._flusher_task):
            if task is not None:
                task.add_done_callback(self._on_task_done)
        return ServerInfo.from_info(endpoint.url, self._server_info)

    def end(self, reason: str) -> None:
        """The session is over; the first reason counts. What was not yet given to the kernel is dropped."""
        if self.ended.done():
            return
        self._status = Client.DISCONNECTED
        self._drop_outbox()
        self.ended.set_result(reason)

    async def shut(self, reason: str = "closed", *, flush: bool = False) -> None:
        """End the session and free its socket and tasks. ``flush`` writes what is buffered first.

        The socket is given up before anything is awaited: a cancelled ``shut`` leaks nothing.
        """
        if flush:
            self._uncork()
        self.end(reason)
        self._status = Client.CLOSED
        raw = self._raw
        if raw is not None:
            if flush:
                raw.close()
            else:
                raw.abort()
        for pong in self._pongs:
            pong.cancel()
        tasks = {
            t for t in (self._reading_task, self._ping_interval_task, self._flusher_task) if t is not None
        }
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await asyncio.sleep(0)  # a turn for the transport to close its socket

    @property
    def _raw(self) -> asyncio.WriteTransport | None:
        writer = getattr(self._transport, "_io_writer", None)
        return None if writer is None else writer.transport

    # -- writing ----------------------------------------------------------------------------------------

    def send(self, pieces: Iterable[bytes]) -> None:
        """Write at the end of this turn of the loop, after all that was sent before.

        Raises ``NotConnected``, or ``Overloaded`` when the server does not read and too much waits.
        """
        self._check_alive()
        raw = self._raw
        limit = self._connect_options.max_unsent_bytes
        if raw is not None and self._outbox_bytes + raw.get_write_buffer_size() > limit:
            raise Overloaded(
                f"cannot send: {limit} bytes wait for a server that does not read; try again later",
                limit=limit,
            )
        self._cork(pieces)

    def _check_alive(self) -> None:
        if self._status != Client.CONNECTED:
            raise NotConnected("cannot send: the session has ended; wait for the next one and try again")

    def _cork(self, pieces: Iterable[bytes]) -> None:
        if not self._outbox:
            self._loop.call_soon(self._uncork)
        for piece in pieces:
            self._outbox.append(piece)
            self._outbox_bytes += len(piece)

    def _uncork(self) -> None:
        raw = self._raw
        if self._outbox and raw is not None and not raw.is_closing():
            raw.write(b"".join(self._outbox))
        self._drop_outbox()

    def _drop_outbox(self) -> None:
        self._outbox.clear()
        self._outbox_bytes = 0

    async def barrier(self, timeout_s: float) -> None:
        """Return once the server has processed all that was sent before (PING and its PONG).

        Raises ``TimeoutError``, or ``NotConnected`` if the session ends first.
        """
        self._check_alive()
        pong: asyncio.Future[bool] = self._loop.create_future()
        await self._send_ping(pong)
        either: set[asyncio.Future[Any]] = {pong, self.ended}
        await asyncio.wait(either, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if self.ended.done():
            raise NotConnected(f"cannot reach the server: {self.ended.result()}; wait for the next session")
        if not pong.done():
            raise TimeoutError

    # -- subscriptions ----------------------------------------------------------------------------------

    def attach(self, subject: str, queue: str, handler: Handler) -> int:
        """Subscribe on this session; returns the number to ``detach`` by. In force after a ``barrier``.

        Raises ``NotConnected``.
        """
        self._check_alive()
        self._sid += 1
        self._handlers[self._sid] = handler
        self._cork((f"SUB {subject} {queue} {self._sid}\r\n".encode(),))
        return self._sid

    def detach(self, number: int, *, take_late: bool = False) -> None:
        """Unsubscribe. Messages that are on their way are ignored, or with ``take_late`` still delivered."""
        known = self._handlers.get(number) if take_late else self._handlers.pop(number, None)
        if known is not None and self.is_connected:
            self._cork((f"UNSUB {number}\r\n".encode(),))

    # -- what nats-py calls -----------------------------------------------------------------------------

    @override
    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        handler = self._handlers.get(sid)
        if handler is None:
            return
        # A subject may be any bytes. What is not UTF-8 gets replacement characters, which no subject of ours
        # has.
        message = Message(
            subject.decode(errors="replace"), data, headers or b"", reply.decode(errors="replace")
        )
        try:
            handler(message)
        except Exception:  # noqa: BLE001 - no message may end the session: it would come again for ever
            _log.exception("message_not_handled", subject=message.subject)

    @override
    async def _select_next_server(self) -> None:
        """One attempt at the only server; nats-py would try it twice and hide why it failed."""
        server = self._server_pool[0]
        await self._connect_to_server(server)
        self._current_server = server

    @override
    async def _send_command(self, cmd: bytes, priority: bool = False) -> None:
        if self.is_connected:
            self._cork((cmd,))

    @override
    async def _flush_pending(self, force_flush: bool = False) -> None:
        """Nothing waits anywhere but in the outbox, which needs no kick."""

    @override
    async def _send_ping(self, future: asyncio.Future[bool] | None = None) -> None:
        if self.is_connected:
            self._pongs.append(future or self._loop.create_future())
            self._cork((_PING,))

    @override
    async def _process_pong(self) -> None:
        if self._pongs:
            pong = self._pongs.pop(0)
            if not pong.done():
                pong.set_result(True)
        self._pings_outstanding = 0

    @override
    async def _process_op_err(self, e: Exception) -> None:
        self.end(str(e) or type(e).__name__)

    @override
    async def _process_err(self, err_msg: str) -> None:
        if PERMISSIONS_ERR not in err_msg:
            self.end(f"the server said {err_msg}")
            return
        refused = _REFUSED.search(err_msg)
        if refused is not None:
            self._on_refused(refused[1], refused[2])

    async def _on_error(self, error: Exception) -> None:
        """nats-py reports here what it then raises or passes to ``_process_op_err``."""

    def _on_task_done(self, task: asyncio.Task[Any]) -> None:
        failure = None if task.cancelled() else task.exception()
        name = getattr(task.get_coro(), "__name__", "task")
        self.end(f"nats-py's {name} ended: {failure or 'no reason given'}")
