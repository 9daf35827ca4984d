"""``aegis replay --why`` as somebody on call uses it: the answer first, then the chain."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from aegisipc.eventstore.cli.output import Paint
from aegisipc.eventstore.ids import format_call_id
from aegisipc.eventstore.replay import Reason, resolve, why
from aegisipc.router.cli.why_text import as_text
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from aegisipc.sdk import Context, Service
from aegisipc.sdk.errors import CallInDoubt
from tests.cli.programs import Aegis
from tests.conftest import run_in_own_loop
from tests.e2e.kit import Place
from tests.eventstore.replay.told_history import frozen, store, tale_of
from tests.sdk.kit import GROUP, SERVICE

OURS = f"{SERVICE}/{GROUP}"
NAMESPACE = "cli-why"


@dataclass(frozen=True)
class Incident:
    """A log with a failover in it, and two calls of that time: one was in doubt."""

    url: str
    begun: str
    waiting: str


@pytest.fixture(scope="module")
def incident(shared_server: EmbeddedServer) -> Incident:
    tale, begun, waiting = frozen(time.time_ns())
    run_in_own_loop(lambda: store(tale, shared_server.url, NAMESPACE))
    return Incident(shared_server.url, format_call_id(begun), format_call_id(waiting))


@pytest.fixture
def here(aegis: Aegis, incident: Incident) -> Aegis:
    return aegis.at(incident.url, NAMESPACE)


def test_the_answer_comes_first_and_then_the_chain(here: Aegis) -> None:
    done = here("replay", "--why", "group", OURS)
    assert done.code == 0, done.err
    first, *rest = done.out.splitlines()
    assert first.startswith(f"{OURS}: i2 is active at epoch 2 since ")
    chain = "\n".join(rest)
    for part in (
        "no heartbeat of i1 for 1500 ms (suspected after 1000 ms)",
        "router r1 suspects i1",
        "router r1 decides: i2 is to be active (failover)",
        "what i1 writes as epoch 1 is refused from here on",
        "i1 still wrote 1 word of epoch 1",
        "is in doubt: it may have run",
        "says operator ann@box: the venue has it",
        "first outcome by i2",
        "i3 was not chosen: it had joined after i2",
    ):
        assert part in chain
    assert f"namespace {NAMESPACE}" in rest[-1]


def test_for_programs_each_link_names_what_it_follows_from(here: Aegis, incident: Incident) -> None:
    done = here("replay", "--why", "group", OURS, "--json")
    told: dict[str, Any] = done.json
    assert (told["kind"], told["holder"], told["epoch"], told["former_holder"]) == ("group", "i2", 2, "i1")
    chain = {link["number"]: link for link in told["chain"]}
    decided = next(link for link in chain.values() if link["what"] == "decided")
    assert "silence" in {chain[number]["what"] for number in decided["follows"]}
    assert decided["seq"] == told["fence_seq"]
    assert [doubt["call_id"] for doubt in told["doubts"]] == [incident.begun]
    assert told["point"]["asked"] == "end"
    assert [link["at_ns"] for link in told["chain"]] == sorted(link["at_ns"] for link in told["chain"])


def test_a_point_bounds_what_is_known(here: Aegis, incident: Incident) -> None:
    done = here("replay", "--why", "call", incident.begun, "--until", "in_doubt")
    assert f"aegis doubt resolve {incident.begun}" in " ".join(done.out.split())
    done = here("replay", "--why", "instance", "i1", "--until", "first:group.promoted")
    assert done.out.startswith(f"i1 ({OURS}) is active at epoch 1 since")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("group", "nope"), "unknown_group"),
        (("instance", "nobody"), "unknown_instance"),
        (("call", "xyz"), "bad_call_id"),
        (("call", "01a3185c-5000-7000-8000-ffffffffffff"), "unknown_call"),
    ],
)
def test_what_is_not_there_is_said_without_a_traceback(
    here: Aegis, words: tuple[str, str], code: str
) -> None:
    done = here("replay", "--why", *words, "--json")
    assert done.code == 1
    assert done.error["code"] == code
    assert done.err.startswith("error: cannot ")


def test_a_kind_that_there_is_not_is_bad_usage(here: Aegis) -> None:
    done = here("replay", "--why", "router", "r1")
    assert done.code == 2
    assert "group, instance, call" in done.err


async def test_control_characters_of_others_are_harmless_and_long_lines_are_wrapped() -> None:
    tale = tale_of("i1", "i2")
    tale.fall_ill("i1", "no venue\x1b[2J " + "and so on " * 40)
    tale.settle()
    source = tale.source()
    point = await resolve(source, "end")
    text = as_text(await why(source, "instance", "i1", point), point, source.about, Paint())
    assert "\x1b" not in text
    assert "\\x1b[2J" in text
    assert max(len(line) for line in text.splitlines()) <= 200
    empty = Reason("group", {}, answer="nothing")
    empty.omitted = 3
    assert "3 more are left out" in as_text(empty, point, source.about, Paint())


class Desk:
    """A service whose call does not end as long as the gate is closed."""

    def __init__(self) -> None:
        self.service = Service("desk")
        self.gate, self.begun = asyncio.Event(), asyncio.Event()

        @self.service.method(effect="once")
        async def order(number: int, ctx: Context) -> str:
            self.begun.set()
            await self.gate.wait()
            return f"{number} by {ctx.instance}"


async def test_a_real_failover_is_explained(shared_server: EmbeddedServer, aegis: Aegis) -> None:
    """A real router, two instances, one of which is cut off amid a call."""
    async with AsyncExitStack() as stack:
        place = Place(shared_server, stack)
        await place.router()
        first, second = Desk(), Desk()
        active = await place.serve(first.service, "x", instance="a")
        await place.serve(second.service, "x", instance="b")
        client = await place.client()
        pending = await client.submit("desk.order", 1, resource_id="x", timeout=20.0)
        await first.begun.wait()
        await active.fall_silent()
        with pytest.raises(CallInDoubt):
            await pending.result()
        group = f"desk/{active.instance.joined().identity.group}"
        here = aegis.at(shared_server.url, place.namespace)
        done = await asyncio.to_thread(here, "replay", "--why", "group", group, "--json")
        assert done.code == 0, done.err
        told = done.json
        whats = [link["what"] for link in told["chain"]]
        assert (told["holder"], told["former_holder"]) == ("b", "a")
        assert {"last_pulse", "silence", "elected", "decided", "fence", "claimed", "in_doubt"} <= set(whats)
        assert next(link for link in told["chain"] if link["what"] == "last_pulse")["data"]["is_in_stream"]
        assert [doubt["call_id"] for doubt in told["doubts"]] == [pending.call_id]
        text = await asyncio.to_thread(here, "replay", "--why", "call", str(pending.call_id))
        assert "is in doubt since" in text.out.splitlines()[0]
        assert json.dumps(told)
        first.gate.set()
