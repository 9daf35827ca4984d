"""The lifecycles of instance, group, call and router.

``charts`` declares them as state charts, ``table`` derives the tables that folds use, ``names`` holds the
names of states and events, ``glossary`` says what each means to an operator, and ``diagram`` writes
``docs/lifecycles.md`` from all of these. Programs need only what is exported here.
"""

from __future__ import annotations

from aegisipc.eventstore.lifecycles.names import (
    CallEvent,
    CallState,
    GroupEvent,
    GroupState,
    InstanceEvent,
    InstanceState,
    RouterEvent,
    RouterState,
)
from aegisipc.eventstore.lifecycles.table import (
    CALL,
    GONE,
    GROUP,
    INSTANCE,
    ROUTER,
    SUSPECTED,
    IllegalTransition,
    Lifecycle,
)

__all__ = [
    "CALL",
    "GONE",
    "GROUP",
    "INSTANCE",
    "ROUTER",
    "SUSPECTED",
    "CallEvent",
    "CallState",
    "GroupEvent",
    "GroupState",
    "IllegalTransition",
    "InstanceEvent",
    "InstanceState",
    "Lifecycle",
    "RouterEvent",
    "RouterState",
]
