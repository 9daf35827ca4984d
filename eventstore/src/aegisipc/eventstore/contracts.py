"""Contracts with their schemas: how they are written down, and what became of one. Pure.

What a method takes and returns is one JSON document, its *schemas*::

    {"arguments": {"type": "object", "properties": {…}, "required": […], "additionalProperties": false,
                   "positional": […], "unnamed": […]},
     "returns": {…}, "$defs": {…}}

``positional`` lists the parameters that may be given by position, in their order; ``unnamed`` those that may
not be given by name. The SHA-256 of the document's text is the method's *fingerprint*, which the registration
carries; the texts themselves stand in a record of their own, which the registration names.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from aegisipc.eventstore.errors import LimitExceeded, MalformedPayload
from aegisipc.eventstore.events import Contract, Effect, MethodContract, ServiceContract
from aegisipc.eventstore.names import split_method
from aegisipc.eventstore.nesting import is_deep
from aegisipc.eventstore.schema_changes import Difference, Reading, Side, changes
from aegisipc.eventstore.schema_forms import text_of

__all__ = [
    "MAX_PACKED_BYTES",
    "MAX_SCHEMA_BYTES",
    "Difference",
    "Offer",
    "Schemas",
    "as_text",
    "changes_of",
    "fingerprint_of",
    "offers_of",
    "pack",
    "read_schemas",
    "stub_changes",
    "unpack",
]

MAX_SCHEMA_BYTES: Final = 4 * 1024 * 1024
"""Of all schemas of a contract, as text."""
MAX_PACKED_BYTES: Final = 384 * 1024
"""Of the same as it is stored."""
MAX_SCHEMA_DEPTH: Final = 200
"""Containers within each other, in the document of a method."""

_EFFECTS: Final = (Effect.ONCE, Effect.IDEMPOTENT, Effect.PURE)
"""From the one that asks most of callers to the one that asks least."""

type Schemas = Mapping[str, Any]
"""The document of one method."""


class Offer(NamedTuple):
    """One method as a service offers it, or as a stub expects it."""

    contract: MethodContract
    schemas: Schemas | None
    """``None``: not known."""


# -- written down ---------------------------------------------------------------------------------------


def fingerprint_of(text: str) -> str:
    """Return the name of a method's schemas, given as text."""
    return hashlib.sha256(text.encode()).hexdigest()


def pack(texts: Mapping[str, str]) -> ServiceContract:
    """Write the schemas of a service's methods, each as text, into a record.

    Raises:
        LimitExceeded: they are too large. Fields: ``limit``, ``size_bytes``.
    """
    whole = json.dumps(texts, sort_keys=True, separators=(",", ":")).encode()
    _check_size(len(whole), MAX_SCHEMA_BYTES, "")
    packed = base64.b64encode(zlib.compress(whole, 9))
    _check_size(len(packed), MAX_PACKED_BYTES, " compressed")
    return ServiceContract(digest=hashlib.sha256(whole).hexdigest(), schemas=packed.decode())


def _check_size(size_bytes: int, limit: int, how: str) -> None:
    if size_bytes > limit:
        raise LimitExceeded(
            f"cannot write down the schemas of a contract: they take {size_bytes} bytes{how}, and the limit "
            f"is {limit}; offer fewer methods or smaller types in one service",
            limit=limit,
            size_bytes=size_bytes,
        )


def unpack(event: ServiceContract) -> dict[str, Schemas]:
    """Return the schemas in a record by their fingerprints.

    Raises:
        MalformedPayload: it cannot be read, or is larger than any that is written.
    """
    try:
        reader = zlib.decompressobj()
        whole = reader.decompress(base64.b64decode(event.schemas, validate=True), MAX_SCHEMA_BYTES)
        is_whole = reader.eof and hashlib.sha256(whole).hexdigest() == event.digest
        texts = json.loads(whole) if is_whole else {}
        schemas = {fingerprint_of(text): read_schemas(text) for text in texts.values()}
    except (ValueError, TypeError, AttributeError, zlib.error, binascii.Error, RecursionError) as error:
        raise MalformedPayload(f"cannot read the schemas of a contract: {error}") from error
    if not is_whole:
        raise MalformedPayload(
            "cannot read the schemas of a contract: cut off, too large, or not what the digest says"
        )
    return schemas


def read_schemas(text: str) -> Schemas:
    """Return the schemas that a text means.

    Raises:
        ValueError, TypeError: it means none.
    """
    document = json.loads(text)
    if not isinstance(document, dict) or not isinstance(document.get("arguments"), dict):
        raise TypeError("not the schemas of a method")
    if is_deep(document, MAX_SCHEMA_DEPTH):
        raise ValueError("the schemas of a method are nested too deep")
    return document


