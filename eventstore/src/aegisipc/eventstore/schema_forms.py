"""Reading schemas: what a schema refers to, what kind of value it means, and what people call that."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

type Schema = Mapping[str, Any]
type AnySchema = Schema | bool

_REF: Final = "#/$defs/"
_MAX_HOPS: Final = 32
_MAX_SHOWN: Final = 100
_MAX_LITERALS: Final = 4
_SCALARS: Final = frozenset({"null", "boolean", "integer", "number", "string"})
KINDS: Final = _SCALARS | {"array", "object"}

ABOUT_A_PLACE: Final = frozenset({"default", "written", "deprecated", "title", "description", "examples"})
"""Keywords that say something of a field, and nothing of its values."""


class Unjudgeable(Exception):
    """The schema says something that cannot be judged."""


class Union(NamedTuple):
    """A choice between schemas; ``tag`` is the field that tells them apart, if one does."""

    branches: list[AnySchema]
    tag: str | None
    is_tagged: bool
    """Something tells them apart, be it known here or not."""


class Literals(NamedTuple):
    """Some values, by their kind and their JSON text, and what else is said of them."""

    values: dict[tuple[str, str], Any]
    others: dict[str, Any]


def resolved(schema: AnySchema, definitions: Mapping[str, AnySchema]) -> AnySchema:
    """Return what a schema refers to, without what only its place says.

    Raises:
        Unjudgeable: it refers to nothing, or to itself; or it is no schema.
    """
    for _ in range(_MAX_HOPS):
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, Mapping):
            raise Unjudgeable
        plain = {key: value for key, value in schema.items() if key not in ABOUT_A_PLACE}
        ref = plain.get("$ref")
        if ref is None:
            return plain or True
        name = ref.removeprefix(_REF) if isinstance(ref, str) else ""
        if len(plain) > 1 or name not in definitions:
            raise Unjudgeable
        schema = definitions[name]
    raise Unjudgeable


def ref_of(schema: AnySchema) -> str | None:
    """Return what a schema refers to by name, if it does."""
    ref = schema.get("$ref") if isinstance(schema, Mapping) else None
    return ref if isinstance(ref, str) else None


def union_of(schema: AnySchema) -> Union | None:
    """Return the branches of a resolved schema that is a choice."""
    if isinstance(schema, bool):
        return None
    types = schema.get("type")
    if isinstance(types, list):
        return Union([{**schema, "type": each} for each in types], None, is_tagged=False)
    if list(schema) == ["anyOf"] and isinstance(schema["anyOf"], list):
        return Union(schema["anyOf"], None, is_tagged=False)
    if schema.keys() <= {"oneOf", "discriminator"} and isinstance(schema.get("oneOf"), list):
        told = schema.get("discriminator")
        tag = told.get("propertyName") if isinstance(told, Mapping) else None
        return Union(schema["oneOf"], tag if isinstance(tag, str) else None, is_tagged=True)
    return None


def literals_of(schema: AnySchema) -> Literals | None:
    """Return the values of a resolved schema that lists them."""
    if isinstance(schema, bool):
        return None
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if not isinstance(values, list):
        return None
    others = {key: value for key, value in schema.items() if key not in {"const", "enum", "type"}}
    return Literals({(kind_of(value), text_of(value)): value for value in values}, others)


def kind_of(value: Any) -> str:
    """Return what kind of JSON a value is."""
    if isinstance(value, bool):  # a kind of int, to Python
        return "boolean"
    return next((kind for tp, kind in _KINDS if isinstance(value, tp)), "object")


_KINDS: Final = (
    (type(None), "null"),
    (int, "integer"),
    (float, "number"),
    (str, "string"),
    (list, "array"),
)


def text_of(value: Any) -> str:
    """Return plain data as text that is the same in every process."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def closure_of(schema: AnySchema, definitions: Mapping[str, AnySchema]) -> str:
    """Return a schema with all that it refers to as text: equal texts mean the same."""
    found: dict[str, Any] = {}
    waiting: list[Any] = [schema]
    while waiting:
        node = waiting.pop()
        if isinstance(node, Mapping):
            ref = ref_of(node)
            if ref is not None and ref not in found:
                found[ref] = definitions.get(ref.removeprefix(_REF))
                waiting.append(found[ref])
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node
    return text_of([schema, found])


def is_written(plain: Schema, name: str, *, is_typed: bool) -> bool:
    """Tell whether what is written certainly has a field."""
    if name in plain.get("required", ()):
        return True
    field = plain.get("properties", {}).get(name)
    return is_typed and isinstance(field, Mapping) and field.get("written") is True


# -- for people -----------------------------------------------------------------------------------------


def name_of(schema: AnySchema, definitions: Mapping[str, AnySchema]) -> str:
    """Return what people call a type: ``integer``, ``array of Order``, ``'buy' | 'sell'``."""
    try:
        name = _name(schema, definitions, depth=0)
    except Unjudgeable:
        name = "something else"
    return name if len(name) <= _MAX_SHOWN else f"{name[: _MAX_SHOWN - 1]}…"


def _name(schema: AnySchema, definitions: Mapping[str, AnySchema], depth: int) -> str:
    plain = resolved(schema, definitions)
    if isinstance(plain, bool):
        return "anything" if plain else "nothing"
    literals = literals_of(plain)
    if literals is not None:
        return shown_literals(literals.values)
    ref = ref_of(schema)
    return _name_of_type(plain, definitions, depth) if ref is None else ref.removeprefix(_REF)


def _name_of_type(plain: Schema, definitions: Mapping[str, AnySchema], depth: int) -> str:
    union = union_of(plain)
    if union is not None and depth < 3:
        return " | ".join(_name(branch, definitions, depth + 1) for branch in union.branches)
    kind = plain.get("type")
    if kind == "array" and depth < 3:
        return _name_of_array(plain, definitions, depth)
    if kind == "object":
        return _name_of_object(plain, definitions, depth)
    if "not-json" in plain:
        return str(plain.get("class") or plain["not-json"])
    form = plain.get("format")
    return f"{kind} ({form})" if form is not None else str(kind or "something else")


def _name_of_array(plain: Schema, definitions: Mapping[str, AnySchema], depth: int) -> str:
    what = "set" if plain.get("uniqueItems") else "array"
    prefix = plain.get("prefixItems")
    if isinstance(prefix, list):
        return f"tuple ({', '.join(_name(each, definitions, depth + 1) for each in prefix)})"
    return f"{what} of {_name(plain.get('items', True), definitions, depth + 1)}"


def _name_of_object(plain: Schema, definitions: Mapping[str, AnySchema], depth: int) -> str:
    values = plain.get("additionalProperties", True)
    if plain.get("properties") or isinstance(values, bool) or depth >= 3:
        return "object"
    return f"map of {_name(values, definitions, depth + 1)}"


def shown_literals(values: Mapping[tuple[str, str], Any]) -> str:
    """Return the first values of some, as people write them."""
    return " | ".join(_some([repr(value) for value in values.values()]))


def _some(texts: list[str]) -> Iterator[str]:
    yield from texts[:_MAX_LITERALS]
    if len(texts) > _MAX_LITERALS:
        yield f"{len(texts) - _MAX_LITERALS} more"
