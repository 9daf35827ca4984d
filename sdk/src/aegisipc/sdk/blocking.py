"""The blocking twin of the client, for programs without an event loop: the same names, without ``await``.

::

    from aegisipc.sdk.blocking import connect

    with connect() as client:
        fill = client.call("orders.place", order, resource_id="acc_1", returns=Fill)
        venue = client.service(OrdersApi, resource_id="acc_1")
        fill = venue.place(order)
        pending = client.submit("orders.place", order, resource_id="acc_1")
        fill = pending.result()

A client runs one event loop in a thread of its own and may be used from any number of threads at once; calls
of one thread enter the log in the order in which that thread made them. ``Ctrl-C`` interrupts a waiting call:
what was accepted stays durable, and ``attach`` finds it again.

In a thread that runs an event loop, a blocking call would stop everything else in that loop, perhaps even the
service that should answer; it is refused with :class:`EventLoopBlocked`. Use :func:`aegisipc.sdk.connect`
there, and ``await``.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self, overload

from aegisipc.eventstore.errors import AegisError
from aegisipc.sdk import client as asynchronous
from aegisipc.sdk import pending as asynchronous_pending
from aegisipc.sdk.call_options import Priority
from aegisipc.sdk.loop_thread import EventLoopBlocked, LoopThread, refuse_event_loop
from aegisipc.sdk.receipts import Receipt
from aegisipc.sdk.stubs import Stub, stub_of

__all__ = ["Client", "EventLoopBlocked", "Pending", "connect"]

_CLOSE_S: Final = 10.0


class Pending:
    """A durable call; the blocking form of :class:`aegisipc.sdk.Pending`."""

    def __init__(self, thread: LoopThread, pending: asynchronous_pending.Pending) -> None:
        self._thread = thread
        self._pending = pending

    @property
    def call_id(self) -> str:
        """The id by which any process can attach to the call."""
        return self._pending.call_id

    @property
    def receipt(self) -> Receipt:
        """Where it is in the log, and what the server's word for that is worth."""
        return self._pending.receipt

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the outcome: return the result, or raise what :meth:`Client.call` raises.

        Without `timeout` (seconds), waits until the call's own deadline.
        """
        return self._thread.run(lambda: self._pending.result(timeout), f"wait for call {self.call_id}")

    def settled(self, timeout: float | None = None) -> Any:
        """Like :meth:`result`, but waits on through a doubt for the final answer.

        Without `timeout` (seconds), waits for as long as it takes.
        """
        return self._thread.run(lambda: self._pending.settled(timeout), f"wait for call {self.call_id}")

    def cancel(self, reason: str = "", timeout: float | None = None) -> None:
        """Ask for the call to be cancelled, and return when it is; see
        :meth:`aegisipc.sdk.pending.Pending.cancel`.
        """
        self._thread.run(lambda: self._pending.cancel(reason, timeout), f"cancel call {self.call_id}")

    def __repr__(self) -> str:
        return f"<call {self.call_id}>"


class Client:
    """A connected client whose methods block; made by :func:`connect`. Several threads may use it at once.

    Each method raises what its asynchronous namesake in :class:`aegisipc.sdk.Client` raises, and also
    ``NotConnected`` when the client is or gets closed, and :class:`EventLoopBlocked`.
    """

    def __init__(self, thread: LoopThread, client: asynchronous.Client) -> None:
        self._thread = thread
        self._client = client
        self._closing = threading.Lock()
        self._is_closed = False

    @property
    def name(self) -> str:
        """The client's stable name."""
        return self._client.name

    @overload
    def call[T](
        self,
        target: str,
        /,
        *args: Any,
        returns: type[T],
        resource_id: str | None = None,
        timeout: float | None = None,
        idempotency_key: str | None = None,
        priority: Priority = "normal",
        **kwargs: Any,
    ) -> T: ...
    @overload
    def call(
        self,
        target: str,
        /,
        *args: Any,
        returns: Any = None,
        resource_id: str | None = None,
        timeout: float | None = None,
        idempotency_key: str | None = None,
        priority: Priority = "normal",
        **kwargs: Any,
    ) -> Any: ...
    def call(
        self,
        target: str,
        /,
        *args: Any,
        returns: Any = None,
        resource_id: str | None = None,
        timeout: float | None = None,
        idempotency_key: str | None = None,
        priority: Priority = "normal",
        **kwargs: Any,
    ) -> Any:
        """Call ``"service.method"``, wait, and return its result; see :meth:`aegisipc.sdk.Client.call`."""
        return self._run(
            lambda client: client.call(
                target,
                *args,
                returns=returns,
                resource_id=resource_id,
                timeout=timeout,
                idempotency_key=idempotency_key,
                priority=priority,
                **kwargs,
            ),
            f"call {target}",
        )

    def submit(
        self,
        target: str,
        /,
        *args: Any,
        returns: Any = None,
        resource_id: str | None = None,
        timeout: float | None = None,
        idempotency_key: str | None = None,
        priority: Priority = "normal",
        **kwargs: Any,
    ) -> Pending:
        """Make a call durable and return at once; see :meth:`aegisipc.sdk.Client.submit`."""
        pending = self._run(
            lambda client: client.submit(
                target,
                *args,
                returns=returns,
                resource_id=resource_id,
                timeout=timeout,
                idempotency_key=idempotency_key,
                priority=priority,
                **kwargs,
            ),
            f"submit {target}",
        )
        return Pending(self._thread, pending)

    def attach(
        self,
        call_id: str | None = None,
        *,
        idempotency_key: str | None = None,
        service: str | None = None,
        resource_id: str | None = None,
        returns: Any = None,
        timeout: float | None = None,
    ) -> Pending:
        """Return a call, whoever made it, by its id or by its idempotency key; see
        :meth:`aegisipc.sdk.Client.attach`.
        """
        pending = self._run(
            lambda client: client.attach(
                call_id,
                idempotency_key=idempotency_key,
                service=service,
                resource_id=resource_id,
                returns=returns,
                timeout=timeout,
            ).found(),
            f"attach to call {call_id or idempotency_key}",
        )
        return Pending(self._thread, pending)

    @overload
    def service[P](
        self,
        api: Callable[..., P],
        *,
        name: str | None = None,
        resource_id: str | None = None,
        timeout: float | None = None,
        idempotency_key: str | None = None,
        priority: Priority = "normal",
    ) -> P: ...
    @overload
    def service(
        self,
        api: str,
        *,
        name: str | None = None,
        resource_id: str | None = None,
        timeout: float | None = None,
        idempotency_key: str | None = None,
        priority: Priority = "normal",
    ) -> Any: ...
    def service(
        self,
        api: Any,
        *,
        name: str | None = None,
        resource_id: str | None = None,
        timeout: float | None = None,
        idempotency_key: str | None = None,
        priority: Priority = "normal",
    ) -> Any:
        """Return a stub whose methods block and return results; see :meth:`aegisipc.sdk.Client.service`.

        The methods of a ``Protocol`` may be declared with or without ``async``: they are plain functions
        here. Declared without, type checkers see what they return.
        """
        stub = stub_of(
            self._client,
            api,
            name=name,
            may_be_plain=True,
            resource_id=resource_id,
            timeout=timeout,
            idempotency_key=idempotency_key,
            priority=priority,
        )
        return _Stub(self, stub)

    def close(self) -> None:
        """Disconnect, and wait until the client's thread has ended. Idempotent, from any thread.

        Calls that other threads wait for end with an error there; those without an outcome stay durable.
        """
        refuse_event_loop("close the client")
        with self._closing:
            if self._is_closed:
                return
            self._is_closed = True
            try:
                with suppress(AegisError, TimeoutError):
                    self._thread.run(
                        lambda: asyncio.wait_for(self._client.close(), _CLOSE_S), "close the client"
                    )
            finally:
                self._thread.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run[T](self, work: Callable[[asynchronous.Client], Coroutine[Any, Any, T]], what: str) -> T:
        return self._thread.run(lambda: work(self._client), what)


