"""Making fields of records unreadable, so that an incident can be shown to others.

What a field holds is replaced by something of the same kind and length: text by as many ``x``, numbers by 0,
times by the beginning of 1970. So whoever reads the records sees the same shapes, and every fold comes to the
same state, where that does not depend on what was replaced. Names of fields in it stay; keys of maps that can
be no names (numbers, ``DE-4711``) are replaced, too.

A field is found by its name wherever it is in what calls carry: arguments, results, the details of errors,
events of shared states, words of operators about calls, at any depth. Arguments that were given by position
have the name of their parameter, as instances told it when they registered; where nobody did, all of these
are replaced. Three names stand for everything of a kind: ``arguments``, ``results`` (with the events of
shared states) and ``errors`` (messages and details). What is replaced in the details of
an error is replaced in its message, and all digits there, if it was a number; what else a message says stays,
unless ``message`` or ``errors`` are redacted. Where anything is redacted, these go as well: shared states and
snapshots, which nobody here can read; digests of payloads, which could be guessed from; and bodies that
cannot be decoded.

What routing goes by stays: services, groups, methods, clients, resources, idempotency keys, and what
instances and routers say of themselves. So does a reference to a large body; its bytes are not in the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]

from aegisipc.eventstore.codec import BODY_LIMITS, decode, encode
from aegisipc.eventstore.errors import AegisError, CodecError, MalformedPayload
from aegisipc.eventstore.frames import CallEntry, Mark, decode_calls, decode_pen
from aegisipc.eventstore.group_snapshots import GroupSnapshot, decode_snapshot, encode_snapshot
from aegisipc.eventstore.keys import HASH_BYTES, KeyOwner, decode_segment, encode_segment
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.open_calls import OpenCall
from aegisipc.eventstore.references import reference_in
from aegisipc.eventstore.replay.blanking import blank, inside, is_same, replaced
from aegisipc.eventstore.replay.parameters import Names, Parameters
from aegisipc.eventstore.subjects import (
    CALL,
    CONCLUSIONS,
    CONTRACT,
    EVIDENCE,
    HA,
    KEYS,
    SNAPSHOT,
    STATE,
    TERM,
    Subjects,
)
from aegisipc.eventstore.system import SystemState

ARGUMENTS, RESULTS, ERRORS = "arguments", "results", "errors"

type Known = Callable[[str], Names | None]
"""Returns the names of a method's parameters, ``None`` if nobody told them."""

MAX_FIELD_CHARS: Final = 256

_STRUCTURE: Final = frozenset(
    {"attempt", "claimed_seq", "code", "dead_seq", "doubt_seq", "due_ns", "source", "timeout_ms"}
)
"""What folds read of the words about calls; never replaced there."""
_HEADERS: Final = frozenset({"client", "method", "resource", "key", "priority"})
"""Of a call in a word about it: as in its frame, where it is in the header."""

_ERRORS: Final = frozenset({Mark.FAILED, Mark.EXPIRED, Mark.IN_DOUBT, Mark.DEAD_LETTERED, Mark.CANCELLED})
_RAW: Final = frozenset({Mark.CHECKED, Mark.KEYED, Mark.RELEASED, Mark.DUPLICATE, Mark.ATTEMPTED})
"""Marks whose bodies are no values, or numbers of attempts."""
_OF_FAILURE: Final = _ERRORS - {Mark.FAILED, Mark.EXPIRED}
"""Their details say, beside other things, what they are about."""
_UNTOUCHED: Final = frozenset({HA, TERM, CONTRACT})


class BadField(AegisError):
    """That cannot be the name of a field. Field: ``field``."""

    code = "bad_field"


