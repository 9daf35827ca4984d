"""The asyncio shell around :class:`~aegisipc.sdk.core.caller.Caller`: what a client does behind its calls.

It keeps the routing table, drives one group commit per group that is called, stores large arguments first,
takes replies in, and asks again for those that do not come.
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
from aegisipc.eventstore.errors import AegisError, MalformedPayload, NotConnected
from aegisipc.eventstore.frames import MAX_TIMEOUT_MS, CallOptions
from aegisipc.eventstore.group_commit import GroupCommit, OutFrame
from aegisipc.eventstore.ids import SESSION_BITS, CallId
from aegisipc.eventstore.jetstream import JetStreamLog
from aegisipc.eventstore.names import POOL_GROUP, check_resource, split_target
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.events import Connected
from aegisipc.eventstore.nats.events import Event as ConnectionEvent
from aegisipc.eventstore.nats.message import Message
from aegisipc.eventstore.nats.subscription import Subscription
from aegisipc.eventstore.objects import Objects, encode_reference
from aegisipc.eventstore.references import arguments_name
from aegisipc.eventstore.subjects import Subjects
from aegisipc.eventstore.topology import Topology
from aegisipc.sdk.attached import Seeker
from aegisipc.sdk.core.caller import Caller
from aegisipc.sdk.core.flow import decode_hint
from aegisipc.sdk.core.lanes import CallsOut, Lane, PendingCall
from aegisipc.sdk.core.routing import route
from aegisipc.sdk.encoded import body_of
from aegisipc.sdk.errors import ServiceDefinitionError
from aegisipc.sdk.firsts import Firsts
from aegisipc.sdk.lane_source import LaneSource
from aegisipc.sdk.pending import wake
from aegisipc.sdk.routes import Routes
from aegisipc.sdk.wire import WireOutcome, decode_outcomes, encode_ask

_log = structlog.get_logger("aegisipc.client")

_TICK_S: Final = 0.025
_ASK_TIMEOUT_S: Final = 1.0
_POOL_FRAME_CALLS: Final = 64
_LONGEST_TIMEOUT_S: Final = MAX_TIMEOUT_MS / 1000
_MAX_ROUTES: Final = 10_000
_FLUSH_CALLS: Final = 128
"""So many calls gathered in one turn of the event loop are worth a frame before the turn ends."""

_UPLOADS_AT_ONCE: Final = 4


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
        objects: Objects,
        seeker: Seeker,
    ) -> None:
        self.name = name
        self.subjects = subjects
        self.is_closed = False
        self._connection = connection
        self._event_log = log
        self._clock = ServerClock(server_ns, time.monotonic_ns())
        self._loop = asyncio.get_running_loop()
        self._objects = objects
        self._caller = Caller(
            name,
            secrets.randbits(SESSION_BITS),
            subjects,
            max_open=max_open,
            max_frame_bytes=log.max_record_bytes - 8192,
            max_payload_bytes=objects.limit_bytes,
        )
        self.routes = Routes(name, log, subjects, self._clock, self._reroute)
        self._firsts = Firsts(self._caller.links, seeker, tell=self._take, lost=self._lost)
        self._targets: dict[tuple[str, str | None], tuple[Lane, str]] = {}
        self._subscriptions: list[Subscription] = []
        self._ticker: asyncio.TimerHandle | None = None
        self._unlisten: Callable[[], None] | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._uploads = asyncio.Semaphore(_UPLOADS_AT_ONCE)

    @property
    def open_calls(self) -> dict[CallId, PendingCall]:
        """The calls that are open now."""
        return self._caller.open

    @property
    def topology(self) -> Topology:
        """The routing table, as far as it has been read."""
        return self.routes.topology

    # -- life -------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Subscribe to replies and read the routing table."""
        self._subscriptions = [
            await self._connection.subscribe(self.subjects.reply(self.name), self._on_reply)
        ]
        await self.routes.begin()
        self._unlisten = self._connection.on_event(self._on_event)
        self._tick()

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
        await self.routes.close()

    async def _end_background(self) -> None:
        tasks = list(self._background)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._firsts.close()

    # -- calling ----------------------------------------------------------------------------------------

    def submit(
        self,
        target: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        resource_id: str | None,
        timeout_s: float,
        options: CallOptions | None = None,
    ) -> PendingCall:
        """Route a call and take it in; it goes out with the next frame to its group.

        Raises what ``Client.call`` raises for calls that are certainly not accepted.
        """
        if self.is_closed:
            raise NotConnected(f"cannot call {target}: the client is closed; connect another one")
        try:
            found = self._targets.get((target, resource_id)) if timeout_s > 0 else None
        except TypeError:  # not a number, or not text: below, what is wrong is named
            found = None
        lane, method = found or self._route(target, resource_id, timeout_s)
        body = body_of(args, kwargs)
        now_ns = time.monotonic_ns()
        pending = self._caller.submit(
            lane,
            method,
            body,
            int(min(timeout_s, _LONGEST_TIMEOUT_S) * 1000),
            resource_id,
            options,
            now_ns=now_ns,
            server_ms=self._clock.now_ns(now_ns) // 1_000_000,
        )
        if pending.is_uploading:
            self._spawn(self._upload(pending))
        else:
            lane.driver.kick(now=len(lane.queue) >= _FLUSH_CALLS)
        return pending

    def drop(self, pending: PendingCall) -> bool:
        """Keep a call from being sent; tells whether that was in time."""
        is_dropped = self._caller.drop(pending, time.monotonic_ns())
        if is_dropped:
            self._over([pending])
        return is_dropped

    def _route(self, target: str, resource_id: str | None, timeout_s: float) -> tuple[Lane, str]:
        if not _is_positive(timeout_s):
            raise ServiceDefinitionError(
                f"cannot call {target} with a timeout of {timeout_s!r} s: it is a number above 0"
            )
        service, method = split_target(target)
        if resource_id is not None:
            check_resource(resource_id)
        lane = self._lane(service, route(self.topology, service, method, resource_id))
        if len(self._targets) >= _MAX_ROUTES:
            self._targets.clear()
        self._targets[target, resource_id] = found = (lane, method)
        return found

    def _lane(self, service: str, group: str) -> Lane:
        lane = self._caller.lane(service, group)
        if lane.driver is None:
            source = LaneSource(self, lane)
            lane.driver = GroupCommit(self._event_log, source, name=lane.subject, on_failure=source.failed)
            self._tune(lane)
            if not lane.has_listener:
                lane.has_listener = True
                self._spawn(self._listen(lane))
        return lane

    async def _listen(self, lane: Lane) -> None:
        """Hear how long calls wait there."""

        def hear(message: Message) -> None:
            if message.reply:  # a record that somebody has delivered here
                return
            with suppress(MalformedPayload):
                self._caller.on_hint(lane, decode_hint(message.payload), time.monotonic_ns())

        subject = self.subjects.flow(lane.service, lane.group)
        try:
            self._subscriptions.append(await self._connection.subscribe(subject, hear))
        except AegisError as error:  # it is a hint, and no call depends on it
            _log.info("flow_unheard", subject=subject, error=error.message)

    def _tune(self, lane: Lane) -> None:
        """Set what a lane needs to know of its group: the epoch, whether it takes calls, and for a pool over
        how many instances to split.
        """
        view = self.topology.group(lane.service, lane.group)
        if view is None:
            return
        lane.epoch = view.epoch
        lane.congestion = view.congestion
        if view.name == POOL_GROUP:
            lane.max_calls = _POOL_FRAME_CALLS
            lane.spread = max(1, sum(1 for _ in view.ready()))

    async def _upload(self, pending: PendingCall) -> None:
        """Store large arguments, and send the call with a reference to them."""
        lane = pending.lane
        name = arguments_name(lane.service, lane.group, pending.call_id)
        try:
            async with self._uploads:
                if pending.is_over:  # while it waited for its turn
                    return
                reference = await self._objects.put(name, pending.body)
        except AegisError as error:
            self._over(self._caller.on_upload_failed(pending, error, time.monotonic_ns()))
            return
        self._caller.on_uploaded(pending, encode_reference(reference), time.monotonic_ns())
        _kick(lane)

    # -- what comes in ----------------------------------------------------------------------------------

    def _reroute(self) -> None:
        self._targets.clear()
        for lane in self._caller.lanes.values():
            self._tune(lane)

    def _on_reply(self, message: Message) -> None:
        if not message.reply:  # no record that somebody has delivered here
            self._conclude(message)

    def _conclude(self, message: Message) -> int:
        try:
            outcomes = decode_outcomes(message.payload)
        except MalformedPayload as error:
            _log.warning("reply_unreadable", error=error.message)
            return 0
        return self._take(outcomes)

    def _take(self, outcomes: Sequence[WireOutcome]) -> int:
        concluded = self._caller.on_outcomes(outcomes)
        for pending in concluded:
            _wake(pending)
        self._look_for_firsts()
        return len(concluded)

    def _lost(self, first: CallId, error: AegisError) -> None:
        self._over(self._caller.on_link_lost(first, error))

    def _over(self, calls: Sequence[PendingCall]) -> None:
        """Calls are over here without an outcome; others may go out now that waited for them."""
        for pending in calls:
            _wake(pending)
            _kick(pending.lane)
        self._look_for_firsts()

    def _look_for_firsts(self) -> None:
        """Outcomes of calls that others repeat are looked for in the log, if no reply brings them."""
        fresh = self._caller.links.take_fresh()
        if fresh and not self.is_closed:
            self._firsts.look_for(fresh)
        if self._firsts.is_busy:
            self._firsts.tidy()

    def _on_event(self, event: ConnectionEvent) -> None:
        if isinstance(event, Connected):
            self._caller.on_reconnected(time.monotonic_ns())

    def _tick(self) -> None:
        failed = self.routes.take_failed()
        if failed is not None:
            self._spawn(self.routes.reread(failed))
        tick = self._caller.on_tick(time.monotonic_ns())
        self._over(tick.over)
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
        self._over(self._caller.on_gave_up(frame, error, maybe_stored=maybe_stored))

    def lane_failed(self, lane: Lane, error: BaseException) -> None:
        """A lane's group commit ended by a fault of ours: its calls end as unknown, and the next call makes
        another.
        """
        lane.driver = None
        self._targets.clear()
        self._over(self._caller.on_lane_failed(lane, error))


def _kick(lane: Lane) -> None:
    if lane.queue and lane.driver is not None:  # else it failed, and the next call makes another
        lane.driver.kick()


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
