"""Answers questions about a pool's calls: from what the worker remembers, and from the log for what it does
not.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Final

from aegisipc.eventstore.errors import AegisError, MalformedPayload
from aegisipc.eventstore.frames import OUTCOMES, Mark, decode_pen
from aegisipc.eventstore.ids import CallId, time_of
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.log import Start as From
from aegisipc.eventstore.memories import Outcome
from aegisipc.eventstore.nats.message import Message
from aegisipc.eventstore.seeking import SEEK_MARGIN_S
from aegisipc.eventstore.subjects import may_answer
from aegisipc.sdk.core.pool import PoolWorker
from aegisipc.sdk.core.pool_facts import LookUp
from aegisipc.sdk.hosts.base import Site
from aegisipc.sdk.wire import MAX_ASKED, decode_ask, encode_outcomes

_MAX_IN_VAIN: Final = 10_000


class Questions:
    """One worker's part in answering. Looking up is done by one worker at a time, one reading at a time; at
    most 1,000 calls wait for it, and who gets no answer asks again.

    `follows_from` is where the worker's own view of the pool's facts begins.
    """

    def __init__(
        self,
        site: Site,
        worker: PoolWorker,
        conclusions: Sequence[str],
        *,
        follows_from: From,
        post: Callable[[str, bytes], None],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._site = site
        self._worker = worker
        self._conclusions = conclusions
        self._follows_from = follows_from
        self._post = post
        self._spawn = spawn
        self._questions: list[tuple[str, list[CallId]]] = []
        self._in_vain: set[CallId] = set()
        self._is_seeking = False

    def on_ask(self, message: Message) -> None:
        """Every worker is asked: whoever remembers an outcome answers. The eldest looks up the others."""
        if not may_answer(message.reply):
            return
        with suppress(MalformedPayload):
            call_ids = decode_ask(message.payload)
            self._answer(message.reply, call_ids)
            if self._worker.is_eldest:
                self._look_up_later(message.reply, call_ids)

    def _answer(self, reply: str, call_ids: list[CallId]) -> None:
        found = self._worker.answer(call_ids)
        if found:
            self._post(reply, encode_outcomes(found, self._site.log.max_record_bytes))

    def _look_up_later(self, reply: str, call_ids: list[CallId]) -> None:
        asked = sum(len(waiting) for _, waiting in self._questions)
        lost = self._lost(call_ids)
        if not lost or asked >= MAX_ASKED:  # who gets no answer asks again
            return
        self._questions.append((reply, sorted(lost)[: MAX_ASKED - asked]))
        if not self._is_seeking:
            self._spawn(self._seek())

    def _lost(self, call_ids: list[CallId]) -> list[CallId]:
        """Return the calls that may have an outcome in the log that this worker does not have: it forgot the
        body, or the outcome may be older than what it followed.
        """
        forgotten, unknown = self._worker.missing(call_ids)
        born_before_ms = ((self._follows_from.time_ns or 0) // 1_000_000) + SEEK_MARGIN_S * 1000
        older = [i for i in unknown if i not in self._in_vain and time_of(i) < born_before_ms]
        return [*forgotten, *older]

    async def _seek(self) -> None:
        self._is_seeking = True
        try:
            while self._questions:
                questions, self._questions = self._questions, []
                forgotten, older = self._worker.missing(sorted({i for _, ids in questions for i in ids}))
                with suppress(AegisError):  # they ask again
                    if forgotten:
                        await self._find_forgotten(forgotten)
                    if older:
                        await self._find_older(older)
                for reply, call_ids in questions:
                    self._answer(reply, call_ids)
        finally:
            self._is_seeking = False

    async def _find_forgotten(self, where: dict[CallId, int]) -> None:
        start, end = min(where.values()), max(where.values())
        async for record in self._site.log.read(self._conclusions, start=From(start)):
            if record.seq > end:
                return
            for mark, call_id, body in _facts(record):
                if mark in OUTCOMES and where.get(call_id) == record.seq:
                    self._worker.on_found(Outcome(call_id, mark, body), record.seq)

    async def _find_older(self, call_ids: list[CallId]) -> None:
        """Read from the time in the oldest id to where following began."""
        look_up = LookUp(frozenset(call_ids))
        start_ms = min(time_of(call_id) for call_id in call_ids) - SEEK_MARGIN_S * 1000
        start = From(time_ns=max(0, start_ms * 1_000_000))
        async for record in self._site.log.read(self._conclusions, start=start):
            if record.seq >= self._follows_from.seq:
                break
            writer = self._site.subjects.writer(record.subject)
            if not writer:
                continue  # no fold can read it
            for mark, call_id, body in look_up.read(record, writer):
                if mark in OUTCOMES:
                    self._worker.on_found(Outcome(call_id, mark, body), record.seq)
        known = look_up.result()
        if len(self._in_vain) > _MAX_IN_VAIN:
            self._in_vain.clear()
        self._in_vain.update(i for i in call_ids if i not in known or known[i].mark not in OUTCOMES)


def _facts(record: Record) -> list[tuple[Mark, CallId, bytes | None]]:
    try:
        frame = decode_pen(record.payload)
    except MalformedPayload:
        return []
    return [(mark, i, body) for (mark, i), body in zip(frame.entries, frame.bodies, strict=True)]
