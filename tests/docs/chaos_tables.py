"""Writes the part of docs/chaos.md about mutants from their registry.

``python -m tests.docs.chaos_tables``
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from aegisipc.chaos.checking import judge
from aegisipc.chaos.history import Evidence
from aegisipc.chaos.log_facts import LogFacts
from aegisipc.chaos.mutants import MUTANTS
from aegisipc.chaos.mutants.real import REAL
from aegisipc.chaos.verdicts import Verdict

PAGE: Final = Path(__file__).parents[2] / "docs" / "chaos.md"
COMMAND: Final = "python -m tests.docs.chaos_tables"
BEGIN: Final = f"<!-- Generated from the registry of mutants. Do not edit; run {COMMAND} -->\n"
END: Final = "<!-- end of what is generated -->\n"


def invariants() -> tuple[Verdict, ...]:
    """Return a verdict of each invariant, about nothing."""
    return judge(Evidence(), LogFacts()).verdicts


def written(page: str) -> str:
    """Return the page with the part about mutants as it should be.

    Raises:
        ValueError: the page has no such part.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"docs/chaos.md has no place for the mutants: it needs the lines {BEGIN}{END}")
    return f"{before}{begin}\n{_mutants()}\n{end}{after}"


def _mutants() -> str:
    rows = ["| name | what it breaks | expected to be caught by one of |", "|---|---|---|"]
    rows += [f"| `{each.name}` | {each.breaks} | {_listed(each.expected)} |" for each in MUTANTS.values()]
    expected = {name for mutant in MUTANTS.values() for name in mutant.expected}
    others = _listed([verdict.name for verdict in invariants() if verdict.name not in expected])
    rows += [
        "",
        f"Caught in real processes, too (`chaos/mutants/real.py`): {_listed(sorted(REAL))}.",
        "",
        f"Invariants that no mutant is made for: {others or 'none'}.",
        "",
    ]
    return "\n".join(rows)


def _listed(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
