"""Ending a doubt: finds the call in the log, tells the holder of the pen, and shows what was recorded."""

from __future__ import annotations

from argparse import Namespace
from typing import Any, Final

from aegisipc.eventstore.cli.output import print_json
from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.histories import CallHistory
from aegisipc.eventstore.ids import CallId, format_call_id
from aegisipc.eventstore.lifecycles import CallState
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.seeking import read_history
from aegisipc.eventstore.streams import open_log
from aegisipc.eventstore.subjects import subjects_of
from aegisipc.router.cli.stories import outcome_plain, said_in, said_of
from aegisipc.router.cli.telling import Decision, Telling

_UNDECIDED: Final = frozenset({"pen_lost", "not_in_doubt"})
"""Refusals after which the log knows more than whoever refused: an answer may have been lost before."""

type Plain = dict[str, Any]


class NotInDoubt(AegisError):
    """The call is in another state. Fields: ``call_id``, ``state``, ``outcome``."""

    code = "not_in_doubt"


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
        seq = await Resolving(connection, log, subjects, call_id).resolve(command, args.timeout)
        history = await read_history(log, subjects, call_id, until_final=True)
    if args.json:
        print_json({"ok": True, "seq": seq, **command, "state": str(history.state), **_outcome(history)})
    else:
        print(_told(history, seq))
    return 0


class Resolving(Telling):
    """What it takes to have one doubt ended."""

    async def resolve(self, command: Plain, timeout_s: float) -> int:
        """Tell the holder of the pen; returns the sequence of what was recorded.

        Raises:
            UnknownCall: the log does not have the call.
            NotInDoubt: it is not in doubt, or not any more.
            NoHolder, Refused: as :meth:`Telling.tell`.
        """
        history = await self.history()
        _check(history)
        doubt_seq = history.doubt.seq if history.doubt is not None else 0

        def recorded(history: CallHistory) -> int:
            ended = history.resolution
            return ended.seq if ended is not None and _is_recorded(history, command, doubt_seq) else 0

        decision = Decision("resolve", "aegis doubt show", command, _UNDECIDED, recorded, _check)
        return await self.tell(history, decision, timeout_s)


def _check(history: CallHistory) -> None:
    if history.state is not CallState.IN_DOUBT:
        raise _not_in_doubt(history)


def _is_recorded(history: CallHistory, command: Plain, doubt_seq: int) -> bool:
    """Tell whether the doubt was ended as `command` says, by the same author."""
    ended = history.resolution
    if ended is None or ended.seq <= doubt_seq:
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
