"""Operators' commands, as plain messages: the leader judges them, makes them durable, and answers.

A router that does not lead stays silent, so whoever gets no answer knows that nobody leads. Listing doubts is
a question that any router may answer.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import structlog

from aegisipc.eventstore.errors import AegisError, Overloaded, WrongSequence
from aegisipc.eventstore.log import Following, Log
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.message import Message
from aegisipc.eventstore.nats.subscription import Subscription
from aegisipc.eventstore.subjects import Subjects, may_answer
from aegisipc.router.domain.commands import Desk, Plan
from aegisipc.router.domain.decide import Decision, leads
from aegisipc.router.domain.refusals import CannotDecide, CommandRefused
from aegisipc.router.domain.requests import Drain, ListDoubts, Pause, Promote, Request, Resume, read_request

COMMANDS: Final[dict[str, type[Request]]] = {
    "promote": Promote,
    "drain": Drain,
    "pause": Pause,
    "resume": Resume,
}
MAX_AT_ONCE: Final = 16
"""How many commands a router works on at a time; the next one is refused at once."""

_ATTEMPTS: Final = 3
_PATIENCE_S: Final = 5.0
_MAX_ANSWER_BYTES: Final = 512 * 1024

_log = structlog.get_logger("aegisipc.router")

type Answer = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Host:
    """What commands need of the router that they are given to: what it believes, how it appends a decision,
    the log, and how it follows that.
    """

    desk: Callable[[], Desk]
    append: Callable[[Decision], Awaitable[int]]
    log: Log
    following: Following
    connection: Connection

    async def read_to(self, seq: int) -> None:
        """Wait until this record is folded."""
        await self.following.reached(seq, _PATIENCE_S)

    async def last_seq(self, subject: str) -> int:
        """The sequence of the last record on `subject`, as the server has it."""
        record = await self.log.last(subject)
        return record.seq if record is not None else 0

    def answer(self, to: str, payload: bytes) -> None:
        """Send an answer; an asker whom it does not reach asks again."""
        with suppress(AegisError):
            self.connection.publish_nowait(to, payload)


class Commands:
    """The commands that one router works on."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._tasks: set[asyncio.Task[None]] = set()

    async def subscribe(self, connection: Connection, subjects: Subjects) -> list[Subscription]:
        """Take commands from here on."""
        verbs = [await connection.subscribe(subjects.api(verb), self.taker(verb)) for verb in COMMANDS]
        doubts = await connection.subscribe(subjects.api("doubts"), self.on_doubts, queue="routers")
        return [*verbs, doubts]

    def taker(self, verb: str) -> Callable[[Message], None]:
        """Return what takes the messages on the subject of a command."""
        cls = COMMANDS[verb]

        def take(message: Message) -> None:
            if may_answer(message.reply) and self._leads():
                self._work(message, verb, self._command(cls, message.payload))

        return take

    def on_doubts(self, message: Message) -> None:
        """Answer which calls are in doubt."""
        if not may_answer(message.reply):
            return
        try:
            self._host.answer(message.reply, self._doubts(read_request(ListDoubts, message.payload)))
        except AegisError as error:
            self._refuse(message.reply, error)

    async def stop(self) -> None:
        """Give up what is being worked on; its askers get no answer."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _leads(self) -> bool:
        desk = self._host.desk()
        return leads(desk.state, desk.me)

    # -- one command ------------------------------------------------------------------------------------

    def _work(self, message: Message, verb: str, command: Coroutine[Any, Any, Answer | None]) -> None:
        if len(self._tasks) >= MAX_AT_ONCE:
            command.close()
            self._refuse(message.reply, _too_many())
            return
        task = asyncio.create_task(self._see_through(message.reply, verb, command), name=f"command {verb}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _see_through(self, reply: str, verb: str, command: Coroutine[Any, Any, Answer | None]) -> None:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                told = await command
        except CommandRefused as refusal:
            self._refuse(reply, refusal)
        except (AegisError, TimeoutError) as error:
            self._refuse(reply, _undecided(verb, error))
        except Exception as error:  # noqa: BLE001 - a defect must not leave the operator without an answer
            _log.error("command_failed", verb=verb, exc_info=error)
            self._refuse(reply, _undecided(verb, error))
        else:
            if told is not None:
                self._host.answer(reply, _encoded(told))

    async def _command(self, cls: type[Request], payload: bytes) -> Answer | None:
        """Carry it out; ``None`` when this router turns out not to lead, and it is for another to answer."""
        request = read_request(cls, payload)
        for _ in range(_ATTEMPTS):
            plan = self._host.desk().plan(request)
            try:
                seq = await self._append(plan)
            except WrongSequence as lost:
                await self._host.read_to(await self._host.last_seq(lost.subject))
                if not self._leads():
                    return None
                continue
            return _answer(plan, seq)
        raise CannotDecide(
            f"cannot decide: others decided about the same place {_ATTEMPTS} times meanwhile; try again",
            reason="wrong_sequence",
        )

    async def _append(self, plan: Plan) -> int:
        seq = plan.seq
        try:
            for decision in plan.decisions:
                seq = await self._host.append(decision)
        finally:
            if seq != plan.seq:  # whatever comes next is to be judged with it
                await self._host.read_to(seq)
        return seq

    # -- answers ----------------------------------------------------------------------------------------

    def _doubts(self, request: ListDoubts) -> bytes:
        doubts, more = self._host.desk().doubts(request)
        while True:
            encoded = _encoded({"ok": True, "doubts": doubts, "more": more})
            if len(encoded) <= _MAX_ANSWER_BYTES or not doubts:
                return encoded
            keep = len(doubts) // 2  # resource ids can be long
            more += len(doubts) - keep
            doubts = doubts[:keep]

    def _refuse(self, reply: str, error: AegisError) -> None:
        self._host.answer(reply, _encoded({"error": error.to_plain()}))


def _answer(plan: Plan, seq: int) -> Answer:
    answer = {"ok": True, "seq": seq, "event": plan.event, **plan.told}
    return answer | {"already": True} if plan.is_so_already else answer


def _encoded(answer: Answer) -> bytes:
    return json.dumps(answer, ensure_ascii=False, default=str).encode()


def _too_many() -> Overloaded:
    return Overloaded(
        f"cannot take the command: {MAX_AT_ONCE} are being worked on; try again in a moment",
        limit=MAX_AT_ONCE,
    )


def _undecided(verb: str, error: BaseException) -> CannotDecide:
    if isinstance(error, AegisError):
        why, reason = error.message, error.code
    elif isinstance(error, TimeoutError):
        why, reason = f"the log did not answer within {_PATIENCE_S:g} s", "timeout"
    else:
        why, reason = "an unexpected error, which is in the router's log", "defect"
    return CannotDecide(
        f"cannot say that the {verb} was decided ({why}); look with aegis status, and try again",
        reason=reason,
    )
