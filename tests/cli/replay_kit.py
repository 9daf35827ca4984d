"""A history in memory for the tests of ``aegis replay``."""

from __future__ import annotations

import io
from typing import Any, Final

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.cli.output import Paint
from aegisipc.eventstore.replay import (
    ALL,
    Filters,
    board_at,
    resolve,
    state_at,
    view_of,
)
from aegisipc.router.cli.replay_deciding import about_to_decide
from aegisipc.router.cli.replay_panes import as_text
from tests.eventstore.replay.kit import History
from tests.sdk.kit import GROUP, NS, SERVICE

HERE: Final = f"{SERVICE}/{GROUP}"


class Scene(History):
    """In memory: ``a`` holds the pen, ``b`` stands by, ``r`` leads."""

    def __init__(self) -> None:
        super().__init__()
        self.log.say(NS.term, ev.RouterElected(term=1, router="r", incarnation="r1", cause="t"))
        self.log.join("a")
        self.log.promote("a", 1)
        self.log.join("b")
        self.beat("a", "b", seconds=1)

    def beat(self, *instances: str, seconds: float) -> None:
        for _ in range(int(seconds * 4)):
            self.wait(250)
            self.pulse(*instances)

    async def view(self, filters: Filters = ALL, at: str = "end") -> dict[str, Any]:
        source = await self.source()
        point = await resolve(source, at)
        state, board = await state_at(source, point), await board_at(source, point)
        decisions = about_to_decide(state, board, point, filters)
        return {**view_of(state, board, point, filters), "about_to_decide": decisions}

    async def text(self, columns: int | None = None) -> str:
        return as_text(await self.view(), "a test", Paint(io.StringIO()), columns=columns)
