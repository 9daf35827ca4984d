"""Operations in pairs: what was asked, and what became of it as far as clients were told."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from aegisipc.chaos.history import Deed, Operation, Stage

_CONCLUDING = frozenset({Stage.OK, Stage.FAIL})


@dataclass(slots=True)
class Asked:
    """One operation. ``told_ns`` is when its client was first told anything (``None``: never), ``known_ns``
    when somebody was told its outcome, possibly another reader by ``attach``. ``stage`` and ``error`` are
    the latest word; :attr:`Stage.INVOKE` means that there is none.
    """

    number: int
    deed: Deed
    target: str
    resource: str | None
    at_ns: int
    told_ns: int | None = None
    known_ns: int | None = None
    stage: Stage = Stage.INVOKE
    error: str | None = None
    call_id: str | None = None

    @property
    def is_call(self) -> bool:
        """Whether it asks a service for something: a call, or a submission."""
        return self.deed in {Deed.CALL, Deed.SUBMIT}

    @property
    def waited_ns(self) -> int | None:
        """How long its client waited to be told anything; ``None`` if it never was."""
        return None if self.told_ns is None else max(0, self.told_ns - self.at_ns)


def pair(operations: Iterable[Operation]) -> list[Asked]:
    """Pair invocations with what was said of them, in the order of the invocations.

    A completion whose invocation is missing stands for both, at its own time.
    """
    asked: dict[int, Asked] = {}
    readers = _Readers()
    for operation in operations:
        one = asked.get(operation.number)
        if one is None:
            one = asked[operation.number] = Asked(
                operation.number, operation.deed, operation.target, operation.resource, operation.at_ns
            )
        if operation.stage is not Stage.INVOKE:
            _tell(one, operation, readers)
    return list(asked.values())


@dataclass(slots=True)
class _Readers:
    """What other readers were told, by call id: when, and who still waits for it."""

    told_ns: dict[str, int] = field(default_factory=dict)
    unknown: dict[str, list[Asked]] = field(default_factory=dict)

    def tell(self, call_id: str, at_ns: int) -> None:
        self.told_ns.setdefault(call_id, at_ns)
        for one in self.unknown.pop(call_id, ()):
            one.known_ns = at_ns if one.known_ns is None else one.known_ns

    def ask(self, one: Asked, call_id: str) -> None:
        if call_id in self.told_ns:
            one.known_ns = max(self.told_ns[call_id], one.at_ns)
        else:
            self.unknown.setdefault(call_id, []).append(one)


def _tell(one: Asked, operation: Operation, readers: _Readers) -> None:
    """Take in what was said of `one`."""
    if one.told_ns is None:
        one.told_ns = operation.at_ns
    if one.stage not in _CONCLUDING:
        one.stage = operation.stage
        one.error = operation.error
    one.call_id = operation.call_id or one.call_id
    if operation.stage in _CONCLUDING:
        if one.known_ns is None:
            one.known_ns = operation.at_ns
        if operation.deed is Deed.ATTACH and operation.call_id is not None:
            readers.tell(operation.call_id, operation.at_ns)
    elif one.is_call and one.call_id is not None:
        readers.ask(one, one.call_id)


def outcome_of(one: Asked) -> str:
    """Return its outcome as a word: ``ok``, the code of its error, ``failed`` or ``unknown`` without a code,
    ``open`` if its client was never told anything.
    """
    if one.stage is Stage.INVOKE:
        return "open"
    if one.stage is Stage.OK:
        return "ok"
    return one.error or ("failed" if one.stage is Stage.FAIL else "unknown")
