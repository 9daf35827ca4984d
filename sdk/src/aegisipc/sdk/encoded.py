"""Arguments that were encoded before they reach a client."""

from __future__ import annotations

from typing import Any, NamedTuple

from aegisipc.eventstore.codec import encode


class EncodedArguments(NamedTuple):
    """Arguments as the bytes that a call carries; given to ``Client.submit`` in place of all others.

    Whoever keeps arguments and sends them again must send the same bytes: an idempotency key belongs to them,
    and a set decoded and encoded anew may come out in another order.
    """

    body: bytes


def body_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """Return what a call with these arguments carries."""
    if args and type(args[0]) is EncodedArguments:
        return args[0].body
    return encode([list(args), kwargs])
