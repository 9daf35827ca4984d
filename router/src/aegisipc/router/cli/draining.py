"""Draining an instance: asks the leading router, and reads in the log what becomes of it."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from contextlib import suppress
from typing import Any, Final, NamedTuple

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.cli.output import print_json, printable
from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.log import Log, Record
from aegisipc.eventstore.names import POOL_GROUP, check_name
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.streams import open_log
from aegisipc.eventstore.subjects import Subjects, subjects_of
from aegisipc.eventstore.topology import GroupView
from aegisipc.router.cli.asking import NotInTime, Plain, Refused, ask, ask_leader, check_group
from aegisipc.router.cli.operating import author_of
from aegisipc.router.cli.watching import until_said

_PROBE_S: Final = 0.5
_HEIR_S: Final = 5.0
"""How long to look for the next holder of the pen, once the former one has left."""


class NotDrained(AegisError):
    """The instance is gone, but it did not leave by itself. Fields: ``instance``, ``event``, ``cause``."""

    code = "not_drained"


class Gone(NamedTuple):
    """How the instance went: what was said, and when; and who else holds the pen of its group (``None``:
    nobody). ``heirs`` is how many could take the pen that it held.
    """

    event: str
    cause: str
    seq: int
    at_ns: int
    asked_at_ns: int
    holder: str | None
    epoch: int
    heirs: int = 0


async def drain(args: Namespace) -> int:
    """Drain an instance; by default until it has left."""
    subjects = subjects_of(args.namespace)
    command = _command(args)
    give_up_at = asyncio.get_running_loop().time() + args.timeout
    async with await Connection.open(ConnectOptions(args.url, name="aegis:drain")) as connection:
        log = await open_log(connection, subjects)
        told = await decided(connection, subjects, command, args.timeout)
        if told is None or args.no_wait:
            _show_requested(args, told or {"ok": True, "instance": command["instance"], "ended": "left"})
            return 0
        gone = await _departure(log, subjects, told, give_up_at - asyncio.get_running_loop().time())
        if gone is None:
            raise await _not_yet(connection, subjects, told, args.timeout)
    _show_gone(args, told, gone)
    return 0


def _command(args: Namespace) -> Plain:
    service, group, instance = args.place
    return {
        "instance": check_name(instance, "instance"),
        "service": None if service is None else check_name(service, "service"),
        "group": None if group is None else check_group(group),
        "force": args.force,
        "author": author_of(args),
        "reason": args.reason,
    }


async def decided(
    connection: Connection, subjects: Subjects, command: Plain, timeout_s: float
) -> Plain | None:
    """Ask for it. ``None``: it has left already, since only an earlier answer was lost."""
    try:
        return await ask_leader(connection, subjects, "drain", command, timeout_s)
    except Refused as refusal:
        gone = refusal.code == "instance_gone" and refusal.details.get("state") == "left"
        if not gone or not refusal.unanswered:
            raise
        return None


async def _departure(log: Log, subjects: Subjects, told: Plain, timeout_s: float) -> Gone | None:
    """Wait until it has gone, and then for a moment until another one holds what it held."""
    where = told["service"], told["group"]
    gone = await until_said(log, subjects, *where, Departure(told["instance"], told["seq"]).look, timeout_s)
    if gone is None or gone.heirs == 0:
        return gone

    def succeeded(record: Record, _: object, group: GroupView) -> Gone | None:
        is_new = record.seq > gone.seq and group.holder is not None and group.epoch > gone.epoch
        return gone._replace(holder=group.holder, epoch=group.epoch) if is_new else None

    return await until_said(log, subjects, *where, succeeded, _HEIR_S) or gone


class Departure:
    """Looks for the end of that run of an instance that was there at `seq`."""

    def __init__(self, instance: str, seq: int) -> None:
        self._instance, self._seq = instance, seq
        self._incarnation: str | None = None
        self._asked_at_ns = 0

    def look(self, record: Record, event: ev.Event | ev.UnknownEvent | None, group: GroupView) -> Gone | None:
        """Take in a record; returns how it went, if it went by this one."""
        found = group.instances.get(self._instance)
        if record.seq <= self._seq:
            self._asked_at_ns = record.timestamp_ns
            self._incarnation = found.incarnation if found is not None else None
        if record.seq < self._seq or self._incarnation is None:
            return None
        if found is not None and found.incarnation == self._incarnation and found.is_live:
            return None
        what, cause = "replaced", "another run of it has registered"
        if isinstance(event, ev.InstanceLeft):
            what, cause = "left", event.cause
        elif isinstance(event, ev.InstanceLost):
            what, cause = "lost", event.cause or f"silent for {event.silence_ms} ms"
        times = record.seq, record.timestamp_ns, self._asked_at_ns
        if (group.holder, group.holder_incarnation) != (self._instance, self._incarnation):
            return Gone(what, cause, *times, group.holder, group.epoch)
        heirs = sum(1 for instance in group.ready() if instance.is_eligible)
        return Gone(what, cause, *times, None, group.epoch, heirs)


async def _not_yet(connection: Connection, subjects: Subjects, told: Plain, timeout_s: float) -> NotInTime:
    where = (told["service"], told["group"], told["instance"])
    running: Any = None
    with suppress(AegisError):
        running = (await ask(connection, subjects.probe(*where), {}, _PROBE_S)).get("running")
    calls = "1 call" if running == 1 else f"{running} calls"
    doing = f"it runs {calls}" if isinstance(running, int) else "it does not say what it does"
    return NotInTime(
        f"cannot say that {'/'.join(where)} has left within {timeout_s:g} s: {doing}; it goes on draining, "
        "look again with aegis status, or stop its process",
        instance=told["instance"],
        running=running,
        timeout_s=timeout_s,
    )


def _show_requested(args: Namespace, told: Plain) -> None:
    if args.json:
        print_json({"already": False, **told})
        return
    where = "/".join(str(told[part]) for part in ("service", "group", "instance") if part in told)
    if "ended" in told:
        print(f"{where} has left")
    elif told.get("already"):
        print(f"{where} is draining already")
    else:
        print(f"{where} is to drain and leave (sequence {told['seq']})")


def _show_gone(args: Namespace, told: Plain, gone: Gone) -> None:
    where = f"{told['service']}/{told['group']}/{told['instance']}"
    took_s = max(0, gone.at_ns - gone.asked_at_ns) / 1e9
    if gone.event != "left":
        raise NotDrained(
            f"cannot say that {where} was drained: it was {gone.event} before it had left ({gone.cause}); "
            "look for calls in doubt with aegis doubt list",
            instance=told["instance"],
            event=gone.event,
            cause=gone.cause,
        )
    if args.json:
        plain = {"ended": gone.event, "cause": gone.cause, "left_seq": gone.seq, "took_s": round(took_s, 3)}
        print_json({"already": False, **told, **plain, "holder": gone.holder, "epoch": gone.epoch})
        return
    print(f"{where} has left after {took_s:.2f} s: {printable(gone.cause)}")
    if told["group"] != POOL_GROUP:
        held = f"{gone.holder} holds the pen, epoch {gone.epoch}" if gone.holder else "nobody holds the pen"
        print(f"{told['service']}/{told['group']}: {held}")
