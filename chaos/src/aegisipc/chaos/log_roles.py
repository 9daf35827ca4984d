"""What instances and routers were, and when, as the log tells it."""

from __future__ import annotations

from typing import Any, Final

from aegisipc.chaos.history import Evidence
from aegisipc.chaos.log_shapes import ELECTED, PROMOTED, VACATED, Group, LogEvent, LogFacts
from aegisipc.chaos.report.model import RoleSpan
from aegisipc.eventstore.names import POOL_GROUP

_OWN_WORDS: Final = {
    "instance.registered.v1": "joining",
    "instance.ready.v1": "standby",
    "instance.draining.v1": "draining",
    "instance.left.v1": "",
}
_WORDS_ABOUT: Final = {
    "instance.refused.v1": "",
    "instance.suspected.v1": "suspected",
    "instance.lost.v1": "lost",
    "instance.recovered.v1": "standby",
}


def role_spans(facts: LogFacts, evidence: Evidence, *, clock_offset_ns: int = 0) -> list[RoleSpan]:
    """Return what each instance and router was for how long, in the order of their beginnings, on the clock
    of the evidence. `clock_offset_ns` is the server's time less that of the evidence.
    """
    teller = _Teller(clock_offset_ns)
    for event in facts.events:
        teller.take(event)
    teller.end(max(evidence.ended_at_ns, facts.last_at_ns - clock_offset_ns))
    return sorted(teller.spans, key=lambda span: (span.at_ns, span.node))


class _Teller:
    def __init__(self, offset_ns: int) -> None:
        self.spans: list[RoleSpan] = []
        self._offset_ns = offset_ns
        self._open: dict[str, tuple[str, int, int]] = {}
        self._holders: dict[Group, tuple[str, int]] = {}
        self._leader: str | None = None

    def take(self, event: LogEvent) -> None:
        at_ns, data = event.at_ns - self._offset_ns, event.data
        group = event.service, event.group
        if event.type in _OWN_WORDS:
            role = _OWN_WORDS[event.type]
            is_worker = event.group == POOL_GROUP and role == "standby"
            self._become(event.by, "active" if is_worker else role, at_ns)
        elif event.type in _WORDS_ABOUT:
            self._said(str(data.get("instance", "")), event, group, at_ns)
        elif event.type == PROMOTED:
            self._promote(group, data, at_ns)
        elif event.type == VACATED:
            self._demote(group, at_ns)
        elif event.type == ELECTED:
            self._lead(str(data.get("router", "")), at_ns)
        elif event.type == "router.resigned.v1":
            self._become(str(data.get("router", "")), "", at_ns)
            self._leader = None

    def end(self, at_ns: int) -> None:
        for node in list(self._open):
            self._become(node, "", at_ns)

    def _become(self, node: str, role: str, at_ns: int, epoch: int = 0) -> None:
        """Close the span of a node, and begin the next one; ``""`` is no role."""
        if node in self._open:
            if self._open[node][::2] == (role, epoch):
                return
            before, since_ns, held = self._open.pop(node)
            self.spans.append(RoleSpan(node, before, since_ns, max(since_ns, at_ns), held))
        if role:
            self._open[node] = role, at_ns, epoch

    def _said(self, instance: str, event: LogEvent, group: Group, at_ns: int) -> None:
        role, epoch = _WORDS_ABOUT[event.type], 0
        if role == "standby":
            holder, held = self._holders.get(group, ("", 0))
            if event.group == POOL_GROUP or holder == instance:
                role, epoch = "active", held
        self._become(instance, role, at_ns, epoch)

    def _promote(self, group: Group, data: dict[str, Any], at_ns: int) -> None:
        holder, epoch = str(data.get("holder", "")), data.get("epoch")
        if self._holders.get(group, ("", 0))[0] != holder:
            self._demote(group, at_ns)
        self._holders[group] = holder, epoch if isinstance(epoch, int) else 0
        self._become(holder, "active", at_ns, self._holders[group][1])

    def _demote(self, group: Group, at_ns: int) -> None:
        holder, _ = self._holders.pop(group, ("", 0))
        if self._open.get(holder, ("",))[0] == "active":
            self._become(holder, "standby", at_ns)

    def _lead(self, router: str, at_ns: int) -> None:
        if self._leader is not None and self._leader != router:
            self._become(self._leader, "following", at_ns)
        self._leader = router
        self._become(router, "leading", at_ns)
