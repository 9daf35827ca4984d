"""Who leads: given what the log and the pulses say, when may a router take the lead?"""

from __future__ import annotations

import msgpack  # type: ignore[import-untyped]
import pytest

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.errors import WrongSequence
from aegisipc.eventstore.log import Expect, Record
from aegisipc.eventstore.pulses import PulseBoard
from aegisipc.eventstore.system import SystemState
from aegisipc.router.domain.decide import Decision, Policy, RouterIdentity, elect, leads
from tests.sdk.kit import EPOCH_NS, NS, ListLog, ms

ME, OTHER = RouterIdentity("r1", "i1"), RouterIdentity("r2", "i2")
POLICY = Policy()


class World:
    """A log, the pulses, and what a router makes of them."""

    def __init__(self) -> None:
        self.log = ListLog()
        self.board = PulseBoard(NS, gap_ms=500)
        self.board.now_ns = self.board.floor_ns = EPOCH_NS

    def pulse(self, router: RouterIdentity, after_ms: int = 0) -> None:
        self.log.now_ns += ms(after_ms)
        self.board.apply(
            Record(
                1,
                NS.pulse("router", router.id),
                msgpack.packb({"incarnation": router.incarnation}),
                self.log.now_ns,
            )
        )

    def elect(self, me: RouterIdentity = ME) -> Decision | None:
        return elect(SystemState(NS).replay(self.log.records), self.board, me, POLICY, NS)

    def append(self, decision: Decision | None) -> None:
        assert decision is not None
        self.log.append(decision.subject, ev.encode_event(decision.event), Expect(decision.expected_seq))


def elected(decision: Decision | None) -> tuple[int, str, str]:
    assert decision is not None
    event = decision.event
    assert isinstance(event, ev.RouterElected)
    return event.term, event.router, event.cause


def test_the_first_router_takes_the_lead_at_once() -> None:
    world = World()
    assert elected(world.elect()) == (1, "r1", "nobody leads")
    world.append(world.elect())
    assert world.elect() is None
    assert leads(SystemState(NS).replay(world.log.records), ME)


def test_another_router_waits_while_the_leader_pulses() -> None:
    world = World()
    world.append(world.elect(OTHER))
    for _ in range(20):
        world.pulse(OTHER, after_ms=250)
        assert world.elect() is None


def test_a_leader_that_is_silent_for_too_long_is_replaced() -> None:
    world = World()
    world.append(world.elect(OTHER))
    world.pulse(OTHER)
    for _ in range(4):
        world.pulse(ME, after_ms=250)
    assert world.elect() is None
    world.pulse(ME, after_ms=250)
    assert elected(world.elect()) == (2, "r1", "leader 'r2' has been silent for 1250 ms")


def test_a_new_leader_that_has_not_pulsed_yet_is_given_time() -> None:
    world = World()
    for _ in range(40):
        world.pulse(ME, after_ms=250)
    world.append(world.elect(OTHER))
    world.pulse(ME, after_ms=250)
    assert world.elect() is None


def test_the_pulses_of_an_earlier_run_of_the_leader_do_not_count() -> None:
    world = World()
    world.append(world.elect(OTHER))
    for _ in range(5):
        world.pulse(RouterIdentity("r2", "an earlier run"), after_ms=250)
    assert elected(world.elect())[0] == 2


def test_after_a_resignation_anybody_leads_at_once() -> None:
    world = World()
    world.append(world.elect(OTHER))
    world.log.say(NS.term, ev.RouterResigned(term=1, router="r2", incarnation="i2"))
    assert elected(world.elect()) == (2, "r1", "the leader of term 1 resigned")


def test_a_restarted_leader_leads_at_once() -> None:
    world = World()
    world.append(world.elect())
    assert elected(world.elect(RouterIdentity("r1", "i9"))) == (2, "r1", "router 'r1' was restarted")


def test_of_two_routers_that_elect_themselves_at_once_one_wins() -> None:
    world = World()
    mine, theirs = world.elect(), world.elect(OTHER)
    world.append(mine)
    with pytest.raises(WrongSequence):
        world.append(theirs)
    assert world.elect(OTHER) is None
