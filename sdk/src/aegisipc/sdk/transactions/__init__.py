"""Effects in a service's own database, exactly once: ``ctx.transaction`` and the table that it needs.

Needs SQLAlchemy: install ``aegisipc-sdk[sql]``, and ``aegisipc-sdk[postgresql]`` for PostgreSQL. See
``docs/transactions.md``.
"""

from __future__ import annotations

from aegisipc.sdk.transacting import (
    OutcomeUnreadable,
    TransactionError,
    TransactionMisused,
    TransactionUnknown,
    TransactionUnsupported,
)
from aegisipc.sdk.transactions.table import TABLE_NAME, create_table, effects, metadata, purge_effects

__all__ = [
    "TABLE_NAME",
    "OutcomeUnreadable",
    "TransactionError",
    "TransactionMisused",
    "TransactionUnknown",
    "TransactionUnsupported",
    "create_table",
    "effects",
    "metadata",
    "purge_effects",
]