class _Stub:
    """Calls a service's methods: ``stub.place(order)``."""

    def __init__(self, client: Client, stub: Stub) -> None:
        self._client = client
        self._stub = stub

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method.startswith("_"):
            raise AttributeError(method)
        client, remote = self._client, getattr(self._stub, method)

        def call(*args: Any, **kwargs: Any) -> Any:
            return client._run(lambda _: remote(*args, **kwargs), f"call {method}")

        call.__name__ = call.__qualname__ = method
        self.__dict__[method] = call  # found here directly the next time
        return call

    def __repr__(self) -> str:
        return f"<blocking {repr(self._stub)[1:]}"


def connect(url: str | None = None, **options: Any) -> Client:
    """Connect a blocking client: ``with connect() as client: …``, or call ``close`` in the end.

    `options` are those of :class:`aegisipc.sdk.client.ClientOptions`.

    Raises:
        NotConnected, BadCredentials, ServerUnsuitable: as the connection found it.
        LogMissing: no router has made the namespace's log yet.
        EventLoopBlocked: this thread runs an event loop.
    """
    refuse_event_loop("connect")

    async def begin() -> asynchronous.Client:
        client: asynchronous.Client = await asynchronous.connect(url, **options)
        return client

    thread = LoopThread(f"aegis client {options.get('name') or ''}".rstrip())
    try:
        return Client(thread, thread.run(begin, "connect"))
    except BaseException:
        thread.stop()
        raise
