"""Defects around the pen of an owned group: its fence, its frames, and what is told of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from aegisipc.chaos.mutants import steering
from aegisipc.chaos.mutants.patching import Change, Mutant
from aegisipc.chaos.sim.plan import Break
from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.frames import MAX_ENTRIES, Mark

_AWAY: Final = (Break.FREEZE, Break.PARTITION, Break.ONE_WAY_DOWN)
"""A holder is thought to be gone, and is not."""

_MEMBER: Final = "aegisipc.sdk.core.member:GroupMember"
_HOLDING: Final = "aegisipc.sdk.core.holding:Holding"
_PEN: Final = "aegisipc.sdk.core.pen:Pen"
_FRAMES: Final = "aegisipc.sdk.hosts.pen_frames:PenFrames"


def _unfenced(_: Any) -> Callable[[Any], None]:
    def fence(member: Any) -> None:  # noqa: ARG001 - as the original
        return None

    return fence


def _without_its_last(original: Any) -> Callable[[Any], list[Any]]:
    def take(pen: Any) -> list[Any]:
        facts: list[Any] = original(pen)
        return facts[:-1] if 1 < len(facts) < MAX_ENTRIES else facts

    return take


def _mixes_results(original: Any) -> Callable[[Any], list[Any]]:
    """Of a frame with several results, each call gets the one of the next."""

    def take(pen: Any) -> list[Any]:
        facts: list[Any] = original(pen)
        at = [n for n, fact in enumerate(facts) if fact.mark is Mark.SUCCEEDED]
        bodies = [facts[n].body for n in at]
        for n, body in zip(at, [*bodies[1:], *bodies[:1]], strict=True):
            facts[n] = facts[n]._replace(body=body)
        return facts

    return take


def _tell(frames: Any, written: Any) -> None:
    """Send the replies of a frame, whatever becomes of it."""
    host = frames._stored.__self__
    for client, outcomes in host.member.replies(written).items():
        host._post(host._site.subjects.reply(client), _packed(outcomes))


def _packed(outcomes: Any) -> bytes:
    import msgpack  # type: ignore[import-untyped]  # noqa: PLC0415 - here alone

    packed: bytes = msgpack.packb(outcomes)
    return packed


def _tells_before(original: Any) -> Callable[[Any], Any]:
    def next_frame(frames: Any) -> Any:
        out = original(frames)
        if out is not None:
            _tell(frames, out.content)
        return out

    return next_frame


def _tells_although_refused(original: Any) -> Callable[[Any, Any, Any], Any]:
    async def refused(frames: Any, frame: Any, error: Any) -> Any:
        again = await original(frames, frame, error)
        if again is None:
            _tell(frames, frame.content)
        return again

    return refused


def _without_claims(original: Any) -> Callable[..., None]:
    def begin(holding: Any, *args: Any) -> None:
        original(holding, *args)
        holding._effects = {}

    return begin


def _starts_at_claim(original: Any) -> Callable[[Any, int], None]:
    """The claim is noted, and the call is started before it is in the log."""

    def pump(holding: Any, now_ns: int) -> None:
        pen = holding._pen
        known = {id(fact) for fact in pen._facts}
        original(holding, now_ns)
        for mark, call, _ in [fact for fact in pen._facts if id(fact) not in known]:
            if mark is Mark.CLAIMED:
                holding._go(call, now_ns)

    return pump


def _starts_no_claimed(original: Any) -> Callable[[Any, Any, int], None]:
    def on_acked(holding: Any, written: Any, now_ns: int) -> None:
        facts = [fact for fact in written.facts if fact.mark is not Mark.CLAIMED]
        original(holding, written._replace(facts=facts), now_ns)

    return on_acked


def _drops_events(_: Any) -> Callable[..., None]:
    def note(replica: Any, call: Any, events: Any) -> None:  # noqa: ARG001 - as the original
        return None

    return note


def _keeps_own_events_twice(original: Any) -> Callable[..., None]:
    def fold(replica: Any, facts: Any, seq: int, *, mine: bool) -> None:  # noqa: ARG001 - that is the defect
        original(replica, facts, seq, mine=False)

    return fold


def _cancelled_is_success(original: Any) -> Callable[..., bool]:
    def on_finished(holding: Any, start: Any, mark: Any, body: Any, *args: Any, **more: Any) -> bool:
        if mark is Mark.CANCELLED:
            mark, body = Mark.SUCCEEDED, encode(start.call.resource)
        done: bool = original(holding, start, mark, body, *args, **more)
        return done

    return on_finished


OF_PENS: Final = (
    Mutant(
        "skip-the-fence",
        "the holder appends its frames without the expectation that the fence has not moved",
        ("G4",),
        (Change(f"{_MEMBER}._fence", _unfenced),),
        known_seed=0,
        steer=steering.zombie,
        needs="a holder that is replaced while a frame of it is on its way",
    ),
    Mutant(
        "skip-the-claim",
        "methods declared once are started without a claim",
        ("G3",),
        (Change(f"{_HOLDING}.__init__", _without_claims),),
        known_seed=0,
        steer=steering.owned("place", kinds=(Break.KILL, Break.FREEZE)),
        needs="calls of a once method",
    ),
    Mutant(
        "start-before-the-claim",
        "a once call is started when its claim is noted, before that is in the log",
        ("G3",),
        (
            Change(f"{_HOLDING}.pump", _starts_at_claim),
            Change(f"{_HOLDING}.on_acked", _starts_no_claimed),
        ),
        known_seed=3,
        steer=steering.owned("place", kinds=(*_AWAY, Break.KILL), times=4),
        needs="a holder that is killed or cut off before its claim is stored",
    ),
    Mutant(
        "forget-an-outcome",
        "the last entry of a frame of several is dropped",
        ("G2",),
        (Change(f"{_PEN}._take", _without_its_last),),
        known_seed=2,
    ),
    Mutant(
        "mix-up-results",
        "of a frame with several results, each call is given the one of the next",
        ("G2",),
        (Change(f"{_PEN}._take", _mixes_results),),
        known_seed=0,
        steer=steering.in_bursts(steering.owned("add", "peek", works_s=(0.02,))),
        needs="several results in one frame",
    ),
    Mutant(
        "answer-before-durable",
        "callers are told their outcomes when the frame goes out, not when it is in the log",
        ("G1", "G2", "linearizable"),
        (Change(f"{_FRAMES}.next_frame", _tells_before),),
        known_seed=3,
        steer=steering.owned(
            "add",
            kinds=(Break.ELECTION, Break.BAD_DISK, Break.KILL),
            times=6,
            timeouts_s=(0.5, 1.5),
            for_s=(1.2, 2.5),
        ),
        needs="a holder that is killed while its frame cannot be stored, and calls that expire meanwhile",
    ),
    Mutant(
        "answer-although-fenced",
        "a holder whose frame was refused tells callers the outcomes in it all the same",
        ("G2",),
        (Change(f"{_FRAMES}.refused", _tells_although_refused),),
        known_seed=4,
        steer=steering.zombie,
        needs="a holder that is replaced while a frame of it is on its way",
    ),
    Mutant(
        "lose-the-events",
        "what a handler emits is applied by the holder, and not in its frame",
        ("G8", "linearizable"),
        (Change("aegisipc.sdk.core.replica:Replica.note", _drops_events),),
        known_seed=0,
        steer=steering.owned("add", kinds=(Break.KILL, Break.FREEZE)),
        needs="shared state, and a failover",
    ),
    Mutant(
        "apply-own-events-twice",
        "the holder applies what its handlers emitted once more when it reads its own frame",
        ("G8", "linearizable"),
        (Change("aegisipc.sdk.core.replica:Replica.fold", _keeps_own_events_twice),),
        known_seed=0,
        steer=steering.owned("add"),
        needs="shared state",
    ),
    Mutant(
        "cancelled-is-success",
        "a handler that was stopped because its call was cancelled is reported to have succeeded",
        ("G3",),
        (Change(f"{_HOLDING}.on_finished", _cancelled_is_success),),
        known_seed=0,
        steer=steering.cancelled(steering.owned("place", "add", works_s=(0.3,))),
        needs="calls that are cancelled while they run",
    ),
)
