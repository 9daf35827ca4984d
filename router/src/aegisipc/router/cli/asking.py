"""Asking over plain NATS: the router that leads, holders of a pen, and single instances.

Answers are JSON: ``{"ok": true, …}``, or ``{"error": {"code", "message", "details"}}``, which is raised.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

from aegisipc.eventstore.cli import say
from aegisipc.eventstore.errors import AckUnknown, AegisError, MalformedPayload, NoResponders, NotConnected
from aegisipc.eventstore.names import POOL_GROUP, check_name
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.subjects import Subjects

LEADER_WAIT_S: Final = 15.0
"""How long to wait for a router that leads, at most: an election takes less."""

_PAUSE_S: Final = 0.1
_FIRST_TRY_S: Final = 0.5
_LONGEST_TRY_S: Final = 6.0
"""A little longer than a router works on one command."""

_PASSES: Final = frozenset({"cannot_decide", "overloaded"})
"""Refusals that time heals."""

type Plain = dict[str, Any]


class NoLeader(AegisError):
    """There is no router that leads, so nothing was decided. Field: ``waited_s``."""

    code = "no_leader"


class NotInTime(AegisError):
    """It was decided, but has not come about yet; it still may. Field: ``timeout_s``."""

    code = "not_in_time"


class Refused(AegisError):
    """Whoever was asked says no; ``code`` and ``details`` are theirs.

    ``unanswered`` counts the times it was asked before without an answer: it may have been done all the same,
    and that be why it is refused now.
    """

    code = "refused"

    def __init__(self, message: str, code: str, details: Plain) -> None:
        super().__init__(message, **details)
        self.code = code  # type: ignore[misc]  # the class's code is the default; here it is theirs
        self.unanswered = 0

    def __reduce__(self) -> tuple[Any, ...]:
        """Keep the code, too."""
        return (Refused, (self.message, self.code, self.details))


def check_group(name: str) -> str:
    """Return the name of a group or of the pool.

    Raises:
        InvalidName: it can be neither.
    """
    return name if name == POOL_GROUP else check_name(name, "group")


async def ask(connection: Connection, subject: str, request: Plain, timeout_s: float) -> Plain:
    """Ask once, and return the answer.

    Raises:
        Refused: the answer is an error.
        MalformedPayload: it cannot be read.
        NotConnected, NoResponders, AckUnknown: there was no answer; only after the last may it have worked.
    """
    message = await connection.request(subject, json.dumps(request).encode(), timeout_s=timeout_s)
    try:
        answer = dict(json.loads(message.payload))
        error = answer.get("error")
        refusal = (
            Refused(str(error["message"]), str(error["code"]), dict(error.get("details") or {}))
            if error is not None
            else None
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as defect:
        raise MalformedPayload(f"cannot read the answer on {subject!r}: {defect}") from defect
    if refusal is not None:
        raise refusal
    return answer


async def ask_leader(
    connection: Connection, subjects: Subjects, verb: str, command: Plain, timeout_s: float
) -> Plain:
    """Ask until a router that leads has decided; returns its answer. Waits for at most ``LEADER_WAIT_S``.

    Asking again is safe: what is decided already is not decided twice.

    Raises:
        Refused: it decided against it.
        NoLeader: no router that leads answered in time.
        NotConnected: there was no server in the end.
    """
    asking = _Asking(connection, verb, min(timeout_s, LEADER_WAIT_S))
    return await asking.until_answered(subjects.api(verb), command)


class _Asking:
    """One command that is asked for until it is answered."""

    def __init__(self, connection: Connection, verb: str, wait_s: float) -> None:
        self._connection, self._verb, self._wait_s = connection, verb, wait_s
        self._unanswered = 0
        self._told = False

    async def until_answered(self, subject: str, request: Plain) -> Plain:
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._wait_s
        try_s = _FIRST_TRY_S
        while True:
            left_s = max(_PAUSE_S, give_up_at - loop.time())
            try:
                return await ask(self._connection, subject, request, min(try_s, left_s))
            except (NoResponders, AckUnknown, NotConnected, Refused) as error:
                trouble = self._judge(error)
            if loop.time() + _PAUSE_S >= give_up_at:
                raise trouble
            try_s = min(2 * try_s, _LONGEST_TRY_S)
            await asyncio.sleep(_PAUSE_S)

    def _judge(self, error: AegisError) -> AegisError:
        """Return what to raise if there is no time left; raise what time does not heal."""
        if isinstance(error, Refused):
            error.unanswered = self._unanswered
            if error.code not in _PASSES:
                raise error
            self._unanswered += 1  # it is not known what became of it
            return error
        if isinstance(error, AckUnknown):
            self._unanswered += 1
        if not self._told:
            self._told = True
            say(f"waiting for up to {self._wait_s:g} s for a router that leads")
        return error if isinstance(error, NotConnected) else self._no_leader(error)

    def _no_leader(self, error: AegisError) -> NoLeader:
        if isinstance(error, NoResponders):
            why = "no router runs; start one with aegis router"
        else:
            why = (
                "no router that leads answered; wait until one of those that run leads (aegis status shows "
                "them), or start another with aegis router"
            )
        message = f"cannot {self._verb}: {why} (waited {self._wait_s:g} s)"
        return NoLeader(message, waited_s=self._wait_s)
