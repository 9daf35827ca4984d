"""The checker: given what a run left behind and its log, one verdict for each invariant.

:func:`judge` takes the evidence of :mod:`aegisipc.chaos.history` and the facts of
:mod:`aegisipc.chaos.log_facts`. What each invariant promises, and which exceptions it knows, is said where it
is checked.
"""

from aegisipc.chaos.checking.bounds import Bounds
from aegisipc.chaos.checking.judging import INVARIANTS, judge
from aegisipc.chaos.checking.shrinking import LogStep, log_steps, shrink_history

__all__ = ["INVARIANTS", "Bounds", "LogStep", "judge", "log_steps", "shrink_history"]
