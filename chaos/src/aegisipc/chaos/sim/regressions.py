"""Plans that found a defect, kept so that it does not come back.

Each is a file of JSON with ``because`` (which defect it found), ``broke`` (the invariants that were broken
then), and either the whole ``plan`` or a ``seed``. A plan is better: what a seed expands to changes with
:mod:`aegisipc.chaos.sim.plan`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aegisipc.chaos.sim.failures import plan_data, write_json
from aegisipc.chaos.sim.plan import Plan, expand
from aegisipc.chaos.sim.plan_files import plan_from_plain, read_json
from aegisipc.eventstore.errors import AegisError

_FIELDS: Final = frozenset({"because", "broke", "plan", "seed"})


class BadRegression(AegisError):
    """That file holds no kept plan. Fields: ``path``, ``why``."""

    code = "bad_regression"


@dataclass(frozen=True, slots=True)
class Regression:
    """A plan that was broken once. ``broke`` is empty if it was written down when the defect was gone."""

    plan: Plan
    because: str
    broke: tuple[str, ...] = ()


def remember(regression: Regression, path: str | Path) -> None:
    """Write a regression into a file, which must not be there yet; folders are made.

    Raises:
        BadRegression: it does not say why it is there, or there is such a file.
        OSError: it cannot be written.
    """
    path = Path(path)
    if not regression.because.strip():
        raise _bad(path, "say which defect it is about", doing="write")
    if path.exists():
        raise _bad(path, "there is such a file; choose another name", doing="write")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(
        path,
        {
            "because": regression.because.strip(),
            "broke": list(regression.broke),
            "plan": plan_data(regression.plan),
        },
    )


def read_regression(path: str | Path) -> Regression:
    """Return what a file holds.

    Raises:
        BadRegression: it is none of :func:`remember`, and none that was written by hand as it should be.
        BadPlan: its plan is none.
        OSError: it cannot be read.
    """
    path = Path(path)
    plain = read_json(path)
    if not isinstance(plain, dict):
        raise _bad(path, "it is no object")
    unknown = sorted(set(plain) - _FIELDS)
    if unknown:
        raise _bad(path, f"{unknown[0]}: there is no such field")
    because, broke = plain.get("because"), plain.get("broke", [])
    if not isinstance(because, str) or not because.strip():
        raise _bad(path, "because: say which defect it is about")
    if not isinstance(broke, list) or not all(isinstance(name, str) for name in broke):
        raise _bad(path, "broke: that is a list of invariants")
    return Regression(_plan_in(path, plain), because, tuple(broke))


def _plan_in(path: Path, plain: dict[str, Any]) -> Plan:
    if ("plan" in plain) == ("seed" in plain):
        raise _bad(path, "give a plan or a seed, one of the two")
    if "plan" in plain:
        return plan_from_plain(plain["plan"], where=str(path))
    seed = plain["seed"]
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise _bad(path, "seed: that is a whole number")
    return expand(seed)


def regressions_in(folder: str | Path) -> list[Path]:
    """Return the files of a folder that hold regressions, by name; none if there is no such folder."""
    return sorted(Path(folder).glob("*.json"))


def _bad(path: Path, why: str, *, doing: str = "use") -> BadRegression:
    return BadRegression(f"cannot {doing} {str(path)!r} as a regression: {why}", path=str(path), why=why)
