"""``aegis calls``, ``promotions`` and ``instances``: what people and programs are told of history."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine

from aegisipc.eventstore.lifecycles import CallState
from aegisipc.eventstore.sql.engines import DEFAULT_SQL
from aegisipc.router.cli import listing
from aegisipc.router.cli.main import main
from tests.cli.programs import COMMAND, Aegis, System
from tests.sql.model_rows import BEGAN_NS, CALLS, DEAD, DOUBTED, SECOND, call_row, fill

SIMILAR = [
    call_row(
        100, "0199aaaa-bbb0-7000-8000-000000000000", arguments='[["acc_1"], {}]', result='{"filled": 5}'
    ),
    call_row(
        102, "0199aaaa-bbb1-7000-8000-000000000001", claimed_by=None, claimed_epoch=None, tries=2, attempts=1
    ),
]
NOBODYS = "019a9e6e-8d5b-7000-8000-3b9aca000001"
NOWHERE = ("--url", "nats://127.0.0.1:1")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A read model that nobody changes."""
    return make(tmp_path_factory.mktemp("model") / "aegis.db")


def make(path: Path, **checkpoint: Any) -> str:
    url = f"sqlite:///{path}"
    engine = create_engine(url)
    with engine.begin() as connection:
        fill(connection, *SIMILAR, **checkpoint)
    engine.dispose()
    return url


class Told:
    """Runs the command here, and reads what it says."""

    def __init__(self, capsys: pytest.CaptureFixture[str], model: str) -> None:
        self._capsys, self.model = capsys, model
        self.err = ""

    def text(self, *words: str, code: int = 0) -> str:
        assert main(list(words)) == code
        out, self.err = self._capsys.readouterr()
        return out

    def json(self, *words: str, code: int = 0) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.text(*words, "--json", code=code))
        return told

    def misused(self, *words: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(list(words))
        assert ended.value.code == 2
        return self._capsys.readouterr().err


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str], model: str, monkeypatch: pytest.MonkeyPatch) -> Told:
    for name in ("AEGIS_URL", "AEGIS_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AEGIS_SQL", model)
    return Told(capsys, model)


# -- lists ----------------------------------------------------------------------------------------------


def test_calls_are_listed_newest_first(told: Told) -> None:
    lines = told.text("calls", "--service", "orders", "--status", "failed", "--limit", "2").splitlines()
    assert re.sub(" +", " ", lines[0]) == "ACCEPTED CALL METHOD RESOURCE CLIENT STATUS TOOK BY ERROR"
    assert [line.split()[5] for line in lines[1:3]] == ["failed", "failed"]
    assert lines[1].endswith("refused: order 55 is not for us")
    assert lines[3] == "there are more (--limit shows them)"
    assert re.fullmatch(
        r"read model of namespace default, up to sequence 4711 of 2025-11-13T03:13:20\.000Z \(\d+ d ago\)",
        lines[4],
    )


def test_calls_are_told_to_programs_with_all_that_is_known(told: Told) -> None:
    found = told.json("calls", "--limit", "3")
    assert [call["accepted_seq"] for call in found["calls"]] == [202, 200, 159]
    assert found["more"] is True
    assert found["model"] == {
        "namespace": "default",
        "position": 4711,
        "time": "2025-11-13T03:13:20.000000000Z",
        "time_ns": BEGAN_NS + 3600 * SECOND,
        "level": "all",
    }
    call = found["calls"][1]
    assert call["arguments"] == [["acc_1"], {}]
    assert call["result"] == {"filled": 5}
    assert call["accepted"] == "2025-11-13T02:15:00.000000000Z"
    assert call["group"] == SIMILAR[0]["group_name"]


def matching(wanted: Callable[[dict[str, Any]], object]) -> list[str]:
    return [row["call_id"] for row in reversed([*CALLS, *SIMILAR]) if wanted(row)]


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--service", "quotes"], lambda row: row["service"] == "quotes"),
        (["--group", "_pool"], lambda row: row["group_name"] == "_pool"),
        (["--method", "place@2"], lambda row: row["method"] == "place@2"),
        (["--method", "orders.place"], lambda row: (row["service"], row["method"]) == ("orders", "place")),
        (["--status", "open"], lambda row: row["concluded_ns"] is None),
        (
            ["--status", "expired", "--status", "failed"],
            lambda row: row["status"] in ("expired", "failed"),
        ),
        (["--since", "2025-11-13T02:14:20"], lambda row: row["accepted_ns"] >= BEGAN_NS + 60 * SECOND),
        (["--since", "2025-11-13T02:14:10.5Z"], lambda row: row["accepted_ns"] > BEGAN_NS + 50 * SECOND),
        (["--until", "2025-11-13T03:13:25+01:00"], lambda row: row["accepted_ns"] <= BEGAN_NS + 5 * SECOND),
        (["--since", "-5m"], lambda _: False),
        (["--until", "-5m"], lambda _: True),
        (["--since", "-99999d"], lambda _: True),
        (["--since", "9999-01-01"], lambda _: False),
        (["--until", "1970-01-01"], lambda _: False),
        (
            ["--slower-than", "60ms", "--until", "2025-11-13T02:14:30"],
            lambda row: row["accepted_seq"] < 200 and (row["latency_us"] or 1e9) >= 60_000,
        ),
        (["--resource", "acc_1"], lambda row: row["resource"] == "acc_1"),
        (["--resource", "' OR ''='"], lambda _: False),
        (["--client", "trader-1"], lambda row: row["client"] == "trader-1"),
    ],
)
def test_filters_find_what_fits(
    told: Told, options: list[str], wanted: Callable[[dict[str, Any]], object]
) -> None:
    found = told.json("calls", *options, "--limit", "100")
    assert [call["call_id"] for call in found["calls"]] == matching(wanted)


