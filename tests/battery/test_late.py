"""What a dead process had sent comes late: after another one took its place, and everybody was told."""

from __future__ import annotations

from pathlib import Path

import pytest

from aegisipc.chaos.real.zygote import Zygote
from aegisipc.eventstore.frames import Mark
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from tests.battery.judging import Counted, complaints
from tests.battery.plan import Case, name, verdict
from tests.battery.points import Point, Reaching
from tests.battery.scene import Role, Scene, a_scene
from tests.battery.wire_proxy import AnswerTo, Seen

CLIENTS = [Case(Role.CLIENT, Point.BEFORE_APPEND, deed) for deed in ("once", "transactional")]
INSTANCES = [
    Case(Role.INSTANCE, Point.CLAIMING, "once"),
    Case(Role.INSTANCE, Point.EFFECT, "once"),
    Case(Role.INSTANCE, Point.EFFECT, "transactional"),
]


def both(cases: list[Case]) -> list[Case]:
    return cases + [case._replace(pool=True) for case in cases]


def shown(case: Case) -> str:
    return f"{'pool' if case.pool else 'owned'}-{name(case)}"


class Late:
    """Lets the message go that its dead sender wrote, and waits for what the server says to it."""

    def __init__(self, scene: Scene, point: Point) -> None:
        self._scene = scene
        self._answer = scene.proxy.hold(AnswerTo(self._is_held))
        self._reaching = Reaching(scene, point)

    def _is_held(self, seen: Seen) -> bool:
        held = self._reaching.held
        return held is not None and held.wants(seen)

    async def until_dead(self, role: Role) -> None:
        self._scene.start_client()
        await self._reaching.reached()
        held = self._reaching.held
        assert held is not None
        held.take_no_more()
        self._scene.proxy.keep_open(held.seen[0].link)
        await self._scene.kill(role)

    async def let_it_come(self) -> bytes:
        """Returns the server's answer."""
        self._reaching.release()
        await self._scene.until(self._answer.caught.is_set, "the server answers")
        return self._answer.seen[0].frame.payload


@pytest.mark.parametrize("case", both(CLIENTS), ids=shown)
async def test_a_call_of_a_dead_client_that_comes_late_repeats_the_one_with_its_key(
    case: Case, shared_server: EmbeddedServer, zygote: Zygote, tmp_path: Path
) -> None:
    async with a_scene(shared_server, zygote, tmp_path, deed=case.deed, pool=case.pool, key="k1") as scene:
        late = Late(scene, case.point)
        await late.until_dead(case.role)
        await scene.restart(case.role)
        assert await verdict(scene, case) == (Mark.SUCCEEDED, 1)
        assert b'"seq"' in await late.let_it_come()
        assert await verdict(scene, case) == (Mark.SUCCEEDED, 1)
        assert len((await scene.count()).calls) == 2


@pytest.mark.parametrize(
    ("case", "standby"),
    [*((case, False) for case in INSTANCES), (INSTANCES[1], True)],
    ids=[*(shown(case) for case in INSTANCES), f"{shown(INSTANCES[1])}-failover"],
)
async def test_the_fence_refuses_what_a_dead_holder_wrote(
    case: Case, standby: bool, shared_server: EmbeddedServer, zygote: Zygote, tmp_path: Path
) -> None:
    async with a_scene(shared_server, zygote, tmp_path, deed=case.deed, standby=standby) as scene:
        late = Late(scene, case.point)
        await late.until_dead(case.role)
        if not standby:  # else silence tells: the connection of the dead one is still open
            await scene.restart(case.role)
        found = await verdict(scene, case)
        assert found == case.expected
        assert b"wrong last sequence" in await late.let_it_come()
        assert await verdict(scene, case) == found


@pytest.mark.parametrize("case", both(INSTANCES)[len(INSTANCES) :], ids=shown)
async def test_in_a_pool_what_comes_late_is_void_or_ends_the_doubt_with_the_truth(
    case: Case, shared_server: EmbeddedServer, zygote: Zygote, tmp_path: Path
) -> None:
    async with a_scene(shared_server, zygote, tmp_path, deed=case.deed, pool=True) as scene:
        late = Late(scene, case.point)
        await late.until_dead(case.role)
        await scene.restart(case.role)
        found = await verdict(scene, case)
        assert found == case.expected
        assert b'"seq"' in await late.let_it_come()
        told, counted = await scene.told_to_readers(), await scene.count()
        if found[0] is Mark.IN_DOUBT:
            ended_by_the_truth(counted)
        else:
            assert len(counted.void) == 1
        assert complaints(scene.effects(), counted, told, may_doubt=False) == []


def ended_by_the_truth(counted: Counted) -> None:
    """Of the doubt and the end of it, the end is what is true now."""
    ((doubt, outcome),) = counted.outcomes.values()
    assert (doubt.mark, outcome.mark) == (Mark.IN_DOUBT, Mark.SUCCEEDED)
    counted.outcomes = {call_id: [outcome] for call_id in counted.outcomes}
