"""Listing the calls in doubt, and showing the history of a call."""

from __future__ import annotations

from argparse import Namespace
from typing import Any, Final

from aegisipc.eventstore.cli.output import Cell, Paint, ago, print_json, printable, shorten, table
from aegisipc.eventstore.errors import AckUnknown, AegisError, NoResponders
from aegisipc.eventstore.ids import CallId
from aegisipc.eventstore.names import POOL_GROUP, check_name
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.seeking import read_history
from aegisipc.eventstore.streams import open_log
from aegisipc.eventstore.subjects import Subjects, subjects_of
from aegisipc.router.cli.asking import ask
from aegisipc.router.cli.stories import as_plain, as_text

_ROUTER_TIMEOUT_S: Final = 3.0
_WIDEST: Final = 28

type Plain = dict[str, Any]


class NoRouter(AegisError):
    """No router answers."""

    code = "no_router"


async def list_doubts(args: Namespace) -> int:
    """Print the calls in doubt."""
    subjects = subjects_of(args.namespace)
    question: Plain = {"limit": args.limit}
    if args.service is not None:
        question["service"] = check_name(args.service, "service")
    if args.group is not None:
        question["group"] = POOL_GROUP if args.group == POOL_GROUP else check_name(args.group, "group")
    async with await Connection.open(ConnectOptions(args.url, name="aegis:doubt")) as connection:
        log = await open_log(connection, subjects)
        told = await _ask_router(connection, subjects, question)
        now_ns = (await log.bounds()).now_ns
    if args.json:
        print_json({"doubts": told["doubts"], "more": told["more"]})
    else:
        print(_listed(told, now_ns, Paint()))
    return 0


async def _ask_router(connection: Connection, subjects: Subjects, question: Plain) -> Plain:
    try:
        return await ask(connection, subjects.api("doubts"), question, _ROUTER_TIMEOUT_S)
    except (NoResponders, AckUnknown) as error:
        raise NoRouter(
            f"cannot list the doubts of namespace {subjects.namespace!r}: no router answers; start one with "
            "aegis router (aegis doubt show and resolve need none)"
        ) from error


def _listed(told: Plain, now_ns: int, paint: Paint) -> str:
    doubts: list[Plain] = told["doubts"]
    if not doubts:
        return "no call is in doubt"
    headers = ("CALL", "METHOD", "RESOURCE", "CLIENT", "CLAIMED BY", "EPOCH", "SINCE")
    lines = [table(headers, [_row(doubt, now_ns) for doubt in doubts], paint)]
    if told["more"]:
        lines.append(paint("dim", f"{told['more']} more (--limit shows them)"))
    return "\n".join(lines)


def _row(doubt: Plain, now_ns: int) -> list[object]:
    return [
        Cell(printable(doubt["call_id"]), "yellow"),
        _short(f"{doubt['service']}.{doubt['method']}"),
        _short(doubt["resource"]),
        _short(doubt["client"]),
        _short(doubt["claimed_by"]),
        doubt["claimed_epoch"] or None,  # a pool has none
        f"{ago(max(0, now_ns - doubt['since_ns']) / 1e9)} ago",
    ]


def _short(text: str | None) -> str | None:
    return None if text is None else shorten([text], width=_WIDEST)


async def show(args: Namespace, call_id: CallId) -> int:
    """Print the history of a call."""
    subjects = subjects_of(args.namespace)
    async with await Connection.open(ConnectOptions(args.url, name="aegis:doubt")) as connection:
        log = await open_log(connection, subjects)
        history = await read_history(log, subjects, call_id)
    if args.json:
        print_json(as_plain(history))
    else:
        print(as_text(history, Paint()))
    return 0
