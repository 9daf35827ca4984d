"""Making NamedTuples quickly: folds and cores make them by the million."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

new_tuple: Final[Callable[..., Any]] = tuple.__new__
"""``new_tuple(Cls, values)`` makes a NamedTuple three times as fast as ``Cls(*values)``, unchecked."""
