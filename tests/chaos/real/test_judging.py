"""What is said of a run: memory of servers apart, the shortest history, what to type, which versions."""

from __future__ import annotations

import sys
from pathlib import Path

from aegisipc.chaos.history import Sample
from aegisipc.chaos.real.judging import commands_of, judged, shortest_of, versions_of
from aegisipc.chaos.report.model import ScenarioRun
from aegisipc.router.infrastructure.server_config import find_server_binary
from tests.chaos.checking.scene import START_NS, Scene, a_scene

_S = 1_000_000_000


def _grow(scene: Scene, process: str, seconds: int) -> None:
    for second in range(seconds):
        scene.evidence.take(Sample(process, second * _S, rss_bytes=(100 + second) << 20))


def _names(scene: Scene) -> tuple[str, ...]:
    return judged(scene.evidence, scene.facts, START_NS).broken


def test_memory_of_a_server_is_judged_over_a_longer_time() -> None:
    scene = a_scene()
    _grow(scene, "server1", 200)
    assert _names(scene) == ()
    _grow(scene, "i1#1", 300)
    assert _names(scene) == ("memory",)
    _grow(scene, "server2", 400)
    assert _names(scene) == ("memory", "server memory")


def test_the_shortest_history_has_what_clients_and_the_log_say() -> None:
    scene = a_scene()
    scene.accept(scene.invoke())  # and nobody ever says what became of it
    facts = scene.facts
    run = ScenarioRun("kill-it", "", 1, 1.0, evidence=scene.evidence)
    run.judgement = judged(run.evidence, facts, START_NS)
    assert "G2" in run.judgement.broken
    asked, accepted = shortest_of(run, facts, START_NS)["G2"]
    assert " s  " in asked
    assert asked.endswith(": invoke")
    assert "  log " in accepted
    assert " accepted: " in accepted
    commands = commands_of(run, Path("out dir/kill-it-1.aegis"))
    assert commands[0].startswith("aegis replay --bundle 'out dir/kill-it-1.aegis' --why call ")
    assert commands[-1].endswith(" --verify")


def test_versions_are_those_of_the_servers_one_after_another() -> None:
    own = find_server_binary()
    shown = versions_of([own, own])["nats-server"]
    assert shown[0].isdigit()
    assert versions_of([own, Path("/no/such/server"), Path(sys.executable)])["nats-server"].startswith(
        f"{shown}, then unknown, then 3."
    )
