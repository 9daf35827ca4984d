"""The report as a whole: what is in it, and that it stands whatever it is given."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from aegisipc.chaos.history import Deed, Evidence, Fault, Operation, Probe, Sample, Stage
from aegisipc.chaos.report import ReportUnwritable, RoleSpan, ScenarioRun, write_report
from aegisipc.chaos.report.wording import DASH, MINUS
from aegisipc.chaos.verdicts import Finding, Judgement, Verdict
from tests.chaos.report.made_up import BEGIN, MS, PROMISES, S, green, operations, red, skipped

HOSTILE = "</script><script>alert('x')</script>\x00\u202e\ud800\"&<!--]]>"
EMPTY = ScenarioRun("empty", "Nothing came of it.", 7, 20.0)


class Report:
    """A written report, parsed."""

    def __init__(self, runs: Sequence[ScenarioRun], folder: Path) -> None:
        self.path = write_report(runs, folder, command="aegis chaos run --scenario all --seed 7")
        self.markup = self.path.read_text(encoding="utf-8")
        self.root = ET.fromstring(self.markup)
        self.plain = json.loads((folder / "report.json").read_bytes())

    def all(self, tag: str, look: str = "") -> Iterator[ET.Element]:
        for element in self.root.iter(tag):
            if not look or look in element.get("class", "").split():
                yield element

    def texts(self, tag: str, look: str = "") -> list[str]:
        return ["".join(element.itertext()) for element in self.all(tag, look)]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return Report([green(), red(), skipped(), EMPTY], tmp_path_factory.mktemp("report"))


def test_the_verdict_is_the_first_sentence(mixed: Report) -> None:
    assert mixed.texts("h1") == ["✕1 scenario of 2 broke what is promised: G2 and G3."]
    assert mixed.plain["status"] == "broken"
    assert mixed.plain["totals"]["by_status"] == {"holds": 1, "broken": 1, "skipped": 1, "not judged": 1}


def test_what_was_not_covered_is_said_beside_the_verdict(mixed: Report) -> None:
    (remark,) = mixed.texts("p", "remark")
    assert "1 scenario could not be run here" in remark
    assert "1 scenario ran without a verdict" in remark
    assert "1 verdict had nothing to look at" in remark


def test_nothing_run_and_nothing_judged_are_not_green(tmp_path: Path) -> None:
    assert Report([], tmp_path / "none").texts("h1") == ["?Nothing was run."]
    unjudged = Report([EMPTY, skipped()], tmp_path / "unjudged")
    assert unjudged.plain["status"] == "not judged"


def test_all_green_is_said_with_what_was_looked_at(tmp_path: Path) -> None:
    report = Report([green(number=500)], tmp_path)
    assert report.texts("h1") == [
        "✓Everything that was looked at holds: 6 invariants in 1 scenario, 500 calls."
    ]


def test_command_seed_and_versions_are_at_the_top(mixed: Report) -> None:
    about = dict(zip(mixed.texts("dt"), mixed.texts("dd"), strict=True))
    assert about["command"] == "aegis chaos run --scenario all --seed 7"
    assert about["seed"] == "7"
    assert re.search(r"aegis \d.*Python 3\..*nats-server 2\.15\.1", about["versions"])


def test_every_link_into_the_page_leads_somewhere_and_anchors_are_unique(mixed: Report) -> None:
    anchors = [element.get("id", "") for element in mixed.root.iter() if element.get("id")]
    assert len(anchors) == len(set(anchors))
    links = [element.get("href", "") for element in mixed.all("a")]
    assert {link[1:] for link in links if link.startswith("#")} <= set(anchors)
    assert {link for link in links if not link.startswith("#")} == {
        "./kill-the-active/log.aegis",
        "./partition/log%20of%202%20faults.aegis",
    }


def test_the_matrix_has_a_linked_cell_for_each_verdict(mixed: Report) -> None:
    (table,) = mixed.all("table", "matrix")
    rows = list(table.iter("tr"))[1:]
    cells = [["".join(cell.itertext()) for cell in row.iter("td")] for row in rows]
    assert cells[0][:7] == ["✓", "✓", "✓", "✓", "✓", "∅", "✓"]
    assert cells[1][:4] == ["✓", "✕1", "✕12", "✓"]
    assert cells[2] == [f"{DASH} skipped needs root: run it with sudo"]
    assert cells[3][0] == "? not judged"
    assert all(len(list(row.iter("a"))) == 8 for row in rows[:2])


def test_what_is_broken_comes_first(mixed: Report) -> None:
    assert mixed.texts("h2")[0].split(" ✕")[0] == "partition & two faults at once"


def test_every_verdict_and_finding_is_in_it_with_its_shortest_history_and_commands(mixed: Report) -> None:
    run = red()
    told = "\n".join(mixed.texts("article"))
    for verdict in run.judgement.verdicts:
        assert verdict.promise in told
        for finding in verdict.findings:
            assert finding.text in told
            assert all(call_id in told for call_id in finding.call_ids)
    assert mixed.texts("pre") == ["\n".join(run.shortest["G3"])]
    commands = [text.removesuffix("copy") for text in mixed.texts("div", "command")]
    assert set(run.replay) <= set(commands)
    assert "aegis replay --why call c0007300 --bundle 'partition/log of 2 faults.aegis'" in commands
    assert "aegis replay --diff before:7711 7711 --bundle 'partition/log of 2 faults.aegis'" in commands


def test_leaks_and_unhandled_exceptions_are_in_it(mixed: Report) -> None:
    trouble = "\n".join(mixed.texts("details", "trouble"))
    assert "consumer orders-2-follow on AEGIS_default" in trouble
    assert "RuntimeError: set changed size during iteration" in trouble
    assert any("✕ differ" in text for text in mixed.texts("strong"))
    assert "✕ does not serve" in mixed.texts("strong")


def test_the_picture_has_faults_roles_events_and_charts(mixed: Report) -> None:
    pictures = mixed.texts("svg", "labels")
    for words in ("kill", "freeze", "partition", "router-1", "orders-3", "contradictions", "promotions"):
        assert words in pictures[0]
    for words in ("call_in_doubt", "call_expired", "calls ended", "clients waited", "calls open"):
        assert words in pictures[0]
    titles = mixed.texts("title")
    assert any("orders-2: active, epoch 2" in text for text in titles)
    assert any(
        text.startswith("freeze: orders-2\n+12.000 s, for 3.00 s\ncalls succeeded again") for text in titles
    )
    assert any(re.search(r"waited p50 .*, p99 .*, max ", text) for text in titles)


def test_the_page_asks_no_network_and_runs_only_its_own_script(mixed: Report) -> None:
    assert not re.search(r"""(?:src|href)=["']?(?:https?:|//)|url\((?!#)|@import""", mixed.markup)
    assert len(list(mixed.all("script"))) == 1
    (policy,) = [meta.get("content", "") for meta in mixed.all("meta") if meta.get("http-equiv")]
    assert policy.startswith("default-src 'none'")
    assert "script-src 'sha256-" in policy
    package = Path(write_report.__code__.co_filename).parent
    for asset in ("style.css", "script.js"):
        assert not set("<&") & set((package / asset).read_text(encoding="utf-8"))


