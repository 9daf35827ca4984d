"""A group whose router says why it gives the pen to whom."""

from __future__ import annotations

from typing import Any

from aegisipc.eventstore import events as ev
from tests.chaos.checking.scene import GROUP, NS, SERVICE, START_NS, Scene, broken_by

_S = 1_000_000_000
POLICY = {"suspect_after_ms": 1000, "handover_ms": 30_000}


class Pens(Scene):
    """A group whose router tells what it does, and why."""

    @property
    def server_ns(self) -> int:
        return START_NS + self.now_ns

    def own(self, who: str, event: ev.Event) -> int:
        return self.say(NS.instance(SERVICE, GROUP, who), event)

    def watch(self, event: ev.Event) -> int:
        return self.say(NS.watch(SERVICE, GROUP), event)

    def fence(self, event: ev.Event) -> int:
        return self.say(NS.fence(SERVICE, GROUP), event)

    def joins(self, who: str, life: int = 1, *, to: str = "ready", quarantined: bool = False) -> None:
        run = f"{who}-{life}"
        registered = ev.InstanceRegistered(
            incarnation=run,
            mode="owned",
            contract={},
            host="h",
            pid=1,
            version="0",
            quarantined=quarantined,
        )
        self.own(who, registered)
        if to != "registered":
            self.watch(ev.InstanceAdmitted(instance=who, incarnation=run, decided_by="r"))
        if to == "ready":
            self.own(who, ev.InstanceReady(incarnation=run))

    def doubted(self, silent_s: float = 1.5, **given: Any) -> dict[str, Any]:
        """What a router saw of a holder that has been silent for so long."""
        now_ns = self.server_ns
        return {
            "source": "silence",
            "suspect_after_ms": 1000,
            "silence_ms": int(silent_s * 1000),
            "last_pulse_ns": now_ns - int(silent_s * _S),
            "now_ns": now_ns,
        } | given

    def gets(self, who: str, cause: str, kind: Any = "failover", **given: Any) -> int:
        self.epoch += 1
        more = {"incarnation": f"{who}-1", "decided_by": "r", "evidence": {}} | given
        return self.fence(ev.GroupPromoted(epoch=self.epoch, holder=who, kind=kind, cause=cause, **more))

    def fails_over(self, who: str = "b", over: str = "a", **given: Any) -> int:
        evidence = given.pop("evidence", None) or self.doubted()
        return self.gets(who, f"holder {over!r} is suspected: x", evidence=evidence, **given)

    def suspected(self, who: str, *, silent_s: float = 1.5, by: str = "r", run: str = "") -> int:
        event = ev.InstanceSuspected(
            instance=who,
            incarnation=run or f"{who}-1",
            last_pulse_ns=self.server_ns - int(silent_s * _S),
            silence_ms=int(silent_s * 1000),
            evidence={"now_ns": self.server_ns},
            decided_by=by,
        )
        return self.watch(event)

    def recovered(self, who: str, *, by: str = "r") -> int:
        evidence = {"last_pulse_ns": self.server_ns}
        event = ev.InstanceRecovered(instance=who, incarnation=f"{who}-1", evidence=evidence, decided_by=by)
        return self.watch(event)

    def lost(self, who: str, *, silent_s: float = 3.5) -> int:
        event = ev.InstanceLost(
            instance=who,
            incarnation=f"{who}-1",
            last_pulse_ns=self.server_ns - int(silent_s * _S),
            silence_ms=int(silent_s * 1000),
            evidence={"now_ns": self.server_ns},
            decided_by="r",
        )
        return self.watch(event)

    def hands_over(self, to: str = "b", author: str = "ann", **given: Any) -> int:
        more = {"epoch": self.epoch, "holder": "a", "to_incarnation": f"{to}-1", "decided_by": "r"} | given
        return self.fence(ev.GroupHandoverStarted(to=to, cause="promoted by ann", author=author, **more))

    def yields(self, who: str = "a") -> int:
        return self.own(who, ev.InstanceYielded(incarnation=f"{who}-1", epoch=self.epoch, cause="asked"))

    def ill(self, who: str = "a") -> int:
        return self.own(who, ev.InstanceUnhealthy(incarnation=f"{who}-1", reason="no venue"))

    def leaves(self, who: str = "a", *, finished: bool = True) -> int:
        return self.own(who, ev.InstanceLeft(incarnation=f"{who}-1", cause="stopped", finished=finished))

    def vacated(self, cause: str = "holder 'a' left", *, finished: bool = True) -> int:
        evidence = {"finished": finished}
        return self.fence(ev.GroupVacated(epoch=self.epoch, cause=cause, evidence=evidence, decided_by="r"))


def pens(*others: str) -> Pens:
    """``a`` holds the pen; ``b`` stands by, unless it is said who does."""
    scene = Pens()
    scene.elect(policy=POLICY)
    scene.joins("a")
    scene.gets("a", "first instance of the group", "first")
    for other in others or ("b",):
        scene.joins(other)
    return scene


def is_fine(scene: Scene, looked_at: int) -> None:
    verdict = scene.verdict("failovers")
    assert verdict.findings == ()
    assert verdict.looked_at == looked_at


def is_found(scene: Scene, seq: int, text: str) -> None:
    finding = broken_by(scene, "failovers")
    assert seq in finding.seqs
    assert text in finding.text
    assert len(scene.verdict("failovers").findings) == 1
