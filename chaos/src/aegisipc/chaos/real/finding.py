"""After everything is healed: which call has each idempotency key that clients used?"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterable
from itertools import count
from pathlib import Path
from typing import Any, Final, NamedTuple

from aegisipc.chaos.history import Deed, Operation, Stage
from aegisipc.chaos.real.asking import Told, ended, told
from aegisipc.chaos.real.members import LIFE_NUMBERS
from aegisipc.chaos.real.recording import Recorder, gathered, now_ns, with_key
from aegisipc.chaos.workload import receipt_of
from aegisipc.sdk.client import Client

FINDER: Final = "finder"

_BASE: Final = 997_000 * LIFE_NUMBERS
_FOR_S: Final = 3.0
"""How long keys are asked for, one after the other."""
_FIND_S: Final = 30.0
_READ_S: Final = 15.0


class Key(NamedTuple):
    """A key, as clients used it: with a method, and for a resource or none."""

    target: str
    resource: str | None
    key: str


def keys_in(operations: Iterable[Operation], seed: str) -> list[Key]:
    """Return the keys that clients used, each once, in an order of chance."""
    used = {o.key: Key(o.target, o.resource, o.key) for o in operations if o.key is not None}
    keys = [used[key] for key in sorted(used)]
    random.Random(f"{seed}:keys").shuffle(keys)  # noqa: S311 - no secret: it is to be repeated
    return keys


async def find_keys(client: Client, folder: Path, seed: str) -> None:
    """Ask for the call that has each key in the histories of a folder, as far as there is time, and for its
    outcome. What is told goes into a history of its own there.

    Raises:
        OSError: it cannot be written.
    """
    keys = keys_in((await asyncio.to_thread(gathered, folder, wanted=with_key)).operations, seed)
    numbers = count(_BASE)
    give_up_at = time.monotonic() + _FOR_S
    async with Recorder(folder / f"{FINDER}.history") as recorder:
        for key in keys:
            if time.monotonic() > give_up_at:
                break
            await _find(client, key, next(numbers), next(numbers), recorder)


async def _find(client: Client, key: Key, number: int, read_number: int, recorder: Recorder) -> None:
    asked = Operation(
        number, Stage.INVOKE, Deed.FIND, FINDER, now_ns(), key.target, resource=key.resource, key=key.key
    )
    recorder.note(asked)
    service = key.target.partition(".")[0]
    found = await told(_found(client, key.key, service, key.resource))
    pending, found.value = found.value, None
    if pending is not None:
        found.call_id, found.receipt = pending.call_id, receipt_of(pending)
    recorder.note(ended(asked, found))
    if pending is not None:
        reading = Operation(read_number, Stage.INVOKE, Deed.ATTACH, FINDER, now_ns(), call_id=pending.call_id)
        recorder.note(reading)
        recorder.note(ended(reading, await _outcome_of(pending)))


async def _found(client: Client, key: str, service: str, resource: str | None) -> Any:
    return await client.attach(idempotency_key=key, service=service, resource_id=resource, timeout=_FIND_S)


async def _outcome_of(pending: Any) -> Told:
    return await told(pending.result(_READ_S))
