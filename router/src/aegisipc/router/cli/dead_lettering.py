"""Listing dead letters, and having them requeued or discarded by whoever holds the pen."""

from __future__ import annotations

import asyncio
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from aegisipc.eventstore.cli.output import Cell, Paint, ago, print_json, printable, shorten, table
from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.histories import CallHistory
from aegisipc.eventstore.ids import CallId, format_call_id
from aegisipc.eventstore.lifecycles import CallState
from aegisipc.eventstore.names import check_method, check_name
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.streams import open_log
from aegisipc.eventstore.subjects import subjects_of
from aegisipc.router.cli.asking import check_group
from aegisipc.router.cli.dead_letters import DeadLetter, Wanted, read_dead_letters
from aegisipc.router.cli.stories import said_in
from aegisipc.router.cli.telling import Decision, Telling

_WIDEST: Final = 28
_WIDEST_ERROR: Final = 48

_UNDECIDED: Final = frozenset({"pen_lost", "not_dead_lettered"})
"""Refusals after which the log knows more than whoever refused: an answer may have been lost before."""

_EFFECT_S: Final = 3.0
"""How long to wait until decisions that are stored already have taken effect, all of them together."""

_POLL_S: Final = 0.02

_MARKS: Final = {"requeue": Mark.REQUEUED, "discard": Mark.DISCARDED}
_DONE: Final = {"requeue": "requeued", "discard": "discarded"}

type Plain = dict[str, Any]


class NotDeadLettered(AegisError):
    """The call is in another state. Fields: ``call_id``, ``state``."""

    code = "not_dead_lettered"


# -- listing --------------------------------------------------------------------------------------------


async def list_dead_letters(args: Namespace) -> int:
    """Print the dead letters."""
    wanted, subjects = _wanted(args), subjects_of(args.namespace)
    async with await Connection.open(ConnectOptions(args.url, name="aegis:dlq")) as connection:
        log = await open_log(connection, subjects)
        letters = await read_dead_letters(log, subjects, wanted)
        now_ns = (await log.bounds()).now_ns
    shown, more = letters[: args.limit], max(0, len(letters) - args.limit)
    if args.json:
        print_json({"dead_letters": [letter.to_plain() for letter in shown], "more": more})
    else:
        print(_listed(shown, more, now_ns, Paint()))
    return 0


def _wanted(args: Namespace) -> Wanted:
    return Wanted(
        None if args.service is None else check_name(args.service, "service"),
        None if args.group is None else check_group(args.group),
        None if args.method is None else check_method(args.method),
        args.because,
        args.error,
    )


def _listed(letters: list[DeadLetter], more: int, now_ns: int, paint: Paint) -> str:
    if not letters:
        return "there are no dead letters"
    headers = ("CALL", "METHOD", "RESOURCE", "CLIENT", "BECAUSE", "ATTEMPTS", "ERROR", "SINCE")
    lines = [table(headers, [_row(letter, now_ns) for letter in letters], paint)]
    if more:
        lines.append(paint("dim", f"{more} more (--limit shows them)"))
    return "\n".join(lines)


def _row(letter: DeadLetter, now_ns: int) -> list[object]:
    error = letter.error
    text = f"{error.get('code')}: {error.get('message')}" if error else str(letter.says.get("message") or "")
    return [
        Cell(format_call_id(letter.call_id), "yellow"),
        _short(letter.method),
        _short(letter.detail("resource")),
        _short(letter.detail("client")),
        _short(letter.detail("reason")),
        letter.detail("attempts"),
        _short(text, _WIDEST_ERROR),
        f"{ago(max(0, now_ns - letter.at_ns) / 1e9)} ago",
    ]


def _short(text: Any, width: int = _WIDEST) -> str | None:
    return None if text is None else printable(shorten([str(text)], width=width))


# -- deciding -------------------------------------------------------------------------------------------


