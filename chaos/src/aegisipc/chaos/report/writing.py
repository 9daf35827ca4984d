"""The files of a report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from aegisipc.chaos.report.figures import figures_of
from aegisipc.chaos.report.model import ScenarioRun
from aegisipc.chaos.report.overview import overview_of
from aegisipc.chaos.report.page import page
from aegisipc.chaos.report.plain import to_plain
from aegisipc.eventstore.errors import AegisError

HTML, JSON = "report.html", "report.json"


class ReportUnwritable(AegisError):
    """The files of a report cannot be written. Fields: ``folder``."""

    code = "report_unwritable"


def write_report(runs: Sequence[ScenarioRun], folder: Path, *, command: str) -> Path:
    """Write ``report.html`` and ``report.json`` into `folder`, which is made if it is not there; reports that
    are there already are replaced, each as a whole. `command` is what was run, as a user would type it.
    Return the path of the HTML.

    Raises:
        ReportUnwritable: the folder or a file in it cannot be written.
    """
    all_figures = [figures_of(run) for run in runs]
    overview = overview_of(all_figures, command)
    plain = json.dumps(to_plain(all_figures, overview), indent=1, allow_nan=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _replace(folder / JSON, plain + "\n")
        _replace(folder / HTML, page(all_figures, overview))
    except OSError as error:
        raise ReportUnwritable(
            f"cannot write the report to {folder}: {error}; give another folder, or make room there",
            folder=str(folder),
        ) from error
    return folder / HTML


def _replace(path: Path, content: str) -> None:
    """Write a file so that whoever reads it sees the old one or the new one, never a part."""
    draft = path.with_name(f".{path.name}.draft")
    try:
        draft.write_text(content, encoding="utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
