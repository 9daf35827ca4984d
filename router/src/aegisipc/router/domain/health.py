"""Who may be dead: what the heartbeats, the server's word about connections, and probes say of an instance.

A suspicion costs little: at worst a standby is promoted without need. A loss costs the instance its place, so
it takes more silence, and always comes after a suspicion.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.lifecycles import SUSPECTED, InstanceState
from aegisipc.eventstore.pulses import InstanceKey, Pulse, PulseBoard
from aegisipc.eventstore.system import SystemState
from aegisipc.eventstore.topology import GroupView, InstanceView
from aegisipc.router.domain.terms import Policy, RouterIdentity, shortened


class Trouble(NamedTuple):
    """Why an instance is in doubt now. ``is_lost`` when that is enough to give it up."""

    source: ev.Source
    cause: str
    silence_ms: int
    last_pulse_ns: int
    is_lost: bool
    evidence: dict[str, Any]


def key_of(instance: InstanceView) -> InstanceKey:
    """Where the board keeps what it heard of `instance`."""
    return (instance.service, instance.group, instance.id)


def trouble_of(
    state: SystemState, board: PulseBoard, instance: InstanceView, policy: Policy
) -> Trouble | None:
    """Judge one live instance by what was heard of it; ``None`` when nothing speaks against it.

    The end of its connection weighs most, then silence, then probes without an answer. Who is suspected stays
    so until there is a newer pulse than the one that was known when the suspicion was written.
    """
    key = key_of(instance)
    pulse = board.instances.get(key)
    heard = pulse if pulse is not None and pulse.incarnation == instance.incarnation else None
    silence_ms = _silence_ms(board, instance, heard)
    last_pulse_ns = heard.at_ns if heard is not None else 0
    given_up = silence_ms > policy.lost_after_ms and (
        heard is not None or _known_ms(board, instance) > policy.lost_after_ms - policy.suspect_after_ms
    )

    def trouble(source: ev.Source, cause: str, evidence: dict[str, Any], *, lost: bool = False) -> Trouble:
        shown = {"now_ns": board.now_ns, **evidence}
        return Trouble(source, cause, silence_ms, last_pulse_ns, given_up or lost, shown)

    if (ended := board.disconnected(key, instance.incarnation)) is not None:
        ago_ms = max(0, board.now_ns - ended.at_ns) // 1_000_000
        cause = f"its connection ended: {shortened(ended.reason)}" if ended.reason else "its connection ended"
        evidence = {
            "disconnected_ns": ended.at_ns,
            "reason": shortened(ended.reason),
            "client_id": ended.client_id,
        }
        return trouble("disconnect", cause, evidence, lost=ago_ms >= policy.disconnect_lost_after_ms)
    if silence_ms > policy.suspect_after_ms:
        cause = f"silent for {silence_ms} ms" if heard else f"never heard of in {silence_ms} ms"
        return trouble("silence", cause, {"suspect_after_ms": policy.suspect_after_ms})
    if (probe := board.probe_failed(key, instance.incarnation)) is not None:
        return trouble("probe", shortened(probe.cause), {"probe_failed_ns": probe.at_ns})
    if instance.state in SUSPECTED and last_pulse_ns <= state.pulse_at_suspicion_ns(instance):
        return trouble("silence", "no pulse since it was suspected", {})
    return None


def _silence_ms(board: PulseBoard, instance: InstanceView, heard: Pulse | None) -> int:
    # Who was never heard of is given time from its latest record on; but being suspected is such a record,
    # and no sign of life.
    known_since_ns = 0 if heard is not None or instance.state in SUSPECTED else instance.since_ns
    return board.silence_ms(heard, instance.incarnation, known_since_ns)


def _known_ms(board: PulseBoard, instance: InstanceView) -> int:
    return (board.now_ns - instance.since_ns) // 1_000_000


def judge_health(
    state: SystemState, board: PulseBoard, instance: InstanceView, me: RouterIdentity, policy: Policy
) -> ev.InstanceSuspected | ev.InstanceRecovered | ev.InstanceLost | None:
    """Say what has changed about a live instance: suspected, recovered or lost; ``None`` if nothing has."""
    trouble = trouble_of(state, board, instance, policy)
    about: dict[str, Any] = {
        "instance": instance.id,
        "incarnation": instance.incarnation,
        "decided_by": me.id,
    }
    if trouble is None:
        if instance.state not in SUSPECTED:
            return None
        pulse = board.instances.get(key_of(instance))
        return ev.InstanceRecovered(**about, evidence={"last_pulse_ns": pulse.at_ns if pulse else 0})
    about |= {
        "last_pulse_ns": trouble.last_pulse_ns,
        "silence_ms": trouble.silence_ms,
        "source": trouble.source,
        "cause": trouble.cause,
        "evidence": trouble.evidence,
    }
    if instance.state not in SUSPECTED:
        return ev.InstanceSuspected(**about)
    return ev.InstanceLost(**about) if trouble.is_lost else None


def find(group: GroupView, name: str | None, incarnation: str | None) -> InstanceView | None:
    """Return that very run of an instance if it is live, else ``None``."""
    instance = group.instances.get(name or "")
    if instance is None or instance.incarnation != incarnation or not instance.is_live:
        return None
    return instance


_GONE_WORDS = {
    InstanceState.LEFT: "it left",
    InstanceState.LOST: "it was lost",
    InstanceState.REFUSED: "it was refused",
}
_DRAINING = frozenset({InstanceState.DRAINING, InstanceState.SUSPECTED_DRAINING})


def is_draining(instance: InstanceView) -> bool:
    """It finishes what it runs, and will leave."""
    return instance.state in _DRAINING


def why_gone(instance: InstanceView) -> str | None:
    """In words, why `instance` is not there any more; ``None`` if it is."""
    return _GONE_WORDS.get(instance.state)


def why_unfit(state: SystemState, board: PulseBoard, instance: InstanceView, policy: Policy) -> str | None:
    """In words, why `instance` should not be given the pen now; ``None`` if nothing speaks against it."""
    if (gone := why_gone(instance)) is not None:
        return gone
    for applies, why in (
        (not instance.admitted, "it is not admitted yet"),
        (is_draining(instance), "it is draining"),
        (instance.drain_requested, "it is asked to drain"),
        (not instance.is_ready, "it has not caught up with the log yet"),
        (instance.unhealthy is not None, f"it is unhealthy: {shortened(instance.unhealthy or '')}"),
    ):
        if applies:
            return why
    trouble = trouble_of(state, board, instance, policy)
    return f"it is suspected: {trouble.cause}" if trouble is not None else None
