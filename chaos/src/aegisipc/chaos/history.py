"""What a run leaves behind, told by those who stood outside of the system: the evidence that is judged.

Simulated and real runs write the same: what clients asked and were told (`Operation`), what handlers did
(`Effect`, an independent ledger), what was broken and when (`Fault`), what every node said after it was
healed (`Probe`), and what processes held (`Sample`). The log itself is read apart, see
:mod:`aegisipc.chaos.log_facts`. Times are nanoseconds of one clock that the whole run shares; nothing that
is under test is asked for them.

On disk each is a line of JSON (:func:`to_line`, :func:`from_line`), written and fsynced before the system is
told of it where that matters: an invocation before it is sent, a completion before it is used.
"""

from __future__ import annotations

import json
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any, Final


class Stage(StrEnum):
    """What is known of an operation, in Jepsen's words."""

    INVOKE = "invoke"
    OK = "ok"
    """It was done: ``value`` is its result."""
    FAIL = "fail"
    """It ended in an ``error``: with ``call_id``, that is the final outcome of a call (the handler raised, it
    expired, was cancelled, is a dead letter, conflicts with another of its key); without, it was refused, and
    certainly had no effect.
    """
    INFO = "info"
    """Nobody knows, or not yet: no answer in time, or a doubt."""


class Deed(StrEnum):
    """What an operation is."""

    CALL = "call"
    """Submit and await the outcome; ``ok`` and ``fail`` are final, ``info`` carries a call id if known."""
    SUBMIT = "submit"
    """``ok``: it was accepted, durably; ``call_id`` is set."""
    ATTACH = "attach"
    """What a (possibly other) reader was told of the call ``call_id`` as its final outcome."""
    FIND = "find"
    """Which call has the idempotency key ``key`` in the group of the service of ``target`` that ``resource``
    is of: ``ok`` names it in ``call_id``; ``call_unknown`` says that none has it."""
    CANCEL = "cancel"
    OPERATE = "operate"
    """A command of an operator: promote, drain, pause, resume, resolve, requeue, discard."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One line of a client's history.

    ``number`` pairs an invocation with its completion, and is unique in a run; it is also the argument of
    the call, by which effects are told apart. ``effect`` is the declaration of the method (``once``,
    ``idempotent``, ``pure``). ``value`` is what was returned; ``error`` is the code of what was raised, with
    its text in ``message``. In the invocation of an operator's command ``value`` is the command, see
    :mod:`aegisipc.chaos.operators`. ``receipt`` is what was told of how a call is kept, if it was: the fields
    of :class:`aegisipc.sdk.receipts.Receipt`, and ``call_id``, which call that is.
    """

    number: int
    stage: Stage
    deed: Deed
    client: str
    at_ns: int
    target: str = ""
    effect: str = ""
    resource: str | None = None
    key: str | None = None
    timeout_s: float | None = None
    call_id: str | None = None
    value: Any = None
    error: str | None = None
    message: str = ""
    receipt: dict[str, Any] | None = None


class Phase(StrEnum):
    """How far a handler came."""

    BEGAN = "began"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Effect:
    """One line of the ledger, written by a handler. ``life`` tells one life of a process from the next."""

    number: int
    phase: Phase
    call_id: str
    instance: str
    life: str
    epoch: int
    at_ns: int
    target: str = ""
    effect: str = ""
    resource: str | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that was broken. ``until_ns`` is when it was healed; equal to ``at_ns`` for what is over at
    once (a kill).
    """

    name: str
    victim: str
    at_ns: int
    until_ns: int
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Probe:
    """After everything was healed: did this node serve, and what did it say its state is.

    ``node`` is a router, an instance, a client or a server; ``digests`` are those of the state: ``live``,
    ``replayed`` (from the first record), ``snapshot`` (newest snapshot and what followed), where known.
    """

    node: str
    role: str
    serves: bool
    at_ns: int
    after_s: float = 0.0
    digests: dict[str, str] = field(default_factory=dict)
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """What a process held at a time; ``tables`` are the sizes of its tables and queues, by name, with their
    limits after a slash in the name where there is one.
    """

    process: str
    at_ns: int
    rss_bytes: int = 0
    open_files: int = 0
    connections: int = 0
    consumers: int = 0
    tables: dict[str, int] = field(default_factory=dict)


type Entry = Operation | Effect | Fault | Probe | Sample

_KINDS: Final[dict[str, type[Any]]] = {
    "operation": Operation,
    "effect": Effect,
    "fault": Fault,
    "probe": Probe,
    "sample": Sample,
}
_ENUMS: Final = {"stage": Stage, "deed": Deed, "phase": Phase}


def to_line(entry: Entry) -> bytes:
    """Return an entry as a line of JSON, with what has its default left out."""
    kind = type(entry).__name__.lower()
    plain = asdict(entry)
    kept = {f.name: plain[f.name] for f in fields(entry) if _is_said(f, plain[f.name])}
    return json.dumps({"kind": kind, **kept}, separators=(",", ":"), sort_keys=True).encode() + b"\n"


def _is_said(of: Field[Any], value: Any) -> bool:
    default = of.default if of.default_factory is MISSING else of.default_factory()
    return default is MISSING or value != default or type(value) is not type(default)


def from_line(line: bytes | str) -> Entry:
    """Read a line of :func:`to_line`.

    Raises:
        ValueError: it is none, or one that was cut off when its writer was killed.
    """
    try:
        plain = json.loads(line)
        kind = _KINDS[plain.pop("kind")]
        for f in fields(kind):
            if f.name in _ENUMS:
                plain[f.name] = _ENUMS[f.name](plain[f.name])
        entry: Entry = kind(**plain)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"cannot read a line of a history: {error!r}") from error
    return entry


@dataclass(frozen=True, slots=True)
class Keeping:
    """How the servers of a run are configured to keep the log, as whoever started them knows: by how many
    ``replicas``, and whether each syncs a write to the disk before it acknowledges it.
    """

    replicas: int
    syncs: bool
    storage: str = "file"


@dataclass(slots=True)
class Evidence:
    """Everything that a run left behind, but for its log. Lists are in the order of their times."""

    operations: list[Operation] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    probes: list[Probe] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)
    """What was still there after the end: a process, a consumer, a connection, a file."""
    unhandled: list[str] = field(default_factory=list)
    """Exceptions that nobody handled, and processes that ended by themselves."""
    healed_at_ns: int = 0
    """When the last fault was over; 0 if there was none."""
    ended_at_ns: int = 0
    keeping: Keeping | None = None
    """``None`` if nobody said."""
    has_large: bool = False
    """Whether clients also asked with arguments too large for a frame."""

    def take(self, entry: Entry) -> None:
        """Add an entry to the list of its kind."""
        match entry:
            case Operation():
                self.operations.append(entry)
            case Effect():
                self.effects.append(entry)
            case Fault():
                self.faults.append(entry)
            case Probe():
                self.probes.append(entry)
            case Sample():
                self.samples.append(entry)
