"""Requests that were sent and wait for their answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from aegisipc.eventstore.errors import AckUnknown, AegisError, NoResponders, PermissionDenied

from .message import DELIVERY, Message


@dataclass(slots=True, eq=False)
class _Waiting:
    subject: str
    answer: asyncio.Future[Message]
    timer: asyncio.TimerHandle


class InFlight:
    """Answers are matched by the last part of their subject, below one inbox that serves all requests.

    Each request has one timer and no task. Whatever fails, fails all at once: ``fail_all``.
    """

    def __init__(self, inbox: str) -> None:
        self.inbox = inbox
        self._prefix = f"{inbox}."
        self._waiting: dict[str, _Waiting] = {}
        self._count = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        return len(self._waiting)

    def begin(self, subject: str, timeout_s: float) -> tuple[str, asyncio.Future[Message]]:
        """Reply subject and future answer of a request about to be sent.

        The future fails with ``AckUnknown`` after ``timeout_s``, with ``NoResponders`` if nobody serves the
        subject. Cancelling it forgets the request.
        """
        self._count += 1
        reply = f"{self._prefix}{self._count:x}"
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Message] = loop.create_future()
        timer = loop.call_later(timeout_s, self._time_out, reply, timeout_s)
        self._waiting[reply] = _Waiting(subject, answer, timer)
        self._idle.clear()
        return reply, answer

    def forget(self, reply: str) -> None:
        """Stop waiting: the request was cancelled, or was not sent after all."""
        self._take(reply)

    def resolve(self, message: Message) -> None:
        """An answer came; one that nobody waits for any more is ignored, and so is what somebody's consumer
        delivers to this inbox: that is no answer.
        """
        if message.reply.startswith(DELIVERY):
            return
        nobody_serves = (
            message.is_no_responders
        )  # before the request is taken: a fault here must not orphan it
        waiting = self._take(message.subject)
        if waiting is None or waiting.answer.done():
            return
        if nobody_serves:
            waiting.answer.set_exception(
                NoResponders(
                    f"cannot get an answer on {waiting.subject!r}: nobody serves it now; check that the "
                    "service runs and that the name is right, then try again",
                    subject=waiting.subject,
                )
            )
        else:
            waiting.answer.set_result(message)

    def fail_all(self, reason: str) -> None:
        """The session ended: nobody can know whether these requests took effect."""
        for reply in list(self._waiting):
            self._fail(
                reply,
                lambda subject: AckUnknown(
                    f"cannot tell whether the request on {subject!r} took effect: {reason}; read the "
                    "result, or repeat it if that is harmless",
                    subject=subject,
                ),
            )

    def fail_refused(self, lowered_subject: str) -> None:
        """The server refused a publish on that subject, which nats-py passes on in lower case."""
        for reply, waiting in list(self._waiting.items()):
            if waiting.subject.lower() == lowered_subject:
                self._fail(
                    reply,
                    lambda subject: PermissionDenied(
                        f"cannot publish on {subject!r}: the server does not permit it to this user",
                        subject=subject,
                    ),
                )

    async def wait_idle(self) -> None:
        """Return once no request is waiting."""
        await self._idle.wait()

    def _time_out(self, reply: str, timeout_s: float) -> None:
        self._fail(
            reply,
            lambda subject: AckUnknown(
                f"no answer on {subject!r} within {timeout_s:g} s: it may or may not have taken effect; read "
                "the result, or repeat the request if that is harmless",
                subject=subject,
            ),
        )

    def _fail(self, reply: str, error_for: Callable[[str], AegisError]) -> None:
        waiting = self._take(reply)
        if waiting is not None and not waiting.answer.done():
            waiting.answer.set_exception(error_for(waiting.subject))

    def _take(self, reply: str) -> _Waiting | None:
        waiting = self._waiting.pop(reply, None)
        if waiting is not None:
            waiting.timer.cancel()
            if not self._waiting:
                self._idle.set()
        return waiting
