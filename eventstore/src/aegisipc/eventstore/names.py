"""The one rule for names, checked once, at the edge.

A name (namespace, service, group, instance, client, router) becomes a token of a NATS subject, so it may hold
only letters, digits, ``-`` and ``_``, at most 63 of them, and starts with a letter or a digit: names with a
leading ``_`` are AegisIPC's own (``_pool``, ``_group``, ``_router``). Resource ids are any text of 1 to 256
bytes: they travel in the body of a message, never in a subject.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable

from aegisipc.eventstore.errors import InvalidName

MAX_NAME_LENGTH = 63
MAX_RESOURCE_BYTES = 256

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_DIGEST_GROUP = re.compile(r"r-[0-9a-f]{10}")
_METHOD = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")

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
    """Return `name` if it can name a method: an ASCII identifier that does not start with ``_``.

    Raises:
        InvalidName: with fields ``name`` and ``what``.
    """
    if isinstance(name, str) and _METHOD.fullmatch(name):
        return name
    raise InvalidName(
        f"cannot use {_shown(name)} as a method name: use 1 to {MAX_NAME_LENGTH} letters, digits or '_', "
        "starting with a letter",
        name=name,
        what="method",
    )


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


def split_target(target: object) -> tuple[str, str]:
    """Split ``"orders.place"`` into service and method.

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
