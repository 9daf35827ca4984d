"""Who may write, and since when: fences and epochs."""

from __future__ import annotations

from aegisipc.chaos.checking.case import Case, Look
from aegisipc.chaos.checking.executions import begun_under_a_promotion
from aegisipc.chaos.log_facts import ELECTED, PROMOTED, Group, LogEvent, Stranger
from aegisipc.chaos.verdicts import Verdict


def one_writer(case: Case) -> Verdict:
    """G4. Between two records on a group's fence, everything that only the holder of the pen may write is of
    the holder that the first one names, of its epoch, and of one session (one run of that instance). No
    handler began under an epoch that its instance never held.
    """
    look = Look(case, "G4", "At most one instance per service, group and epoch can write.")
    look.looked_at += sum(len(events) for events in case.facts.fences.values())
    for stranger in case.facts.strangers:
        look.found(_story_of(stranger), seqs=(stranger.seq,))
    begun_under_a_promotion(case, look)
    return look.verdict()


def _story_of(stranger: Stranger) -> str:
    service, group = stranger.group
    what = f"record {stranger.seq} ({stranger.kind}) in {service}/{group} is by {stranger.writer}"
    what += f" in epoch {stranger.epoch}" if stranger.epoch is not None else ""
    if stranger.holder is None:
        return f"{what}, and nobody held the pen then"
    if (stranger.writer, stranger.epoch) == (stranger.holder, stranger.epoch_held):
        return (
            f"{what}, in session {stranger.session}; session {stranger.session_held} had written in it before"
        )
    return f"{what}, and {stranger.holder} held the pen in epoch {stranger.epoch_held}"


def epochs_rise(case: Case) -> Verdict:
    """Each promotion of a group has a higher epoch than the one before it, unless it says the same again; so
    no epoch has two holders. All else on the fence is of the present epoch. Terms of routers rise, too.
    """
    look = Look(case, "epochs", "Epochs and terms only rise, and each has one holder.")
    for group, events in case.facts.fences.items():
        look.looked_at += len(events)
        _check_group(look, group, events)
    last: LogEvent | None = None
    for event in case.facts.of_type(ELECTED):
        look.looked_at += 1
        if last is not None and _number(event, "term") <= _number(last, "term"):
            look.found(
                f"router {event.data.get('router')} was elected for term {event.data.get('term')} at "
                f"{event.seq}, after {last.data.get('router')} for term {last.data.get('term')} at "
                f"{last.seq}",
                seqs=(last.seq, event.seq),
            )
        last = event
    return look.verdict()


def _check_group(look: Look, group: Group, events: list[LogEvent]) -> None:
    last: LogEvent | None = None
    for event in events:
        epoch, held = _number(event, "epoch"), _number(last, "epoch") if last is not None else 0
        if event.type != PROMOTED:
            if epoch != held and last is not None:
                look.found(
                    f"record {event.seq} ({event.type}) in {'/'.join(group)} is about epoch {epoch}, and it "
                    f"was epoch {held}",
                    seqs=(last.seq, event.seq),
                )
            continue
        if last is not None and (epoch < held or (epoch == held and _holder(event) != _holder(last))):
            look.found(
                f"{event.data.get('holder')} got the pen of {'/'.join(group)} in epoch {epoch} at "
                f"{event.seq}, after {last.data.get('holder')} in epoch {held} at {last.seq}",
                seqs=(last.seq, event.seq),
            )
        last = event


def _holder(event: LogEvent) -> tuple[object, object]:
    return event.data.get("holder"), event.data.get("incarnation")


def _number(event: LogEvent, name: str) -> int:
    value = event.data.get(name)
    return value if isinstance(value, int) else 0
