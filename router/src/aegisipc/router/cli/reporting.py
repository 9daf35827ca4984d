"""What ``aegis status`` shows: a fold of the log, the newest heartbeats, and what a router adds."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]

from aegisipc.eventstore.cli.output import print_json
from aegisipc.eventstore.errors import AegisError, MalformedPayload
from aegisipc.eventstore.jetstream import JetStreamLog
from aegisipc.eventstore.log import Record, Start
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.streams import open_log
from aegisipc.eventstore.subjects import Subjects, subjects_of
from aegisipc.eventstore.topology import GroupView, InstanceView, Topology
from aegisipc.eventstore.views import role_of

_ROUTER_TIMEOUT_S: Final = 0.3
_MOST_PULSES: Final = 1000
_MOST_ROUTER_PULSES: Final = 1000
_ROUTER_PULSES_S: Final = 2
"""A router that has not been heard of for so long is not listed."""


@dataclass(frozen=True, slots=True)
class Pulse:
    """The newest heartbeat of an instance or a router: how long ago, and what it told."""

    age_s: float
    report: dict[str, Any]

    def count(self, name: str) -> int | None:
        """Return a number that it told."""
        value = self.report.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) else None


@dataclass(frozen=True, slots=True)
class Status:
    """Everything that is shown. ``router`` is what a router answered, ``None`` if none did. ``routers`` are
    the heartbeats of the last two seconds.
    """

    namespace: str
    topology: Topology
    last_seq: int
    now_ns: int
    router: dict[str, Any] | None
    pulses: Mapping[str, Pulse]
    routers: Mapping[str, Pulse]
    servers: str

    def open_calls(self, group: GroupView) -> int | None:
        """How many calls of the group have no outcome, as the router knows, or else the active instance."""
        return self._count(group, "open_calls", "open")

    def doubts(self, group: GroupView) -> int | None:
        """How many calls of the group are in doubt, as the router knows, or else the active instance."""
        return self._count(group, "doubts", "doubts")

    def claimed(self, group: GroupView) -> int | None:
        """How many calls of the group are claimed and have no outcome; only a router knows."""
        return self._count(group, "claimed", "")

    def waiting(self, group: GroupView) -> int | None:
        """How many calls wait for their turn at the instances that run them, as these say themselves."""
        active = [i for i in group.live() if group.mode == "pool" or i.id == group.holder]
        told = [pulse.count("waiting") for i in active if (pulse := self.pulse(i)) is not None]
        known = [count for count in told if count is not None]
        return sum(known) if known else None

    def fenced(self, instance: InstanceView) -> int | None:
        """How many frames of this run of the instance the fence has refused, as it says itself."""
        pulse = self.pulses.get(_key(instance))
        return pulse.count("fenced") if pulse is not None else None

    def pulse(self, instance: InstanceView) -> Pulse | None:
        """The newest heartbeat of this run of the instance."""
        return self.pulses.get(_key(instance))

    @property
    def followers(self) -> list[str]:
        """The routers that were heard of and do not lead."""
        leader = self.topology.leadership.router
        return sorted(name for name in self.routers if name != leader)

    @property
    def system_account(self) -> bool | None:
        """Whether the servers tell the router that answered of connections that end."""
        value = self.router.get("system_account") if self.router is not None else None
        return value if isinstance(value, bool) else None

    def _count(self, group: GroupView, by_router: str, by_holder: str) -> int | None:
        if self.router is not None and isinstance(known := self.router.get(by_router), dict):
            count = known.get(f"{group.service}/{group.name}", 0)
            return count if isinstance(count, int) else None
        holder = group.instances.get(group.holder or "")
        pulse = self.pulse(holder) if holder is not None else None
        return pulse.count(by_holder) if pulse is not None else None


async def report(args: Namespace) -> int:
    """Read and print the status."""
    subjects = subjects_of(args.namespace)
    options = ConnectOptions(args.url, name="aegis:status")
    async with await Connection.open(options) as connection:
        status = await read_status(connection, subjects, ",".join(e.url for e in options.endpoints()))
    if args.json:
        print_json(as_plain(status))
        return 0
    from aegisipc.router.cli.overview import overview  # noqa: PLC0415 - not for programs

    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print(overview(status, everything=args.all, columns=columns))
    return 0


async def read_status(connection: Connection, subjects: Subjects, servers: str) -> Status:
    """Read what there is to show."""
    log = await open_log(connection, subjects)
    asked = asyncio.ensure_future(_ask_router(connection, subjects))
    pulse_log = JetStreamLog(connection, subjects.pulse_stream)
    routers = asyncio.ensure_future(_router_pulses(pulse_log, subjects))
    try:
        bounds = await log.bounds()
        topology = Topology(subjects)
        async for record in log.read([subjects.topology, subjects.term]):
            topology.apply(record)
        pulses = await _pulses(pulse_log, subjects, topology)
        return Status(
            subjects.namespace,
            topology,
            bounds.last_seq,
            bounds.now_ns,
            await asked,
            pulses,
            await routers,
            servers,
        )
    finally:
        asked.cancel()
        routers.cancel()
        await asyncio.gather(asked, routers, return_exceptions=True)


async def _ask_router(connection: Connection, subjects: Subjects) -> dict[str, Any] | None:
    try:
        answer = await connection.request(subjects.api("status"), b"", timeout_s=_ROUTER_TIMEOUT_S)
        status = json.loads(answer.payload)
    except (AegisError, ValueError):
        return None
    return status if isinstance(status, dict) else None


# -- heartbeats -----------------------------------------------------------------------------------------


async def _router_pulses(stream: JetStreamLog, subjects: Subjects) -> dict[str, Pulse]:
    """Return the newest pulse of each router that gave one lately."""
    found: dict[str, Pulse] = {}
    try:
        now_ns = (await stream.bounds()).now_ns
        start = Start(time_ns=now_ns - _ROUTER_PULSES_S * 1_000_000_000)
        read = 0
        async for record in stream.read([subjects.pulse("router", "*")], start=start):
            pulse = _read_pulse(record, now_ns)
            if pulse is not None:
                found[subjects.parse_pulse(record.subject).id] = pulse
            read += 1
            if read >= _MOST_ROUTER_PULSES:
                break
    except (AegisError, MalformedPayload):  # no heartbeats are kept here: the log says enough
        return {}
    return found


async def _pulses(stream: JetStreamLog, subjects: Subjects, topology: Topology) -> dict[str, Pulse]:
    """Return the newest pulse of each live instance, by its incarnation."""
    live = [instance for group in topology.groups() for instance in group.live()][:_MOST_PULSES]
    if not live:
        return {}
    try:
        now_ns = (await stream.bounds()).now_ns
        found = await asyncio.gather(*(stream.last(subjects.pulse("instance", each.id)) for each in live))
    except AegisError:  # no heartbeats are kept here: the log says enough
        return {}
    pulses = {
        _key(each): _read_pulse(record, now_ns) for each, record in zip(live, found, strict=True) if record
    }
    return {key: pulse for key, pulse in pulses.items() if pulse and pulse.report.get("incarnation") == key}


def _key(instance: InstanceView) -> str:
    return instance.incarnation


def _read_pulse(record: Record, now_ns: int) -> Pulse | None:
    try:
        told = msgpack.unpackb(record.payload)
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError):
        return None
    return Pulse(max(0, now_ns - record.timestamp_ns) / 1e9, told) if isinstance(told, dict) else None


# -- for programs ---------------------------------------------------------------------------------------


def as_plain(status: Status) -> dict[str, Any]:
    """Return everything as plain data."""
    plain = status.topology.to_plain()
    for service_name, service in plain["services"].items():
        for group_name, group in service["groups"].items():
            view = status.topology.group(service_name, group_name)
            if view is not None:
                _complete(status, view, group)
    return {
        "namespace": status.namespace,
        "url": status.servers,
        "position": status.last_seq,
        "now_ns": status.now_ns,
        "leader": plain["leader"],
        "followers": status.followers,
        "routers": {
            name: {"last_pulse_ms": round(pulse.age_s * 1000), "pulse": pulse.report}
            for name, pulse in sorted(status.routers.items())
        },
        "system_account": status.system_account,
        "router": status.router,
        "services": plain["services"],
        "anomalies": plain["anomalies"],
    }


def _complete(status: Status, view: GroupView, plain: dict[str, Any]) -> None:
    """Add to a group what is not in the log."""
    plain["open_calls"] = status.open_calls(view)
    plain["claimed"] = status.claimed(view)
    plain["waiting"] = status.waiting(view)
    plain["doubts"] = status.doubts(view)
    for name, instance in plain["instances"].items():
        found = view.instances[name]
        pulse = status.pulse(found)
        instance["role"] = role_of(view, found)
        instance["eligible"] = found.is_eligible
        instance["last_pulse_ms"] = round(pulse.age_s * 1000) if pulse else None
        instance["fenced"] = status.fenced(found)
        instance["pulse"] = pulse.report if pulse else None
