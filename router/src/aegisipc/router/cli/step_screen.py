"""The panes of ``aegis replay --step``: the event, what it changed, who is active where, and open calls."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.layout import Layout
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from aegisipc.eventstore.cli.output import Paint, ago, printable
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.replay.moments import to_the_ms
from aegisipc.eventstore.replay.stepping import Stepper
from aegisipc.eventstore.subjects import Subjects
from aegisipc.router.cli.records import as_line, as_plain
from aegisipc.router.cli.replay_changes import told

type Plain = Mapping[str, Any]

HELP: Final = (
    "n → forward  b ← back  10n ten at once  p P promotion  d D doubt  f F failure  s S suspicion "
    "(capitals: back)  g go to a point  q quit"
)
SHORT_HELP: Final = "n → b ← step  10n ten  p d f s next (capitals: back)  g go to  q quit"
"""For terminals on which the other one has no room: who cannot read how to quit, cannot."""
_MOST_ROWS: Final = 200
"""Rows of a pane that are made; the screen shows those that fit."""
_LONGEST: Final = 200
_LEFT_OUT: Final = frozenset({"seq", "time", "subject", "bytes", "service", "group", "kind", "who", "type"})
_BAD_STATES: Final = ("suspected", "lost", "refused")


@dataclass(frozen=True, slots=True)
class Shown:
    """All that the screen shows: a place, what is there, and what was typed."""

    source: str
    record: Record | None
    view: Plain
    changes: Sequence[str]
    message: str = ""
    is_trouble: bool = False
    count: str = ""
    prompt: str | None = None
    filters: str = ""


async def shown_at(stepper: Stepper, **more: Any) -> Shown:
    """Look at the place where `stepper` is."""
    view = stepper.view(await stepper.board())
    changes = told(stepper.changes(), Paint())
    filters = stepper.filters.said
    return Shown(stepper.source.about, stepper.record, view, changes, filters=filters, **more)


def screen(shown: Shown, subjects: Subjects) -> RenderableType:
    """Return the whole screen."""
    layout = Layout()
    layout.split_column(
        Layout(_head(shown), size=1),
        Layout(name="upper", ratio=5),
        Layout(name="lower", ratio=6),
        Layout(_foot(shown), size=2),
    )
    layout["upper"].split_row(
        Layout(Panel(_event(shown, subjects), title="event", title_align="left"), ratio=1),
        Layout(Panel(_changed(shown), title="changed by it", title_align="left"), ratio=1),
    )
    layout["lower"].split_column(
        Layout(Panel(_groups(shown.view), title="groups", title_align="left"), ratio=1),
        Layout(Panel(_calls(shown.view), title=_calls_title(shown.view), title_align="left"), ratio=1),
    )
    return layout


def _head(shown: Shown) -> Text:
    point = shown.view["point"]
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append(f"sequence {point['seq']} of {point['log']['last_seq']}", "bold")
    text.append(f"  {to_the_ms(point['at_ns'])}", "bold cyan")
    lead = shown.view["leader"]
    router = printable(lead["router"] or "")
    led = f"router {router} leads term {lead['term']}" if router else "nobody leads"
    text.append(f"  {led}", "" if lead["router"] else "yellow")
    text.append(f"  {printable(shown.source)}", "dim")
    if shown.filters:
        text.append(f"  only {printable(shown.filters)}", "yellow")
    return text


class _Help:
    """The line that tells the keys: the longest that fits."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        told = HELP if cell_len(HELP) <= options.max_width else SHORT_HELP
        yield Text(told, "dim", no_wrap=True, overflow="ellipsis")


def _foot(shown: Shown) -> RenderableType:
    text = Text(no_wrap=True, overflow="ellipsis")
    if shown.prompt is not None:
        text.append("go to (time, -5m, sequence, call id, event; Escape: stay): ", "bold")
        text.append(f"{shown.prompt}▏")
    elif shown.count:
        text.append(f"{shown.count} …", "bold")
    else:
        text.append(printable(shown.message), "yellow" if shown.is_trouble else "")
    return Group(text, _Help())


# -- the event ------------------------------------------------------------------------------------------


def _event(shown: Shown, subjects: Subjects) -> RenderableType:
    if shown.record is None:
        return Text("before the first record: nothing has happened yet", "dim")
    plain = as_plain(shown.record, subjects)
    lines = [Text.from_ansi(as_line(shown.record, subjects, Paint())), Text()]
    lines += [Text(line) for line in _data(plain)]
    return Group(*lines)


