"""Every plan that ever found a defect, run again."""

from __future__ import annotations

from pathlib import Path

import pytest

from aegisipc.chaos.sim.regressions import read_regression, regressions_in
from aegisipc.chaos.sim.running import Runner

FOLDER = Path(__file__).parent.parent / "seeds"


@pytest.mark.parametrize("path", regressions_in(FOLDER), ids=lambda path: path.stem)
def test_what_was_broken_once_holds(path: Path) -> None:
    regression = read_regression(path)
    with Runner() as runner:
        brief = runner.brief(regression.plan)
    assert brief.holds, f"{regression.because}: {[finding.text for finding in brief.findings]}"
