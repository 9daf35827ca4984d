"""Processes in network namespaces of their own, and a router between that can lose packets (Linux, root).

Unlike a proxy this breaks real packets: TCP retransmits, backs off and gives up in its own time, handshakes
time out, and nobody is told anything. A namespace ``sw`` routes between all members, each of which has an
end of a pair of virtual cables; packets are lost there by routing rules that drop in silence (blackholes).
The host can be a member too, so that a server that it runs can be reached from the namespaces. There is no
way out: nothing here forwards to another network, and addresses are of 198.18.0.0/15, which is set apart for
tests.

What it cannot do: lose some packets only, delay, or limit the rate (that needs the kernel's netem). Within
one namespace loopback always works.
"""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import os
import re
from types import TracebackType
from typing import Final, Self

from aegisipc.chaos.nemeses.commands import find_tool, need_root, run
from aegisipc.chaos.nemeses.errors import NemesisFailed, Unavailable, unavailable
from aegisipc.chaos.nemeses.processes import is_running

HOST: Final = "host"
"""The member that is this machine itself."""

MAX_MEMBERS: Final = 60

_PURPOSE: Final = "make network namespaces"
_PREFIX: Final = "aegis"
_OURS: Final = re.compile(rf"{_PREFIX}-(\d+)-\S+")
_RANGE: Final = ipaddress.IPv4Network("198.18.0.0/15")


