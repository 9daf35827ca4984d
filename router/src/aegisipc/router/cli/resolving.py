"""Ending a doubt: finds the call in the log, tells the holder of the pen, and shows what was recorded."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from typing import Any, Final

from aegisipc.eventstore.cli.output import print_json
from aegisipc.eventstore.errors import AckUnknown, AegisError, NoResponders, NotConnected
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.histories import CallHistory
from aegisipc.eventstore.ids import CallId, format_call_id
from aegisipc.eventstore.lifecycles import CallState
from aegisipc.eventstore.log import Log
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.seeking import read_history
from aegisipc.eventstore.streams import open_log
from aegisipc.eventstore.subjects import Subjects, subjects_of
from aegisipc.router.cli.asking import Refused, ask
from aegisipc.router.cli.stories import outcome_plain, said_in, said_of

_RETRY_S: Final = 0.2
_TRY_S: Final = 3.0
"""How long to wait for one answer: whoever was asked may be gone, and another hold the pen by then."""

_UNDECIDED: Final = frozenset({"pen_lost", "not_in_doubt"})
"""Refusals after which the log knows more than whoever refused: an answer may have been lost before."""

type Plain = dict[str, Any]


class NotInDoubt(AegisError):
    """The call is in another state. Fields: ``call_id``, ``state``, ``outcome``."""

    code = "not_in_doubt"


class NoHolder(AegisError):
    """Nobody who could record the resolution answers. Fields: ``service``, ``group``, ``holder``."""

    code = "no_holder"


async def resolve(args: Namespace, call_id: CallId, result: Any) -> int:
    """Have a doubt ended, and print what was recorded. `result` counts only with ``--executed``."""
    subjects = subjects_of(args.namespace)
    command: Plain = {
        "command": "resolve",
        "call_id": format_call_id(call_id),
        "executed": not args.not_executed,
        "result": result,
        "author": args.author,
        "reason": args.reason,
    }
    async with await Connection.open(ConnectOptions(args.url, name="aegis:doubt")) as connection:
        log = await open_log(connection, subjects)
        seq = await Resolving(connection, log, subjects, call_id).tell(command, args.timeout)
        history = await read_history(log, subjects, call_id, until_final=True)
    if args.json:
        print_json({"ok": True, "seq": seq, **command, "state": str(history.state), **_outcome(history)})
    else:
        print(_told(history, seq))
    return 0


class Resolving:
    """What it takes to have one doubt ended."""

    def __init__(self, connection: Connection, log: Log, subjects: Subjects, call_id: CallId) -> None:
        self._connection, self._log, self._subjects, self._call_id = connection, log, subjects, call_id

    async def tell(self, command: Plain, timeout_s: float) -> int:
        """Tell the holder of the pen; returns the sequence of what was recorded. While the pen changes hands
        nobody answers, and after that another one does.

        Raises:
            UnknownCall: the log does not have the call.
            NotInDoubt: it is not in doubt, or not any more.
            NoHolder: nobody could be told, or nobody answered within `timeout_s`.
            Refused: the holder says why it does not obey; nothing was recorded.
        """
        history = await self._read()
        doubt_seq = history.doubt.seq if history.doubt is not None else 0
        subject = self._subjects.tell(history.call.service, history.call.group)
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + timeout_s
        while True:
            try:
                left_s = min(_TRY_S, max(_RETRY_S, give_up_at - loop.time()))
                return int((await ask(self._connection, subject, command, left_s)).get("seq", 0))
            except (NoResponders, AckUnknown, NotConnected) as error:
                trouble: AegisError = error
            except Refused as refusal:
                if refusal.code not in _UNDECIDED:
                    raise
                trouble = refusal
            history = await self._read(command, doubt_seq)
            if _is_recorded(history, command, doubt_seq) and history.resolution is not None:
                return history.resolution.seq  # only the answer was lost
            is_hopeless = isinstance(trouble, NoResponders) and history.holder[0] is None  # so in a pool
            if is_hopeless or give_up_at - loop.time() <= _RETRY_S:
                raise trouble if isinstance(trouble, Refused) else no_holder(history, trouble)
            await asyncio.sleep(_RETRY_S)

    async def _read(self, command: Plain | None = None, doubt_seq: int = 0) -> CallHistory:
        history = await read_history(self._log, self._subjects, self._call_id, until_final=True)
        if history.state is not CallState.IN_DOUBT and not _is_recorded(history, command, doubt_seq):
            raise _not_in_doubt(history)
        return history


def _is_recorded(history: CallHistory, command: Plain | None, doubt_seq: int) -> bool:
    """Tell whether the doubt was ended as `command` says, by the same author."""
    ended = history.resolution
    if command is None or ended is None or ended.seq <= doubt_seq:
        return False
    said = said_in(ended.body)
    author = said.get("author") if isinstance(said, dict) else None
    return (ended.mark is Mark.EXECUTED, author) == (command["executed"], command["author"])


def _outcome(history: CallHistory) -> Plain:
    return {"outcome": None if history.outcome is None else outcome_plain(history.outcome)}


def _not_in_doubt(history: CallHistory) -> NotInDoubt:
    latest = next(step for step in reversed(history.steps) if step.counts and step.event is None)
    said = f"{str(history.state).replace('_', ' ')} ({said_of(latest)}, sequence {latest.seq})"
    if history.resolution is not None:
        said += f"; the doubt ended at sequence {history.resolution.seq}: {said_of(history.resolution)}"
    return NotInDoubt(
        f"cannot resolve call {format_call_id(history.call.call_id)}: it is not in doubt, but {said}; look "
        "with aegis doubt show",
        call_id=format_call_id(history.call.call_id),
        state=str(history.state),
        **_outcome(history),
    )


def no_holder(
    history: CallHistory, trouble: AegisError, what: str = "resolve", look_with: str = "aegis doubt show"
) -> NoHolder:
    """Return the error for an operator whose word nobody could record."""
    call, (holder, epoch) = history.call, history.holder
    if history.is_pool:
        why = "no worker of the pool answers"
    elif holder is None:
        why = "nobody holds the pen"
    else:
        why = f"{holder}, which holds the pen in epoch {epoch}, does not answer"
    if isinstance(trouble, AckUnknown):
        why += f"; it may be recorded all the same ({look_with} tells)"
    return NoHolder(
        f"cannot {what} call {format_call_id(call.call_id)}: {why} for {call.service}/{call.group}; start "
        "an instance that serves it (aegis serve), and try again",
        service=call.service,
        group=call.group,
        holder=holder,
    )


def _told(history: CallHistory, seq: int) -> str:
    call = history.call
    lines = [f"call {format_call_id(call.call_id)} ({call.service}.{call.method}) is in doubt no more"]
    lines += [
        f"recorded at sequence {step.seq} by {step.writer}: {said_of(step)}"
        for step in history.steps
        if step.counts and step.seq == seq
    ]
    if not history.is_final:
        lines.append("it may run now (aegis doubt show tells how it goes on)")
    return "\n".join(lines)
