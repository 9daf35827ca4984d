"""The text of ``aegis replay --diff`` and ``--follow``: what changed, group by group."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, Final

from aegisipc.eventstore.cli.output import Paint, ago, printable
from aegisipc.eventstore.replay import Change

type Plain = Mapping[str, Any]

_MOST: Final = 200
_LONGEST: Final = 160
_LEFT_OUT: Final = frozenset({"left_out"})


def as_text(before: Plain, after: Plain, changes: Sequence[Change], source: str, paint: Paint) -> str:
    """Tell what changed between two views."""
    first, second = before["point"], after["point"]
    passed_ns = second["at_ns"] - first["at_ns"]
    passed = f"{ago(passed_ns / 1e9)} later" if passed_ns else "at that moment"
    head = [
        printable(source),
        f"from sequence {first['seq']}, {first['at']} ({printable(first['asked'])})",
        f"to   sequence {second['seq']}, {second['at']} ({printable(second['asked'])}), {passed}",
        "",
    ]
    lines = told(changes, paint)
    return "\n".join([*head, *(lines or ["nothing changed but the time"])])


def told(changes: Iterable[Change], paint: Paint) -> list[str]:
    """Return the changes as lines, under what they are about; a time is told once, and not as a number."""
    lines: list[str] = []
    count = 0
    for about, found in groupby(filter(_is_told, changes), _about):
        lines.append(paint("bold", printable(about)))
        for change in found:
            count += 1
            if count <= _MOST:
                lines.append(f"  {_line(change, paint)}")
    if count > _MOST:
        lines.append(f"{count - _MOST} more changes (--json lists them)")
    return lines


def _is_told(change: Change) -> bool:
    return not change.path[-1].endswith("_ns") and change.path[-1] not in _LEFT_OUT


def _about(change: Change) -> str:
    """What a change is about: a group, or what else the view has."""
    if change.path[0] == "groups" and len(change.path) > 1:
        return change.path[1]
    return _NAMES.get(change.path[0], change.path[0])


_NAMES: Final = {"in_doubt": "in doubt", "open": "open calls", "retrying": "waiting for another attempt"}


def _line(change: Change, paint: Paint) -> str:
    path = change.path[2:] if change.path[0] == "groups" else change.path[1:]
    path = tuple(part for part in path if part != "oldest_first")
    name = printable(" ".join(path))
    if change.kind == "added" and (change.before is None and not isinstance(change.after, Mapping)):
        return f"{name}: {paint('dim', '-')} → {paint('green', _value(change.after))}"
    if change.kind == "added":
        return f"{paint('green', '+')} {name}{_said(change.after)}"
    if change.kind == "removed" and isinstance(change.before, Mapping):
        return f"{paint('red', '-')} {name}{_said(change.before)}"
    after = "-" if change.after is None else _value(change.after)
    return f"{name}: {paint('dim', _value(change.before))} → {paint('green', after)}"


def _said(value: Any) -> str:
    """What came or went, in a line: of calls and instances what matters most."""
    if not isinstance(value, Mapping):
        return f": {_value(value)}"
    if "method" in value:
        resource = f" for {value['resource']}" if value["resource"] else ""
        claimed = f", claimed by {value['claimed_by']}" if value["claimed_by"] else ""
        return printable(f": {value['group']} {value['method']}{resource}, {value['state']}{claimed}")
    if "role" in value:
        return printable(f": {value['role']}, {value['state']}, since {value['since']}")
    return f": {_value({key: each for key, each in value.items() if not str(key).endswith('_ns')})}"


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = printable(text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
