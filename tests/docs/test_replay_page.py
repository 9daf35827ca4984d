"""The example of docs/replay.md does what the page says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from aegisipc.eventstore.ids import format_call_id
from tests.eventstore.replay.bundle_kit import Incident, exported

PAGE = (Path(__file__).parents[2] / "docs" / "replay.md").read_text(encoding="utf-8")


async def test_the_example_tells_who_was_active_and_why_a_call_is_in_doubt(tmp_path: Path) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(code, "docs/replay.md", "exec", dont_inherit=True), names)
    incident = Incident()
    path = tmp_path / "incident.aegis"
    await exported(incident.source, path)
    group, why = await names["doubts_after"](str(path), "in_doubt")
    assert group.endswith(": b, epoch 2")
    assert format_call_id(incident.doubtful) in why
    assert "in doubt" in why
