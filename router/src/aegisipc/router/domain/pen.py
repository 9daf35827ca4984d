"""Who holds a group's pen: promotion, handover and vacancy.

Safety needs none of this to be right: whoever is promoted, the server refuses the writes of all others. So
a holder is replaced as soon as it is in doubt, if there is one without a doubt to replace it; a wrong guess
costs a change of holder. Without such a standby the holder keeps the pen until it is given up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.lifecycles import InstanceState
from aegisipc.eventstore.pulses import PulseBoard
from aegisipc.eventstore.system import SystemState
from aegisipc.eventstore.topology import GroupView, Handover, InstanceView
from aegisipc.router.domain.health import Trouble, find, is_draining, trouble_of, why_unfit
from aegisipc.router.domain.terms import MAX_TOLD, Policy, RouterIdentity

type Kind = Literal["first", "planned", "failover"]


@dataclass(frozen=True, slots=True)
class Pen:
    """One owned group, and all that its next holder depends on."""

    group: GroupView
    state: SystemState
    board: PulseBoard
    me: RouterIdentity
    policy: Policy

    def decide(self) -> ev.Event | None:
        """What the group's fence has to say now, or ``None``."""
        group = self.group
        holder = self.holder()
        if holder is None:
            return self._replace_gone()
        if group.handover is not None:
            return self._hand_over(holder, group.handover)
        trouble = self.trouble(holder)
        if trouble is not None:
            return self._fail_over(holder, trouble)
        return self._relieve(holder)

    # -- what it looks at -------------------------------------------------------------------------------

    def holder(self) -> InstanceView | None:
        """The instance that holds the pen, if that run of it is live."""
        return find(self.group, self.group.holder, self.group.holder_incarnation)

    def trouble(self, instance: InstanceView) -> Trouble | None:
        """Why `instance` is in doubt, or ``None``."""
        return trouble_of(self.state, self.board, instance, self.policy)

    @property
    def has_yielded(self) -> bool:
        """Whether the holder said that it is done with its epoch."""
        return 0 < self.group.epoch == self.group.yielded_epoch

    def holder_finished(self) -> bool:
        """Whether the last holder, who is not there any more, had finished what it ran."""
        return self._vacancy()[1]

    def heir(self, *, sound: bool = True) -> InstanceView | None:
        """First come, first served, those in quarantine last. Those in doubt come after all others, or with
        `sound` not at all.
        """
        ranked = [
            (self.trouble(i) is not None, i.quarantined, i.registered_seq, i)
            for i in self.group.ready()
            if i.is_eligible
        ]
        best = min(ranked, key=lambda entry: entry[:3], default=None)
        return None if best is None or (sound and best[0]) else best[3]

    def named(self) -> InstanceView | None:
        """The instance that the running handover is to, if it can take over."""
        handover = self.group.handover
        to = find(self.group, handover.to, handover.to_incarnation) if handover is not None else None
        return to if to is not None and why_unfit(self.state, self.board, to, self.policy) is None else None

    # -- the rules --------------------------------------------------------------------------------------

    def _replace_gone(self) -> ev.Event | None:
        """Nobody holds the pen, or who holds it is not there any more."""
        cause, finished = self._vacancy()
        named = self.named()
        heir = named or self.heir(sound=False)
        if heir is not None:
            kind: Kind = "first" if self.group.epoch == 0 else "planned" if finished else "failover"
            return self.promote(heir, kind, cause, author=self._author() if named is not None else "")
        return self._vacate(cause, finished=finished) if self.group.holder is not None else None

    def _vacancy(self) -> tuple[str, bool]:
        """Why there is no holder, and whether the last one had finished."""
        group = self.group
        if group.holder is None:
            if group.epoch == 0:
                return "first instance of the group", True
            return f"vacant: {group.cause}", self.state.was_finished(group.service, group.name)
        holder = group.instances.get(group.holder)
        if holder is None:
            return f"holder {group.holder!r} is unknown", self.has_yielded
        if holder.incarnation != group.holder_incarnation:
            return f"holder {group.holder!r} was restarted", self.has_yielded
        if holder.state is not InstanceState.LEFT:
            return f"holder {group.holder!r} was lost", self.has_yielded
        unfinished = "" if holder.has_finished else " before it had finished what it ran"
        return f"holder {group.holder!r} left{unfinished}", holder.has_finished or self.has_yielded

    def _hand_over(self, holder: InstanceView, handover: Handover) -> ev.Event | None:
        to = self.named()
        trouble = self.trouble(holder)
        if to is None:
            return self._without_successor(holder, handover, trouble)
        if self.has_yielded:
            return self.promote(to, "planned", handover.cause, author=handover.author)
        if trouble is not None:
            return self._fail_over(holder, trouble, to)
        if not handover.author and holder.unhealthy is None:  # it was for the holder's health alone
            return self._cancel(f"holder {holder.id!r} is healthy again")
        if self._since_ms(handover.since_ns) >= self.policy.handover_ms:
            return self._overrule(holder, to, handover.cause, handover.author)
        return None

    def _without_successor(
        self, holder: InstanceView, handover: Handover, trouble: Trouble | None
    ) -> ev.Event | None:
        """Called off, unless another one can replace a holder in doubt. It is even if that holder is the only
        one left: it may live, and waits for this. Only if both are in doubt, they are given time.
        """
        failover = self._fail_over(holder, trouble) if trouble is not None else None
        if failover is not None:
            return failover
        to = self.group.instances.get(handover.to)
        if to is None or to.incarnation != handover.to_incarnation:
            return self._cancel(f"{handover.to!r} cannot take over: that run of it is over")
        is_early = self._since_ms(handover.since_ns) < self.policy.handover_ms
        if trouble is not None and to.is_eligible and is_early:
            return None
        why = why_unfit(self.state, self.board, to, self.policy) or "it can not"
        return self._cancel(f"{handover.to!r} cannot take over: {why}")

    def _fail_over(
        self, holder: InstanceView, trouble: Trouble, heir: InstanceView | None = None
    ) -> ev.Event | None:
        """Replace a holder in doubt by one without; if there is none, it may still come back.

        Not by one in quarantine: that would run nothing, and the doubt may be wrong.
        """
        heir = heir or self.heir()
        if heir is None or (heir.quarantined and heir is not self.named() and not holder.quarantined):
            return None
        kind: Kind = "planned" if self.has_yielded else "failover"
        author = self._author() if heir is self.named() else ""
        return self.promote(
            heir, kind, f"holder {holder.id!r} is suspected: {trouble.cause}", author=author, trouble=trouble
        )

    def _relieve(self, holder: InstanceView) -> ev.Event | None:
        """The holder is there, but does not want the pen, or should not have it any longer."""
        if holder.unhealthy is not None:
            return self._relieve_unhealthy(holder, f"holder {holder.id!r} is unhealthy: {holder.unhealthy}")
        if is_draining(holder) and self._since_ms(holder.since_ns) >= self.policy.handover_ms:
            heir = self.heir()
            return self._overrule(holder, heir, f"holder {holder.id!r} is draining") if heir else None
        return None

    def _relieve_unhealthy(self, holder: InstanceView, cause: str) -> ev.Event | None:
        heir = self.heir()
        if self.has_yielded:
            return (
                self.promote(heir, "planned", cause)
                if heir is not None
                else self._vacate(cause, finished=True)
            )
        return self.start_handover(holder, heir, cause) if heir is not None else None

    def _overrule(self, holder: InstanceView, heir: InstanceView, cause: str, author: str = "") -> ev.Event:
        late = f"{holder.id!r} did not finish within {self.policy.handover_ms / 1000:g} s"
        return self.promote(heir, "failover", f"{cause}; {late}", author=author)

    # -- the events -------------------------------------------------------------------------------------

    def promote(
        self, heir: InstanceView, kind: Kind, cause: str, *, author: str = "", trouble: Trouble | None = None
    ) -> ev.GroupPromoted:
        """Give `heir` the pen, with a new epoch."""
        return ev.GroupPromoted(
            epoch=self.group.epoch + 1,
            holder=heir.id,
            incarnation=heir.incarnation,
            kind=kind,
            cause=cause,
            author=author,
            evidence=self._evidence(trouble),
            decided_by=self.me.id,
        )

    def start_handover(
        self, holder: InstanceView, to: InstanceView, cause: str, author: str = ""
    ) -> ev.GroupHandoverStarted:
        """Ask `holder` to finish, so that `to` can be promoted."""
        return ev.GroupHandoverStarted(
            epoch=self.group.epoch,
            holder=holder.id,
            to=to.id,
            to_incarnation=to.incarnation,
            cause=cause,
            author=author,
            evidence=self._evidence(),
            decided_by=self.me.id,
        )

    def _cancel(self, cause: str) -> ev.GroupHandoverCancelled:
        return ev.GroupHandoverCancelled(epoch=self.group.epoch, cause=cause, decided_by=self.me.id)

    def _vacate(self, cause: str, *, finished: bool) -> ev.GroupVacated:
        evidence = {**self._evidence(), "finished": finished}
        return ev.GroupVacated(epoch=self.group.epoch, cause=cause, evidence=evidence, decided_by=self.me.id)

    def _author(self) -> str:
        return self.group.handover.author if self.group.handover is not None else ""

    def _since_ms(self, since_ns: int) -> int:
        return (self.board.now_ns - since_ns) // 1_000_000

    def _evidence(self, trouble: Trouble | None = None) -> dict[str, Any]:
        group = self.group
        holder = group.instances.get(group.holder or "")
        ready = [instance.id for instance in group.ready()]
        counts = self.state.counts(group.service, group.name)
        evidence: dict[str, Any] = {
            "former_holder": group.holder,
            "former_epoch": group.epoch,
            "former_state": str(holder.state) if holder else None,
            "ready": ready[:MAX_TOLD],
            "open": counts.open,
            "claimed": counts.claimed,
            "doubts": counts.doubts,
        }
        if len(ready) > MAX_TOLD:
            evidence["more_ready"] = len(ready) - MAX_TOLD
        if trouble is not None:
            evidence |= {
                "source": trouble.source,
                "last_pulse_ns": trouble.last_pulse_ns,
                "silence_ms": trouble.silence_ms,
                **trouble.evidence,
            }
        return evidence
