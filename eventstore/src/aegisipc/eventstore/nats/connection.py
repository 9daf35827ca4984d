"""The one supervised connection to NATS.

A session with a server lasts until it fails; the supervisor then makes another, for ever, and puts every
subscription in force on it before it says ``Connected``. Between sessions nothing is buffered: what cannot
be sent now is refused with ``NotConnected``.

A request that raised ``AckUnknown`` may take effect later all the same: its bytes may be in the kernel's
buffers, or on their way, when the session ends. What had not reached the kernel is dropped. Only a look at
the result tells.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import structlog

from aegisipc.eventstore.errors import AegisError, NotConnected, PayloadTooLarge, PermissionDenied
from aegisipc.eventstore.logs import quiet_by_default

from .dialing import Dialer
from .events import Connected, Disconnected, EventCallback, Listeners, ReconnectFailed, SubjectRefused
from .inflight import InFlight
from .message import Message, check_subject, encode_headers, publish_command
from .options import ConnectOptions, ServerInfo
from .subscription import DEFAULT_PENDING_BYTES, DEFAULT_PENDING_MSGS, Callback, Subscription
from .wire import Wire

_log = structlog.get_logger(__name__)


class Connection:
    """Requests, publishes and subscriptions over whichever session there is. Made by ``open``.

    Belongs to the event loop that opened it.
    """

    def __init__(self, options: ConnectOptions) -> None:
        self.options = options
        self.generation = 0
        self._dialer = Dialer(options, self._on_refused)
        self._listeners = Listeners()
        self._in_flight = InFlight(f"{options.inbox_prefix}.{secrets.token_hex(11)}")
        self._subscriptions: dict[Subscription, int] = {}
        self._refused: set[str] = set()
        self._wire: Wire | None = None
        self._server: ServerInfo | None = None
        self._up = asyncio.Event()
        self._supervisor: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._is_sealed = False

    @classmethod
    async def open(cls, options: ConnectOptions | None = None) -> Self:
        """Connect; each server is tried once.

        Raises ``NotConnected``, ``BadCredentials``, ``ServerUnsuitable``, or ``InvalidName`` for a bad URL.
        """
        quiet_by_default()
        connection = cls(options or ConnectOptions())
        await connection._establish()
        connection._supervisor = asyncio.get_running_loop().create_task(
            connection._supervise(), name=f"nats supervisor {connection.options.name}"
        )
        return connection

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # -- state ------------------------------------------------------------------------------------------

    @property
    def is_connected(self) -> bool:
        """Whether there is a session now."""
        return self._wire is not None and not self._wire.ended.done()

    @property
    def is_closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closing is not None

    @property
    def server(self) -> ServerInfo:
        """The server of the present session, or of the last one."""
        if self._server is None:
            raise NotConnected("cannot name the server: there was no session yet")
        return self._server

    @property
    def requests_in_flight(self) -> int:
        """How many requests wait for their answer."""
        return len(self._in_flight)

    async def wait_connected(self, timeout_s: float) -> None:
        """Return once there is a session. Raises ``NotConnected`` after ``timeout_s`` or when closed."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._up.wait()
                while not (self.is_connected or self._is_sealed):
                    await asyncio.sleep(0)  # the supervisor has yet to see that the session ended
                    await self._up.wait()
        except TimeoutError:
            raise NotConnected(
                f"no session within {timeout_s:g} s: check that a server runs at {self._shown_urls()}"
            ) from None
        self._session()

    def on_event(self, callback: EventCallback) -> Callable[[], None]:
        """Call ``callback`` with each event from now on; the returned function stops that."""
        return self._listeners.add(callback)

    # -- sending ----------------------------------------------------------------------------------------

    async def request(
        self, subject: str, payload: bytes, *, timeout_s: float, headers: Mapping[str, str] | None = None
    ) -> Message:
        """Send, and wait for the answer.

        Raises, with nothing sent: ``NotConnected``, ``PayloadTooLarge`` (headers and payload count),
        ``Overloaded``, ``InvalidName``. After sending: ``AckUnknown`` (no answer in time, or the session
        ended: at once then), ``NoResponders``, ``PermissionDenied``.
        """
        wire = self._session()
        reply, answer = self._in_flight.begin(subject, timeout_s)
        try:
            self._send(wire, subject, reply, headers, payload)
            return await answer
        finally:
            self._in_flight.forget(reply)

    async def publish(
        self, subject: str, payload: bytes, *, headers: Mapping[str, str] | None = None, reply: str = ""
    ) -> None:
        """Send, and know nothing of its fate. Raises, with nothing sent, what ``request`` raises then."""
        self.publish_nowait(subject, payload, headers=headers, reply=reply)

    def publish_nowait(
        self, subject: str, payload: bytes, *, headers: Mapping[str, str] | None = None, reply: str = ""
    ) -> None:
        """Like ``publish``, for callers that are not coroutines: sending never waits."""
        if reply:
            check_subject(reply)
        self._send(self._session(), subject, reply, headers, payload)

    async def flush(self, timeout_s: float) -> None:
        """Return once the server has read everything sent before: not a proof that it was stored.

        Raises ``NotConnected`` if the session ends first, or after ``timeout_s``.
        """
        try:
            await self._session().barrier(timeout_s)
        except TimeoutError:
            raise NotConnected(f"no answer to a PING within {timeout_s:g} s: the server may hang") from None

    def _send(
        self, wire: Wire, subject: str, reply: str, headers: Mapping[str, str] | None, payload: bytes
    ) -> None:
        check_subject(subject)
        block = encode_headers(headers)
        size, limit = len(block) + len(payload), self.server.max_payload_bytes
        if size > limit:
            raise PayloadTooLarge(
                f"cannot send {size} bytes (headers and payload) on {subject!r}: the server's limit is "
                f"{limit}; send less, or raise max_payload in the server's configuration",
                size_bytes=size,
                limit_bytes=limit,
            )
        wire.send(publish_command(subject, reply, block, payload))

    def _session(self) -> Wire:
        wire = self._wire
        if self._is_sealed:
            raise NotConnected("cannot use this connection: it was closed; open another")
        if wire is None or wire.ended.done():
            raise NotConnected(
                f"not connected to {self._shown_urls()}; reconnecting: wait_connected(), then try again"
            )
        return wire

    def _shown_urls(self) -> str:
        return ", ".join(endpoint.url for endpoint in self.options.endpoints())

    # -- subscriptions ----------------------------------------------------------------------------------

    async def subscribe(
        self,
        subject: str,
        callback: Callback,
        *,
        queue: str = "",
        pending_msgs_limit: int = DEFAULT_PENDING_MSGS,
        pending_bytes_limit: int = DEFAULT_PENDING_BYTES,
    ) -> Subscription:
        """Subscribe now and on every later session; in force when this returns, if there is a session.

        See ``Subscription`` for the two kinds of callback and the limits. Raises ``PermissionDenied``,
        ``InvalidName``, and ``NotConnected`` only when closed: without a session, the next one subscribes.
        """
        check_subject(subject)
        if queue:
            check_subject(queue)
        if self._closing is not None:
            raise NotConnected("cannot subscribe: this connection was closed; open another")
        subscription = Subscription(
            subject,
            queue,
            callback,
            limits=(pending_msgs_limit, pending_bytes_limit),
            report=self._listeners.emit,
            unsubscribe=self._unsubscribe,
        )
        self._subscriptions[subscription] = 0
        try:
            await self._put_in_force(subscription)
        except BaseException:
            await self._unsubscribe(subscription)
            raise
        return subscription

    async def _put_in_force(self, subscription: Subscription) -> None:
        wire = self._wire
        if wire is None or wire.ended.done():
            return
        lowered = subscription.subject.lower()
        self._refused.discard(lowered)
        self._attach(wire, subscription)
        try:
            await wire.barrier(self.options.connect_timeout_s)
        except (NotConnected, TimeoutError):
            return  # the session is over, or about to be: the next one subscribes
        if lowered in self._refused:
            raise PermissionDenied(
                f"cannot subscribe to {subscription.subject!r}: the server does not permit it to this user",
                subject=subscription.subject,
            )

    def _attach(self, wire: Wire, subscription: Subscription) -> None:
        self._subscriptions[subscription] = wire.attach(
            subscription.subject, subscription.queue, subscription.deliver
        )

    async def _unsubscribe(self, subscription: Subscription) -> None:
        number = self._subscriptions.pop(subscription, 0)
        if self._wire is not None and number:
            self._wire.detach(number)
        await subscription.close()

    def _on_refused(self, operation: str, subject: str) -> None:
        _log.warning("the server refused a subject", operation=operation, subject=subject)
        if operation == "subscription":
            self._refused.add(subject)
        else:
            self._in_flight.fail_refused(subject)
        self._listeners.emit(SubjectRefused(operation, subject))

    # -- supervision ------------------------------------------------------------------------------------

    async def _establish(self) -> None:
        """Make one session, with all subscriptions in force on it.

        Raises what ``Dialer.dial_any`` raises.
        """
        wire, server = await self._dialer.dial_any()
        try:
            await self._bring_in_force(wire)
        except BaseException as failure:
            await asyncio.shield(wire.shut())
            if isinstance(failure, TimeoutError):
                raise NotConnected(
                    f"cannot connect to {server.url}: it took the login but is silent"
                ) from None
            raise
        self._wire, self._server = wire, server
        self.generation += 1
        self._up.set()
        self._listeners.emit(Connected(self.generation, server))
        _log.info("connected", url=server.url, version=server.version, generation=self.generation)

    async def _bring_in_force(self, wire: Wire) -> None:
        """Attach the inbox and all subscriptions, and wait until the server has them.

        Those that come or go meanwhile are seen to without another wait.
        """
        wire.attach(f"{self._in_flight.inbox}.*", "", self._in_flight.resolve)
        for subscription in self._subscriptions:
            self._attach(wire, subscription)
        attached = dict(self._subscriptions)
        await wire.barrier(self.options.connect_timeout_s)
        for subscription in self._subscriptions.keys() - attached.keys():
            self._attach(wire, subscription)
        for subscription in attached.keys() - self._subscriptions.keys():
            wire.detach(attached[subscription])

    async def _supervise(self) -> None:
        while True:
            try:
                await self._replace_session()
            except Exception:  # noqa: BLE001 - not even a log that cannot be written ends the supervision
                await asyncio.sleep(self.options.reconnect_wait_s)

    async def _replace_session(self) -> None:
        """Wait for the end of the present session, if there is one, and make the next."""
        wire = self._wire
        if wire is not None:
            await asyncio.wait({wire.ended})  # not awaited itself: cancelling us must not cancel it
            try:
                self._lost(wire.ended.result())
            finally:
                await wire.shut()
        await self._reestablish()

    def _lost(self, reason: str) -> None:
        self._wire = None
        self._up.clear()
        self._in_flight.fail_all(f"the connection was lost ({reason})")
        self._listeners.emit(Disconnected(self.generation, reason))
        _log.warning("disconnected", reason=reason, generation=self.generation)

    async def _reestablish(self) -> None:
        last_reason = ""
        while self._wire is None:
            try:
                await self._establish()
            except Exception as failure:  # noqa: BLE001 - whatever it was, this loop tries again
                reason = failure.message if isinstance(failure, AegisError) else repr(failure)
                if reason != last_reason:
                    last_reason = reason
                    self._listeners.emit(ReconnectFailed(reason))
                    _log.warning("cannot reconnect yet", reason=reason)
                await asyncio.sleep(self.options.reconnect_wait_s)

    # -- the end ----------------------------------------------------------------------------------------

    async def close(self, timeout_s: float = 2.0) -> None:
        """Close for good; idempotent, and every caller returns when it is done.

        No more messages are taken. For up to ``timeout_s``, callbacks may finish with those received so far
        (and send what they have to), and requests in flight may get their answers; then what is left is
        dropped, or fails with ``AckUnknown``.
        """
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close(timeout_s))
        await asyncio.shield(self._closing)

    async def _close(self, timeout_s: float) -> None:
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.wait({self._supervisor})
        wire = self._wire
        is_drained = wire is not None and await self._drain(wire, timeout_s)
        self._wire, self._is_sealed = None, True
        self._up.set()  # whoever waits for a session finds the connection closed
        self._in_flight.fail_all("the connection was closed")
        for subscription in list(self._subscriptions):
            await subscription.close()
        self._subscriptions.clear()
        if wire is not None:
            await wire.shut(flush=is_drained)
        _log.info("closed", generation=self.generation)

    async def _drain(self, wire: Wire, timeout_s: float) -> bool:
        """Until all is done (true), the session ends, or the time is over."""
        for number in self._subscriptions.values():
            wire.detach(number, take_late=True)
        finishing = asyncio.get_running_loop().create_task(self._finish(wire))
        either: set[asyncio.Future[Any]] = {finishing, wire.ended}
        await asyncio.wait(either, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        is_drained = finishing.done() and finishing.exception() is None
        if not is_drained:
            _log.warning("closed before everything was drained", timeout_s=timeout_s)
        finishing.cancel()
        await asyncio.wait({finishing})
        return is_drained

    async def _finish(self, wire: Wire) -> None:
        await wire.barrier(self.options.connect_timeout_s)
        for subscription in list(self._subscriptions):
            await subscription.drained()
        await self._in_flight.wait_idle()
        await wire.barrier(self.options.connect_timeout_s)  # what the callbacks sent has arrived
