"""Scenarios by invariants: what holds, each cell a link to what it stands for."""

from __future__ import annotations

from collections.abc import Sequence

from aegisipc.chaos.report.anchors import scenario_anchor, verdict_anchor
from aegisipc.chaos.report.figures import BROKEN, EMPTY, HOLDS, SKIPPED, UNJUDGED, Figures, status_of
from aegisipc.chaos.report.markup import Markup, tag
from aegisipc.chaos.report.wording import DASH, count, lasting

SIGNS = {HOLDS: "✓", BROKEN: "✕", EMPTY: "∅", SKIPPED: DASH, UNJUDGED: "?"}
"""Each status has a sign of its own, so that nothing is said by colour alone."""

WORDS = {
    HOLDS: "holds",
    BROKEN: "broken",
    EMPTY: "nothing looked at",
    SKIPPED: "skipped",
    UNJUDGED: "not judged",
}


def look(status: str) -> str:
    """Return the class of the look of a status."""
    return f"is-{status.replace(' ', '-')}"


def badge(status: str) -> Markup:
    """Return a status as a sign with its word."""
    return tag(
        "span",
        tag("b", SIGNS[status], aria_hidden="true"),
        f" {WORDS[status]}",
        class_=f"badge {look(status)}",
    )


def matrix(all_figures: Sequence[Figures]) -> Markup | None:
    """Return the table; ``None`` if there is no run."""
    if not all_figures:
        return None
    names = list(dict.fromkeys(v.name for figures in all_figures for v in figures.run.judgement.verdicts))
    promises = {v.name: v.promise for figures in all_figures for v in figures.run.judgement.verdicts}
    head = tag(
        "tr",
        tag("th", "scenario", scope="col", class_="corner"),
        (tag("th", tag("span", name), scope="col", class_="turned", title=promises[name]) for name in names),
        None if names else tag("th", "verdicts", scope="col"),
        (tag("th", words, scope="col", class_="number") for words in ("calls", "faults", "recovery")),
    )
    rows = (_row(index, figures, names) for index, figures in enumerate(all_figures))
    used = {status_of(v) for figures in all_figures for v in figures.run.judgement.verdicts}
    used |= {figures.status for figures in all_figures}
    legend = tag("p", (badge(status) for status in SIGNS if status in used), class_="legend")
    table = tag("table", tag("thead", head), tag("tbody", rows), class_="matrix")
    return tag(
        "div", tag("div", table, class_="scroll", tabindex=0, role="group", aria_label="Verdicts"), legend
    )


def _row(index: int, figures: Figures, names: Sequence[str]) -> Markup:
    run = figures.run
    anchor = scenario_anchor(index, run.name)
    first = tag("th", tag("a", run.name, href=f"#{anchor}"), scope="row", class_=look(figures.status))
    if run.skipped:
        why = tag("a", badge(SKIPPED), " ", tag("span", run.skipped, class_="muted"), href=f"#{anchor}")
        return tag("tr", first, tag("td", why, colspan=max(len(names), 1) + 3, class_="why"))
    if figures.status == UNJUDGED:
        link = tag("a", badge(UNJUDGED), href=f"#{anchor}")
        return tag("tr", first, tag("td", link, colspan=max(len(names), 1), class_="why"), _numbers(figures))
    return tag("tr", first, (_cell(figures, anchor, name) for name in names), _numbers(figures))


def _cell(figures: Figures, anchor: str, name: str) -> Markup:
    for index, verdict in enumerate(figures.run.judgement.verdicts):
        if verdict.name == name:
            status = status_of(verdict)
            told = f"{figures.run.name}, {name}: {WORDS[status]}; {count(verdict.looked_at)} looked at"
            sign = tag("b", SIGNS[status], aria_hidden="true")
            number = count(len(verdict.findings)) if verdict.findings else None
            href = f"#{verdict_anchor(anchor, index, name)}"
            link = tag("a", sign, number, href=href, title=told, aria_label=told)
            return tag("td", link, class_=look(status))
    return tag("td", "", class_="is-absent", title=f"{name} is not judged in this scenario")


def _numbers(figures: Figures) -> list[Markup]:
    texts = (
        count(figures.called),
        counted_or_dash(len(figures.recoveries)),
        recovery_text(figures.longest_recovery_s),
    )
    return [tag("td", words, class_="number") for words in texts]


def counted_or_dash(number: int) -> str:
    """Return a number, or a dash for none."""
    return count(number) if number else DASH


def recovery_text(seconds: float | None) -> str:
    """Return how long a recovery took, in words."""
    if seconds is None:
        return DASH
    return "not in the run" if seconds == float("inf") else lasting(seconds)
