"""The names by which the parts of a page link to each other."""

from __future__ import annotations

import re

_UNSAFE = re.compile(r"[^a-z0-9]+")


def scenario_anchor(index: int, name: str) -> str:
    """Return the anchor of the scenario at `index`; the number keeps it unique, whatever the name is."""
    return f"s{index + 1}-{_slug(name)}"


def verdict_anchor(scenario: str, index: int, name: str) -> str:
    """Return the anchor of the verdict at `index` of a scenario."""
    return f"{scenario}.{index + 1}-{_slug(name)}"


def _slug(name: str) -> str:
    return _UNSAFE.sub("-", name.lower())[:60].strip("-")
