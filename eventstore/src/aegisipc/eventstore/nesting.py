"""How deep plain data may be nested: what is deeper would be readable in one place and not in another."""

from __future__ import annotations

from typing import Any

type Plain = Any
"""What MessagePack and JSON give: containers are dictionaries and lists."""


def is_deep(value: Plain, most: int) -> bool:
    """Tell whether there are more than `most` containers within each other."""
    level = [value] if type(value) in (dict, list) else []
    for _ in range(most):
        level = [
            item
            for container in level
            for item in (container.values() if type(container) is dict else container)
            if type(item) in (dict, list)
        ]
        if not level:
            return False
    return bool(level)
