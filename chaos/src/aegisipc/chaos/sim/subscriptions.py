"""Who subscribes to what at the model of a server: one index for each account."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from aegisipc.eventstore.memory import matches

if TYPE_CHECKING:
    from aegisipc.chaos.sim.network import Session

_MOST_CACHED: Final = 1 << 12

matching = lru_cache(maxsize=1 << 14)(matches)
"""Tells whether a pattern matches a subject."""


def includes(pattern: str, other: str) -> bool:
    """Tell whether everything that matches `other`, a pattern too, matches `pattern`."""
    ours, theirs = pattern.split("."), other.split(".")
    for place, part in enumerate(theirs):
        if place >= len(ours):
            return False
        if ours[place] == ">":
            return True
        if part == ">" or (ours[place] != "*" and ours[place] != part):
            return False
    return len(ours) == len(theirs)


class Route(NamedTuple):
    """One subscription: whose it is, its number there, and its queue group (empty: none)."""

    session: Session
    sid: int
    queue: str


class Interest:
    """The subscriptions of one account.

    Inboxes are looked up and never searched: each answer goes to a subject of its own.
    """

    __slots__ = ("_below", "_cache", "_exact", "_of", "_wild")

    def __init__(self) -> None:
        self._exact: dict[str, dict[tuple[int, int], Route]] = {}
        self._below: dict[str, dict[tuple[int, int], Route]] = {}
        """By what stands before ``.*``, if that is the only wildcard."""
        self._wild: dict[tuple[int, int], tuple[str, Route]] = {}
        self._cache: dict[str, tuple[Route, ...]] = {}
        """What the other wildcards lead to, by subject."""
        self._of: dict[int, dict[int, str]] = {}
        """Patterns by session and number."""

    def add(self, route: Route, pattern: str) -> None:
        """Put a subscription in force."""
        number, sid = route.session.number, route.sid
        self._of.setdefault(number, {})[sid] = pattern
        table, key = self._place(pattern)
        if table is None:
            self._wild[number, sid] = pattern, route
            self._cache.clear()
        else:
            table.setdefault(key, {})[number, sid] = route

    def remove(self, number: int, sid: int) -> str | None:
        """End a subscription; returns what it was to."""
        pattern = self._of.get(number, {}).pop(sid, None)
        if pattern is not None:
            self._drop(number, sid, pattern)
        return pattern

    def remove_session(self, number: int) -> list[str]:
        """End all subscriptions of a session; returns what they were to."""
        patterns = self._of.pop(number, {})
        for sid, pattern in patterns.items():
            self._drop(number, sid, pattern)
        return list(patterns.values())

    def clear(self) -> None:
        """Forget everything."""
        for table in (self._exact, self._below, self._wild, self._cache, self._of):
            table.clear()

    def routes(self, subject: str) -> list[Route]:
        """Return where a message on `subject` goes to, in the order of subscribing for each kind."""
        found: list[Route] = []
        exact = self._exact.get(subject)
        if exact:
            found.extend(exact.values())
        below = self._below.get(subject.rpartition(".")[0])
        if below:
            found.extend(below.values())
        if self._wild:
            found.extend(self._by_wildcards(subject))
        return found

    def _by_wildcards(self, subject: str) -> tuple[Route, ...]:
        known = self._cache.get(subject)
        if known is None:
            known = tuple(route for pattern, route in self._wild.values() if matching(pattern, subject))
            if len(self._cache) >= _MOST_CACHED:
                self._cache.clear()
            self._cache[subject] = known
        return known

    def _place(self, pattern: str) -> tuple[dict[str, dict[tuple[int, int], Route]] | None, str]:
        if "*" not in pattern and ">" not in pattern:
            return self._exact, pattern
        parent, _, last = pattern.rpartition(".")
        if last == "*" and "*" not in parent:
            return self._below, parent
        return None, pattern

    def _drop(self, number: int, sid: int, pattern: str) -> None:
        table, key = self._place(pattern)
        if table is None:
            del self._wild[number, sid]
            self._cache.clear()
            return
        routes = table[key]
        del routes[number, sid]
        if not routes:
            del table[key]
