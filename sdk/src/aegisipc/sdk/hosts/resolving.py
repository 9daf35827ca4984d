"""How doubts of an owned group end, beside late evidence: the service's own hook is asked, and operators
tell.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, NamedTuple

import structlog

from aegisipc.eventstore.calls import OpenCall
from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.events import MAX_AUTHOR, Resolution
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.ids import CallId, format_call_id
from aegisipc.eventstore.keys import key_hash
from aegisipc.eventstore.nats.message import Message
from aegisipc.eventstore.subjects import may_answer
from aegisipc.sdk.core.member import GroupMember
from aegisipc.sdk.core.pen import Written
from aegisipc.sdk.hosts.key_reading import KeyReader
from aegisipc.sdk.hosts.letters import Letters
from aegisipc.sdk.hosts.telling import (
    Busy,
    Discard,
    FindKey,
    NoSharedState,
    NotInDoubt,
    PenLost,
    Requeue,
    Resolve,
    Tell,
    TellError,
    UnknownCall,
    answer_error,
    answer_ok,
    asks_for_key,
    decode_tell,
)
from aegisipc.sdk.reconciling import Finding, Reconciler
from aegisipc.sdk.service import Service

_log = structlog.get_logger("aegisipc.instance")

_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 30.0
MAX_WAITING: Final = 256
"""Commands of operators that may wait for the log at once."""


class _Asked(NamedTuple):
    """When the service is to be asked about a call (event-loop time), and how long it then has peace."""

    call: OpenCall
    due: float
    pause_s: float


def _claim_of(call: OpenCall) -> tuple[str | None, int]:
    return call.claimed_by, call.claimed_epoch


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
        self._asking: dict[CallId, _Asked] = {}
        self._added = asyncio.Event()
        self._is_running = False

    def add(self, calls: list[OpenCall]) -> None:
        """Ask about these, too."""
        if not self._reconciler.is_defined or not calls:
            return
        now = asyncio.get_running_loop().time()
        self._asking |= {call.call_id: _Asked(call, now, _FIRST_PAUSE_S) for call in calls}
        self._added.set()
        if not self._is_running:
            self._is_running = True
            self._spawn(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._asking:
                asked = min(self._asking.values(), key=lambda asked: asked.due)
                left_s = asked.due - loop.time()
                if left_s > 0:
                    self._added.clear()
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._added.wait(), left_s)
                    continue
                del self._asking[asked.call.call_id]
                if (
                    asked.call.call_id in self._member.doubts
                ):  # else it has ended otherwise, or the pen is gone
                    await self._ask(asked)
        finally:
            self._is_running = False

    async def _ask(self, asked: _Asked) -> None:
        call, claim = asked.call, _claim_of(asked.call)
        finding = await self._reconciler.ask(call)
        if _claim_of(call) != claim:
            return  # it was begun again elsewhere meanwhile: the finding is about an earlier run
        if finding is None:
            again = asyncio.get_running_loop().time() + asked.pause_s
            later = _Asked(call, again, min(2 * asked.pause_s, _LONGEST_PAUSE_S))
            self._asking.setdefault(call.call_id, later)
        elif self._conclude(call, finding):
            self._wake()

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
    """Answers what operators tell the holder of the pen, and who asks it for a key. An answer to a command
    says that it is in the log.
    """

    def __init__(
        self,
        member: GroupMember,
        service: Service,
        letters: Letters,
        keys: KeyReader,
        *,
        spawn: Callable[[Any], None],
        post: Callable[[str, bytes], None],
        wake: Callable[[], None],
    ) -> None:
        self._member = member
        self._service = service
        self._letters = letters
        self._keys = keys
        self._spawn = spawn
        self._post = post
        self._wake = wake
        self._resolving: dict[CallId, str] = {}
        self._checking: dict[bytes, list[str]] = {}
        self._seeking = 0

    def on_tell(self, message: Message) -> None:
        """Take a command. A member that does not hold the pen keeps silent: it is the holder's to answer."""
        if not may_answer(message.reply) or not self._member.is_active:
            return
        try:
            command = decode_tell(message.payload)
            self._obey(command, message.reply)
        except AegisError as error:
            self._post(message.reply, answer_error(error))
        except Exception as error:  # noqa: BLE001 - a defect must not leave the operator without an answer
            _log.error("tell_failed", exc_info=error)
            why = TellError(
                "cannot obey: an unexpected error, which is in the instance's log; see what holds, try again"
            )
            self._post(message.reply, answer_error(why))
        self._wake()

    def on_find_key(self, message: Message) -> None:
        """Take a question of a client. Commands are not obeyed here: clients may publish this subject."""
        if asks_for_key(message.payload):
            self.on_tell(message)

    def _obey(self, command: Tell, reply: str) -> None:
        if isinstance(command, Resolve):
            self._resolve(command, reply)
            return
        if isinstance(command, Requeue | Discard):
            self._letters.obey(command, reply)
            return
        if isinstance(command, FindKey):
            if self._seeking >= MAX_WAITING:
                raise Busy(f"cannot look for more than {MAX_WAITING} keys at once; try again")
            self._seeking += 1
            self._spawn(self._find_key(command.key, reply))
            return
        if sum(map(len, self._checking.values())) >= MAX_WAITING:
            raise Busy(f"cannot take more than {MAX_WAITING} checks at once; try again")
        digest = self._member.replica.check()
        if digest is None:
            who = self._member.identity
            raise NoSharedState(
                f"cannot check the state of {who.service}/{who.group}: the service shares none",
                group=who.group,
            )
        self._checking.setdefault(digest, []).append(reply)

    async def _find_key(self, key: str, reply: str) -> None:
        calls, index = self._member.calls, self._member.calls.keys
        try:
            hashed = key_hash(key)
            owner = await self._keys.owner(hashed, index.find(hashed) if index is not None else None)
        except AegisError as error:
            self._post(reply, answer_error(error))
            return
        finally:
            self._seeking -= 1
        # One that came with the key and has not had its turn yet will have it, if nobody has.
        waits = next((call.call_id for call in calls.open.values() if call.key == key), None)
        call_id = owner.call_id if owner is not None else waits
        if call_id is None:
            self._post(reply, answer_ok(call_id=None))
        else:
            self._post(reply, answer_ok(call_id=format_call_id(call_id), state=self._state_of(call_id)))

    def _state_of(self, call_id: CallId) -> str | None:
        """What is known here of the state of a call; ``None`` if it ended long ago."""
        outcomes = self._member.calls.outcomes
        outcome = outcomes.get(call_id) if outcomes is not None else None
        call = self._member.calls.open.get(call_id)
        if call is not None:
            return str(call.state)
        return outcome.mark.name.lower() if outcome is not None else None

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
        state = "being resolved" if call_id in self._resolving else self._state_of(call_id)
        if state is None:
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
        self._letters.on_acked(written, seq)
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
        self._letters.on_pen_lost()
        replies = [*self._resolving.values(), *(r for replies in self._checking.values() for r in replies)]
        self._resolving.clear()
        self._checking.clear()
        lost = PenLost(
            "cannot tell whether it was written: the pen went to another instance; look, and try again"
        )
        for reply in replies:
            self._post(reply, answer_error(lost))
