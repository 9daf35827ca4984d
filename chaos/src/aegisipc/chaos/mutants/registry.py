"""All mutants, by name."""

from __future__ import annotations

from typing import Final

from aegisipc.chaos.mutants.clients import OF_CLIENTS
from aegisipc.chaos.mutants.failovers import OF_FAILOVERS
from aegisipc.chaos.mutants.holders import OF_HOLDERS
from aegisipc.chaos.mutants.logs import OF_LOGS
from aegisipc.chaos.mutants.operators import OF_OPERATORS
from aegisipc.chaos.mutants.patching import Mutant, UnknownMutant
from aegisipc.chaos.mutants.pens import OF_PENS
from aegisipc.chaos.mutants.pools import OF_POOLS
from aegisipc.chaos.mutants.promises import OF_PROMISES
from aegisipc.chaos.mutants.routers import OF_ROUTERS
from aegisipc.chaos.mutants.starts import OF_STARTS

MUTANTS: Final[dict[str, Mutant]] = {
    mutant.name: mutant
    for mutant in (
        *OF_PENS,
        *OF_HOLDERS,
        *OF_STARTS,
        *OF_POOLS,
        *OF_CLIENTS,
        *OF_LOGS,
        *OF_OPERATORS,
        *OF_ROUTERS,
        *OF_FAILOVERS,
        *OF_PROMISES,
    )
}


def find(name: str) -> Mutant:
    """Return the mutant of that name.

    Raises:
        UnknownMutant: there is none.
    """
    found = MUTANTS.get(name)
    if found is None:
        raise UnknownMutant(f"cannot find mutant {name!r}; there are: {', '.join(MUTANTS)}", name=name)
    return found


def install(name: str) -> None:
    """Put a defect into this process, for good: for real processes that are started to have it. Do so before
    anything is connected or served.

    Raises:
        UnknownMutant: there is none of that name.
        MutantMisfit: what it changes is not there.
    """
    find(name).install()
