"""The names of methods' parameters, as instances told them when they registered.

Arguments that are given by position have no name in the log. Registrations have: a signature is written for
people, ``place(order: Order, at: datetime = …) -> Fill``, and says which parameter is which.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache, partial
from typing import Final

from aegisipc.eventstore.topology import Topology

_OPENING: Final = "([{"
_CLOSING: Final = ")]}"

type Names = tuple[str, ...]


class Parameters:
    """What a fold of the log knows of parameters, as far as it has come."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology

    def of(self, service: str, group: str, method: str) -> Names | None:
        """Return the names of a method's parameters in order; ``None`` if nobody told them, or if not
        everybody who offered the method told the same.
        """
        found = self._topology.group(service, group)
        if found is None:
            return None
        contracts = [found.contract, *(each.registration.contract for each in found.instances.values())]
        told = {names_in(contract[method].signature) for contract in contracts if method in contract}
        return told.pop() if len(told) == 1 else None

    def of_group(self, service: str, group: str) -> Callable[[str], Names | None]:
        """Return what tells the names of the parameters of one group's methods, as they are now: each is
        looked up once, for frames of hundreds of calls.
        """
        return cache(partial(self.of, service, group))


@lru_cache(maxsize=1024)
def names_in(signature: str) -> Names | None:
    """Return the names of the parameters in a signature; ``None`` if it is cut off, or none."""
    _, opened, rest = signature.partition("(")
    if not opened:
        return None
    depth, begins, parts = 0, 0, []
    for at, character in enumerate(rest):
        if character in _OPENING:
            depth += 1
        elif character in _CLOSING and depth:
            depth -= 1
        elif (character == "," and not depth) or character in _CLOSING:
            parts.append(rest[begins:at])
            begins = at + 1
            if character in _CLOSING:
                return _names(parts)
    return None


def _names(parts: list[str]) -> Names | None:
    names = [part.partition(":")[0].strip() for part in parts if part.strip()]
    return tuple(names) if all(name.isidentifier() for name in names) else None
