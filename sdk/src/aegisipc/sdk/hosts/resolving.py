"""How doubts of an owned group end, beside late evidence: the service's own hook is asked, and operators
tell.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import structlog

from aegisipc.eventstore.calls import OpenCall
from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.events import MAX_AUTHOR, Resolution
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.ids import CallId, format_call_id
from aegisipc.eventstore.nats.message import Message
from aegisipc.sdk.core.member import GroupMember
from aegisipc.sdk.core.pen import Written
from aegisipc.sdk.hosts.telling import (
    Busy,
    NoSharedState,
    NotInDoubt,
    PenLost,
    Resolve,
    Tell,
    TellError,
    UnknownCall,
    answer_error,
    answer_ok,
    decode_tell,
)
from aegisipc.sdk.reconciling import Finding, Reconciler
from aegisipc.sdk.service import Service

_log = structlog.get_logger("aegisipc.instance")

_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 30.0
MAX_WAITING: Final = 256
"""Commands of operators that may wait for the log at once."""


class Reconciliation:
    """Asks the service about the doubts of one holder, one after another, until each has ended.

    What cannot be told yet is asked again after 0.5 s, then after twice that, and so on up to 30 s.
    """

    def __init__(
        self,
        member: GroupMember,
        reconciler: Reconciler,
        spawn: Callable[[Any], None],
        wake: Callable[[], None],
    ) -> None:
        self._member = member
        self._reconciler = reconciler
        self._spawn = spawn
        self._wake = wake
        self._asking: deque[tuple[OpenCall, float, float]] = deque()
        self._is_running = False

    def add(self, calls: list[OpenCall]) -> None:
        """Ask about these, too."""
        if not self._reconciler.is_defined or not calls:
            return
        now = asyncio.get_running_loop().time()
        self._asking.extend((call, now, _FIRST_PAUSE_S) for call in calls)
        if not self._is_running:
            self._is_running = True
            self._spawn(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._asking:
                call, due, pause_s = min(self._asking, key=lambda asked: asked[1])
                self._asking.remove((call, due, pause_s))
                if call.call_id not in self._member.doubts:
                    continue  # it has ended otherwise, or the pen is someone else's
                await asyncio.sleep(max(0.0, due - loop.time()))
                if call.call_id not in self._member.doubts:
                    continue
                finding = await self._reconciler.ask(call)
                if finding is None:
                    again = min(2 * pause_s, _LONGEST_PAUSE_S)
                    self._asking.append((call, loop.time() + pause_s, again))
                elif self._conclude(call, finding):
                    self._wake()
        finally:
            self._is_running = False

    def _conclude(self, call: OpenCall, finding: Finding) -> bool:
        who = self._member.identity
        said = Resolution(source="reconcile", author=f"{who.service}/{who.instance}", reason=finding.reason)
        _log.info("reconciled", call=format_call_id(call.call_id), executed=finding.is_executed)
        if not finding.is_executed:
            return self._member.doubts.not_executed(call.call_id, said)
        return self._member.doubts.executed(
            call.call_id, Mark.SUCCEEDED, finding.body, said, emitted=finding.emitted
        )


class Commands:
    """Answers what operators tell the holder of the pen. An answer says that it is in the log."""

    def __init__(
        self,
        member: GroupMember,
        service: Service,
        post: Callable[[str, bytes], None],
        wake: Callable[[], None],
    ) -> None:
        self._member = member
        self._service = service
        self._post = post
        self._wake = wake
        self._resolving: dict[CallId, str] = {}
        self._checking: dict[bytes, list[str]] = {}

    def on_tell(self, message: Message) -> None:
        """Take a command. A member that does not hold the pen keeps silent: it is the holder's to answer."""
        if not message.reply or not self._member.is_active:
            return
        try:
            command = decode_tell(message.payload)
            self._obey(command, message.reply)
        except AegisError as error:
            self._post(message.reply, answer_error(error))
        self._wake()

    def _obey(self, command: Tell, reply: str) -> None:
        if isinstance(command, Resolve):
            self._resolve(command, reply)
            return
        if len(self._checking) >= MAX_WAITING:
            raise Busy(f"cannot take more than {MAX_WAITING} checks at once; try again")
        digest = self._member.replica.check()
        if digest is None:
            who = self._member.identity
            raise NoSharedState(
                f"cannot check the state of {who.service}/{who.group}: the service shares none",
                group=who.group,
            )
        self._checking.setdefault(digest, []).append(reply)

    def _resolve(self, command: Resolve, reply: str) -> None:
        doubts, call_id = self._member.doubts, command.raw_call_id
        if call_id not in doubts:
            raise self._not_in_doubt(call_id)
        if len(self._resolving) >= MAX_WAITING:
            raise Busy(f"cannot take more than {MAX_WAITING} resolutions at once; try again")
        said = Resolution(source="operator", author=command.author[:MAX_AUTHOR], reason=command.reason)
        if command.executed:
            call = self._member.calls.open[call_id]
            method = self._service.methods.get(call.method)
            if method is None:
                raise TellError(
                    f"cannot check a result of {call.method}: the service has no such method any more"
                )
            doubts.executed(call_id, Mark.SUCCEEDED, method.result_body(command.result), said)
        else:
            doubts.not_executed(call_id, said)
        self._resolving[call_id] = reply

    def _not_in_doubt(self, call_id: CallId) -> AegisError:
        shown = format_call_id(call_id)
        call = self._member.calls.open.get(call_id)
        outcomes = self._member.calls.outcomes
        outcome = outcomes.get(call_id) if outcomes is not None else None
        if call_id in self._resolving:
            state = "being resolved"
        elif outcome is not None:
            state = outcome.mark.name.lower()
        elif call is not None:
            state = str(call.state)
        else:
            return UnknownCall(
                f"cannot resolve call {shown}: the group has no such open call; it may have ended long ago, "
                "see aegis doubt show",
                call_id=shown,
            )
        return NotInDoubt(
            f"cannot resolve call {shown}: it is not in doubt, but {state}", call_id=shown, state=state
        )

    def on_acked(self, written: Written, seq: int) -> None:
        """A frame is durable: tell those who waited for it."""
        if not self._resolving and not self._checking:
            return
        for mark, call, body in written.facts:
            if mark in (Mark.EXECUTED, Mark.NOT_EXECUTED):
                reply = self._resolving.pop(call.call_id, None)
                if reply is not None:
                    self._post(reply, answer_ok(seq=seq))
            elif mark is Mark.CHECKED and body is not None:
                for reply in self._checking.pop(body, ()):
                    self._post(reply, answer_ok(seq=seq, digest=body.hex()))

    def on_pen_lost(self) -> None:
        """What is not in the log by now will never be."""
        replies = [*self._resolving.values(), *(r for replies in self._checking.values() for r in replies)]
        self._resolving.clear()
        self._checking.clear()
        lost = PenLost(
            "cannot tell whether it was written: the pen went to another instance; look, and try again"
        )
        for reply in replies:
            self._post(reply, answer_error(lost))
