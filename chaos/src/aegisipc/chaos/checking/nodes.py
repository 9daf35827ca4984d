"""Processes: what they refused, whether they came back, what they hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from aegisipc.chaos.checking.case import ASKING, Case, Look
from aegisipc.chaos.checking.outcomes import numbers_of
from aegisipc.chaos.history import Sample
from aegisipc.chaos.log_facts import CallFact
from aegisipc.chaos.verdicts import Verdict
from aegisipc.eventstore.frames import FINAL, Mark

_S = 1_000_000_000


def states_agree(case: Case) -> Verdict:
    """G8. Of each node, the digest of its live state is that of the state replayed from the first record, and
    that of the newest snapshot with what followed, at the same position. Each snapshot in the log holds what
    the log up to there gives, and gives when it is loaded, and with what follows, what the whole log gives.
    """
    look = Look(case, "G8", "Live state, replayed state, and snapshot with tail are the same.")
    for probe in case.evidence.probes:
        if len(probe.digests) < 2:
            continue
        look.looked_at += len(probe.digests)
        if len(set(probe.digests.values())) > 1:
            said = ", ".join(f"{name} {digest}" for name, digest in sorted(probe.digests.items()))
            look.found(f"{probe.role} {probe.node} has different states: {said}")
    for fact in case.facts.snapshots_compared():
        look.looked_at += 1
        if fact.digest != fact.folded:
            look.found(
                f"the snapshot at {fact.seq} of all up to {fact.covers} {fact.does} {fact.digest:.12}, and "
                f"the log folded from its beginning {fact.folded:.12}",
                seqs=(fact.seq, fact.covers),
            )
    return look.verdict()


def rejected_changes_nothing(case: Case) -> Verdict:
    """G9. What a client was told was not accepted is not in the log and has no effect. Tables and queues stay
    within their limits (a table ``calls/1000`` holds 1000 at most).
    """
    look = Look(case, "G9", "Rejected input changes nothing; tables and queues are bounded.")
    began = {begins[0].number: call_id for call_id, begins in case.begins.items()}
    for number, asked in case.asked.items():
        if not asked.is_refused or asked.invoke.deed not in ASKING:
            continue
        look.looked_at += 1
        answer = asked.answer or asked.invoke
        call = _refused_call(case, number, asked.invoke.key, answer.call_id)
        call_id = call.call_id if call is not None else None
        if call is None and asked.invoke.key is None and number in began:
            call_id = began[number]
        if call_id is None or case.named.get(call_id, number) != number:
            continue
        where = f"stands in the log at {call.seq}" if call is not None else "had an effect"
        look.found(
            f"{answer.client} was told {answer.error} of operation {number}, and its call {call_id} {where}",
            calls=(call_id,),
            numbers=(number,),
            seqs=(call.seq,) if call is not None else (),
        )
    _check_tables(case, look)
    return look.verdict()


def _refused_call(case: Case, number: int, key: str | None, call_id: str | None) -> CallFact | None:
    if call_id is not None:
        return case.facts.calls.get(call_id)
    # With a key, another operation may have asked for the same thing.
    found = case.facts.by_number.get(number, ()) if key is None else ()
    return found[0] if found else None


def _check_tables(case: Case, look: Look) -> None:
    worst: dict[tuple[str, str], tuple[int, int]] = {}
    for sample in case.evidence.samples:
        for name, size in sample.tables.items():
            _, has_limit, limit = name.rpartition("/")
            if not has_limit or not limit.isdigit():
                continue
            look.looked_at += 1
            if size > max(int(limit), worst.get((sample.process, name), (0, 0))[0]):
                worst[sample.process, name] = size, sample.at_ns
    for (process, name), (size, at_ns) in worst.items():
        look.found(f"{process} held {size} in {name} at {at_ns}")


def recovered(case: Case) -> Verdict:
    """After everything was healed, every node serves, and every call has its outcome, within a bound. (By the
    clock of the log only where it is known how that compares with the clock of the run.)
    """
    look = Look(case, "recovery", "After heal everything concludes within a bound, and every node serves.")
    bound_s = case.bounds.recovery_s
    for probe in case.evidence.probes:
        look.looked_at += 1
        if not probe.serves:
            look.found(
                f"{probe.role} {probe.node} does not serve{f': {probe.detail}' if probe.detail else ''}"
            )
        elif probe.after_s > bound_s:
            look.found(
                f"{probe.role} {probe.node} served only after {probe.after_s:.1f} s, not {bound_s:g} s"
            )
    healed = case.evidence.healed_at_ns
    for call in case.facts.calls.values():
        due_from = case.evidence_time(call.at_ns)
        if due_from is None:
            break
        if case.evidence.ended_at_ns and due_from > case.evidence.ended_at_ns:
            continue
        look.looked_at += 1
        closed = next((w for w in call.words if w.mark in FINAL or w.mark in _SETTLED), None)
        if closed is None:
            continue  # G2
        at_ns = case.evidence_time(closed.at_ns) or 0
        # What was to wait for its next attempt, or for its deadline, may take as long as that.
        waited = max(healed, due_from, case.evidence_time(call.deadline_ns) or 0)
        if at_ns - waited > bound_s * _S:
            look.found(
                f"call {call.call_id} had its outcome {(at_ns - waited) / _S:.1f} s after healing and its "
                f"deadline, not {bound_s:g} s",
                calls=(call.call_id,),
                numbers=numbers_of(call),
                seqs=(call.seq, closed.seq),
            )
    return look.verdict()


_SETTLED = frozenset({Mark.IN_DOUBT, Mark.DEAD_LETTERED})


def nothing_leaked(case: Case) -> Verdict:
    """At the end no process, consumer, connection or file was left."""
    look = Look(case, "leaks", "Nothing is left over: no process, consumer, connection or file.")
    look.looked_at = len({sample.process for sample in case.evidence.samples}) + len(case.evidence.probes) + 1
    _tell(look, case.evidence.leaks)
    return look.verdict()


def nothing_unhandled(case: Case) -> Verdict:
    """No exception went unhandled, and no process ended by itself."""
    look = Look(case, "unhandled", "No exception goes unhandled, and no process ends by itself.")
    look.looked_at = len({sample.process for sample in case.evidence.samples}) + len(case.evidence.probes) + 1
    _tell(look, case.evidence.unhandled)
    return look.verdict()


def _tell(look: Look, texts: Iterable[str]) -> None:
    for text in texts:
        look.found(text)


def memory_is_flat(case: Case) -> Verdict:
    """The memory of each process does not rise: the slope of a line through its samples (least squares,
    without the time in which it warms up) is below a bound. Only processes with enough samples are judged.
    """
    look = Look(case, "memory", "The memory of each process is flat.")
    bounds = case.bounds
    samples: dict[str, list[Sample]] = {}
    for sample in case.evidence.samples:
        if sample.rss_bytes:
            samples.setdefault(sample.process, []).append(sample)
    for process, taken in samples.items():
        warm_from = taken[0].at_ns + (taken[-1].at_ns - taken[0].at_ns) * bounds.memory_warm_up
        warm = [sample for sample in taken if sample.at_ns >= warm_from]
        span_s = (warm[-1].at_ns - warm[0].at_ns) / _S
        if len(warm) < bounds.memory_samples or span_s < bounds.memory_span_s:
            continue
        look.looked_at += len(warm)
        slope = slope_of([((s.at_ns - warm[0].at_ns) / _S, float(s.rss_bytes)) for s in warm])
        if slope > bounds.memory_slope and slope * span_s > bounds.memory_growth:
            look.found(
                f"{process} grew by {slope / 1024:.0f} KiB/s over {span_s:.0f} s, from "
                f"{warm[0].rss_bytes >> 20} to {warm[-1].rss_bytes >> 20} MiB"
            )
    return look.verdict()


def slope_of(points: Sequence[tuple[float, float]]) -> float:
    """Return the slope of the line through points by least squares; 0 if they are all at one place."""
    n = len(points)
    mean_x, mean_y = sum(x for x, _ in points) / n, sum(y for _, y in points) / n
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0
