"""The client: calls that are durable when they are accepted and answered when their outcome is.

What it says to the log and hears from there is the business of :class:`~aegisipc.sdk.dispatch.Dispatcher`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Self, overload

from aegisipc.eventstore.ids import parse_call_id
from aegisipc.eventstore.jetstream import JetStreamLog
from aegisipc.eventstore.names import check_name
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.streams import open_log
from aegisipc.eventstore.subjects import Subjects, subjects_of
from aegisipc.eventstore.topology import Topology
from aegisipc.sdk.attaching import Attaching
from aegisipc.sdk.connect_options import resolve_namespace, resolve_url
from aegisipc.sdk.core.caller import PendingCall
from aegisipc.sdk.dispatch import Dispatcher
from aegisipc.sdk.outcomes import codec_of, error_of_fate, value_of
from aegisipc.sdk.pending import Pending, Seeker, SubmittedCall
from aegisipc.sdk.stubs import stub_of

DEFAULT_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """How to connect a client.

    ``url`` and ``namespace`` default to ``AEGIS_URL`` and ``AEGIS_NAMESPACE``. ``name`` is the client's
    stable name (its calls' subject), else one is made up. ``timeout_s`` is the default deadline of a call.
    ``max_open`` bounds how many calls may be open at once.
    """

    url: str | None = None
    namespace: str | None = None
    name: str | None = None
    timeout_s: float = DEFAULT_TIMEOUT_S
    max_open: int = 10_000


class Client:
    """A connected client; made by :func:`connect`. Belongs to the event loop that made it."""

    def __init__(
        self, options: ClientOptions, dispatcher: Dispatcher, connection: Connection, log: JetStreamLog
    ) -> None:
        self.options = options
        self._dispatcher = dispatcher
        self._connection = connection
        self._seeker = Seeker(log, dispatcher.subjects)
        self._loop = asyncio.get_running_loop()
        self._closing: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """The client's name: its calls' subject."""
        return self._dispatcher.name

    @property
    def subjects(self) -> Subjects:
        """The subjects of the namespace it is connected to."""
        return self._dispatcher.subjects

    @property
    def topology(self) -> Topology:
        """The routing table, as far as it has been read."""
        return self._dispatcher.topology

    @property
    def open_calls(self) -> int:
        """How many calls are open now."""
        return len(self._dispatcher.open_calls)

    # -- calling ----------------------------------------------------------------------------------------

    @overload
    async def call[T](
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
    async def call(
        self,
        target: str,
        /,
        *args: Any,
        returns: Any = None,
        resource_id: str | None = None,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> Any: ...
    async def call(
        self,
        target: str,
        /,
        *args: Any,
        returns: Any = None,
        resource_id: str | None = None,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> Any:
        """Call ``"service.method"`` and return its result.

        ``resource_id`` names what the call is about: calls with the same one run one after another, in the
        order in which they were made. ``timeout`` is the deadline in seconds: a call that has not started by
        then never will. ``returns`` is the result's type; without it, models come back as dicts.
        Other keyword arguments are the method's; no method has a parameter with one of these three names.

        Raises:
            ServiceDefinitionError, InvalidName: an argument of ``call`` itself cannot be used.
            NoRoute, Overloaded, PayloadTooLarge, NotEncodable, NotConnected: it was certainly not accepted.
            InvalidArguments, RemoteError: it has that outcome.
            CallExpired: it certainly never ran.
            CallInDoubt: nobody knows whether it ran.
            CallTimeout: no outcome in time; ``attach(error.call_id)`` waits for it.
        """
        codec = None if returns is None else codec_of(returns)  # refused before anything is submitted
        pending = self._submit(target, args, kwargs, resource_id, timeout)
        over = self._loop.create_future()
        pending.over_waiters = [over]
        await over
        if pending.outcome is None:
            raise error_of_fate(pending)
        return value_of(pending.outcome, target, codec)

    async def submit(
        self,
        target: str,
        /,
        *args: Any,
        returns: Any = None,
        resource_id: str | None = None,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> Pending:
        """Make a call durable, and return without waiting for its outcome.

        When this returns, the call is in the log: it will have exactly one outcome even if this process ends
        now. Arguments and errors as for :meth:`call`; the outcome's errors are raised by ``Pending.result``.
        """
        codec = codec_of(returns)
        pending = self._submit(target, args, kwargs, resource_id, timeout)
        submitted = SubmittedCall(pending, target, codec, self._seeker)
        await submitted.accepted()
        return submitted

    def attach(self, call_id: str, *, returns: Any = None, timeout: float | None = None) -> Attaching:
        """Return the call of that id, made by any client at any time: ``await client.attach(id).result()``
        waits for its outcome, ``await client.attach(id)`` finds it.

        The call is found by seeking to the time in its id. ``timeout`` bounds the search.

        Raises:
            MalformedPayload: `call_id` is not a call id.
            ServiceDefinitionError: `returns` cannot be used.
            CallUnknown (when awaited): the log holds no such call.
        """
        raw = parse_call_id(call_id)
        codec = codec_of(returns)
        timeout_s = timeout or self.options.timeout_s

        async def find() -> Pending:
            own = self._dispatcher.open_calls.get(raw)
            if own is not None:
                return SubmittedCall(own, f"{own.lane.service}.{own.method}", codec, self._seeker)
            return await self._seeker.find(raw, codec, timeout_s)

        return Attaching(find)

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
        """Return a stub whose methods are the service's, to be awaited like local ones.

        `api` is a ``Protocol`` class (its methods' annotations give the results' types; ``name``, else its
        ``service_name`` attribute, else its own name without a final ``Api``, in snake_case, names the
        service) or the service's name.

        Raises:
            ServiceDefinitionError: the protocol cannot be used.
        """
        return stub_of(self, api, name=name, resource_id=resource_id, timeout=timeout)

    def _submit(
        self,
        target: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        resource_id: str | None,
        timeout: float | None,
    ) -> PendingCall:
        timeout_s = self.options.timeout_s if timeout is None else timeout
        return self._dispatcher.submit(target, args, kwargs, resource_id, timeout_s)

    # -- life -------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Disconnect. Calls without an outcome stay durable: attach to them from any process. Idempotent.

        Closing goes on when the wait for it is cancelled; closing again waits for its end.
        """
        if self._closing is None:
            self._closing = self._loop.create_task(self._close(), name=f"close {self.name}")
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        try:
            await self._dispatcher.close()
        finally:
            await self._connection.close()


class _Connecting:
    """What :func:`connect` returns: await it, or use it with ``async with``."""

    def __init__(self, options: ClientOptions) -> None:
        self._options = options
        self._client: Client | None = None

    def __await__(self) -> Any:
        return _open(self._options).__await__()

    async def __aenter__(self) -> Client:
        self._client = await _open(self._options)
        return self._client

    async def __aexit__(self, *exc: object) -> None:
        if self._client is not None:
            await self._client.close()


def connect(url: str | None = None, **options: Any) -> _Connecting:
    """Connect a client: ``async with connect() as client: …``, or ``client = await connect()``.

    `options` are those of :class:`ClientOptions`.

    Raises (when awaited or entered):
        NotConnected, BadCredentials, ServerUnsuitable: as the connection found it.
        LogMissing: no router has made the namespace's log yet.
    """
    return _Connecting(ClientOptions(url=url, **options))


async def _open(options: ClientOptions) -> Client:
    subjects = subjects_of(resolve_namespace(options.namespace))
    name = check_name(options.name or f"client-{secrets.token_hex(4)}", "client")
    connection = await Connection.open(ConnectOptions(resolve_url(options.url), name=f"aegis:client:{name}"))
    try:
        log = await open_log(connection, subjects)
        now_ns = (await log.bounds()).now_ns
        dispatcher = Dispatcher(name, connection, log, subjects, server_ns=now_ns, max_open=options.max_open)
        await dispatcher.begin()
    except BaseException:
        await connection.close()
        raise
    return Client(options, dispatcher, connection, log)
