"""A running router: the asyncio shell around the domain.

It follows the log and the heartbeats, and while it leads, appends what the domain decides. Each step (load,
decide, append) can be cut off by a crash: nothing is remembered but what is in the log.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Self

import msgpack  # type: ignore[import-untyped]
import structlog

from aegisipc.eventstore.errors import (
    AckUnknown,
    AegisError,
    LogFailed,
    LogFull,
    LogMisconfigured,
    NoResponders,
    NotConnected,
    WrongSequence,
)
from aegisipc.eventstore.events import RouterResigned, encode_event
from aegisipc.eventstore.jetstream import JetStreamLog
from aegisipc.eventstore.lifecycles import ROUTER, RouterEvent
from aegisipc.eventstore.lifecycles import RouterState as RouterPhase
from aegisipc.eventstore.log import Expect, Following, Record, Start
from aegisipc.eventstore.names import check_name
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.message import Message
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.nats.subscription import Subscription
from aegisipc.eventstore.pulses import PulseBoard
from aegisipc.eventstore.streams import LogOptions, create_log
from aegisipc.eventstore.subjects import may_answer, subjects_of
from aegisipc.eventstore.system import SystemState
from aegisipc.router.application.commands import Commands, Host
from aegisipc.router.application.digesting import DigestDesk
from aegisipc.router.application.hints import DEFAULT_PROBE_MS, Hints
from aegisipc.router.application.snapshotting import SnapshotOptions, Snapshots
from aegisipc.router.application.status import shown_calls, shown_pulses
from aegisipc.router.domain.commands import Desk
from aegisipc.router.domain.decide import Decision, Policy, RouterIdentity, decide, elect, leads
from aegisipc.router.infrastructure.durability import DurabilityDesk, tell_durability
from aegisipc.router.infrastructure.sweeping import Sweeper, SweepOptions

_log = structlog.get_logger("aegisipc.router")

_LONGEST_PULSE_S: Final = 0.25
_PULSES_PER_SUSPICION: Final = 20
"""A router's own pulses are its clock: how finely it sees time, in parts of the silence that it suspects."""
_TICK_S: Final = 0.05
_REST: Final = 4
"""Between two looks at everything, at least so many times as long as the look took."""
_CATCH_UP_S: Final = 600.0
_APPEND_TIMEOUT_S: Final = 2.0
_UNREACHABLE: Final = (NotConnected, AckUnknown, NoResponders, LogFull, LogFailed)


@dataclass(frozen=True, slots=True)
class RouterOptions:
    """How to run a router. ``id`` defaults to a made-up one; ``log`` says how the streams are made, if they
    are missing; its records must not age out. ``system_url`` carries credentials of the system account,
    through which servers tell of connections that end. Live instances are probed every ``probe_ms`` (0: not
    at all). ``sweep`` says when large bodies are removed (``None``: never), ``snapshots`` when the state is
    written down, so that the next start is quick.
    """

    url: str
    namespace: str
    id: str | None = None
    log: LogOptions = field(default_factory=LogOptions)
    policy: Policy = field(default_factory=Policy)
    system_url: str | None = field(default=None, repr=False)
    probe_ms: int = DEFAULT_PROBE_MS
    sweep: SweepOptions | None = field(default_factory=SweepOptions)
    snapshots: SnapshotOptions = field(default_factory=SnapshotOptions)


