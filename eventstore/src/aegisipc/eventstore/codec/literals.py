"""Enum members in ``Literal``: read back by their value.

An enum member travels as its value. Pydantic turns the value back into the member for a field of the enum
type, but not for ``Literal[Side.BUY]``, nor for such a literal as the tag of a discriminated union. A type
that uses one gets a validator of its own, whose schema accepts the value too.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, Final

from pydantic_core import SchemaValidator

# Entries of a core schema that hold values or functions, not schemas.
_OPAQUE: Final = frozenset({"metadata", "default", "serialization", "config", "cls", "expected", "function"})


def validator_by_value(schema: Any) -> SchemaValidator | None:
    """A validator that takes the values of literal enum members; None if the schema has no such literals."""
    rewritten = _rewritten(schema)
    if rewritten is schema:
        return None
    # Prebuilt validators of nested models would bring their own literals back.
    return SchemaValidator(rewritten, _use_prebuilt=False)


def _rewritten(node: Any) -> Any:
    """The same object if nothing below it changes."""
    if isinstance(node, dict):
        parts = {key: value if key in _OPAQUE else _rewritten(value) for key, value in node.items()}
        changed = any(parts[key] is not node[key] for key in node)
        return _rewritten_kind(parts if changed else node)
    if isinstance(node, list | tuple):
        items = [_rewritten(item) for item in node]
        changed = any(new is not old for new, old in zip(items, node, strict=True))
        return type(node)(items) if changed else node
    return node


def _rewritten_kind(node: dict[Any, Any]) -> dict[Any, Any]:
    if node.get("type") == "literal":
        return _literal(node)
    if node.get("type") == "tagged-union":
        return _tagged_union(node)
    return node


def _literal(node: dict[Any, Any]) -> dict[Any, Any]:
    expected = node["expected"]
    members = _by_value(expected)
    if not members:
        return node
    return {
        "type": "function-before",
        "function": {"type": "no-info", "function": _member_lookup(members)},
        "schema": node,
    }


def _tagged_union(node: dict[Any, Any]) -> dict[Any, Any]:
    choices = node["choices"]
    by_value = {value: choices[member] for value, member in _by_value(list(choices)).items()}
    return {**node, "choices": {**choices, **by_value}} if by_value else node


def _by_value(expected: list[Any]) -> dict[Any, Enum]:
    """Members by value, without those whose value is itself expected."""
    members = {}
    for member in expected:
        if isinstance(member, Enum) and isinstance(member.value, str | int) and member.value not in expected:
            members[member.value] = member
    return members


def _member_lookup(members: dict[Any, Enum]) -> Callable[[Any], Any]:
    def member_of(value: Any) -> Any:
        # Exact types: True must not find the member of value 1.
        return members.get(value, value) if type(value) in {str, int} else value

    return member_of