def hostile() -> ScenarioRun:
    """Return a run in which every text is hostile."""
    call = Operation(1, Stage.INVOKE, Deed.CALL, HOSTILE, BEGIN, target=HOSTILE, resource=HOSTILE)
    told = Operation(
        1, Stage.INFO, Deed.CALL, HOSTILE, BEGIN + S, call_id=HOSTILE, error=HOSTILE, message=HOSTILE
    )
    finding = Finding(HOSTILE, (HOSTILE,), (1,), (2,))
    return ScenarioRun(
        HOSTILE,
        HOSTILE,
        7,
        2.0,
        BEGIN,
        Evidence(
            [call, told],
            faults=[Fault(HOSTILE, HOSTILE, BEGIN, BEGIN + S, HOSTILE)],
            probes=[Probe(HOSTILE, HOSTILE, False, BEGIN + S, 1.0, {HOSTILE: HOSTILE, "live": "x"}, HOSTILE)],
            samples=[Sample(HOSTILE, BEGIN, tables={HOSTILE: 1})],
            leaks=[HOSTILE],
            unhandled=[HOSTILE],
        ),
        Judgement((Verdict(HOSTILE, HOSTILE, 1, (finding,)),), {HOSTILE: 1}),
        [RoleSpan(HOSTILE, HOSTILE, BEGIN, BEGIN + S, 1), RoleSpan(HOSTILE, "active", BEGIN, BEGIN + S, 1)],
        {"bundle": "javascript:alert(1)", "up": "../../x", HOSTILE: HOSTILE},
        [HOSTILE],
        shortest={HOSTILE: [HOSTILE]},
        versions={HOSTILE: HOSTILE},
    )


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    report = Report([hostile()], tmp_path)
    assert len(list(report.all("script"))) == 1
    assert "alert('x')" not in report.markup
    assert not set(report.markup) & {"\x00", "\u202e"}
    assert "\\u202e" in report.texts("h2")[0]
    links = [link for link in (a.get("href", "") for a in report.all("a")) if not link.startswith("#")]
    assert len(links) == 1
    assert re.fullmatch(r"\./[%\w/.~-]+", links[0])
    assert report.plain["scenarios"][0]["name"] == HOSTILE


