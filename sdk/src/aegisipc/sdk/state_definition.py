"""What a service says of the state that the members of a group share: checked where it is written."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import UnionType
from typing import (
    Annotated,
    Any,
    Final,
    NamedTuple,
    NewType,
    TypeAliasType,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from pydantic.errors import PydanticUserError

from aegisipc.eventstore.codec import TypeCodec, encode, type_codec
from aegisipc.eventstore.names import check_name
from aegisipc.sdk.errors import ServiceDefinitionError
from aegisipc.sdk.hooks import check_plain, name_of

PAIR: Final = b"\x92"
"""How an array of two begins in MessagePack."""


class StateEvent(NamedTuple):
    """A type of event, under its name in the log, and what applies it. ``head`` begins its bodies."""

    name: str
    type: Any
    classes: tuple[type, ...]
    codec: TypeCodec[Any]
    apply: Callable[[Any], object]
    head: bytes


class Snapshot(NamedTuple):
    """What gives the state as one value, and that value's type."""

    function: Callable[[], Any]
    type: Any
    codec: TypeCodec[Any]


class StateDefinition:
    """What a service says of the state that its members share, gathered as its decorators run."""

    def __init__(self, service: str) -> None:
        self.service = service
        self.events: dict[str, StateEvent] = {}
        self.snapshot: Snapshot | None = None
        self.restore: Callable[[Any], object] | None = None

    @property
    def is_empty(self) -> bool:
        """The service shares no state."""
        return not self.events and self.snapshot is None and self.restore is None

    def add_event(self, tp: Any, function: Callable[[Any], object], name: str | None) -> None:
        """Have `function` apply events of type `tp`.

        Raises:
            ServiceDefinitionError: the type or the function cannot be used, or one of that name or type
                is there already.
            InvalidName: the name cannot be an event's.
        """
        what = f"@{self.service}.on"
        check_plain(function, what, takes=1, shape="def applied(event: Event) -> None")
        name = check_name(_default_name(tp) if name is None else name, "state event")
        for other in self.events.values():
            if other.name == name or other.type == tp:
                raise ServiceDefinitionError(
                    f"cannot use {what} twice for {other.name!r}: {name_of(other.apply)}() applies it already"
                    + ("" if other.type == tp else "; give one of the two types another name=")
                )
        classes = _classes_of(tp)
        if not classes:
            raise ServiceDefinitionError(
                f"cannot use {what} for {tp!r}: nobody could tell which values are of that type; name a "
                "class, a TypedDict, or a union of such"
            )
        self.events[name] = StateEvent(name, tp, classes, _codec(tp, what), function, PAIR + encode(name))

    def set_snapshot(self, function: Callable[[], Any]) -> None:
        """Have `function` give the state.

        Raises:
            ServiceDefinitionError: it cannot be used, or there is one already.
        """
        what = f"@{self.service}.snapshot"
        _refuse_second(what, self.snapshot.function if self.snapshot else None)
        check_plain(function, what, takes=0, shape="def taken() -> State")
        hints = _hints_of(function, what)
        if "return" not in hints:
            raise ServiceDefinitionError(
                f"cannot use {name_of(function)}() as {what}: it has no return annotation to read the "
                "snapshot back by; annotate it"
            )
        self.snapshot = Snapshot(function, hints["return"], _codec(hints["return"], what))

    def set_restore(self, function: Callable[[Any], object]) -> None:
        """Have `function` take over a state that was read back, or ``None``: start from nothing.

        Raises:
            ServiceDefinitionError: it cannot be used, or there is one already.
        """
        what = f"@{self.service}.restore"
        _refuse_second(what, self.restore)
        check_plain(function, what, takes=1, shape="def restored(state: State | None) -> None")
        self.restore = function

    def check(self) -> None:
        """Check that all of it is there and fits together, or nothing.

        Raises:
            ServiceDefinitionError: it is not, or does not.
        """
        parts = {"on(…)": self.events, "snapshot": self.snapshot, "restore": self.restore}
        missing = [f"@{self.service}.{part}" for part, found in parts.items() if not found]
        if self.is_empty:
            return
        if missing:
            present = [f"@{self.service}.{part}" for part, found in parts.items() if found]
            raise ServiceDefinitionError(
                f"cannot run service {self.service!r}: it has {' and '.join(present)} but no "
                f"{' and no '.join(missing)}; a member that joins later needs all three to get at the state"
            )
        if self.snapshot is not None and self.restore is not None:
            _check_pair(self.service, self.snapshot, self.restore)


def _refuse_second(what: str, first: Callable[..., Any] | None) -> None:
    if first is not None:
        raise ServiceDefinitionError(f"cannot use {what} twice: {name_of(first)}() is it already")


def _check_pair(service: str, snapshot: Snapshot, restore: Callable[[Any], object]) -> None:
    """Check that what one gives is what the other takes, as far as its annotation says."""
    what = f"@{service}.restore"
    parameter = next(iter(inspect.signature(restore).parameters.values()))
    taken = _hints_of(restore, what).get(parameter.name, Any)
    held: Any = snapshot.type  # Any: to mypy it is no type, as it is a variable
    wanted: Any = Union[held, None]  # noqa: UP007 - and may not know "|"
    if taken is Any or taken == wanted or _codec(taken, what).fingerprint == _codec(wanted, what).fingerprint:
        return
    raise ServiceDefinitionError(
        f"cannot run service {service!r}: its snapshot is of type {snapshot.type!r}, but "
        f"{name_of(restore)}() takes {taken!r}; it must take that type or None (None: start from nothing)"
    )


def _hints_of(function: Callable[..., Any], what: str) -> dict[str, Any]:
    annotated = function if inspect.isroutine(function) else type(function).__call__
    try:
        return get_type_hints(annotated, include_extras=True)
    except (NameError, TypeError) as error:
        raise ServiceDefinitionError(
            f"cannot use {name_of(function)}() as {what}: its annotations cannot be read: {error}"
        ) from error


def _codec(tp: Any, what: str) -> TypeCodec[Any]:
    try:
        return type_codec(tp)
    except PydanticUserError as error:
        raise ServiceDefinitionError(f"cannot use {tp!r} for {what}: {error.message}") from error


def _default_name(tp: Any) -> str:
    if isinstance(tp, type | TypeAliasType | NewType) and get_origin(tp) is None:
        return tp.__name__
    raise ServiceDefinitionError(f"cannot name the events of type {tp!r}: give them a name=")


def _classes_of(tp: Any) -> tuple[type, ...]:
    """The classes that values of a type are of, at run time; none if that cannot be said."""
    origin = get_origin(tp)
    if isinstance(tp, TypeAliasType):
        return _classes_of(tp.__value__)
    if isinstance(tp, NewType):
        return _classes_of(tp.__supertype__)
    if origin is Annotated:
        return _classes_of(get_args(tp)[0])
    if origin in (Union, UnionType):
        found = [_classes_of(member) for member in get_args(tp)]
        return tuple(dict.fromkeys(cls for classes in found for cls in classes)) if all(found) else ()
    cls = tp if origin is None else origin
    if is_typeddict(cls):
        return (dict,)
    is_telling = isinstance(cls, type) and cls not in (Any, object) and not inspect.isabstract(cls)
    return (cls,) if is_telling else ()
