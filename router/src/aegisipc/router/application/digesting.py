"""A router tells the digest of its state, so that others can find out whether they believe the same."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import structlog

from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.message import Message
from aegisipc.eventstore.nats.subscription import Subscription
from aegisipc.eventstore.subjects import Subjects, may_answer
from aegisipc.eventstore.system import SystemState
from aegisipc.eventstore.system_snapshots import FOLD_VERSION, digest_of_dump, dump_state, pack_dump
from aegisipc.router.domain.decide import RouterIdentity

VERB: Final = "digest"
MAX_WAITING: Final = 64
"""Questions that wait for one digest; more are not answered."""

_REST: Final = 50
"""Between two digests, at least so many times as long as the event loop was held up by the last: until then
that one is told, which is as true as it was.
"""

_log = structlog.get_logger("aegisipc.router")


class DigestDesk:
    """Answers ``api.digest``. Every router does, so the questions go to no queue. `state` and `failure` are
    asked for each time.
    """

    def __init__(
        self,
        connection: Connection,
        me: RouterIdentity,
        *,
        state: Callable[[], SystemState],
        failure: Callable[[], BaseException | None],
    ) -> None:
        self._connection, self._me = connection, me
        self._state, self._failure = state, failure
        self._told: tuple[int, str] | None = None
        self._not_before = 0.0
        self._waiting: list[str] = []
        self._task: asyncio.Task[None] | None = None

    async def subscribe(self, subjects: Subjects) -> Subscription:
        """Begin to answer."""
        return await self._connection.subscribe(subjects.api(VERB), self._on_question)

    async def stop(self) -> None:
        """Leave what is still asked unanswered. Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _on_question(self, message: Message) -> None:
        if not may_answer(message.reply) or len(self._waiting) >= MAX_WAITING:
            return
        self._waiting.append(message.reply)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._answer(), name="router digest")

    async def _answer(self) -> None:
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            answer = json.dumps(await self.answer()).encode()
            for reply in waiting:
                with suppress(AegisError):
                    self._connection.publish_nowait(reply, answer)

    async def answer(self) -> dict[str, Any]:
        """Return what this router believes up to which record, by name; JSON-ready."""
        about: dict[str, Any] = {"router": self._me.id, "incarnation": self._me.incarnation}
        failure = self._failure()
        if failure is not None:  # what it folded may be half of a record
            message = f"cannot tell a digest: this router failed ({type(failure).__name__}); start it again"
            return {"ok": False, "error": {"code": "router_failed", "message": message}, **about}
        try:
            position, digest = await self._digest()
        except Exception as error:  # noqa: BLE001 - whoever asks is to hear of it, and others may ask again
            _log.error("cannot_tell_digest", router=self._me.id, exc_info=error)
            message = f"cannot tell a digest: {error!r:.200}; the router's own log says more"
            return {"ok": False, "error": {"code": "no_digest", "message": message}, **about}
        return {"ok": True, **about, "position": position, "digest": digest, "fold_version": FOLD_VERSION}

    async def _digest(self) -> tuple[int, str]:
        state, began = self._state(), time.monotonic()
        told = self._told
        if told is not None and (told[0] == state.position or began < self._not_before):
            return told
        position, plain = state.position, dump_state(state)
        self._not_before = began + (_REST + 1) * (time.monotonic() - began)
        self._told = told = position, await asyncio.to_thread(lambda: digest_of_dump(pack_dump(plain)))
        return told
