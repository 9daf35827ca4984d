"""The text of ``aegis replay``: the answer first, then what somebody should look at."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any, Final

from aegisipc.eventstore.cli.output import Cell, Paint, ago, printable, shorten, table
from aegisipc.eventstore.replay.moments import to_the_ms

type Plain = Mapping[str, Any]

MOST_DOUBTS: Final = 50
MOST_OPEN: Final = 10
MOST_DECISIONS: Final = 10
MOST_NOTES: Final = 50
_RECENTLY_NS: Final = 600_000_000_000
"""Instances that are gone are told of for so long."""

_SOUND: Final = frozenset({"active", "standby"})
_HEADERS: Final = (
    "GROUP",
    "EPOCH",
    "ACTIVE",
    "PULSE",
    "SINCE",
    "OPEN",
    "OLDEST",
    "DOUBT",
    "STANDBYS (PULSE)",
    "WHY",
)


def as_text(view: Plain, source: str, paint: Paint, *, columns: int | None = None) -> str:
    """Tell a view, with the router's next decisions in it if it has them. Where so many `columns`
    have no room for reasons, these stand below the table.
    """
    groups = {name: group for name, group in view["groups"].items() if _matters(group)}
    blocks = [
        [*_head(view, source, paint)],
        groups_lines(view, groups, paint, columns) or ["no group has an instance or an open call"],
        _hidden(view, groups, paint),
        _doubts(view, paint),
        _open(view, paint),
        _decisions(view, paint),
        _notes_block(view, groups, paint),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block)


# -- where and who leads --------------------------------------------------------------------------------


def _head(view: Plain, source: str, paint: Paint) -> Iterator[str]:
    point = view["point"]
    asked = "" if point["asked"] == str(point["seq"]) else f" ({printable(point['asked'])})"
    yield (
        f"{printable(source)}: sequence {paint('bold', str(point['seq']))} of {point['log']['last_seq']}, "
        f"{paint('bold', point['at'] or '-')}{asked}"
    )
    lead = view["leader"]
    if lead["router"] is None:
        yield paint("yellow", "no router leads: nobody is admitted or promoted")
    else:
        yield (
            f"router {printable(lead['router'])} leads term {lead['term']}, since "
            f"{_since(view, lead['since_ns'])}"
        )
    beats = view["heartbeats"]
    if not beats["newest_ns"]:
        yield paint("dim", "no heartbeats are kept from the half minute before: PULSE cannot be told")


def _age(view: Plain, since_ns: int) -> str:
    return ago(max(0, view["point"]["at_ns"] - since_ns) / 1e9)


def _since(view: Plain, since_ns: int) -> str | None:
    return f"{_clock(view, since_ns)} ({_age(view, since_ns)})" if since_ns else None


def _clock(view: Plain, at_ns: int) -> str:
    """A time; without its date if that is the point's."""
    shown = to_the_ms(at_ns)
    day, _, clock = shown.partition("T")
    return clock if clock and str(view["point"]["at"]).startswith(day) else shown


# -- groups ---------------------------------------------------------------------------------------------


def _matters(group: Plain) -> bool:
    live = any(each["role"] != "gone" for each in group["instances"].values())
    return live or group["active"] is not None or group["calls"]["open"] > 0


def _hidden(view: Plain, shown: Plain, paint: Paint) -> list[str]:
    count = len(view["groups"]) - len(shown)
    return [paint("dim", f"{count} more without instances or open calls (--json tells all)")] if count else []


def groups_lines(view: Plain, groups: Plain, paint: Paint, columns: int | None) -> list[str]:
    """Return the table of the groups: who is active where, since when and why, and what is open. Reasons
    stand below it if there is no room for them: they are never cut.
    """
    if not groups:
        return []
    rows = [_row(view, name, group) for name, group in groups.items()]
    plain = Paint(io.StringIO())
    if columns is None or max(map(len, table(_HEADERS, rows, plain).splitlines())) <= columns:
        return [table(_HEADERS, rows, paint)]
    why = [f"{row[0]}: {row[-1]}" for row in rows if row[-1] != "-"]
    below = [paint("dim", "WHY"), *why] if why else []
    return [table(_HEADERS[:-1], [row[:-1] for row in rows], paint), *below]


def _row(view: Plain, name: str, group: Plain) -> list[object]:
    pool = group["mode"] == "pool"
    live = {who: each for who, each in group["instances"].items() if each["role"] not in ("gone", "active")}
    calls = group["calls"]
    held = group["active"] is not None
    return [
        printable(name),
        None if pool else group["epoch"],
        _workers(view, name, live) if pool else _active(group),
        None if pool else _pulse(view, name, group["active"]),
        None if pool else _since(view, group["since_ns"]),
        calls["open"],
        None if calls["oldest"] is None else _age(view, calls["oldest"]["made_ns"]),
        Cell(str(calls["in_doubt"]), "red") if calls["in_doubt"] else 0,
        None if pool else _others(view, name, live),
        "-" if pool else Cell(printable(group["why"]), "" if held else "red"),
    ]


