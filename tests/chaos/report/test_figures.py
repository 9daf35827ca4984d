"""The figures behind the report, on histories that can be checked by hand."""

from __future__ import annotations

from aegisipc.chaos.history import Deed, Evidence, Fault, Operation, Stage
from aegisipc.chaos.report.figures import figures_of, is_endless
from aegisipc.chaos.report.markup import Markup, join, tag, text
from aegisipc.chaos.report.model import RoleSpan, ScenarioRun
from aegisipc.chaos.report.scale import COLUMNS, WIDTH, scale_of
from aegisipc.chaos.report.wording import MINUS, lasting, listed, moment, shortened

S = 1_000_000_000


def call(number: int, asked_s: float, told_s: float | None = None, **told: object) -> list[Operation]:
    """Return a call, and what was said of it."""
    resource = str(told.pop("resource", "acc_1"))
    deed = Deed(str(told.pop("deed", "call")))
    made = Operation(number, Stage.INVOKE, deed, "c", int(asked_s * S), "orders.place", resource=resource)
    if told_s is None:
        return [made]
    stage = Stage(str(told.pop("stage", "ok")))
    call_id = told.get("call_id")
    error = told.get("error")
    return [
        made,
        Operation(
            number,
            stage,
            deed,
            "c",
            int(told_s * S),
            "orders.place",
            resource=resource,
            call_id=None if call_id is None else str(call_id),
            error=None if error is None else str(error),
        ),
    ]


def run_of(*calls: list[Operation], faults: tuple[Fault, ...] = (), until_s: float = 16.0) -> ScenarioRun:
    """Return a run that begins at 0 and has columns of a tenth of a second at 16 s."""
    found = sorted((each for one in calls for each in one), key=lambda operation: operation.at_ns)
    evidence = Evidence(found, faults=list(faults), ended_at_ns=int(until_s * S))
    return ScenarioRun("made up", "", 1, until_s, evidence=evidence)


def kill(at_s: float) -> Fault:
    return Fault("kill", "orders-1", int(at_s * S), int(at_s * S))


def test_outcomes_are_counted_by_the_last_word() -> None:
    figures = figures_of(
        run_of(
            call(1, 1, 2),
            call(2, 1, 2, stage="fail", error="call_expired"),
            call(3, 1, 2, stage="info"),
            call(4, 1, 2, stage="fail"),
            call(5, 1),
            call(6, 1, 3, deed="attach", call_id="x"),
        )
    )
    assert figures.outcomes == {"ok": 1, "call_expired": 1, "unknown": 1, "failed": 1, "open": 1}
    assert figures.others == {"attach": 1}
    assert figures.called == 5


def test_quantiles_are_of_what_clients_waited() -> None:
    figures = figures_of(run_of(*(call(n, n / 10, n / 10 + n / 1000) for n in range(1, 101))))
    assert figures.latency_s == {"p50": 0.05, "p90": 0.09, "p99": 0.099, "p99.9": 0.1, "max": 0.1}


def test_waits_are_shown_when_they_begin_and_ends_when_they_are() -> None:
    series = figures_of(run_of(call(1, 1.05, 5.05))).series
    assert series.longest_ns[10] == 4 * S
    assert series.ok[50] == 1
    assert series.awaited[9:12] == [0, 1, 1]
    assert series.awaited[49:52] == [1, 1, 0]


def test_an_unknown_outcome_stays_open_until_somebody_is_told() -> None:
    unknown = call(1, 1, 2, stage="info", call_id="x")
    attached = call(2, 4, 4.05, deed="attach", call_id="x")
    series = figures_of(run_of(unknown, attached)).series
    assert series.undecided[19:22] == [0, 1, 1]
    assert series.undecided[40:42] == [1, 0]
    never = figures_of(run_of(unknown)).series
    assert never.undecided[COLUMNS - 1] == 1


def test_recovery_is_from_the_fault_to_the_first_success_of_a_later_call() -> None:
    calls = [call(1, 1, 1.1), call(2, 4.9, 5.01), call(3, 5.2, 6.5), call(4, 5.3, 5.9)]
    ((_, seconds),) = figures_of(run_of(*calls, faults=(kill(5.0),))).recoveries
    assert seconds == 0.7


