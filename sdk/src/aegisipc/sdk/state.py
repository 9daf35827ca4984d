"""State that the members of a group share, as bytes: events that change it, snapshots that hold it.

A handler emits an event; it is written in the frame of the call's outcome, so both exist or neither; every
member applies it, in log order. The state after a failover is therefore exact.

::

    class Filled(BaseModel):
        symbol: str
        quantity: int

    @positions.on(Filled)
    def filled(event: Filled) -> None:
        book[event.symbol] = book.get(event.symbol, 0) + event.quantity

    @positions.snapshot
    def taken() -> dict[str, int]:
        return book

    @positions.restore
    def restored(state: dict[str, int] | None) -> None:
        book.clear()
        book.update(state or {})
"""

from __future__ import annotations

import hashlib
import zlib
from typing import Any, Final, NamedTuple

from pydantic import ValidationError

from aegisipc.eventstore.codec import Limits, decode, encode
from aegisipc.eventstore.errors import CodecError, LimitExceeded, MalformedPayload
from aegisipc.sdk.canonical import canonical_bytes
from aegisipc.sdk.errors import EmitRefused, StateUnreadable
from aegisipc.sdk.failures import shown
from aegisipc.sdk.hooks import name_of
from aegisipc.sdk.method import faults_of
from aegisipc.sdk.service import Service
from aegisipc.sdk.state_definition import PAIR, Snapshot, StateEvent

MAX_SNAPSHOT_BYTES: Final = 32 * 1024 * 1024
"""Largest encoded state, before it is compressed."""

COMPRESS_OVER_BYTES: Final = 1024
_SNAPSHOT_VERSION: Final = 1
_LIMITS: Final = Limits(max_bytes=MAX_SNAPSHOT_BYTES, max_items=4_000_000, max_objects=4_000_000)
_HEAD: Final = PAIR + encode(_SNAPSHOT_VERSION)
"""No zlib stream begins like that."""
_MAX_SHOWN: Final = 400


