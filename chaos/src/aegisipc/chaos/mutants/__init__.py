"""Defects that are put into the production code on purpose, to see that the checker finds each of them.

A checker that has never failed anything says nothing. So each guarantee is broken here, at the very place
where it is made (:mod:`~aegisipc.chaos.mutants.registry` has them all), by exchanging attributes of running
code, and simulated until an invariant does not hold (:mod:`~aegisipc.chaos.mutants.trials`). A mutant that
survives shows what the simulation does not reach, or what the checker does not see.
"""

from aegisipc.chaos.mutants.patching import Change, Mutant, UnknownMutant
from aegisipc.chaos.mutants.registry import MUTANTS, find, install

__all__ = ["MUTANTS", "Change", "Mutant", "UnknownMutant", "find", "install"]
