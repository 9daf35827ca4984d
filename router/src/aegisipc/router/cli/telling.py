"""Telling the holder of a pen what an operator decided about a call, until it is known to be in the log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Any, Final, NamedTuple

from aegisipc.eventstore.errors import AckUnknown, AegisError, NoResponders, NotConnected
from aegisipc.eventstore.histories import CallHistory
from aegisipc.eventstore.ids import CallId, format_call_id
from aegisipc.eventstore.log import Log
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.seeking import read_history
from aegisipc.eventstore.subjects import Subjects
from aegisipc.router.cli.asking import Refused, ask

_RETRY_S: Final = 0.2
_TRY_S: Final = 3.0
"""How long to wait for one answer: whoever was asked may be gone, and another hold the pen by then."""

type Plain = dict[str, Any]


class NoHolder(AegisError):
    """Nobody who could record the decision answers. Fields: ``service``, ``group``, ``holder``."""

    code = "no_holder"


class Decision(NamedTuple):
    """One thing that an operator decides about a call.

    `verb` completes "cannot … call", `look_with` names the command that shows the call. `undecided` are codes
    of refusals after which the log knows more than whoever refused: an answer may have been lost before.
    `recorded` returns where the decision stands in a history, 0 if it does not; `check` raises if it cannot
    be made in the state that the call is in.
    """

    verb: str
    look_with: str
    command: Plain
    undecided: Collection[str]
    recorded: Callable[[CallHistory], int]
    check: Callable[[CallHistory], None]


class Telling:
    """What it takes to have one decision recorded."""

    def __init__(self, connection: Connection, log: Log, subjects: Subjects, call_id: CallId) -> None:
        self._connection, self._log, self._subjects, self._call_id = connection, log, subjects, call_id

    async def history(self) -> CallHistory:
        """Read what the log says of the call.

        Raises:
            UnknownCall: the log does not have it.
        """
        return await read_history(self._log, self._subjects, self._call_id, until_final=True)

    async def tell(self, history: CallHistory, decision: Decision, timeout_s: float) -> int:
        """Tell the holder of the pen; returns the sequence of what was recorded. While the pen changes hands
        nobody answers, and after that another one does.

        Raises:
            NoHolder: nobody could be told, or nobody answered within `timeout_s`.
            Refused: the holder says why it does not obey; nothing was recorded.
            AegisError: what ``decision.check`` raises.
        """
        subject = self._subjects.tell(history.call.service, history.call.group)
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + timeout_s
        while True:
            try:
                left_s = min(_TRY_S, max(_RETRY_S, give_up_at - loop.time()))
                return int((await ask(self._connection, subject, decision.command, left_s)).get("seq", 0))
            except (NoResponders, AckUnknown, NotConnected) as error:
                trouble: AegisError = error
            except Refused as refusal:
                if refusal.code not in decision.undecided:
                    raise
                trouble = refusal
            history = await self.history()
            recorded = decision.recorded(history)
            if recorded:
                return recorded  # only the answer was lost
            decision.check(history)
            is_hopeless = isinstance(trouble, NoResponders) and history.holder[0] is None  # so in a pool
            if is_hopeless or give_up_at - loop.time() <= _RETRY_S:
                raise trouble if isinstance(trouble, Refused) else _no_holder(history, trouble, decision)
            await asyncio.sleep(_RETRY_S)


def _no_holder(history: CallHistory, trouble: AegisError, decision: Decision) -> NoHolder:
    call, (holder, epoch) = history.call, history.holder
    if history.is_pool:
        why = "no worker of the pool answers"
    elif holder is None:
        why = "nobody holds the pen"
    else:
        why = f"{holder}, which holds the pen in epoch {epoch}, does not answer"
    if isinstance(trouble, AckUnknown):
        why += f"; it may be recorded all the same ({decision.look_with} tells)"
    return NoHolder(
        f"cannot {decision.verb} call {format_call_id(call.call_id)}: {why} for {call.service}/{call.group}; "
        "start an instance that serves it (aegis serve), and try again",
        service=call.service,
        group=call.group,
        holder=holder,
    )
