"""What a method takes and returns, read off its annotations: the schemas that stand in contracts."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from pydantic_core import PydanticSerializationError, to_jsonable_python

from aegisipc.eventstore.codec import TypeCodec
from aegisipc.eventstore.codec.schemas import schemas_of
from aegisipc.eventstore.contracts import as_text

_RETURNS: Final = "return"  # no parameter can have that name
_NO_DEFAULT: Final = (inspect.Parameter.empty, ...)


class Parameter(NamedTuple):
    """A parameter that callers fill. ``default`` means something only if it is not required."""

    name: str
    codec: TypeCodec[Any]
    required: bool
    by_position: bool
    by_name: bool
    default: Any


def parameter_of(parameter: inspect.Parameter, codec: TypeCodec[Any]) -> Parameter:
    """Return how callers give a parameter."""
    return Parameter(
        parameter.name,
        codec,
        parameter.default is inspect.Parameter.empty,
        parameter.kind in {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD},
        parameter.kind is not inspect.Parameter.POSITIONAL_ONLY,
        parameter.default,
    )


def schemas_text(parameters: Iterable[Parameter], returns: TypeCodec[Any]) -> str:
    """Return the schemas of a method as text, the same in every process."""
    taken = list(parameters)
    types = {each.name: (each.codec.type, each.codec.adapter) for each in taken}
    schemas, definitions = schemas_of({**types, _RETURNS: (returns.type, returns.adapter)})
    arguments = {
        "type": "object",
        "properties": {each.name: {**schemas[each.name], **_default(each)} for each in taken},
        "required": sorted(each.name for each in taken if each.required),
        "additionalProperties": False,
        "positional": [each.name for each in taken if each.by_position],
        "unnamed": [each.name for each in taken if not each.by_name],
    }
    return as_text({"arguments": arguments, "returns": schemas[_RETURNS], "$defs": definitions})


def _default(parameter: Parameter) -> dict[str, Any]:
    if any(parameter.default is nothing for nothing in _NO_DEFAULT):
        return {}
    try:
        return {"default": to_jsonable_python(parameter.default)}
    except (PydanticSerializationError, ValueError, RecursionError):
        return {}
