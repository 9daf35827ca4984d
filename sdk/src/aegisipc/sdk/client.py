"""The client: calls that are durable when they are accepted and answered when their outcome is.

What it says to the log and hears from there is the business of :class:`~aegisipc.sdk.dispatch.Dispatcher`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Any, Self, overload

from aegisipc.eventstore.codec import TypeCodec
from aegisipc.eventstore.frames import CallOptions
from aegisipc.eventstore.ids import CallId, parse_call_id
from aegisipc.eventstore.names import check_name
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.objects import Objects
from aegisipc.eventstore.references import reference_in
from aegisipc.eventstore.streams import open_log
from aegisipc.eventstore.subjects import Subjects, subjects_of
from aegisipc.eventstore.topology import Topology
from aegisipc.sdk.attached import Seeker
from aegisipc.sdk.attaching import Attaching
from aegisipc.sdk.bodies import Results
from aegisipc.sdk.call_options import Priority, options_of
from aegisipc.sdk.client_options import ClientOptions
from aegisipc.sdk.connect_options import resolve_namespace, resolve_url
from aegisipc.sdk.core.key_routes import group_of_key
from aegisipc.sdk.core.lanes import PendingCall
from aegisipc.sdk.dispatch import Dispatcher
from aegisipc.sdk.errors import ServiceDefinitionError
from aegisipc.sdk.fitting import SchemaReader
from aegisipc.sdk.key_search import KeyAddress, KeySearch, key_address
from aegisipc.sdk.opening import with_patience
from aegisipc.sdk.outcomes import codec_of, error_of_fate, value_of
from aegisipc.sdk.pending import Pending, SubmittedCall
from aegisipc.sdk.receipts import Durability
from aegisipc.sdk.stubs import stub_of

__all__ = ["Client", "ClientOptions", "connect"]


class Client:
    """A connected client; made by :func:`connect`. Belongs to the event loop that made it."""

    def __init__(
        self, options: ClientOptions, dispatcher: Dispatcher, connection: Connection, seeker: Seeker
    ) -> None:
        self.options = options
        self._dispatcher = dispatcher
        self._connection = connection
        self._seeker = seeker
        self._keys = KeySearch(connection, seeker)
        self.schemas = SchemaReader(connection, dispatcher.subjects)
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
        idempotency_key: str | None = None,
        priority: Priority = "normal",
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
        idempotency_key: str | None = None,
        priority: Priority = "normal",
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
        idempotency_key: str | None = None,
        priority: Priority = "normal",
        **kwargs: Any,
    ) -> Any:
        """Call ``"service.method"`` and return its result.

        ``resource_id`` names what the call is about: calls with the same one run one after another, in the
        order in which they were made. ``timeout`` is the deadline in seconds: a call that has not started by
        then never will. ``returns`` is the result's type; without it, models come back as dicts.

        ``idempotency_key`` names what the call is to achieve: of all calls to one group with the same key and
        the same method, resource and arguments, ever, one runs, and each has that one's outcome.
        ``priority`` says which calls a busy instance runs first.
        Other keyword arguments are the method's; no method has a parameter with one of these names.

        Cancelling the task that awaits it ends the wait and nothing else; see :meth:`Pending.cancel`.

        Raises:
            ServiceDefinitionError, InvalidName: an argument of ``call`` itself cannot be used.
            NoRoute, Overloaded, PayloadTooLarge, NotEncodable, NotConnected: it was certainly not accepted.
            InvalidArguments, RemoteError: it has that outcome.
            IdempotencyConflict: its key belongs to another call; it did not run.
            CallCancelled: somebody cancelled it.
            DeadLettered: it was tried in vain, and is not tried again.
            CallExpired: it certainly never ran.
            CallInDoubt: nobody knows whether it ran.
            CallTimeout: no outcome in time; ``attach(error.call_id)`` waits for it.
        """
        codec = None if returns is None else codec_of(returns)  # refused before anything is submitted
        options = options_of(idempotency_key, priority)
        pending = self._submit(target, args, kwargs, resource_id, timeout, options)
        over = self._loop.create_future()
        pending.over_waiters = [over]
        await over
        outcome = pending.outcome
        if outcome is None:
            raise error_of_fate(pending)
        if outcome.body is None or reference_in(outcome.body) is None:
            return value_of(outcome, target, codec)
        return await self._seeker.results.value_of(outcome, target, codec)

    async def submit(
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
        """Make a call durable, and return without waiting for its outcome.

        When this returns, the call is in the log: it will have exactly one outcome even if this process ends
        now. Arguments and errors as for :meth:`call`; the outcome's errors are raised by ``Pending.result``.
        """
        codec = codec_of(returns)
        options = options_of(idempotency_key, priority)
        pending = self._submit(target, args, kwargs, resource_id, timeout, options)
        submitted = SubmittedCall(pending, target, codec, self._seeker, self._dispatcher.drop)
        await self._seeker.learn()
        await submitted.accepted()
        return submitted

    def attach(
        self,
        call_id: str | None = None,
        *,
        idempotency_key: str | None = None,
        service: str | None = None,
        resource_id: str | None = None,
        returns: Any = None,
        timeout: float | None = None,
    ) -> Attaching:
        """Return a call made by any client at any time: ``await client.attach(id).result()`` waits for its
        outcome, ``await client.attach(id)`` finds it.

        The call is named by its id, or by its idempotency key together with the service, and the resource if
        it was about one. By its id it is found by seeking to the time in that; by its key, the holder of the
        group's pen is asked, and if nobody answers, the log. ``timeout`` bounds the search.

        Raises:
            MalformedPayload: `call_id` is not a call id.
            ServiceDefinitionError: `returns` cannot be used, or neither an id nor a key with its service is
                given.
            InvalidName: the key, service or resource cannot be one.
            NoRoute (when awaited): no such service or resource is known.
            CallUnknown (when awaited): the log holds no such call, or nobody has the key.
        """
        codec = codec_of(returns)
        timeout_s = timeout or self.options.timeout_s
        if call_id is None:
            by_key = key_address(idempotency_key, service, resource_id)
            return Attaching(lambda: self._find_key(by_key, codec, timeout_s))
        if idempotency_key is not None or service is not None or resource_id is not None:
            raise ServiceDefinitionError(
                "cannot attach by a call id and an idempotency key at once: give the id alone, or the key "
                "with the service (and the resource, if the call was about one)"
            )
        raw = parse_call_id(call_id)
        return Attaching(lambda: self._find(raw, codec, timeout_s))

    async def _find(self, raw: CallId, codec: TypeCodec[Any] | None, timeout_s: float) -> Pending:
        await self._seeker.learn()
        own = self._dispatcher.open_calls.get(raw)
        if own is not None:
            submitted = SubmittedCall(own, own.target, codec, self._seeker, self._dispatcher.drop)
            await submitted.accepted()
            return submitted
        return await self._seeker.find(raw, codec, timeout_s)

    async def _find_key(self, key: KeyAddress, codec: TypeCodec[Any] | None, timeout_s: float) -> Pending:
        group = group_of_key(self.topology, key.service, key.resource)
        raw = await self._keys.find(key, group, timeout_s)
        return await self._find(raw, codec, timeout_s)

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
        """Return a stub whose methods are the service's, to be awaited like local ones.

        `api` is a ``Protocol`` class (its methods' annotations give the results' types; ``name``, else its
        ``service_name`` attribute, else its own name without a final ``Api``, in snake_case, names the
        service) or the service's name. A method whose annotations do not fit what the service offers raises
        ``ContractMismatch`` when it is called.

        Raises:
            ServiceDefinitionError: the protocol cannot be used.
        """
        return stub_of(
            self,
            api,
            name=name,
            resource_id=resource_id,
            timeout=timeout,
            idempotency_key=idempotency_key,
            priority=priority,
        )

    def _submit(
        self,
        target: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        resource_id: str | None,
        timeout: float | None,
        options: CallOptions | None,
    ) -> PendingCall:
        timeout_s = self.options.timeout_s if timeout is None else timeout
        return self._dispatcher.submit(target, args, kwargs, resource_id, timeout_s, options)

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
    return await with_patience(lambda: _open_once(options), options.connect_timeout_s)


async def _open_once(options: ClientOptions) -> Client:
    subjects = subjects_of(resolve_namespace(options.namespace))
    name = check_name(options.name or f"client-{secrets.token_hex(4)}", "client")
    connection = await Connection.open(ConnectOptions(resolve_url(options.url), name=f"aegis:client:{name}"))
    try:
        log = await open_log(connection, subjects)
        now_ns = (await log.bounds()).now_ns
        objects = Objects(connection, subjects, limit_bytes=options.max_payload_bytes)
        durability = Durability(connection, subjects)
        await durability.read()
        seeker = Seeker(
            log,
            subjects,
            name=name,
            results=Results(objects, lambda: connection.is_closed),
            durability=durability,
            is_closed=lambda: connection.is_closed,
        )
        dispatcher = Dispatcher(
            name,
            connection,
            log,
            subjects,
            server_ns=now_ns,
            max_open=options.max_open,
            objects=objects,
            seeker=seeker,
        )
        await dispatcher.begin()
    except BaseException:
        await connection.close()
        raise
    return Client(options, dispatcher, connection, seeker)
