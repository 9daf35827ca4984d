"""The section of one scenario."""

from __future__ import annotations

from collections.abc import Sequence

from aegisipc.chaos.report.anchors import scenario_anchor
from aegisipc.chaos.report.figures import Figures
from aegisipc.chaos.report.findings import look_further, summary, verdict_list
from aegisipc.chaos.report.markup import Child, Markup, join, tag
from aegisipc.chaos.report.matrix import badge, recovery_text
from aegisipc.chaos.report.tables import tables
from aegisipc.chaos.report.timeline import timeline
from aegisipc.chaos.report.wording import count, counted, lasting, shortened

_MOST_LINES = 50


def section(index: int, figures: Figures) -> Markup:
    """Return the section of the scenario at `index`."""
    run = figures.run
    anchor = scenario_anchor(index, run.name)
    return tag(
        "section",
        tag("h2", tag("a", run.name, href=f"#{anchor}"), " ", badge(figures.status)),
        tag("p", run.about, class_="about") if run.about else None,
        tag("p", f"It could not be run here: {run.skipped}", class_="skipped")
        if run.skipped
        else _told(figures, anchor),
        id=anchor,
        class_="scenario",
    )


def _told(figures: Figures, anchor: str) -> Markup:
    run = figures.run
    return join(
        tag("p", _in_short(figures), class_="in-short"),
        summary(run, anchor),
        timeline(figures, anchor),
        _lines("Nobody handled", run.evidence.unhandled),
        _lines("Still there after the end", run.evidence.leaks),
        tag("h3", "Verdicts")
        if run.judgement.verdicts
        else tag("p", "The run was not judged.", class_="skipped"),
        verdict_list(run, anchor),
        look_further(run),
        tables(figures),
    )


def _in_short(figures: Figures) -> Child:
    run = figures.run
    told = [f"seed {run.seed}", lasting(run.duration_s), counted(figures.called, "call")]
    if figures.called:
        told.append(f"{count(round(figures.calls_per_s))} ok/s")
    told.append(counted(len(figures.recoveries), "fault"))
    if figures.longest_recovery_s is not None:
        told.append(f"longest recovery {recovery_text(figures.longest_recovery_s)}")
    if figures.promotions:
        told.append(counted(len(figures.promotions), "promotion"))
    told += [f"{name} {version}" for name, version in run.versions.items()]
    return " · ".join(told)


def _lines(heading: str, lines: Sequence[str]) -> Markup | None:
    if not lines:
        return None
    hidden = len(lines) - _MOST_LINES
    return tag(
        "details",
        tag("summary", f"{heading}: {count(len(lines))}"),
        tag("ul", (tag("li", tag("code", shortened(line, 1000))) for line in lines[:_MOST_LINES])),
        tag("p", f"And {count(hidden)} more.", class_="muted") if hidden > 0 else None,
        open="open",
        class_="trouble",
    )
