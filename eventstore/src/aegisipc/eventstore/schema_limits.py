"""Bounds of numbers, lengths and counts: whether what keeps the writer's keeps the reader's, too."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from aegisipc.eventstore.schema_forms import Schema, Unjudgeable, kind_of

_RANGES: Final = (
    ("minLength", "maxLength", "length"),
    ("minItems", "maxItems", "number of items"),
    ("minProperties", "maxProperties", "number of entries"),
)
_NUMBERS: Final = frozenset({"integer", "number"})


class LimitChange(NamedTuple):
    """A limit that changed."""

    message: str
    breaking: bool


class _Bound(NamedTuple):
    value: float
    is_excluded: bool


def limits_changed(old: Schema, new: Schema, *, old_writes: bool) -> Iterator[LimitChange]:
    """Compare the limits of two schemas of one kind."""
    for name, lower in (("minimum", True), ("maximum", False)):
        before, after = _bound(old, name), _bound(new, name)
        if before != after:
            writer, reader = (before, after) if old_writes else (after, before)
            said = f"{name} {_shown(before)} became {_shown(after)}"
            yield LimitChange(said, not _within(writer, reader, lower=lower))
    for low, high, what in _RANGES:
        for name, lower in ((low, True), (high, False)):
            before, after = _bound(old, name), _bound(new, name)
            if before != after:
                writer, reader = (before, after) if old_writes else (after, before)
                side = "least" if lower else "greatest"
                said = f"{side} {what} {_shown(before)} became {_shown(after)}"
                yield LimitChange(said, not _within(writer, reader, lower=lower))
    yield from _steps(old, new, old_writes=old_writes)
    yield from _patterns(old, new, old_writes=old_writes)


def _bound(schema: Schema, name: str) -> _Bound | None:
    excluded = schema.get(f"exclusive{name[0].upper()}{name[1:]}")
    value = schema.get(name)
    if excluded is not None and value is not None:
        raise Unjudgeable
    given = value if excluded is None else excluded
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise Unjudgeable
    if excluded is not None and schema.get("type") == "integer" and isinstance(given, int):
        return _Bound(given + 1 if name == "minimum" else given - 1, is_excluded=False)
    return _Bound(given, excluded is not None)


def _within(writer: _Bound | None, reader: _Bound | None, *, lower: bool) -> bool:
    if reader is None:
        return True
    if writer is None:
        return False
    if writer.value == reader.value:
        return writer.is_excluded or not reader.is_excluded
    return writer.value > reader.value if lower else writer.value < reader.value


def _shown(bound: _Bound | None) -> str:
    if bound is None:
        return "none"
    return f"{bound.value} (excluded)" if bound.is_excluded else f"{bound.value}"


def _steps(old: Schema, new: Schema, *, old_writes: bool) -> Iterator[LimitChange]:
    before, after = old.get("multipleOf"), new.get("multipleOf")
    if before == after:
        return
    writer, reader = (before, after) if old_writes else (after, before)
    whole = isinstance(writer, int) and isinstance(reader, int) and reader != 0
    is_read = reader is None or (whole and writer % reader == 0)
    said = f"multiples of {_or_none(before)} became multiples of {_or_none(after)}"
    yield LimitChange(said, not is_read)


def _patterns(old: Schema, new: Schema, *, old_writes: bool) -> Iterator[LimitChange]:
    before, after = old.get("pattern"), new.get("pattern")
    if before == after:
        return
    _, reader = (before, after) if old_writes else (after, before)
    said = f"pattern {_or_none(before)} became {_or_none(after)}"
    if before is not None and after is not None:
        said += ", which cannot be judged"
    yield LimitChange(said, reader is not None)


def _or_none(value: object) -> str:
    return "none" if value is None else str(value)


def fits(value: Any, schema: Schema) -> bool:
    """Tell whether a single value is certainly one of those that a resolved schema means."""
    kind, wanted = kind_of(value), schema.get("type")
    if schema.get("format") is not None or schema.keys() - _KNOWN:
        return False
    if kind != wanted and not (kind == "integer" and wanted == "number"):
        return False
    if kind == "string":
        pattern = schema.get("pattern")
        return _counts(len(value), schema, "minLength", "maxLength") and (
            pattern is None or _matches(pattern, value)
        )
    if kind in _NUMBERS:
        step = schema.get("multipleOf")
        exact = _Bound(value, is_excluded=False)
        bounds = _within(exact, _bound(schema, "minimum"), lower=True) and _within(
            exact, _bound(schema, "maximum"), lower=False
        )
        return bounds and (
            step is None or (isinstance(value, int) and isinstance(step, int) and value % step == 0)
        )
    return kind in {"null", "boolean"}


_KNOWN: Final = frozenset(
    {
        "type",
        "minLength",
        "maxLength",
        "pattern",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
    }
    | {"multipleOf"}
)


def _counts(count: int, schema: Mapping[str, Any], low: str, high: str) -> bool:
    least, most = schema.get(low, 0), schema.get(high)
    return bool(count >= least and (most is None or count <= most))


_PLAIN_PATTERN: Final = re.compile(r"\^[A-Za-z0-9_ -]*\$")


def _matches(pattern: str, value: str) -> bool:
    """Only what is plain text between its ends: other patterns are foreign programs, and not run here."""
    return bool(_PLAIN_PATTERN.fullmatch(pattern)) and value == pattern[1:-1]
