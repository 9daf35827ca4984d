"""Messages that nobody should send: what is in them, and where they go. Pure; a seed makes always the same.

What is sent by default must do no harm to anybody, even on a server without permissions: rubbish on every
subject, and well-formed messages about calls, services and instances that do not exist. It is sent as a
client and an instance called ``mallory``, to its own subjects where a subject says who writes.

Not sent by default, because whoever may write there is trusted, and NATS permissions are what keeps others
away (see ``deploy/nats``):

- anything on the routers' subjects (``ha._group``, ``ha._watch``, ``term``, ``snapshot.*``): the fence *is*
  the sequence of the last record on ``ha._group``, so any record there, even rubbish, stops the holder's pen;
- a well-formed pen frame, or a mutation that may be one, without the fence's header: the server checks the
  fence only where the writer asks for it, and holders do;
- a registration, readiness or evidence of an instance, which would make of mallory a member;
- a well-formed reply, pulse, command or tell about a call, instance or group that exists: such a reply is
  believed by the caller (the log is not changed by it), and such a command is obeyed;
- requests to JetStream that delete, purge or change streams and consumers.

:attr:`Reach.EVERYWHERE` adds rubbish on these subjects and such requests, for a server whose permissions are
to refuse all of it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import msgpack  # type: ignore[import-untyped]

from aegisipc.eventstore.frames import CallEntry, CallFrame, encode_calls
from aegisipc.eventstore.ids import format_call_id
from aegisipc.eventstore.subjects import Subjects
from aegisipc.sdk.wire import encode_ask, encode_outcomes

MALLORY: Final = "mallory"

_NOWHERE: Final = "no-such-thing"
_MAX_NOISE: Final = 4096
_DEEPEST: Final = 50_000


class Kind(StrEnum):
    """What is wrong with a message."""

    NOISE = "noise"
    TRUNCATED = "truncated"
    MUTATED = "mutated"
    NESTED = "nested"
    BAD_JSON = "bad_json"
    BAD_NUMBERS = "bad_numbers"
    """A call frame with a session, number or epoch that its writer cannot have."""
    FORGED_OUTCOME = "forged_outcome"
    FORGED_ASK = "forged_ask"
    FORGED_TELL = "forged_tell"
    FORGED_COMMAND = "forged_command"
    BAD_SUBJECT = "bad_subject"
    """A subject that is no UTF-8."""
    BAD_HEADERS = "bad_headers"
    FORBIDDEN = "forbidden"
    """Only of :attr:`Reach.EVERYWHERE`."""


class Reach(StrEnum):
    """Which subjects are sent to."""

    HARMLESS = "harmless"
    EVERYWHERE = "everywhere"


@dataclass(frozen=True, slots=True)
class Shot:
    """One message. ``headers`` is the whole block, or empty."""

    kind: Kind
    subject: bytes
    payload: bytes
    reply: bytes = b""
    headers: bytes = b""


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to molest: a group of a service, with one of its clients and one of its instances."""

    subjects: Subjects
    service: str
    group: str
    client: str
    instance: str

    def plain(self) -> list[str]:
        """Subjects that are not stored."""
        at, names = self.subjects, (self.service, self.group)
        beside = [at.ask(*names), at.tell(*names), at.find_key(*names), at.flow(*names), at.peers(*names)]
        verbs = ("status", "doubts", "promote", "drain", "pause", "resume", "digest", _NOWHERE)
        return [
            at.reply(self.client),
            *beside,
            at.probe(*names, self.instance),
            *(at.api(verb) for verb in verbs),
        ]

    def pulses(self) -> list[str]:
        """Subjects of heartbeats: mallory's, and the victim's."""
        return [
            self.subjects.pulse(kind, who)
            for kind in ("instance", "router")
            for who in (MALLORY, self.instance)
        ]

    def log(self) -> list[str]:
        """Subjects of the log that mallory may call its own, as a client or as an instance."""
        at, names = self.subjects, (self.service, self.group, MALLORY)
        makers = (
            at.call,
            at.cancel,
            at.instance,
            at.pen,
            at.dead,
            at.keys,
            at.evidence,
            at.contract,
            at.state,
        )
        return [make(*names) for make in makers]

    def forbidden(self) -> list[str]:
        """Subjects that only routers, or others, may write, and requests that nobody of ours makes."""
        at, names = self.subjects, (self.service, self.group)
        others = [
            at.call(*names, self.client),
            at.pen(*names, self.instance),
            at.instance(*names, self.instance),
        ]
        api = [
            f"$JS.API.STREAM.{verb}.{stream}"
            for verb in ("DELETE", "PURGE", "UPDATE")
            for stream in (at.stream, at.pulse_stream)
        ]
        routers = [at.fence(*names), at.watch(*names), at.term, at.snapshot_index, at.snapshot_part]
        return [*routers, *others, *api]