class Redactor:
    """Redacts what records and states hold. Without fields it changes nothing."""

    def __init__(self, fields: Iterable[str]) -> None:
        """`fields` are names of fields, or ``arguments``, ``results``, ``errors``.

        Raises:
            BadField: one of them can be no field's name.
        """
        names = frozenset(fields)
        for name in names:
            if not 0 < len(name) <= MAX_FIELD_CHARS or not name.isprintable():
                raise BadField(
                    f"cannot redact {name!r:.80}: give the name of a field, of 1 to {MAX_FIELD_CHARS} "
                    f"characters, or one of {ARGUMENTS}, {RESULTS} and {ERRORS}",
                    field=name,
                )
        self.fields = tuple(sorted(names))
        self._names = names
        self._names_fields = bool(names - {ARGUMENTS, RESULTS, ERRORS})

    def __bool__(self) -> bool:
        return bool(self.fields)

    # -- records ------------------------------------------------------------------------------------------

    def record(self, record: Record, subjects: Subjects, parameters: Parameters | None = None) -> Record:
        """Return the record without what is not to be read. `parameters` tells the names of arguments that
        were given by position.
        """
        if not self.fields:
            return record
        try:
            place = subjects.parse(record.subject)
        except MalformedPayload:
            return record._replace(payload=bytes(len(record.payload)))
        kind = place.kind
        if kind in _UNTOUCHED:
            return record
        if kind == SNAPSHOT:  # no index names it any more, so nobody takes it for a damaged one
            return record._replace(subject=subjects.snapshot_part, payload=bytes(len(record.payload)))
        known = _nothing if parameters is None else parameters.of_group(place.service, place.group)
        try:
            return record._replace(payload=self._of_kind(kind, record.payload, known))
        except (CodecError, *_UNREADABLE):
            return record._replace(payload=bytes(len(record.payload)))  # nobody can read it, or find fields

    def _of_kind(self, kind: str, payload: bytes, known: Known) -> bytes:
        if kind == CALL:
            return self._calls(payload, known)
        if kind in CONCLUSIONS or kind == EVIDENCE:
            return self._pen(payload, known)
        if kind == STATE:
            return self._snapshot(payload, known)
        return _without_digests(payload) if kind == KEYS else self._event(payload)

    def _calls(self, payload: bytes, known: Known) -> bytes:
        frame = decode_calls(payload)
        pairs = zip(frame.entries, frame.bodies, strict=True)
        return _with_bodies(payload, [self._of_entry(entry, body, known) for entry, body in pairs])

    def _of_entry(self, entry: CallEntry, body: bytes, known: Known) -> bytes:
        """Its arguments; in a pool, of a dead letter that is called again, who wants that, and the call."""
        if entry.options is not None and entry.options.requeue is not None:
            return self.body(Mark.REQUEUED, body, known) or b""
        return self.arguments(body, known(entry.method))

    def _pen(self, payload: bytes, known: Known) -> bytes:
        frame = decode_pen(payload)
        pairs = zip(frame.entries, frame.bodies, strict=True)
        return _with_bodies(payload, [self.body(entry.mark, body, known) for entry, body in pairs])

    def _event(self, payload: bytes) -> bytes:
        type_name, data = msgpack.unpackb(payload)
        if type(type_name) is not str or type(data) is not dict:
            raise ValueError("no event")
        kept = {"call_ids"}
        redacted = {name: value if name in kept else self._named(name, value) for name, value in data.items()}
        packed: bytes = msgpack.packb([type_name, redacted])
        return packed

    def _snapshot(self, payload: bytes, known: Known) -> bytes:
        snapshot = decode_snapshot(payload)
        accepted, concluded, anomalies, sessions, open_calls, keys = snapshot.calls
        for call in open_calls:
            call[_BODY] = self.arguments(call[_BODY], known(call[_METHOD]))
            if call[_EVIDENCE] is not None:
                mark, body, writer, emitted = call[_EVIDENCE]
                emitted = [self.body(Mark.EMITTED, event) for event in emitted]
                call[_EVIDENCE] = [mark, self.body(Mark(mark), body), writer, emitted]
        calls = [accepted, concluded, anomalies, sessions, open_calls, _keys_without_digests(keys)]
        state = None if snapshot.state is None else bytes(len(snapshot.state))
        return encode_snapshot(GroupSnapshot(snapshot.covers, snapshot.epoch, calls, state))

    # -- states -------------------------------------------------------------------------------------------

    def state(self, state: SystemState) -> None:
        """Redact what a state holds of the bodies of calls, in place."""
        if not self.fields:
            return
        for group in state.calls.values():
            for call in [*group.open.values(), *group.requeueing.values()]:
                self._call(call)

    def _call(self, call: OpenCall) -> None:
        call.body = self.arguments(call.body) if call.body else call.body
        if call.evidence is not None:
            emitted = tuple(self.body(Mark.EMITTED, event) or b"" for event in call.evidence.emitted)
            body = self.body(call.evidence.mark, call.evidence.body)
            call.evidence = call.evidence._replace(body=body, emitted=emitted)
        if call.cancel is not None:
            author, reason = call.cancel
            call.cancel = self._named("author", author), self._named("reason", reason)

    # -- bodies -------------------------------------------------------------------------------------------

    def arguments(self, body: bytes, names: Names | None = None) -> bytes:
        """Return the encoded arguments of a call without what is not to be read. `names` are those of its
        parameters; ``None``: nobody knows them.
        """
        return self._encoded(body, lambda said: self._arguments(said, names))

    def _arguments(self, said: Any, names: Names | None) -> Any:
        match said:
            case [list(positional), dict(named)] if self._names_fields and ARGUMENTS not in self._names:
                known = names or ()
                found = [self._named(name, value) for name, value in zip(known, positional, strict=False)]
                unknown = [blank(value) for value in positional[len(known) :]]
                return [found + unknown, self._searched(named)]
        return self._said(said, everything=ARGUMENTS in self._names)

    def body(self, mark: Mark, body: bytes | None, known: Known | None = None) -> bytes | None:
        """Return the body of a mark without what is not to be read."""
        if body is None or not self.fields:
            return body
        if mark is Mark.KEYED:
            return body[:HASH_BYTES] + bytes(len(body[HASH_BYTES:]))
        if mark in _RAW:
            return body
        return self._encoded(body, lambda said: self._of_mark(mark, said, known or _nothing))

    def _encoded(self, body: bytes, redact: Callable[[Any], Any]) -> bytes:
        if not self.fields:
            return body
        try:
            if reference_in(body) is not None:
                return body
            said = decode(body, limits=BODY_LIMITS)
            redacted = redact(said)
            # What nothing was found in stays as it is, to the byte: a set may come out in another order.
            return body if is_same(said, redacted) else encode(redacted)
        except CodecError:
            return bytes(len(body))

    def _of_mark(self, mark: Mark, said: Any, known: Known) -> Any:
        if mark is Mark.SUCCEEDED:
            return self._said(said, everything=RESULTS in self._names)
        if mark is Mark.EMITTED:
            return self._emitted(said)
        if type(said) is not dict:
            return blank(said)
        if mark in _ERRORS:
            return self._error(said, keep=_STRUCTURE if mark in _OF_FAILURE else frozenset())
        return {name: self._of_word(name, value, known) for name, value in said.items()}

    def _emitted(self, said: Any) -> Any:
        match said:
            case [str(name), data]:
                return [name, self._said(data, everything=RESULTS in self._names)]
        return blank(said)

    def _of_word(self, name: str, value: Any, known: Known) -> Any:
        """Of who said what of a retry, a doubt or a dead letter."""
        if name in _STRUCTURE:
            return value
        if name == "error":
            return self._error(value)
        if name == "call" and type(value) is dict:
            method = value.get("method")
            names = known(method) if type(method) is str else None
            return {field: self._of_call(field, inner, names) for field, inner in value.items()}
        return self._named(name, value)

    def _of_call(self, field: str, value: Any, names: Names | None) -> Any:
        if field == "body" and type(value) is bytes:
            return self.arguments(value, names)
        return value if field in _HEADERS else self._named(field, value)

    def _error(self, said: Any, keep: frozenset[str] = frozenset()) -> Any:
        """Redact an error. What was replaced in its details is replaced in its message, too: messages are
        often made of them.
        """
        if type(said) is not dict:
            return blank(said)
        everything = ERRORS in self._names
        texts: set[str] = set()
        redacted: dict[str, Any] = {}
        for name, value in said.items():
            if name == "code":
                redacted[name] = value
            elif name == "details" and type(value) is dict:
                redacted[name] = self._details(value, keep, texts)
            else:
                redacted[name] = blank(value) if everything else self._named(name, value)
        message = redacted.get("message")
        if type(message) is str:
            for text in sorted(texts, key=len, reverse=True):
                message = message.replace(text, "x" * len(text))
            redacted["message"] = message
        return redacted

    def _details(self, details: dict[Any, Any], keep: frozenset[str], texts: set[str]) -> dict[Any, Any]:
        everything = ERRORS in self._names
        redacted: dict[Any, Any] = {}
        for name, value in details.items():
            if name in keep and type(value) is int:
                redacted[name] = value
            elif name == "error" and keep and type(value) is dict:  # why the last attempt failed
                redacted[name] = self._error(value)
            else:
                redacted[name] = blank(value) if everything else self._named(name, value)
            texts.update(replaced(value, redacted[name]))
        return redacted

    # -- values -------------------------------------------------------------------------------------------

    def _said(self, value: Any, *, everything: bool) -> Any:
        return blank(value) if everything else self._searched(value)

    def _named(self, name: Any, value: Any) -> Any:
        return blank(value) if name in self._names else self._searched(value)

    def _searched(self, value: Any) -> Any:
        if type(value) is dict:
            return {name: self._named(name, inner) for name, inner in value.items()}
        return inside(value, self._searched)


