"""What the log of a run holds, as data. Times are the server's, in nanoseconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from aegisipc.chaos.log_words import CallState
from aegisipc.eventstore.frames import FINAL, NO_CALL, Mark
from aegisipc.eventstore.ids import format_call_id
from aegisipc.eventstore.names import POOL_GROUP

PROMOTED: Final = "group.promoted.v1"
VACATED: Final = "group.vacated.v1"
REGISTERED: Final = "instance.registered.v1"
ELECTED: Final = "router.elected.v1"
PAUSED: Final = "group.paused.v1"
RESUMED: Final = "group.resumed.v1"

type Group = tuple[str, str]
"""A service and one of its groups."""

type Payload = tuple[str, str | None, bytes]
"""What a call asks for: method, resource, and its arguments, or the digest of those if they are large."""


class Word(NamedTuple):
    """What a frame says of one call. ``at_ns`` is the server's time."""

    seq: int
    at_ns: int
    mark: Mark
    writer: str
    epoch: int
    body: bytes | None


class LogEvent(NamedTuple):
    """An event about a group, an instance or a router, as it is stored. ``by`` is the last token of its
    subject: an instance, or the place where routers decide.
    """

    seq: int
    at_ns: int
    service: str
    group: str
    by: str
    type: str
    data: dict[str, Any]


class Stranger(NamedTuple):
    """A record under the fence of a group by one who did not hold the pen. ``holder`` and ``epoch_held`` are
    those of the latest promotion before it; ``session_held`` that of the first frame of that epoch.
    """

    seq: int
    group: Group
    kind: str
    writer: str
    epoch: int | None
    session: int | None
    holder: str | None
    epoch_held: int
    session_held: int | None


class Contradiction(NamedTuple):
    """A word of the holder that its call's state does not allow."""

    call_id: str
    before: CallState
    word: Word


class SnapshotFact(NamedTuple):
    """What was compared of a snapshot of the system, whose index stands at ``seq``: ``digest`` is that of the
    state which it ``does`` (it holds it, or gives it in some way), ``folded`` that of the same records folded
    from the first one.
    """

    seq: int
    covers: int
    does: str
    digest: str
    folded: str


class KeyWord(NamedTuple):
    """A call has its idempotency key (``KEYED``), or gives it back (``RELEASED``)."""

    seq: int
    at_ns: int
    call_id: str
    mark: Mark
    body: bytes | None


class KeySegment(NamedTuple):
    """A part of an index of keys: of what was said of them after ``since`` and up to ``covers``."""

    seq: int
    since: int
    covers: int


@dataclass(slots=True)
class CallFact:
    """One call: as it was accepted, and what was said of it, in log order.

    ``number`` is its first argument, if that is an integer; ``index`` its place in its frame. ``deadline_ns``
    is that of the latest requeueing. ``words`` are those that count, ``void`` those that came too late in a
    pool; ``evidence`` is the word of instances that had lost the pen. ``payload`` is there if there is a key.
    ``copies`` are the records beside ``seq`` in which its frame was stored again; ``again`` those in which a
    pool's dead letter was, to be run again, each with where that dead letter stands.
    """

    call_id: str
    number: int | None
    service: str
    group: str
    client: str
    session: int
    method: str
    resource: str | None
    seq: int
    index: int
    at_ns: int
    deadline_ns: int
    key: str | None
    payload: Payload | None
    is_large: bool = False
    state: CallState = CallState.OPEN
    words: list[Word] = field(default_factory=list)
    void: tuple[Word, ...] = ()
    evidence: tuple[Word, ...] = ()
    copies: tuple[int, ...] = ()
    again: tuple[tuple[int, int], ...] = ()
    final: Word | None = None
    """The outcome that nothing comes after, if there is one."""
    _said: int = 0
    """Which marks were said: a bit for each, so that asking costs no search."""

    @property
    def place(self) -> Group:
        """The group that it is for."""
        return self.service, self.group

    @property
    def is_pool(self) -> bool:
        """Whether many may conclude it."""
        return self.group == POOL_GROUP

    @property
    def order(self) -> tuple[int, int]:
        """Its place in the log."""
        return self.seq, self.index

    def say(self, word: Word) -> None:
        """Take in a word that counts."""
        self.words.append(word)
        self._said |= 1 << word.mark
        if word.mark in FINAL:
            self.final = word

    @property
    def first(self) -> str | None:
        """The call whose outcome is its own, if it repeats one."""
        final = self.final
        if final is None or final.mark is not Mark.DUPLICATE or len(final.body or b"") != 16:
            return None
        return format_call_id(final.body or NO_CALL)

    def count(self, mark: Mark) -> int:
        """How many words that count have that mark."""
        return sum(word.mark is mark for word in self.words)

    def has(self, *marks: Mark) -> bool:
        """Whether a word that counts has one of these marks."""
        said = self._said
        return said != 0 and any(said >> mark & 1 for mark in marks)


@dataclass(slots=True)
class LogFacts:
    """Everything that the log says, by call and in order."""

    calls: dict[str, CallFact] = field(default_factory=dict)
    """By id, in log order."""
    by_number: dict[int, tuple[CallFact, ...]] = field(default_factory=dict)
    """By first argument: several, where a call was repeated."""
    events: list[LogEvent] = field(default_factory=list)
    fences: dict[Group, list[LogEvent]] = field(default_factory=dict)
    """All that was said on each group's fence."""
    effects: dict[tuple[str, str], str] = field(default_factory=dict)
    """What (service, method) was declared, as it was registered."""
    strangers: list[Stranger] = field(default_factory=list)
    contradictions: list[Contradiction] = field(default_factory=list)
    used_twice: list[tuple[str, int]] = field(default_factory=list)
    """Ids of calls that were accepted once more, and where."""
    key_words: dict[Group, list[KeyWord | KeySegment]] = field(default_factory=dict)
    """All that was said of each group's idempotency keys."""
    orphans: list[tuple[str, Word]] = field(default_factory=list)
    """Words about calls that the log does not hold."""
    snapshots: list[tuple[int, str]] = field(default_factory=list)
    """Where snapshots stand: of the system (``_router``) or of a group's state."""
    snapshots_compared: Callable[[], list[SnapshotFact]] = list
    """Compares the snapshots of the system with the fold of the log; that takes as long as to fold it."""
    marks: dict[Mark, int] = field(default_factory=dict)
    """How many words of each mark counted."""
    unreadable: list[int] = field(default_factory=list)
    """Records that cannot be read, as hostile writers leave them."""
    stored_twice: int = 0
    void: int = 0
    frames: int = 0
    records: int = 0
    first_seq: int = 0
    last_seq: int = 0
    last_at_ns: int = 0

    def of_type(self, *types: str) -> list[LogEvent]:
        """Return the events of these types, in order."""
        return [event for event in self.events if event.type in types]

    @property
    def promotions(self) -> dict[Group, list[LogEvent]]:
        """Who got each group's pen: ``data`` has ``epoch``, ``holder``, ``incarnation`` and ``cause``."""
        return {g: [e for e in events if e.type == PROMOTED] for g, events in self.fences.items()}
