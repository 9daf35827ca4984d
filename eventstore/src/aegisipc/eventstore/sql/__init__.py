"""The read model: the log, folded into SQL tables for questions about history.

Needs SQLAlchemy (``aegisipc-eventstore[sql]`` for SQLite, ``[postgresql]`` for PostgreSQL); nothing else of
the event store does.
"""

from aegisipc.eventstore.sql.models import (
    Base,
    Call,
    Checkpoint,
    DeadLetter,
    Doubt,
    Group,
    Instance,
    InstanceEvent,
    Promotion,
)

__all__ = [
    "Base",
    "Call",
    "Checkpoint",
    "DeadLetter",
    "Doubt",
    "Group",
    "Instance",
    "InstanceEvent",
    "Promotion",
]