def shots(target: Target, rng: random.Random, count: int, *, reach: Reach = Reach.HARMLESS) -> Iterator[Shot]:
    """Return `count` messages, of all kinds in turn."""
    maker = _Maker(target, rng)
    kinds = [kind for kind in Kind if kind is not Kind.FORBIDDEN or reach is Reach.EVERYWHERE]
    for number in range(count):
        yield maker.make(kinds[number % len(kinds)])


class _Maker:
    def __init__(self, target: Target, rng: random.Random) -> None:
        self._target = target
        self._at = target.subjects
        self._rng = rng
        self._makers: dict[Kind, Callable[[], Shot]] = {
            Kind.NOISE: self._noise,
            Kind.TRUNCATED: self._truncated,
            Kind.MUTATED: self._mutated,
            Kind.NESTED: self._nested,
            Kind.BAD_JSON: self._bad_json,
            Kind.BAD_NUMBERS: self._bad_numbers,
            Kind.FORGED_OUTCOME: self._forged_outcome,
            Kind.FORGED_ASK: self._forged_ask,
            Kind.FORGED_TELL: self._forged_tell,
            Kind.FORGED_COMMAND: self._forged_command,
            Kind.BAD_SUBJECT: self._bad_subject,
            Kind.BAD_HEADERS: self._bad_headers,
            Kind.FORBIDDEN: self._forbidden,
        }

    def make(self, kind: Kind) -> Shot:
        return self._makers[kind]()

    # -- rubbish, everywhere -------------------------------------------------------------------------------

    def _anywhere(self) -> str:
        return self._rng.choice([*self._target.plain(), *self._target.pulses(), *self._target.log()])

    def _noise(self) -> Shot:
        return self._shot(Kind.NOISE, self._anywhere(), self._rng.randbytes(self._rng.randrange(_MAX_NOISE)))

    def _truncated(self) -> Shot:
        real = self._real()
        return self._shot(Kind.TRUNCATED, self._anywhere(), real[: self._rng.randrange(len(real))])

    def _mutated(self) -> Shot:
        """Not to the log's subjects but the one for calls: what comes of it might be well-formed."""
        payload = bytearray(self._real())
        for _ in range(self._rng.randint(1, 8)):
            payload[self._rng.randrange(len(payload))] ^= 1 << self._rng.randrange(8)
        places = [*self._target.plain(), self._at.call(self._target.service, self._target.group, MALLORY)]
        return self._shot(Kind.MUTATED, self._rng.choice(places), bytes(payload))

    def _nested(self) -> Shot:
        depth = self._rng.choice((100, 1000, _DEEPEST))
        payload = self._rng.choice((b"\x91" * depth, b"\x81\xa0" * depth, b"[" * depth, b'{"a":' * depth))
        return self._shot(Kind.NESTED, self._anywhere(), payload)

    def _bad_json(self) -> Shot:
        payload = self._rng.choice(
            (
                b"{",
                b"null",
                b"[]",
                b'{"command":',
                b"NaN",
                b'"\\ud800"',
                b'{"a":\xff}',
                b"1" * 5000,
                b'{"command":"resolve","command":"check","call_id":7}',
                b'{"service":{"$ne":1},"author":"\\u0000"}',
            )
        )
        return self._shot(Kind.BAD_JSON, self._anywhere(), payload)

    def _bad_subject(self) -> Shot:
        broken = self._rng.choice((b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"a\xfe"))
        tokens = self._anywhere().encode().split(b".")
        tokens[self._rng.randrange(3, len(tokens))] = broken  # the namespace stays, so that somebody listens
        return Shot(Kind.BAD_SUBJECT, b".".join(tokens), self._real())

    def _bad_headers(self) -> Shot:
        """On subjects that are not stored: there the server itself would read them, and refuse."""
        lines = self._rng.choice(
            (
                b"NATS/1.0 999 what\r\n",
                b"NATS/1.0\r\n:\r\nx\r\n",
                b"NATS/1.0\r\n\xff: \xff\r\n",
                b"\xff\xff\r\n",
            )
        )
        headers = lines + b"A: " + b"b" * self._rng.randrange(_MAX_NOISE) + b"\r\n\r\n"
        subject = self._rng.choice(self._target.plain())
        return Shot(Kind.BAD_HEADERS, subject.encode(), self._real(), headers=headers)

    # -- well-formed, about nothing ------------------------------------------------------------------------

    def _bad_numbers(self) -> Shot:
        """The server stores it; readers drop it, or fail its calls, which have a method that nobody has."""
        number = self._rng.choice((0, -1, 1, 2**31, 2**63 - 1, 2**64 - 1))
        session = self._rng.choice((0, -1, 1, 2**42 - 1, 2**42, 2**64 - 1))
        header = ["calls.v2", session, number, self._rng.choice((0, -1, 2**63 - 1)), [self._entry()]]
        payload = msgpack.packb(header) + msgpack.packb([b"\x90"])
        return self._shot(
            Kind.BAD_NUMBERS, self._at.call(self._target.service, self._target.group, MALLORY), payload
        )

    def _forged_outcome(self) -> Shot:
        outcomes = [(self._rng.randbytes(16), self._rng.choice((1, 2, 3, 4)), b"\x01") for _ in range(8)]
        payload = encode_outcomes(outcomes, 64 * 1024)
        return self._shot(Kind.FORGED_OUTCOME, self._at.reply(self._target.client), payload)

    def _forged_ask(self) -> Shot:
        """Also with a reply that makes of the answer another question."""
        subject = self._at.ask(self._target.service, self._target.group)
        asked = encode_ask([self._rng.randbytes(16) for _ in range(self._rng.choice((0, 1, 1000)))])
        reply = self._rng.choice((subject, self._at.reply(self._target.client), f"_INBOX.{MALLORY}.1"))
        return Shot(Kind.FORGED_ASK, subject.encode(), asked, reply.encode())

    def _forged_tell(self) -> Shot:
        command = self._rng.choice(
            (
                {"command": "resolve", "executed": True, "result": 1},
                {"command": "resolve", "executed": False},
                {"command": "requeue"},
                {"command": "discard"},
            )
        )
        told = command | {"call_id": self._unknown_call(), "author": MALLORY}
        subject = self._at.tell(self._target.service, self._target.group)
        return self._asking(Kind.FORGED_TELL, subject, json.dumps(told).encode())

    def _forged_command(self) -> Shot:
        verb = self._rng.choice(("promote", "drain", "pause", "resume", "doubts"))
        wanted: dict[str, object] = {"service": _NOWHERE, "group": _NOWHERE}
        if verb != "doubts":
            wanted["author"] = MALLORY
        if verb in {"promote", "drain"}:
            wanted["instance"] = _NOWHERE
        return self._asking(Kind.FORGED_COMMAND, self._at.api(verb), json.dumps(wanted).encode())

    def _forbidden(self) -> Shot:
        subject = self._rng.choice(self._target.forbidden())
        payload = b"" if subject.startswith("$JS.") else self._rng.randbytes(64)
        return self._asking(Kind.FORBIDDEN, subject, payload)

    # -- parts ------------------------------------------------------------------------------------------

    def _shot(self, kind: Kind, subject: str, payload: bytes) -> Shot:
        """Half of them want an answer."""
        if self._rng.random() < 0.5:
            return Shot(kind, subject.encode(), payload)
        return self._asking(kind, subject, payload)

    def _asking(self, kind: Kind, subject: str, payload: bytes) -> Shot:
        return Shot(
            kind, subject.encode(), payload, f"_INBOX.{MALLORY}.{self._rng.randrange(1 << 30)}".encode()
        )

    def _real(self) -> bytes:
        """A message that is well-formed somewhere, about nothing that exists."""
        return self._rng.choice((self._calls, self._ask, self._outcomes, self._json))()

    def _calls(self) -> bytes:
        entries = [CallEntry(*self._entry()[:4]) for _ in range(3)]
        frame = CallFrame(self._rng.randrange(1 << 42), self._rng.randrange(1, 9), 0, entries, [b"\x90"] * 3)
        return encode_calls(frame)

    def _entry(self) -> tuple[bytes, str, int, str | None, None]:
        return (self._rng.randbytes(16), _NOWHERE, self._rng.randrange(1, 100_000), None, None)

    def _ask(self) -> bytes:
        return encode_ask([self._rng.randbytes(16) for _ in range(4)])

    def _outcomes(self) -> bytes:
        return encode_outcomes([(self._rng.randbytes(16), 1, b"\x01")] * 2, 4096)

    def _json(self) -> bytes:
        told = {"command": "discard", "call_id": self._unknown_call(), "author": MALLORY, "incarnation": "x"}
        return json.dumps(told).encode()

    def _unknown_call(self) -> str:
        raw = bytearray(self._rng.randbytes(16))
        raw[6], raw[8] = 0x70 | raw[6] & 0x0F, 0x80 | raw[8] & 0x3F
        return format_call_id(bytes(raw))
