"""What ``aegis status`` shows: a fold of the log, the newest heartbeats, and what a router adds."""

from __future__ import annotations

import asyncio
import json
from argparse import Namespace
from dataclasses import dataclass
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]

from aegisipc.eventstore.cli.output import Cell, Paint, ago, print_json, printable, shorten, table
from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.jetstream import JetStreamLog
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.streams import open_log
from aegisipc.eventstore.subjects import Subjects, subjects_of
from aegisipc.eventstore.topology import GroupView, InstanceView, Topology

_ROUTER_TIMEOUT_S: Final = 0.3
_MOST_PULSES: Final = 1000
_WITHOUT_ROUTER: Final = "calls go on, but nobody is admitted or promoted; start one with aegis router"


@dataclass(frozen=True, slots=True)
class Pulse:
    """The newest heartbeat of an instance: how long ago, and what it told."""

    age_s: float
    report: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Status:
    """Everything that is shown. ``router`` is ``None`` when no router answered."""

    topology: Topology
    last_seq: int
    now_ns: int
    router: dict[str, Any] | None
    pulses: dict[str, Pulse]
    servers: str

    def open_calls(self, group: GroupView) -> int | None:
        """How many calls of the group have no outcome, as the router knows, or else the active instance."""
        if self.router is not None:
            known = self.router.get("open_calls", {})
            return int(known.get(f"{group.service}/{group.name}", 0))
        pulse = self.pulses.get(group.holder or "")
        count = pulse.report.get("open") if pulse else None
        return count if isinstance(count, int) else None


async def report(args: Namespace) -> int:
    """Read and print the status."""
    subjects = subjects_of(args.namespace)
    options = ConnectOptions(args.url, name="aegis:status")
    async with await Connection.open(options) as connection:
        status = await _read(connection, subjects, ",".join(e.url for e in options.endpoints()))
    if args.json:
        print_json(_plain(status, subjects))
    else:
        print(_text(status, subjects, everything=args.all))
    return 0


async def _read(connection: Connection, subjects: Subjects, servers: str) -> Status:
    log = await open_log(connection, subjects)
    asked = asyncio.ensure_future(_ask_router(connection, subjects))
    try:
        bounds = await log.bounds()
        topology = Topology(subjects)
        async for record in log.read([subjects.topology, subjects.term]):
            topology.apply(record)
        pulses = await _pulses(JetStreamLog(connection, subjects.pulse_stream), subjects, topology)
        return Status(topology, bounds.last_seq, bounds.now_ns, await asked, pulses, servers)
    finally:
        asked.cancel()


async def _ask_router(connection: Connection, subjects: Subjects) -> dict[str, Any] | None:
    try:
        answer = await connection.request(subjects.api("status"), b"", timeout_s=_ROUTER_TIMEOUT_S)
        status = json.loads(answer.payload)
    except (AegisError, ValueError):
        return None
    return status if isinstance(status, dict) else None


async def _pulses(stream: JetStreamLog, subjects: Subjects, topology: Topology) -> dict[str, Pulse]:
    """Return the newest pulse of each live instance."""
    live = [instance for group in topology.groups() for instance in group.live()][:_MOST_PULSES]
    if not live:
        return {}
    try:
        now_ns = (await stream.bounds()).now_ns
        found = await asyncio.gather(*(stream.last(subjects.pulse("instance", each.id)) for each in live))
    except AegisError:  # no heartbeats are kept here: the log says enough
        return {}
    pulses = {each.id: _pulse(each, record, now_ns) for each, record in zip(live, found, strict=True)}
    return {name: pulse for name, pulse in pulses.items() if pulse is not None}


def _pulse(instance: InstanceView, record: Record | None, now_ns: int) -> Pulse | None:
    if record is None:
        return None
    try:
        told = msgpack.unpackb(record.payload)
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError):
        return None
    if not isinstance(told, dict) or told.get("incarnation") != instance.incarnation:
        return None
    return Pulse(max(0, now_ns - record.timestamp_ns) / 1e9, told)


# -- for programs ---------------------------------------------------------------------------------------


def _plain(status: Status, subjects: Subjects) -> dict[str, Any]:
    plain = status.topology.to_plain()
    for service_name, service in plain["services"].items():
        for group_name, group in service["groups"].items():
            view = status.topology.group(service_name, group_name)
            group["open_calls"] = status.open_calls(view) if view else None
            for name, instance in group["instances"].items():
                pulse = status.pulses.get(name)
                instance["last_pulse_ms"] = round(pulse.age_s * 1000) if pulse else None
                instance["pulse"] = pulse.report if pulse else None
    return {
        "namespace": subjects.namespace,
        "url": status.servers,
        "position": status.last_seq,
        "leader": plain["leader"],
        "router": status.router,
        "services": plain["services"],
        "anomalies": plain["anomalies"],
    }


# -- for people -----------------------------------------------------------------------------------------


def _text(status: Status, subjects: Subjects, *, everything: bool) -> str:
    paint = Paint()
    lines = [f"namespace {subjects.namespace} at {status.servers}, log at sequence {status.last_seq}"]
    lines.append(_leader(status, paint))
    shown = [group for group in status.topology.groups() if everything or _matters(status, group)]
    hidden = sum(1 for _ in status.topology.groups()) - len(shown)
    if shown:
        shown.sort(key=lambda group: (group.service, group.name))
        headers = ("SERVICE", "GROUP", "MODE", "EPOCH", "ACTIVE", "STANDBYS", "PULSE", "OPEN", "RESOURCES")
        lines += ["", table(headers, [_row(status, group) for group in shown], paint)]
    else:
        lines += ["", "no service has a live instance: start one with aegis serve"]
    if hidden:
        lines.append(paint("dim", f"{hidden} more without instances (--all shows them)"))
    if status.topology.anomalies:
        count = status.topology.anomalies.total()
        lines.append(paint("yellow", f"{count} records did not fit (--json says which)"))
    return "\n".join(lines)


def _leader(status: Status, paint: Paint) -> str:
    lead = status.topology.leadership
    if lead.router is None:
        leading = "no router leads"
    else:
        since = ago((status.now_ns - lead.since_ns) / 1e9)
        leading = f"router {lead.router} leads term {lead.term} (for {since})"
    if status.router is not None:
        return leading
    return paint("yellow", f"{leading}, and no router answers: {_WITHOUT_ROUTER}")


def _matters(status: Status, group: GroupView) -> bool:
    return group.holder is not None or any(True for _ in group.live()) or bool(status.open_calls(group))


def _row(status: Status, group: GroupView) -> list[object]:
    live = list(group.live())
    pool = group.mode == "pool"
    active = live if pool else [i for i in live if i.id == group.holder]
    others = [] if pool else [i for i in live if i.id != group.holder]
    pulses = [status.pulses[i.id].age_s for i in active if i.id in status.pulses]
    return [
        group.service,
        group.name,
        group.mode,
        None if pool else group.epoch,
        _who(active, nobody="nobody"),
        _who(others, nobody="-"),
        ago(max(pulses)) if pulses else None,
        status.open_calls(group),
        shorten(sorted(group.resources)),
    ]


def _who(instances: list[InstanceView], nobody: str) -> Cell:
    if not instances:
        return Cell(nobody, "red" if nobody == "nobody" else "")
    troubled = any(instance.state not in ("active", "standby") for instance in instances)
    return Cell(shorten([_named(instance) for instance in instances]), "yellow" if troubled else "green")


def _named(instance: InstanceView) -> str:
    state = str(instance.state)
    if state in ("active", "standby"):
        return printable(instance.id)
    return f"{printable(instance.id)} ({state.partition('_')[0]})"
