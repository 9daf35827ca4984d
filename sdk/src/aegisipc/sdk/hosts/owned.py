"""Runs one member of an owned group: the shell around :class:`~aegisipc.sdk.core.member.GroupMember`."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Final

import msgpack
import structlog

from aegisipc.eventstore.errors import AegisError, MalformedPayload, WrongSequence
from aegisipc.eventstore.events import decode_event
from aegisipc.eventstore.group_commit import GroupCommit, OutFrame
from aegisipc.eventstore.ids import CallId
from aegisipc.eventstore.log import Appended, Following, Record
from aegisipc.eventstore.nats.message import Message
from aegisipc.eventstore.nats.subscription import Subscription
from aegisipc.eventstore.topology import InstanceView
from aegisipc.sdk.core.member import GroupMember
from aegisipc.sdk.core.pen import Start, Written
from aegisipc.sdk.executor import Executor
from aegisipc.sdk.hosts.base import HostParts, Signal, describe, max_body_bytes
from aegisipc.sdk.wire import decode_ask, encode_outcomes

_log = structlog.get_logger("aegisipc.instance")

_TICK_S: Final = 0.02
_CATCH_UP_S: Final = 600.0
_FOREVER: Final = float("inf")
_SLICE: Final = 128
"""Handlers started per turn of the event loop: the outcomes of the first ones are on their way while the rest
run.
"""


class OwnedHost:
    """One incarnation of one member."""

    def __init__(self, parts: HostParts) -> None:
        self._site, self._identity = parts.site, parts.identity
        self._loop = asyncio.get_running_loop()
        self._member = GroupMember(
            parts.identity,
            {name: method.effect for name, method in parts.service.methods.items()},
            parts.site.subjects,
            max_running=parts.service.max_running,
            threaded=[name for name, method in parts.service.methods.items() if not method.is_async],
            max_threaded=parts.service.threads,
            max_frame_bytes=parts.site.log.max_record_bytes - 8192,
        )
        self._executor = Executor(
            parts.service, parts.identity, parts.site.now_ns, max_body_bytes(parts.site.log)
        )
        who = parts.identity
        self._pen_subject = parts.site.subjects.pen(who.service, who.group, who.instance)
        self._commit = GroupCommit(parts.site.log, self, name=f"pen {who.instance}", on_failure=self._fail)
        self._following: Following | None = None
        self._asked: Subscription | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._now_ns = parts.site.now_ns()
        self._is_pumping = False
        self._is_resuming = False
        self._step_downs = 0
        self.signal = Signal()
        self.failure: BaseException | None = None

    # -- host -------------------------------------------------------------------------------------------

    @property
    def me(self) -> InstanceView | None:
        """This incarnation as the log tells it."""
        return self._member.me

    @property
    def is_quiet(self) -> bool:
        """Nothing runs here and everything that ran is in the log."""
        return self._member.is_quiet

    def pulse(self) -> dict[str, Any]:
        """What a heartbeat tells beside the identity."""
        member = self._member
        return {
            "epoch": member.epoch if member.is_active else 0,
            "active": member.is_active,
            "running": member.running,
            "waiting": member.waiting,
            "open": len(member.calls.open),
            "position": self._following.position if self._following else 0,
        }

    async def start(self) -> None:
        """Follow the group's log to its end, and answer questions about its calls."""
        who, site = self._identity, self._site
        self._asked = await site.connection.subscribe(site.subjects.ask(who.service, who.group), self._on_ask)
        self._following = await site.log.follow(
            [site.subjects.group(who.service, who.group)], self._on_record
        )
        await self._following.caught_up(_CATCH_UP_S)
        self._tick()

    def drain(self) -> None:
        """Start nothing more."""
        self._member.drain()
        self.signal.notify()

    async def stop(self) -> None:
        """Let go of everything, at once."""
        if self._ticker is not None:
            self._ticker.cancel()
        if self._asked is not None:
            await self._asked.unsubscribe()
        if self._following is not None:
            await self._following.stop()
        await self._commit.close()
        await self._cancel_running()
        self._executor.close()

    async def _cancel_running(self) -> None:
        tasks = list(self._running)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)

    def _fail(self, error: BaseException) -> None:
        self.failure = error
        self.signal.notify()

    # -- what comes in ----------------------------------------------------------------------------------

    def _on_record(self, record: Record) -> None:
        try:
            self._site.observe(record.timestamp_ns)
            self._now_ns = self._site.now_ns()
            self._member.on_record(record, self._now_ns)
            self._pump()
        except BaseException as error:
            self._fail(error)
            raise
        self.signal.notify()

    def _tick(self) -> None:
        if self._following is not None and self._following.failure is not None and self.failure is None:
            self._fail(
                self._following.failure
            )  # deaf from here on: only a new incarnation reads the log again
            return
        self._now_ns = self._site.now_ns()
        self._member.on_tick(self._now_ns)
        self._pump()
        self._ticker = self._loop.call_later(_TICK_S, self._tick)

    def _on_ask(self, message: Message) -> None:
        if not message.reply or not self._member.is_active:
            return
        with suppress(MalformedPayload, AegisError):
            found = self._member.answer(decode_ask(message.payload))
            limit = self._site.log.max_record_bytes
            self._site.connection.publish_nowait(message.reply, encode_outcomes(found, limit))

    # -- running ----------------------------------------------------------------------------------------

    def _pump(self) -> None:
        if self._is_pumping:  # a handler that finished at once came back here: the loop below goes on
            return
        self._is_pumping = True
        try:
            if self._member.step_downs != self._step_downs:
                self._step_downs = self._member.step_downs
                for task in self._running:
                    task.cancel()
            budget = _SLICE
            while budget > 0 and (starts := self._member.take_starts(budget)):
                budget -= len(starts)
                for start in starts:
                    self._run(start)
        finally:
            self._is_pumping = False
        self._commit.kick()
        if budget <= 0 and not self._is_resuming:
            self._is_resuming = True
            self._loop.call_soon(self._resume)

    def _resume(self) -> None:
        self._is_resuming = False
        self._pump()

    def _run(self, start: Start) -> None:
        # Eager: a handler that never waits finishes here, without a trip through the event loop.
        task = asyncio.Task(self._execute(start), loop=self._loop, eager_start=True)
        if not task.done():
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _execute(self, start: Start) -> None:
        mark, body = await self._executor.execute(start.call, start.epoch)
        if not self._is_pumping:  # else it finished at once, within the turn that read the clock
            self._now_ns = self._site.now_ns()
        if self._member.on_finished(start, mark, body, self._now_ns):
            self._pump()
            if self._member.is_draining:
                self.signal.notify()
        else:
            _log.warning("outcome_too_late", call=start.call, epoch=start.epoch)

    # -- frames (FrameSource) ---------------------------------------------------------------------------

    def next_frame(self) -> OutFrame | None:
        """Return the next pen frame."""
        written = self._member.next_frame()
        return None if written is None else self._out(written)

    def _out(self, written: Written) -> OutFrame:
        return OutFrame(
            self._pen_subject, written.payload, written.record_id, written.expect, _FOREVER, written
        )

    def acked(self, frame: OutFrame, appended: Appended) -> None:  # noqa: ARG002 - where it is stored comes back by following
        """The outcomes are durable: tell their callers, start what was claimed."""
        written: Written = frame.content
        self._now_ns = self._site.now_ns()
        self._member.on_acked(written, self._now_ns)
        for client, outcomes in self._member.replies(written).items():
            self._reply(client, outcomes)
        self._pump()
        if self._member.is_draining:
            self.signal.notify()

    def _reply(self, client: str, outcomes: list[tuple[CallId, int, bytes | None]]) -> None:
        # A reply is a hint: what cannot be delivered now is asked for later.
        with suppress(AegisError):
            self._site.connection.publish_nowait(self._site.subjects.reply(client), msgpack.packb(outcomes))

    async def refused(self, frame: OutFrame, error: WrongSequence) -> OutFrame | None:
        """The fence moved: is the pen still ours?"""
        who = self._identity
        latest = await self._site.log.last(self._site.subjects.fence(who.service, who.group))
        event = None if latest is None else decode_event(latest.payload)
        again = self._member.on_refused(frame.content, latest.seq if latest else 0, event)
        if again is not None:
            return self._out(again)
        _log.warning(
            "fenced",
            instance=who.instance,
            epoch=frame.content.frame.epoch,
            now=repr(event),
            error=describe(error),
        )
        self._pump()
        return None

    def gave_up(self, frame: OutFrame, error: AegisError, *, maybe_stored: bool) -> None:
        """The log cannot take the frame at all: go no further on a hole."""
        _log.error(
            "outcomes_not_written",
            error=describe(error),
            maybe_stored=maybe_stored,
            epoch=frame.content.frame.epoch,
        )
        self._member.on_lost_frame()
        self._fail(error)