def _active(group: Plain) -> Cell:
    if group["active"] is None:
        return Cell("nobody", "red")
    flags = _flags(group["instances"].get(group["active"], {"role": "gone", "state": "gone"}))
    return Cell(_flagged(group["active"], flags), "yellow" if flags else "green")


def _flagged(name: str, flags: list[str]) -> str:
    return printable(f"{name} ({', '.join(flags)})" if flags else name)


def _flags(instance: Plain) -> list[str]:
    """What is the matter with an instance, in a word each."""
    state = str(instance["state"])
    flags = [] if state in _SOUND else [state.partition("_")[0]]
    for name, word in (
        ("unhealthy", "unhealthy"),
        ("quarantined", "quarantined"),
        ("drain_requested_by", "to drain"),
    ):
        if instance.get(name) not in (None, False):
            flags.append(word)
    return flags


def _pulse(view: Plain, group: str, instance: str | None) -> Cell | None:
    """How old the latest heartbeat of an instance is."""
    pulse = view["heartbeats"]["instances"].get(f"{group}/{instance}")
    if pulse is None:
        return None
    age_ns = view["point"]["at_ns"] - pulse["at_ns"]
    return Cell(ago(max(0, age_ns) / 1e9), "yellow" if age_ns > 1_000_000_000 else "")


def _others(view: Plain, group: str, live: Plain) -> Cell:
    names = []
    for who, each in live.items():
        pulse = _pulse(view, group, who)
        names.append(f"{_flagged(who, _flags(each))} {pulse}" if pulse else _flagged(who, _flags(each)))
    flagged = any(_flags(each) for each in live.values())
    return Cell(shorten(names, limit=4, width=72), "yellow" if flagged else "")


def _workers(view: Plain, group: str, live: Plain) -> Cell:
    return _others(view, group, live) if live else Cell("nobody", "red")


# -- calls ----------------------------------------------------------------------------------------------


def _doubts(view: Plain, paint: Paint) -> list[str]:
    found = view["in_doubt"]
    if not found:
        return ["no call is in doubt"]
    rows = [
        [
            call_id,
            printable(call["group"]),
            printable(call["method"]),
            printable(call["resource"] or "-"),
            printable(call["client"]),
            _claim(call),
            _age(view, call["since_ns"]),
            _clock(view, call["since_ns"]),
        ]
        for call_id, call in list(found.items())[:MOST_DOUBTS]
    ]
    headers = ("CALL", "GROUP", "METHOD", "RESOURCE", "CLIENT", "CLAIMED BY", "FOR", "SINCE")
    title = paint("red", f"{len(found)} {'call is' if len(found) == 1 else 'calls are'} in doubt")
    return [title, table(headers, rows, paint), *_more(len(found), MOST_DOUBTS)]


def _claim(call: Plain) -> str | None:
    if call["claimed_by"] is None:
        return None
    epoch = f", epoch {call['claimed_epoch']}" if call["claimed_epoch"] else ""
    return printable(f"{call['claimed_by']}{epoch}")


def _open(view: Plain, paint: Paint) -> list[str]:
    """The oldest open calls that are not in doubt: those stand above."""
    found = view["open"]
    if not found["count"]:
        return ["no call is open"]
    others = {call_id: call for call_id, call in found["oldest_first"].items() if call["state"] != "in_doubt"}
    rows = [_open_row(view, call_id, call) for call_id, call in list(others.items())[:MOST_OPEN]]
    title = paint("bold", _open_title(view))
    if not rows:
        return [title]
    headers = ("CALL", "GROUP", "METHOD", "RESOURCE", "STATE", "AGE", "CLAIMED BY", "DEADLINE")
    more = _more(found["count"] - len(view["in_doubt"]), MOST_OPEN)
    return [title, table(headers, rows, paint), *more]


def _open_title(view: Plain) -> str:
    count, doubts, retrying = view["open"]["count"], len(view["in_doubt"]), view["retrying"]["count"]
    of_them = [f"{doubts} in doubt, see above"] if doubts else []
    of_them += [f"{retrying} waiting for another attempt"] if retrying else []
    title = f"{count} {'call is' if count == 1 else 'calls are'} open"
    title += f" ({', '.join(of_them)})" if of_them else ""
    return f"{title}, the oldest:" if count > doubts else title


