"""Runs one worker of a pool: the asyncio shell around :class:`~aegisipc.sdk.core.pool.PoolWorker`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from typing import Any, Final

import structlog

from aegisipc.eventstore.errors import AegisError, WrongSequence
from aegisipc.eventstore.events import Effect
from aegisipc.eventstore.group_commit import GroupCommit, OutFrame
from aegisipc.eventstore.ids import CallId
from aegisipc.eventstore.log import Appended, Following, Record
from aegisipc.eventstore.log import Start as From
from aegisipc.eventstore.nats.subscription import Subscription
from aegisipc.eventstore.subjects import CANCEL, DEAD, HA, KEYS, PEN
from aegisipc.eventstore.topology import GroupView, InstanceView
from aegisipc.sdk.core.pen import Start
from aegisipc.sdk.core.pool import PoolWorker
from aegisipc.sdk.core.pool_facts import Known
from aegisipc.sdk.executor import Done, Executor
from aegisipc.sdk.hosts.base import HostParts, Signal, describe, max_body_bytes
from aegisipc.sdk.hosts.key_reading import spill
from aegisipc.sdk.hosts.pool_consumer import (
    ACK,
    IN_PROGRESS,
    NAK_LATER,
    PROGRESS_S,
    Handed,
    PoolConsumer,
)
from aegisipc.sdk.hosts.pool_doubts import PoolDoubts
from aegisipc.sdk.hosts.pool_keys import PoolKeyring
from aegisipc.sdk.hosts.pool_late import write_late
from aegisipc.sdk.hosts.pool_operators import PoolOperators
from aegisipc.sdk.hosts.questions import Questions
from aegisipc.sdk.reconciling import Reconciler
from aegisipc.sdk.retry import Retry
from aegisipc.sdk.wire import encode_outcomes

_log = structlog.get_logger("aegisipc.instance")

_TICK_S: Final = 0.02
_CATCH_UP_S: Final = 600.0
_FOREVER: Final = float("inf")


class PoolHost:
    """One incarnation of one worker."""

    def __init__(self, parts: HostParts) -> None:
        self._site, self._identity = parts.site, parts.identity
        self._loop = asyncio.get_running_loop()
        self._effects = {name: method.effect for name, method in parts.service.methods.items()}
        self._worker = PoolWorker(
            parts.identity,
            self._effects,
            parts.site.subjects,
            max_running=parts.service.max_running,
            max_frame_bytes=parts.site.log.max_record_bytes - 8192,
            spill=spill,
        )
        self._executor = Executor(
            parts.service,
            parts.identity,
            parts.site.now_ns,
            max_body_bytes(parts.site.log),
            objects=parts.site.objects(),
        )
        who, subjects = parts.identity, parts.site.subjects
        self._conclusions = subjects.conclusions(who.service, who.group)
        self._ha_filter = subjects.of_kind(who.service, who.group, HA)
        self._followed = [
            *(subjects.of_kind(who.service, who.group, kind) for kind in (HA, KEYS, CANCEL)),
            *self._conclusions,
        ]
        self._subject_of = {
            PEN: subjects.pen(who.service, who.group, who.instance),
            DEAD: subjects.dead(who.service, who.group, who.instance),
        }
        self._policies = {
            name: method.retry for name, method in parts.service.methods.items() if method.retry is not None
        }
        self._commit = GroupCommit(parts.site.log, self, name=f"pen {who.instance}", on_failure=self._fail)
        self.consumer = PoolConsumer(parts.site, who, self._worker, self._take, self._spawn)
        self.doubts = PoolDoubts(
            parts,
            self._worker,
            Reconciler(parts.service, who, max_body_bytes(parts.site.log)),
            pump=self._pump,
            spawn=self._spawn,
        )
        self.keyring = PoolKeyring(parts.site, who, self._worker, pump=self._pump, spawn=self._spawn)
        self.operators = PoolOperators(
            parts,
            self._worker,
            self.consumer,
            self.keyring.reader,
            pump=self._pump,
            spawn=self._spawn,
        )
        self.questions: Questions | None = None
        self._following: Following | None = None
        self._subscriptions: list[Subscription] = []
        self._timers: list[asyncio.Task[None]] = []
        self._running: set[asyncio.Task[None]] = set()
        self._handlers: dict[asyncio.Task[None], Start] = {}
        self._is_pumping = False
        self._is_stopped = False
        self.signal = Signal()
        self.failure: BaseException | None = None

    # -- host -------------------------------------------------------------------------------------------

    @property
    def me(self) -> InstanceView | None:
        """This incarnation as the log tells it."""
        return self._worker.me

    @property
    def group(self) -> GroupView | None:
        """The pool as the log tells it."""
        return self._worker.standing.topology.group(self._identity.service, self._identity.group)

    @property
    def to_yield(self) -> int | None:
        """Nothing: a pool has no pen to hand over."""
        return None

    @property
    def is_quiet(self) -> bool:
        """Nothing runs here and everything that ran is in the log."""
        return self._worker.is_quiet

    def pulse(self) -> dict[str, Any]:
        """What a heartbeat tells beside the identity."""
        worker, me = self._worker, self.me
        return {
            "epoch": 0,
            "active": True,
            "running": worker.running,
            "waiting": worker.waiting,
            "open": sum(len(delivery.open) for delivery in worker.deliveries.values()),
            "doubts": len(worker.doubts),
            "fenced": 0,
            "healthy": me is None or me.unhealthy is None,
            "position": self._following.position if self._following is not None else 0,
        }

    async def start(self) -> None:
        """Follow the pool's log, make sure of the shared consumer, and begin to pull."""
        who, site = self._identity, self._site
        self.consumer.listen()
        bounds = await site.log.bounds()
        first = From(bounds.last_seq + 1, None)
        # One following for all kinds, so that no claim is folded before the registration of who made it.
        async for record in site.log.read([self._ha_filter]):
            if record.seq < first.seq:
                self._on_record(record)
        await self.keyring.join(first.seq)
        self._following = await site.log.follow(self._followed, self._on_record, start=first)
        await self._following.caught_up(_CATCH_UP_S)
        await self.consumer.start(first.seq)
        self.questions = Questions(
            site,
            self._worker,
            self._conclusions,
            follows_from=From(first.seq, bounds.now_ns),
            post=self._post,
            spawn=self._spawn,
        )
        listeners = {
            site.subjects.ask(who.service, who.group): self.questions.on_ask,
            site.subjects.tell(who.service, who.group): self.operators.on_tell,
            site.subjects.find_key(who.service, who.group): self.operators.on_find_key,
        }
        for subject, listener in listeners.items():
            self._subscriptions.append(await site.connection.subscribe(subject, listener))
        self._timers = [self._loop.create_task(self._tick()), self._loop.create_task(self._progress())]

    def drain(self) -> None:
        """Take no more frames; those not begun go back to the other workers at once."""
        self._worker.drain()
        self._pump()
        self.signal.notify()

    def hold(self, reason: str) -> None:
        """Start nothing more until :meth:`release`; frames not begun go back to the other workers at once."""
        _log.info("held", instance=self._identity.instance, reason=reason)
        self._worker.hold()
        self._pump()
        self.signal.notify()

    def release(self) -> None:
        """Go on."""
        self._worker.release(self._site.now_ns())
        self._pump()

    async def stop(self) -> None:
        """Let go of everything, at once."""
        for task in self._timers:
            task.cancel()
        for subscription in self._subscriptions:
            await subscription.unsubscribe()
        await self.consumer.stop()
        # Only now: else our own pulls would get these frames again.
        held = [delivery.token for delivery in self._worker.deliveries.values()]
        self.consumer.give_back([*held, *self.consumer.unchecked()])
        if self._following is not None:
            await self._following.stop()
        await self._commit.close()
        self._let_once_calls_run_on()
        for running in self._running:
            running.cancel()
        pending = [*self._timers, *self._running]
        if pending:
            await asyncio.wait(pending, timeout=1.0)
        self._executor.close()

    def _let_once_calls_run_on(self) -> None:
        """What runs twice does harm: its end must become known."""
        self._is_stopped = True
        for task, start in list(self._handlers.items()):
            if self._effects.get(start.call.method) is Effect.ONCE:
                self._running.discard(task)
                self._site.leftovers.adopt(task)

    def _fail(self, error: BaseException) -> None:
        self.failure = error
        self.signal.notify()

    # -- what comes in ----------------------------------------------------------------------------------

    def _take(self, handed: Handed, known: Mapping[CallId, Known] | None) -> None:
        self._site.observe(handed.record.timestamp_ns)
        if not self._worker.standing.keeps_frames:
            self.consumer.give_back([handed.token])
            return
        self._worker.on_frame(
            handed.token,
            handed.record,
            handed.frame,
            known or {},
            self._site.now_ns(),
            is_again=known is not None,
            is_suspect=self.consumer.is_suspect(handed),
        )
        self._pump()

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
            if self._following is not None and self._following.failure is not None:
                self._fail(self._following.failure)  # deaf from here on: only a new incarnation reads anew
                return
            self._worker.on_tick(self._site.now_ns())
            self.doubts.on_tick()
            self._pump()

    async def _progress(self) -> None:
        while True:
            await asyncio.sleep(PROGRESS_S)
            for delivery in self._worker.deliveries.values():
                self.consumer.tell(delivery.token, IN_PROGRESS)
            for token in self.consumer.unchecked():
                self.consumer.tell(token, IN_PROGRESS)

    # -- running ----------------------------------------------------------------------------------------

    def _pump(self) -> None:
        if self._is_pumping:
            return
        self._is_pumping = True
        try:
            while starts := self._worker.take_starts():
                for start in starts:
                    self._run(start)
            for call_id, author, reason in self._worker.take_cancels():
                self._executor.cancel(call_id, author, reason)
        finally:
            self._is_pumping = False
        for client, outcomes in self._worker.take_replies().items():
            self._post(
                self._site.subjects.reply(client), encode_outcomes(outcomes, self._site.log.max_record_bytes)
            )
        self.operators.on_resolved(self._worker.take_resolved())
        frames = self._worker.frames
        for tokens, word in ((frames.acks, ACK), (frames.laters, NAK_LATER)):
            for token in tokens:
                self.consumer.tell(token, word)
            tokens.clear()
        self.consumer.give_back(frames.naks)
        frames.naks.clear()
        self.keyring.pump()
        self._commit.kick()
        self.consumer.pull()

    def _run(self, start: Start) -> None:
        task = self._spawn(self._execute(start))
        if not task.done():
            self._handlers[task] = start
            task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._handlers.pop(task, None)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.Task(work, loop=self._loop, eager_start=True)
        if not task.done():
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        return task

    async def _execute(self, start: Start) -> None:
        done = await self._executor.execute(start.call, start.epoch)
        if self._is_stopped:
            await write_late(self._site, self._identity, start.call, done)
            return
        policy = self._policies.get(start.call.method) if done.again else None
        if policy is None:
            self._worker.on_finished(start, done.mark, done.body, self._site.now_ns())
        else:
            self._on_failed(start, done, policy)
        self._pump()

    def _on_failed(self, start: Start, done: Done, policy: Retry) -> None:
        attempt = self._worker.tries(start.call.call_id) + 1
        delay_ns: int | None = None
        if attempt < policy.attempts:
            delay_ns = int(policy.delay_s(attempt, random.random()) * 1e9)  # noqa: S311 - no secret
        self._worker.on_failed(start, done.body, done.stack, delay_ns, self._site.now_ns())

    def _post(self, subject: str, payload: bytes) -> None:
        with suppress(AegisError):  # who misses it asks
            self._site.connection.publish_nowait(subject, payload)

    # -- frames (FrameSource) ---------------------------------------------------------------------------

    def next_frame(self) -> OutFrame | None:
        """Return the next pen frame. It needs no fence: in a pool, the first conclusion counts."""
        written = self._worker.next_frame()
        if written is None:
            return None
        return OutFrame(
            self._subject_of[written.kind], written.payload, written.record_id, None, _FOREVER, written
        )

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
