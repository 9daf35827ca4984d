"""``aegis router``: its options about snapshots of the state, and what it says of the one it began with."""

from __future__ import annotations

import json
import re

import pytest

from aegisipc.router.cli.main import main
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from tests.cli.programs import Aegis


def test_a_router_that_starts_again_says_from_which_snapshot(
    aegis: Aegis, shared_server: EmbeddedServer
) -> None:
    here = aegis.at(shared_server.url, "cli-snapshots")
    first = here.start("router", "--name", "r1", "--snapshot-every", "1")
    assert "behind the snapshot" not in first.ready()
    first.line("snapshot_written", stream="err")
    told = here("status", "--json").json
    assert first.stop() == 0
    again = here.start("router", "--name", "r1", "--snapshot-every", "0", "--json")
    began_at = json.loads(again.ready())["began_at"]
    assert began_at >= 1
    again.line("snapshot_used", stream="err")
    assert again.stop() == 0
    people = here.start("router", "--name", "r1", "--snapshot-every", "0")
    assert re.search(rf"read \d+ records behind the snapshot of {began_at} in", people.ready())
    assert people.stop() == 0
    assert told["router"]["snapshot"]["latest"]["router"] == "r1"


def test_snapshots_are_listed_in_the_log(aegis: Aegis, shared_server: EmbeddedServer) -> None:
    here = aegis.at(shared_server.url, "cli-snapshots-listed")
    router = here.start("router", "--name", "r1", "--snapshot-every", "1")
    router.line("snapshot_written", stream="err")
    assert router.stop() == 0
    shown = here("log", "tail", "--kind", "snapshot")
    assert (shown.code, shown.err) == (0, "")
    part, index = shown.out.splitlines()[:2]
    found = re.search(r"system.snapshot_part.v1 +part 1 of snapshot (\w{8}): (\d+) bytes$", part)
    assert found is not None
    told = re.search(
        r"r1 wrote snapshot (\w{8}), the state up to sequence \d+: (\d+) bytes in 1 part$", index
    )
    assert told is not None
    assert told.groups() == found.groups()
    plain = [
        json.loads(line) for line in here("log", "tail", "--kind", "snapshot", "--json").out.splitlines()
    ]
    assert [record["type"] for record in plain[:2]] == ["system.snapshot_part.v1", "system.snapshot.v1"]
    assert plain[1]["data"]["parts"] == [plain[0]["seq"]]
    assert plain[0]["number"] == 0


@pytest.mark.parametrize(
    "words",
    [
        ["--snapshot-every", "-1"],
        ["--snapshot-every", "x"],
        ["--snapshot-seconds", "0"],
        ["--snapshot-seconds", "-5"],
        ["--snapshot-seconds", "nan"],
        ["--snapshot-seconds", "inf"],
        ["--snapshot-seconds", "1e12"],
    ],
)
def test_bad_options_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["router", *words])
    assert caught.value.code == 2
    assert words[0] in capsys.readouterr().err
