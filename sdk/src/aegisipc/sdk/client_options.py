"""How to connect a client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from aegisipc.eventstore.objects import DEFAULT_MAX_OBJECT_BYTES

DEFAULT_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """How to connect a client.

    ``url`` and ``namespace`` default to ``AEGIS_URL`` and ``AEGIS_NAMESPACE``. ``name`` is the client's
    stable name (its calls' subject), else one is made up. ``timeout_s`` is the default deadline of a call.
    ``max_open`` bounds how many calls may be open at once, ``max_payload_bytes`` the arguments of one, and
    its result: what does not fit in a message goes by way of the object store.

    ``connect_timeout_s``: for so long :func:`connect` waits for a server and for the namespace's log, trying
    again and again; without it, it tries once.
    """

    url: str | None = None
    namespace: str | None = None
    name: str | None = None
    timeout_s: float = DEFAULT_TIMEOUT_S
    max_open: int = 10_000
    max_payload_bytes: int = DEFAULT_MAX_OBJECT_BYTES
    connect_timeout_s: float | None = None
