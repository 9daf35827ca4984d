"""An operator at work while things break: moves pens, drains, pauses, and ends what only people can end."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from aegisipc.chaos.history import Stage
from aegisipc.chaos.operators import DISCARD, REQUEUE, RESOLVE, asking_for, reason_of
from aegisipc.chaos.real.asking import Told, ended
from aegisipc.chaos.real.members import LIFE_NUMBERS, Member, Role
from aegisipc.chaos.real.recording import Recorder, began_in, now_ns
from aegisipc.chaos.real.scene import NAMESPACE, NotReady, Scene
from aegisipc.chaos.real.services import GROUPS
from aegisipc.chaos.workload import BOOK, DESK
from aegisipc.eventstore.errors import AckUnknown, AegisError
from aegisipc.eventstore.ids import format_call_id
from aegisipc.eventstore.log import Log
from aegisipc.eventstore.names import POOL_GROUP
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.streams import open_log
from aegisipc.eventstore.subjects import subjects_of
from aegisipc.router.cli.asking import ask
from aegisipc.router.cli.dead_letters import Wanted, read_dead_letters

OPERATOR: Final = "operator"
_BASE: Final = 998_000 * LIFE_NUMBERS
_PAUSED_S: Final = (0.1, 0.8)
_ANSWER_S: Final = 3.0
_LEAVES_S: Final = 15.0
_AGAIN_S: Final = 0.2
_TRIES: Final = 200
_MOST: Final = 32
"""Calls that are looked at in one go."""
_MOST_RECORDS: Final = 100_000
"""Dead letters are found by reading their part of the log, which is not done while calls are made if the log
is longer than this."""
_PLACES: Final = (*((BOOK, group) for group in GROUPS), (DESK, POOL_GROUP))
_TURNS: Final = {"promote": 4, "pause": 2, "drain": 2, "dead letters": 3, "doubts": 3}

type Place = tuple[str, str]


class Operator:
    """Made by :func:`an_operator`. Everything that it asks for is in its history, as operations of clients
    are; a refusal is one that failed, and no answer one of which nobody knows.
    """

    def __init__(self, scene: Scene, connection: Connection, log: Log, recorder: Recorder) -> None:
        self._scene, self._connection, self._log, self._recorder = scene, connection, log, recorder
        self._subjects = subjects_of(NAMESPACE)
        self._chance = random.Random(f"{scene.seed}:{OPERATOR}")  # noqa: S311 - it is to be repeated
        self._numbers: Iterator[int] = itertools.count(_BASE)
        self._is_stopping = asyncio.Event()

    # -- while things break -----------------------------------------------------------------------------

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """Meanwhile, do one thing after the other. The last is brought to its end: nothing stays paused."""
        working = asyncio.create_task(self._work(), name=OPERATOR)
        try:
            yield
            self._is_stopping.set()
            await working
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    async def _work(self) -> None:
        gap_s = self._scene.shape.operator_gap_s
        while not self._is_stopping.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._is_stopping.wait(), self._chance.uniform(*gap_s))
                return
            turn = self._chance.choices(list(_TURNS), list(_TURNS.values()))[0]
            with suppress(AegisError):  # nobody there, or the log cannot be read now: another time
                await self._take(turn)

    async def _take(self, turn: str) -> None:
        match turn:
            case "promote":
                await self._promote()
            case "pause":
                await self._pause()
            case "drain":
                await self._drain()
            case "dead letters":
                if (await self._log.bounds()).last_seq <= _MOST_RECORDS:
                    await self._end_dead_letters()
            case _:
                await self.end_doubts()

    async def _promote(self) -> None:
        member = self._chance.choice(self._scene.of(Role.INSTANCE))
        service, group = self._scene.shape.instances[member.name]
        if group is not None:
            await self._order("promote", {"service": service, "group": group, "instance": member.name})

    async def _pause(self) -> None:
        service, group = self._chance.choice(_PLACES)
        command = {"service": service, "group": group}
        await self._order("pause", command)
        await asyncio.sleep(self._chance.uniform(*_PAUSED_S))
        for _ in range(_TRIES):  # even if nobody knows whether it is paused
            if await self._order("resume", command):
                return
            await asyncio.sleep(_AGAIN_S)
        self._scene.ended.append(f"nobody resumed {service}/{group}, though asked {_TRIES} times")

    async def _drain(self) -> None:
        """Have an instance finish and leave; then start it again."""
        member = self._chance.choice(self._scene.of(Role.INSTANCE))
        lock = self._scene.lock(member.name)
        if lock.locked():
            return  # it is being broken
        async with lock:
            service, group = self._scene.shape.instances[member.name]
            member.is_wanted, member.is_asked_to_leave = False, True
            command = {"instance": member.name, "service": service, "group": group or POOL_GROUP}
            try:
                if not await self._order("drain", command):
                    return
                await self._has_left(member)
            finally:
                member.is_wanted = True
            with suppress(NotReady):  # whether it serves is seen after the end of all faults
                await self._scene.ready(member)

    async def _has_left(self, member: Member) -> None:
        child = member.child
        if child is None:
            return
        with suppress(NotReady):  # of whom a fault of the server keeps the answer from; it stays
            await self._scene.until(lambda: not child.is_alive, _LEAVES_S, f"{member.name} has left", member)
            if child.code:
                self._scene.tell_of(member, "ended when it was drained")
            self._scene.start(member)

    # -- what only people end ---------------------------------------------------------------------------

    async def end_doubts(self) -> None:
        """Look into the ledger, as an operator would look at the venue, and say what became of calls.

        Raises:
            AegisError: no router tells which calls are in doubt.
        """
        told = await ask(self._connection, self._subjects.api("doubts"), {"limit": _MOST}, _ANSWER_S)
        for doubt in told["doubts"]:
            who, epoch = doubt["claimed_by"], doubt["claimed_epoch"]
            number = await asyncio.to_thread(
                began_in, self._scene.histories, doubt["call_id"], instance=who, epoch=epoch
            )
            command = {"command": RESOLVE, "call_id": doubt["call_id"], "executed": number is not None}
            if number is not None:
                command["result"] = number
            await self._tell((doubt["service"], doubt["group"]), command)

    async def end_all(self) -> None:
        """End all doubts and all dead letters that there are now.

        Raises:
            AegisError: the log cannot be read now, or no router tells.
        """
        await self.end_doubts()
        await self._end_dead_letters()

    async def _end_dead_letters(self) -> None:
        """Let half of them run again, and put the others away."""
        letters = await read_dead_letters(self._log, self._subjects, Wanted())
        for letter in letters[:_MOST]:
            command = self._chance.choice((REQUEUE, DISCARD))
            told = {"command": command, "call_id": format_call_id(letter.call_id)}
            await self._tell((letter.service, letter.group), told)

    # -- asking -----------------------------------------------------------------------------------------

    async def _order(self, verb: str, command: dict[str, Any]) -> bool:
        """Ask the router that leads; tells whether it is so now."""
        place = "/".join(str(command[name]) for name in ("service", "group", "instance") if name in command)
        told = await self._ask({"command": verb}, place, self._subjects.api(verb), command)
        return told.stage is Stage.OK

    async def _tell(self, place: Place, command: dict[str, Any]) -> None:
        """Tell who holds the pen."""
        await self._ask({}, "/".join(place), self._subjects.tell(*place), command)

    async def _ask(self, verb: dict[str, Any], place: str, subject: str, command: dict[str, Any]) -> Told:
        """Ask once. `verb` is what routers are told by the subject, and groups in the command."""
        number = next(self._numbers)
        asked = asking_for(number, OPERATOR, now_ns(), place, command | verb)
        await self._recorder.keep(asked)
        said = {**command, "author": OPERATOR, "reason": reason_of(number)}
        try:
            told = Told(Stage.OK, value=await ask(self._connection, subject, said, _ANSWER_S))
        except AckUnknown as error:
            told = Told(Stage.INFO, error=error)
        except AegisError as error:
            told = Told(Stage.FAIL, error=error)
        await self._recorder.keep(ended(asked, told))
        return told


@asynccontextmanager
async def an_operator(scene: Scene) -> AsyncIterator[Operator]:
    """Have an operator, who reaches the servers through no proxy.

    Raises:
        AegisError: there is no server, or no log.
    """
    async with (
        await Connection.open(ConnectOptions(scene.url, name="aegis:operator")) as connection,
        Recorder(scene.histories / f"{OPERATOR}.history") as recorder,
    ):
        log = await open_log(connection, subjects_of(NAMESPACE))
        yield Operator(scene, connection, log, recorder)
