"""When what is broken: a plan is drawn from a seed before anything is started. Pure."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Step:
    """Break ``victim`` by ``fault`` at a time, in seconds from the beginning of the fault phase, and heal it
    ``for_s`` seconds later. ``options`` are for that kind of fault.
    """

    at_s: float
    fault: str
    victim: str
    for_s: float
    options: dict[str, Any] = field(default_factory=dict)

    def to_plain(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)


type Draw = Callable[[random.Random, float], list[Step]]
"""Draws the steps of a phase of that many seconds."""


def drawn(draw: Draw, scenario: str, seed: int, duration_s: float) -> list[Step]:
    """Return the plan of a scenario for a seed: the same, whenever and wherever it is asked for."""
    chance = random.Random(f"{scenario}:{seed}")  # noqa: S311 - no secret: it is to be repeated
    return sorted(draw(chance, duration_s), key=lambda step: (step.at_s, step.victim))


def again_and_again(
    fault: str,
    victims: Sequence[str],
    *,
    gap_s: tuple[float, float] = (1.0, 2.5),
    for_s: tuple[float, float] = (0.3, 1.5),
    **options: Any,
) -> Draw:
    """Break one of the victims after the other, with a pause between the beginnings.

    The first comes after half a pause, so that even a short phase has one; all are healed within the phase
    if it is long enough for one.
    """

    def draw(chance: random.Random, duration_s: float) -> list[Step]:
        steps: list[Step] = []
        at_s = chance.uniform(*gap_s) / 2
        while not steps or at_s < duration_s - for_s[0]:
            lasts_s = min(chance.uniform(*for_s), max(for_s[0], duration_s - at_s))
            victim = chance.choice(victims)
            drawn_options = {**options, "seed": chance.getrandbits(32)} if "per_s" in options else options
            steps.append(Step(round(at_s, 3), fault, victim, round(lasts_s, 3), dict(drawn_options)))
            at_s += max(chance.uniform(*gap_s), lasts_s / len(victims))
        return steps

    return draw


type Choice = tuple[Sequence[str], dict[str, Any]]
"""Victims, of which one is chosen, and the options of the fault."""


def one_of_each(fault: str, choices: Sequence[Choice], *, for_s: float, every_s: float) -> Draw:
    """Break in each of the ways in turn, in an order of chance, one every `every_s`, and sooner if else there
    were not time for all; from the beginning again while there is time.
    """

    def draw(chance: random.Random, duration_s: float) -> list[Step]:
        order = list(choices)
        chance.shuffle(order)
        times = max(len(order), int(duration_s / every_s))
        gap_s = duration_s / times
        steps = []
        for number in range(times):
            victims, options = order[number % len(order)]
            drawn_options = {**options, "answered": chance.random() < 0.5} if "point" in options else options
            at_s = (number + chance.uniform(0.2, 0.6)) * gap_s
            steps.append(Step(round(at_s, 3), fault, chance.choice(victims), for_s, dict(drawn_options)))
        return steps

    return draw


def in_turn(fault: str, victims: Sequence[str], *, for_s: tuple[float, float], rest_s: float) -> Draw:
    """Break all victims, one after the other, with a rest of `rest_s` between; from the first again while
    there is time.
    """

    def draw(chance: random.Random, duration_s: float) -> list[Step]:
        steps: list[Step] = []
        at_s = min(1.0, duration_s / 4)
        while not steps or at_s < duration_s:
            for victim in victims:
                if steps and at_s >= duration_s:
                    break
                lasts_s = chance.uniform(*for_s)
                steps.append(Step(round(at_s, 3), fault, victim, round(lasts_s, 3)))
                at_s += lasts_s + rest_s
        return steps

    return draw


def once(fault: str, victim: str, *, at: float = 0.5, for_s: float = 0.5, **options: Any) -> Draw:
    """Break something once, when the share `at` of the phase is over, give or take a tenth."""

    def draw(chance: random.Random, duration_s: float) -> list[Step]:
        at_s = duration_s * (at + chance.uniform(-0.1, 0.1))
        return [Step(round(at_s, 3), fault, victim, for_s, dict(options))]

    return draw


def together(*draws: Draw) -> Draw:
    """Return what all of them draw, at once."""

    def draw(chance: random.Random, duration_s: float) -> list[Step]:
        return [step for each in draws for step in each(chance, duration_s)]

    return draw
