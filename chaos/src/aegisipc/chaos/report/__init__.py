"""The report of runs: one HTML file that opens from disk, and the same in numbers as JSON."""

from aegisipc.chaos.report.model import RoleSpan, ScenarioRun
from aegisipc.chaos.report.writing import ReportUnwritable, write_report

__all__ = ["ReportUnwritable", "RoleSpan", "ScenarioRun", "write_report"]
