"""Runs a scenario: begin, break, heal, probe, read everything back, and judge."""

from __future__ import annotations

import asyncio
import random
import re
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aegisipc.chaos.history import Deed, Keeping, Probe, Sample, Stage
from aegisipc.chaos.log_facts import LogFacts, read_log_facts
from aegisipc.chaos.log_roles import role_spans
from aegisipc.chaos.nemeses.errors import Unavailable
from aegisipc.chaos.nemeses.hostile import MALLORY
from aegisipc.chaos.real.breaks import BREAKS
from aegisipc.chaos.real.judging import commands_of, judged, shortest_of, versions_of
from aegisipc.chaos.real.leaks import left_at_servers, processes_in
from aegisipc.chaos.real.leaving_out import leave_out
from aegisipc.chaos.real.members import Role
from aegisipc.chaos.real.monitoring import machine_sample, samples_of, tables_of
from aegisipc.chaos.real.operating import an_operator
from aegisipc.chaos.real.plans import Step, drawn
from aegisipc.chaos.real.probing import probed
from aegisipc.chaos.real.recording import gathered, no_effect, now_ns
from aegisipc.chaos.real.scenarios import Scenario
from aegisipc.chaos.real.scene import NAMESPACE, NotReady, Scene, a_scene
from aegisipc.chaos.real.striking import strike_all
from aegisipc.chaos.real.zygote import running_zygote
from aegisipc.chaos.report.model import ScenarioRun
from aegisipc.chaos.verdicts import Finding, Judgement, Verdict
from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.replay.bundle_files import SUFFIX
from aegisipc.eventstore.replay.exporting import export
from aegisipc.eventstore.replay.sources import open_live
from aegisipc.router.infrastructure.server_config import find_server_binary

SAMPLE_S: Final = 1.0
_WARM_S: Final = 0.5
"""Calls are made for so long before anything is broken."""
_CLIENTS_END_S: Final = 45.0
_MEMBERS_END_S: Final = 20.0
READ_S: Final = 8.0
_READ_ALL_S: Final = 600.0
"""An old outcome is looked for in the log: of a long run that takes a while for each."""
_FINAL: Final = (Deed.CALL, Deed.ATTACH)
_ENDED: Final = "All processes of the run have ended with it."
_SIGNS: Final = re.compile(r"^(?:Traceback |.*(?:was never retrieved|never awaited))", re.MULTILINE)
"""What Python prints of exceptions that nobody handled. Tracebacks in a log are within a line."""
_SHOWN: Final = 1500

type Tell = Callable[[str], None]
type Beside = Callable[[Scene], Coroutine[Any, Any, None]]
"""Runs beside the fault phase, until it is cancelled."""


@dataclass(slots=True)
class Finished:
    """A run, with the plan that it followed."""

    run: ScenarioRun
    plan: list[Step]


async def run_scenario(
    scenario: Scenario,
    *,
    seed: int,
    duration_s: float,
    keep_in: Path | None,
    tell: Tell,
    beside: Beside | None = None,
    read_s: float = READ_S,
) -> Finished:
    """Run a scenario from beginning to end; on a violation, the log is kept in the folder `keep_in`. A new
    process attaches to all calls of which no client knows what became of them, and to others for `read_s`.

    A run that fails on the way is one that is not green, and says why; one that needs what this machine
    cannot do is skipped.
    """
    plan = drawn(scenario.draw, scenario.name, seed, duration_s)
    run = ScenarioRun(scenario.name, scenario.about, seed, duration_s, at_ns=now_ns())
    run.skipped = scenario.why_not()
    if run.skipped:
        return Finished(run, plan)
    with tempfile.TemporaryDirectory(prefix="aegis-chaos-", ignore_cleanup_errors=True) as made:
        folder = Path(made)
        with running_zygote(folder) as zygote:
            try:
                async with a_scene(scenario.shape, zygote, folder, f"{scenario.name}:{seed}") as scene:
                    course = _Course(scene, run, tell, beside, read_s)
                    try:
                        await course.take(plan, duration_s, keep_in)
                    except AegisError:
                        course.gather()
                        raise
            except* Unavailable as errors:
                run.skipped = "; ".join(map(str, _all_in(errors)))
            except* AegisError as errors:
                findings = tuple(Finding(str(error)) for error in _all_in(errors))
                run.judgement = Judgement((Verdict("run", "The run comes to its end.", 1, findings),))
        if left := processes_in(folder):
            run.evidence.leaks += left
            leaked = tuple(Finding(text) for text in left)
            run.judgement = _with(run.judgement, Verdict("ended", _ENDED, 1, leaked))
    return Finished(run, plan)


