"""Listing dead letters, and having them requeued or discarded by whoever holds the pen."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from typing import Any, Final

from aegisipc.eventstore.cli.output import Cell, Paint, ago, print_json, printable, shorten, table
from aegisipc.eventstore.errors import AckUnknown, AegisError, NoResponders, NotConnected
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.histories import CallHistory
from aegisipc.eventstore.ids import CallId, format_call_id
from aegisipc.eventstore.lifecycles import CallState
from aegisipc.eventstore.log import Log
from aegisipc.eventstore.names import check_method, check_name
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.seeking import read_history
from aegisipc.eventstore.streams import open_log
from aegisipc.eventstore.subjects import Subjects, subjects_of
from aegisipc.router.cli.asking import Refused, ask, check_group
from aegisipc.router.cli.dead_letters import DeadLetter, Wanted, read_dead_letters
from aegisipc.router.cli.resolving import NoHolder, no_holder
from aegisipc.router.cli.stories import said_in

_RETRY_S: Final = 0.2
_TRY_S: Final = 3.0
_WIDEST: Final = 28
_WIDEST_ERROR: Final = 48

_UNDECIDED: Final = frozenset({"pen_lost", "not_dead_lettered"})
"""Refusals after which the log knows more than whoever refused: an answer may have been lost before."""

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
        for call_id in call_ids:
            try:
                seq = await _Deciding(connection, log, subjects, call_id).tell(args)
            except AegisError as error:
                if len(call_ids) == 1:
                    raise
                failed.append({"call_id": format_call_id(call_id), "error": error.to_plain()})
            else:
                done.append({"call_id": format_call_id(call_id), "seq": seq})
    if args.json:
        print_json(
            {_DONE[args.decision]: done, "failed": failed, "author": args.author, "reason": args.reason}
        )
    else:
        print(_told(args.decision, done, failed))
    return 1 if failed else 0


class _Deciding:
    """What it takes to have one decision recorded."""

    def __init__(self, connection: Connection, log: Log, subjects: Subjects, call_id: CallId) -> None:
        self._connection, self._log, self._subjects, self._call_id = connection, log, subjects, call_id

    async def tell(self, args: Namespace) -> int:
        """Tell the holder of the pen; returns the sequence of what was recorded. While the pen changes hands
        nobody answers, and after that another one does.

        Raises:
            UnknownCall: the log does not have the call.
            NotDeadLettered: it is no dead letter, or not any more.
            NoHolder: nobody could be told, or nobody answered in time.
            Refused: the holder says why it does not obey; nothing was recorded.
        """
        history = await self._read()
        if history.state is not CallState.DEAD_LETTERED or history.dead_letter is None:
            raise self._not_dead(history, args.decision)
        dead_seq = history.dead_letter.seq
        subject = self._subjects.tell(history.call.service, history.call.group)
        command = _command(args, self._call_id)
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + args.timeout
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
            history = await self._read()
            recorded = _recorded(history, args, dead_seq)
            if recorded:
                return recorded  # only the answer was lost
            if history.state is not CallState.DEAD_LETTERED:
                raise self._not_dead(history, args.decision)
            is_hopeless = isinstance(trouble, NoResponders) and history.holder[0] is None  # so in a pool
            if is_hopeless or give_up_at - loop.time() <= _RETRY_S:
                raise trouble if isinstance(trouble, Refused) else self._nobody(history, args, trouble)
            await asyncio.sleep(_RETRY_S)

    async def _read(self) -> CallHistory:
        return await read_history(self._log, self._subjects, self._call_id, until_final=True)

    def _not_dead(self, history: CallHistory, decision: str) -> NotDeadLettered:
        shown, state = format_call_id(self._call_id), str(history.state)
        return NotDeadLettered(
            f"cannot {decision} call {shown}: it is no dead letter, but {state.replace('_', ' ')}; look with "
            "aegis dlq show",
            call_id=shown,
            state=state,
        )

    @staticmethod
    def _nobody(history: CallHistory, args: Namespace, trouble: AegisError) -> NoHolder:
        return no_holder(history, trouble, args.decision, "aegis dlq show")


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