class Router:
    """One router process's router."""

    def __init__(self, options: RouterOptions) -> None:
        self.options = options
        self.subjects = subjects_of(options.namespace)
        identity = check_name(options.id, "router") if options.id else f"router-{secrets.token_hex(3)}"
        self.me = RouterIdentity(identity, secrets.token_hex(8))
        self.state = SystemState(self.subjects)
        self.board = PulseBoard(self.subjects, gap_ms=options.policy.suspect_after_ms // 2)
        self.phase = ROUTER.initial
        self.decided = 0
        self.refused = 0
        self.skipped = 0
        self.replay_s = 0.0
        self.failure: BaseException | None = None
        self._skipped_now: set[tuple[str, str]] = set()
        self._wake = asyncio.Event()
        self._connection: Connection | None = None
        self._log: JetStreamLog | None = None
        self._following: list[Following] = []
        self._subscriptions: list[Subscription] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._commands: Commands | None = None
        self._sweeper: Sweeper | None = None
        self._servers: DurabilityDesk | None = None
        self._digests: DigestDesk | None = None
        self.beside: dict[str, Callable[[], Any]] = {}  # what else runs here, and adds to the status
        self.snapshots = Snapshots(
            self.subjects,
            self.me.id,
            options.snapshots,
            is_leading=lambda: leads(self.state, self.me),
            now_ns=lambda: self.board.now_ns,
        )
        self.hints = Hints(self.subjects, self.state, self.board, self.me, self._wake.set)

    # -- life -------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Connect, make the streams where they are missing, and read the log from the newest snapshot on;
        returns when it follows.

        Raises:
            LogMisconfigured: the stream exists with another configuration, or records are to age out.
            NotConnected, BadCredentials, ServerUnsuitable: as the connection found it.
            PermissionDenied: the user in ``system_url`` may not hear of connections.
        """
        _check_keeps(self.options.log)
        self._connection = await Connection.open(
            ConnectOptions(self.options.url, name=f"aegis:router:{self.me.id}")
        )
        try:
            if self.options.system_url is not None:
                await self.hints.listen(self.options.system_url)
            await self._replay(self._connection)
            self._servers = await tell_durability(self._connection, self.subjects, self.options, self.me.id)
            if self.options.probe_ms:
                self.hints.probe(self._connection, self.options.probe_ms)
            if self.options.sweep is not None:
                self._sweep(self._connection, self.options.sweep)
        except BaseException:
            await self.stop()
            raise
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._pulse(), name="router pulse"),
            loop.create_task(self._decide_for_ever(), name="router decide"),
        ]

    async def _replay(self, connection: Connection) -> None:
        began = time.monotonic()
        self._log = log = await create_log(connection, self.subjects, self.options.log)
        self.state = self.hints.state = await self.snapshots.begin(log)
        bounds = await log.bounds()
        pulses = JetStreamLog(connection, self.subjects.pulse_stream)
        since = Start(time_ns=bounds.now_ns - self.options.policy.lost_after_ms * 1_000_000)
        self.board.now_ns = self.board.floor_ns = bounds.now_ns
        self._following = [
            await pulses.follow([f"{self.subjects.pulse_root}.>"], self._on_pulse, start=since),
            await log.follow(
                [self.subjects.everything], self._on_record, start=Start(self.state.position + 1)
            ),
        ]
        self._subscriptions = [
            await connection.subscribe(self.subjects.api("status"), self._on_status, queue="routers"),
        ]
        for following in self._following:
            await following.caught_up(_CATCH_UP_S)
        self._commands = Commands(Host(self._desk, self._append, log, self._following[1], connection))
        self._subscriptions += await self._commands.subscribe(connection, self.subjects)
        self._digests = DigestDesk(
            connection, self.me, state=lambda: self.state, failure=lambda: self.failure
        )
        self._subscriptions.append(await self._digests.subscribe(self.subjects))
        self.snapshots.start(log, self.state)
        self.replay_s = time.monotonic() - began
        self._move(RouterEvent.CAUGHT_UP)
        _log.info(
            "replayed",
            router=self.me.id,
            position=self.state.position,
            began_at=self.snapshots.began_at,
            seconds=round(self.replay_s, 3),
        )

    def _sweep(self, connection: Connection, options: SweepOptions) -> None:
        self._sweeper = Sweeper(
            connection,
            self.subjects,
            is_leading=lambda: leads(self.state, self.me),
            now_ns=lambda: self.board.now_ns,
            options=options,
        )
        self._sweeper.start()

    async def stop(self) -> None:
        """Resign if leading, and disconnect."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        for one in (self.hints, self.snapshots, self._digests, self._sweeper, self._servers, self._commands):
            if one is not None:
                await one.stop()
        if self._connection is not None:
            if leads(self.state, self.me):
                await self._resign()
            for subscription in self._subscriptions:
                await subscription.unsubscribe()
            for following in self._following:
                await following.stop()
            await self._connection.close()
            self._connection = None
        if self.phase not in ROUTER.final:
            self._move(RouterEvent.STOPPED)

    async def _resign(self) -> None:
        lead = self.state.topology.leadership
        event = RouterResigned(term=lead.term, router=self.me.id, incarnation=self.me.incarnation)
        with suppress(AegisError):
            await self._append(Decision(self.subjects.term, event, lead.seq))

    def _move(self, event: RouterEvent) -> None:
        self.phase = ROUTER.require(self.phase, event)

    # -- what comes in ----------------------------------------------------------------------------------

    def _on_record(self, record: Record) -> None:
        try:
            effect = self.state.fold(record)
            if effect.decides:
                self._wake.set()
            self.snapshots.note(record, effect)
        except BaseException as error:
            self.failure = error
            self._wake.set()
            raise

    def _on_pulse(self, record: Record) -> None:
        self.board.apply(record)

    # -- deciding ---------------------------------------------------------------------------------------

    async def _decide_for_ever(self) -> None:
        """Ends only with a ``failure``. Then the lead is given up, and without pulses (see :meth:`_pulse`) it
        is taken from this router even if it cannot say so.
        """
        try:
            await self._decide_while_sound()
        except Exception as error:  # noqa: BLE001 - whatever it was, the lead must not stay with the deaf
            self.failure = error
        _log.error("router_failed", router=self.me.id, exc_info=self.failure)
        if leads(self.state, self.me):
            await self._resign()

    async def _decide_while_sound(self) -> None:
        pause_s = _TICK_S
        while self._trouble() is None:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()
            self._wake.clear()
            if self._trouble() is None:
                began = time.monotonic()
                await self._decide_once()
                pause_s = max(_TICK_S, _REST * (time.monotonic() - began))

    def _trouble(self) -> BaseException | None:
        """Why this router cannot go on, or ``None``: it is deaf, or it could not fold what it heard."""
        if self.failure is None:
            self.failure = next((f.failure for f in self._following if f.failure is not None), None)
        return self.failure

    async def _decide_once(self) -> None:
        policy = self.options.policy
        leading = leads(self.state, self.me)
        if leading != (self.phase is RouterPhase.LEADING):
            self._move(RouterEvent.TOOK_LEAD if leading else RouterEvent.LOST_LEAD)
            _log.info(
                "leading" if leading else "following",
                router=self.me.id,
                term=self.state.topology.leadership.term,
            )
        if leading:
            decisions = decide(self.state, self.board, self.me, policy, self.subjects)
        else:
            election = elect(self.state, self.board, self.me, policy, self.subjects)
            decisions = [election] if election is not None else []
        last_seq = 0
        skipped: set[tuple[str, str]] = set()
        for decision in decisions:
            try:
                last_seq = max(last_seq, await self._append(decision))
            except WrongSequence:
                self.refused += 1  # another router was first, or our view is behind: read on, and decide anew
            except _UNREACHABLE as error:
                _log.warning("cannot_decide", router=self.me.id, error=error.message)
                await asyncio.sleep(_TICK_S)
                return
            except AegisError as error:  # this decision only: it must not keep the others from being made
                self.skipped += 1
                skipped.add((decision.subject, decision.event.type))
                self._tell_skipped(decision, error)
        self._skipped_now = skipped
        if last_seq:
            with suppress(AckUnknown, LogFailed):  # why following ended, the next turn finds out
                await self._following[1].reached(last_seq, _APPEND_TIMEOUT_S)

    def _tell_skipped(self, decision: Decision, error: AegisError) -> None:
        """Log it, but not again at every turn that tries it anew."""
        if (decision.subject, decision.event.type) not in self._skipped_now:
            _log.error(
                "cannot_append_decision",
                router=self.me.id,
                type=decision.event.type,
                subject=decision.subject,
                error=error.message,
            )

    async def _append(self, decision: Decision) -> int:
        if self._log is None:
            raise NotConnected("cannot decide: the router has not started")
        appended = await self._log.append(
            decision.subject,
            encode_event(decision.event),
            expect=Expect(decision.expected_seq),
            timeout_s=_APPEND_TIMEOUT_S,
        )
        self.decided += 1
        _log.info("decided", type=decision.event.type, subject=decision.subject, seq=appended.seq)
        return appended.seq

    def _desk(self) -> Desk:
        return Desk(self.state, self.board, self.me, self.options.policy, self.subjects)

    # -- what goes out ----------------------------------------------------------------------------------

    async def _pulse(self) -> None:
        """Sign of life: of the whole router. One that has failed gives none, so that another takes over."""
        subject = self.subjects.pulse("router", self.me.id)
        while self.failure is None:
            report = {
                "incarnation": self.me.incarnation,
                "position": self.state.position,
                "phase": str(self.phase),
            }
            if self._connection is not None:
                with suppress(AegisError):
                    self._connection.publish_nowait(subject, msgpack.packb(report))
            suspicion_s = self.options.policy.suspect_after_ms / 1000
            await asyncio.sleep(min(_LONGEST_PULSE_S, suspicion_s / _PULSES_PER_SUSPICION))

    def _on_status(self, message: Message) -> None:
        if may_answer(message.reply) and self._connection is not None:
            with suppress(AegisError):
                self._connection.publish_nowait(message.reply, json.dumps(self.status()).encode())

    def status(self) -> dict[str, Any]:
        """Return what this router knows beside the topology: open calls and heartbeats. JSON-ready."""
        return {
            "router": self.me.id,
            "phase": str(self.phase),
            "position": self.state.position,
            "replay_s": round(self.replay_s, 3),
            "decided": self.decided,
            "refused": self.refused,
            "skipped": self.skipped,
            **self.hints.status(),
            "objects": self._sweeper.status() if self._sweeper is not None else None,
            "snapshot": self.snapshots.status(),
            **{name: tell() for name, tell in self.beside.items()},
            **shown_calls(self.state),
            "pulses": shown_pulses(self.board),
        }


def _check_keeps(options: LogOptions) -> None:
    """Who holds a group's pen is said once. Aged out, it could not be found by whoever starts later."""
    if options.max_age_s:
        raise LogMisconfigured(
            f"cannot route on a log whose records age out (max_age_s={options.max_age_s:g}): groups would "
            "lose their holders and members with them; leave max_age_s at 0 and bound the log with max_bytes",
            differences={"max_age": {"wanted": 0, "found": options.max_age_s}},
        )
