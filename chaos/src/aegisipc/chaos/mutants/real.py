"""Defects in real processes: some of those that a run forks get one, before they do anything."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from aegisipc.chaos.mutants.patching import Change
from aegisipc.chaos.mutants.registry import find, install


class RealTrial(NamedTuple):
    """How a defect shows itself in real processes: in the processes of a role, in a scenario that breaks
    things for so many seconds.
    """

    role: str
    scenario: str
    duration_s: float


REAL: Final = {
    "skip-the-claim": RealTrial("instance", "kill-router", 1.0),
    "apply-own-events-twice": RealTrial("instance", "kill-router", 1.0),
    "skip-the-fence": RealTrial("instance", "partition-instance", 10.0),
    "forget-an-outcome": RealTrial("instance", "kill-router", 1.0),
}
"""The mutants that were caught in real processes, too, and where. (The last two take longer: a holder has to
be cut off with a frame on its way; nobody gives up waiting for an outcome that was forgotten.)
"""

_FORK: Final = "aegisipc.chaos.real.zygote:Zygote.fork"
_MUTATED: Final = "aegisipc.chaos.mutants.real:mutated"


def mutated(mutant: str, function: str, arguments: dict[str, Any]) -> int:
    """Put a defect into this process for good, and then run ``module:name`` with these arguments. Returns
    its exit code.
    """
    install(mutant)
    module, _, name = function.partition(":")
    return int(getattr(importlib.import_module(module), name)(**arguments) or 0)


@contextmanager
def forked_with(mutant: str, roles: Collection[str] = ("instance",)) -> Iterator[None]:
    """Meanwhile, of the processes that :mod:`aegisipc.chaos.real` forks those of these `roles` (the names of
    functions of :mod:`aegisipc.chaos.real.roles`) have a defect.

    Raises:
        UnknownMutant: there is none of that name.
        MutantMisfit: processes are not forked as they were when this was written.
    """
    find(mutant)

    def make(original: Any) -> Callable[..., Any]:
        def fork(
            zygote: Any, function: str, output: Path, args: dict[str, Any], *rest: Any, **more: Any
        ) -> Any:
            if function.rpartition(":")[2] in roles:
                args = {"mutant": mutant, "function": function, "arguments": args}
                function = _MUTATED
            return original(zygote, function, output, args, *rest, **more)

        return fork

    undo = Change(_FORK, make).apply()
    try:
        yield
    finally:
        undo()
