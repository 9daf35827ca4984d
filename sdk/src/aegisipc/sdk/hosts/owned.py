"""Runs one member of an owned group: the shell around :class:`~aegisipc.sdk.core.member.GroupMember`."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from random import random
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]
import structlog

from aegisipc.eventstore.errors import AegisError, MalformedPayload
from aegisipc.eventstore.events import Effect
from aegisipc.eventstore.group_commit import GroupCommit
from aegisipc.eventstore.keys import KeyOwner
from aegisipc.eventstore.log import Following, Record
from aegisipc.eventstore.log import Start as From
from aegisipc.eventstore.nats.message import Message
from aegisipc.eventstore.nats.subscription import Subscription
from aegisipc.eventstore.subjects import may_answer
from aegisipc.eventstore.topology import GroupView, InstanceView
from aegisipc.sdk.core.key_lookups import Lookup
from aegisipc.sdk.core.member import GroupMember
from aegisipc.sdk.core.pen import Start, Written
from aegisipc.sdk.executor import Done, Executor
from aegisipc.sdk.hosts.base import HostParts, RebuildNeeded, Signal, describe, max_body_bytes
from aegisipc.sdk.hosts.evidence import EvidenceWriter
from aegisipc.sdk.hosts.key_reading import KeyReader, spill
from aegisipc.sdk.hosts.letters import Letters
from aegisipc.sdk.hosts.pen_frames import PenFrames
from aegisipc.sdk.hosts.resolving import Commands, Reconciliation
from aegisipc.sdk.hosts.restoring import restore
from aegisipc.sdk.hosts.rules import rules_of
from aegisipc.sdk.hosts.timing import DueTimer, FlowTeller
from aegisipc.sdk.reconciling import Reconciler
from aegisipc.sdk.state import SharedState
from aegisipc.sdk.wire import decode_ask, encode_outcomes

_log = structlog.get_logger("aegisipc.instance")

_TICK_S: Final = 0.02
_CATCH_UP_S: Final = 600.0
_FOREVER: Final = float("inf")
_LAST_CALLS_S: Final = 30.0
"""How long calls may go on running, once the state that they would change has to be built again."""
_SLICE: Final = 128
"""Handlers started per turn of the event loop: the outcomes of the first ones are on their way while the rest
run.
"""


class OwnedHost:
    """One incarnation of one member."""

    def __init__(self, parts: HostParts) -> None:
        self._site, self._identity = parts.site, parts.identity
        self._loop = asyncio.get_running_loop()
        shared = SharedState(parts.service)
        self._state = None if shared.is_empty else shared
        site, who, subjects = parts.site, parts.identity, parts.site.subjects
        rules = rules_of(parts.service)
        self._effects = rules.effects
        self.member = GroupMember(
            who,
            rules,
            subjects,
            max_frame_bytes=site.log.max_record_bytes - 8192,
            state=self._state,
            spill=spill,
        )
        max_bytes = max_body_bytes(site.log)
        objects = site.objects()
        self._executor = Executor(parts.service, who, site.now_ns, max_bytes, self._state, objects)
        self._reconciliation = Reconciliation(
            self.member,
            Reconciler(parts.service, who, max_bytes, self._state),
            spawn=self._spawn,
            wake=self._pump,
        )
        self._keys = KeyReader(site, self._spawn, self._on_key_found)
        letters = Letters(site, self.member, spawn=self._spawn, post=self._post, wake=self._pump)
        self._commands = Commands(
            self.member,
            parts.service,
            letters,
            self._keys,
            spawn=self._spawn,
            post=self._post,
            wake=self._pump,
        )
        self._evidence = EvidenceWriter(site.log, subjects, who)
        frames = PenFrames(site, self.member, stored=self._on_stored, wake=self._pump, fail=self._fail)
        self._commit = GroupCommit(site.log, frames, name=f"pen {who.instance}", on_failure=self._fail)
        flow_subject = subjects.flow(who.service, who.group)
        self._flow = FlowTeller(self.member, lambda hint: self._post(flow_subject, hint))
        self._due = DueTimer(site.now_ns, self._on_time)
        self._following: Following | None = None
        self._subscriptions: list[Subscription] = []
        self._ticker: asyncio.TimerHandle | None = None
        self._running: dict[asyncio.Task[None], Start] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._now_ns = parts.site.now_ns()
        self._is_pumping = False
        self._is_resuming = False
        self._step_downs = 0
        self._give_up_at = _FOREVER
        self.signal = Signal()
        self.failure: BaseException | None = None

    # -- host -------------------------------------------------------------------------------------------

    @property
    def me(self) -> InstanceView | None:
        """This incarnation as the log tells it."""
        return self.member.me

    @property
    def group(self) -> GroupView | None:
        """The group as the log tells it."""
        return self.member.group

    @property
    def is_quiet(self) -> bool:
        """Nothing runs here and everything that ran is in the log."""
        return self.member.is_quiet

    @property
    def to_yield(self) -> int | None:
        """The epoch that is held here and is to be yielded, once nothing of it is under way any more."""
        return self.member.to_yield

    def state_digests(self) -> dict[str, dict[str, str]]:
        """Return the latest checks of the shared state."""
        checks = self.member.replica.checks
        return {str(seq): {"own": check.own.hex(), "log": check.log.hex()} for seq, check in checks.items()}

    def pulse(self) -> dict[str, Any]:
        """What a heartbeat tells beside the identity."""
        member = self.member
        return {
            "epoch": member.epoch if member.is_active else 0,
            "active": member.is_active,
            "running": member.running,
            "waiting": member.waiting,
            "open": len(member.calls.open),
            "doubts": len(member.doubts),
            "fenced": member.fenced_frames,
            "position": self._following.position if self._following else 0,
        }

    async def start(self) -> None:
        """Follow the group's log to its end, and answer questions about its calls."""
        who, site = self._identity, self._site
        covered = await restore(site, who, self.member, self._state)
        listeners = {
            site.subjects.ask(who.service, who.group): self._on_ask,
            site.subjects.tell(who.service, who.group): self._commands.on_tell,
            site.subjects.find_key(who.service, who.group): self._commands.on_find_key,
        }
        self._subscriptions = [await site.connection.subscribe(*each) for each in listeners.items()]
        self._following = await site.log.follow(
            [site.subjects.group(who.service, who.group)], self._on_record, start=From(covered + 1)
        )
        await self._following.caught_up(_CATCH_UP_S)
        if self.failure is not None:
            raise self.failure
        self._tick()

    def drain(self) -> None:
        """Start nothing more."""
        self.member.drain()
        self.signal.notify()

    def hold(self, reason: str) -> None:
        """Start nothing more until :meth:`release`."""
        self.member.hold(reason)
        self.signal.notify()

    def release(self) -> None:
        """Start calls again."""
        self._now_ns = self._site.now_ns()
        self.member.release(self._now_ns)
        self._pump()

    async def stop(self) -> None:
        """Let go of everything, at once. ``once`` calls that run are left to their end, to tell of it."""
        if self._ticker is not None:
            self._ticker.cancel()
        self._due.cancel()
        for subscription in self._subscriptions:
            await subscription.unsubscribe()
        if self._following is not None:
            await self._following.stop()
        await self._commit.close()
        self.member.retire()
        self._on_pen_lost()
        ended = [*self._let_go_of_running(), *self._background]
        for task in ended:
            task.cancel()
        if ended:
            await asyncio.wait(ended, timeout=1.0)
        self._executor.close()

    def _let_go_of_running(self) -> list[asyncio.Task[None]]:
        """The pen is someone else's. What may run twice is cancelled; the others go on, and end as evidence.
        Returns the cancelled ones.
        """
        cancelled = []
        for task, start in list(self._running.items()):
            if self._effects.get(start.call.method) is Effect.ONCE:
                self._site.leftovers.adopt(task)
            else:
                task.cancel()
                cancelled.append(task)
        return cancelled

    def _on_pen_lost(self) -> None:
        """What is not in the log by now is told otherwise."""
        self._commands.on_pen_lost()
        for call, mark, body, emitted in self.member.take_unwritten():
            telling = self._loop.create_task(self._evidence.tell(call, Done(mark, body, emitted)))
            self._site.leftovers.adopt(telling)

    def _fail(self, error: BaseException) -> None:
        self.failure = error
        self.signal.notify()

    # -- what comes in ----------------------------------------------------------------------------------

    def _on_record(self, record: Record) -> None:
        try:
            self._site.observe(record.timestamp_ns)
            self._now_ns = self._site.now_ns()
            self.member.on_record(record, self._now_ns)
            self._pump()
        except BaseException as error:
            self._fail(error)
            raise
        self.signal.notify()

    def _tick(self) -> None:
        unsaved = self.member.snapshots.take_failure()
        if unsaved is not None:
            _log.warning("snapshot_not_written", instance=self._identity.instance, error=describe(unsaved))
        if self._following is not None and self._following.failure is not None and self.failure is None:
            self._fail(
                self._following.failure
            )  # deaf from here on: only a new incarnation reads the log again
            return
        self._ticker = self._loop.call_later(_TICK_S, self._tick)
        self._on_time()
        self._flow.tick(self._now_ns)

    def _on_time(self) -> None:
        self._now_ns = self._site.now_ns()
        try:
            self.member.on_tick(self._now_ns)
            self._pump()
        except Exception as error:
            self._fail(error)
            raise

    def _on_key_found(self, lookup: Lookup, owner: KeyOwner | None) -> None:
        self._now_ns = self._site.now_ns()
        self.member.on_key_found(lookup, owner, self._now_ns)
        self._pump()

    def _on_ask(self, message: Message) -> None:
        if not may_answer(message.reply) or not self.member.is_active:
            return
        with suppress(MalformedPayload, AegisError):
            found = self.member.answer(decode_ask(message.payload))
            limit = self._site.log.max_record_bytes
            self._site.connection.publish_nowait(message.reply, encode_outcomes(found, limit))

    # -- running ----------------------------------------------------------------------------------------

    def _pump(self) -> None:
        if self._is_pumping:  # a handler that finished at once came back here: the loop below goes on
            return
        self._is_pumping = True
        try:
            if self.member.step_downs != self._step_downs:
                self._step_downs = self.member.step_downs
                self._let_go_of_running()
                self._on_pen_lost()
            self._reconciliation.add(self.member.take_doubts())
            self._keys.add(self.member.take_lookups())
            for call in self.member.take_cancels():
                author, reason = call.cancel or ("", "")
                self._executor.cancel(call.call_id, author, reason)
            budget = _SLICE
            while budget > 0 and (starts := self.member.take_starts(budget)):
                budget -= len(starts)
                for start in starts:
                    self._run(start)
        finally:
            self._is_pumping = False
        self._commit.kick()
        self._due.set(self.member.next_due_ns)
        if budget <= 0 and not self._is_resuming:
            self._is_resuming = True
            self._loop.call_soon(self._resume)
        if self.member.replica.spoiled is not None:
            self._give_up_state()

    def _give_up_state(self) -> None:
        """The state here cannot be trusted. What ran is concluded, then a new incarnation builds it again.
        Nobody takes calls till then: so there is an end to waiting.
        """
        replica, member, now = self.member.replica, self.member, self._loop.time()
        self._give_up_at = min(self._give_up_at, now + _LAST_CALLS_S)
        is_over = not member.is_active or member.is_quiet or now >= self._give_up_at
        if self.failure is None and is_over:
            _log.warning("state_given_up", instance=self._identity.instance, why=replica.spoiled)
            self._fail(
                replica.failure or RebuildNeeded(f"cannot go on with the state here: {replica.spoiled}")
            )

    def _resume(self) -> None:
        self._is_resuming = False
        try:
            self._pump()
        except Exception as error:
            self._fail(error)
            raise

    def _run(self, start: Start) -> None:
        # Eager: a handler that never waits finishes here, without a trip through the event loop.
        task = asyncio.Task(self._execute(start), loop=self._loop, eager_start=True)
        if task.done():
            self._look_at_end(task)
        else:
            self._running[task] = start
            task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task, None)
        self._look_at_end(task)

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = self._loop.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        task.add_done_callback(self._look_at_end)

    def _look_at_end(self, task: asyncio.Task[None]) -> None:
        """Whatever a handler does is an outcome: an error here is a defect of ours, and a call has none."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log.error("host_defect", instance=self._identity.instance, exc_info=error)
            self._fail(error)

    async def _execute(self, start: Start) -> None:
        done = await self._executor.execute(start.call, start.epoch)
        if not self._is_pumping:  # else it finished at once, within the turn that read the clock
            self._now_ns = self._site.now_ns()
        if self.member.on_finished(
            start,
            done.mark,
            done.body,
            self._now_ns,
            done.emitted,
            again=done.again,
            stack=done.stack,
            random01=random() if done.again else 0.5,  # noqa: S311 - so that they do not come back together
        ):
            self._pump()
            self._tell_of_rest()
        else:
            await self._too_late(start, done)

    async def _too_late(self, start: Start, done: Done) -> None:
        _log.warning("outcome_too_late", call=start.call, epoch=start.epoch)
        if self._effects.get(start.call.method) is Effect.ONCE:
            await self._evidence.tell(start.call, done)

    def _tell_of_rest(self) -> None:
        """Whoever waits for the calls to come to an end looks again."""
        if self.member.is_blocked:
            self.signal.notify()

    # -- writing ----------------------------------------------------------------------------------------

    def _on_stored(self, written: Written, seq: int) -> None:
        """The outcomes are durable: tell their callers, start what was claimed."""
        self._now_ns = self._site.now_ns()
        self.member.on_acked(written, self._now_ns)
        for client, outcomes in self.member.replies(written).items():
            self._post(self._site.subjects.reply(client), msgpack.packb(outcomes))
        self._commands.on_acked(written, seq)
        self._pump()
        self._tell_of_rest()

    def _post(self, subject: str, payload: bytes) -> None:
        # A reply is a hint: what cannot be delivered now is asked for later.
        with suppress(AegisError):
            self._site.connection.publish_nowait(subject, payload)
