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
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from types import TracebackType
from typing import Any, ClassVar, Final, Self, overload

from aegisipc.eventstore.errors import AegisError, NotConnected
from aegisipc.eventstore.names import check_method
from aegisipc.sdk import client as asynchronous
from aegisipc.sdk import pending as asynchronous_pending
from aegisipc.sdk.stubs import read_api, refuse_call_options

__all__ = ["Client", "EventLoopBlocked", "Pending", "connect"]

_CLOSE_S: Final = 10.0


class EventLoopBlocked(AegisError):
    """A blocking call was made in a thread that runs an event loop. Await the asynchronous client there."""

    code: ClassVar[str] = "event_loop_blocked"


class _LoopThread:
    """An event loop in a thread of its own, to which other threads hand coroutines."""

    def __init__(self, name: str) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._is_up = threading.Event()
        self._door = threading.Lock()
        self._is_over = False
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()
        self._is_up.wait()

    def _main(self) -> None:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(self._until_stopped())  # and then the runner cancels what still runs

    async def _until_stopped(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._is_up.set()
        await self._stop.wait()

    def run[T](self, work: Callable[[], Coroutine[Any, Any, T]], what: str) -> T:
        """Run a coroutine there, and wait for its result; whatever interrupts the wait cancels it."""
        _refuse_event_loop(what)
        with self._door:  # whatever got in before the stop is run or cancelled, and nothing gets in after it
            if self._loop is None or self._is_over:
                raise _closed(what)
            future: Future[T] = asyncio.run_coroutine_threadsafe(work(), self._loop)
        try:
            return future.result()
        except CancelledError:
            raise _closed(what) from None
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        """Cancel what still runs, and wait until the thread has ended. Idempotent."""
        with self._door:
            if not self._is_over and self._loop is not None and self._stop is not None:
                self._loop.call_soon_threadsafe(self._stop.set)
            self._is_over = True
        self._thread.join()


class Pending:
    """A durable call; the blocking form of :class:`aegisipc.sdk.Pending`."""

    def __init__(self, thread: _LoopThread, pending: asynchronous_pending.Pending) -> None:
        self._thread = thread
        self._pending = pending

    @property
    def call_id(self) -> str:
        """The id by which any process can attach to the call."""
        return self._pending.call_id

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

    def __repr__(self) -> str:
        return f"<call {self.call_id}>"


class Client:
    """A connected client whose methods block; made by :func:`connect`. Several threads may use it at once.

    Each method raises what its asynchronous namesake in :class:`aegisipc.sdk.Client` raises, and also
    ``NotConnected`` when the client is or gets closed, and :class:`EventLoopBlocked`.
    """

    def __init__(self, thread: _LoopThread, client: asynchronous.Client) -> None:
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
        **kwargs: Any,
    ) -> Any:
        """Call ``"service.method"``, wait, and return its result; see :meth:`aegisipc.sdk.Client.call`."""
        return self._run(
            lambda client: client.call(
                target, *args, returns=returns, resource_id=resource_id, timeout=timeout, **kwargs
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
        **kwargs: Any,
    ) -> Pending:
        """Make a call durable and return at once; see :meth:`aegisipc.sdk.Client.submit`."""
        pending = self._run(
            lambda client: client.submit(
                target, *args, returns=returns, resource_id=resource_id, timeout=timeout, **kwargs
            ),
            f"submit {target}",
        )
        return Pending(self._thread, pending)

    def attach(self, call_id: str, *, returns: Any = None, timeout: float | None = None) -> Pending:
        """Return the call of that id, whoever made it; see :meth:`aegisipc.sdk.Client.attach`."""
        pending = self._run(
            lambda client: client.attach(call_id, returns=returns, timeout=timeout).found(),
            f"attach to call {call_id}",
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
    ) -> P: ...
    @overload
    def service(
        self,
        api: str,
        *,
        name: str | None = None,
        resource_id: str | None = None,
        timeout: float | None = None,
    ) -> Any: ...
    def service(
        self,
        api: Any,
        *,
        name: str | None = None,
        resource_id: str | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Return a stub whose methods block and return results; see :meth:`aegisipc.sdk.Client.service`.

        The methods of a ``Protocol`` may be declared with or without ``async``: they are plain functions
        here. Declared without, type checkers see what they return.
        """
        service, returns = read_api(api, name, may_be_plain=True)
        return _Stub(self, service, returns, {"resource_id": resource_id, "timeout": timeout})

    def close(self) -> None:
        """Disconnect, and wait until the client's thread has ended. Idempotent, from any thread.

        Calls that other threads wait for end with an error there; those without an outcome stay durable.
        """
        _refuse_event_loop("close the client")
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

    def __init__(
        self, client: Client, service: str, returns: dict[str, Any] | None, options: dict[str, Any]
    ) -> None:
        self._client = client
        self._service = service
        self._returns = returns
        self._options = options

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method.startswith("_"):
            raise AttributeError(method)
        if self._returns is not None and method not in self._returns:
            raise AttributeError(f"the protocol of service {self._service!r} has no method {method!r}")
        check_method(method)
        client, target, options = self._client, f"{self._service}.{method}", self._options
        returns = self._returns[method] if self._returns is not None else None

        def call(*args: Any, **kwargs: Any) -> Any:
            if kwargs:
                refuse_call_options(target, kwargs)
            return client.call(target, *args, returns=returns, **options, **kwargs)

        call.__name__ = call.__qualname__ = method
        self.__dict__[method] = call  # found here directly the next time
        return call

    def __repr__(self) -> str:
        return f"<blocking stub of {self._service!r}>"


def connect(url: str | None = None, **options: Any) -> Client:
    """Connect a blocking client: ``with connect() as client: …``, or call ``close`` in the end.

    `options` are those of :class:`aegisipc.sdk.client.ClientOptions`.

    Raises:
        NotConnected, BadCredentials, ServerUnsuitable: as the connection found it.
        LogMissing: no router has made the namespace's log yet.
        EventLoopBlocked: this thread runs an event loop.
    """
    _refuse_event_loop("connect")

    async def begin() -> asynchronous.Client:
        client: asynchronous.Client = await asynchronous.connect(url, **options)
        return client

    thread = _LoopThread(f"aegis client {options.get('name') or ''}".rstrip())
    try:
        return Client(thread, thread.run(begin, "connect"))
    except BaseException:
        thread.stop()
        raise


def _refuse_event_loop(what: str) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise EventLoopBlocked(
        f"cannot {what} with the blocking client in a thread that runs an event loop, which it would stop; "
        "use aegisipc.sdk.connect and await, or another thread (asyncio.to_thread)"
    )


def _closed(what: str) -> NotConnected:
    return NotConnected(f"cannot {what}: the client is closed; connect another one")


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - optional
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
