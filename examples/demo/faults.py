"""What ``aegis demo --kill`` does to the groups while orders go through them.

The active instance of one group is killed; that of another one is frozen, and let go on when a standby has
long taken its place. Both happen when a part of the group's orders have their outcome; and some of its orders
are held back until then, so that there are some left to show that the standby works.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from aegisipc.eventstore.errors import AegisError
from examples.demo.flow import AskQuote, Step, groups_of
from examples.demo.stage import Stage, part_of
from examples.demo.watch import Holder, Watch

_FROZEN_S: Final = 2.5
"""How long it is frozen at least; until a standby works, if that takes longer."""

_PATIENCE_S: Final = 30.0
"""How long a standby may take. Much more than it ever does: whatever takes longer is a failure."""

type Fault = Literal["kill", "freeze"]

FAULTS: Final[dict[str, tuple[Fault, float]]] = {"east": ("kill", 0.25), "west": ("freeze", 0.55)}
"""By group: what happens to it, and when, as a part of its orders."""

_HELD: Final = 0.25
"""So large a part of a group's orders waits until the fault has happened."""


class TooFewAccounts(AegisError):
    """There are not two groups of accounts in the flow. Field: ``accounts``."""

    code = "too_few_accounts"


class NoFailover(AegisError):
    """No standby took over in time. Fields: ``fault``, ``group``, ``victim``."""

    code = "no_failover"


@dataclass(frozen=True, slots=True)
class Failover:
    """A fault and who took over. ``ms``: from the signal until the first outcome of the new holder was in the
    log.
    """

    fault: Fault
    group: str
    victim: str
    holder: str
    epoch: int
    ms: float


class Faults:
    """Kills and freezes; :attr:`failovers` has what came of it. `tell` gets a line about each thing that
    happens.
    """

    def __init__(
        self, stage: Stage, watch: Watch, steps: Sequence[Step], tell: Callable[[str], None]
    ) -> None:
        self.failovers: list[Failover] = []
        self._stage = stage
        self._watch = watch
        self._tell = tell
        self._group_of = {
            account: group for group, accounts in groups_of(steps).items() for account in accounts
        }
        owned = [step for step in steps if not isinstance(step, AskQuote)]
        self._orders = Counter(self._group_of[step.account] for step in owned)
        if self._orders.keys() < FAULTS.keys():
            raise TooFewAccounts(
                "cannot play with faults: the flow needs orders of two accounts at least, for two groups",
                accounts=len(self._group_of),
            )
        self._sent: Counter[str] = Counter()
        self._happened = {group: asyncio.Event() for group in FAULTS}

    async def run(self) -> None:
        """Let both faults happen; returns when standbys work, and the frozen one is back.

        Raises:
            NoFailover: no standby took over in time.
        """
        kinds = {"kill": self._kill, "freeze": self._freeze}
        await together(*(self._at(group, share, kinds[fault]) for group, (fault, share) in FAULTS.items()))

    async def may_send(self, step: Step) -> None:
        """Hold a step back that is to show that the standby works."""
        group = self._group_of[step.account]
        if not isinstance(step, AskQuote):
            self._sent[group] += 1
            if self._sent[group] > (1 - _HELD) * self._orders[group]:
                await self._happened[group].wait()

    async def _at(self, group: str, share: float, fault: Callable[[str, Holder], Awaitable[None]]) -> None:
        least = max(1, int(share * self._orders[group]))
        await self._watch.until(lambda: self._watch.outcomes[group] >= least)
        await fault(group, self._watch.holders[group])

    async def _kill(self, group: str, victim: Holder) -> None:
        at_ns = self._stage.kill(part_of(victim.instance))
        self._happened[group].set()
        self._tell(f"kill -9 of {victim.instance}, the active instance of group {group}")
        await self._taken_over("kill", group, victim, at_ns)

    async def _freeze(self, group: str, victim: Holder) -> None:
        arrivals = self._watch.arrivals[victim.instance]
        at_ns = self._stage.freeze(part_of(victim.instance))
        self._happened[group].set()
        self._tell(f"{victim.instance}, the active instance of group {group}, is frozen (SIGSTOP)")
        await together(self._taken_over("freeze", group, victim, at_ns), asyncio.sleep(_FROZEN_S))
        self._stage.thaw(part_of(victim.instance))
        self._tell(f"{victim.instance} goes on (SIGCONT), unaware that its time is over")
        await self._returned(victim.instance, arrivals)

    async def _taken_over(self, fault: Fault, group: str, victim: Holder, at_ns: int) -> None:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                holder, first_ns = await self._watch.taken_over(group, victim.epoch)
        except TimeoutError:
            raise NoFailover(
                f"cannot go on: {victim.instance} is gone ({fault}), and no standby of group {group} had an "
                f"outcome within {_PATIENCE_S:g} s",
                fault=fault,
                group=group,
                victim=victim.instance,
            ) from None
        ms = (first_ns - at_ns) / 1_000_000
        found = Failover(fault, group, victim.instance, holder.instance, holder.epoch, ms)
        self.failovers.append(found)
        self._tell(f"{found.holder} took over: its first outcome was durable {ms:,.1f} ms after the signal")

    async def _returned(self, instance: str, arrivals: int) -> None:
        """It finds out that its epoch is over: worth seeing, but nothing depends on it."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await self._watch.until(lambda: self._watch.arrivals[instance] > arrivals)
        except TimeoutError:
            self._tell(f"{instance} has not come back")
        else:
            self._tell(f"{instance} is back, as a standby: what it had not written, the log does not take")


async def together(*works: Coroutine[Any, Any, object]) -> None:
    """Do all of `works` at once; the first error stops the others, and is raised as it is."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
