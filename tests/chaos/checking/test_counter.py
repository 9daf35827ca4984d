"""The check of a counter is compared with a search over all orders."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from aegisipc.chaos.checking.linearizable import NEVER, Counted, check_counter


def search(calls: Sequence[Counted]) -> bool:
    """Tell by trying whether there is an order: the plain algorithm of Wing and Gong, with a memory."""
    known: set[tuple[frozenset[int], int]] = set()

    def go(left: frozenset[int], count: int) -> bool:
        if all(calls[index].seen is None for index in left):
            return True  # what is left need not have happened
        if (left, count) in known:
            return False
        known.add((left, count))
        # Whatever is next must have been invoked before everything that is left had completed.
        ends = [calls[index].completed for index in left if calls[index].seen is not None]
        for index in left:
            call = calls[index]
            if call.invoked > min(ends):
                continue
            if call.seen is None:
                # It happens now, or (below, when others go on without it) not at all.
                if go(left - {index}, count + 1):
                    return True
            elif call.seen == count and go(left - {index}, count + 1):
                return True
        # An unknown one that is over before others begin may also not have happened.
        return any(calls[i].seen is None and go(left - {i}, count) for i in left)

    return go(frozenset(range(len(calls))), 0)


def a_history(dice: random.Random) -> list[Counted]:
    """A few calls, mostly close to legal: made from a run, then disturbed."""
    calls = []
    now = count = 0
    for index in range(dice.randint(1, 6)):
        now += dice.randint(0, 3)
        begin, end = now - dice.randint(0, 6), now + dice.randint(0, 6)
        happened = dice.random() < 0.8
        is_known = happened and dice.random() < 0.7
        seen = count if is_known else None
        if is_known and dice.random() < 0.15:
            seen = max(0, count + dice.choice((-1, 1)))
        count += happened
        calls.append(Counted(begin, end if is_known else NEVER, seen, str(index)))
    dice.shuffle(calls)
    return calls


@pytest.mark.parametrize("seed", range(8))
def test_it_says_what_a_search_says(seed: int) -> None:
    dice = random.Random(seed)
    verdicts = set()
    for _ in range(400):
        calls = a_history(dice)
        expected = search(calls)
        assert (check_counter(calls) is None) is expected, calls
        verdicts.add(expected)
    assert verdicts == {True, False}


def test_calls_of_which_the_end_is_known_fill_only_places_before_it() -> None:
    fixed = [Counted(0, 1, 0, "a"), Counted(10, 11, 2, "b")]
    assert check_counter([*fixed, Counted(2, 20, None, "u")]) is None
    assert check_counter([*fixed, Counted(12, 20, None, "u")]) is not None
    late = [Counted(5, 6, 0, "a"), Counted(10, 11, 2, "b")]
    assert check_counter([*late, Counted(0, 4, None, "u")]) is not None


def test_it_names_the_calls_that_cannot_both_be_right() -> None:
    contrary = check_counter([Counted(0, 1, 0, "a"), Counted(2, 3, 2, "b"), Counted(4, 5, 1, "c")])
    assert contrary is not None
    assert set(contrary.names) == {"b", "c"}
