"""When handlers began: not after a deadline, not while a group is paused, not once all is said."""

from __future__ import annotations

from collections.abc import Iterator

from aegisipc.chaos.checking.case import Case, Look
from aegisipc.chaos.checking.outcomes import found_about
from aegisipc.chaos.history import Effect
from aegisipc.chaos.log_facts import PAUSED, RESUMED, CallFact, Group

FREEZE = "freeze"
_S = 1_000_000_000


def begun_calls(case: Case) -> Iterator[tuple[CallFact, Effect, int]]:
    """Iterate over all starts of calls that the log has, with the server's time of each; over none, if the
    clocks cannot be compared.
    """
    if case.bounds.clock_offset_ns is None:
        return
    for call_id, begins in case.begins.items():
        call = case.facts.calls.get(call_id)
        if call is None:
            continue
        for begun in begins:
            yield call, begun, case.server_time(begun.at_ns) or 0


def check_deadlines(case: Case, look: Look) -> None:
    """G7, by the clock. The last look at the deadline and the first step of the handler are two moments: what
    is near counts as in time, and so does a process that was frozen between them. Of a call that was requeued
    the latest deadline counts.
    """
    for call, begun, at_ns in begun_calls(case):
        look.looked_at += 1
        late_ns = at_ns - call.deadline_ns
        if late_ns <= case.slack_ns:
            continue
        deadline_ns = begun.at_ns - late_ns
        if case.is_struck((begun.instance,), deadline_ns, begun.at_ns, FREEZE):
            continue
        found_about(look, call, f"was begun by {begun.instance} {late_ns / _S:.3f} s after its deadline")


def check_pauses(case: Case, look: Look) -> None:
    """Of a group that is paused nothing begins, once its instances know. One about which something was broken
    may hear of it late.
    """
    pauses = _pauses(case)
    if not pauses:
        return
    struck_for_ns = int(case.bounds.recovery_s * _S)
    for call, begun, at_ns in begun_calls(case):
        since_ns = _paused_since(pauses.get(call.place, ()), at_ns)
        if since_ns is None:
            continue
        look.looked_at += 1
        if at_ns - since_ns <= case.slack_ns:
            continue
        from_ns = case.evidence_time(since_ns - struck_for_ns) or 0
        if not case.is_struck((begun.instance, *servers_of(case)), from_ns, begun.at_ns):
            late_s = (at_ns - since_ns) / _S
            found_about(
                look, call, f"was begun by {begun.instance} {late_s:.3f} s after its group was paused"
            )


def servers_of(case: Case) -> list[str]:
    """Return the servers about which something was broken."""
    return [victim for victim in case.struck if victim.startswith("server")]


def _pauses(case: Case) -> dict[Group, list[tuple[int, bool]]]:
    """When each group was paused or resumed, in log order."""
    found: dict[Group, list[tuple[int, bool]]] = {}
    for event in case.facts.of_type(PAUSED, RESUMED):
        found.setdefault((event.service, event.group), []).append((event.at_ns, event.type == PAUSED))
    return found


def _paused_since(pauses: list[tuple[int, bool]] | tuple[()], at_ns: int) -> int | None:
    """Return since when a group was paused at a time, ``None`` if it was not."""
    since_ns: int | None = None
    for said_ns, is_paused in pauses:
        if said_ns > at_ns:
            break
        if not is_paused:
            since_ns = None
        elif since_ns is None:
            since_ns = said_ns
    return since_ns


def check_again(case: Case, look: Look) -> None:
    """Who has written the final outcome of a call does not begin it once more."""
    for call, begun, at_ns in begun_calls(case):
        final = call.final
        if final is None or final.writer != begun.instance:
            continue
        if not call.is_pool and final.epoch != begun.epoch:
            continue
        look.looked_at += 1
        if at_ns > final.at_ns + case.bounds.clock_error_ns:
            found_about(
                look,
                call,
                f"was begun by {begun.instance}, which had said {final.mark.name} of it at {final.seq}",
            )
