"""The one rule for names, checked once, at the edge.

A name (namespace, service, group, instance, client, router) becomes a token of a NATS subject, so it may hold
only letters, digits, ``-`` and ``_``, at most 63 of them, and starts with a letter or a digit: names with a
leading ``_`` are AegisIPC's own (``_pool``, ``_group``, ``_router``). Resource ids are any text of 1 to 256
bytes, and so are idempotency keys: they travel in the body of a message, never in a subject.

A method is called by its *wire name*: ``place``, or ``place@2`` for a later version of it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable

from aegisipc.eventstore.errors import InvalidName

MAX_NAME_LENGTH = 63
MAX_RESOURCE_BYTES = 256
MAX_KEY_BYTES = 256
MAX_VERSION = 9999

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_DIGEST_GROUP = re.compile(r"r-[0-9a-f]{10}")
_METHOD = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")
_WIRE_METHOD = re.compile(rf"{_METHOD.pattern}(?:@(?:[2-9]|[1-9][0-9]{{1,3}}))?")

POOL_GROUP = "_pool"


def check_name(name: object, what: str) -> str:
    """Return `name` if it can be a subject token; `what` names its role in the error (``"service"``).

    Raises:
        InvalidName: with fields ``name`` and ``what``.
    """
    if isinstance(name, str) and _NAME.fullmatch(name):
        return name
    raise InvalidName(
        f"cannot use {_shown(name)} as a {what} name: use 1 to {MAX_NAME_LENGTH} letters, digits, '-' or "
        "'_', starting with a letter or digit",
        name=name,
        what=what,
    )


def check_method(name: object) -> str:
    """Return `name` if it can be called: an ASCII identifier that does not start with ``_``, followed by
    ``@2`` to ``@9999`` for a later version of the method.

    Raises:
        InvalidName: with fields ``name`` and ``what``.
    """
    if isinstance(name, str) and _WIRE_METHOD.fullmatch(name):
        return name
    base, at, version = name.partition("@") if isinstance(name, str) else ("", "", "")
    if at and _METHOD.fullmatch(base):
        if version == "1":
            reason = f"version 1 of a method has no suffix; write {base!r}"
        else:
            reason = f"a later version of it is {base}@2 to {base}@{MAX_VERSION}, without leading zeros"
        raise InvalidName(f"cannot use {_shown(name)} as a method name: {reason}", name=name, what="method")
    raise InvalidName(
        f"cannot use {_shown(name)} as a method name: use 1 to {MAX_NAME_LENGTH} letters, digits or '_', "
        "starting with a letter",
        name=name,
        what="method",
    )


def wire_method(name: object, version: object) -> str:
    """Return what a version of a method is called by: ``("place", 2)`` gives ``"place@2"``.

    Raises:
        InvalidName: the name is not that of a method, or the version is not a whole number from 1 to 9999.
    """
    if not isinstance(version, int) or isinstance(version, bool) or not 1 <= version <= MAX_VERSION:
        raise InvalidName(
            f"cannot use {_shown(version)} as the version of a method: it is a whole number from 1 to "
            f"{MAX_VERSION}",
            name=version,
            what="version",
        )
    base = check_method(name)
    if "@" in base:
        raise InvalidName(
            f"cannot use {_shown(name)} as a method name here: give the version apart, as version="
            f"{base.partition('@')[2]}",
            name=name,
            what="method",
        )
    return base if version == 1 else f"{base}@{version}"


def split_method(method: str) -> tuple[str, int]:
    """Split a wire name into the method's name and its version: ``"place@2"`` gives ``("place", 2)``."""
    base, at, version = method.partition("@")
    return (base, int(version)) if at and version.isascii() and version.isdecimal() else (method, 1)


def check_resource(resource: object) -> str:
    """Return `resource` if it can be a resource id: text of 1 to 256 bytes in UTF-8.

    Raises:
        InvalidName: with fields ``name`` and ``what``.
    """
    if isinstance(resource, str) and 0 < _utf8_length(resource) <= MAX_RESOURCE_BYTES:
        return resource
    raise InvalidName(
        f"cannot use {_shown(resource)} as a resource id: use text of 1 to {MAX_RESOURCE_BYTES} "
        "bytes in UTF-8",
        name=resource,
        what="resource",
    )


def check_key(key: object) -> str:
    """Return `key` if it can be an idempotency key: text of 1 to 256 bytes in UTF-8.

    Raises:
        InvalidName: with fields ``name`` and ``what``.
    """
    if isinstance(key, str) and 0 < _utf8_length(key) <= MAX_KEY_BYTES:
        return key
    raise InvalidName(
        f"cannot use {_shown(key)} as an idempotency key: use text of 1 to {MAX_KEY_BYTES} bytes in UTF-8",
        name=key,
        what="idempotency key",
    )


def split_target(target: object) -> tuple[str, str]:
    """Split ``"orders.place"`` or ``"orders.place@2"`` into service and method.

    Raises:
        InvalidName: when it is not of that form, or one of its parts is illegal.
    """
    service, dot, method = target.partition(".") if isinstance(target, str) else ("", "", "")
    if not dot:
        raise InvalidName(
            f"cannot call {_shown(target)}: name a service and a method, as in 'orders.place'",
            name=target,
            what="target",
        )
    return check_name(service, "service"), check_method(method)


def default_group(resources: Iterable[str]) -> str:
    """Name the group of instances that serve exactly `resources`, when the user names none.

    The same resources always give the same group, so a second instance joins as a standby and instances with
    other resources form groups of their own. One resource with a legal name is its own group's name;
    otherwise (and when that name looks like such a digest) the name is ``r-`` and a digest of the sorted
    resources.
    """
    ordered = sorted(set(resources))
    if not ordered:
        return POOL_GROUP
    only = ordered[0] if len(ordered) == 1 else ""
    if _NAME.fullmatch(only) and not _DIGEST_GROUP.fullmatch(only):
        return only
    digest = hashlib.sha256(
        json.dumps(ordered).encode()
    ).hexdigest()  # JSON: resource ids may hold any separator
    return f"r-{digest[:10]}"


def _utf8_length(text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:  # lone surrogates have no UTF-8 form
        return 0


def _shown(name: object) -> str:
    text = repr(name)
    return text if len(text) <= 80 else f"{text[:76]}...{text[-1]}"
