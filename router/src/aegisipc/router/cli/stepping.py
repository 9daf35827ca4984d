"""``aegis replay --step``: walking through the log, event by event, in a terminal."""

from __future__ import annotations

from argparse import Namespace
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from rich.console import Console
from rich.live import Live

from aegisipc.eventstore.checkpoints import SkippedSnapshot
from aegisipc.eventstore.cli.output import printable
from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.replay import (
    Jump,
    Point,
    Source,
    Stepper,
    check_filters,
    filters_of,
    names_in,
    resolve,
)
from aegisipc.router.cli.step_keys import (
    BACKSPACE,
    ENTER,
    ESCAPE,
    GONE,
    RESIZED,
    Keys,
    check_terminal,
    raw_terminal,
)
from aegisipc.router.cli.step_screen import Shown, screen, shown_at

_JUMPS: Final[Mapping[str, Jump]] = {
    "p": Jump.PROMOTION,
    "d": Jump.DOUBT,
    "f": Jump.FAILURE,
    "s": Jump.SUSPICION,
}
_FORWARD: Final = frozenset({"n", "right", "down", " "})
_BACK: Final = frozenset({"b", "left", "up"})
_MOST_DIGITS: Final = 12
_LONGEST_POINT: Final = 100


async def run(args: Namespace, source: Source, point: Point) -> int:
    """Walk through a history from a point on, until somebody quits.

    Raises:
        NoTerminal: there is nobody to press keys.
        AegisError: the log cannot be read.
    """
    check_terminal()
    filters = filters_of(args.service, args.group, args.resource)
    skipped: deque[SkippedSnapshot] = deque(maxlen=1)
    stepper = await Stepper.open(source, point, filters, on_skip=skipped.append)
    check_filters(filters, names_in(stepper.state))
    console = Console(highlight=False)
    with raw_terminal() as keys, Live(console=console, screen=True, auto_refresh=False) as live:
        await _Walk(stepper, keys, live, skipped).go()
    return 0


class _Walk:
    """What the keys do."""

    def __init__(self, stepper: Stepper, keys: Keys, live: Live, skipped: deque[SkippedSnapshot]) -> None:
        self._stepper, self._keys, self._live, self._skipped = stepper, keys, live, skipped
        self._shown: Shown | None = None
        self._count = ""

    async def go(self) -> None:
        """Take keys until somebody quits, or the terminal is gone."""
        await self._show()
        while (key := await self._keys.next()) not in ("q", "Q", GONE):
            if key == RESIZED:
                self._paint()
            elif key.isdigit() and (self._count or key != "0"):
                self._count = (self._count + key)[:_MOST_DIGITS]
                self._paint(count=self._count)
            else:
                count, self._count = int(self._count or 1), ""
                if not await self._press(key, count):
                    return

    async def _press(self, key: str, count: int) -> bool:
        """Do what a key asks for; ``False`` when the terminal is gone."""
        try:
            if key in _FORWARD:
                await self._by(count)
            elif key in _BACK:
                await self._by(-count)
            elif key.lower() in _JUMPS:
                await self._jump(key, count)
            elif key == "g":
                return await self._ask()
            elif key in ("home", "end"):
                await self._go_to("start" if key == "home" else "end")
            else:
                self._paint(message="")
        except AegisError as error:  # of the point that was given, or of the log: one may go on
            self._paint(message=error.message, is_trouble=True)
        return True

    async def _by(self, count: int) -> None:
        self._busy()
        stepper = self._stepper
        moved = await (stepper.forward(count) if count > 0 else stepper.back(-count))
        edge = "the end of the log" if count > 0 else "the beginning of the log"
        await self._show(f"this is {edge}" if moved < abs(count) else "")

    async def _jump(self, key: str, count: int) -> None:
        self._busy()
        kind, stepper = _JUMPS[key.lower()], self._stepper
        is_back = key.isupper()
        for _ in range(count):
            found = await (stepper.previous_where(kind) if is_back else stepper.next_where(kind))
            if not found:
                where = "before this" if is_back else "after this"
                await self._show(f"there is no {kind} {where}")
                return
        await self._show()

    async def _ask(self) -> bool:
        """Ask for a point, and go there."""
        text = ""
        self._paint(prompt=text)
        while (key := await self._keys.next()) != ENTER:
            if key == GONE:
                return False
            if key == ESCAPE:
                self._paint()
                return True
            if key == BACKSPACE:
                text = text[:-1]
            elif len(key) == 1:
                text = (text + key)[:_LONGEST_POINT]
            self._paint(prompt=printable(text))
        if text.strip():
            await self._go_to(text)
        else:
            self._paint()
        return True

    async def _go_to(self, text: str) -> None:
        self._busy()
        stepper = self._stepper
        await stepper.goto(await resolve(stepper.source, text, stepper.filters))
        await self._show()

    # -- the screen -----------------------------------------------------------------------------------------

    def _busy(self) -> None:
        self._paint(message="reading …")

    async def _show(self, message: str = "") -> None:
        is_trouble = bool(self._skipped) and not message
        if is_trouble:
            skipped = self._skipped.pop()
            message = (
                f"the snapshot at sequence {skipped.seq} is skipped ({skipped.why}): read from further back"
            )
        self._shown = await shown_at(self._stepper)
        self._paint(message=message, is_trouble=is_trouble)

    def _paint(
        self, *, message: str = "", is_trouble: bool = False, count: str = "", prompt: str | None = None
    ) -> None:
        if self._shown is None:
            return
        shown = replace(self._shown, message=message, is_trouble=is_trouble, count=count, prompt=prompt)
        self._live.update(screen(shown, self._stepper.source.subjects), refresh=True)
