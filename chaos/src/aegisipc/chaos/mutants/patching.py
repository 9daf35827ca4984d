"""Exchanging parts of the running code, and putting them back."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

from aegisipc.chaos.sim.plan import Plan
from aegisipc.eventstore.errors import AegisError

type Make = Callable[[Any], Any]
"""Given what is there, returns what takes its place."""

type Steer = Callable[[Plan], Plan]
"""Bends a seed's plan towards what a mutant needs to show itself: who is there, what is asked, what breaks.
The seed still decides the rest, the order of everything, and all delays.
"""

_ABSENT: Final = object()


class UnknownMutant(AegisError):
    """There is no mutant of that name. Field: ``name``."""

    code = "unknown_mutant"


class MutantMisfit(AegisError):
    """What a mutant would change is not there (any more). Field: ``target``."""

    code = "mutant_misfit"


@dataclass(frozen=True, slots=True)
class Change:
    """One attribute to exchange: ``target`` is ``module:attribute`` or ``module:Class.attribute``."""

    target: str
    make: Make

    def place(self) -> tuple[Any, str]:
        """Return the module or class, and the name of its own attribute.

        Raises:
            MutantMisfit: there is none.
        """
        module, _, path = self.target.partition(":")
        *owners, name = path.split(".")
        try:
            owner: Any = importlib.import_module(module)
            for each in owners:
                owner = getattr(owner, each)
        except (ImportError, AttributeError) as error:
            raise MutantMisfit(f"cannot change {self.target}: {error}", target=self.target) from error
        if vars(owner).get(name, _ABSENT) is _ABSENT:
            raise MutantMisfit(
                f"cannot change {self.target}: it is not there; follow the code with the mutant",
                target=self.target,
            )
        return owner, name

    def apply(self) -> Callable[[], None]:
        """Exchange it; returns what puts it back."""
        owner, name = self.place()
        original = vars(owner)[name]
        setattr(owner, name, self.make(original))
        return lambda: setattr(owner, name, original)


@dataclass(frozen=True, slots=True)
class Mutant:
    """One defect. ``breaks`` says in a sentence what it breaks; ``expected`` names the invariants of which at
    least one should find it; ``steer`` bends plans, where plain ones reach the defect too rarely (then
    ``needs`` says what it takes). ``known_seed`` is one that caught it, and is tried first.
    """

    name: str
    breaks: str
    expected: tuple[str, ...]
    changes: tuple[Change, ...]
    known_seed: int
    steer: Steer | None = None
    needs: str = ""

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Run with the defect. What was made before may have hold of the sound code: make things inside."""
        with ExitStack() as stack:
            for change in self.changes:
                stack.callback(change.apply())
            yield

    def install(self) -> None:
        """Put the defect in, for good, in this process."""
        for change in self.changes:
            change.apply()

    def steered(self, plan: Plan) -> Plan:
        """Return the plan under which this defect is tried."""
        return plan if self.steer is None else self.steer(plan)