def test_a_time_in_which_nobody_waits_is_no_time_without_an_answer() -> None:
    calls = [call(1, 4, 5.5), call(2, 19, 19.25)]
    ((_, seconds),) = figures_of(run_of(*calls, faults=(kill(5.0),))).recoveries
    assert seconds == 0.5
    calls = [call(1, 4, 5.5), call(2, 19, 21)]
    ((_, seconds),) = figures_of(run_of(*calls, faults=(kill(5.0),))).recoveries
    assert seconds == 2.0


def test_recovery_begins_with_the_first_call_if_none_was_open() -> None:
    ((_, seconds),) = figures_of(run_of(call(1, 1, 1.1), call(2, 8, 8.25), faults=(kill(5.0),))).recoveries
    assert seconds == 0.25


def test_the_slowest_resource_counts() -> None:
    calls = [call(1, 5, 5.1), call(2, 5, 7, resource="acc_2")]
    ((_, seconds),) = figures_of(run_of(*calls, faults=(kill(5.0),))).recoveries
    assert seconds == 2.0


def test_a_service_that_refuses_is_there_again_and_one_that_expires_is_not() -> None:
    for error, expected in (("refused", 1.0), ("call_expired", float("inf"))):
        calls = [call(1, 1, 1.1), call(2, 6, 7, stage="fail", error=error)]
        ((_, seconds),) = figures_of(run_of(*calls, faults=(kill(5.0),))).recoveries
        assert seconds == expected


def test_a_fault_after_which_nothing_succeeds_is_said_to_be_endless() -> None:
    calls = [call(1, 1, 1.1), call(2, 6, 7, stage="info", error="call_timeout")]
    run = run_of(*calls, faults=(kill(5.0), kill(15.0)))
    (_, first), (_, second) = figures_of(run).recoveries
    assert is_endless(first)
    assert second is None


def test_a_promotion_is_the_first_span_of_an_epoch() -> None:
    run = run_of(call(1, 1, 2))
    run.roles = [
        RoleSpan("b", "active", 5 * S, 9 * S, 2),
        RoleSpan("a", "active", 0, 5 * S, 1),
        RoleSpan("b", "active", 10 * S, 12 * S, 2),
        RoleSpan("a", "standby", 6 * S, 12 * S),
    ]
    assert [(span.node, span.epoch) for span in figures_of(run).promotions] == [("a", 1), ("b", 2)]


def test_the_axis_begins_with_the_run_and_has_round_ticks() -> None:
    scale = scale_of(run_of(call(1, 1, 2), until_s=60.0))
    assert (scale.x(0), scale.x(60 * S), scale.x(-S), scale.x(99 * S)) == (0, WIDTH, 0, WIDTH)
    assert list(scale.ticks()) == [5.0 * n for n in range(13)]


def test_evidence_far_from_zero_without_a_beginning_begins_with_its_first_time() -> None:
    run = run_of(call(1, 1_790_000_000, 1_790_000_010), until_s=1_790_000_010)
    assert scale_of(run).seconds(1_790_000_010 * S) == 10


def test_an_axis_of_days_has_few_ticks() -> None:
    scale = scale_of(run_of(call(1, 1, 2), until_s=7 * 86400.0))
    assert 3 <= len(list(scale.ticks())) <= 14


def test_markup_escapes_everything_else() -> None:
    assert tag("p", "<b>", Markup("<i/>"), None, 3, ["&", ("'",)], class_='"', data_x=None) == (
        '<p class="&quot;">&lt;b&gt;<i/>3&amp;&#x27;</p>'
    )
    assert text("a\x07\u2066\uffff\n") == "a\\x07\\u2066\\uffff\n"
    assert join("<", tag("br")) == "&lt;<br/>"
    assert tag("rect", x=1.04, width=2.5) == '<rect x="1" width="2.5"/>'


def test_durations_and_lists_in_words() -> None:
    told = [lasting(s) for s in (0, 4e-7, 0.00025, 0.0123, 0.9999, 1.5, 61, 125, 7300)]
    assert told == [
        "0 s",
        "0 µs",
        "250 µs",
        "12.3 ms",
        "1.00 s",
        "1.50 s",
        "61.0 s",
        "2 min 05 s",
        "2 h 01 min",
    ]
    assert (moment(1.5), moment(-1234.5)) == ("+1.500 s", f"{MINUS}1,234.500 s")
    assert [listed(names) for names in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]
    assert shortened("abcdef", 3) == "abc… (3 more characters)"