async def decide(args: Namespace) -> int:
    """Have dead letters requeued or discarded; exit code 1 if that was not possible for some."""
    subjects = subjects_of(args.namespace)
    done: list[Plain] = []
    failed: list[Plain] = []
    async with await Connection.open(ConnectOptions(args.url, name="aegis:dlq")) as connection:
        log = await open_log(connection, subjects)
        call_ids: list[CallId] = args.call_ids
        if not call_ids:
            call_ids = [letter.call_id for letter in await read_dead_letters(log, subjects, _wanted(args))]
        told: list[_Deciding] = []
        for call_id in call_ids:
            deciding = _Deciding(connection, log, subjects, call_id)
            try:
                seq = await deciding.decide(args)
            except AegisError as error:
                if len(call_ids) == 1:
                    raise
                failed.append({"call_id": format_call_id(call_id), "error": error.to_plain()})
            else:
                done.append({"call_id": format_call_id(call_id), "seq": seq})
                told.append(deciding)
        give_up_at = time.monotonic() + _EFFECT_S
        for deciding in told:
            await deciding.until_effective(give_up_at)
    if args.json:
        print_json(
            {_DONE[args.decision]: done, "failed": failed, "author": args.author, "reason": args.reason}
        )
    else:
        print(_told(args.decision, done, failed))
    return 1 if failed else 0


class _Deciding(Telling):
    """What it takes to have one decision about a dead letter recorded."""

    _is_effective: Callable[[CallHistory], int] | None = None
    """Set where what was told takes effect later."""

    async def decide(self, args: Namespace) -> int:
        """Tell the holder of the pen; returns the sequence of what was recorded.

        Raises:
            UnknownCall: the log does not have the call.
            NotDeadLettered: it is no dead letter, or not any more.
            NoHolder, Refused: as :meth:`Telling.tell`.
        """

        def check(history: CallHistory) -> None:
            if history.state is not CallState.DEAD_LETTERED:
                raise _not_dead(history, args.decision)

        def recorded(history: CallHistory) -> int:
            return _recorded(history, args, dead_seq)

        history = await self.history()
        check(history)
        dead_seq = history.dead_letter.seq if history.dead_letter is not None else 0
        command = _command(args, history.call.call_id)
        decision = Decision(args.decision, "aegis dlq show", command, _UNDECIDED, recorded, check)
        seq = await self.tell(history, decision, args.timeout)
        if history.is_pool:
            self._is_effective = recorded
        return seq

    async def until_effective(self, give_up_at: float) -> None:
        """Wait until the log says what was decided, or until it is `give_up_at` (monotonic).

        In a pool a call that shall run again is stored first, and requeued once a worker takes it up: who
        looks at the call after this command shall not find the dead letter that it was.
        """
        with suppress(AegisError):  # it is stored: nothing that fails from here on takes that back
            while self._is_effective is not None and time.monotonic() < give_up_at:
                if self._is_effective(await self.history()):
                    return
                await asyncio.sleep(_POLL_S)


def _not_dead(history: CallHistory, decision: str) -> NotDeadLettered:
    shown, state = format_call_id(history.call.call_id), str(history.state)
    return NotDeadLettered(
        f"cannot {decision} call {shown}: it is no dead letter, but {state.replace('_', ' ')}; look with "
        "aegis dlq show",
        call_id=shown,
        state=state,
    )


def _command(args: Namespace, call_id: CallId) -> Plain:
    command: Plain = {
        "command": args.decision,
        "call_id": format_call_id(call_id),
        "author": args.author,
        "reason": args.reason,
    }
    if getattr(args, "deadline", None) is not None:
        command["timeout_s"] = args.deadline
    return command


def _recorded(history: CallHistory, args: Namespace, dead_seq: int) -> int:
    """Return where the decision stands in the log, 0 if it is not there."""
    for step in reversed(history.steps):
        if step.seq <= dead_seq:
            return 0
        said = said_in(step.body)
        if step.counts and step.mark is _MARKS[args.decision] and isinstance(said, dict):
            return step.seq if said.get("author") == args.author else 0
    return 0


def _told(decision: str, done: list[Plain], failed: list[Plain]) -> str:
    word = _DONE[decision]
    if not done and not failed:
        return f"there was nothing to {decision}"
    lines = [f"{word} {each['call_id']} (sequence {each['seq']})" for each in done]
    lines += [printable(f"not {word}: {each['call_id']}: {each['error']['message']}") for each in failed]
    if len(lines) > 1:
        lines.append(f"{len(done)} {word}" + (f", {len(failed)} not" if failed else ""))
    return "\n".join(lines)
