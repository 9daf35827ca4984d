"""The examples of docs/state.md do what the page says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from aegisipc.eventstore.calls import OpenCall
from aegisipc.eventstore.codec import decode, encode
from aegisipc.eventstore.frames import Mark
from aegisipc.sdk.core.pen import Identity
from aegisipc.sdk.executor import Executor
from aegisipc.sdk.reconciling import Reconciler
from aegisipc.sdk.state import SharedState

PAGE = (Path(__file__).parents[2] / "docs" / "state.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
LIMIT, NOW_NS = 100_000, 1_800_000_000_000_000_000


def example(word: str) -> dict[str, Any]:
    """Run the example that holds `word`, as a module of its own."""
    (found,) = (code for code in EXAMPLES if word in code)
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(found, "docs/state.md", "exec", dont_inherit=True), names)
    return names


def call(method: str, *args: Any, number: int = 7) -> OpenCall:
    found = OpenCall(
        bytes([*range(15), number]), "c", method, "acc_1", 1, NOW_NS + 10**9, encode([list(args), {}])
    )
    found.claimed_by, found.claimed_epoch = "a", 1
    return found


def identity(service: str) -> Identity:
    return Identity(service, "acc_1", "b", "1", 1)


async def test_the_example_of_shared_state_survives_a_change_of_instance() -> None:
    active, standby = example("@positions.on"), example("@positions.on")
    states = [SharedState(member["positions"]) for member in (active, standby)]
    runs = Executor(active["positions"], identity("positions"), lambda: NOW_NS, LIMIT, states[0])
    for total in (100, 200):
        done = await runs.execute(call("fill", "ACME", 100), 1)
        assert (done.mark, decode(done.body or b"")) == (Mark.SUCCEEDED, total)
        for state in states:
            state.apply(*done.emitted)
    takes_over = Executor(standby["positions"], identity("positions"), lambda: NOW_NS, LIMIT, states[1])
    assert decode((await takes_over.execute(call("position", "ACME"), 2)).body or b"") == 200
    joins = example("@positions.on")
    SharedState(joins["positions"]).restore(states[1].snapshot())
    assert joins["book"] == {"ACME": 200}
    assert states[0].digest() == states[1].digest() == SharedState(joins["positions"]).digest()


async def test_the_example_of_a_health_check_tells_why() -> None:
    made = example("@orders.health")
    assert await made["orders"].health_check.run() == "the venue has logged us off"
    made["session"].is_logged_on = True
    assert await made["orders"].health_check.run() is None


async def test_the_example_of_a_call_in_doubt_finds_out_what_became_of_it() -> None:
    made = example("@orders.reconcile")
    service = made["orders"]
    placed, lost = call("place", "ACME"), call("place", "ACME", number=8)
    done = await Executor(service, identity("orders"), lambda: NOW_NS, LIMIT).execute(placed, 1)
    asks = Reconciler(service, identity("orders"), LIMIT)
    found, none = await asks.ask(placed), await asks.ask(lost)
    assert found is not None
    assert none is not None
    assert (found.is_executed, found.body) == (True, done.body)
    assert (none.is_executed, none.reason) == (False, "the venue has no such order")
