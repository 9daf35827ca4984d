"""What each kind of fault does to a simulated world, and how it is healed."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Final

from aegisipc.chaos.sim.cast import InstanceProcess, RouterProcess
from aegisipc.chaos.sim.jetstream import SLOW_WRITE_S
from aegisipc.chaos.sim.network import DOWN, UP
from aegisipc.chaos.sim.plan import Break, FaultPlan

if TYPE_CHECKING:
    from aegisipc.chaos.sim.world import World

type Heal = Callable[[], None]


def strike(world: World, fault: FaultPlan) -> Heal | None:
    """Let a fault begin; returns what ends it, or ``None`` if that needs nothing (or it could not begin)."""
    return _STRIKES[fault.kind](world, fault)


def _nothing() -> None:
    """It is over by itself."""


# -- processes ------------------------------------------------------------------------------------------


def _kill(world: World, fault: FaultPlan) -> Heal | None:
    if not world.kill(fault.victim):
        return None
    return lambda: world.start(fault.victim)


def _gone(world: World, fault: FaultPlan) -> Heal | None:
    if not world.kill(fault.victim):
        return None
    world.gone.add(fault.victim)
    return _nothing


def _crash(world: World, fault: FaultPlan) -> Heal:
    world.crash_after(fault.victim, int(fault.amount))

    def heal() -> None:
        world.crash_after(fault.victim, None)
        world.start(fault.victim)

    return heal


def _stop(world: World, fault: FaultPlan) -> Heal | None:
    process = world.processes.get(fault.victim)
    if not isinstance(process, InstanceProcess | RouterProcess):
        return None
    process.stop()
    return _nothing


def _freeze(world: World, fault: FaultPlan) -> Heal | None:
    actor = world.actors.get(fault.victim)
    if actor is None or actor.is_frozen:
        return None
    world.loop.freeze(actor)
    return lambda: world.loop.thaw(actor)


def _skew(world: World, fault: FaultPlan) -> Heal | None:
    actor = world.actors.get(fault.victim)
    if actor is None:
        return None
    actor.skew_ns += int(fault.amount * 1e9)
    return _nothing


# -- network --------------------------------------------------------------------------------------------


def _silence(*directions: int) -> Callable[[World, FaultPlan], Heal]:
    def strike_silence(world: World, fault: FaultPlan) -> Heal:
        world.network.hold(fault.victim, *directions)
        return lambda: world.network.release(fault.victim)

    return strike_silence


def _reset(world: World, fault: FaultPlan) -> Heal:
    for session in world.network.of(fault.victim):
        session.broken()
    return _nothing


def _half_open(world: World, fault: FaultPlan) -> Heal:
    """One side believes that the connection is there; with an amount, both do."""
    for session in world.network.of(fault.victim):
        session.broken(told=False, server_told=not fault.amount)
    return _nothing


def _delay(world: World, fault: FaultPlan) -> Heal:
    world.network.extra_s[fault.victim] = fault.amount

    def heal() -> None:
        world.network.extra_s.pop(fault.victim, None)

    return heal


# -- server ---------------------------------------------------------------------------------------------


def _server_kill(world: World, fault: FaultPlan) -> Heal | None:
    server = world.server
    if not server.is_up:
        return None
    server.kill(loses_power=fault.kind is Break.SERVER_POWER)
    return world.start_server


def _server_freeze(world: World, fault: FaultPlan) -> Heal | None:  # noqa: ARG001 - as the others
    server = world.server
    if not server.is_up or server.is_frozen:
        return None
    server.freeze()

    def heal() -> None:
        if server.is_frozen:
            server.thaw()

    return heal


def _switch(name: str, *, usual: bool | float) -> Callable[[World, FaultPlan], Heal]:
    """Set what the model of JetStream does to what the fault says, or to true if it is usually false."""

    def strike_switch(world: World, fault: FaultPlan) -> Heal:
        jetstream = world.server.jetstream
        setattr(jetstream, name, True if usual is False else fault.amount)
        return lambda: setattr(jetstream, name, usual)

    return strike_switch


def _redelivery(world: World, fault: FaultPlan) -> Heal:
    world.server.jetstream.early_redelivery = fault.amount
    return _nothing


def _slow_disk(world: World, fault: FaultPlan) -> Heal:
    jetstream = world.server.jetstream
    jetstream.slow_write_s = max(jetstream.slow_write_s, fault.amount)

    def heal() -> None:
        jetstream.slow_write_s = SLOW_WRITE_S

    return heal


def _bad_disk(world: World, fault: FaultPlan) -> Heal:  # noqa: ARG001 - as the others
    jetstream = world.server.jetstream
    jetstream.is_failing = True

    def heal() -> None:
        jetstream.is_failing = False
        if world.server.is_up:  # it takes no writes until it is started again
            world.server.kill()
        world.start_server()

    return heal


def _amnesia(world: World, fault: FaultPlan) -> Heal:  # noqa: ARG001 - as the others
    world.server.jetstream.forget_ids()
    return _nothing


def _no_consumers(world: World, fault: FaultPlan) -> Heal:  # noqa: ARG001 - as the others
    for stream in world.server.jetstream.streams.values():
        for name in list(stream.consumers):
            stream.consumers.pop(name).end("Consumer Deleted")
    return _nothing


def _hostile(world: World, fault: FaultPlan) -> Heal:
    """Nonsense, and pieces of what was really said, wherever clients may publish."""
    chance, subjects, server = Random(int(fault.amount)), world.subjects, world.server  # noqa: S311 - reproducible
    if not server.is_up:
        return _nothing
    places = [
        subjects.ask("book", "g1"),
        subjects.ask("desk", "_pool"),
        subjects.tell("book", "g1"),
        subjects.api("promote"),
        subjects.api("status"),
        subjects.flow("book", "g1"),
        subjects.call("book", "g1", "stranger"),
        subjects.call("desk", "_pool", "stranger"),
        subjects.pulse("instance", "stranger"),
        *(subjects.reply(f"c-{n + 1}") for n in range(2)),
    ]
    stored = [m.payload for stream in server.jetstream.streams.values() for m in stream.messages if m]
    for _ in range(12):
        payload = chance.randbytes(chance.randint(0, 64))
        if stored and chance.random() < 0.6:
            source = bytearray(chance.choice(stored))
            for _ in range(chance.randint(0, 3)):
                if source:
                    source[chance.randrange(len(source))] = chance.randrange(256)
            payload = bytes(source[: chance.randint(0, len(source))])
        place = chance.choice(places)
        if ".call." in place:  # a whole frame would be a call that somebody is allowed to make
            payload = payload[:-1]
        server.publish(place, chance.choice(("", "_INBOX.stranger.1")), b"", payload)
    return _nothing


_STRIKES: Final[dict[Break, Callable[[World, FaultPlan], Heal | None]]] = {
    Break.KILL: _kill,
    Break.GONE: _gone,
    Break.CRASH: _crash,
    Break.STOP: _stop,
    Break.FREEZE: _freeze,
    Break.PARTITION: _silence(UP, DOWN),
    Break.ONE_WAY_UP: _silence(UP),
    Break.ONE_WAY_DOWN: _silence(DOWN),
    Break.RESET: _reset,
    Break.HALF_OPEN: _half_open,
    Break.DELAY: _delay,
    Break.SKEW: _skew,
    Break.SERVER_KILL: _server_kill,
    Break.SERVER_POWER: _server_kill,
    Break.SERVER_FREEZE: _server_freeze,
    Break.ELECTION: _switch("is_electing", usual=False),
    Break.ACKS_LOST: _switch("acks_lost", usual=0.0),
    Break.GHOSTS: _switch("stalls", usual=0.0),
    Break.FULL: _switch("is_full", usual=False),
    Break.REDELIVERY: _redelivery,
    Break.SLOW_DISK: _slow_disk,
    Break.BAD_DISK: _bad_disk,
    Break.AMNESIA: _amnesia,
    Break.NO_CONSUMERS: _no_consumers,
    Break.HOSTILE: _hostile,
}