class Namespaces:
    """A network of namespaces, from entering the block to its end: ``add`` members, run programs with
    ``prefix`` before their command line, then ``isolate``, ``cut`` or ``cut_one_way``, and ``heal``.

    Raises ``Unavailable`` when entered by somebody else than root, or without ``ip`` or the kernel's
    support. Names contain our process id: after a crash, :func:`sweep` removes what is left.
    """

    _numbers = itertools.count()

    def __init__(self, *, with_host: bool = True) -> None:
        self._with_host = with_host
        self._tag = f"{_PREFIX}-{os.getpid()}-{next(self._numbers)}"
        self._cable = f"{_PREFIX}{os.getpid()}x{self._tag.rpartition('-')[2]}"[:15]
        self._ip = ""
        self._network = _RANGE
        self._members: dict[str, int] = {}
        self._lost: set[tuple[str, str]] = set()

    @property
    def members(self) -> tuple[str, ...]:
        """Everybody, in the order in which they came."""
        return tuple(self._members)

    @property
    def _switch(self) -> str:
        return f"{self._tag}sw"

    def namespace(self, member: str) -> str:
        """The name by which ``ip netns`` knows a member (not for the host, which needs none)."""
        return f"{self._tag}{member}"

    def address(self, member: str) -> str:
        """Where a member can be reached by the others: what a server there listens on."""
        return self._pair(member)[1]

    def prefix(self, member: str) -> list[str]:
        """What to put before the command line of a program so that it runs there. The program keeps the
        process id of the command.
        """
        return [] if member == HOST else [self._ip, "netns", "exec", self.namespace(member)]

    # -- life -------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        need_root(_PURPOSE)
        self._ip = find_tool("ip", _PURPOSE)
        await sweep()
        try:
            await self._make_switch()
            if self._with_host:
                await self._join(HOST)
        except NemesisFailed as error:
            await self._remove()
            raise unavailable(_PURPOSE, error.message, "use a kernel with namespaces and veth") from error
        except BaseException:
            await self._remove()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._remove()

    async def _make_switch(self) -> None:
        self._network = await self._choose_network()
        await self._run("netns", "add", self._switch)
        within = ["netns", "exec", self._switch, "sh", "-c"]
        await self._run(*within, "echo 1 > /proc/sys/net/ipv4/ip_forward")

    async def _choose_network(self) -> ipaddress.IPv4Network:
        """One that no route of this host leads to: other runs may be there."""
        taken = await self._run("-4", "route", "show")
        candidates = list(_RANGE.subnets(new_prefix=24))
        first = os.getpid() % len(candidates)  # who begins at the same time begins elsewhere
        for candidate in candidates[first:] + candidates[:first]:
            if f"{candidate.network_address} " not in taken and f"{candidate} " not in taken:
                return candidate
        raise Unavailable(f"cannot {_PURPOSE}: every network of {_RANGE} is in use", what=_PURPOSE)

    async def add(self, member: str) -> str:
        """Make a namespace for `member` (a short word), connected to all others; return its address.

        Raises:
            NemesisFailed: the name is taken, there are too many, or the system refuses.
        """
        if member in self._members or not re.fullmatch(r"[a-z0-9]{1,12}", member) or member == "sw":
            raise NemesisFailed(f"cannot add {member!r}: choose a new short word (a-z, 0-9)", what=member)
        if len(self._members) >= MAX_MEMBERS:
            raise NemesisFailed(f"cannot add {member!r}: {MAX_MEMBERS} members are the most", what=member)
        await self._run("netns", "add", self.namespace(member))
        await self._join(member)
        return self.address(member)

    async def _join(self, member: str) -> None:
        self._members[member] = len(self._members)
        near, far = self._pair(member)
        port, at_switch = f"p{self._members[member]}", ["-n", self._switch]
        there = [] if member == HOST else ["-n", self.namespace(member)]
        cable = self._cable if member == HOST else "eth0"
        where = str(os.getpid()) if member == HOST else self.namespace(member)
        await self._run(
            *at_switch, "link", "add", port, "type", "veth", "peer", "name", cable, "netns", where
        )
        await self._run(*at_switch, "addr", "add", f"{near}/30", "dev", port)
        await self._run(*at_switch, "link", "set", port, "up")
        await self._run(*there, "addr", "add", f"{far}/30", "dev", cable)
        await self._run(*there, "link", "set", cable, "up")
        if member != HOST:
            await self._run(*there, "link", "set", "lo", "up")
        route = str(self._network) if member == HOST else "default"
        await self._run(*there, "route", "add", route, "via", near)

    def _pair(self, member: str) -> tuple[str, str]:
        """The two ends of a member's cable: the switch's address, and its own."""
        if member not in self._members:
            raise NemesisFailed(f"cannot find {member!r}: add it first", what=member)
        base = int(self._network.network_address) + 4 * self._members[member]
        return str(ipaddress.ip_address(base + 1)), str(ipaddress.ip_address(base + 2))

    async def _remove(self) -> None:
        """With the switch all cables go, the others in the kernel's own time, the host's at once."""
        if HOST in self._members:
            with contextlib.suppress(NemesisFailed):  # it was not made
                await self._run("link", "del", self._cable)
        for namespace in await _present(self._ip):
            if namespace.startswith(self._tag):
                await self._run("netns", "del", namespace)
        self._members.clear()
        self._lost.clear()

    # -- faults -----------------------------------------------------------------------------------------

    async def isolate(self, member: str) -> None:
        """Lose all that `member` sends and all that is sent to it."""
        for other in self._members:
            if other != member:
                await self.cut(member, other)

    async def cut(self, one: str, other: str) -> None:
        """Lose all packets between two members."""
        await self.cut_one_way(one, other)
        await self.cut_one_way(other, one)

    async def cut_one_way(self, sender: str, receiver: str) -> None:
        """Lose the packets from one member to another; those in the other direction arrive."""
        if (sender, receiver) not in self._lost:
            await self._rule("add", sender, receiver)
            self._lost.add((sender, receiver))

    async def heal(self, member: str | None = None) -> None:
        """Lose nothing any more of what concerns `member`, or of anything."""
        for pair in sorted(self._lost):
            if member is None or member in pair:
                await self._rule("del", *pair)
                self._lost.discard(pair)

    async def _rule(self, verb: str, sender: str, receiver: str) -> None:
        pair = ["from", self.address(sender), "to", self.address(receiver)]
        await self._run("-n", self._switch, "rule", verb, *pair, "blackhole")

    async def _run(self, *words: str) -> str:
        return await run([self._ip, *words])


async def sweep() -> list[str]:
    """Remove the namespaces of processes that have ended; return their names.

    Raises:
        Unavailable: as for :class:`Namespaces`.
    """
    need_root(_PURPOSE)
    ip = find_tool("ip", _PURPOSE)
    removed = []
    for name in await _present(ip):
        ours = _OURS.fullmatch(name)
        if ours is not None and not is_running(int(ours[1])):
            await run([ip, "netns", "del", name])
            removed.append(name)
    return removed


async def _present(ip: str) -> list[str]:
    listed = await run([ip, "netns", "list"])
    return [line.split()[0] for line in listed.splitlines() if line.strip()]