def as_text(document: Schemas) -> str:
    """Return a method's schemas as the text that has the fingerprint."""
    return text_of(document)


def offers_of(contract: Contract, known: Mapping[str, Schemas]) -> dict[str, Offer]:
    """Return the methods of a contract with those schemas that are known."""
    return {name: Offer(method, known.get(method.schemas)) for name, method in contract.items()}


# -- compared -------------------------------------------------------------------------------------------


def changes_of(service: str, old: Mapping[str, Offer], new: Mapping[str, Offer]) -> list[Difference]:
    """Return what becomes of a service for those who call it: first what breaks them, then the rest."""
    found: list[Difference] = []
    for name in sorted(old.keys() | new.keys()):
        path = f"{service}.{name}"
        if name not in new:
            found.append(Difference(path, _is_gone(name, new), breaking=True))
        elif name not in old:
            found.append(Difference(path, "is a new method", breaking=False))
        else:
            found += _method_changes(path, old[name], new[name])
    return sorted(found, key=lambda difference: not difference.breaking)


def _is_gone(name: str, new: Iterable[str]) -> str:
    base = split_method(name)[0]
    left = sorted(other for other in new if split_method(other)[0] == base)
    return f"is gone; there is {', '.join(left)}" if left else "is gone"


def _method_changes(path: str, old: Offer, new: Offer) -> list[Difference]:
    found = _effect_changes(path, old.contract.effect, new.contract.effect)
    if old.contract.schemas and old.contract.schemas == new.contract.schemas:
        return found
    if old.schemas is not None and new.schemas is not None:
        return found + _schema_changes(path, old.schemas, new.schemas, is_stub=False)
    if (old.contract.arguments, old.contract.returns) != (new.contract.arguments, new.contract.returns):
        before, after = (offer.contract.signature[:200] for offer in (old, new))
        said = f"{before} became {after}" if before != after else f"the types in {before} changed"
        found.append(Difference(path, f"{said}, which cannot be judged: its schemas are not known", True))
    return found


def _effect_changes(path: str, old: Effect, new: Effect) -> list[Difference]:
    if old is new:
        return []
    weaker = _EFFECTS.index(new) < _EFFECTS.index(old)
    return [Difference(path, f"effect {old} became {new}", breaking=weaker)]


def stub_changes(path: str, expected: Schemas, offered: Schemas) -> list[Difference]:
    """Return how a method differs from what a stub expects. What the stub does not say is not compared."""
    return _schema_changes(path, expected, offered, is_stub=True)


def _schema_changes(path: str, old: Schemas, new: Schemas, *, is_stub: bool) -> list[Difference]:
    before, after = old.get("arguments", {}), new.get("arguments", {})
    definitions = (_definitions(old), _definitions(new))
    arguments = Reading(old_writes=True, is_typed=is_stub, any_skips=is_stub)
    found = changes(
        Side(_plain(before), definitions[0]),
        Side(_plain(after), definitions[1]),
        arguments,
        f"{path} argument",
    )
    found = [difference._replace(path=_argument(difference.path, path)) for difference in found]
    found += _order_changes(path, before, after)
    results = Reading(old_writes=False, is_typed=True, any_skips=is_stub)
    one, other = (document.get("returns", True) for document in (old, new))
    return found + changes(Side(one, definitions[0]), Side(other, definitions[1]), results, f"{path} result")


def _definitions(document: Schemas) -> Mapping[str, Any]:
    found = document.get("$defs", {})
    return found if isinstance(found, Mapping) else {}


def _plain(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {word: value for word, value in arguments.items() if word not in {"positional", "unnamed"}}


def _argument(found_at: str, path: str) -> str:
    """``orders.place argument.order.quantity`` is said as ``orders.place argument order.quantity``."""
    start = f"{path} argument."
    return f"{path} argument {found_at[len(start) :]}" if found_at.startswith(start) else found_at


def _order_changes(path: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Difference]:
    """How callers give arguments: by position, by name, or both."""
    found: list[Difference] = []
    before, after = list(old.get("positional", ())), list(new.get("positional", ()))
    kept = new.get("properties", {})
    for place, name in enumerate(before):
        if name not in kept:
            continue  # that it is gone is said already
        where = f"{path} argument {name}"
        if name not in after:
            found.append(Difference(where, "may no longer be given by position", breaking=True))
        elif after.index(name) != place:
            moved = f"moved from place {place + 1} to place {after.index(name) + 1}"
            found.append(Difference(where, moved, breaking=True))
    found += [
        Difference(f"{path} argument {name}", "may no longer be given by name", breaking=True)
        for name in new.get("unnamed", ())
        if name not in old.get("unnamed", ()) and name in old.get("properties", {})
    ]
    return found
