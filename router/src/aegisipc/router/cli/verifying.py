"""Comparing the shared state of a group's instances, all at the same place of the log."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

from aegisipc.eventstore.cli import say
from aegisipc.eventstore.cli.output import Cell, Paint, print_json, shorten, table
from aegisipc.eventstore.errors import AckUnknown, AegisError, MalformedPayload, NoResponders, NotConnected
from aegisipc.eventstore.names import POOL_GROUP, check_name
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.streams import open_log
from aegisipc.eventstore.subjects import Subjects, subjects_of
from aegisipc.eventstore.topology import GroupView, InstanceView, Topology
from aegisipc.router.cli.asking import Plain, Refused, ask, check_group

_TRY_S: Final = 1.0
_PAUSE_S: Final = 0.05
_MOST_AT_ONCE: Final = 64
_DIGITS: Final = 12
_PASSES: Final = frozenset({"pen_lost", "overloaded"})


class Unverifiable(AegisError):
    """There is nothing that could be compared; ``code`` says why."""

    code = "unverifiable"


class UnknownService(Unverifiable):
    """No instance of that service has ever registered. Field: ``service``."""

    code = "unknown_service"


class UnknownGroup(Unverifiable):
    """The service has no such group. Fields: ``service``, ``group``."""

    code = "unknown_group"


class NoSharedState(Unverifiable):
    """The service keeps no state that its instances share. Field: ``service``."""

    code = "no_shared_state"


class NoHolder(Unverifiable):
    """Nobody holds the pen, so nobody can say what the state is. Field: ``service``."""

    code = "no_holder"


class Verdict(StrEnum):
    """What is known of one instance's state."""

    AGREES = "agrees"
    DIFFERS = "differs"
    RESTARTED = "restarted"
    """It is another run of the instance than the one that was asked: so it is with one that differed."""
    NO_ANSWER = "no_answer"


@dataclass(frozen=True, slots=True)
class Checked:
    """One instance. ``digest`` is that of its own state, if it told."""

    instance: str
    verdict: Verdict
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class GroupCheck:
    """One group: what its holder wrote, and what became of it. ``trouble`` says why nothing was compared."""

    group: str
    holder: str | None
    epoch: int
    seq: int | None = None
    digest: str | None = None
    members: tuple[Checked, ...] = ()
    trouble: str = ""

    @property
    def is_sound(self) -> bool:
        """All agree."""
        return not self.trouble and all(member.verdict is Verdict.AGREES for member in self.members)


async def verify(args: Namespace) -> int:
    """Compare, and print what was found."""
    subjects = subjects_of(args.namespace)
    service = check_name(args.service, "service")
    if args.group is not None:
        check_group(args.group)
    async with await Connection.open(ConnectOptions(args.url, name="aegis:verify")) as connection:
        log = await open_log(connection, subjects)
        topology = Topology(subjects)
        async for record in log.read([subjects.topology]):
            topology.apply(record)
        chosen = choose(topology, service, args.group)
        verifier = _Verifier(connection, subjects, args.timeout)
        found = await asyncio.gather(*map(verifier.group, chosen))
    _show(args, found)
    return 0 if all(group.is_sound for group in found) else 1


def choose(topology: Topology, service: str, group: str | None) -> list[GroupView]:
    """Return the groups to look at: the one that is named, or all owned ones that have live instances.

    Raises:
        UnknownService, UnknownGroup: it has never been heard of.
        NoSharedState: there is but a pool.
        NoHolder: nobody serves it.
    """
    known = topology.services.get(service)
    if known is None:
        names = shorten(sorted(topology.services), limit=8, width=160)
        raise UnknownService(
            f"cannot verify service {service!r}: those that have registered are {names}", service=service
        )
    if group is not None and group not in known.groups:
        names = shorten(sorted(known.groups), limit=8, width=160)
        raise UnknownGroup(
            f"cannot verify group {group!r} of service {service!r}: its groups are {names}",
            service=service,
            group=group,
        )
    named = [found for found in known.groups.values() if group in (None, found.name)]
    owned = [found for found in named if found.mode == "owned"]
    if not owned:
        raise NoSharedState(
            f"cannot verify {service!r}: instances of a pool ({POOL_GROUP}) share no state", service=service
        )
    served = [found for found in owned if any(True for _ in found.live())]
    if not served:
        raise NoHolder(
            f"cannot verify {service!r}: none of its groups has a live instance; start one with aegis serve",
            service=service,
        )
    return sorted(served, key=lambda found: found.name)


