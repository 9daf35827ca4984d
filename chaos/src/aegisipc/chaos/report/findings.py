"""Verdicts with what contradicts them: the sentence, the shortest history, and where to look further."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from aegisipc.chaos.report.anchors import verdict_anchor
from aegisipc.chaos.report.figures import BROKEN, EMPTY, status_of
from aegisipc.chaos.report.markup import Markup, join, tag
from aegisipc.chaos.report.matrix import SIGNS, badge, look
from aegisipc.chaos.report.model import ScenarioRun
from aegisipc.chaos.report.wording import count, counted, shortened
from aegisipc.chaos.verdicts import Finding, Verdict

MOST_FINDINGS = 100
"""Of one verdict; the rest is counted."""

_MOST_IDS = 12
_MOST_LINES = 300
_LONGEST_LINE = 400
_LONGEST_TEXT = 2000


def summary(run: ScenarioRun, anchor: str) -> Markup | None:
    """Return what is broken in a few lines, with links and the most telling command; ``None`` if everything
    holds.
    """
    items = [
        tag(
            "li",
            tag(
                "a",
                tag("b", f"{SIGNS[BROKEN]} {verdict.name}"),
                href=f"#{verdict_anchor(anchor, index, verdict.name)}",
            ),
            " ",
            shortened(verdict.findings[0].text, 300),
            f" (and {counted(len(verdict.findings) - 1, 'more finding')})"
            if len(verdict.findings) > 1
            else None,
        )
        for index, verdict in enumerate(run.judgement.verdicts)
        if not verdict.holds
    ]
    if not items:
        return None
    return tag("div", tag("ul", items), commands(run.replay[:1]), class_="broken-list")


def look_further(run: ScenarioRun) -> Markup | None:
    """Return the commands that lead into the log, and the files that were kept."""
    files = [tag("li", name, ": ", _file(path)) for name, path in run.artefacts.items()]
    if not files and not run.replay:
        return None
    return tag(
        "div",
        tag("h4", "Look into it"),
        tag("p", "From the folder of this report:", class_="muted") if run.replay else None,
        commands(run.replay),
        tag("ul", files, class_="files") if files else None,
    )


def commands(lines: Sequence[str]) -> Markup:
    """Return commands to copy, each on its own; the button is shown by the script."""
    return join(
        tag("div", tag("code", each), tag("button", "copy", type="button", hidden="hidden"), class_="command")
        for each in lines
    )


def _file(path: str) -> Markup:
    """Return a link to a file beside the report; anything that could lead elsewhere is text only."""
    parts = path.replace("\\", "/").split("/")
    is_inside = path and ":" not in path and "" not in parts[:-1] and ".." not in parts
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "/._-~") else _percent(c) for c in path)
    return tag("a", tag("code", path), href=f"./{safe}") if is_inside else tag("code", path)


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "replace"))


def verdict_list(run: ScenarioRun, anchor: str) -> Markup:
    """Return all verdicts of a run; the broken ones first, with everything that is known of them."""
    order = sorted(enumerate(run.judgement.verdicts), key=lambda item: item[1].holds)
    return tag("div", (_verdict(run, anchor, index, verdict) for index, verdict in order), class_="verdicts")


def _verdict(run: ScenarioRun, anchor: str, index: int, verdict: Verdict) -> Markup:
    status = status_of(verdict)
    seen = f"{counted(verdict.looked_at, 'thing')} looked at" if status != EMPTY else "says nothing"
    return tag(
        "article",
        tag("h4", verdict.name, " ", badge(status)),
        tag("p", verdict.promise, class_="promise"),
        tag("p", seen, class_="seen"),
        _findings(run, verdict) if verdict.findings else None,
        id=verdict_anchor(anchor, index, verdict.name),
        class_=f"verdict {look(status)}",
    )


def _findings(run: ScenarioRun, verdict: Verdict) -> Markup:
    shown = verdict.findings[:MOST_FINDINGS]
    hidden = len(verdict.findings) - len(shown)
    shortest = run.shortest.get(verdict.name, [])
    items = [
        tag("li", _finding(finding), None if index else _shortest(shortest), _commands(run, finding, index))
        for index, finding in enumerate(shown)
    ]
    return tag(
        "div",
        tag("ol", items[:3], class_="findings"),
        tag(
            "details",
            tag("summary", counted(len(items) - 3, "more finding")),
            tag("ol", items[3:], class_="findings", start=4),
        )
        if len(items) > 3
        else None,
        tag("p", f"And {count(hidden)} more that are not listed here.", class_="muted") if hidden else None,
    )


def _finding(finding: Finding) -> Markup:
    return join(
        tag("p", shortened(finding.text, _LONGEST_TEXT), class_="finding"),
        tag("p", join(*_ids(finding)), class_="ids"),
    )


def _commands(run: ScenarioRun, finding: Finding, index: int) -> Markup:
    """Return all commands for the first finding, one for each of the others."""
    told = list(_into_the_log(run, finding))
    return commands(told[:1] if index else told)


def _ids(finding: Finding) -> Iterator[Markup]:
    named: tuple[tuple[str, Sequence[object]], ...] = (
        ("calls", finding.call_ids),
        ("operations", finding.numbers),
        ("records", finding.seqs),
    )
    for name, values in named:
        if values:
            more = f" and {count(len(values) - _MOST_IDS)} more" if len(values) > _MOST_IDS else ""
            shown = (join(" ", tag("code", shortened(str(value), 100))) for value in values[:_MOST_IDS])
            yield tag("span", f"{name}:", shown, more)


def _into_the_log(run: ScenarioRun, finding: Finding) -> Iterator[str]:
    """Yield commands about the calls and records of a finding, if the log was kept."""
    bundle = run.artefacts.get("bundle")
    if not bundle:
        return
    of = f"--bundle {shlex.quote(bundle)}"
    told = [f"aegis replay --why call {shlex.quote(call_id)} {of}" for call_id in finding.call_ids[:2]]
    told += [f"aegis replay --diff before:{seq} {seq} {of}" for seq in finding.seqs[:2]]
    yield from (each for each in told if each not in run.replay)


def _shortest(lines: Sequence[str]) -> Markup | None:
    if not lines:
        return None
    shown = [shortened(line, _LONGEST_LINE) for line in lines[:_MOST_LINES]]
    hidden = len(lines) - len(shown)
    words = f"The shortest history that shows it, {counted(len(lines), 'line')}"
    return tag(
        "details",
        tag("summary", words),
        tag("pre", "\n".join(shown)),
        tag("p", f"And {counted(hidden, 'more line')}.", class_="muted") if hidden else None,
        open="open",
    )
