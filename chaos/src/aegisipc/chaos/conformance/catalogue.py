"""The scripts there are."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

from aegisipc.chaos.conformance import consumers, lives, streams
from aegisipc.chaos.conformance.stage import Script


class Where(StrEnum):
    """What a script runs on: a server that others use as well, one of its own, or three."""

    SHARED = "shared"
    OWN = "own"
    CLUSTER = "cluster"


class Entry(NamedTuple):
    """A script, by the name that is the root of its subjects."""

    name: str
    script: Script
    where: Where = Where.SHARED


CATALOGUE: Final = (
    *(
        Entry(script.__name__.replace("_", ""), script)
        for script in (
            streams.conditions,
            streams.at_once,
            streams.reading,
            streams.making,
            streams.purging,
            streams.limits,
            streams.forgetting,
            streams.ageing,
            streams.plain_messages,
            streams.system_account,
            consumers.push,
            consumers.heartbeats,
            consumers.abandoned,
            consumers.flow_control,
            consumers.refusals,
            consumers.pull,
            consumers.words,
            consumers.overdue,
            consumers.bounds,
            consumers.turns,
            consumers.removed,
            consumers.purged,
        )
    ),
    Entry("killed", lives.killed, Where.OWN),
    Entry("pullingkilled", lives.pulling_through_a_kill, Where.OWN),
    Entry("replicated", lives.replicated_conditions, Where.CLUSTER),
    Entry("replicatedatonce", lives.replicated_at_once, Where.CLUSTER),
)
