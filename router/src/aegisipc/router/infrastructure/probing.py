"""Asking instances how they are: a router's own question, beside the pulses that they give unasked.

Pulses say that an instance can send. A probe says that it can be reached, too.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

import structlog

from aegisipc.eventstore.errors import AckUnknown, AegisError, NoResponders, PermissionDenied
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.pulses import InstanceKey, PulseBoard
from aegisipc.eventstore.subjects import Subjects

MAX_AT_ONCE: Final = 64
"""So many probes are under way at a time; a round with more of them takes longer."""

MAX_ANSWER_BYTES: Final = 64 * 1024
"""A longer answer cannot be read."""

_SHORTEST_TIMEOUT_MS: Final = 250
_LONGEST_TIMEOUT_MS: Final = 2000

_log = structlog.get_logger("aegisipc.router")


class Target(NamedTuple):
    """Which run of an instance to ask."""

    key: InstanceKey
    incarnation: str


class Prober:
    """From :meth:`start` to :meth:`stop` it asks each of `targets` every `probe_ms`, and tells the board.

    An answer is waited for as long, but for 250 ms at least and 2 s at most.
    """

    def __init__(
        self,
        connection: Connection,
        subjects: Subjects,
        board: PulseBoard,
        targets: Callable[[], Iterable[Target]],
        *,
        probe_ms: int,
    ) -> None:
        self._connection = connection
        self._subjects = subjects
        self._board = board
        self._targets = targets
        self._every_s = probe_ms / 1000
        self._timeout_ms = min(max(probe_ms, _SHORTEST_TIMEOUT_MS), _LONGEST_TIMEOUT_MS)
        self._asking: dict[InstanceKey, asyncio.Task[None]] = {}
        self._free = asyncio.Semaphore(MAX_AT_ONCE)
        self._rounds: asyncio.Task[None] | None = None
        self.asked = 0
        self.answered = 0
        self.missed = 0

    @property
    def is_on(self) -> bool:
        """Whether it asks; not when the server does not let this user ask."""
        return self._rounds is not None and not self._rounds.done()

    def start(self) -> None:
        """Begin to ask."""
        self._rounds = asyncio.get_running_loop().create_task(self._ask_for_ever(), name="router probes")

    async def stop(self) -> None:
        """Ask no more; answers that are still to come do not count. Idempotent."""
        tasks = [*([self._rounds] if self._rounds is not None else []), *self._asking.values()]
        self._rounds = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask_for_ever(self) -> None:
        while True:
            for target in list(self._targets()):
                if target.key not in self._asking:
                    await self._free.acquire()
                    self._begin(target)
            await asyncio.sleep(self._every_s)

    def _begin(self, target: Target) -> None:
        task = asyncio.get_running_loop().create_task(self._ask(target), name=f"probe {target.key[-1]}")
        self._asking[target.key] = task
        task.add_done_callback(lambda _: self._end(target.key))

    def _end(self, key: InstanceKey) -> None:
        del self._asking[key]
        self._free.release()

    async def _ask(self, target: Target) -> None:
        asked_ns, session = self._board.now_ns, self._connection.generation
        self.asked += 1
        try:
            answer = await self._connection.request(
                self._subjects.probe(*target.key), b"{}", timeout_s=self._timeout_ms / 1000
            )
        except NoResponders:
            self._missed(target, asked_ns, 0, "nobody there takes them")
        except AckUnknown:
            if self._connection.is_connected and self._connection.generation == session:
                self._missed(target, asked_ns, self._timeout_ms, f"nothing in {self._timeout_ms} ms")
        except PermissionDenied as error:
            self._give_up(error)
        except AegisError:
            return  # nothing was sent: our trouble, not theirs
        else:
            self._answered(target, answer.payload)

    def _missed(self, target: Target, asked_ns: int, waited_ms: int, cause: str) -> None:
        self.missed += 1
        self._board.probe_missed(
            target.key, target.incarnation, asked_ns=asked_ns, waited_ms=waited_ms, cause=cause
        )

    def _answered(self, target: Target, payload: bytes) -> None:
        """Another run's answer, or one that cannot be read, says nothing of this run."""
        try:
            told = json.loads(payload[:MAX_ANSWER_BYTES])
        except (ValueError, RecursionError):
            return
        if isinstance(told, dict) and told.get("incarnation") == target.incarnation:
            self.answered += 1
            self._board.probe_answered(target.key, target.incarnation)

    def _give_up(self, error: PermissionDenied) -> None:
        """Every other probe would be refused as well, and be a line in the server's log."""
        _log.warning("probing_not_permitted", error=error.message)
        if self._rounds is not None:
            self._rounds.cancel()
