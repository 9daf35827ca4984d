"""The clocks and the randomness of a simulation, put in place of the process's own while it lasts."""

from __future__ import annotations

import os
import random
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, Final

from aegisipc.chaos.sim.loop import ACTOR, EPOCH_NS, SimLoop
from aegisipc.chaos.sim.wire import ModelWire
from aegisipc.eventstore.nats import dialing
from aegisipc.sdk import dispatch
from aegisipc.sdk.hosts import owned, pool

_NS: Final = 1_000_000_000
_TICK_S: Final = 0.08
"""How often clients and instances look at the clock. They do it three to four times as often in life, and
most of what an idle system does is that.
"""


@contextmanager
def virtual(loop: SimLoop, seed: int) -> Iterator[None]:
    """Let all code see the loop's clock, its own actor's wall clock, and random numbers that `seed` decides;
    and let connections end at the loop's model of a network.

    Two simulations at once in one process are not possible.
    """
    source = Random(seed)  # noqa: S311 - reproducible on purpose

    def monotonic_ns() -> int:
        return int(loop.now_s * _NS)

    def time_ns() -> int:
        return EPOCH_NS + int(loop.now_s * _NS) + ACTOR.get().skew_ns

    def token_bytes(size: int | None = None) -> bytes:
        return source.randbytes(32 if size is None else size)

    replaced: list[tuple[Any, str, Any]] = [
        (time, "monotonic", loop.time),
        (time, "monotonic_ns", monotonic_ns),
        (time, "perf_counter", loop.time),
        (time, "perf_counter_ns", monotonic_ns),
        (time, "time", lambda: time_ns() / _NS),
        (time, "time_ns", time_ns),
        (secrets, "randbits", source.getrandbits),
        (secrets, "randbelow", source.randrange),
        (secrets, "token_bytes", token_bytes),
        (secrets, "token_hex", lambda size=None: token_bytes(size).hex()),
        (os, "urandom", token_bytes),
        (os, "getpid", lambda: 1000 + sum(ACTOR.get().name.encode())),
        (socket, "gethostname", lambda: "simulated"),
        (dialing, "Wire", ModelWire),
        *((module, "_TICK_S", _TICK_S) for module in (dispatch, owned, pool)),
    ]
    before = [getattr(module, name) for module, name, _ in replaced]
    state = random.getstate()
    for module, name, value in replaced:
        setattr(module, name, value)
    random.seed(seed)  # random.random is bound into defaults of functions: seeding reaches it, replacing not
    try:
        yield
    finally:
        random.setstate(state)
        for (module, name, _), value in zip(replaced, before, strict=True):
            setattr(module, name, value)
