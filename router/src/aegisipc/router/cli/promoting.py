"""Promoting an instance: asks the leading router, and reads in the log whether it came to hold the pen."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from typing import Any, NamedTuple

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.cli.output import print_json, printable
from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.names import check_name
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.streams import open_log
from aegisipc.eventstore.subjects import Subjects, subjects_of
from aegisipc.eventstore.topology import GroupView
from aegisipc.router.cli.asking import NotInTime, Plain, Refused, ask_leader, check_group
from aegisipc.router.cli.operating import author_of
from aegisipc.router.cli.watching import until_said


class NotPromoted(AegisError):
    """The pen did not go to the instance. Fields: ``instance``, ``holder``, ``epoch``, ``cause``."""

    code = "not_promoted"


class Settled(NamedTuple):
    """What the decision came to: who holds the pen as which epoch, how, and how long that took. ``kind`` is
    that of the promotion, or ``cancelled`` or ``vacated``.
    """

    holder: str | None
    epoch: int
    former: str | None
    former_epoch: int
    kind: str
    cause: str
    seq: int
    took_ns: int


async def promote(args: Namespace) -> int:
    """Promote an instance; by default until it holds the pen."""
    subjects = subjects_of(args.namespace)
    command = {
        "service": check_name(args.service, "service"),
        "group": check_group(args.group),
        "instance": check_name(args.instance, "instance"),
        "author": author_of(args),
        "reason": args.reason,
    }
    give_up_at = asyncio.get_running_loop().time() + args.timeout
    async with await Connection.open(ConnectOptions(args.url, name="aegis:promote")) as connection:
        log = await open_log(connection, subjects)
        told = await decided(connection, subjects, command, args.timeout)
        if args.no_wait:
            _show_decided(args, told)
            return 0
        left_s = give_up_at - asyncio.get_running_loop().time()
        look = Succession(told["seq"], told["epoch"]).look
        settled = await until_said(log, subjects, args.service, args.group, look, left_s)
    if settled is None:
        raise _not_yet(args)
    _show(args, told, settled)
    return 0


async def decided(connection: Connection, subjects: Subjects, command: Plain, timeout_s: float) -> Plain:
    """Ask for it. If it holds the pen already because only an earlier answer was lost, that is as good."""
    try:
        return await ask_leader(connection, subjects, "promote", command, timeout_s)
    except Refused as refusal:
        if refusal.code != "already_active" or not refusal.unanswered:
            raise
        where = {key: command[key] for key in ("service", "group", "instance")}
        epoch = refusal.details["epoch"]
        return {"ok": True, "seq": 0, "event": ev.GroupPromoted.type, **where, "epoch": epoch}


class Succession:
    """Looks for what the decision at `seq` comes to: the promotion to `epoch`, or the end of the handover
    without one.
    """

    def __init__(self, seq: int, epoch: int) -> None:
        self._seq, self._epoch = seq, epoch
        self._former: tuple[str | None, int] = (None, 0)
        self._decided_ns = 0

    def look(
        self, record: Record, event: ev.Event | ev.UnknownEvent | None, group: GroupView
    ) -> Settled | None:
        """Take in a record; returns what came of it, if that is clear by this one."""
        is_promotion = isinstance(event, ev.GroupPromoted) and event.epoch >= self._epoch
        if record.seq < self._seq or (not self._seq and not is_promotion):
            self._former = group.holder, group.epoch
            return None
        if record.seq == self._seq or not self._decided_ns:
            self._decided_ns = record.timestamp_ns
        ends = (*self._former, *_end_of(event), record.seq, record.timestamp_ns - self._decided_ns)
        if is_promotion or isinstance(event, ev.GroupHandoverCancelled):
            return Settled(group.holder, group.epoch, *ends)
        return Settled(None, group.epoch, *ends) if isinstance(event, ev.GroupVacated) else None


def _end_of(event: Any) -> tuple[str, str]:
    match event:
        case ev.GroupPromoted():
            return event.kind, event.cause
        case ev.GroupHandoverCancelled():
            return "cancelled", event.cause
        case ev.GroupVacated():
            return "vacated", event.cause
    return "", ""


def _not_yet(args: Namespace) -> NotInTime:
    return NotInTime(
        f"cannot say that {args.instance} holds the pen of {args.service}/{args.group} within "
        f"{args.timeout:g} s: the holder has not finished what it runs; the handover goes on, look again "
        "with aegis status",
        instance=args.instance,
        timeout_s=args.timeout,
    )


def _show_decided(args: Namespace, told: Plain) -> None:
    if args.json:
        print_json({"already": False, **told})
        return
    how = "is to take over" if told["event"] == ev.GroupHandoverStarted.type else "has taken over"
    print(
        f"{args.instance} {how} {args.service}/{args.group} as epoch {told['epoch']} (sequence {told['seq']})"
    )


def _show(args: Namespace, told: Plain, settled: Settled) -> None:
    where, took_s = f"{args.service}/{args.group}", max(0, settled.took_ns) / 1e9
    if settled.holder != args.instance or settled.epoch < told["epoch"]:
        raise _not_promoted(args, settled)
    if args.json:
        plain = {
            "epoch": settled.epoch,
            "former": settled.former,
            "former_epoch": settled.former_epoch,
            "kind": settled.kind,
            "cause": settled.cause,
            "promoted_seq": settled.seq,
            "took_s": round(took_s, 3),
        }
        print_json({"already": False, **told, **plain})
        return
    former = f"{settled.former} held epoch {settled.former_epoch}" if settled.former else "nobody held it"
    print(
        f"{args.instance} holds the pen of {where} as epoch {settled.epoch} after {took_s:.3f} s ({former})"
    )
    print(f"{settled.kind}: {printable(settled.cause)}")


def _not_promoted(args: Namespace, settled: Settled) -> NotPromoted:
    held = f"{settled.holder} holds it, epoch {settled.epoch}" if settled.holder else "nobody holds it"
    what = "the handover was called off: " if settled.kind == "cancelled" else ""
    return NotPromoted(
        f"cannot give the pen of {args.service}/{args.group} to {args.instance}: {what}{settled.cause}; "
        f"{held}, aegis status shows more",
        instance=args.instance,
        holder=settled.holder,
        epoch=settled.epoch,
        kind=settled.kind,
        cause=settled.cause,
    )