class _Verifier:
    """Asks holders to check, and members for what came of it, all until the same moment."""

    def __init__(self, connection: Connection, subjects: Subjects, timeout_s: float) -> None:
        self._connection, self._subjects = connection, subjects
        self._give_up_at = asyncio.get_running_loop().time() + timeout_s
        self._free = asyncio.Semaphore(_MOST_AT_ONCE)

    def _left_s(self) -> float:
        return self._give_up_at - asyncio.get_running_loop().time()

    async def group(self, group: GroupView) -> GroupCheck:
        """Check one group.

        Raises:
            NoSharedState: the service keeps none.
        """
        try:
            told = await self._check(group)
            seq, digest = int(told["seq"]), str(told["digest"])
        except (Refused, MalformedPayload, LookupError, ValueError) as error:
            if isinstance(error, Refused) and error.code == "no_shared_state":
                raise NoSharedState(
                    f"cannot verify {group.service!r}: it keeps no state that its instances share "
                    f"(@service.on, snapshot and restore); {error.message}",
                    service=group.service,
                ) from error
            why = error.message if isinstance(error, AegisError) else f"its answer makes no sense: {error!r}"
            return GroupCheck(group.name, group.holder, group.epoch, trouble=why)
        except (NoResponders, AckUnknown, NotConnected):
            holder = repr(group.holder) if group.holder else "nobody holds the pen, so nobody"
            why = f"holder {holder} does not answer" if group.holder else f"{holder} answers"
            return GroupCheck(group.name, group.holder, group.epoch, trouble=why)
        ready = list(group.ready())
        members = await asyncio.gather(*(self._member(member, seq, digest) for member in ready))
        return GroupCheck(group.name, group.holder, group.epoch, seq, digest, tuple(members))

    async def _check(self, group: GroupView) -> Plain:
        """Have the holder write a digest; while the pen is changing hands, the next one."""
        subject = self._subjects.tell(group.service, group.name)
        while True:
            timeout_s = max(_PAUSE_S, min(_TRY_S, self._left_s()))
            try:
                return await ask(self._connection, subject, {"command": "check"}, timeout_s)
            except (Refused, NoResponders, AckUnknown, NotConnected) as error:
                passes = not isinstance(error, Refused) or error.code in _PASSES
                if not passes or self._left_s() <= _PAUSE_S:
                    raise
            await asyncio.sleep(_PAUSE_S)

    async def _member(self, member: InstanceView, seq: int, digest: str) -> Checked:
        """Ask one instance until it has come to that place of the log."""
        while True:
            told = await self._probe(member)
            found = judge(member, told, seq, digest)
            if found is not None:
                return found
            if self._left_s() <= _PAUSE_S:
                return Checked(member.id, Verdict.NO_ANSWER)
            await asyncio.sleep(_PAUSE_S)

    async def _probe(self, member: InstanceView) -> Plain | None:
        subject = self._subjects.probe(member.service, member.group, member.id)
        async with self._free:
            try:
                return await ask(self._connection, subject, {}, max(_PAUSE_S, min(_TRY_S, self._left_s())))
            except AegisError:
                return None


def judge(member: InstanceView, told: Plain | None, seq: int, digest: str) -> Checked | None:
    """Judge a member by its answer to a probe; ``None`` if that says nothing yet."""
    if told is None:
        return None
    if told.get("incarnation") != member.incarnation:
        return Checked(member.id, Verdict.RESTARTED)
    digests = told.get("state_digests")
    shown = digests.get(str(seq)) if isinstance(digests, dict) else None
    own = shown.get("own") if isinstance(shown, dict) else None
    if not isinstance(own, str):
        return None
    return Checked(member.id, Verdict.AGREES if own == digest else Verdict.DIFFERS, own)


# -- what is shown --------------------------------------------------------------------------------------

_STYLE: Final = {Verdict.AGREES: "green"}
_SAYS: Final = {
    Verdict.RESTARTED: "began anew meanwhile, as one does whose state differs; verify again",
    Verdict.NO_ANSWER: "no answer",
}


def _show(args: Namespace, found: Iterable[GroupCheck]) -> None:
    groups = list(found)
    bad = _summary(args.service, groups)
    if args.json:
        plain: dict[str, Any] = {"ok": bad is None, "service": args.service}
        plain["groups"] = [asdict(group) | {"ok": group.is_sound} for group in groups]
        print_json(plain | ({"error": bad.to_plain()} if bad is not None else {}))
    else:
        print(_text(args.service, groups))
    if bad is not None:
        say(f"error: {bad.message}")


class NotTheSame(AegisError):
    """Not all instances are known to agree. Fields: ``differing``, ``unanswered``, ``groups``."""

    code = "state_not_verified"


class StateDiffers(NotTheSame):
    """The state of an instance differs from its holder's. Fields as above."""

    code = "state_differs"


def _summary(service: str, groups: list[GroupCheck]) -> NotTheSame | None:
    """Say what is wrong, if anything is."""
    if all(group.is_sound for group in groups):
        return None
    named = [(f"{group.group}/{m.instance}", m.verdict) for group in groups for m in group.members]
    differing = [name for name, verdict in named if verdict is Verdict.DIFFERS]
    unanswered = [name for name, verdict in named if verdict in (Verdict.NO_ANSWER, Verdict.RESTARTED)]
    troubled = [group.group for group in groups if group.trouble]
    parts = []
    if differing:
        parts.append(f"{shorten(differing)} differ from the holder, and build their state again")
    if unanswered:
        parts.append(f"{shorten(unanswered)} did not say")
    parts += [f"{group.group}: {group.trouble}" for group in groups if group.trouble]
    cls = StateDiffers if differing else NotTheSame
    return cls(
        f"cannot say that all instances of {service} have the same state: {'; '.join(parts)}; verify again, "
        "aegis status shows who is there",
        differing=differing,
        unanswered=unanswered,
        groups=troubled,
    )


def _text(service: str, groups: list[GroupCheck]) -> str:
    paint = Paint()
    lines = []
    for group in groups:
        if group.trouble:
            lines.append(f"{service}/{group.group}: {paint('red', group.trouble)}")
            continue
        agree = sum(1 for member in group.members if member.verdict is Verdict.AGREES)
        count = f"{agree} of {len(group.members)} instances agree"
        lines.append(f"{service}/{group.group}: {count} at sequence {group.seq}")
        rows = [_row(group, member) for member in group.members]
        lines.append(table(("INSTANCE", "ROLE", "DIGEST", "VERDICT"), rows, paint))
    return "\n".join(lines)


def _row(group: GroupCheck, member: Checked) -> list[object]:
    role = "holder" if member.instance == group.holder else "standby"
    said = _SAYS.get(member.verdict, str(member.verdict))
    digest = member.digest[:_DIGITS] if member.digest else None
    return [member.instance, role, digest, Cell(said, _STYLE.get(member.verdict, "red"))]
