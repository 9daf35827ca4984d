"""What a report is made of: runs of scenarios, with their evidence and what the checker says of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from aegisipc.chaos.history import Evidence
from aegisipc.chaos.verdicts import Judgement


@dataclass(frozen=True, slots=True)
class RoleSpan:
    """What an instance or a router was for a while, as the log has it: ``active`` (with the epoch),
    ``standby``, ``suspected``, ``lost``, ``draining``, ``leading``, ``following``. Times as in the evidence.
    """

    node: str
    role: str
    at_ns: int
    until_ns: int
    epoch: int = 0


@dataclass(slots=True)
class ScenarioRun:
    """One run of one scenario, finished.

    ``at_ns`` is its beginning, on the clock of its evidence. ``seed`` and ``duration_s`` are what it was run
    with. ``artefacts`` are files that were kept, by what they are (``bundle``: an exported log), relative to
    the folder of the report. ``replay`` are the commands that lead into the log, the most telling first.
    ``skipped`` says why it could not be run here; then there is nothing else in it. ``shortest`` are, for the
    name of a verdict, the lines of the shortest history that shows its first finding. ``versions`` are those
    of what it was run against, by name (``nats-server``).
    """

    name: str
    about: str
    seed: int
    duration_s: float
    at_ns: int = 0
    evidence: Evidence = field(default_factory=Evidence)
    judgement: Judgement = field(default_factory=lambda: Judgement(()))
    roles: list[RoleSpan] = field(default_factory=list)
    artefacts: dict[str, str] = field(default_factory=dict)
    replay: list[str] = field(default_factory=list)
    skipped: str = ""
    shortest: dict[str, list[str]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def is_green(self) -> bool:
        """Whether it was run, and everything holds."""
        return not self.skipped and bool(self.judgement.verdicts) and self.judgement.holds