def _data(plain: Plain) -> list[str]:
    """What the record holds, a line for each part."""
    data = plain.get("data")
    parts = data if isinstance(data, dict) else {k: v for k, v in plain.items() if k not in _LEFT_OUT}
    lines: list[str] = []
    for name, value in parts.items():
        if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
            lines.append(f"{name}:")
            lines += [f"  {_compact(each)}" for each in value[:_MOST_ROWS]]
        elif isinstance(value, dict):
            lines += [f"{name}:", *(f"  {key}: {_compact(each)}" for key, each in value.items())]
        else:
            lines.append(f"{name}: {_compact(value)}")
    return [printable(line)[:_LONGEST] for line in lines[:_MOST_ROWS]]


def _compact(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_compact(each)}" for name, each in value.items() if each is not None)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _changed(shown: Shown) -> RenderableType:
    if not shown.changes:
        return Text("nothing but the time", "dim")
    lines = [Text.from_ansi(line, no_wrap=True, overflow="ellipsis") for line in shown.changes[:_MOST_ROWS]]
    return Group(*lines)


# -- groups and calls -----------------------------------------------------------------------------------


def _groups(view: Plain) -> RenderableType:
    groups: Mapping[str, Plain] = view["groups"]
    if not groups:
        return Text("no group has an instance yet", "dim")
    table = _table("GROUP", "EPOCH", "ACTIVE (PULSE)", "SINCE", "OPEN", "DOUBT", "OTHERS (PULSE)", "WHY")
    for name, group in list(groups.items())[:_MOST_ROWS]:
        calls, active = group["calls"], group["active"]
        others = [
            _instance(view, name, each, told)
            for each, told in group["instances"].items()
            if each != active and told["state"] not in ("left", "lost", "refused")
        ]
        table.add_row(
            Text(printable(name)),
            str(group["epoch"] or "-"),
            _active(view, name, group),
            _age(view, group["since_ns"]) if group["since_ns"] else "-",
            str(calls["open"]),
            Text(str(calls["in_doubt"]), "yellow" if calls["in_doubt"] else ""),
            Text(", ").join(others) if others else Text("-"),
            Text(printable(group["why"]), overflow="ellipsis", no_wrap=True),
        )
    return table


def _active(view: Plain, name: str, group: Plain) -> Text:
    if group["mode"] == "pool":
        return Text("pool", "dim")
    if group["active"] is None:
        return Text("nobody", "bold red")
    told = group["instances"].get(group["active"], {"state": "unknown"})
    return _instance(view, name, group["active"], told, is_active=True)


def _instance(view: Plain, group: str, name: str, told: Plain, *, is_active: bool = False) -> Text:
    state = str(told["state"])
    pulse = view["heartbeats"]["instances"].get(f"{group}/{name}")
    heard = f" ({_age(view, pulse['at_ns'])})" if pulse is not None else ""
    is_bad = state.startswith(_BAD_STATES)
    usual = "active" if is_active else "standby"
    shown = "" if state == usual else f" {state.partition('_')[0]}"
    style = "yellow" if is_bad else "green" if is_active else ""
    return Text(f"{printable(name)}{shown}{heard}", style)


def _calls_title(view: Plain) -> str:
    doubts, retrying = len(view["in_doubt"]), view["retrying"]["count"]
    return f"calls: {view['open']['count']} open, {doubts} in doubt, {retrying} to be tried again"


def _calls(view: Plain) -> RenderableType:
    rows = list(_rows(view))
    if not rows:
        return Text("no call is open", "dim")
    table = _table("CALL", "GROUP", "METHOD", "RESOURCE", "STATE", "AGE", "BEGUN BY", "CLIENT")
    for call_id, call in rows[:_MOST_ROWS]:
        state = str(call["state"])
        style = "yellow" if state in ("in_doubt", "retry_wait") else ""
        table.add_row(
            call_id,
            Text(printable(call["group"])),
            Text(printable(call["method"])),
            Text(printable(call["resource"] or "-")),
            Text(state.replace("_", " "), style),
            _age(view, call["made_ns"]),
            Text(printable(call["claimed_by"] or "-")),
            Text(printable(call["client"])),
        )
    return table


def _rows(view: Plain) -> Iterable[tuple[str, Plain]]:
    """Those in doubt first, then the oldest."""
    listed: dict[str, Plain] = dict(view["in_doubt"])
    for name in ("retrying", "open"):
        for call_id, call in view[name]["oldest_first"].items():
            listed.setdefault(call_id, call)
    return listed.items()


def _table(*headers: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", expand=True)
    for header in headers:
        is_last = header in ("WHY", "CLIENT")
        table.add_column(header, no_wrap=True, overflow="ellipsis", ratio=1 if is_last else None)
    return table


def _age(view: Plain, since_ns: int) -> str:
    return ago(max(0, view["point"]["at_ns"] - since_ns) / 1e9)
