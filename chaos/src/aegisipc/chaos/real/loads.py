"""What clients ask for: drawn from a seed, so that the same seed asks for the same."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from aegisipc.chaos.real.services import GROUPS, resources_of
from aegisipc.chaos.workload import BOOK, DESK, EFFECTS

_LONG_S: Final = 15.0
_SHORT_S: Final = (0.05, 0.2, 1.0)
_REMEMBERED: Final = 64
_WEIGHTS: Final = (4, 5, 2)
_LARGE_BYTES: Final = (200_000, 1_300_000)
"""The second does not fit in a message."""


class Manner(StrEnum):
    """How a call is made."""

    CALL = "call"
    SUBMIT = "submit"
    CANCEL = "cancel"
    """Submit, and cancel a moment later."""
    AGAIN = "again"
    """The same once more, with the idempotency key of an earlier one."""
    OTHERWISE = "otherwise"
    """The idempotency key of an earlier one, with other arguments: it must be refused."""


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How much a client process asks for: ``clients`` connections with so many ``workers`` each, which pause
    for ``pause_ms`` after each call. Each group has ``resources``: calls of one run one after another.
    ``plain``: calls only, of small bodies, and none that fail or wait.
    """

    clients: int = 2
    workers: int = 8
    pause_ms: float = 20.0
    resources: int = 3
    plain: bool = False
    max_open: int = 10_000


@dataclass(frozen=True, slots=True)
class Ask:
    """One thing to ask for. ``argument`` is the number that the handler gets: its own, or that of the earlier
    one whose key it repeats.
    """

    number: int
    argument: int
    manner: Manner
    service: str
    method: str
    resource: str | None
    timeout_s: float
    key: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def target(self) -> str:
        """What is called."""
        return f"{self.service}.{self.method}"


class Asks:
    """Draws one after another. Numbers count up from `base`."""

    def __init__(self, seed: str, base: int, options: LoadOptions) -> None:
        self._chance = random.Random(seed)  # noqa: S311 - no secret: it is to be repeated
        self._base = base
        self._drawn = 0
        self._plain = options.plain
        self._lanes = [resources_of(group, options.resources) for group in GROUPS]
        self._resources = [resource for lane in self._lanes for resource in lane]
        self._with_keys: deque[Ask] = deque(maxlen=_REMEMBERED)

    def number(self) -> int:
        """Return a number that no other operation of the run has."""
        self._drawn += 1
        return self._base + self._drawn

    def draw(self, worker: int = 0) -> Ask:
        """Return the next one. Of plain ones each worker has those of one group, or of the pool: where nobody
        serves for a while, the others go on.
        """
        chance, number = self._chance, self.number()
        method = chance.choices(list(EFFECTS), _WEIGHTS)[0]
        if self._plain:
            lane = worker % (len(self._lanes) + 1)
            if lane == len(self._lanes):
                return Ask(number, number, Manner.CALL, DESK, method, None, _LONG_S)
            return Ask(number, number, Manner.CALL, BOOK, method, chance.choice(self._lanes[lane]), _LONG_S)
        is_owned = chance.random() < 0.7
        resource = chance.choice(self._resources) if is_owned else None
        service = BOOK if is_owned else DESK
        luck = chance.random()
        if luck < 0.05 and self._with_keys:
            return self._repeated(number)
        manner = Manner.SUBMIT if luck < 0.5 else Manner.CANCEL if luck < 0.53 else Manner.CALL
        options = self._options(method)
        if manner is Manner.CANCEL:
            options["work_ms"] = 300
        timeout_s = chance.choice(_SHORT_S) if chance.random() < 0.08 else _LONG_S
        key = f"k{number}" if manner is not Manner.CANCEL and chance.random() < 0.15 else None
        made = Ask(number, number, manner, service, method, resource, timeout_s, key, options)
        if key is not None:
            self._with_keys.append(made)
        return made

    def _options(self, method: str) -> dict[str, Any]:
        chance, options = self._chance, dict[str, Any]()
        luck = chance.random()
        if luck < 0.003:
            options["body"] = bytes(chance.choice(_LARGE_BYTES))
        elif luck < 0.05:
            options["work_ms"] = chance.choice((20, 50, 150))
        elif luck < 0.09:
            options["failures"] = -1 if method == "place" else chance.choice((-1, 1, 2, 5))
        else:
            options["work_ms"] = chance.choice((0, 0, 1, 3))
        return options

    def _repeated(self, number: int) -> Ask:
        chance = self._chance
        first = chance.choice(self._with_keys)
        if chance.random() < 0.2:
            return Ask(
                number,
                number,
                Manner.OTHERWISE,
                first.service,
                first.method,
                first.resource,
                _LONG_S,
                first.key,
                first.options,
            )
        return Ask(
            number,
            first.argument,
            Manner.AGAIN,
            first.service,
            first.method,
            first.resource,
            _LONG_S,
            first.key,
            first.options,
        )
