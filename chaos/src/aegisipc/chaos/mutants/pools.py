"""Defects in workers of a pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from aegisipc.chaos.mutants import steering
from aegisipc.chaos.mutants.patching import Change, Mutant
from aegisipc.chaos.sim.plan import Break
from aegisipc.eventstore.frames import OUTCOMES, Mark
from aegisipc.sdk.core.pen import Start

_HAND: Final = "aegisipc.sdk.core.pool_hand:Hand"
_GONE: Final = (Break.KILL, Break.FREEZE)


def _acks_at_once(original: Any) -> Callable[..., None]:
    def on_frame(worker: Any, token: str, *args: Any, **more: Any) -> None:
        original(worker, token, *args, **more)
        worker.frames.acks.append(token)

    return on_frame


def _trusts(_: Any) -> Callable[[Any, Any], bool]:
    def is_doubtful(consumer: Any, place: Any) -> bool:  # noqa: ARG001 - as the original
        return False

    return is_doubtful


def _last_counts(original: Any) -> Callable[..., Any]:
    def counts(before: Any, mark: Mark) -> Any:
        return mark in OUTCOMES or original(before, mark)

    return counts


def _starts_at_claim(original: Any) -> Callable[[Any, int], None]:
    """A once call is begun when its claim is noted: nobody looks whose claim came first."""

    def pump(hand: Any, now_ns: int) -> None:
        before = set(hand._claiming)
        original(hand, now_ns)
        for call_id in sorted(hand._claiming - before):
            hand._claiming.discard(call_id)
            hand.begun.add(call_id)
            hand._starts.append(Start(hand.calls[call_id], 0))

    return pump


def _runs_claimed(original: Any) -> Callable[[Any, Any, Any], None]:
    """What a worker that is gone had claimed is run once more."""

    def take_up(hand: Any, call: Any, known: Any) -> None:
        if known is None or known.mark is not Mark.CLAIMED:
            original(hand, call, known)
            return
        hand.running += 1
        hand.begun.add(call.call_id)
        hand._starts.append(Start(call, 0))

    return take_up


OF_POOLS: Final = (
    Mutant(
        "pool-ack-at-once",
        "a worker acknowledges a frame when it takes it, not when its calls are concluded",
        ("G2",),
        (Change("aegisipc.sdk.core.pool:PoolWorker.on_frame", _acks_at_once),),
        known_seed=0,
        steer=steering.pooled("add", "place", kinds=(Break.KILL,), works_s=(0.3,)),
        needs="a worker that is killed while it runs calls",
    ),
    Mutant(
        "pool-trust-redelivery",
        "a worker runs frames that were handed out before without reading the log first",
        ("G2", "G3"),
        (Change("aegisipc.sdk.hosts.pool_consumer:PoolConsumer.is_doubtful", _trusts),),
        known_seed=0,
        steer=steering.pooled("place", kinds=(Break.KILL, Break.SERVER_KILL), times=4, works_s=(0.02, 0.3)),
        needs="workers that are killed while they run once calls, and come back",
    ),
    Mutant(
        "pool-last-conclusion-counts",
        "workers take the latest conclusion of a call for its outcome, not the first",
        ("G2",),
        (Change("aegisipc.sdk.core.pool_facts:counts", _last_counts),),
        known_seed=28,
        steer=steering.pooled("add", kinds=(Break.FREEZE,), times=4, works_s=(0.3,), for_s=(1.2, 2.5)),
        needs="a worker that is away while its calls run elsewhere, and comes back",
    ),
    Mutant(
        "pool-start-before-the-claim",
        "a worker starts a once call when it writes its claim, not when that came back as the first one",
        ("G3",),
        (Change(f"{_HAND}.pump", _starts_at_claim),),
        known_seed=2,
        steer=steering.pooled("place", kinds=(*_GONE, Break.PARTITION), times=4),
        needs="a worker that is away or killed before its claim is stored",
    ),
    Mutant(
        "pool-ignore-a-doubt",
        "a worker that takes over a frame runs calls that the one before had claimed",
        ("G2", "G3"),
        (Change(f"{_HAND}._take_up", _runs_claimed),),
        known_seed=0,
        steer=steering.pooled("place", kinds=(Break.KILL,), times=3, works_s=(0.3,)),
        needs="a worker that is killed while it runs once calls",
    ),
)