_METHOD, _BODY, _EVIDENCE = 2, 6, 12
"""Where a call in a snapshot of a group has its method, its arguments, and the evidence about it."""
_UNREADABLE: Final = (
    ValueError,
    TypeError,
    LookupError,
    OverflowError,
    msgpack.UnpackException,
    RecursionError,
)


def _nothing(_: str) -> None:
    """Of no method anything is known."""


def _with_bodies(payload: bytes, bodies: list[bytes] | list[bytes | None]) -> bytes:
    """Return a frame with the same header, byte for byte, and these bodies."""
    unpacker = msgpack.Unpacker(max_buffer_size=max(len(payload), 1))
    unpacker.feed(payload)
    unpacker.skip()
    packed: bytes = payload[: unpacker.tell()] + msgpack.packb(bodies)
    return packed


def _without_digests(payload: bytes) -> bytes:
    segment = decode_segment(payload)
    entries = [(key, _without_digest(owner)) for key, owner in segment.entries]
    return encode_segment(segment._replace(entries=entries))


def _without_digest(owner: KeyOwner | None) -> KeyOwner | None:
    return None if owner is None else owner._replace(digest=bytes(len(owner.digest)))


def _keys_without_digests(keys: Any) -> Any:
    if keys is None:
        return None
    covered, recent = keys
    return [covered, [[key, call_id, bytes(len(digest))] for key, call_id, digest in recent]]