class SharedState:
    """The shared state of one instance, as bytes: what it emits, applies, saves and compares.

    The methods run the service's own functions, in the thread that calls them.
    """

    def __init__(self, service: Service) -> None:
        self._service = service.name
        self._snapshot, self._restore = service.state.snapshot, service.state.restore
        self.is_empty: Final = service.state.is_empty
        """The service shares no state: there is nothing to apply, save or compare."""
        self._by_name = dict(service.state.events)
        self._latest: tuple[bytes, StateEvent, Any] | None = None
        self._by_class: dict[type, list[StateEvent]] = {}
        for event in service.state.events.values():
            for cls in event.classes:
                self._by_class.setdefault(cls, []).append(event)

    def encode(self, event: object, name: str | None = None) -> bytes:
        """Return an event as ``[name, data]``; `name` tells types apart whose values are of one class.

        What comes back can be applied, by this member and all others: it is read back to make sure.

        Raises:
            EmitRefused: nothing applies events of that type, or this one is not valid.
        """
        known = self._event_for(event, name)
        try:
            body = known.head + known.codec.encode(event)
            self._latest = (body, *self._read(body))
        except ValidationError as error:
            raise self._refusal(known.name, faults_of(error)) from error
        except (CodecError, StateUnreadable) as error:
            raise self._refusal(known.name, error.message) from error
        return body

    def _event_for(self, event: object, name: str | None) -> StateEvent:
        found = self._by_class.get(type(event), ())
        if name is not None:
            found = [known for known in found if known.name == name]
        if len(found) == 1:
            return found[0]
        kind = type(event).__name__
        if found:
            names = ", ".join(repr(known.name) for known in found)
            raise self._refusal(kind, f"it may be any of {names}; say which: ctx.emit(event, name=…)")
        wanted = kind if name is None else f"…, name={name!r}"
        raise self._refusal(
            name or kind,
            f"nothing applies events of exactly that type; add a function with @{self._service}.on({wanted})",
        )

    def _refusal(self, event: str, why: str) -> EmitRefused:
        return EmitRefused(
            f"cannot emit {event} in service {self._service!r}: {shown(why, _MAX_SHOWN)}", event=event
        )

    def apply(self, body: bytes) -> None:
        """Apply one event, as :meth:`encode` gave it.

        Raises:
            StateUnreadable: its name is unknown, its data do not fit, or the function that applies it
                raised. The state is not to be relied on after that.
        """
        latest, self._latest = self._latest, None
        # Usually a call has just ended here that emitted one event: that was read back a moment ago.
        _, known, event = latest if latest is not None and latest[0] is body else (body, *self._read(body))
        try:
            known.apply(event)
        except Exception as error:
            raise self._unreadable(
                f"cannot apply {known.name!r} to the state of service {self._service!r}: "
                f"{name_of(known.apply)}() raised {_why(error)}; correct it, "
                "and start the instance again: every member meets the same event",
                event=known.name,
            ) from error

    def _read(self, body: bytes) -> tuple[StateEvent, Any]:
        name: Any = None
        try:
            name, plain = decode(body)
            known = self._by_name.get(name)
            if known is not None:
                return known, known.codec.validate(plain)
        except Exception as error:
            raise self._unreadable(
                f"cannot read {name!r} for the state of service {self._service!r}: {_why(error)}; the log "
                "holds events of an earlier shape: let the type take both (new fields need defaults)",
                event=name,
            ) from error
        raise self._unreadable(
            f"cannot apply {name!r} to the state of service {self._service!r}: the log holds such events, "
            "but nothing in this version applies them; keep a function that does, with "
            f"@{self._service}.on(…, name={name!r})",
            event=name,
        )

    def snapshot(self) -> bytes:
        """Return the whole state as a blob that :meth:`restore` takes, ``[version, data]``, compressed if
        that is worth while.

        Raises:
            StateUnreadable: the service's snapshot is not of its declared type, cannot be read back, or its
                function raised.
            LimitExceeded: it is over ``MAX_SNAPSHOT_BYTES``.
        """
        blob = self._taken().blob
        return blob if len(blob) <= COMPRESS_OVER_BYTES else zlib.compress(blob, 1)

    def _taken(self) -> _Taken:
        definition = self._snapshot
        if definition is None:
            raise self._unreadable(
                f"cannot take a snapshot of service {self._service!r}: it shares no state; see is_empty"
            )
        try:
            blob = _HEAD + definition.codec.encode(definition.function())
        except Exception as error:
            raise self._bad_snapshot(definition, error) from error
        if len(blob) > MAX_SNAPSHOT_BYTES:
            raise LimitExceeded(
                f"cannot take a snapshot of service {self._service!r}: {len(blob)} bytes are over the limit "
                f"of {MAX_SNAPSHOT_BYTES}; keep less in the shared state",
                size_bytes=len(blob),
                limit_bytes=MAX_SNAPSHOT_BYTES,
            )
        try:
            return _Taken(definition, blob, definition.codec.validate(_opened(blob)))
        except Exception as error:
            raise self._bad_snapshot(definition, error) from error

    def _bad_snapshot(self, definition: Snapshot, error: Exception) -> StateUnreadable:
        return self._unreadable(
            f"cannot take a snapshot of service {self._service!r}: {name_of(definition.function)}(): "
            f"{_why(error)}; it must return a value of its declared type, {definition.type!r}, that can be "
            "read back"
        )

    def restore(self, blob: bytes | None) -> None:
        """Replace the state by the one in `blob`; ``None``: by nothing.

        Raises:
            StateUnreadable: the blob is of another version or type, damaged, or the service's function
                raised. The state is not to be relied on after that.
        """
        definition, restore = self._snapshot, self._restore
        if definition is None or restore is None:
            if blob is not None:
                raise self._unreadable(
                    f"cannot restore the state of service {self._service!r}: this version shares no state"
                )
            return
        try:
            state = None if blob is None else definition.codec.validate(_opened(blob))
            restore(state)
        except Exception as error:
            raise self._unreadable(
                f"cannot restore the state of service {self._service!r} from a snapshot: "
                f"{_why(error)}; let {definition.type!r} take what earlier versions "
                "saved (new fields need defaults)"
            ) from error

    def digest(self) -> bytes:
        """Return the SHA-256 of the state: equal for equal states, in every process, whatever the order in
        which dicts and sets were filled.

        It is the digest of what a member would hold that restored a snapshot taken now.

        Raises:
            StateUnreadable, LimitExceeded: as :meth:`snapshot`.
        """
        definition, _, state = self._taken()
        plain = decode(definition.codec.encode(state), limits=_LIMITS)
        return hashlib.sha256(canonical_bytes(plain)).digest()

    def _unreadable(self, message: str, **details: Any) -> StateUnreadable:
        return StateUnreadable(message, service=self._service, **details)


class _Taken(NamedTuple):
    """A state as a blob, not compressed, and as it is read back from that."""

    definition: Snapshot
    blob: bytes
    state: Any


def _opened(blob: bytes) -> Any:
    """The data of a snapshot; raises `CodecError` or `zlib.error`."""
    if blob[:1] != PAIR:
        inflater = zlib.decompressobj()
        blob = inflater.decompress(blob, MAX_SNAPSHOT_BYTES)
        if not inflater.eof or inflater.unused_data:
            raise MalformedPayload(
                "cannot read a snapshot: it is cut off, too large, or something follows it"
            )
    version, state = decode(blob, limits=_LIMITS)
    if version != _SNAPSHOT_VERSION:
        raise MalformedPayload(
            f"cannot read a snapshot of version {version!r}: this is for version {_SNAPSHOT_VERSION}"
        )
    return state


def _why(error: Exception) -> str:
    kind = type(error).__name__
    if isinstance(error, ValidationError):
        return f"{kind}: {shown(faults_of(error), _MAX_SHOWN)}"
    return f"{kind}: {shown(error, _MAX_SHOWN)}"
