"""Operators' word on dead letters of an owned group: to let one run again, or never.

Whether a call is a dead letter, and what it was, its history in the log tells. That is read first, beside
everything else; the word itself is the holder's to write, and the answer says that it is in the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import structlog

from aegisipc.eventstore.bodies import Resolution
from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.errors import AegisError, UnknownCall
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.ids import CallId, format_call_id
from aegisipc.eventstore.lifecycles import CallState
from aegisipc.eventstore.seeking import read_history
from aegisipc.sdk.core.member import GroupMember
from aegisipc.sdk.core.pen import Written
from aegisipc.sdk.hosts.base import Site
from aegisipc.sdk.hosts.requeueing import check_size, letter_of, requeued_of, timeout_ms_of
from aegisipc.sdk.hosts.telling import (
    Busy,
    Discard,
    NotDeadLettered,
    PenLost,
    Requeue,
    TellError,
    answer_error,
    answer_ok,
)

_log = structlog.get_logger("aegisipc.instance")

MAX_READING: Final = 8
"""Histories that are read at once."""
PATIENCE_S: Final = 60.0
"""How long a history may take to be read."""


class Letters:
    """What operators want of dead letters; of one call, one thing at a time."""

    def __init__(
        self,
        site: Site,
        member: GroupMember,
        *,
        spawn: Callable[[Any], None],
        post: Callable[[str, bytes], None],
        wake: Callable[[], None],
    ) -> None:
        self._site = site
        self._member = member
        self._spawn = spawn
        self._post = post
        self._wake = wake
        self._reading: set[CallId] = set()
        self._waiting: dict[CallId, str] = {}
        """Who is to be answered when it is in the log."""

    def obey(self, command: Requeue | Discard, reply: str) -> None:
        """Take a command.

        Raises:
            Busy: too many are under way, or one about this call.
        """
        call_id = command.raw_call_id
        if call_id in self._reading or call_id in self._waiting:
            raise Busy(
                f"cannot take two commands about call {command.call_id} at once; see what becomes of it"
            )
        if len(self._reading) >= MAX_READING:
            raise Busy(f"cannot read more than {MAX_READING} histories at once; try again")
        self._check_not_open(call_id)
        self._reading.add(call_id)
        self._spawn(self._read_and_note(command, call_id, reply))

    def _check_not_open(self, call_id: CallId) -> None:
        call = self._member.calls.open.get(call_id)
        if call is not None:
            raise _not_dead(call_id, str(call.state))

    async def _read_and_note(self, command: Requeue | Discard, call_id: CallId, reply: str) -> None:
        try:
            await self._note(command, call_id, reply)
        except AegisError as error:
            self._post(reply, answer_error(error))
        except TimeoutError:
            late = TellError(
                f"cannot read the history of call {command.call_id} within {PATIENCE_S:g} s; nothing "
                "was changed"
            )
            self._post(reply, answer_error(late))
        except Exception as error:  # noqa: BLE001 - a defect must not leave the operator without an answer
            _log.error("tell_failed", exc_info=error)
            why = TellError(
                "cannot obey: an unexpected error, which is in the instance's log; look, try again"
            )
            self._post(reply, answer_error(why))
        finally:
            self._reading.discard(call_id)
        self._wake()

    async def _note(self, command: Requeue | Discard, call_id: CallId, reply: str) -> None:
        member, epoch = self._member, self._member.epoch
        async with asyncio.timeout(PATIENCE_S):
            history = await read_history(self._site.log, self._site.subjects, call_id)
            timeout_ms = 0
            if isinstance(command, Requeue):
                timeout_ms = await timeout_ms_of(self._site, command, history)
        who = member.identity
        if (history.call.service, history.call.group) != (who.service, who.group):
            raise UnknownCall(
                f"cannot find call {command.call_id} in {who.service}/{who.group}: it is one of "
                f"{history.call.service}/{history.call.group}",
                call_id=command.call_id,
            )
        if history.state is not CallState.DEAD_LETTERED or history.dead_letter is None:
            raise _not_dead(call_id, str(history.state))
        if not member.is_active or member.epoch != epoch:
            raise _pen_lost()  # only the holder writes of it: while it is the same one, nothing has changed
        self._check_not_open(call_id)
        letter = letter_of(history)
        if isinstance(command, Requeue):
            requeued = requeued_of(command, history, history.dead_letter.seq, timeout_ms)
            check_size(len(encode(requeued)), self._site.log.max_record_bytes - 8192)
            member.requeue(letter, requeued)
        else:
            said = Resolution(source="operator", author=command.author, reason=command.reason)
            member.discard(letter, said)
        self._waiting[call_id] = reply

    def on_acked(self, written: Written, seq: int) -> None:
        """A frame is durable: tell those who waited for it."""
        if not self._waiting:
            return
        for mark, call, _ in written.facts:
            if mark is Mark.REQUEUED or mark is Mark.DISCARDED:
                reply = self._waiting.pop(call.call_id, None)
                if reply is not None:
                    self._post(reply, answer_ok(seq=seq))

    def on_pen_lost(self) -> None:
        """What is not in the log by now will never be."""
        replies = list(self._waiting.values())
        self._waiting.clear()
        for reply in replies:
            self._post(reply, answer_error(_pen_lost()))


def _not_dead(call_id: CallId, state: str) -> NotDeadLettered:
    shown = format_call_id(call_id)
    return NotDeadLettered(
        f"cannot do that to call {shown}: it is no dead letter, but {state}", call_id=shown, state=state
    )


def _pen_lost() -> PenLost:
    return PenLost(
        "cannot tell whether it was written: the pen went to another instance; look, and try again"
    )
