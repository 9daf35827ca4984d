"""Runs one worker of a pool: the asyncio shell around :class:`~aegisipc.sdk.core.pool.PoolWorker`.

Call frames come from one durable pull consumer that all workers share. The consumer's memory (acks, delivery
counts) is a hint: the server may forget the last moments of it when it is killed. So a frame that was handed
out before, or that is older than the latest reconnect, is checked against the log before its calls run.
Frames that arrive while others are being checked share the next reading of the log.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from contextlib import suppress
from typing import Any, Final, NamedTuple

import structlog

from aegisipc.eventstore.calls import counts
from aegisipc.eventstore.errors import AegisError, MalformedPayload, WrongSequence
from aegisipc.eventstore.frames import CallFrame, decode_calls, decode_pen
from aegisipc.eventstore.group_commit import GroupCommit, OutFrame
from aegisipc.eventstore.ids import CallId
from aegisipc.eventstore.jetstream_api import AckPlace, api_error, parse_ack_subject
from aegisipc.eventstore.log import Appended, Following, Record
from aegisipc.eventstore.log import Start as From
from aegisipc.eventstore.nats.events import Connected
from aegisipc.eventstore.nats.events import Event as ConnectionEvent
from aegisipc.eventstore.nats.message import Message
from aegisipc.eventstore.nats.subscription import Subscription
from aegisipc.eventstore.subjects import CALL, HA, PEN
from aegisipc.eventstore.topology import InstanceView
from aegisipc.sdk.core.pen import Start
from aegisipc.sdk.core.pool import Known, PoolWorker
from aegisipc.sdk.executor import Executor
from aegisipc.sdk.hosts.base import HostParts, Signal, describe, max_body_bytes
from aegisipc.sdk.hosts.questions import Questions
from aegisipc.sdk.wire import encode_outcomes

_log = structlog.get_logger("aegisipc.instance")

ACK_WAIT_S: Final = 3.0
_PROGRESS_S: Final = ACK_WAIT_S / 4
_PULL_EXPIRES_S: Final = 5.0
_PULL: Final = json.dumps({"batch": 1, "expires": int(_PULL_EXPIRES_S * 1e9)}).encode()
_PULL_NOW: Final = json.dumps({"batch": 1, "no_wait": True}).encode()
_TICK_S: Final = 0.02
_API_TIMEOUT_S: Final = 2.0
_CATCH_UP_S: Final = 600.0
_FOREVER: Final = float("inf")
_RETRY_S: Final = 0.1
_LONGEST_RETRY_S: Final = 2.0
_MAX_CHECKED: Final = 32
"""Frames to ask for at once while frames are being checked: reading the log costs the same for one as for
many.
"""
_MAX_FRAME_CALLS: Final = 64


class _Doubtful(NamedTuple):
    """A frame that may have been handed out before."""

    token: str
    record: Record
    frame: CallFrame


class PoolHost:
    """One incarnation of one worker."""

    def __init__(self, parts: HostParts) -> None:
        self._site, self._identity = parts.site, parts.identity
        self._loop = asyncio.get_running_loop()
        self._worker = PoolWorker(
            parts.identity,
            {name: method.effect for name, method in parts.service.methods.items()},
            parts.site.subjects,
            max_running=parts.service.max_running,
            max_frame_bytes=parts.site.log.max_record_bytes - 8192,
        )
        self._executor = Executor(
            parts.service, parts.identity, parts.site.now_ns, max_body_bytes(parts.site.log)
        )
        who, subjects = parts.identity, parts.site.subjects
        self._stream = subjects.stream
        self._durable = f"pool-{who.service}"
        self._calls_filter = subjects.of_kind(who.service, who.group, CALL)
        self._pen_filter = subjects.of_kind(who.service, who.group, PEN)
        self._ha_filter = subjects.of_kind(who.service, who.group, HA)
        self._pen_subject = subjects.pen(who.service, who.group, who.instance)
        self._inbox = f"_INBOX.pull-{secrets.token_hex(10)}"
        self._commit = GroupCommit(parts.site.log, self, name=f"pen {who.instance}", on_failure=self._fail)
        self._questions: Questions | None = None
        self._followings: list[Following] = []
        self._subscriptions: list[Subscription] = []
        self._unlisten: Any = None
        self._timers: list[asyncio.Task[None]] = []
        self._running: set[asyncio.Task[None]] = set()
        self._pulls = 0
        self._pulled_at = 0.0
        self._doubtful_before = 0
        self._is_sure = False
        self._check = 0
        self._doubtful: list[_Doubtful] = []
        self._in_check: list[_Doubtful] = []
        self._mean_calls = float(_MAX_FRAME_CALLS)
        self._is_pumping = False
        self.signal = Signal()
        self.failure: BaseException | None = None

    # -- host -------------------------------------------------------------------------------------------

    @property
    def me(self) -> InstanceView | None:
        """This incarnation as the log tells it."""
        return self._worker.me

    @property
    def is_quiet(self) -> bool:
        """Nothing runs here and everything that ran is in the log."""
        return self._worker.is_quiet

    def pulse(self) -> dict[str, Any]:
        """What a heartbeat tells beside the identity."""
        worker = self._worker
        return {
            "epoch": 0,
            "active": True,
            "running": worker.running,
            "waiting": worker.waiting,
            "open": sum(len(delivery.open) for delivery in worker.deliveries.values()),
            "position": max((f.position for f in self._followings), default=0),
        }

    async def start(self) -> None:
        """Follow the pool's log, make sure of the shared consumer, and begin to pull."""
        who, site = self._identity, self._site
        self._unlisten = site.connection.on_event(self._on_event)
        bounds = await site.log.bounds()
        self._doubtful_before = bounds.last_seq + 1
        self._is_sure = self._check == 0
        instances = await site.log.follow([self._ha_filter], self._on_record)
        facts = await site.log.follow([self._pen_filter], self._on_record, start=From(bounds.last_seq + 1))
        self._followings = [instances, facts]
        await instances.caught_up(_CATCH_UP_S)
        await self._ensure_consumer()
        self._questions = Questions(
            site,
            self._worker,
            self._pen_filter,
            follows_from=From(bounds.last_seq + 1, bounds.now_ns),
            post=self._post,
            spawn=self._spawn,
        )
        self._subscriptions = [
            await site.connection.subscribe(
                site.subjects.ask(who.service, who.group), self._questions.on_ask
            ),
            await site.connection.subscribe(self._inbox, self._on_pulled),
        ]
        self._timers = [self._loop.create_task(self._tick()), self._loop.create_task(self._progress())]

    def drain(self) -> None:
        """Take no more frames; those not begun go back to the other workers at once."""
        for token in self._worker.drain():
            self._post(token, b"-NAK")
        self.signal.notify()

    async def stop(self) -> None:
        """Let go of everything, at once."""
        if self._unlisten is not None:
            self._unlisten()
        for task in self._timers:
            task.cancel()
        for subscription in self._subscriptions:
            await subscription.unsubscribe()
        # Only now: else our own pulls would get these frames again.
        held = [delivery.token for delivery in self._worker.deliveries.values()]
        for token in [*held, *(doubtful.token for doubtful in [*self._in_check, *self._doubtful])]:
            self._post(token, b"-NAK")
        for following in self._followings:
            await following.stop()
        await self._commit.close()
        for running in list(self._running):
            running.cancel()
        pending = [*self._timers, *self._running]
        if pending:
            await asyncio.wait(pending, timeout=1.0)
        self._executor.close()

    def _fail(self, error: BaseException) -> None:
        self.failure = error
        self.signal.notify()

    # -- the shared consumer ----------------------------------------------------------------------------

    async def _ensure_consumer(self) -> None:
        config = {
            "durable_name": self._durable,
            "name": self._durable,
            "filter_subject": self._calls_filter,
            "ack_policy": "explicit",
            "ack_wait": int(ACK_WAIT_S * 1e9),
            "deliver_policy": "all",
            "max_deliver": -1,
            "max_ack_pending": 10_000,
            "replay_policy": "instant",
        }
        request = json.dumps({"stream_name": self._stream, "config": config, "action": ""}).encode()
        answer = await self._site.connection.request(
            f"$JS.API.CONSUMER.CREATE.{self._stream}.{self._durable}.{self._calls_filter}",
            request,
            timeout_s=_API_TIMEOUT_S,
        )
        error = json.loads(answer.payload).get("error")
        if error is not None:
            raise api_error(error, self._stream)

    def _pull(self) -> None:
        if self.me is None or not self.me.is_ready:
            return
        if self._pulls and self._loop.time() - self._pulled_at > _PULL_EXPIRES_S + 1.0:
            self._pulls = 0  # the server never ends a request later than that: it forgot this one
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._durable}"
        while self._pulls < self._room():
            body = _PULL_NOW if self._in_check or self._doubtful else _PULL
            try:
                self._site.connection.publish_nowait(subject, body, reply=self._inbox)
            except AegisError:
                return  # the next session asks again
            self._pulls += 1
            self._pulled_at = self._loop.time()

    def _room(self) -> int:
        """How many requests for a frame may be under way."""
        wants = self._worker.wants
        if wants == 0:
            return 0
        checked = [*self._in_check, *self._doubtful]
        if not checked:
            return max(1, wants - len(self._worker.deliveries))
        free = self._worker.free - sum(len(doubtful.frame.entries) for doubtful in checked)
        return min(_MAX_CHECKED - len(self._doubtful), int(free / self._mean_calls))

    def _on_event(self, event: ConnectionEvent) -> None:
        if isinstance(event, Connected):
            self._pulls = 0
            self._make_sure()

    def _make_sure(self) -> None:
        """The consumer may have forgotten its last moments: until it is known up to where, every frame is
        doubtful.
        """
        self._is_sure = False
        self._check += 1
        self._spawn(self._check_consumer(self._check))

    async def _check_consumer(self, check: int) -> None:
        retry_s = _RETRY_S
        while check == self._check:
            try:
                before = (await self._site.log.bounds()).last_seq + 1
                await self._ensure_consumer()
            except AegisError as error:
                _log.warning("consumer_not_checked", consumer=self._durable, error=describe(error))
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, _LONGEST_RETRY_S)
                continue
            if check == self._check:
                self._doubtful_before = before
                self._is_sure = True
                self._pull()
            return

    def _on_pulled(self, message: Message) -> None:
        self._pulls = max(0, self._pulls - 1)
        if not message.reply.startswith("$JS.ACK."):
            status = message.headers.get("Status", "")
            if status in ("409", "503"):
                if self._is_sure:
                    self._make_sure()
            elif status == "408":  # 404 says that there is nothing more to check: the next tick asks on
                self._pull()
            return
        place = parse_ack_subject(message.reply)
        record = Record(place.stream_seq, message.subject, message.payload, place.timestamp_ns)
        try:
            frame = decode_calls(record.payload)
        except MalformedPayload as error:
            _log.error("frame_unreadable", seq=record.seq, error=describe(error))
            self._post(message.reply, b"+TERM")
            return
        if self._is_doubtful(place):
            self._doubtful.append(_Doubtful(message.reply, record, frame))
            if not self._in_check:
                self._spawn(self._check_doubtful())
            self._pull()
        else:
            self._take(message.reply, record, frame, None)

    def _is_doubtful(self, place: AckPlace) -> bool:
        return not self._is_sure or place.delivered > 1 or place.stream_seq < self._doubtful_before

    async def _check_doubtful(self) -> None:
        while self._doubtful:
            checked, self._doubtful = self._doubtful, []
            self._in_check = checked
            try:
                known = await self._look_up(checked)
            except AegisError as error:
                _log.warning("frames_not_checked", count=len(checked), error=describe(error))
                known = None
            finally:
                self._in_check = []
            self._mean_calls = sum(len(doubtful.frame.entries) for doubtful in checked) / len(checked)
            for token, record, frame in checked:
                if known is None:
                    self._post(token, b"-NAK")
                else:
                    self._take(token, record, frame, known)

    async def _look_up(self, frames: list[_Doubtful]) -> dict[CallId, Known]:
        """Read once what the log says of the calls of these frames."""
        wanted = {entry.call_id for doubtful in frames for entry in doubtful.frame.entries}
        start = From(min(doubtful.record.seq for doubtful in frames) + 1)
        known: dict[CallId, Known] = {}
        async for later in self._site.log.read([self._pen_filter], start=start):
            try:
                pen = decode_pen(later.payload, bodies=False)
            except MalformedPayload:
                continue  # nobody could read it when it was written, either
            for mark, call_id in pen.entries:
                if call_id in wanted and counts(known[call_id].mark if call_id in known else None, mark):
                    known[call_id] = Known(mark, self._site.subjects.parse(later.subject).who, later.seq)
        return known

    def _take(self, token: str, record: Record, frame: CallFrame, known: dict[CallId, Known] | None) -> None:
        self._site.observe(record.timestamp_ns)
        if self._worker.is_draining:
            self._post(token, b"-NAK")
            return
        now_ns = self._site.now_ns()
        self._worker.on_frame(token, record, frame, known or {}, now_ns, is_again=known is not None)
        self._pump()

    # -- what comes in ----------------------------------------------------------------------------------

    def _on_record(self, record: Record) -> None:
        try:
            self._site.observe(record.timestamp_ns)
            self._worker.on_record(record, self._site.now_ns())
            self._pump()
        except BaseException as error:
            self._fail(error)
            raise
        self.signal.notify()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            failure = next((f.failure for f in self._followings if f.failure is not None), None)
            if failure is not None:
                self._fail(failure)  # deaf from here on: only a new incarnation reads the log again
                return
            self._worker.on_tick(self._site.now_ns())
            self._pump()

    async def _progress(self) -> None:
        while True:
            await asyncio.sleep(_PROGRESS_S)
            for delivery in self._worker.deliveries.values():
                self._post(delivery.token, b"+WPI")

    # -- running ----------------------------------------------------------------------------------------

    def _pump(self) -> None:
        if self._is_pumping:
            return
        self._is_pumping = True
        try:
            while starts := self._worker.take_starts():
                for start in starts:
                    self._spawn(self._execute(start))
        finally:
            self._is_pumping = False
        for client, outcomes in self._worker.take_replies().items():
            self._post(
                self._site.subjects.reply(client), encode_outcomes(outcomes, self._site.log.max_record_bytes)
            )
        for token in self._worker.take_acks():
            self._post(token, b"+ACK")
        self._commit.kick()
        self._pull()

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.Task(work, loop=self._loop, eager_start=True)
        if not task.done():
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _execute(self, start: Start) -> None:
        mark, body = await self._executor.execute(start.call, start.epoch)
        self._worker.on_finished(start, mark, body, self._site.now_ns())
        self._pump()

    def _post(self, subject: str, payload: bytes) -> None:
        with suppress(
            AegisError
        ):  # all of these are hints; the server hands out again what it did not hear of
            self._site.connection.publish_nowait(subject, payload)

    # -- frames (FrameSource) ---------------------------------------------------------------------------

    def next_frame(self) -> OutFrame | None:
        """Return the next pen frame. It needs no fence: in a pool, the first conclusion counts."""
        written = self._worker.next_frame()
        if written is None:
            return None
        return OutFrame(self._pen_subject, written.payload, written.record_id, None, _FOREVER, written)

    def acked(self, frame: OutFrame, appended: Appended) -> None:  # noqa: ARG002 - what counts comes back by following
        """The frame is durable."""
        self._worker.on_acked()
        self.signal.notify()

    async def refused(self, frame: OutFrame, error: WrongSequence) -> OutFrame | None:  # noqa: ARG002
        """Cannot happen without an expectation; ends the host if it does."""
        self._fail(error)
        return None

    def gave_up(self, frame: OutFrame, error: AegisError, *, maybe_stored: bool) -> None:  # noqa: ARG002
        """The log cannot take the frame at all."""
        _log.error("outcomes_not_written", error=describe(error), maybe_stored=maybe_stored)
        self._fail(error)
