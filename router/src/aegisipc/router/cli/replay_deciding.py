"""What the leading router was about to decide at a point: today's rules, asked about the state of then."""

from __future__ import annotations

from typing import Any

from aegisipc.eventstore.pulses import PulseBoard
from aegisipc.eventstore.replay import Filters, Point
from aegisipc.eventstore.system import SystemState
from aegisipc.router.cli import sayings
from aegisipc.router.domain.decide import RouterIdentity, decide
from aegisipc.router.domain.terms import policy_in

type Plain = dict[str, Any]


def about_to_decide(state: SystemState, board: PulseBoard, point: Point, filters: Filters) -> list[Plain]:
    """Return the decisions that a leader would have made next; none where nobody led.

    Heartbeats are all that is known of then: what servers and probes told a router is in the evidence of what
    it decided, and nowhere else. Where no heartbeats are kept, everybody counts as just heard.
    """
    lead = state.topology.leadership
    if lead.router is None or lead.incarnation is None:
        return []
    if not board.now_ns:
        board = PulseBoard(state.subjects, gap_ms=0)
        board.now_ns = board.floor_ns = point.at_ns
    me = RouterIdentity(lead.router, lead.incarnation)
    told = []
    for decision in decide(state, board, me, policy_in(lead.policy), state.subjects):
        place = state.subjects.parse(decision.subject)
        if not filters.holds_place(place):
            continue
        data = decision.event.model_dump(mode="json")
        told.append(
            {
                "group": f"{place.service}/{place.group}",
                "type": decision.event.type,
                "says": sayings.of_event(decision.event.type.rpartition(".v")[0], data),
                "data": data,
            }
        )
    return told