def test_a_time_of_day_is_the_latest_that_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: BEGAN_NS)  # 02:13:20
    assert listing.moment("02:13:20") == BEGAN_NS
    assert listing.moment("02:13:21") == BEGAN_NS + SECOND - 86_400 * SECOND
    assert listing.moment("-250ms") == BEGAN_NS - SECOND // 4


def test_open_calls_are_told_by_how_long_they_are_open(told: Told) -> None:
    lines = told.text("calls", "--status", "in_doubt").splitlines()
    assert re.search(r" in doubt +open for \d+ d ", lines[1])


def test_what_nothing_matches_is_said(told: Told) -> None:
    assert told.text("calls", "--client", "nobody").startswith("no call matches\nread model of")
    assert told.text("promotions", "--service", "nobody").startswith("no promotion matches\n")
    assert told.text("instances", "--service", "nobody").startswith("no instance matches\n")
    assert told.text("instances", "--history", "--service", "nobody").startswith("nothing matches\n")


@pytest.mark.parametrize(
    ("level", "hint"), [("failures", "ended otherwise than well"), ("off", "calls are not recorded")]
)
def test_a_read_model_without_all_calls_says_so(told: Told, tmp_path: Path, level: str, hint: str) -> None:
    model = make(tmp_path / "some.db", level=level)
    lines = told.text("calls", "--limit", "1", "--sql", model).splitlines()
    assert lines[-2].startswith(f"call log level {level}: ")
    assert hint in lines[-2]
    assert told.json("calls", "--limit", "1", "--sql", model)["model"]["level"] == level
    assert f"level {level}" not in told.text("promotions", "--sql", model)


def test_control_characters_of_a_resource_do_not_reach_the_terminal(told: Told, tmp_path: Path) -> None:
    model = make(tmp_path / "odd.db")
    with sqlite3.connect(tmp_path / "odd.db") as connection:
        connection.execute("UPDATE aegis_calls SET resource = ?, error_message = ?", ("\x1b[31m", "a\nb"))
    connection.close()
    assert "\x1b" not in told.text("calls", "--sql", model)
    assert "\\x1b[31m" in told.text("calls", "show", DEAD["call_id"], *NOWHERE, "--sql", model)


def test_promotions_are_listed_with_their_reasons(told: Told) -> None:
    lines = told.text("promotions", "--service", "orders").splitlines()
    assert lines[0].split()[:7] == ["TIME", "SEQ", "GROUP", "EVENT", "EPOCH", "HOLDER", "BEFORE"]
    assert [line.split()[1] for line in lines[1:4]] == ["30", "20", "10"]
    assert "orders/g1  promoted      2  orders-2  orders-1  failover  r1" in lines[1]
    assert "(asked for by ann)" in told.text("promotions", "--group", "g2")
    times = ("--since", "2025-11-13T02:13:35", "--until", "2025-11-13T02:13:55")
    newest, older = told.json("promotions", *times)["promotions"]
    assert (newest["seq"], older["seq"]) == (30, 20)
    assert newest["evidence"] == {"ready": ["orders-1"], "open": 0}
    assert (newest["group"], newest["at"]) == ("g1", "2025-11-13T02:13:50.000000000Z")


def test_instances_are_listed_with_the_epoch_they_hold(told: Told) -> None:
    lines = told.text("instances").splitlines()
    assert re.sub(" +", " ", lines[0]) == "GROUP INSTANCE STATE EPOCH SINCE HOST PID VERSION RESOURCES"
    assert [line.split()[1:4] for line in lines[1:4]] == [
        ["orders-1", "active", "3"],
        ["orders-2", "standby", "-"],
        ["q-1", "active", "-"],
    ]
    assert told.json("instances", "--instance", "orders-1")["instances"][0]["resources"] == ["acc_0", "acc_1"]


