"""Durable calls that read like a local await.

::

    from aegisipc.sdk import Service, Context, connect

A service offers methods, a client calls them; see ``README.md`` and ``docs/getting-started.md``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # "as" makes each a public name for type checkers.
    from aegisipc.sdk.client import Client as Client
    from aegisipc.sdk.client import connect as connect
    from aegisipc.sdk.context import Context as Context
    from aegisipc.sdk.errors import *  # noqa: F403
    from aegisipc.sdk.pending import Pending as Pending
    from aegisipc.sdk.receipts import Receipt as Receipt
    from aegisipc.sdk.reconciling import Doubt as Doubt
    from aegisipc.sdk.reconciling import Executed as Executed
    from aegisipc.sdk.reconciling import NotExecuted as NotExecuted
    from aegisipc.sdk.retry import Retry as Retry
    from aegisipc.sdk.service import Service as Service
    from aegisipc.sdk.stubs import remote as remote

_HOMES = {
    "Client": "client",
    "connect": "client",
    "Context": "context",
    "Doubt": "reconciling",
    "Executed": "reconciling",
    "NotExecuted": "reconciling",
    "Pending": "pending",
    "Receipt": "receipts",
    "Retry": "retry",
    "Service": "service",
    "remote": "stubs",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for, so that importing one part does not load all of them (PEP 562)."""
    import importlib  # noqa: PLC0415 - as above

    home = importlib.import_module(f"aegisipc.sdk.{_HOMES.get(name, 'errors')}")
    try:
        value = getattr(home, name)
    except AttributeError:
        raise AttributeError(f"module 'aegisipc.sdk' has no attribute {name!r}") from None
    globals()[name] = value
    return value