def _all_in(errors: BaseException) -> list[BaseException]:
    """Return what is in groups of errors, however nested."""
    if not isinstance(errors, BaseExceptionGroup):
        return [errors]
    return [error for each in errors.exceptions for error in _all_in(each)]


def _with(judgement: Judgement, verdict: Verdict) -> Judgement:
    return Judgement((*judgement.verdicts, verdict), judgement.numbers)


@asynccontextmanager
async def alongside(work: Coroutine[Any, Any, None] | None) -> AsyncIterator[None]:
    """Do something beside a block, until that ends. If it fails, so does the end of the block."""
    if work is None:
        yield
        return
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


class _Course:
    """The course of one run."""

    def __init__(
        self, scene: Scene, run: ScenarioRun, tell: Tell, beside: Beside | None, read_s: float
    ) -> None:
        self._scene, self._run, self._tell, self._beside = scene, run, tell, beside
        self._read_s = read_s
        self._samples: list[Sample] = []
        self._probes: list[Probe] = []

    async def take(self, plan: list[Step], duration_s: float, keep_in: Path | None) -> None:
        """Go through all of it, and put what came of it into the run."""
        scene, run = self._scene, self._run
        ran = [server.binary or find_server_binary() for server in scene.servers]
        await scene.begin()
        async with alongside(self._watch()), an_operator(scene) as operator:
            await asyncio.sleep(_WARM_S)
            self._tell(f"{run.name}: {len(plan)} faults in {duration_s:g} s")
            beside = self._beside(scene) if self._beside is not None else None
            async with alongside(beside), operator.at_work():
                await strike_all(scene, plan, BREAKS, duration_s)
            healed_ns = now_ns()
            self._tell(f"{run.name}: healed; waiting until all has concluded")
            await self._stop(Role.CLIENT, _CLIENTS_END_S)
            self._probes += await probed(scene, operator)
            self._tell(f"{run.name}: everybody was asked; reading back")
            facts = await self._read_back()
        self._tell(f"{run.name}: ending")
        leaks = await self._end()
        self.gather()
        run.evidence.healed_at_ns = healed_ns if plan else 0
        run.evidence.leaks += leaks
        offset_ns = time.time_ns() - now_ns()
        run.judgement = await asyncio.to_thread(judged, run.evidence, facts, offset_ns)
        run.roles = role_spans(facts, run.evidence, clock_offset_ns=offset_ns)
        ran += [server.binary or find_server_binary() for server in scene.servers]
        run.versions = await asyncio.to_thread(versions_of, ran)
        if not run.judgement.holds:
            run.shortest = await asyncio.to_thread(shortest_of, run, facts, offset_ns)
            if keep_in is not None:
                await self._keep(keep_in)

    def gather(self) -> None:
        """Put what there is of evidence into the run, also of one that is given up."""
        scene, run = self._scene, self._run
        run.evidence = gathered(scene.histories, [*scene.broken, *self._samples, *self._probes])
        run.evidence.unhandled += [*scene.ended, *_tracebacks(scene.folder)]
        run.evidence.has_large = not scene.shape.load.plain
        run.evidence.keeping = Keeping(scene.shape.nodes, all(s.fsync for s in scene.servers))
        run.evidence.ended_at_ns = now_ns()

    async def _watch(self) -> None:
        """Take samples, and start again who ended by itself."""
        async with await Connection.open(ConnectOptions(self._scene.url, name="aegis:monitor")) as watching:
            while True:
                self._samples.append(await machine_sample(self._scene))
                self._samples += await samples_of(self._scene)
                self._samples += await tables_of(self._scene, watching)
                self._scene.look()
                await asyncio.sleep(SAMPLE_S)

    # -- the end ----------------------------------------------------------------------------------------

    async def _stop(self, role: Role, within_s: float) -> None:
        """Ask all of a role to end in order, and wait until they have; clients wait for their open calls, and
        probe.
        """
        members = [(m, m.child) for m in self._scene.of(role) if m.child is not None]
        for member, child in members:
            member.is_wanted = False
            child.send(signal.SIGTERM)
        with suppress(NotReady):
            await self._scene.until(
                lambda: not any(child.is_alive for _, child in members), within_s, "all have ended"
            )
        for member, child in members:
            if child.is_alive:
                self._scene.ended.append(
                    f"{member.name} did not end within {within_s:g} s of SIGTERM; the last that it said: "
                    f"{self._scene.last_of(child)}"
                )
                member.kill()
            elif child.code:
                self._scene.tell_of(member, "ended in the end")

    async def _read_back(self) -> LogFacts:
        """Read the log, and have a new process attach to what is in it."""
        scene = self._scene
        async with open_live(scene.url, NAMESPACE) as source:
            facts = await read_log_facts(source.log, source.subjects)
            await leave_out(facts, MALLORY, source.log, source.subjects)
            must, may = await asyncio.to_thread(_accepted, scene.histories, facts, scene.seed)
            reader = scene.read_back(must, may, self._read_s)
            try:
                await scene.until(lambda: reader.has_said("read"), _READ_ALL_S, "all is read back", reader)
            except NotReady as error:  # the rest is judged all the same
                scene.ended.append(error.message)
            finally:
                reader.kill()
            return facts

    async def _end(self) -> list[str]:
        """End everybody in order, and say what is left of them."""
        await self._stop(Role.INSTANCE, _MEMBERS_END_S)
        await self._stop(Role.ROUTER, _MEMBERS_END_S)
        return await left_at_servers(self._scene)

    async def _keep(self, folder: Path) -> None:
        """Keep the log in a file, and say how to look into it."""
        await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
        run = self._run
        name = f"{run.name}-{run.seed}{SUFFIX}"
        async with open_live(self._scene.url, NAMESPACE) as source:
            bounds = await source.log.bounds()
            await export(
                source, folder / name, from_seq=bounds.first_seq, until_seq=bounds.last_seq, force=True
            )
        run.artefacts["bundle"] = name
        run.replay += commands_of(run, folder / name)


