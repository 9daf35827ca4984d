"""Pausing and resuming: asks the leading router."""

from __future__ import annotations

from argparse import Namespace
from typing import Final

from aegisipc.eventstore.cli.output import print_json, shorten
from aegisipc.eventstore.names import check_name
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.streams import open_log
from aegisipc.eventstore.subjects import subjects_of
from aegisipc.router.cli.asking import Plain, ask_leader, check_group
from aegisipc.router.cli.operating import author_of

_DONE: Final = {"pause": "paused", "resume": "resumed"}
_SO_ALREADY: Final = {"pause": "paused", "resume": "running"}
_MOST_SHOWN: Final = 8


async def decide(verb: str, args: Namespace) -> int:
    """Have a service or group paused or resumed (`verb`)."""
    subjects = subjects_of(args.namespace)
    service, group = args.scope
    command = {
        "service": check_name(service, "service"),
        "group": None if group is None else check_group(group),
        "author": author_of(args),
        "reason": args.reason,
    }
    async with await Connection.open(ConnectOptions(args.url, name=f"aegis:{verb}")) as connection:
        await open_log(connection, subjects)
        told = await ask_leader(connection, subjects, verb, command, args.timeout)
    if args.json:
        print_json({"already": False, **told})
    else:
        print(_text(verb, service, group, told))
    return 0


def _text(verb: str, service: str, group: str | None, told: Plain) -> str:
    groups = told.get("groups", [])
    where = f"{service}/{group}" if group is not None else service
    about = "" if group is not None else f" (groups: {shorten(groups, limit=_MOST_SHOWN, width=80)})"
    if told.get("already"):
        return f"{where} is {_SO_ALREADY[verb]} already{about}"
    return f"{_DONE[verb]} {where}{about}, at sequence {told['seq']}"
