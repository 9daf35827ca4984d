"""The client: calls that are durable when they are accepted and answered when their outcome is.

The shell around :class:`~aegisipc.sdk.core.caller.Caller`: a connection, a routing table (a fold of the log),
one group commit per group that is called, and the replies.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Self, overload

import structlog

from aegisipc.eventstore.clock import ServerClock
from aegisipc.eventstore.codec import encode, type_codec
from aegisipc.eventstore.errors import AegisError, MalformedPayload, NotConnected, WrongSequence
from aegisipc.eventstore.frames import MAX_TIMEOUT_MS
from aegisipc.eventstore.group_commit import GroupCommit, OutFrame
from aegisipc.eventstore.ids import SESSION_BITS, parse_call_id
from aegisipc.eventstore.jetstream import JetStreamLog
from aegisipc.eventstore.log import Appended, Following, Record
from aegisipc.eventstore.names import POOL_GROUP, check_name, check_resource, split_target
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.events import Connected
from aegisipc.eventstore.nats.events import Event as ConnectionEvent
from aegisipc.eventstore.nats.message import Message
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.nats.subscription import Subscription
from aegisipc.eventstore.streams import open_log
from aegisipc.eventstore.subjects import Subjects, subjects_of
from aegisipc.eventstore.topology import Topology
from aegisipc.sdk.connect_options import resolve_namespace, resolve_url
from aegisipc.sdk.core.caller import Caller, CallsOut, Lane, PendingCall
from aegisipc.sdk.core.routing import route
from aegisipc.sdk.errors import ServiceDefinitionError
from aegisipc.sdk.outcomes import error_of_fate, value_of
from aegisipc.sdk.pending import Pending, Seeker, SubmittedCall, wake
from aegisipc.sdk.stubs import stub_of
from aegisipc.sdk.wire import decode_outcomes, encode_ask

_log = structlog.get_logger("aegisipc.client")

DEFAULT_TIMEOUT_S: Final = 30.0
_TICK_S: Final = 0.025
_ASK_TIMEOUT_S: Final = 1.0
_ROUTES_TIMEOUT_S: Final = 60.0
_REREAD_S: Final = 0.5
_POOL_FRAME_CALLS: Final = 64
_LONGEST_TIMEOUT_S: Final = MAX_TIMEOUT_MS / 1000
_MAX_ROUTES: Final = 10_000
_FLUSH_CALLS: Final = 128
"""So many calls gathered in one turn of the event loop are worth a frame before the turn ends."""


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
        self,
        options: ClientOptions,
        name: str,
        connection: Connection,
        log: JetStreamLog,
        subjects: Subjects,
        clock: ServerClock,
    ) -> None:
        self.name = name
        self.options = options
        self.subjects = subjects
        self.topology = Topology(subjects)
        self._connection = connection
        self._event_log = log
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._caller = Caller(
            name,
            secrets.randbits(SESSION_BITS),
            subjects,
            max_open=options.max_open,
            max_frame_bytes=log.max_record_bytes - 8192,
        )
        self._routes: dict[tuple[str, str | None], tuple[Lane, str]] = {}
        self._seeker = Seeker(log, subjects)
        self._subscriptions: list[Subscription] = []
        self._following: Following | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._unlisten: Callable[[], None] | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._closed = False

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
        then never will. ``returns`` is the result's type; without it, models come back as dicts. Other
        keyword arguments are the method's.

        Raises:
            NoRoute, Overloaded, PayloadTooLarge, NotEncodable, NotConnected: it was certainly not accepted.
            InvalidArguments, RemoteError: it has that outcome.
            CallExpired: it certainly never ran.
            CallInDoubt: nobody knows whether it ran.
            CallTimeout: no outcome in time; ``attach(error.call_id)`` waits for it.
        """
        pending = self._submit(target, args, kwargs, resource_id, timeout)
        over = self._loop.create_future()
        pending.over_waiters = [over]
        await over
        if pending.outcome is None:
            raise error_of_fate(pending)
        return value_of(pending.outcome, target, None if returns is None else type_codec(returns))

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
        pending = self._submit(target, args, kwargs, resource_id, timeout)
        codec = None if returns is None else type_codec(returns)
        submitted = SubmittedCall(pending, target, codec, self._seeker)
        await submitted.accepted()
        return submitted

    async def attach(self, call_id: str, *, returns: Any = None, timeout: float | None = None) -> Pending:
        """Return the call of that id, made by any client at any time; ``result()`` waits for its outcome.

        The call is found by seeking to the time in its id. ``timeout`` bounds the search.

        Raises:
            CallUnknown: the log holds no such call.
            MalformedPayload: `call_id` is not a call id.
        """
        raw = parse_call_id(call_id)
        codec = None if returns is None else type_codec(returns)
        own = self._caller.open.get(raw)
        if own is not None:
            return SubmittedCall(own, f"{own.lane.service}.{own.method}", codec, self._seeker)
        return await self._seeker.find(raw, codec, timeout or self.options.timeout_s)

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
        if self._closed:
            raise NotConnected(f"cannot call {target}: the client is closed; connect another one")
        timeout_s = self.options.timeout_s if timeout is None else timeout
        if not timeout_s > 0:
            raise ServiceDefinitionError(
                f"cannot call {target} with a timeout of {timeout_s!r} s: it is a number above 0"
            )
        lane, method = self._routes.get((target, resource_id)) or self._route(target, resource_id)
        body = encode([list(args), kwargs])
        now_ns = time.monotonic_ns()
        pending = self._caller.submit(
            lane,
            method,
            body,
            int(min(timeout_s, _LONGEST_TIMEOUT_S) * 1000),
            resource_id,
            now_ns=now_ns,
            server_ms=self._clock.now_ns(now_ns) // 1_000_000,
        )
        lane.driver.kick(now=len(lane.queue) >= _FLUSH_CALLS)
        return pending

    def _route(self, target: str, resource_id: str | None) -> tuple[Lane, str]:
        service, method = split_target(target)
        if resource_id is not None:
            check_resource(resource_id)
        lane = self._lane(service, route(self.topology, service, method, resource_id))
        if len(self._routes) >= _MAX_ROUTES:
            self._routes.clear()
        self._routes[target, resource_id] = found = (lane, method)
        return found

    def _lane(self, service: str, group: str) -> Lane:
        lane = self._caller.lane(service, group)
        if lane.driver is None:
            source = _LaneSource(self, lane)
            lane.driver = GroupCommit(self._event_log, source, name=lane.subject, on_failure=source.failed)
            self._tune(lane)
        return lane

    def _tune(self, lane: Lane) -> None:
        """Set what a lane needs to know of its group: the epoch, and for a pool over how many instances to
        split.
        """
        view = self.topology.group(lane.service, lane.group)
        if view is None:
            return
        lane.epoch = view.epoch
        if view.name == POOL_GROUP:
            lane.max_calls = _POOL_FRAME_CALLS
            lane.spread = max(1, sum(1 for _ in view.ready()))

    # -- life -------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    @property
    def call_count(self) -> int:
        """How many calls are open now."""
        return len(self._caller.open)

    async def begin(self) -> None:
        """Subscribe to replies and read the routing table; :func:`connect` has done it."""
        self._subscriptions = [
            await self._connection.subscribe(self.subjects.reply(self.name), self._on_reply)
        ]
        await self._read_routes()
        self._unlisten = self._connection.on_event(self._on_event)
        self._tick()

    async def _read_routes(self) -> None:
        self.topology = Topology(self.subjects)
        self._following = await self._event_log.follow([self.subjects.topology], self._on_topology)
        await self._following.caught_up(_ROUTES_TIMEOUT_S)

    async def _reread_routes(self, failed: Following) -> None:
        """Following ended by itself (the log was replaced, or part of it is gone): read the routes anew."""
        _log.error("routes_lost", client=self.name, error=repr(failed.failure))
        await failed.stop()
        while not self._closed:
            try:
                await self._read_routes()
            except AegisError as error:
                _log.warning("routes_not_read", client=self.name, error=error.message)
                await asyncio.sleep(_REREAD_S)
            else:
                return

    async def close(self) -> None:
        """Disconnect. Calls without an outcome stay durable: attach to them from any process. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._unlisten is not None:
            self._unlisten()
        if self._ticker is not None:
            self._ticker.cancel()
        for task in self._background:
            task.cancel()
        for lane in self._caller.lanes.values():
            if lane.driver is not None:
                await lane.driver.close()
        for subscription in self._subscriptions:
            await subscription.unsubscribe()
        if self._following is not None:
            await self._following.stop()
        for pending in self._caller.on_closed():
            _wake(pending)
        await self._connection.close()

    # -- what comes in ----------------------------------------------------------------------------------

    def _on_topology(self, record: Record) -> None:
        self._clock.observe(record.timestamp_ns, time.monotonic_ns())
        self.topology.apply(record)
        self._routes.clear()
        for lane in self._caller.lanes.values():
            self._tune(lane)

    def _on_reply(self, message: Message) -> None:
        try:
            outcomes = decode_outcomes(message.payload)
        except MalformedPayload as error:
            _log.warning("reply_unreadable", error=error.message)
            return
        for pending in self._caller.on_outcomes(outcomes):
            _wake(pending)

    def _on_event(self, event: ConnectionEvent) -> None:
        if isinstance(event, Connected):
            self._caller.on_reconnected(time.monotonic_ns())

    def _tick(self) -> None:
        following = self._following
        if following is not None and following.failure is not None:
            self._following = None
            self._spawn(self._reread_routes(following))
        tick = self._caller.on_tick(time.monotonic_ns())
        for pending in tick.over:
            _wake(pending)
        for lane, call_ids in tick.ask:
            self._spawn(self._ask(lane, call_ids))
        self._ticker = self._loop.call_later(_TICK_S, self._tick)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _ask(self, lane: Lane, call_ids: Any) -> None:
        subject = self.subjects.ask(lane.service, lane.group)
        with suppress(
            AegisError
        ):  # nobody holds the pen now, or the answer was lost: the next round asks again
            answer = await self._connection.request(subject, encode_ask(call_ids), timeout_s=_ASK_TIMEOUT_S)
            self._on_reply(answer)

    # -- for the lanes ----------------------------------------------------------------------------------

    def next_frame(self, lane: Lane) -> OutFrame | None:
        """Return the lane's next frame."""
        frame = self._caller.next_frame(lane)
        if frame is None:
            return None
        left_s = (frame.give_up_ns - time.monotonic_ns()) / 1e9
        return OutFrame(lane.subject, frame.payload, frame.record_id, None, self._loop.time() + left_s, frame)

    def acked(self, frame: CallsOut, seq: int) -> None:
        """A frame is durable."""
        self._caller.on_acked(frame, seq, time.monotonic_ns())
        for pending in frame.calls:
            if pending.accept_waiters is not None:
                wake(pending.accept_waiters)

    def gave_up(self, frame: CallsOut, error: AegisError, *, maybe_stored: bool) -> None:
        """A frame was not acknowledged in time, or cannot be stored."""
        for pending in self._caller.on_gave_up(frame, error, maybe_stored=maybe_stored):
            _wake(pending)

    def lane_failed(self, lane: Lane, error: BaseException) -> None:
        """A lane's group commit ended by a fault of ours: its calls end as unknown, and the next call makes
        another.
        """
        lane.driver = None
        self._routes.clear()
        for pending in self._caller.on_lane_failed(lane, error):
            _wake(pending)


