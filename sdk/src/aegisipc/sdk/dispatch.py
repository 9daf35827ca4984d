"""The asyncio shell around :class:`~aegisipc.sdk.core.caller.Caller`: what a client does behind its calls.

It keeps the routing table (a fold of the log), drives one group commit per group that is called, takes
replies in, and asks again for those that do not come.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Final

import structlog

from aegisipc.eventstore.clock import ServerClock
from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.errors import AegisError, MalformedPayload, NotConnected, WrongSequence
from aegisipc.eventstore.frames import MAX_TIMEOUT_MS
from aegisipc.eventstore.group_commit import GroupCommit, OutFrame
from aegisipc.eventstore.ids import SESSION_BITS, CallId
from aegisipc.eventstore.jetstream import JetStreamLog
from aegisipc.eventstore.log import Appended, Following, Record
from aegisipc.eventstore.names import POOL_GROUP, check_resource, split_target
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.events import Connected
from aegisipc.eventstore.nats.events import Event as ConnectionEvent
from aegisipc.eventstore.nats.message import Message
from aegisipc.eventstore.nats.subscription import Subscription
from aegisipc.eventstore.subjects import Subjects
from aegisipc.eventstore.topology import Topology
from aegisipc.sdk.core.caller import Caller, CallsOut, Lane, PendingCall
from aegisipc.sdk.core.routing import route
from aegisipc.sdk.errors import ServiceDefinitionError
from aegisipc.sdk.pending import wake
from aegisipc.sdk.wire import decode_outcomes, encode_ask

_log = structlog.get_logger("aegisipc.client")

_TICK_S: Final = 0.025
_ASK_TIMEOUT_S: Final = 1.0
_ROUTES_TIMEOUT_S: Final = 60.0
_REREAD_S: Final = 0.5
_POOL_FRAME_CALLS: Final = 64
_LONGEST_TIMEOUT_S: Final = MAX_TIMEOUT_MS / 1000
_MAX_ROUTES: Final = 10_000
_FLUSH_CALLS: Final = 128
"""So many calls gathered in one turn of the event loop are worth a frame before the turn ends."""


class Dispatcher:
    """Sends the calls of one client session and brings their outcomes back."""

    def __init__(
        self,
        name: str,
        connection: Connection,
        log: JetStreamLog,
        subjects: Subjects,
        *,
        server_ns: int,
        max_open: int,
    ) -> None:
        self.name = name
        self.subjects = subjects
        self.topology = Topology(subjects)
        self.is_closed = False
        self._connection = connection
        self._event_log = log
        self._clock = ServerClock(server_ns, time.monotonic_ns())
        self._loop = asyncio.get_running_loop()
        self._caller = Caller(
            name,
            secrets.randbits(SESSION_BITS),
            subjects,
            max_open=max_open,
            max_frame_bytes=log.max_record_bytes - 8192,
        )
        self._routes: dict[tuple[str, str | None], tuple[Lane, str]] = {}
        self._subscriptions: list[Subscription] = []
        self._following: Following | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._unlisten: Callable[[], None] | None = None
        self._background: set[asyncio.Task[None]] = set()

    @property
    def open_calls(self) -> dict[CallId, PendingCall]:
        """The calls that are open now."""
        return self._caller.open

    # -- life -------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Subscribe to replies and read the routing table."""
        self._subscriptions = [
            await self._connection.subscribe(self.subjects.reply(self.name), self._on_reply)
        ]
        self._following = await self._read_routes()
        self._unlisten = self._connection.on_event(self._on_event)
        self._tick()

    async def _read_routes(self) -> Following:
        """Read the routing table into a new topology, which takes the place of the former one when it is
        whole.
        """
        topology = Topology(self.subjects)
        following = await self._event_log.follow(
            [self.subjects.topology], lambda record: self._on_topology(topology, record)
        )
        try:
            await following.caught_up(_ROUTES_TIMEOUT_S)
        except BaseException:
            await following.stop()
            raise
        self.topology = topology
        self._reroute()
        return following

    async def _reread_routes(self, failed: Following) -> None:
        """Following ended by itself (the log was replaced, or part of it is gone): read the routes anew."""
        _log.error("routes_lost", client=self.name, error=repr(failed.failure))
        await failed.stop()
        while not self.is_closed:
            try:
                self._following = await self._read_routes()
            except AegisError as error:
                _log.warning("routes_not_read", client=self.name, error=error.message)
                await asyncio.sleep(_REREAD_S)
            else:
                return

    async def close(self) -> None:
        """Stop; what is open is over for its callers, though not for the log. Idempotent."""
        if self.is_closed:
            return
        self.is_closed = True
        if self._unlisten is not None:
            self._unlisten()
        if self._ticker is not None:
            self._ticker.cancel()
        for pending in self._caller.on_closed():  # before anything that may take its time
            _wake(pending)
        await self._end_background()
        for lane in self._caller.lanes.values():
            if lane.driver is not None:
                await lane.driver.close()
        for subscription in self._subscriptions:
            await subscription.unsubscribe()
        if self._following is not None:
            await self._following.stop()

    async def _end_background(self) -> None:
        tasks = list(self._background)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    # -- calling ----------------------------------------------------------------------------------------

    def submit(
        self,
        target: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        resource_id: str | None,
        timeout_s: float,
    ) -> PendingCall:
        """Route a call and take it in; it goes out with the next frame to its group.

        Raises what ``Client.call`` raises for calls that are certainly not accepted.
        """
        if self.is_closed:
            raise NotConnected(f"cannot call {target}: the client is closed; connect another one")
        try:
            found = self._routes.get((target, resource_id)) if timeout_s > 0 else None
        except TypeError:  # not a number, or not text: below, what is wrong is named
            found = None
        lane, method = found or self._route(target, resource_id, timeout_s)
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

    def _route(self, target: str, resource_id: str | None, timeout_s: float) -> tuple[Lane, str]:
        if not _is_positive(timeout_s):
            raise ServiceDefinitionError(
                f"cannot call {target} with a timeout of {timeout_s!r} s: it is a number above 0"
            )
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

    # -- what comes in ----------------------------------------------------------------------------------

    def _on_topology(self, topology: Topology, record: Record) -> None:
        self._clock.observe(record.timestamp_ns, time.monotonic_ns())
        topology.apply(record)
        if topology is self.topology:
            self._reroute()

    def _reroute(self) -> None:
        self._routes.clear()
        for lane in self._caller.lanes.values():
            self._tune(lane)

    def _on_reply(self, message: Message) -> None:
        self._conclude(message)

    def _conclude(self, message: Message) -> int:
        try:
            outcomes = decode_outcomes(message.payload)
        except MalformedPayload as error:
            _log.warning("reply_unreadable", error=error.message)
            return 0
        concluded = self._caller.on_outcomes(outcomes)
        for pending in concluded:
            _wake(pending)
        return len(concluded)

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

    async def _ask(self, lane: Lane, call_ids: Sequence[CallId]) -> None:
        subject = self.subjects.ask(lane.service, lane.group)
        with suppress(
            AegisError
        ):  # nobody holds the pen now, or the answer was lost: the next round asks again
            while call_ids:
                answer = await self._connection.request(
                    subject, encode_ask(call_ids), timeout_s=_ASK_TIMEOUT_S
                )
                concluded = self._conclude(answer)
                call_ids = self._caller.on_answer(call_ids, concluded=concluded, now_ns=time.monotonic_ns())

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

    def __init__(self, dispatcher: Dispatcher, lane: Lane) -> None:
        self._dispatcher = dispatcher
        self._lane = lane

    def failed(self, error: BaseException) -> None:
        self._dispatcher.lane_failed(self._lane, error)

    def next_frame(self) -> OutFrame | None:
        return self._dispatcher.next_frame(self._lane)

    def acked(self, frame: OutFrame, appended: Appended) -> None:
        self._dispatcher.acked(frame.content, appended.seq)

    async def refused(self, frame: OutFrame, error: WrongSequence) -> OutFrame | None:
        self._dispatcher.gave_up(frame.content, error, maybe_stored=False)
        return None

    def gave_up(self, frame: OutFrame, error: AegisError, *, maybe_stored: bool) -> None:
        self._dispatcher.gave_up(frame.content, error, maybe_stored=maybe_stored)


def _is_positive(number: Any) -> bool:
    try:
        return bool(number > 0)
    except TypeError:
        return False


def _wake(pending: PendingCall) -> None:
    if pending.over_waiters is not None:
        wake(pending.over_waiters)
    if pending.accept_waiters is not None:
        wake(pending.accept_waiters)
