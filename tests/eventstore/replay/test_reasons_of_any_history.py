"""Whatever happened, and at whatever point: everything can be explained, and nothing follows from what came
later.
"""

from __future__ import annotations

import asyncio

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import rule

from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.ids import CallId, format_call_id
from aegisipc.eventstore.lifecycles import GroupState
from aegisipc.eventstore.replay import Reason, Source, UnknownGroup, UnknownInstance, resolve, why
from aegisipc.eventstore.replay.folding import state_at
from tests.eventstore.replay.told_history import IN_DOUBT, Tale
from tests.router.domain.test_any_history import NAMES, Histories
from tests.sdk.kit import GROUP, SERVICE


class Explained(Histories):
    """Histories with calls in them; at the end, everything is explained at some points of them."""

    def __init__(self) -> None:
        super().__init__()
        self.world: Tale = Tale()
        self.called: list[CallId] = []

    @rule(method=st.sampled_from(["pay", "put"]))
    def call(self, method: str) -> None:
        self.called.append(self.world.call(method))

    @rule(
        writer=st.sampled_from(NAMES),
        mark=st.sampled_from([Mark.CLAIMED, Mark.SUCCEEDED, Mark.FAILED, Mark.IN_DOUBT, Mark.NOT_EXECUTED]),
        which=st.integers(0, 3),
        late=st.booleans(),
    )
    def says_of_a_call(self, writer: str, mark: Mark, which: int, late: bool) -> None:
        group = self.group()
        if self.called and group is not None and group.epoch:
            body = IN_DOUBT if mark is Mark.IN_DOUBT else None
            who = group.holder or writer if not late else writer
            fact = (mark, self.called[which % len(self.called)], body)
            self.world.pen(who, fact, epoch=group.epoch - late)

    def teardown(self) -> None:
        asyncio.run(self.explain())

    async def explain(self) -> None:
        source = self.world.source()
        last = len(self.world.log.records)
        for seq in sorted({last, last // 2, last // 3}):
            if seq:
                await self.explain_at(source, seq)

    async def explain_at(self, source: Source, seq: int) -> None:
        point = await resolve(source, str(seq))
        state = await state_at(source, point)
        group = state.topology.group(SERVICE, GROUP)
        try:
            reason = await why(source, "group", f"{SERVICE}/{GROUP}", point)
        except UnknownGroup:
            assert group is None
            return
        assert group is not None
        held = group.state is not GroupState.VACANT
        shown = f"{group.holder} is active at epoch {group.epoch}" if held else "nobody "
        assert shown in reason.answer
        is_sound(reason, seq)
        for name in NAMES:
            try:
                is_sound(await why(source, "instance", name, point), seq)
            except UnknownInstance:
                assert name not in group.instances
        for call_id in self.called[:2]:
            shown = format_call_id(call_id)
            accepted = any(call_id in calls.open for calls in state.calls.values())
            if accepted:
                reason = await why(source, "call", shown, point)
                assert reason.to_plain()["state"] == str(state.calls[SERVICE, GROUP].open[call_id].state)
                is_sound(reason, seq)


def is_sound(reason: Reason, until_seq: int) -> None:
    """It is in the order of time, ends at the point, and each link follows from earlier ones."""
    assert reason.answer
    assert [link.number for link in reason.links] == list(range(1, len(reason.links) + 1))
    assert [link.at_ns for link in reason.links] == sorted(link.at_ns for link in reason.links)
    for link in reason.links:
        assert link.seq <= until_seq
        assert all(number < link.number for number in link.follows), (link, reason.links)


TestExplained = Explained.TestCase
TestExplained.settings = settings(max_examples=20, stateful_step_count=25)
