"""Where the server is and which namespace to use, with the environment's defaults."""

from __future__ import annotations

import os
from typing import Final

from aegisipc.eventstore.nats.options import DEFAULT_URL

DEFAULT_NAMESPACE: Final = "default"


def resolve_url(url: str | None) -> str:
    """Return `url`, else ``AEGIS_URL``, else the local default."""
    return url or os.environ.get("AEGIS_URL") or DEFAULT_URL


def resolve_namespace(namespace: str | None) -> str:
    """Return `namespace`, else ``AEGIS_NAMESPACE``, else ``default``."""
    return namespace or os.environ.get("AEGIS_NAMESPACE") or DEFAULT_NAMESPACE
