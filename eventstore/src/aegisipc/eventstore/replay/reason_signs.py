"""What a router heard, or did not hear, of an instance that it suspects: the start of a chain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aegisipc.eventstore.replay.reason_reading import Heard
from aegisipc.eventstore.replay.reason_steps import Reason, moment


def tell_signs(
    reason: Reason, instance: str, told: Mapping[str, Any], heard: Heard, decided_ns: int
) -> list[int]:
    """Add what made a router suspect `instance`: `told` is the evidence that it recorded, `heard` what the
    stream of heartbeats still has. Returns the links that a suspicion follows from; none without evidence.
    No sign is later than what was decided on it, also in a log that was imported, and has times of its own.
    """
    source = told.get("source")
    if source is None:
        return []
    last_ns = min(number_in(told, "last_pulse_ns"), decided_ns)
    judged_ns = min(number_in(told, "now_ns") or decided_ns, decided_ns)
    pulse: list[int] = []
    if last_ns:
        still = heard.last is not None and heard.last.at_ns == last_ns
        where = "in the stream of heartbeats" if still else "as the router noted it"
        said = f"the last heartbeat of {instance} that the router had heard ({where})"
        pulse = [reason.add("last_pulse", said, at_ns=last_ns, is_in_stream=still)]
    match source:
        case "disconnect":
            return [_disconnected(reason, instance, told, pulse, judged_ns)]
        case "probe":
            at_ns = min(number_in(told, "probe_failed_ns") or judged_ns, judged_ns)
            said = f"{instance} does not answer probes any more, though it did before"
            return [reason.add("probe_failed", said, at_ns=at_ns, follows=pulse)]
    return [_silence(reason, instance, told, pulse, heard, judged_ns)]


def _disconnected(
    reason: Reason, instance: str, told: Mapping[str, Any], pulse: list[int], judged_ns: int
) -> int:
    why = f": {told['reason']}" if told.get("reason") else ""
    return reason.add(
        "disconnected",
        f"the server says that connection {told.get('client_id')} of {instance} ended{why}",
        at_ns=min(number_in(told, "disconnected_ns") or judged_ns, judged_ns),
        follows=pulse,
        reason=told.get("reason"),
        client_id=told.get("client_id"),
    )


def _silence(
    reason: Reason,
    instance: str,
    told: Mapping[str, Any],
    pulse: list[int],
    heard: Heard,
    judged_ns: int,
) -> int:
    gap_ms, limit_ms = number_in(told, "silence_ms"), number_in(told, "suspect_after_ms")
    limit = f" (suspected after {limit_ms} ms)" if limit_ms else ""
    since = f"no heartbeat of {instance} for {gap_ms} ms" if pulse else f"{instance} was never heard of"
    again = f"; the next one came at {moment(heard.again.at_ns)}" if heard.again is not None else ""
    return reason.add(
        "silence",
        f"{since}{limit}{again}",
        at_ns=judged_ns,
        follows=pulse,
        gap_ms=gap_ms,
        limit_ms=limit_ms or None,
        next_pulse_ns=heard.again.at_ns if heard.again is not None else None,
    )


def number_in(told: Mapping[str, Any], key: str) -> int:
    """Return a number that evidence tells; 0 if it does not."""
    value = told.get(key)
    return value if isinstance(value, int) else 0
