"""The page: its head, what is said at the top, and a section for each scenario."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files

from aegisipc.chaos.report.figures import BROKEN, Figures
from aegisipc.chaos.report.markup import Child, Markup, join, tag
from aegisipc.chaos.report.matrix import SIGNS, look, matrix, recovery_text
from aegisipc.chaos.report.overview import Overview, seeds_text
from aegisipc.chaos.report.sections import section
from aegisipc.chaos.report.wording import count

_MOST_OUTCOMES = 6


@cache
def _asset(name: str) -> Markup:
    """Return a file of this package that goes into the page as it is: it holds no ``<`` and no ``&``."""
    return Markup(files(__package__).joinpath(name).read_text(encoding="utf-8"))


def page(all_figures: Sequence[Figures], overview: Overview) -> str:
    """Return the whole document: well-formed XML that is HTML, and asks no network for anything."""
    body = tag(
        "body",
        _patterns(),
        tag("header", _top(all_figures, overview)),
        tag("main", _sections(all_figures)),
        tag("script", _asset("script.js")),
    )
    return "<!DOCTYPE html>\n" + tag("html", _head(overview), body, lang="en")


def _head(overview: Overview) -> Markup:
    digest = base64.b64encode(hashlib.sha256(_asset("script.js").encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag(
            "title",
            f"{SIGNS[overview.status]} AegisIPC chaos report, {overview.written_at:%Y-%m-%d %H:%M} UTC",
        ),
        tag("style", _asset("style.css")),
    )


def _top(all_figures: Sequence[Figures], overview: Overview) -> Markup:
    about: list[tuple[str, Child]] = [
        ("written", f"{overview.written_at:%Y-%m-%d %H:%M:%S} UTC"),
        ("command", tag("code", overview.command)),
        ("seed", seeds_text(all_figures)),
        ("versions", " · ".join(f"{name} {version}" for name, version in overview.versions.items())),
    ]
    sign = tag("span", SIGNS[overview.status], class_="sign", aria_hidden="true")
    return join(
        tag("p", "AegisIPC chaos report", class_="kicker"),
        tag("h1", sign, tag("span", overview.sentence), class_=look(overview.status)),
        tag("p", overview.remark, class_="remark") if overview.remark else None,
        tag(
            "dl", (tag("div", tag("dt", name), tag("dd", value)) for name, value in about), class_="about-run"
        ),
        tag("ul", _totals(all_figures, overview), class_="totals"),
        matrix(all_figures),
    )


def _totals(all_figures: Sequence[Figures], overview: Overview) -> Iterator[Markup]:
    outcomes = overview.outcomes.most_common()
    rest = sum(number for _, number in outcomes[_MOST_OUTCOMES:])
    numbers = [
        ("scenarios", count(len(all_figures))),
        ("calls", count(overview.calls)),
        *((name, count(number)) for name, number in outcomes[:_MOST_OUTCOMES]),
        *([("other outcomes", count(rest))] if rest else []),
        ("faults", count(overview.faults)),
        ("longest recovery", recovery_text(overview.longest_recovery_s)),
    ]
    for name, number in numbers:
        yield tag("li", tag("b", number), tag("span", name))


def _sections(all_figures: Sequence[Figures]) -> Iterator[Markup]:
    """Yield the sections: what is broken first, else in the order of the runs."""
    for index, figures in sorted(enumerate(all_figures), key=lambda item: item[1].status != BROKEN):
        yield section(index, figures)


def _patterns() -> Markup:
    """Return the fills that tell shapes apart without colour, for all pictures of the page."""
    stripes = {
        "hatch": "M-1,1l2,-2M0,6l6,-6M5,7l2,-2",
        "back": "M-1,5l2,2M0,0l6,6M5,-1l2,2",
        "dots": "M2,3h2",
    }
    return tag(
        "svg",
        tag(
            "defs",
            (
                tag(
                    "pattern",
                    tag("path", d=path, class_=f"pattern-{name}"),
                    id=f"{name}",
                    width=6,
                    height=6,
                    patternUnits="userSpaceOnUse",
                )
                for name, path in stripes.items()
            ),
        ),
        class_="patterns",
        width=0,
        height=0,
        aria_hidden="true",
    )
