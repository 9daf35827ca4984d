"""The text of ``aegis status``: who leads, a table of the groups, and what somebody should look at."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Final

from aegisipc.eventstore.cli.output import Cell, Paint, ago, printable, shorten, table
from aegisipc.eventstore.topology import GroupView, InstanceView
from aegisipc.router.cli.reporting import Status

_WITHOUT_ROUTER: Final = "calls go on, but nobody is admitted or promoted; start one with aegis router"
_HEADERS: Final = (
    "SERVICE",
    "GROUP",
    "MODE",
    "EPOCH",
    "ACTIVE",
    "STANDBYS",
    "PULSE",
    "OPEN",
    "DOUBT",
    "RESOURCES",
)
_WIDTHS: Final = (40, 32, 28, 24, 22, 20, 18, 16, 14)
"""What lists of names may take, from the widest to the narrowest: the first one with which the table fits.
Resources then get three quarters of that.
"""

_MOST_NOTES: Final = 50
_SOUND: Final = ("active", "standby")


def overview(status: Status, *, everything: bool, columns: int | None = None) -> str:
    """Tell the status; with `everything`, of groups in which nothing is going on, too. The table is kept
    within so many `columns` if it can be.
    """
    paint = Paint()
    lines = [f"namespace {status.namespace} at {status.servers}, log at sequence {status.last_seq}"]
    lines.append(_routers(status, paint))
    shown = [group for group in status.topology.groups() if everything or _matters(status, group)]
    shown.sort(key=lambda group: (group.service, group.name))
    hidden = sum(1 for _ in status.topology.groups()) - len(shown)
    if shown:
        lines += ["", _table(status, shown, columns, paint)]
    else:
        lines += ["", "no service has a live instance: start one with aegis serve"]
    if hidden:
        lines.append(paint("dim", f"{hidden} more without instances (--all shows them)"))
    notes = [note for group in shown for note in _notes(status, group)]
    if notes:
        lines += ["", *(paint("yellow", note) for note in notes[:_MOST_NOTES])]
    if len(notes) > _MOST_NOTES:
        lines.append(paint("yellow", f"{len(notes) - _MOST_NOTES} more (--json tells all)"))
    if status.topology.anomalies:
        count = status.topology.anomalies.total()
        lines.append(paint("yellow", f"{count} records did not fit (--json says which)"))
    return "\n".join(lines)


# -- routers --------------------------------------------------------------------------------------------


def _routers(status: Status, paint: Paint) -> str:
    lead = status.topology.leadership
    if lead.router is None:
        leading = "no router leads"
    else:
        since = ago((status.now_ns - lead.since_ns) / 1e9)
        leading = f"router {lead.router} leads term {lead.term} (for {since})"
    followers = status.followers
    if followers:
        leading += f", {shorten(followers)} {'follows' if len(followers) == 1 else 'follow'}"
    if status.router is None:
        return paint("yellow", f"{leading}, and no router answers: {_WITHOUT_ROUTER}")
    return leading + _hears(status)


def _hears(status: Status) -> str:
    """How the router that answered hears of deaths."""
    if status.system_account is None or status.router is None:
        return ""
    answered = printable(str(status.router.get("router")))
    how = "the system account" if status.system_account else "no system account: deaths show by silence"
    return f"; {answered} has {how}"


# -- the table ------------------------------------------------------------------------------------------


def _matters(status: Status, group: GroupView) -> bool:
    return group.holder is not None or any(True for _ in group.live()) or bool(status.open_calls(group))


def _table(status: Status, groups: Sequence[GroupView], columns: int | None, paint: Paint) -> str:
    plain = Paint(io.StringIO())
    for width in _WIDTHS:
        rows = [_row(status, group, width) for group in groups]
        if columns is None or max(map(len, table(_HEADERS, rows, plain).splitlines())) <= columns:
            break
    return table(_HEADERS, rows, paint)


def _row(status: Status, group: GroupView, width: int) -> list[object]:
    live = list(group.live())
    pool = group.mode == "pool"
    active = live if pool else [i for i in live if i.id == group.holder]
    others = [] if pool else [i for i in live if i.id != group.holder]
    ages = [pulse.age_s for i in active if (pulse := status.pulse(i)) is not None]
    doubts = status.doubts(group)
    return [
        group.service,
        group.name,
        group.mode,
        None if pool else group.epoch,
        _who(active, width, nobody="nobody"),
        _who(others, width, nobody="-"),
        ago(max(ages)) if ages else None,
        _open(status, group),
        Cell(str(doubts), "red") if doubts else doubts,
        _fit(sorted(group.resources), width if width == _WIDTHS[0] else width * 3 // 4),
    ]


def _open(status: Status, group: GroupView) -> Cell | None:
    """How many calls are open, of how many if that is too many, and how many of them wait for their turn."""
    count = status.open_calls(group)
    if count is None:
        return None
    text = str(count) if group.congestion is None else f"{count}/{group.congestion.limit}"
    waiting = status.waiting(group)
    return Cell(f"{text} ({waiting} wait)" if waiting else text, "red" if group.congestion else "")


def _who(instances: list[InstanceView], width: int, nobody: str) -> Cell:
    if not instances:
        return Cell(nobody, "red" if nobody == "nobody" else "")
    troubled = any(_flags(instance) for instance in instances)
    names = [_named(instance, in_full=width == _WIDTHS[0]) for instance in instances]
    return Cell(_fit(names, width), "yellow" if troubled else "green")


def _fit(names: Sequence[str], width: int) -> str:
    """Return as many whole names as fit, at least a part of the first one, and how many more there are."""
    count = len(names)
    while count > 1 and len(shorten(names, limit=count, width=width + 1)) > width:
        count -= 1
    return shorten(names, limit=count, width=width)


def _named(instance: InstanceView, *, in_full: bool) -> str:
    """With what is the matter with it; where there is no room for that, a note below the table tells."""
    flags = _flags(instance)
    if not flags:
        return instance.id
    return f"{instance.id} ({', '.join(flags)})" if in_full else f"{instance.id}!"


def _flags(instance: InstanceView) -> list[str]:
    """What is the matter with an instance, in a word each."""
    state = str(instance.state)
    flags = [] if state in _SOUND else [state.partition("_")[0]]
    if instance.unhealthy is not None:
        flags.append("unhealthy")
    if instance.quarantined:
        flags.append("quarantined")
    if instance.drain_requested and "draining" not in flags:
        flags.append("draining")
    return flags


# -- what to look at ------------------------------------------------------------------------------------


def _notes(status: Status, group: GroupView) -> Iterator[str]:
    """Say in a line each what is the matter with a group, and what to do about it."""
    where = f"{group.service}/{group.name}"
    for note in (*_of_group(status, group), *_of_instances(status, group)):
        yield printable(f"{where}: {note}")


def _of_group(status: Status, group: GroupView) -> Iterator[str]:
    if group.handover is not None:
        heir = group.handover
        yield (
            f"handover from {group.holder} to {heir.to}, for {_since(status, heir.since_ns)}: {heir.cause}"
            f"{'; it has finished' if group.yielded_epoch else ''}"
        )
    if group.paused:
        yield f"paused by {group.paused_by} (aegis resume {group.service}/{group.name})"
    if group.mode != "pool" and group.holder is None and _matters(status, group):
        yield f"nobody holds the pen, for {_since(status, group.since_ns)}: {group.cause}"
    if group.congestion is not None:
        full = group.congestion
        yield (
            f"congested, for {_since(status, full.since_ns)}: {full.open} calls were open, of {full.limit} "
            f"at most; clients refuse calls, and are to try again after {full.retry_after_ms / 1000:g} s"
        )
    doubts = status.doubts(group)
    if doubts:
        are = "call is" if doubts == 1 else "calls are"
        place = f"--service {group.service} --group {group.name}"
        yield f"{doubts} {are} in doubt (aegis doubt list {place})"


def _of_instances(status: Status, group: GroupView) -> Iterator[str]:
    for instance in group.live():
        state = str(instance.state)
        if state not in _SOUND:
            yield f"{instance.id} is {state.partition('_')[0]}, for {_since(status, instance.since_ns)}"
        if instance.unhealthy is not None:
            yield f"{instance.id} is unhealthy: {instance.unhealthy}"
        if instance.quarantined:
            resume = f"aegis resume {group.service}/{group.name}"
            yield f"{instance.id} is in quarantine: it queues calls, and runs none ({resume})"
        if instance.drain_requested_by is not None:
            yield f"{instance.id} is to leave, asks {instance.drain_requested_by}"
        fenced = status.fenced(instance)
        if fenced:
            frames = "frame" if fenced == 1 else "frames"
            yield f"the fence refused {fenced} {frames} of {instance.id}, which had lost the pen"


def _since(status: Status, since_ns: int) -> str:
    return ago(max(0, status.now_ns - since_ns) / 1e9)
