"""What types accept and give, as data: JSON schemas that tell apart whatever travels differently.

Pydantic's own schemas describe JSON. Here values keep their types on the way, so what looks alike in JSON may
not be alike: a ``datetime`` is no text, a ``Decimal`` no float, and the keys of a map may be integers. These
schemas say so, with a few keywords of their own:

===============  =====================================================================================
``propertyNames``  what the keys of a map are, unless they are plain text
``constraints``    limits that JSON schema has no keyword for; may be compared with itself only
``written``        of a field with a default: whoever sends the object as a value of its type sends it
``not-json``       the kind of a type that JSON schema has no word for
===============  =====================================================================================
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaValue

from aegisipc.eventstore.codec.fingerprint import DescribingSchema, type_text, without_documentation

type Schema = dict[str, Any]

_CONSTRAINTS: Final = {
    "date": ("le", "ge", "lt", "gt", "now_op"),
    "time": ("le", "ge", "lt", "gt", "tz_constraint"),
    "datetime": ("le", "ge", "lt", "gt", "now_op", "tz_constraint"),
    "timedelta": ("le", "ge", "lt", "gt"),
    "decimal": ("allow_inf_nan", "max_digits", "decimal_places"),
    "float": ("allow_inf_nan",),
    "str": ("strip_whitespace",),
    "uuid": ("version",),
    "url": ("allowed_schemes", "host_required"),
    "multi-host-url": ("allowed_schemes", "host_required"),
}
_CONFIG: Final = ("str_max_length", "str_min_length", "str_strip_whitespace", "allow_inf_nan")
_AS_JSON: Final = (str, int, float, type(None))
_TEXT: Final = {"type": "string"}


def schemas_of(
    types: Mapping[str, tuple[Any, TypeAdapter[Any]]],
) -> tuple[dict[str, Schema], dict[str, Schema]]:
    """Return the schema of each of these types, and the definitions that they refer to, without
    documentation. A type that has no schema is named by its text.
    """
    try:
        made, shared = TypeAdapter.json_schemas(
            [(name, "validation", adapter) for name, (_, adapter) in types.items()],
            by_alias=False,
            schema_generator=_TravellingSchema,
        )
        schemas = {name: _plain(schema) for (name, _), schema in made.items()}
        definitions = {name: _plain(schema) for name, schema in shared.get("$defs", {}).items()}
    except Exception:  # noqa: BLE001 - schema generation runs foreign code
        return {name: {"not-json": type_text(tp)} for name, (tp, _) in types.items()}, {}
    return schemas, definitions


def _plain(schema: JsonSchemaValue) -> Schema:
    """As it is read back."""
    plain: Schema = json.loads(json.dumps(without_documentation(schema), default=type_text))
    return plain


class _TravellingSchema(DescribingSchema):
    """See the module."""

    def generate_inner(self, schema: Any) -> JsonSchemaValue:
        """Add the limits that JSON schema has no keyword for."""
        made = super().generate_inner(schema)
        names = _CONSTRAINTS.get(schema["type"], ())
        limits = {name: _told(schema[name]) for name in names if schema.get(name) is not None}
        config = schema.get("config") or {}
        limits |= {name: config[name] for name in _CONFIG if config.get(name) is not None}
        return {**made, "constraints": limits} if limits and "$ref" not in made else made

    def decimal_schema(self, schema: Any) -> JsonSchemaValue:
        """No float, and no text either."""
        made: JsonSchemaValue = {"type": "number", "format": "decimal"}
        bounds = {"multiple_of": "multipleOf", "le": "maximum", "ge": "minimum"}
        bounds |= {"lt": "exclusiveMaximum", "gt": "exclusiveMinimum"}
        limits = {word: schema[name] for name, word in bounds.items() if schema.get(name) is not None}
        exact = {word: int(limit) for word, limit in limits.items() if limit == int(limit)}
        odd = {word: str(limit) for word, limit in limits.items() if word not in exact}
        return {**made, **exact, **({"bounds": odd} if odd else {})}

    def complex_schema(self, schema: Any) -> JsonSchemaValue:
        """No text."""
        return {**super().complex_schema(schema), "format": "complex"}

    def dict_schema(self, schema: Any) -> JsonSchemaValue:
        """With what the keys are."""
        values = self.generate_inner(schema["values_schema"]) if "values_schema" in schema else {}
        made: JsonSchemaValue = {"type": "object", "additionalProperties": values or True}
        self.update_with_validations(made, schema, self.ValidationsMapping.object)
        keys = self.generate_inner(schema["keys_schema"]) if "keys_schema" in schema else {}
        named = {word: value for word, value in keys.items() if word != "title"}
        return made if named == _TEXT else {**made, "propertyNames": named or True}

    def enum_schema(self, schema: Any) -> JsonSchemaValue:
        """With the types of values that are something else than they look like."""
        return _with_kinds(super().enum_schema(schema), [member.value for member in schema["members"]])

    def literal_schema(self, schema: Any) -> JsonSchemaValue:
        """As for an enum."""
        values = [each.value if isinstance(each, Enum) else each for each in schema["expected"]]
        return _with_kinds(super().literal_schema(schema), values)

    def model_field_schema(self, schema: Any) -> JsonSchemaValue:
        """Tell if it is always written, though it need not be."""
        return self._field(schema, super().model_field_schema(schema))

    def dataclass_field_schema(self, schema: Any) -> JsonSchemaValue:
        """As of a model."""
        return self._field(schema, super().dataclass_field_schema(schema))

    def _field(self, schema: Any, made: JsonSchemaValue) -> JsonSchemaValue:
        left_out = schema.get("serialization_exclude") or schema.get("serialization_exclude_if") is not None
        if left_out or self.field_is_required(schema, total=True):
            return made
        return {**made, "written": True}


def _with_kinds(made: JsonSchemaValue, values: list[Any]) -> JsonSchemaValue:
    odd = sorted({type_text(type(value)) for value in values if not isinstance(value, _AS_JSON)})
    return {**made, "constraints": {"values": odd}} if odd else made


def _told(limit: Any) -> Any:
    if isinstance(limit, list | tuple):
        return [_told(each) for each in limit]
    return limit if isinstance(limit, str | int | bool) else type_text(limit)