def test_same_names_get_anchors_of_their_own(tmp_path: Path) -> None:
    twice = Judgement((Verdict("G1", "p", 1), Verdict("G1", "p", 1), Verdict("g1!", "p", 1)))
    runs = [ScenarioRun("a b", "", 1, 1.0, judgement=twice), ScenarioRun("a-b", "", 2, 1.0, judgement=twice)]
    report = Report(runs, tmp_path)
    anchors = [e.get("id") for e in report.root.iter() if e.get("id")]
    assert len(anchors) == len(set(anchors))
    assert report.plain["scenarios"][1]["seed"] == 2


def test_times_before_the_beginning_and_after_the_end_stay_in_the_picture(tmp_path: Path) -> None:
    run = green(number=50)
    run.evidence.faults.append(Fault("clock skew", "early", BEGIN - 3600 * S, BEGIN - 3599 * S))
    run.evidence.faults.append(Fault("kill", "just before", BEGIN - S, BEGIN - 2 * S))
    run.roles.append(RoleSpan("endless", "active", BEGIN - S, 0, 3))
    run.roles.append(RoleSpan("backwards", "lost", BEGIN + 2 * S, BEGIN + S, 3))
    report = Report([run], tmp_path)
    for shape in report.root.iter("rect"):
        x, width = float(shape.get("x", 0)), float(shape.get("width", 0))
        assert x >= 0
        assert width >= 0
        assert x + width <= 1042
    assert any(f"{MINUS}3,600.000 s" in text for text in report.texts("title"))
    assert report.plain["scenarios"][0]["faults"][2]["at_s"] == -3600


@pytest.mark.parametrize(
    "evidence",
    [
        Evidence(),
        Evidence(faults=[Fault("kill", "x", 5, 5)], healed_at_ns=5),
        Evidence([Operation(1, Stage.INVOKE, Deed.CALL, "c", 5)]),
        Evidence([Operation(1, Stage.OK, Deed.CALL, "c", 5)]),
        Evidence([Operation(1, Stage.OK, Deed.ATTACH, "c", 5, call_id="x")]),
        Evidence([Operation(1, Stage.INVOKE, Deed.CALL, "c", 5), Operation(1, Stage.OK, Deed.CALL, "c", 4)]),
        Evidence(samples=[Sample("p", BEGIN)], ended_at_ns=BEGIN),
    ],
)
def test_evidence_with_next_to_nothing_in_it_makes_a_page(evidence: Evidence, tmp_path: Path) -> None:
    run = ScenarioRun("little", "", 1, 0.0, evidence=evidence, judgement=Judgement((Verdict("G1", "p", 0),)))
    report = Report([run], tmp_path)
    assert report.plain["scenarios"][0]["verdicts"][0]["status"] == "nothing"


