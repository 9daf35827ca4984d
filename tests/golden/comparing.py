"""How what is found today is compared with what was written down then: later versions may tell more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

NAMED: Final = frozenset({"groups", "in_doubt", "instances", "oldest_first", "routers", "unknown_types"})
"""Parts of a view whose keys are names of what there was: none may come, and none may go. Other parts may
have more keys than they had.
"""


def differences(expected: Any, found: Any, path: str = "") -> Iterator[str]:
    """Tell where `found` is not what was expected."""
    if isinstance(expected, dict) and isinstance(found, dict):
        is_exact = path.rpartition("/")[2] in NAMED
        for key in expected | found if is_exact else expected:
            here = f"{path}/{key}".strip("/") if path else key
            if key not in found:
                yield f"{here}: is missing"
            elif key not in expected:
                yield f"{here}: was not there"
            else:
                yield from differences(expected[key], found[key], here)
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for number, (one, other) in enumerate(zip(expected, found, strict=True)):
            yield from differences(one, other, f"{path}/{number}")
    elif type(expected) is not type(found) or expected != found:
        yield f"{path}: {expected!r} was expected, not {found!r}"


def missing_links(expected: Sequence[Any], found: Sequence[Any]) -> list[Any]:
    """Return the links of a chain that are gone, or stand elsewhere. New ones may be between."""
    rest = iter(found)
    return [link for link in expected if not any(link == other for other in rest)]
