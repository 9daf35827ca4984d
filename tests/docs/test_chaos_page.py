"""docs/chaos.md has every fault, scenario, invariant and mutant that there is, and its example is true."""

from __future__ import annotations

import re
from typing import Any

import pytest

from aegisipc.chaos.real.scenarios import SCENARIOS
from aegisipc.chaos.sim.plan import Break
from aegisipc.chaos.verdicts import Verdict
from tests.docs.chaos_tables import COMMAND, PAGE, invariants, written

TEXT = PAGE.read_text(encoding="utf-8")
SEEDS = range(1, 9)
"""One of them may expand to a plan that does not show the defect; all of them do not."""


def rows_of(*headings: str) -> list[list[str]]:
    """The cells of all rows of the tables in the sections of these headings."""
    found: list[list[str]] = []
    for heading in headings:
        (section,) = re.findall(
            rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", TEXT, re.MULTILINE | re.DOTALL
        )
        lines = [line for line in section.splitlines() if line.startswith("|")]
        found += [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    return found


FAULTS = rows_of("Processes", "Server and disk", "Network", "Clocks, messages, load")


@pytest.mark.parametrize("kind", list(Break))
def test_each_fault_of_the_simulation_has_a_row(kind: Break) -> None:
    assert any(f"`{kind}`" in row[1] for row in FAULTS)


@pytest.mark.parametrize("name", SCENARIOS)
def test_each_scenario_has_a_row(name: str) -> None:
    assert any(f"`{name}`" in row[2] for row in FAULTS)


def test_the_page_counts_the_scenarios() -> None:
    assert f"broken in {len(SCENARIOS)} ways" in TEXT


def test_no_row_names_a_fault_or_a_scenario_that_is_not_there() -> None:
    simulated = {name for row in FAULTS for name in re.findall(r"`([a-z-]+)`", row[1])}
    scenarios = {name for row in FAULTS for name in re.findall(r"`([a-z-]+)`", row[2])}
    assert simulated <= {*map(str, Break), "syncs"}
    assert scenarios <= set(SCENARIOS)


@pytest.mark.parametrize("verdict", invariants(), ids=lambda verdict: verdict.name)
def test_each_invariant_has_a_row_with_its_promise(verdict: Verdict) -> None:
    begin = f"| `{verdict.name}` | {verdict.promise} | "
    assert begin in TEXT, f"docs/chaos.md has no row that begins with {begin}"


def test_the_mutants_are_those_of_the_registry() -> None:
    if written(TEXT) != TEXT:
        pytest.fail(f"docs/chaos.md is stale; run from the repository's root: {COMMAND}", pytrace=False)


def test_the_example_shows_what_the_page_says() -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(code, "docs/chaos.md", "exec", dont_inherit=True), names)
    assert any("G2" in names["broken_by"]("answer-before-durable", seed) for seed in SEEDS)
