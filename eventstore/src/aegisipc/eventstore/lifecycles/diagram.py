"""Writes ``docs/lifecycles.md`` from the charts and the glossary.

::

    python -m aegisipc.eventstore.lifecycles.diagram docs/lifecycles.md

The page is a function of the code: the same code gives the same bytes, and a test compares them with
the file.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from aegisipc.eventstore.lifecycles.glossary import GLOSSARY, Drawing, Explained
from aegisipc.eventstore.lifecycles.table import Lifecycle

COMMAND = "python -m aegisipc.eventstore.lifecycles.diagram docs/lifecycles.md"

_PREAMBLE = f"""\
<!-- Generated from the charts in eventstore/src/aegisipc/eventstore/lifecycles. Do not edit; run
     {COMMAND} -->

# Lifecycles

Instances, groups, calls and routers each have an explicit lifecycle: a state chart, declared once, from
which the code's transition tables and this page are derived. Except where this page says "no record", what
moves them is in the log, so the states at any moment of the past can be told from it.

An event that a state has no transition for changes nothing when it is read from the log; it is counted as
an anomaly. An attempt to cause one is refused with `IllegalTransition`.
"""


def mermaid(lifecycle: Lifecycle[Any, Any], drawing: Drawing) -> str:
    """Return the Mermaid ``stateDiagram-v2`` text of one drawing of ``lifecycle``, without the fences."""
    edges: dict[tuple[str, str], list[str]] = {}
    for event in lifecycle.events:
        if event in drawing.anywhere:
            edges.setdefault(("anywhere", _only_target(lifecycle, event)), []).append(event)
    for (source, event), target in _ordered(lifecycle):
        if source in drawing.sources and event in drawing.events:
            edges.setdefault((source, target), []).append(event)
    shown = {state for edge in edges for state in edge}
    return "\n".join(["stateDiagram-v2", *_lines(lifecycle, drawing, edges, shown)])


def _lines(
    lifecycle: Lifecycle[Any, Any],
    drawing: Drawing,
    edges: dict[tuple[str, str], list[str]],
    shown: set[str],
) -> Iterator[str]:
    if drawing.anywhere:
        yield '    state "any state" as anywhere'
    if lifecycle.initial in drawing.sources and lifecycle.initial in shown:
        yield f"    [*] --> {lifecycle.initial}"
    for (source, target), events in edges.items():
        yield f"    {source} --> {target} : {', '.join(events)}"
    for state in lifecycle.states:
        if state in lifecycle.final and state in shown:
            yield f"    {state} --> [*]"


def _only_target(lifecycle: Lifecycle[Any, Any], event: StrEnum) -> str:
    targets = {lifecycle.next(state, event) for state in lifecycle.states}
    if len(targets) != 1 or None in targets:
        raise ValueError(f"{event} does not lead from every state to the same one: it needs its own arrows")
    return str(targets.pop())


def _ordered(lifecycle: Lifecycle[Any, Any]) -> Iterator[tuple[tuple[Any, Any], Any]]:
    """Yield the table in the order in which states and events are declared."""
    for state in lifecycle.states:
        for event in lifecycle.events:
            target = lifecycle.next(state, event)
            if target is not None:
                yield (state, event), target


def page() -> str:
    """Return the whole text of ``docs/lifecycles.md``."""
    return "\n".join([_PREAMBLE, *("\n".join(_section(explained)) for explained in GLOSSARY)])


def _section(explained: Explained) -> Iterator[str]:
    lifecycle = explained.lifecycle
    yield from (f"## {lifecycle.name.capitalize()}", "", explained.about, "")
    for drawing in explained.drawings:
        if drawing.caption:
            yield from (drawing.caption, "")
        yield from ("```mermaid", mermaid(lifecycle, drawing), "```", "")
    yield from _table(
        ("state", "what it means"),
        ((f"`{state}`", explained.states[state]) for state in lifecycle.states),
    )
    yield from _table(
        ("event", "written by", "what it says"),
        (
            (f"`{event}`", explained.events[event].writer, explained.events[event].meaning)
            for event in lifecycle.events
        ),
    )
    yield from _table(
        ("in state", "these events lead to"),
        ((f"`{state}`", _exits(lifecycle, state)) for state in lifecycle.states),
    )


def _exits(lifecycle: Lifecycle[Any, Any], source: StrEnum) -> str:
    exits = [f"`{event}` → `{target}`" for (state, event), target in _ordered(lifecycle) if state == source]
    return ", ".join(exits) or "none: final"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|{' --- |' * len(header)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page to the file named on the command line."""
    parser = argparse.ArgumentParser(prog=COMMAND.removesuffix(" docs/lifecycles.md"))
    parser.description = "Write the documentation of the lifecycles."
    parser.add_argument("path", type=Path, help="the file to write, docs/lifecycles.md")
    path: Path = parser.parse_args(arguments).path
    path.write_text(page(), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