def test_instances_have_a_history(told: Told) -> None:
    lines = told.text("instances", "--history", "--instance", "orders-1").splitlines()
    assert [line.split()[1] for line in lines[1:4]] == ["3", "2", "1"]
    assert lines[1].endswith(" suspected active  r1          silent for 1012 ms")
    found = told.json("instances", "--history", "--limit", "1")
    assert [row["instance"] for row in found["events"]] == ["q-1"]
    assert found["more"]


# -- one call -------------------------------------------------------------------------------------------


def test_without_the_log_the_read_model_tells_of_a_call(told: Told) -> None:
    text = told.text("calls", "show", SIMILAR[0]["call_id"], *NOWHERE)
    assert told.err.startswith("only what the read model knows is shown: cannot connect to ")
    assert 'arguments  [["acc_1"], {}]\n' in text
    assert 'result     {"filled": 5}\n' in text
    assert "claimed    by orders-1 in epoch 3 at 2025-11-13T02:15:00.001Z\n" in text
    assert "outcome    2025-11-13T02:15:00.030Z by orders-1 (sequence 201), after 30.0 ms\n" in text
    assert told.json("calls", "show", SIMILAR[0]["call_id"], *NOWHERE)["call"]["result"] == {"filled": 5}


def test_doubts_and_dead_letters_are_part_of_what_is_told(told: Told) -> None:
    text = told.text("calls", "show", DOUBTED["call_id"], *NOWHERE)
    assert re.search(r"^state      in doubt \(open for \d+ d\)$", text, re.MULTILINE)
    assert re.search(
        r"^doubt      since .* \(sequence 900\), claimed by orders-1.*; nobody has", text, re.MULTILINE
    )
    text = told.text("calls", "show", DEAD["call_id"], *NOWHERE)
    assert "attempts_exhausted: 3 attempts failed; it waits for aegis dlq requeue or discard" in text
    assert "error      refused: order" in text


def test_the_beginning_of_an_id_will_do(told: Told) -> None:
    text = told.text("calls", "show", "0199AAAA-bbb1", *NOWHERE)
    assert text.startswith(f"call       {SIMILAR[1]['call_id']}\n")
    assert "claimed " not in text
    assert "tries      2 failed" in text
    assert "attempts   begun again 1 time" in text


def test_calls_that_begin_alike_are_named(told: Told) -> None:
    error = told.json("calls", "show", "0199aaaa", *NOWHERE, code=1)["error"]
    assert error["code"] == "ambiguous_call"
    assert error["details"]["candidates"] == [row["call_id"] for row in SIMILAR]
    assert all(row["call_id"] in told.err for row in SIMILAR)


def test_a_call_that_neither_has_is_told_so(told: Told, tmp_path: Path) -> None:
    error = told.json("calls", "show", NOBODYS, *NOWHERE, code=1)["error"]
    assert error["code"] == "unknown_call"
    assert "the log could not tell: cannot connect to" in error["message"]
    model = make(tmp_path / "some.db", level="failures")
    assert (
        "level is 'failures'"
        in told.text("calls", "show", NOBODYS, *NOWHERE, "--sql", model, code=1) + told.err
    )


def test_a_read_model_that_cannot_be_asked_does_not_hide_what_the_log_said(
    told: Told, tmp_path: Path
) -> None:
    nothing = f"sqlite:///{tmp_path / 'nothing.db'}"
    error = told.json("calls", "show", NOBODYS, *NOWHERE, "--sql", nothing, code=1)["error"]
    assert error["code"] == "not_connected"
    assert "the read model cannot tell either: cannot open" in told.err


