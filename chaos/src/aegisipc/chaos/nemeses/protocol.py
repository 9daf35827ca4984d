"""The NATS client protocol as bytes: where one operation ends, and what a message says of itself. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

MAX_LINE_BYTES: Final = 64 * 1024
"""No line of the protocol is longer; INFO and CONNECT are the longest."""

MAX_PAYLOAD_BYTES: Final = 64 * 1024 * 1024
"""No payload is longer: the most that a nats-server lets one configure."""

_PAYLOADS: Final = frozenset({b"PUB", b"HPUB", b"MSG", b"HMSG"})
_WITH_PAYLOAD: Final = tuple(verb + b" " for verb in sorted(_PAYLOADS))
_LINES: Final = frozenset({b"INFO", b"CONNECT", b"SUB", b"UNSUB", b"PING", b"PONG", b"+OK", b"-ERR"})
_VERBS: Final = _PAYLOADS | _LINES
_LONGEST_VERB: Final = 7


class NotNats(Exception):
    """These bytes are not the NATS client protocol (TLS, perhaps, or another one)."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One operation. ``subject`` and ``reply`` are empty where it carries no message; ``payload`` is without
    headers. What a consumer delivers has the subject under which it was stored.
    """

    verb: str
    raw: bytes
    subject: str = ""
    reply: str = ""
    headers: bytes = b""
    payload: bytes = b""

    @property
    def is_message(self) -> bool:
        """Whether the server delivers something with it."""
        return self.verb in {"MSG", "HMSG"}


type Picks = Callable[[Frame], bool]


def is_plain(frame: Frame) -> bool:
    """Whether a delivered message comes from no JetStream consumer: no stored record, no flow control, no
    heartbeat, no status of a pull request. Acknowledgements of publishes and answers of the JetStream API
    are plain.
    """
    return (
        frame.is_message
        and not frame.reply.startswith(("$JS.ACK.", "$JS.FC."))
        and not frame.headers.startswith((b"NATS/1.0 1", b"NATS/1.0 4"))
    )


def of_subjects(*patterns: str) -> Picks:
    """Return a predicate: a plain message under one of `patterns`, with NATS's wildcards ``*`` and ``>``."""
    split = [pattern.split(".") for pattern in patterns]

    def picks(frame: Frame) -> bool:
        if not is_plain(frame):
            return False
        tokens = frame.subject.split(".")
        return any(_matches(pattern, tokens) for pattern in split)

    return picks


def _matches(pattern: list[str], tokens: list[str]) -> bool:
    for place, wanted in enumerate(pattern):
        if wanted == ">":
            return len(tokens) > place
        if place >= len(tokens) or wanted not in {"*", tokens[place]}:
            return False
    return len(pattern) == len(tokens)


class Splitter:
    """Cuts a stream of bytes into whole operations; keeps back the beginning of one that is not complete."""

    def __init__(self) -> None:
        self._kept = b""

    def feed(self, chunk: bytes) -> tuple[bytes, list[tuple[int, int]]]:
        """Take in bytes; return all operations that are complete now, and where each begins and ends.

        Raises:
            NotNats: it is another protocol; :meth:`rest` then has what was not returned.
        """
        data = self._kept + chunk if self._kept else chunk
        self._kept = data
        bounds: list[tuple[int, int]] = []
        begin = 0
        while (end := _end_of(data, begin)) is not None:
            bounds.append((begin, end))
            begin = end
        self._kept = data[begin:]
        return (data if begin == len(data) else data[:begin]), bounds

    def rest(self) -> bytes:
        """Return what is kept back, and keep nothing."""
        kept, self._kept = self._kept, b""
        return kept


def _end_of(data: bytes, begin: int) -> int | None:
    """Where the operation that begins at `begin` ends; ``None``: not here yet."""
    line_end = data.find(b"\r\n", begin, begin + MAX_LINE_BYTES)
    if line_end < 0 or not data.startswith(_WITH_PAYLOAD, begin):
        return _end_of_line(data, begin, line_end)
    last = data[data.rfind(b" ", begin, line_end) + 1 : line_end]
    if not last.isdigit() or int(last) > MAX_PAYLOAD_BYTES:
        raise NotNats(f"no size: {last[:32]!r}")
    end = line_end + 2 + int(last) + 2
    if end > len(data):
        return None
    if data[end - 2 : end] != b"\r\n":
        raise NotNats("a payload has another length than its line says")
    return end


def _end_of_line(data: bytes, begin: int, line_end: int) -> int | None:
    start = data[begin : begin + _LONGEST_VERB + 1]
    verb = (start.split(None, 1) or [b""])[0]
    is_cut = line_end < 0 and verb == start and any(known.startswith(verb) for known in _VERBS)
    if not is_cut and verb not in (_LINES if line_end >= 0 else _VERBS):
        raise NotNats(f"no operation: {start!r}")
    if line_end < 0 and len(data) - begin >= MAX_LINE_BYTES:
        raise NotNats("a line has no end")
    return None if line_end < 0 else line_end + 2


def read_frame(raw: bytes) -> Frame:
    """Read one whole operation.

    Raises:
        NotNats: it cannot be read.
    """
    line, _, rest = raw.partition(b"\r\n")
    words = line.split()
    verb = words[0].upper().decode("ascii", "replace") if words else ""
    if verb.encode() not in _PAYLOADS:
        return Frame(verb, raw)
    sizes = 2 if verb.startswith("H") else 1
    names = 2 if verb.endswith("MSG") else 1  # subject, and the id of the subscription
    try:
        numbers = [int(word) for word in words[-sizes:]]
        subject = words[1].decode()
        reply = words[1 + names].decode() if len(words) > 1 + names + sizes else ""
    except (ValueError, IndexError):
        raise NotNats(f"cannot read {line[:64]!r}") from None
    split = numbers[0] if sizes == 2 else 0
    return Frame(verb, raw, subject, reply, rest[:split], rest[split:-2])


def client_name(line: bytes) -> str | None:
    """Return the name that a CONNECT gives ("" if none); ``None`` if `line` is another operation."""
    if line[:8].upper() != b"CONNECT ":
        return None
    try:
        said = json.loads(line[8:])
    except ValueError:
        return ""
    name = said.get("name", "") if isinstance(said, dict) else ""
    return name if isinstance(name, str) else ""
