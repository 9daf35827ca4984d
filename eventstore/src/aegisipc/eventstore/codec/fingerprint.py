"""A stable name for the shape of a type."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, Final, get_args, get_origin

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

# Documentation may change without changing what travels.
_DOCUMENTATION: Final = frozenset({"title", "description", "examples"})
# The values of these keys are maps from names to schemas: a name there may be "title".
_NAMED_SCHEMAS: Final = frozenset({"properties", "$defs", "patternProperties", "dependentSchemas"})
# The values of these are data, not schemas.
_DATA: Final = frozenset({"default", "const", "enum", "required", "mapping"})
_ADDRESS: Final = re.compile(r" at 0x[0-9a-fA-F]+")
_DIGEST_BYTES: Final = 16


class DescribingSchema(GenerateJsonSchema):
    """JSON schemas that describe in words what JSON cannot."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012 - as the base class

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> JsonSchemaValue:  # noqa: ARG002 - overridden
        """Name the kind and, if there is one, the class."""
        kind = schema.get("cls")
        return {"not-json": schema.get("type"), "class": type_text(kind) if kind is not None else None}


def fingerprint_of(tp: Any, adapter: TypeAdapter[Any]) -> str:
    """Hash of the JSON schema by field names, without its documentation; of the type's text without one."""
    try:
        schema = adapter.json_schema(by_alias=False, schema_generator=DescribingSchema, mode="validation")
        text = json.dumps(
            without_documentation(schema), sort_keys=True, separators=(",", ":"), default=type_text
        )
    except Exception:  # noqa: BLE001 - schema generation runs foreign code; a type without one needs a name too
        text = type_text(tp)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).hexdigest()


def type_text(tp: Any) -> str:
    """The type as text that is the same in every process."""
    if get_origin(tp) is not None:
        arguments = ", ".join(type_text(argument) for argument in get_args(tp))
        return f"{type_text(get_origin(tp))}[{arguments}]"
    if isinstance(tp, type):
        return f"{tp.__module__}.{tp.__qualname__}"
    return _ADDRESS.sub("", repr(tp))


def without_documentation(node: Any) -> Any:
    """Return a schema without what is only for people."""
    if isinstance(node, list):
        return [without_documentation(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {key: _shape_of_entry(key, value) for key, value in node.items() if key not in _DOCUMENTATION}


def _shape_of_entry(key: str, value: Any) -> Any:
    if key in _DATA:
        return value
    if key in _NAMED_SCHEMAS and isinstance(value, dict):
        return {name: without_documentation(schema) for name, schema in value.items()}
    return without_documentation(value)