def _open_row(view: Plain, call_id: str, call: Plain) -> list[object]:
    return [
        call_id,
        printable(call["group"]),
        printable(call["method"]),
        printable(call["resource"] or "-"),
        _state(call),
        _age(view, call["made_ns"]),
        _claim(call),
        _deadline(view, call),
    ]


def _state(call: Plain) -> Cell:
    state = call["state"].replace("_", " ")
    if call["state"] == "retry_wait" and call["retry_at"] is not None:
        state = f"retry {call['tries']}, due {call['retry_at'][11:23]}Z"
    if call["cancel"] is not None:
        state = f"{state}, to be cancelled"
    return Cell(state, "red" if call["state"] == "in_doubt" else "")


def _deadline(view: Plain, call: Plain) -> Cell:
    left_ns = call["deadline_ns"] - view["point"]["at_ns"]
    if left_ns < 0:
        return Cell(f"passed {ago(-left_ns / 1e9)} before", "yellow")
    return Cell(f"in {ago(left_ns / 1e9)}")


def _more(count: int, shown: int) -> list[str]:
    return [f"{count - shown} more (--json lists them)"] if count > shown else []


# -- what comes next, and what to look at ---------------------------------------------------------------


_AS_FAR: Final = ", as far as log and heartbeats tell"
"""What servers and probes tell a router is recorded only in what it decides."""


def _decisions(view: Plain, paint: Paint) -> list[str]:
    told = view.get("about_to_decide")
    if not told:
        leads = told is not None and view["leader"]["router"] is not None
        return [f"the leader was about to decide nothing{_AS_FAR}"] if leads else []
    lines = [
        f"  {printable(each['group'])}: {each['type'].rpartition('.v')[0]}: {each['says']}"
        for each in told[:MOST_DECISIONS]
    ]
    return [
        paint("bold", f"the leader was about to decide{_AS_FAR}:"),
        *lines,
        *_more(len(told), MOST_DECISIONS),
    ]


def _notes_block(view: Plain, groups: Plain, paint: Paint) -> list[str]:
    notes: list[str] = []
    for name, group in groups.items():
        notes += [f"{name}: {note}" for note in _of_group(view, group)]
    notes += _of_anomalies(view["anomalies"])
    lines = [paint("yellow", printable(note)) for note in notes[:MOST_NOTES]]
    return [*lines, *_more(len(notes), MOST_NOTES)]


def _of_group(view: Plain, group: Plain) -> Iterator[str]:
    handover = group["handover"]
    if handover is not None:
        done = "; it has finished" if group["yielded_epoch"] else ""
        since = _age(view, handover["since_ns"])
        yield f"handover from {group['active']} to {handover['to']}, for {since}: {handover['cause']}{done}"
    if group["paused_by"] is not None:
        yield f"paused by {group['paused_by']}"
    congestion = group["congestion"]
    if congestion is not None:
        since = _age(view, congestion["since_ns"])
        yield f"congested, for {since}: {congestion['open']} calls open, of {congestion['limit']} at most"
    for who, each in group["instances"].items():
        yield from _of_instance(view, who, each)


def _of_instance(view: Plain, who: str, each: Plain) -> Iterator[str]:
    for_long = _age(view, each["since_ns"])
    if each["role"] == "gone":
        if view["point"]["at_ns"] - each["since_ns"] <= _RECENTLY_NS:
            why = f": {each['refusal']}" if each["refusal"] else ""
            yield f"{who} {_GONE.get(each['state'], each['state'])} {for_long} before{why}"
        return
    if each["state"] not in _SOUND:
        yield f"{who} is {each['state'].partition('_')[0]}, for {for_long}"
    if each["unhealthy"] is not None:
        yield f"{who} is unhealthy: {each['unhealthy']}"
    if each["drain_requested_by"] is not None:
        yield f"{who} is to leave, asks {each['drain_requested_by']}"


_GONE: Final = {"lost": "was lost", "left": "left", "refused": "was refused"}


def _of_anomalies(anomalies: Plain) -> Iterator[str]:
    unknown = anomalies["unknown_types"]
    if unknown:
        named = shorten([f"{name} ({count})" for name, count in unknown.items()], limit=8, width=400)
        total = sum(unknown.values())
        records = "1 record is" if total == 1 else f"{total} records are"
        yield f"{records} of an unknown type or version: {named}: {anomalies['policy']}"
    if anomalies["topology"]:
        named = shorten([f"{name} ({count})" for name, count in anomalies["topology"].items()], 8, 400)
        yield f"records that did not fit, since the log began: {named}"
    for group, found in anomalies["calls"].items():
        named = shorten([f"{name} ({count})" for name, count in found.items()], limit=8, width=400)
        yield f"{group}: words about calls that did not count, since the log began: {named}"
    if anomalies["unreadable"]:
        yield f"{anomalies['unreadable']} records cannot be read at all"