def test_a_large_history_makes_a_small_file(tmp_path: Path) -> None:
    run = green(length_s=600.0)
    outages = [(at, at + 0.3) for at in map(float, range(5, 595, 30))]
    run.evidence.operations = operations(100_000, 600.0, outages)
    run.evidence.faults = [
        Fault(f"f{n % 30}", f"node-{n % 50}", BEGIN + n * S, BEGIN + n * S + 900 * MS) for n in range(590)
    ]
    run.roles = [
        RoleSpan(f"node-{n % 30}", "active", BEGIN + n * 60 * MS, BEGIN + n * 60 * MS + 50 * MS, n)
        for n in range(9000)
    ]
    run.evidence.samples = [Sample(f"p{n % 12}", BEGIN + n * S, n) for n in range(6000)]
    many = tuple(Finding("x" * 500, tuple(f"c{m}" for m in range(300)), (n,), (n,)) for n in range(3000))
    run.judgement = Judgement((Verdict("G1", "p", 3000, many),))
    run.shortest = {"G1": ["y" * 1000] * 5000}
    report = Report([run], tmp_path)
    assert len(run.evidence.operations) >= 200_000
    assert report.path.stat().st_size < 2_000_000
    assert "And 2,900 more that are not listed here." in report.texts("p", "muted")
    assert report.plain["scenarios"][0]["verdicts"][0]["findings_total"] == 3000


def test_the_keys_of_the_json_are_those_that_are_documented(mixed: Report) -> None:
    plain = mixed.plain
    assert plain["format"] == 1
    assert list(plain) == [
        "format", "status", "sentence", "remark", "written_at", "command", "versions", "totals", "scenarios",
    ]  # fmt: skip
    assert list(plain["totals"]) == [
        "scenarios", "by_status", "calls", "outcomes", "faults", "longest_recovery_s", "unrecovered_faults",
    ]  # fmt: skip
    for scenario in plain["scenarios"]:
        assert list(scenario) == [
            "name", "about", "seed", "duration_s", "status", "skipped", "versions", "artefacts", "replay",
            "calls", "ok_per_s", "outcomes", "other_operations", "latency_s", "faults", "longest_recovery_s",
            "unrecovered_faults", "promotions", "probes", "processes", "leaks", "unhandled", "numbers",
            "verdicts",
        ]  # fmt: skip
    broken = plain["scenarios"][1]
    assert list(broken["verdicts"][0]) == [
        "name", "promise", "status", "looked_at", "findings_total", "findings", "shortest",
    ]  # fmt: skip
    assert list(broken["verdicts"][2]["findings"][0]) == ["text", "call_ids", "numbers", "seqs"]
    assert list(broken["faults"][0]) == [
        "name", "victim", "at_s", "lasted_s", "detail", "recovery_s", "has_recovered",
    ]  # fmt: skip
    assert list(broken["promotions"][0]) == ["node", "role", "epoch", "at_s"]
    assert list(broken["probes"][0]) == ["node", "role", "serves", "after_s", "digests", "detail"]
    assert list(broken["processes"][0]) == [
        "process", "samples", "rss_bytes", "open_files", "connections", "consumers", "tables",
    ]  # fmt: skip
    assert list(broken["latency_s"]) == ["p50", "p90", "p99", "p99.9", "max"]
    assert [verdict["name"] for verdict in broken["verdicts"]] == list(PROMISES)


def test_a_report_replaces_the_one_before_and_leaves_nothing_else(tmp_path: Path) -> None:
    Report([green(number=50)], tmp_path)
    assert Report([], tmp_path).plain["scenarios"] == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]


def test_a_folder_that_cannot_be_written_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportUnwritable, match="give another folder") as caught:
        write_report([], tmp_path / "file" / "x", command="aegis chaos run")
    assert caught.value.details == {"folder": str(tmp_path / "file" / "x")}