def test_without_log_and_read_model_the_log_is_to_blame(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AEGIS_SQL")
    assert told.json("calls", "show", NOBODYS, *NOWHERE, code=1)["error"]["code"] == "not_connected"


def test_the_log_tells_more_than_the_read_model(system: System, told: Told) -> None:
    done = system.aegis("call", "orders.position", '"acc_1"', "5", "--resource-id", "acc_1", "--json")
    call_id: str = done.json["call_id"]
    shown = told.json("calls", "show", call_id.replace("-", "")[:20], "--url", system.url)
    assert (shown["call_id"], shown["state"]) == (call_id, "succeeded")
    assert shown["promotion"]["data"]["holder"] == system.instance
    text = told.text("calls", "show", call_id, "--url", system.url)
    assert "why the router gave the pen to whom\n" in text
    assert (
        f"{system.instance} gets the pen as epoch 1 (first), because: first instance of the group\n" in text
    )
    assert "\n  decided by router " in text


def test_a_call_that_only_the_read_model_has_is_told_from_there(system: System, told: Told) -> None:
    text = told.text("calls", "show", SIMILAR[0]["call_id"], "--url", system.url)
    assert text.startswith(f"call       {SIMILAR[0]['call_id']}\n")
    assert "the log holds no such call" in told.err
    error = told.json("calls", "show", NOBODYS, "--url", system.url, code=1)["error"]
    assert error["code"] == "unknown_call"


# -- what cannot be -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["calls", "--status", "lost"], "invalid choice: 'lost'"),
        (["calls", "--since", "yesterday"], "'yesterday' is no time"),
        (["calls", "--since", "group.promoted"], "is no time"),
        (["calls", "--since", "before:-5m"], "is no time"),
        (["calls", "--since", "-5q"], "'-5q' is no time"),
        (["calls", "--since", "-5m", "--until", "-6m"], "--until: that is before --since"),
        (["promotions", "--since", "-5m", "--until", "-6m"], "--until: that is before --since"),
        (["instances", "--since", "-5m", "--until", "-6m"], "--until: that is before --since"),
        (["calls", "--slower-than", "50"], "'50' is no duration"),
        (["calls", "--slower-than", "-1s"], "is no duration"),
        (["calls", "--slower-than", "999999999h"], "is no duration"),
        (["calls", "--limit", "0"], "give a number from 1 to 10000"),
        (["calls", "--limit", "10001"], "give a number from 1 to 10000"),
        (["promotions", "--limit", "x"], "give a number from 1 to 10000"),
        (["calls", "--service", "a", "--method", "b.c"], "name the service there, or by --service"),
        (["calls", "--json", "show", NOBODYS], "--json comes after the inner verb: aegis calls show"),
        (["calls", "--limit", "7", "cancel", NOBODYS], "--limit comes after the inner verb"),
        (["calls", "shwo"], "invalid choice: 'shwo'"),
        (["calls", "show"], "CALL"),
        (["calls", "show", "seven"], "cannot read 'seven' as a call id"),
        (["calls", "show", "0199aaa"], "at least its first 8 digits"),
        (["calls", "show", NOBODYS + "0"], "as a call id"),
        (["calls", "show", NOBODYS.replace("-7", "-4")], "version 7"),
    ],
)
def test_bad_usage_is_told(told: Told, words: list[str], says: str) -> None:
    assert says in told.misused(*words)


@pytest.mark.parametrize("option", ["--service", "--group", "--client", "--method", "--resource"])
@pytest.mark.parametrize("value", ["", "\udcff"])
def test_names_that_nobody_can_have_are_refused(told: Told, option: str, value: str) -> None:
    assert told.json("calls", option, value, code=1)["error"]["code"] == "invalid_name"


@pytest.mark.parametrize("verb", ["calls", "promotions", "instances"])
def test_every_list_says_what_is_wrong_with_its_database(told: Told, verb: str, tmp_path: Path) -> None:
    missing = told.json(verb, "--sql", f"sqlite:///{tmp_path / 'nothing.db'}", code=1)["error"]
    assert missing["code"] == "database_unreachable"
    assert "aegis migrate up" in missing["message"]
    (tmp_path / "empty.db").touch()
    empty = told.json(verb, "--sql", f"sqlite:///{tmp_path / 'empty.db'}", code=1)["error"]
    assert empty["code"] == "wrong_migration"
    assert "aegis migrate up" in empty["message"]
    other = told.json(verb, "--namespace", "prod", code=1)["error"]
    assert (other["code"], other["details"]["found"]) == ("wrong_namespace", "default")


@pytest.mark.parametrize(
    "words", [["calls"], ["promotions"], ["instances"], ["calls", "show", NOBODYS, *NOWHERE]]
)
def test_without_sqlalchemy_it_is_said_what_to_install(
    told: Told, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    error = told.json(*words, code=1)["error"]
    assert error["code"] == "sql_missing"
    assert "aegisipc-eventstore[sql]" in error["message"]


@pytest.mark.parametrize("words", [["calls", "--help"], ["promotions", "--help"], ["instances", "--help"]])
def test_help_needs_nothing_heavy_and_shows_examples(aegis: Aegis, words: list[str]) -> None:
    shown = subprocess.run(
        [sys.executable, "-X", "importtime", *COMMAND[1:], *words],
        check=True,
        env=aegis.env,
        capture_output=True,
        text=True,
    )
    assert f"examples:\n  aegis {words[0]} " in shown.stdout
    imported = set(re.findall(r"\| +(\w+)", shown.stderr))
    assert imported.isdisjoint({"asyncio", "nats", "pydantic", "sqlalchemy", "msgpack"})


def test_the_words_of_the_options_are_those_of_the_library() -> None:
    assert set(listing.STATUSES) == set(CallState)
    assert listing.DEFAULT_SQL == DEFAULT_SQL
