"""What became of a schema, and whether those who know the old one can go on. Pure.

Of arguments, whoever knows the old schema writes and whoever has the new one reads; of results it is the
other way round. A change is compatible if everything that may be written is read. What is not certain is
breaking: a wrong "compatible" costs a call, a wrong "breaking" costs a question.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from aegisipc.eventstore.schema_forms import (
    ABOUT_A_PLACE,
    KINDS,
    AnySchema,
    Literals,
    Schema,
    Union,
    Unjudgeable,
    closure_of,
    is_written,
    literals_of,
    name_of,
    ref_of,
    resolved,
    text_of,
    union_of,
)
from aegisipc.eventstore.schema_limits import fits, limits_changed
from aegisipc.eventstore.schema_objects import ObjectChanges

MAX_DEPTH: Final = 60
MAX_STEPS: Final = 20_000
MAX_DIFFERENCES: Final = 200

NOT_JUDGED: Final = "cannot be judged"


class Difference(NamedTuple):
    """One thing that changed: where, what, and whether it breaks those who know the old contract."""

    path: str
    message: str
    breaking: bool

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class Reading(NamedTuple):
    """How two schemas are to be compared."""

    old_writes: bool
    """As of arguments; of results, the new one writes."""
    is_typed: bool
    """What is written was a value of its type: it has the fields of the type and no others. If not, it may be
    anything that the writer's schema lets pass.
    """
    any_skips: bool = False
    """Where the old schema is ``Any``, nothing is compared: nobody said what is expected."""


class Side(NamedTuple):
    """A schema, with the definitions that it refers to."""

    schema: AnySchema
    definitions: Mapping[str, AnySchema]

    def of(self, schema: AnySchema) -> Side:
        """Return a part of it."""
        return Side(schema, self.definitions)

    @property
    def name(self) -> str:
        """What people call it."""
        return name_of(self.schema, self.definitions)


def changes(old: Side, new: Side, reading: Reading, path: str) -> list[Difference]:
    """Return what became of a schema; at most ``MAX_DIFFERENCES``, those that break first."""
    walk = Walk(reading)
    walk.compare(old, new, path)
    found = sorted(walk.found, key=lambda difference: not difference.breaking)
    return found[:MAX_DIFFERENCES]


class Walk:
    """One comparison. It goes down both schemas at once; where both refer to something that is being compared
    already, that is taken to fit: whatever does not is found there.
    """

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.found: list[Difference] = []
        self._under_way: set[tuple[str, str]] = set()
        self._depth = 0
        self._steps = 0

    # -- saying what was found --------------------------------------------------------------------------

    def breaks(self, path: str, message: str) -> None:
        """Note a difference that breaks somebody."""
        self.found.append(Difference(path, message, breaking=True))

    def differs(self, path: str, message: str) -> None:
        """Note a difference that breaks nobody."""
        self.found.append(Difference(path, message, breaking=False))

    def retyped(self, path: str, old: Side, new: Side, *, breaking: bool = True) -> None:
        """Note that a type became another one."""
        before, after = old.name, new.name
        said = f"{before} became {after}" if before != after else f"{before} has changed"
        self.found.append(Difference(path, said, breaking))

    def unclear(self, path: str, old: Side, new: Side, what: str = "") -> None:
        """Note that it changed in a way that this does not understand."""
        self.breaks(path, f"{what or _became(old, new)}, which {NOT_JUDGED}")

    def writer_and_reader[T](self, old: T, new: T) -> tuple[T, T]:
        """Return the two in the order in which values travel."""
        return (old, new) if self.reading.old_writes else (new, old)

    # -- going down -------------------------------------------------------------------------------------

    def compare(self, old: Side, new: Side, path: str) -> None:
        """Compare two schemas, and note how they differ."""
        self._steps += 1
        if self._steps > MAX_STEPS or self._depth > MAX_DEPTH:
            self.unclear(path, old, new, "it is too large or too deep to compare")
            return
        refs = (ref_of(old.schema) or "", ref_of(new.schema) or "")
        if all(refs):
            if refs in self._under_way:
                return
            self._under_way.add(refs)
        self._depth += 1
        try:
            before = old.of(resolved(old.schema, old.definitions))
            after = new.of(resolved(new.schema, new.definitions))
            self._compare(_Named(old, before), _Named(new, after), path)
        except (Unjudgeable, TypeError, ValueError, AttributeError):  # no schema of ours, whatever it is
            if _text(old) != _text(new):
                self.unclear(path, old, new)
        finally:
            self._depth -= 1
            if all(refs):
                self._under_way.discard(refs)

    def _compare(self, old: _Named, new: _Named, path: str) -> None:
        if self.reading.any_skips and old.plain is True:
            return
        writer, reader = self.writer_and_reader(old.plain, new.plain)
        if reader is True or writer is False:
            if old.plain != new.plain:
                self.retyped(path, old.side, new.side, breaking=False)
            return
        if writer is True or reader is False:
            self.retyped(path, old.side, new.side)
            return
        unions = (union_of(old.plain), union_of(new.plain))
        if any(unions):
            self._unions(old, new, unions, path)
            return
        literals = (literals_of(old.plain), literals_of(new.plain))
        if any(each is not None for each in literals):
            self._literals(old, new, literals, path)
            return
        self._kinds(old, new, path)

    def _kinds(self, old: _Named, new: _Named, path: str) -> None:
        before, after = _mapping(old.plain), _mapping(new.plain)
        kinds = (before.get("type"), after.get("type"))
        if not all(isinstance(kind, str) and kind in KINDS for kind in kinds):
            if closure_of(old.side.schema, old.side.definitions) != closure_of(
                new.side.schema, new.side.definitions
            ):
                self.unclear(path, old.side, new.side)
            return
        formats = (before.get("format"), after.get("format"))
        widened = self.writer_and_reader(*kinds) == ("integer", "number")
        if (kinds[0] != kinds[1] or formats[0] != formats[1]) and not widened:
            self.retyped(path, old.side, new.side)
            return
        if widened:
            self.retyped(path, old.side, new.side, breaking=False)
        for said in limits_changed(before, after, old_writes=self.reading.old_writes):
            self.found.append(Difference(path, said.message, said.breaking))
        if kinds[0] == "array":
            self._arrays(old.inner, new.inner, path)
        elif kinds[0] == "object":
            ObjectChanges(self, old.inner, new.inner, path).compare()
        self._others(old, new, path, handled=_HANDLED[str(kinds[0])])

    def _others(self, old: _Named, new: _Named, path: str, handled: frozenset[str]) -> None:
        """What is said with words that are not known here has to stay as it is."""
        before, after = _mapping(old.plain), _mapping(new.plain)
        for word in sorted((before.keys() | after.keys()) - handled - ABOUT_A_PLACE):
            texts = [
                closure_of(each.get(word, {}), side.side.definitions)
                for each, side in ((before, old), (after, new))
            ]
            if texts[0] != texts[1] or (word in before) != (word in after):
                self.unclear(path, old.side, new.side, f"{word!r} of {new.side.name} has changed")

    # -- arrays -----------------------------------------------------------------------------------------

    def _arrays(self, old: Side, new: Side, path: str) -> None:
        before, after = _mapping(old.schema), _mapping(new.schema)
        if bool(before.get("uniqueItems")) != bool(after.get("uniqueItems")):
            writer, _ = self.writer_and_reader(before, after)
            self.retyped(path, old, new, breaking=not writer.get("uniqueItems"))
        firsts = (list(before.get("prefixItems", [])), list(after.get("prefixItems", [])))
        writer, _ = self.writer_and_reader(before, after)
        most = writer.get("maxItems")
        named = max(map(len, firsts))
        for number in range(named if most is None else min(named, most)):
            one, other = _item(before, firsts[0], number), _item(after, firsts[1], number)
            self.compare(old.of(one), new.of(other), f"{path}[{number}]")
        if most is None or most > named:
            one, other = before.get("items", True), after.get("items", True)
            self.compare(old.of(one), new.of(other), f"{path}[]")

    # -- choices ----------------------------------------------------------------------------------------

    def _unions(self, old: _Named, new: _Named, unions: tuple[Union | None, Union | None], path: str) -> None:
        _, reader = self.writer_and_reader(*unions)
        if reader is not None and reader.is_tagged and reader.tag is None:
            if _text(old.side) != _text(new.side):
                self.unclear(path, old.side, new.side)
            return
        before = [old.side.of(each) for each in _branches(old.inner, depth=0)]
        after = [new.side.of(each) for each in _branches(new.inner, depth=0)]
        if len(before) == len(after) == 1:
            self.compare(before[0], after[0], path)
            return
        writes, reads = self.writer_and_reader(before, after)
        used: set[int] = set()
        for branch in writes:
            same = [n for n, each in enumerate(reads) if _text(each) == _text(branch)]
            fitting = (n for n, each in enumerate(reads) if self._is_read(branch, each, unions))
            number = same[0] if same else next(fitting, None)
            if number is None:
                self._unread(branch, reads, (old.side, new.side), path)
            else:
                used.add(number)
        if len(used) < len(reads) and not any(d.path.startswith(path) for d in self.found):
            self.retyped(path, old.side, new.side, breaking=False)

    def _is_read(self, writer: Side, reader: Side, unions: tuple[Union | None, Union | None]) -> bool:
        old, new = self.writer_and_reader(writer, reader)
        with self._trial() as found:
            self.compare(old, new, "")
            if any(difference.breaking for difference in found):
                return False
        written_union, read_union = self.writer_and_reader(*unions)
        tag = read_union.tag if read_union is not None else None
        if tag is None or (written_union is not None and written_union.tag == tag):
            return True
        plain = resolved(writer.schema, writer.definitions)
        return isinstance(plain, Mapping) and is_written(plain, tag, is_typed=self.reading.is_typed)

    @contextmanager
    def _trial(self) -> Iterator[list[Difference]]:
        kept, self.found = self.found, []
        try:
            yield self.found
        finally:
            self.found = kept

    def _unread(self, branch: Side, reads: list[Side], sides: tuple[Side, Side], path: str) -> None:
        """Nothing reads a branch: tell what is wrong with the only one that it can have meant."""
        kind = _kind(branch)
        same = [each for each in reads if _kind(each) == kind]
        if len(same) == 1 and kind in {"object", "array"}:
            before = len(self.found)
            self.compare(*self.writer_and_reader(branch, same[0]), path)
            if any(difference.breaking for difference in self.found[before:]):
                return
        verb = "is no longer taken" if self.reading.old_writes else "may be returned now"
        self.breaks(path, f"{_became(*sides)}: {branch.name} {verb}")

    def _literals(
        self, old: _Named, new: _Named, literals: tuple[Literals | None, Literals | None], path: str
    ) -> None:
        writer, reader = self.writer_and_reader(*literals)
        _, read_as = self.writer_and_reader(old.plain, new.plain)
        if writer is None:
            self.retyped(path, old.side, new.side)
            return
        others = {text_of(each.others) for each in literals if each is not None}
        if len(others | ({"{}"} if reader is None else set())) > 1:
            self.unclear(path, old.side, new.side)
            return
        if reader is None:
            takes_all = all(fits(value, _mapping(read_as)) for value in writer.values.values())
            self.retyped(path, old.side, new.side, breaking=not takes_all)
            return
        unread = {key: value for key, value in writer.values.items() if key not in reader.values}
        if unread:
            verb = "is no longer taken" if self.reading.old_writes else "may be returned now"
            self.breaks(path, f"{', '.join(repr(v) for v in list(unread.values())[:8])} {verb}")
        elif len(reader.values) > len(writer.values):
            self.retyped(path, old.side, new.side, breaking=False)


class _Named(NamedTuple):
    """A schema as it is named, and as it is meant."""

    side: Side
    inner: Side

    @property
    def plain(self) -> AnySchema:
        return self.inner.schema


_LIMITS: Final = frozenset({"type", "format"})
_HANDLED: Final[dict[str, frozenset[str]]] = {
    "null": _LIMITS,
    "boolean": _LIMITS,
    "integer": _LIMITS | {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
    "number": _LIMITS | {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
    "string": _LIMITS | {"minLength", "maxLength", "pattern"},
    "array": _LIMITS | {"minItems", "maxItems", "items", "prefixItems", "uniqueItems"},
    "object": _LIMITS
    | {"properties", "required", "additionalProperties", "propertyNames", "minProperties", "maxProperties"},
}


def _branches(side: Side, depth: int) -> list[AnySchema]:
    plain = resolved(side.schema, side.definitions)
    union = union_of(plain)
    if union is None:
        return [side.schema]
    if depth > MAX_DEPTH:
        raise Unjudgeable
    return [each for branch in union.branches for each in _branches(side.of(branch), depth + 1)]


def _kind(side: Side) -> Any:
    plain = resolved(side.schema, side.definitions)
    return plain.get("type") if isinstance(plain, Mapping) else None


def _item(array: Schema, firsts: list[AnySchema], number: int) -> AnySchema:
    item: AnySchema = firsts[number] if number < len(firsts) else array.get("items", True)
    return item


def _mapping(schema: AnySchema) -> Schema:
    if isinstance(schema, Mapping):
        return schema
    raise Unjudgeable


def _text(side: Side) -> str:
    return closure_of(side.schema, side.definitions)


def _became(old: Side, new: Side) -> str:
    before, after = old.name, new.name
    return f"{before} became {after}" if before != after else f"{before} has changed"