def _accepted(folder: Path, facts: LogFacts, seed: str) -> tuple[list[str], list[str]]:
    """Return the ids of all calls that clients or the log know: first those of which no client was told for
    certain what became of them, then the others, in an order of chance.
    """
    operations = gathered(folder, wanted=no_effect).operations
    known = {o.call_id for o in operations if o.call_id is not None} | set(facts.calls)
    done = {o.number for o in operations if o.stage in (Stage.OK, Stage.FAIL) and o.deed is Deed.CALL}
    told = {o.call_id for o in operations if o.stage in (Stage.OK, Stage.FAIL) and o.deed in _FINAL}
    told |= {call_id for call_id, call in facts.calls.items() if call.number in done}
    rest = sorted(known & told)
    random.Random(seed).shuffle(rest)  # noqa: S311 - no secret: it is to be repeated
    return sorted(known - told), rest


def _tracebacks(folder: Path) -> list[str]:
    """Return what processes printed of exceptions that nobody handled."""
    found = []
    for path in sorted(folder.glob("*.out")):
        text = path.read_text(encoding="utf-8", errors="replace")
        sign = _SIGNS.search(text)
        if sign is not None:
            found.append(f"{path.stem} printed: {text[sign.start() : sign.start() + _SHOWN]}")
    return found
