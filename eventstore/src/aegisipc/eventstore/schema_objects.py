"""What became of the fields of an object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aegisipc.eventstore.schema_forms import AnySchema, Unjudgeable, is_written, resolved, text_of
from aegisipc.eventstore.schema_limits import fits

if TYPE_CHECKING:
    from aegisipc.eventstore.schema_changes import Side, Walk

_MISSING = object()


class ObjectChanges:
    """Compares two objects, be they models or maps, as part of a walk."""

    def __init__(self, walk: Walk, old: Side, new: Side, path: str) -> None:
        self._walk, self._path = walk, path
        self._old, self._new = old, new
        self._before, self._after = _object(old.schema), _object(new.schema)
        self._is_argument = walk.reading.old_writes

    def compare(self) -> None:
        """Note how they differ."""
        old, new = self._fields(self._before), self._fields(self._after)
        for name in old:
            if name in new:
                self._kept(name, old[name], new[name])
            else:
                self._gone(name, old[name])
        for name in new:
            if name not in old:
                self._added(name, new[name])
        self._unnamed()
        self._keys()

    # -- fields -----------------------------------------------------------------------------------------

    @staticmethod
    def _fields(schema: Mapping[str, Any]) -> Mapping[str, AnySchema]:
        fields: Mapping[str, AnySchema] = schema.get("properties", {})
        return fields

    def _at(self, name: str) -> str:
        return f"{self._path}.{name}"

    def _kept(self, name: str, old: AnySchema, new: AnySchema) -> None:
        path = self._at(name)
        self._walk.compare(self._old.of(old), self._new.of(new), path)
        writer, reader = self._walk.writer_and_reader(self._before, self._after)
        is_typed = self._walk.reading.is_typed
        if name in reader.get("required", ()) and not is_written(writer, name, is_typed=is_typed):
            self._walk.breaks(path, "became required" if self._is_argument else "may be missing now")
        elif (name in self._before.get("required", ())) != (name in self._after.get("required", ())):
            now = "required" if name in self._after.get("required", ()) else "optional"
            self._walk.differs(path, f"became {now}")
        self._defaults(path, old, new)

    def _defaults(self, path: str, old: AnySchema, new: AnySchema) -> None:
        before, after = (
            each.get("default", _MISSING) if isinstance(each, Mapping) else _MISSING for each in (old, new)
        )
        if _MISSING not in (before, after) and text_of(before) != text_of(after):
            self._walk.differs(path, f"default {text_of(before):.60} became {text_of(after):.60}")

    def _gone(self, name: str, old: AnySchema) -> None:
        path, others = self._at(name), self._others(self._after)
        is_map = not self._fields(self._after) and others not in (False, None)
        if is_map and others is not None:
            self._walk.compare(self._old.of(old), self._new.of(others), path)
            if not self._is_argument and name in self._before.get("required", ()):
                self._walk.breaks(path, "may be missing now")
        elif self._is_argument:
            ignored = others is not False
            self._walk.breaks(
                path, "is gone: what callers give there is " + ("ignored" if ignored else "refused")
            )
        else:
            self._walk.breaks(path, "is gone")

    def _added(self, name: str, new: AnySchema) -> None:
        path, others = self._at(name), self._others(self._before)
        required = name in self._after.get("required", ())
        if self._is_argument:
            if others is not None and others is not False:  # callers may give anything of that kind there
                self._walk.compare(self._old.of(others), self._new.of(new), path)
            if required:
                self._walk.breaks(path, "is new and required")
            else:
                self._walk.differs(path, "is new and optional")
        elif others is False:
            self._walk.breaks(
                path, "is new, and those who know the old contract refuse fields they do not know"
            )
        else:
            if others not in (True, None):
                self._walk.compare(self._old.of(others), self._new.of(new), path)
            self._walk.differs(path, "is new")

    # -- what has no name -------------------------------------------------------------------------------

    @staticmethod
    def _others(schema: Mapping[str, Any]) -> AnySchema | None:
        """What other fields may be: ``None`` if nothing is said, so that a model ignores them."""
        others: AnySchema | None = schema.get("additionalProperties")
        return True if others == {} else others

    def _unnamed(self) -> None:
        old, new = self._others(self._before), self._others(self._after)
        if old == new and isinstance(old, bool | None):
            return
        writer, reader = self._walk.writer_and_reader(old, new)
        if writer is None and self._walk.reading.is_typed:
            writer = False  # it has the fields of its type and no others
        if writer is False or reader in (True, None):
            if reader is False and old is not False:
                self._walk.differs(self._path, "other fields are refused now")
            return
        if reader is False:
            what = (
                "other fields, which were ignored, are refused now"
                if self._is_argument
                else "has other fields"
            )
            self._walk.breaks(self._path, what)
            return
        one, other = (True if each is None else each for each in (old, new))
        self._walk.compare(self._old.of(one), self._new.of(other), f"{self._path}{{}}")

    def _keys(self) -> None:
        old, new = (each.get("propertyNames", {"type": "string"}) for each in (self._before, self._after))
        writer_side, reader_side = self._walk.writer_and_reader(
            (self._old, self._before), (self._new, self._after)
        )
        fields = self._fields(writer_side[1])
        others = self._others(writer_side[1])
        if fields and "propertyNames" in reader_side[1]:
            keys = resolved(reader_side[1]["propertyNames"], reader_side[0].definitions)
            for name in fields:
                if keys is not True and not (isinstance(keys, Mapping) and fits(name, keys)):
                    self._walk.breaks(self._at(name), "is no key of that map")
        if others not in (False, None):
            self._walk.compare(self._old.of(old), self._new.of(new), f"{self._path} keys")


def _object(schema: AnySchema) -> Mapping[str, Any]:
    if isinstance(schema, Mapping):
        return schema
    raise Unjudgeable
