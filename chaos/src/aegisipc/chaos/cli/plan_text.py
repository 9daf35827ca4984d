"""A plan, and what came of it, for people."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from aegisipc.chaos.sim.plan import Break, CallPlan, FaultPlan, GroupPlan, OrderPlan, Plan
from aegisipc.chaos.sim.running import Brief
from aegisipc.chaos.sim.workers import Summary
from aegisipc.chaos.verdicts import Finding, Judgement
from aegisipc.eventstore.cli.output import Cell, Paint, printable, table

_SHOWN: Final = 10
"""So many findings of one invariant are shown, and so many failures."""


def plan_text(plan: Plan, paint: Paint) -> str:
    """Tell who is there, and what happens when."""
    lines = [paint("bold", f"plan of seed {plan.seed}"), *(f"  {line}" for line in _cast(plan)), ""]
    items = [
        *((call.at_s, 2, _call(call)) for call in plan.calls),
        *((fault.at_s, 0, _fault(fault)) for fault in plan.faults),
        *((order.at_s, 1, _order(order)) for order in plan.orders),
    ]
    rows = [[f"{at_s:.3f}", *cells] for at_s, _, cells in sorted(items, key=lambda item: item[:2])]
    rows.append([f"{plan.until_s:.3f}", Cell("heal", "green"), "everything is healed, and has to conclude"])
    return "\n".join([*lines, table(["seconds", "what", "which"], rows, paint)])


def _cast(plan: Plan) -> Iterable[str]:
    for group in plan.groups:
        yield f"group {group.name}: {_members(group)} for {', '.join(group.resources)}"
    if plan.workers:
        yield f"pool desk: {', '.join(f'w-{n + 1}' for n in range(plan.workers))}"
    yield from _started(plan)
    yield f"routers: {', '.join(f'r-{n + 1}' for n in range(plan.routers))}"
    yield f"clients: {', '.join(f'c-{n + 1}' for n in range(plan.clients))}"
    stores = "one server" if plan.replicas == 1 else f"{plan.replicas} replicas"
    yield f"server: {stores}, {'synced to disk' if plan.syncs else 'synced now and then'}"
    snapshots = (
        f"a snapshot every {plan.snapshot_entries} records" if plan.snapshot_entries else "no snapshots"
    )
    yield f"heartbeats every {plan.pulse_ms} ms, suspected after {plan.suspect_after_ms} ms, {snapshots}"


def _started(plan: Plan) -> Iterable[str]:
    if plan.quarantined:
        yield f"in quarantine at first: {', '.join(plan.quarantined)}"


def _members(group: GroupPlan) -> str:
    return ", ".join(f"{group.name}-{n + 1}" for n in range(group.instances))


def _call(call: CallPlan) -> tuple[str, str]:
    said = [f"{call.client}: {call.service}.{call.method}({call.argument})", f"timeout {call.timeout_s:g} s"]
    if call.resource is not None:
        said[0] += f" for {call.resource}"
    if call.key is not None:
        said.append(f"key {call.key}")
    if call.priority != "normal":
        said.append(f"{call.priority} priority")
    if call.work_s:
        said.append(f"takes {call.work_s:g} s")
    if call.failures:
        said.append("is refused" if call.failures < 0 else f"fails {call.failures} times")
    if call.is_submitted:
        said.append("submitted, then awaited")
    if call.cancel_after_s is not None:
        said.append(f"cancelled after {call.cancel_after_s:g} s")
    return f"call {call.number}", printable(", ".join(said))


def _fault(fault: FaultPlan) -> tuple[Cell, str]:
    amount = _AMOUNTS.get(fault.kind)
    more = f", {amount.format(fault.amount)}" if amount else ""
    return Cell("fault", "red"), printable(f"{fault.kind} of {fault.victim} for {fault.for_s:g} s{more}")


_AMOUNTS: Final = {
    Break.CRASH: "after {:.0f} steps",
    Break.DELAY: "{:g} s each way",
    Break.SKEW: "by {:+g} s",
    Break.ACKS_LOST: "{:.0%} of them",
    Break.SLOW_DISK: "{:g} s each write",
}


def _order(order: OrderPlan) -> tuple[Cell, str]:
    to = f" to {order.instance}" if order.instance else ""
    return Cell("order", "yellow"), printable(f"{order.verb} {order.service}/{order.group}{to}")


def judgement_text(judgement: Judgement, paint: Paint) -> str:
    """Tell what holds, and what does not and why."""
    rows = [
        [
            Cell("holds", "green") if verdict.holds else Cell("BROKEN", "red"),
            verdict.name,
            str(verdict.looked_at),
            printable(verdict.promise),
        ]
        for verdict in judgement.verdicts
    ]
    lines = [table(["verdict", "invariant", "looked at", "promise"], rows, paint)]
    for verdict in judgement.verdicts:
        lines += [f"\n{paint('red', verdict.name)}"] if verdict.findings else []
        lines += [f"  {_finding(finding)}" for finding in verdict.findings[:_SHOWN]]
        if len(verdict.findings) > _SHOWN:
            lines.append(f"  {len(verdict.findings) - _SHOWN} more (--json lists them)")
    return "\n".join(lines)


def _finding(finding: Finding) -> str:
    more = [f"calls {', '.join(finding.call_ids)}"] if finding.call_ids else []
    if finding.seqs:
        more.append(f"sequences {', '.join(map(str, finding.seqs))}")
    return printable(finding.text + (f" ({'; '.join(more)})" if more else ""))


def summary_text(summary: Summary, paint: Paint) -> str:
    """Tell what came of many seeds."""
    last = summary.first_seed + summary.schedules - 1
    lines = [_failure(failure, paint) for failure in summary.failures[:_SHOWN]]
    if len(summary.failures) > _SHOWN:
        lines.append(f"{len(summary.failures) - _SHOWN} more that broke something (--json lists them)")
    broken = len(summary.failures)
    verdict = paint("red", f"{broken} broke something") if broken else paint("green", "every promise held")
    lines.append(
        f"{summary.schedules:,} schedules (seeds {summary.first_seed} to {last}) of "
        f"{summary.events:,} events in {summary.seconds:.1f} s, {summary.per_minute:,} a minute: {verdict}"
    )
    lines.append(f"trace {summary.trace}")
    if broken:
        lines.append(f"look into it: aegis chaos sim --seed {summary.failures[0].seed} --keep DIR")
    return "\n".join(lines)


def _failure(failure: Brief, paint: Paint) -> str:
    head = paint("red", f"seed {failure.seed}: {', '.join(failure.broken)}")
    return "\n".join(
        [head, *(f"  {printable(f'{each.invariant}: {each.text}')}" for each in failure.findings)]
    )