class _LaneSource:
    """What a lane's group commit asks for frames."""

    def __init__(self, client: Client, lane: Lane) -> None:
        self._client = client
        self._lane = lane

    def failed(self, error: BaseException) -> None:
        self._client.lane_failed(self._lane, error)

    def next_frame(self) -> OutFrame | None:
        return self._client.next_frame(self._lane)

    def acked(self, frame: OutFrame, appended: Appended) -> None:
        self._client.acked(frame.content, appended.seq)

    async def refused(self, frame: OutFrame, error: WrongSequence) -> OutFrame | None:
        self._client.gave_up(frame.content, error, maybe_stored=False)
        return None

    def gave_up(self, frame: OutFrame, error: AegisError, *, maybe_stored: bool) -> None:
        self._client.gave_up(frame.content, error, maybe_stored=maybe_stored)


def _wake(pending: PendingCall) -> None:
    if pending.over_waiters is not None:
        wake(pending.over_waiters)
    if pending.accept_waiters is not None:
        wake(pending.accept_waiters)


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
        bounds = await log.bounds()
        clock = ServerClock(bounds.now_ns, time.monotonic_ns())
        client = Client(options, name, connection, log, subjects, clock)
        await client.begin()
    except BaseException:
        await connection.close()
        raise
    return client
