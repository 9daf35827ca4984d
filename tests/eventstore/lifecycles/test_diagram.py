"""The documentation of the lifecycles is complete, and is what the code says today."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from aegisipc.eventstore.lifecycles import GROUP, GroupEvent
from aegisipc.eventstore.lifecycles.diagram import COMMAND, main, mermaid, page
from aegisipc.eventstore.lifecycles.glossary import GLOSSARY, Drawing, Explained

DOCUMENT = Path(__file__).parents[3] / "docs" / "lifecycles.md"
ARROW = re.compile(r"^    (\w+) --> (\w+) : (.+)$", re.MULTILINE)
every_lifecycle = pytest.mark.parametrize(
    "explained", GLOSSARY, ids=lambda explained: explained.lifecycle.name
)


def drawn(explained: Explained) -> Counter[tuple[str, str, str]]:
    """Read the transitions back from the text of a lifecycle's diagrams."""
    found: Counter[tuple[str, str, str]] = Counter()
    for drawing in explained.drawings:
        for source, target, events in ARROW.findall(mermaid(explained.lifecycle, drawing)):
            sources = explained.lifecycle.states if source == "anywhere" else [source]
            found.update((str(state), event, target) for state in sources for event in events.split(", "))
    return found


def test_the_document_is_current() -> None:
    current = DOCUMENT.read_text(encoding="utf-8") if DOCUMENT.exists() else ""
    if current != page():
        pytest.fail(f"docs/lifecycles.md is stale; run from the repository's root: {COMMAND}", pytrace=False)


@every_lifecycle
def test_the_diagrams_show_every_transition_exactly_once(explained: Explained) -> None:
    table = explained.lifecycle.table
    assert drawn(explained) == Counter((str(s), str(e), str(to)) for (s, e), to in table.items())


@every_lifecycle
def test_the_birth_and_the_final_states_are_marked(explained: Explained) -> None:
    lifecycle = explained.lifecycle
    text = "\n".join(mermaid(lifecycle, drawing) for drawing in explained.drawings)
    assert set(re.findall(r"\[\*\] --> (\w+)", text)) == {lifecycle.initial}
    assert set(re.findall(r"(\w+) --> \[\*\]", text)) == lifecycle.final


@every_lifecycle
def test_every_state_and_every_event_is_explained(explained: Explained) -> None:
    assert tuple(explained.states) == explained.lifecycle.states
    assert tuple(explained.events) == explained.lifecycle.events
    cells = [*explained.states.values(), *(f"{e.writer} {e.meaning}" for e in explained.events.values())]
    assert all(cell.strip() and "|" not in cell and "\n" not in cell for cell in cells)


def test_an_event_that_does_not_lead_from_everywhere_to_one_state_is_not_drawn_so() -> None:
    drawing = Drawing(frozenset(), frozenset(), anywhere=frozenset({GroupEvent.HANDOVER_STARTED}))
    with pytest.raises(ValueError, match="handover_started does not lead"):
        mermaid(GROUP, drawing)


def test_the_command_writes_the_document(tmp_path: Path) -> None:
    path = tmp_path / "lifecycles.md"
    main([str(path)])
    assert path.read_bytes() == page().encode()


def test_programs_that_fold_load_neither_the_glossary_nor_a_drawing_library() -> None:
    probe = "import sys, aegisipc.eventstore.lifecycles; print(*sys.modules)"
    output = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout
    loaded = {name for name in output.split() if "glossary" in name or "diagram" in name or "pydot" in name}
    assert loaded == set()
